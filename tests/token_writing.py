"""Token files as other programs write them, and tokenizers of other projects, small."""

import json
import struct
from pathlib import Path

import numpy as np
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

CODES = {"<i4": 4, "<u2": 8}


def write_megatron(path: Path, documents, dtype="<u2"):
    """A pair of files; each document is a list of sequences of tokens."""
    rows = [np.asarray(row, dtype) for document in documents for row in document]
    ends = np.cumsum([0, *map(len, documents)]).astype("<i8")
    lengths = np.array([len(row) for row in rows], "<i4")
    offsets = np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype("<i8") * np.dtype(dtype).itemsize
    head = b"MMIDIDX\x00\x00" + struct.pack("<QBQQ", 1, CODES[dtype], len(rows), len(ends))
    path.with_suffix(".idx").write_bytes(head + lengths.tobytes() + offsets.tobytes() + ends.tobytes())
    path.with_suffix(".bin").write_bytes(b"".join(row.tobytes() for row in rows))
    return path.with_suffix(".idx")


def byte_level(end="<|stop|>", lower=False) -> Tokenizer:
    """A tokenizer of bytes and the merge "th", with the habits of published files."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: i for i, letter in enumerate(alphabet)} | {"th": 256}
    inner = Tokenizer(models.BPE(vocab=vocabulary, merges=[("t", "h")]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    if lower:
        inner.normalizer = normalizers.Lowercase()
    inner.add_special_tokens([AddedToken("<|begin|>", special=True), AddedToken(end, special=True)])
    inner.post_processor = processors.TemplateProcessing(
        single=["<|begin|>", "$A"], special_tokens=[("<|begin|>", 257)]
    )
    inner.enable_truncation(8)
    inner.enable_padding(length=8)
    return inner


def write_huggingface(folder: Path, **config) -> Path:
    """A directory as transformers saves it."""
    folder.mkdir(parents=True, exist_ok=True)
    byte_level().save(str(folder / "tokenizer.json"))
    added = {
        "257": {"content": "<|begin|>", "special": True},
        "258": {"content": "<|stop|>", "special": True},
    }
    settings = {"eos_token": "<|stop|>", "added_tokens_decoder": added} | config
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder
