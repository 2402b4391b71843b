"""Text that lies in files: plain, .jsonl or .parquet, the first two also as .gz or .zst."""

from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Literal

from pydantic import Field

from scalelab.data.base import Document, HashFile, Skips, TextSource
from scalelab.data.hashing import fingerprint_of
from scalelab.data.textfiles import (
    expand,
    json_records,
    lines_of_text,
    parquet_records,
    whole_text,
)


class Text(TextSource):
    """Files of text, in the order of their paths."""

    kind: Literal["text"] = "text"
    """Names this source in SOURCES."""
    paths: tuple[str, ...] = Field(min_length=1)
    """Files and globs; a relative one starts at the working directory."""
    field: str = "text"
    """Where a .jsonl object or a .parquet row keeps its text."""
    document: Literal["file", "paragraph", "line"] = "file"
    """What one document of a plain file is. A paragraph ends at a blank line."""

    def fingerprint(self, hash_file: HashFile) -> str:
        """Over the name, sha256 and size of every file."""
        return fingerprint_of(expand(self.paths), hash_file)

    def documents(self, skips: Skips) -> Iterator[Document]:
        """File by file; records and paragraphs as they stand in each."""
        for name, path in expand(self.paths):
            n = 0
            for document in self._read(name, path, skips):
                n += 1
                yield document
            if n == 0:
                skips.note("without text", name)

    def _read(self, name: str, path: Path, skips: Skips) -> Iterator[Document]:
        bare = PurePath(name)
        packing = bare.suffix if bare.suffix in {".gz", ".zst"} else ""
        kind = bare.with_suffix("").suffix if packing else bare.suffix
        if kind in {".jsonl", ".ndjson"}:
            yield from (Document(*record) for record in json_records(path, self.field, skips))
        elif kind == ".parquet" and not packing:
            yield from (Document(*record) for record in parquet_records(path, self.field, skips))
        elif self.document == "file":
            text = whole_text(path)
            if text.strip():
                yield Document(name, text)
        else:
            numbered = enumerate(self._blocks(path), 1)
            yield from (Document(f"{name}:{i}", block) for i, block in numbered)

    def _blocks(self, path: Path) -> Iterator[str]:
        """Lines that hold something, or runs of such lines."""
        block: list[str] = []
        for line in lines_of_text(path):
            if line.strip():
                block.append(line)
            if block and (self.document == "line" or not line.strip()):
                yield "".join(block)
                block = []
        if block:
            yield "".join(block)
