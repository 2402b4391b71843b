r"""Formats of token files, mapped from the disk and checked as far as their headers say.

    Megatron index   "MMIDIDX\0\0", version (u64) 1, dtype (u8), sequences (u64), document ends (u64) + 1 with the
                     leading 0, lengths (i32 each), byte offsets (i64 each), documents (i64 each, in sequences)

Source: Megatron-LM, megatron/core/datasets/indexed_dataset.py.
"""

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np

from scalelab.data.files.opening import open_source, regular_stat, unreadable
from scalelab.errors import DataError
from scalelab.files import exists

_MAGIC = b"MMIDIDX\x00\x00"
_HEADER = struct.Struct("<QBQQ")
_MEGATRON = {1: "u1", 2: "i1", 3: "<i2", 4: "<i4", 5: "<i8", 8: "<u2"}


@dataclass(frozen=True, eq=False)
class TokenRow:
    """The tokens of one file."""

    path: Path
    tokens: np.ndarray
    """Mapped, whole numbers, shape (n,)."""
    ends: np.ndarray | None
    """Place after the last token of each document, shape (n_documents,); None where the file does not say."""
    is_stated: bool
    """Whether its dtype comes from the settings: the file itself does not say it."""


def open_row(path: Path, dtype: str | None) -> TokenRow:
    """Return the tokens of a file, by its ending.

    Args:
        path: A .bin, .npy or .idx.
        dtype: Of a .bin; None: not stated.

    Raises:
        DataError: It cannot be read, is empty, damaged, or of another format.
    """
    ending = path.suffix.lower()
    if ending not in _FORMATS:
        refuse(path, f"{path.name} is no token file", "name files that end in .bin, .npy or .idx")
    if regular_stat(path).st_size == 0:
        refuse(path, f"{path.name} is empty", "leave it out")
    try:
        row = _FORMATS[ending](path, dtype)
    except OSError as error:
        raise unreadable(path, error) from error
    if not len(row.tokens):
        refuse(path, f"{path.name} holds no tokens", "leave it out")
    return row


def other_of_pair(path: Path, dtype: str | None) -> Path | None:
    """Return the file of a Megatron pair that is read with another; None where a file is read alone.

    Args:
        path: A .bin, .npy or .idx.
        dtype: Of a .bin; None: not stated, so that an index beside it states it.
    """
    ending, index = path.suffix.lower(), path.with_suffix(".idx")
    if ending == ".idx":
        return path.with_suffix(".bin")
    return index if ending == ".bin" and dtype is None and exists(index) else None


def refuse(path: Path, problem: str, fix: str) -> NoReturn:
    """Raise a DataError about a token file."""
    raise DataError(problem, where=str(path), fix=fix)


def _flat(path: Path, dtype: str | None) -> TokenRow:
    if index := other_of_pair(path, dtype):
        return _megatron(index, dtype)
    if dtype is None:
        refuse(path, f"{path.name} does not say the type of its tokens", "set source.dtype: uint16 or uint32")
    with open_source(path) as file:
        if file.read(8)[:6] == b"\x93NUMPY":
            refuse(path, f"{path.name} is a NumPy file", f"rename it to {path.stem}.npy")
    kind, size = np.dtype(dtype).newbyteorder("<"), regular_stat(path).st_size
    if size % kind.itemsize:
        refuse(
            path,
            f"{path.name} has {size:,} bytes, no whole number of tokens of {kind.itemsize} bytes",
            "correct source.dtype, or restore the file if it was cut short",
        )
    return TokenRow(path, np.memmap(path, kind, "r"), None, True)


def _numpy(path: Path, dtype: str | None) -> TokenRow:
    try:
        tokens = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        refuse(path, f"{path.name} is no whole NumPy array: {error}", "write it again with numpy.save")
    if not isinstance(tokens, np.ndarray):
        refuse(path, f"{path.name} is an archive of arrays", "write each array with numpy.save")
    if tokens.ndim != 1 or tokens.dtype.kind not in "ui":
        refuse(
            path,
            f"{path.name} is an array of {tokens.dtype} of shape {tokens.shape}, not one row of tokens",
            "write one row of uint16 or uint32 with numpy.save",
        )
    if dtype is not None and tokens.dtype.newbyteorder("=") != np.dtype(dtype):
        refuse(
            path, f"{path.name} holds {tokens.dtype.name}, not {dtype}", "remove source.dtype, or correct it"
        )
    return TokenRow(path, tokens, None, False)


def _megatron(path: Path, dtype: str | None) -> TokenRow:
    del dtype  # the index states it
    fix = "write the pair again with Megatron's preprocess_data.py"
    with open_source(path) as file:
        data = file.read()
    if not data.startswith(_MAGIC) or len(data) < len(_MAGIC) + _HEADER.size:
        refuse(path, f"{path.name} is no index of Megatron", fix)
    version, code, n_sequences, n_ends = _HEADER.unpack_from(data, len(_MAGIC))
    if version != 1 or code not in _MEGATRON:
        refuse(
            path, f"{path.name} has version {version} and dtype code {code}, which hold no tokens here", fix
        )
    at, wanted = len(_MAGIC) + _HEADER.size, 12 * n_sequences + 8 * n_ends
    if len(data) - at < wanted:
        refuse(path, f"{path.name} is cut short: {len(data):,} bytes, not {at + wanted:,}", fix)
    lengths = np.frombuffer(data, "<i4", n_sequences, at).astype(np.int64)
    offsets = np.frombuffer(data, "<i8", n_sequences, at + 4 * n_sequences)
    documents = np.frombuffer(data, "<i8", n_ends, at + 12 * n_sequences)
    kind, ends = np.dtype(_MEGATRON[code]), np.concatenate([[0], np.cumsum(lengths)])
    sound = (
        lengths.min(initial=0) >= 0
        and np.array_equal(offsets, ends[:-1] * kind.itemsize)
        and n_ends > 0
        and documents[0] == 0
        and documents[-1] == n_sequences
        and np.diff(documents).min(initial=0) >= 0
    )
    if not sound:
        refuse(
            path, f"{path.name} is damaged: its lengths, offsets and documents contradict one another", fix
        )
    tokens_path = path.with_suffix(".bin")
    size, right = regular_stat(tokens_path).st_size, int(ends[-1]) * kind.itemsize
    if size != right:
        refuse(
            tokens_path,
            f"{tokens_path.name} has {size:,} bytes, its index says {right:,} ({ends[-1]:,} tokens of {kind.name})",
            "take both files from the same run of preprocess_data.py",
        )
    if not right:
        return TokenRow(path, np.empty(0, kind), None, False)
    return TokenRow(path, np.memmap(tokens_path, kind, "r"), ends[documents[1:]], False)


_FORMATS = {".bin": _flat, ".npy": _numpy, ".idx": _megatron}
