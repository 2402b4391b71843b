"""Duplicate lines: lines that stand in many documents, such as navigation and notices, are removed.

A line counts once a document. Short lines are left alone, because code and lists repeat them rightly.

Hold-outs that were cut before keep these lines, so models are judged on text that they never trained on. The page shows
which share of each hold-out they are; with this stage before `holdout` there is none (sweeps/data/debian_cleaned.yaml).

Memory: 12 bytes of each distinct line of the corpus while it decides.
Source: Raffel et al. 2020, arXiv:1910.10683, 2.2 (repeated spans); Lee et al. 2022, arXiv:2107.06499.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from scalelab.config import Count
from scalelab.data.curate.base import (
    Arrays,
    CurationContext,
    CurationStage,
    StageLedger,
    WebDocument,
    excerpt,
    is_in,
)
from scalelab.data.curate.store import read_documents
from scalelab.data.hashing import U64, content_hash


class DuplicateLines(CurationStage):
    """Removes lines that many documents have."""

    kind: Literal["duplicate_lines"] = "duplicate_lines"
    """Names this stage in CURATION_STAGES."""
    observes: ClassVar[bool] = True
    version: ClassVar[int] = 2
    max_documents: Annotated[Count, Field(ge=2)] = 10
    """Documents in which a line may stand."""
    min_characters: Count = 30
    """Length below which a line is left alone."""
    min_left: Count = 200
    """Characters of a document that have to be left."""

    def observe(self, documents: Iterator[WebDocument], context: CurationContext) -> Arrays:
        """Distinct lines, and in how many documents of the shard each stands."""
        del context
        found: list[np.ndarray] = [np.zeros(0, U64)]
        for document in documents:
            hashes = {h for line in document.text.split("\n") if (h := self._hash(line)) is not None}
            found.append(np.fromiter(hashes, U64, len(hashes)))
        lines, counts = np.unique(np.concatenate(found), return_counts=True)
        return {"lines": lines, "documents": counts.astype(np.uint32)}

    def decide(self, observations: Sequence[Arrays], context: CurationContext) -> Arrays:
        """Return the lines of too many documents."""
        lines, place = np.unique(
            np.concatenate([each["lines"] for each in observations]), return_inverse=True
        )
        documents = np.bincount(place, np.concatenate([each["documents"] for each in observations]))
        frequent = lines[documents > self.max_documents]
        context.shown["distinct lines"] = len(lines)
        context.shown["removed lines, distinct"] = len(frequent)
        for name, files in context.holdouts.items():
            share = self._share(files, frequent)
            if share is not None:
                context.shown[f"share of hold-out {name} in removed lines"] = f"{share:.2%}"
        return {"lines": frequent}

    def _share(self, files: Sequence[Path], lines: np.ndarray) -> float | None:
        """Return the share of the characters of some files of documents that is in lines; None without any."""
        n = there = 0
        for line in (line for path in files for d in read_documents(path) for line in d.text.split("\n")):
            there += len(line)
            hashed = self._hash(line)
            n += len(line) if hashed is not None and is_in(hashed, lines) else 0
        return n / there if there else None

    def process(self, document: WebDocument, decision: Arrays, ledger: StageLedger) -> WebDocument | None:
        """Return a document without such lines."""
        lines = document.text.split("\n")
        kept, at = [], None
        for i, line in enumerate(lines):
            hashed = self._hash(line)
            if hashed is not None and is_in(hashed, decision["lines"]):
                at = i if at is None else at
            else:
                kept.append(line)
        if at is None:
            return document
        text = "\n".join(kept).strip("\n")
        ledger.count("lines removed", len(lines) - len(kept))
        if len(text) < self.min_left:
            ledger.reject(document, "little left without repeated lines", f"{len(text)} characters")
            return None
        ledger.change(document, f"without: {excerpt(lines[at])}")
        return WebDocument(**{**vars(document), "text": text})

    def _hash(self, line: str) -> int | None:
        line = line.strip()
        return content_hash(line.encode("utf-8")) if len(line) >= self.min_characters else None
