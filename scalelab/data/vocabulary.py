"""What is known of a corpus before it is prepared: the size of its vocabulary.

Not here: preparing it (corpus/shards.py), the tokenizer (tokenizer.py).
"""

from scalelab.data.base import DataConfig

UNPREPARED = "unprepared"
"""Digest of a corpus that is not prepared, in a plan."""


def vocab_size_of(data: DataConfig) -> int:
    """Return the vocabulary size that a corpus will have once prepared.

    Raises:
        DataError: The tokenizer is a file that cannot be read.
    """
    fixed = getattr(data.source, "vocab_size", None)
    return data.tokenizer.planned_vocab_size() if fixed is None else fixed
