"""Several sources as one corpus, one source behind the other.

Without shares each source hands out all it has. With `shares` the mixture is the largest that has them: the part
that is scarcest for its share is taken whole, and of every other one whole documents are drawn by a hash of their
text. Drawing takes one more pass over every part. With names the parts are domains, whose shares a run may choose
(`weights` of the data). Training reads windows in shuffled order, so where a document stands among the others does
not matter. What each part came to is in the corpus's manifest by its documents' names.

A document keeps the side that its part states, so that what a curated part holds out is not trained on; a near-copy of
it in another part is left out as the corpus is prepared. With `shares` training and validation text are drawn apart.
Parts that state sides and parts that state none together leave validation open: such a mixture needs `held_out` of the
data.
"""

import hashlib
from collections.abc import Iterator
from typing import Literal, Self

import numpy as np
from pydantic import Field, model_validator

from scalelab.config import Name, Positive, plugin
from scalelab.data import SOURCES
from scalelab.data.base import ADDED, HashFile, SkippedDocuments, TextDocument, TextSource
from scalelab.data.hashing import U64, content_hash, draw_documents

_SHARES = 0x5A12E  # number of the draw of the first part


class Mix(TextSource):
    """Text of several sources."""

    kind: Literal["mix"] = "mix"
    """Names this source in SOURCES."""
    parts: tuple[plugin(SOURCES), ...] = Field(min_length=2)
    """Sources of text, in this order."""
    shares: tuple[Positive, ...] | None = Field(None, json_schema_extra=ADDED)
    """Shares of the parts, by bytes, in their order; their sum need not be 1. None: all of every part. Each mixture
    is another corpus; the mixture of named parts is `weights` of the data, over one corpus."""
    names: tuple[Name, ...] = Field((), json_schema_extra=ADDED)
    """Names of the parts as domains, whose shares `weights` of the data chooses and whose losses a run records. Empty:
    one text."""

    @model_validator(mode="after")
    def _every_part_has_a_share(self) -> Self:
        if self.shares is not None and len(self.shares) != len(self.parts):
            raise ValueError(f"shares has {len(self.shares)} numbers for {len(self.parts)} parts")
        return self

    @model_validator(mode="after")
    def _names_are_those_of_the_parts(self) -> Self:
        if self.names and len(set(self.names)) != len(self.parts):
            raise ValueError(
                f"{len(self.parts)} parts need as many different names, not {', '.join(self.names)}"
            )
        return self

    @model_validator(mode="after")
    def _all_are_text(self) -> Self:
        for part in self.parts:
            if not isinstance(part, TextSource):
                raise ValueError(f"source {part.kind!r} is tokens already, and cannot be mixed")
        return self

    @property
    def may_state_sides(self) -> bool:
        """Whether those of a part may."""
        return any(part.may_state_sides for part in self.parts)

    def fingerprint(self, hash_file: HashFile) -> str:
        """Over the fingerprints of the parts, and whether sides come from them."""
        said = "\n".join(part.fingerprint(hash_file) for part in self.parts)
        if self.may_state_sides:
            said += "\nsides of the parts"
        return hashlib.sha256(said.encode()).hexdigest()

    def documents(self, skips: SkippedDocuments) -> Iterator[TextDocument]:
        """The documents of every part, by its share."""
        drawn = None if self.shares is None else self._drawn()
        for i, part in enumerate(self.parts):
            domain = self.names[i] if self.names else None
            for at, document in enumerate(part.documents(skips)):
                if drawn is None or (at < len(drawn[i]) and drawn[i][at]):
                    name = f"{domain or f'{i}-{part.kind}'}/{document.name}"
                    yield TextDocument(name, document.text, domain=domain, side=document.side)

    def _drawn(self) -> list[np.ndarray]:
        """Whether each document of each part is taken."""
        found = [_hashes(part) for part in self.parts]
        drawn = [np.zeros(len(content), bool) for content, _, _ in found]
        for is_validation in (False, True):
            sides = [held_out == is_validation for _, _, held_out in found]
            whole = min(
                sizes[side].sum() / share
                for (_, sizes, _), side, share in zip(found, sides, self.shares, strict=True)
            )
            for i, ((content, sizes, _), side) in enumerate(zip(found, sides, strict=True)):
                wanted = self.shares[i] * whole
                drawn[i][side] = draw_documents(content[side], sizes[side], wanted, _SHARES + i)
        return drawn


def _hashes(part: TextSource) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return hash and size of each document of a part, and whether it is stated to be validation text."""
    content, sizes, held_out = [], [], []
    for document in part.documents(SkippedDocuments()):
        text = document.text.encode()
        content.append(content_hash(text))
        sizes.append(len(text))
        held_out.append(document.side == "validation")
    return np.array(content, U64), np.array(sizes, np.int64), np.array(held_out, bool)
