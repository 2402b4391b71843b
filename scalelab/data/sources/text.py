"""Text in files: plain, or in a field of records; compressed or not.

Not here: how files are found, decompressed and read (data/files).
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pydantic import Field

from scalelab.data.base import HashFile, SkippedDocuments, TextDocument, TextSource
from scalelab.data.files.listing import expand
from scalelab.data.files.plain import MAX_BYTES, lines, too_large, whole_text
from scalelab.data.files.records import record_format, text_records
from scalelab.data.hashing import fingerprint_of

READING = 2
"""Version of how files are read. Raising it prepares every corpus of files again."""


class TextFiles(TextSource):
    """Files of text, in the order of their paths."""

    kind: Literal["text"] = "text"
    """Names this source in SOURCES."""
    paths: tuple[str, ...] = Field(min_length=1)
    """Files and globs; a relative one starts at the working directory."""
    field: str = "text"
    """Where a record (.jsonl, .json, .csv, .tsv, .parquet) keeps its text: a key, or a dotted path such
    as meta.text."""
    document: Literal["file", "paragraph", "line"] = "file"
    """What one document of a plain file is. A paragraph ends at a blank line."""

    def fingerprint(self, hash_file: HashFile) -> str:
        """Over the name, sha256 and size of every file, and how files are read."""
        found = fingerprint_of(expand(self.paths), hash_file)
        return hashlib.sha256(f"{READING} {found}".encode()).hexdigest()

    def documents(self, skips: SkippedDocuments) -> Iterator[TextDocument]:
        """File by file; records and paragraphs as they stand in each."""
        for name, path in expand(self.paths, skips):
            n = 0
            for document in self._read(name, path, skips):
                n += 1
                yield document
            if n == 0:
                skips.note("without text", name)

    def _read(self, name: str, path: Path, skips: SkippedDocuments) -> Iterator[TextDocument]:
        if record_format(path) is not None:
            records = text_records(path, name, self.field, skips)
            yield from (TextDocument(*record) for record in records)
        elif self.document == "file":
            text = whole_text(path)
            if text.strip():
                yield TextDocument(name, text)
        else:
            numbered = enumerate(self._blocks(path), 1)
            yield from (TextDocument(f"{name}:{i}", block) for i, block in numbered)

    def _blocks(self, path: Path) -> Iterator[str]:
        """Lines that hold something, or runs of such lines."""
        block: list[str] = []
        size = 0
        for number, line in lines(path):
            if line.strip():
                block.append(line)
                size += len(line)
            if size > MAX_BYTES:
                raise too_large("the paragraph", f"{path}:{number}", "set document: line, or divide it")
            if block and (self.document == "line" or not line.strip()):
                yield "".join(block)
                block, size = [], 0
        if block:
            yield "".join(block)
