"""Conformance of tokenizers: text comes back, documents end, and the name says what it is."""

from pathlib import Path

import numpy as np

from scalelab.config import parse_yaml
from scalelab.data.base import DataConfig
from scalelab.data.corpus.shards import prepare
from scalelab.data.hashing import sha256
from scalelab.data.vocabulary import vocab_size_of


def check_tokenizer(config: DataConfig, folder: Path) -> None:
    """Hold a tokenizer to its promises.

    Args:
        config: A corpus of text with this tokenizer.
        folder: Empty; corpora are prepared below it.
    """
    assert DataConfig.parse(parse_yaml(config.to_yaml(), "data.yaml")) == config, "lost in YAML"
    assert config.tokenizer.fingerprint(sha256) == config.tokenizer.fingerprint(sha256)
    planned = vocab_size_of(config)
    one, other = prepare(config, folder / "one"), prepare(config, folder / "other")
    assert (one.digest, one.manifest) == (other.digest, other.manifest)
    assert one.manifest.vocab_size_planned == planned >= one.vocab_size
    tokenizer = one.load_tokenizer()
    assert tokenizer is not None, "a corpus of text has its tokenizer"
    assert tokenizer.name == one.tokenizer, "another name after it was saved"
    text = "the Thin\tline \u00e9\n\n" + tokenizer.decode([tokenizer.end])
    (tokens,) = tokenizer.encode([text])
    assert tokenizer.decode(tokens) == text
    assert tokenizer.end not in tokens, "a text that spells the end of a document is text"
    assert tokens.max() < one.vocab_size
    for split in ("train", "validation"):
        side = one.tokens(split)
        last = side.windows(side.ends.astype(np.int64) - 1, 1)
        assert (last == tokenizer.end).all(), "a document ends with its token"
