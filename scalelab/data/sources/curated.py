"""A corpus that `scalelab data` curated: its training documents, and one of its hold-outs as validation.

    source: {kind: curated, path: curated/debian, holdout: manual}
    source: {kind: curated, path: curated/debian, domains: [database]}

The sides are those of the curation, so the share `validation` of a corpus is not used. Without `holdout`
all hold-outs together are the validation side; a corpus without hold-outs is split as any text is.
A training document that is a near-copy of validation text is left out as the corpus is prepared.

Not here: curating (data/curate).
"""

import hashlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pydantic import Field

from scalelab.data.base import ADDED, HashFile, SkippedDocuments, TextDocument, TextSource
from scalelab.data.curate.publish import CURATED, NAME, CuratedCorpus
from scalelab.data.curate.store import StoredShard, read_documents
from scalelab.errors import DataError
from scalelab.registry import did_you_mean


class Curated(TextSource):
    """Documents of a curated corpus."""

    kind: Literal["curated"] = "curated"
    """Names this source in SOURCES."""
    path: str
    """Directory of the corpus, curated/NAME; a relative one starts at the working directory."""
    holdout: str | None = None
    """Hold-out that is the validation side. None: all of them."""
    domains: tuple[str, ...] = Field((), json_schema_extra=ADDED)
    """Domains whose documents are read, on both sides. Empty: all."""

    @property
    def may_state_sides(self) -> bool:
        """True: those of the curation."""
        return True

    def fingerprint(self, hash_file: HashFile) -> str:
        """Over the SHA-256 of every file of the corpus that is used."""
        del hash_file
        _, train, held_out = self._files()
        names = [each.sha256 for each in train] + ["held out"] + [each.sha256 for each in held_out]
        names += [f"domain {domain}" for domain in sorted(set(self.domains))]
        return hashlib.sha256("\n".join(names).encode()).hexdigest()

    def documents(self, skips: SkippedDocuments) -> Iterator[TextDocument]:
        """Hold-outs first, then the training documents, shard by shard."""
        directory, train, held_out = self._files()
        wanted = set(self.domains)
        found: Counter[str] = Counter()
        for files, side in ((held_out, "validation"), (train, "train" if held_out else None)):
            for stored in files:
                for document in read_documents(directory / stored.file, stored.sha256):
                    found[document.domain] += 1
                    if not wanted or document.domain in wanted:
                        yield TextDocument(document.name, document.text, side=side)
        for domain in self.domains:
            if domain not in found:
                raise DataError(
                    f"the corpus has no document of the domain {domain!r}{did_you_mean(domain, found)}",
                    where=str(directory / NAME),
                    fix=f"use domains of its documents: {', '.join(sorted(found)) or 'none'}",
                )

    def _files(self) -> tuple[Path, list[StoredShard], list[StoredShard]]:
        directory = Path(self.path).expanduser()
        try:
            found: CuratedCorpus = CURATED.read(directory / NAME)
        except (FileNotFoundError, NotADirectoryError):
            raise DataError(
                f"{self.path} is no curated corpus: it has no {NAME}",
                where=str(directory.absolute()),
                fix="curate one with scalelab data FILE.yaml, or correct the path",
            ) from None
        if self.holdout is not None and self.holdout not in found.holdouts:
            there = ", ".join(found.holdouts) or "none"
            raise DataError(
                f"the corpus has no hold-out {self.holdout!r}{did_you_mean(self.holdout, found.holdouts)}",
                where=str(directory / NAME),
                fix=f"use one of its hold-outs: {there}",
            )
        names = list(found.holdouts) if self.holdout is None else [self.holdout]
        return directory, found.train, [found.holdouts[name] for name in names]
