"""Conformance of sources of documents: the same corpus from the same settings, distinct otherwise."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from scalelab.config import parse_yaml
from scalelab.data.base import DataConfig
from scalelab.data.corpus.shards import Corpus, prepare
from scalelab.data.hashing import sha256


def check_source(make: Callable[[int], DataConfig], folder: Path) -> None:
    """Hold a source to its promises.

    Args:
        make: A corpus's config over about n small documents; more documents are more content.
        folder: Empty; corpora are prepared below it.
    """
    config = make(40)
    assert DataConfig.parse(parse_yaml(config.to_yaml(), "source.yaml")) == config
    one, other = prepare(config, folder / "one"), prepare(make(40), folder / "other")
    assert one.path != other.path
    assert (one.digest, one.manifest) == (other.digest, other.manifest)
    before = config.source.fingerprint(sha256)
    assert before == make(40).source.fingerprint(sha256), "the fingerprint drifts"
    _counts_are_those_of_the_files(one)
    train, held_out = (_documents(one, split) for split in ("train", "validation"))
    assert train
    assert held_out
    assert not train & held_out, "a document is on both sides"
    more = make(41)
    assert more.source.fingerprint(sha256) != before
    assert prepare(more, folder / "more").digest != one.digest


def _counts_are_those_of_the_files(corpus: Corpus) -> None:
    for split, n in (("train", corpus.n_train), ("validation", corpus.n_validation)):
        tokens = corpus.tokens(split)
        names = corpus.manifest.splits[split].shards
        assert sum((corpus.path / name).stat().st_size for name in names) == 2 * n
        assert len(tokens) == n == tokens.ends[-1]
        assert len(tokens.ends) == corpus.manifest.splits[split].n_documents
        assert max(map(np.max, tokens.shards)) < corpus.vocab_size


def _documents(corpus: Corpus, split: str) -> set[bytes]:
    tokens = corpus.tokens(split)
    row = np.concatenate(tokens.shards)
    return {part.tobytes() for part in np.split(row, tokens.ends[:-1].astype(int))}
