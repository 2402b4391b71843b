"""Tokens on the disk: flat little-endian files of bounded size, and where documents end.

    train-00000.bin, train-00001.bin, ...   uint16, or uint32 from a vocabulary of 65,536 on
    train.ends                              uint64, place after the last token of each document
    validation.nats                         float32, true information of each token, if known

Documents follow one another; a reader sees one long row of tokens, whatever the files.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from scalelab.data.base import EncodedDocument
from scalelab.errors import DataError
from scalelab.files import check_answered, writing

SHARD_TOKENS = 100_000_000
_WRITTEN = 2**24  # tokens written at once: a document may be a mapped file larger than memory


def dtype_for(vocab_size: int) -> str:
    """The numpy name of the smallest type that we store tokens of such a vocabulary in."""
    return "<u2" if vocab_size < 65536 else "<u4"


@dataclass(frozen=True)
class CorpusFile:
    """One file of a corpus as it was written."""

    bytes: int
    sha256: str


@dataclass(frozen=True, eq=False)
class TokenFile:
    """One row of tokens, mapped from the disk shard by shard, never read as a whole."""

    shards: tuple[np.ndarray, ...]
    ends_path: Path
    """Document ends; see `ends`."""

    @classmethod
    def open(cls, paths: Sequence[Path], dtype: str, ends_path: Path) -> "TokenFile":
        """Map the files. Raises DataError where one cannot be read."""
        try:
            mapped = (np.memmap(path, dtype=dtype, mode="r") for path in paths)
            return cls(tuple(np.asarray(shard) for shard in mapped), ends_path)
        except (OSError, ValueError) as error:
            check_answered(ends_path.parent, error)
            raise DataError(
                f"cannot read the tokens: {error}",
                where=str(ends_path.parent),
                fix="delete this directory, then run the same command again",
            ) from error

    def __len__(self) -> int:
        return sum(map(len, self.shards))

    @property
    def ends(self) -> np.ndarray:
        """Place after the last token of each document, uint64, shape (n_documents,)."""
        return np.fromfile(self.ends_path, "<u8")

    def windows(self, starts: np.ndarray, width: int) -> np.ndarray:
        """Tokens start .. start + width - 1 of each start, int64, shape (n, width)."""
        if len(self.shards) == 1:
            return _slide(self.shards[0], width)[starts].astype(np.int64)
        borders = np.cumsum([0, *map(len, self.shards)])
        out = np.empty((len(starts), width), np.int64)
        first = np.searchsorted(borders, starts, side="right") - 1
        last = np.searchsorted(borders, np.asarray(starts) + width - 1, side="right") - 1
        for shard in np.unique(first):
            inside = (first == shard) & (last == shard)
            if inside.any():
                local = starts[inside] - borders[shard]
                out[inside] = _slide(self.shards[shard], width)[local]
        for i in np.flatnonzero(first != last):
            at, end = int(starts[i]), int(starts[i]) + width
            out[i] = np.concatenate(
                [
                    shard[max(0, at - border) : max(0, end - border)]
                    for shard, border in zip(self.shards, borders, strict=False)
                ]
            )
        return out


def _slide(row: np.ndarray, width: int) -> np.ndarray:
    """Every window of `width` tokens of a row, without copying, shape (len - width + 1, width)."""
    step = row.itemsize
    # The constructor checks bounds as as_strided would not, and costs a fifth as much.
    return np.ndarray((len(row) - width + 1, width), row.dtype, row, strides=(step, step))


class TokenWriter:
    """Writes one side of a corpus as its documents come, a bounded part of it in memory.

    Use as a context; afterwards the counts and `files`, by name, are final.
    """

    def __init__(self, directory: Path, split: str, vocab_size: int, shard_tokens: int):
        self._directory, self._split = directory, split
        self._vocab_size, self._dtype = vocab_size, dtype_for(vocab_size)
        self._shard_tokens, self._room = shard_tokens, 0
        self._open: dict[str, tuple[IO[bytes], Any]] = {}
        self.n_tokens = self.n_documents = self.n_bytes = 0
        self.nats = 0.0
        """Sum of the true information, nats, where it is known."""
        self.shards: list[str] = []
        self.files: dict[str, CorpusFile] = {}
        self.domains: dict[str, int] = {}
        """Tokens of each domain, in the order in which they lie."""

    def __enter__(self) -> "TokenWriter":
        return self

    def __exit__(self, *_: object) -> None:
        for name in list(self._open):
            self._close(name)

    def add(self, document: EncodedDocument) -> None:
        """Append one document."""
        tokens = document.tokens
        assert tokens.size
        assert tokens.min() >= 0
        assert tokens.max() < self._vocab_size
        self.n_tokens += len(tokens)
        if document.domain is not None:
            assert document.domain in (
                next(reversed(self.domains), None),
                *({document.domain} - self.domains.keys()),
            )
            self.domains[document.domain] = self.domains.get(document.domain, 0) + len(tokens)
        self.n_documents += 1
        self.n_bytes += document.n_bytes
        self._append(f"{self._split}.ends", np.array([self.n_tokens], "<u8"))
        if document.nats is not None:
            stored = document.nats.astype("<f4")
            self.nats += float(stored.sum(dtype=np.float64))
            self._append(f"{self._split}.nats", stored)
        while tokens.size:
            if self._room == 0:
                if self.shards:
                    self._close(self.shards[-1])
                self.shards.append(f"{self._split}-{len(self.shards):05d}.bin")
                self._room = self._shard_tokens
            most = min(self._room, _WRITTEN)
            part, tokens = tokens[:most], tokens[most:]
            self._append(self.shards[-1], part.astype(self._dtype))
            self._room -= len(part)

    def _append(self, name: str, values: np.ndarray) -> None:
        path = self._directory / name
        with writing(path):
            if name not in self._open:
                self._open[name] = (open(path, "wb"), hashlib.sha256())  # noqa: SIM115
            file, digest = self._open[name]
            data = values.tobytes()
            file.write(data)
            digest.update(data)

    def _close(self, name: str) -> None:
        file, digest = self._open.pop(name)
        with writing(self._directory / name), file:
            self.files[name] = CorpusFile(file.tell(), digest.hexdigest())
