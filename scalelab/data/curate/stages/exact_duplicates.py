"""Exact duplicates: documents whose words are the same, across the whole corpus.

Space and letter case do not count. Of a group the longest text stays, the first of equals.

Memory: 24 bytes and the name of each document while it decides.
"""

import hashlib
from collections.abc import Iterator, Sequence
from typing import ClassVar, Literal

import numpy as np

from scalelab.data.curate.base import (
    Arrays,
    CurationContext,
    CurationStage,
    StageLedger,
    WebDocument,
    is_in,
    name_hash,
)
from scalelab.data.curate.clusters import dropped_names, largest, packed, superfluous, unpacked
from scalelab.data.hashing import U64


class ExactDuplicates(CurationStage):
    """Rejects copies."""

    kind: Literal["exact_duplicates"] = "exact_duplicates"
    """Names this stage in CURATION_STAGES."""
    observes: ClassVar[bool] = True

    def observe(self, documents: Iterator[WebDocument], context: CurationContext) -> Arrays:
        """Hash of the words, size and name of each document."""
        del context
        content, size, hashes, names = [], [], [], []
        for document in documents:
            words = " ".join(document.text.casefold().split())
            digest = hashlib.blake2b(words.encode("utf-8"), digest_size=8).digest()
            content.append(int.from_bytes(digest, "little"))
            size.append(document.n_bytes)
            hashes.append(name_hash(document))
            names.append(document.name)
        return {
            "content": np.array(content, U64),
            "size": np.array(size, np.int64),
            "name_hash": np.array(hashes, U64),
            "names": packed(names),
        }

    def decide(self, observations: Sequence[Arrays], context: CurationContext) -> Arrays:
        """Return the names of copies."""
        content, size, hashes = (
            np.concatenate([each[key] for each in observations]) for key in ("content", "size", "name_hash")
        )
        names = unpacked(
            [each["names"] for each in observations], [len(each["size"]) for each in observations]
        )
        _, group = np.unique(content, return_inverse=True)
        context.shown["clusters"] = largest(group, size, names)
        return {"dropped": dropped_names(superfluous(group, size), hashes, names)}

    def process(self, document: WebDocument, decision: Arrays, ledger: StageLedger) -> WebDocument | None:
        """Return a document that is no copy."""
        if is_in(name_hash(document), decision["dropped"]):
            ledger.reject(document, "copy of another document")
            return None
        return document
