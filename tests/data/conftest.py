"""Small corpora, written anew for each test, and a cache of each test's own."""

import gzip
import json

import numpy as np
import pytest

from scalelab.data.base import DataConfig

WORDS = [a + b + c for a in "bdfgklmnprst" for b in "aeiou" for c in "nrstlm"]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """Where this test's prepared corpora lie; no source asks the network."""
    monkeypatch.setenv("SCALELAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    return tmp_path / "cache"


@pytest.fixture
def prose():
    """A function that makes n texts of random words, of 40 to 160 words each."""

    def make(n, seed=0):
        rng = np.random.default_rng(seed)
        return [" ".join(rng.choice(WORDS, rng.integers(40, 160))) + ".\n" for _ in range(n)]

    return make


@pytest.fixture
def corpus_files(tmp_path, prose):
    """A directory of 40 text files."""
    directory = tmp_path / "texts"
    directory.mkdir()
    for i, text in enumerate(prose(40)):
        (directory / f"{i:03d}.txt").write_text(text)
    return directory


@pytest.fixture
def config(corpus_files):
    """A function that makes a config of the 40 files, with changes."""

    def make(**changes):
        source = {"kind": "text", "paths": [str(corpus_files / "*.txt")]}
        tokenizer = {"vocab_size": 300}
        return DataConfig(**{"source": source, "tokenizer": tokenizer, "validation": 0.2} | changes)

    return make


@pytest.fixture
def jsonl():
    """A function that writes texts as JSONL."""

    def write(path, texts, field="text"):
        path.write_text("".join(json.dumps({field: text}) + "\n" for text in texts))
        return path

    return write


@pytest.fixture
def archive(tmp_path):
    """A function that writes records to an archive, one gzip member each."""
    pytest.importorskip("fastwarc")

    def write(*records, cut=None, name="a.warc.gz"):
        packed = [gzip.compress(r) if name.endswith(".gz") else r for r in records]
        (tmp_path / name).write_bytes(b"".join(packed)[:cut])
        return tmp_path / name

    return write
