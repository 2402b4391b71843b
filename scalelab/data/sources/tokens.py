"""Tokens that another program has made: flat files, NumPy arrays, or the pairs of Megatron.

    .bin          tokens one after another, little-endian, of the stated dtype
    .npy          one row of whole numbers; its header states the dtype
    .idx, .bin    Megatron: lengths of the sequences and ends of the documents, and the tokens

The vocabulary is stated and every token is checked against it. Files are mapped, so memory is bounded; the tokens are
copied into the prepared corpus, whose digest names them.

The split is explicit: `validation_paths` names held-out files, or a document's own tokens decide its side, which needs
documents that end somewhere: with token `end`, or as an index says. The text behind the tokens is unknown, so there
are no bits per byte.

Source: Megatron-LM, megatron/core/datasets/indexed_dataset.py (index of version 1).
Not here: what a format is (token_formats.py).
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NoReturn, Self

import numpy as np
from pydantic import Field, model_validator

from scalelab.config import Count, Name, Whole
from scalelab.data.base import EncodedDocument, HashFile, SplitName, TokenSource
from scalelab.data.files.listing import expand
from scalelab.data.hashing import U64, content_hash, fingerprint_of, mix
from scalelab.data.sources.token_formats import TokenRow, open_row, other_of_pair
from scalelab.errors import DataError

_SIDE = U64(0x70CE5)  # sets the side of a document apart from every other use of its hash
_BLOCK = 2**24  # tokens looked at at once


class TokenShards(TokenSource):
    """Token files of another program."""

    kind: Literal["tokens"] = "tokens"
    """Names this source in SOURCES."""
    paths: tuple[str, ...] = Field(min_length=1)
    """Files and globs: .bin, .npy, or .idx with its .bin beside it; a relative one starts at the working directory."""
    vocab: Count
    """Tokens of the vocabulary; a token that is not below it is refused."""
    validation_paths: tuple[str, ...] = ()
    """Held-out files. Empty: the share `validation` of the documents of `paths`, chosen by their contents."""
    dtype: Literal["uint16", "uint32"] | None = None
    """Type of the tokens of .bin files without an index; other files state their own."""
    end: Whole | None = None
    """Token that ends a document. None: a file is one document, and of an index each document is one."""

    tokenizer: Name | None = None
    """Name of the tokenizer that made them: losses of corpora with the same name and vocabulary can be compared.
    None: unknown, so that these settings themselves are the name."""

    @property
    def vocab_size(self) -> int:
        """Tokens of the vocabulary."""
        return self.vocab

    @property
    def tokenizer_name(self) -> str:
        """Name of the tokenizer."""
        return super().tokenizer_name if self.tokenizer is None else f"{self.tokenizer}-{self.vocab}"

    @model_validator(mode="after")
    def _end_is_in_the_vocabulary(self) -> Self:
        if self.end is not None and self.end >= self.vocab:
            raise ValueError(f"end is token {self.end}, and the vocabulary has {self.vocab} tokens")
        return self

    def fingerprint(self, hash_file: HashFile) -> str:
        """Over the settings, and the name, sha256 and size of every file that is read."""
        parts = [self.model_dump_json(exclude={"paths", "validation_paths"})]
        for patterns in filter(None, (self.paths, self.validation_paths)):
            found = expand(patterns)
            others = [(f"{name}+", other_of_pair(path, self.dtype)) for name, path in found]
            beside = [(name, path) for name, path in others if path is not None]
            parts.append(fingerprint_of([*found, *beside], hash_file))
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def encoded(self, validation: float) -> Iterator[EncodedDocument]:
        """Yield every document, file by file.

        Raises:
            DataError: A file is damaged, of another dtype, has a token outside of the vocabulary, or the split
                cannot be made.
        """
        train, held_out = self._rows(self.paths), self._rows(self.validation_paths)
        if both := sorted({_tokens_file(row) for row in train} & {_tokens_file(row) for row in held_out}):
            self._refuse(f"{both[0]} is both in paths and in validation_paths", "name each file once")
        if not held_out and self.end is None and any(row.ends is None for row in train):
            self._refuse(
                "the files do not say where documents end, so no documents can be held out",
                "name held-out files as validation_paths, or the token that ends a document as `end`",
            )
        for split, rows in (("train", train), ("validation", held_out)):
            for row in rows:
                self._check(row)
                for tokens in self._documents(row):
                    side: SplitName = split if held_out else _side(tokens, validation)
                    yield EncodedDocument(side, tokens, 0)

    def _rows(self, patterns: tuple[str, ...]) -> list[TokenRow]:
        if not patterns:
            return []
        paths = [path for _, path in expand(patterns)]
        indexed = {path.with_suffix(".bin") for path in paths if path.suffix.lower() == ".idx"}
        return [open_row(path, self.dtype) for path in paths if path not in indexed]

    def _check(self, row: TokenRow) -> None:
        """Refuse tokens outside of the vocabulary, and signs that the dtype is another."""
        n_odd = largest_odd = 0
        for at in range(0, len(row.tokens), _BLOCK):
            block = row.tokens[at : at + _BLOCK]
            largest, least = int(block.max()), int(block.min())
            if least < 0 or largest >= self.vocab:
                bad = least if least < 0 else largest
                place = at + int(np.argmax(np.asarray(block) == bad))
                self._refuse(
                    f"token {place:,} is {bad:,}, and the vocabulary has {self.vocab:,} tokens",
                    f"correct source.vocab, or the dtype if it is not {row.tokens.dtype.name}",
                    row.path,
                )
            n_odd += len(block[1::2])
            largest_odd = max(largest_odd, int(block[1::2].max(initial=0)))
        upper_half = (self.vocab - 1) >> 16  # largest second half of a token of 4 bytes
        if row.is_stated and row.tokens.dtype.itemsize == 2 and n_odd >= 8 and largest_odd <= upper_half:
            at_most = f"at most {upper_half}" if upper_half else "0"
            self._refuse(
                f"every second token is {at_most}, as if the tokens had 4 bytes and not 2",
                "set source.dtype: uint32",
                row.path,
            )

    def _documents(self, row: TokenRow) -> Iterator[np.ndarray]:
        """Yield the documents of a file, none of them empty."""
        ends = row.ends
        if self.end is not None:
            parts = [
                at + 1 + np.flatnonzero(np.asarray(row.tokens[at : at + _BLOCK]) == self.end)
                for at in range(0, len(row.tokens), _BLOCK)
            ]
            ends = np.unique(np.concatenate([*parts, [len(row.tokens)]]))
        start = 0
        for end in [len(row.tokens)] if ends is None else ends.tolist():
            if end > start:
                yield row.tokens[start:end]
            start = end

    def _refuse(self, problem: str, fix: str, path: Path | None = None) -> NoReturn:
        raise DataError(
            problem, where=f"source: {', '.join(self.paths)}" if path is None else str(path), fix=fix
        )


def _tokens_file(row: TokenRow) -> Path:
    """Return the file that holds the tokens: of a pair, which may be named by its index, the .bin."""
    return row.path.with_suffix(".bin") if row.path.suffix.lower() == ".idx" else row.path


def _side(tokens: np.ndarray, validation: float) -> SplitName:
    """Return the side of a document: equal documents are on one side, whatever their file and dtype."""
    content = content_hash(np.asarray(tokens, "<i8").tobytes())
    place = int(mix(np.array([content], U64) ^ _SIDE)[0] >> U64(11))
    return "validation" if place < int(validation * 2**53) else "train"
