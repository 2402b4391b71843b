"""What is known of a corpus before it is prepared: the size of its vocabulary.

Not here: preparing it (corpus/shards.py), the tokenizer (tokenizer.py).
"""

from scalelab.data.base import DataConfig

UNPREPARED = "unprepared"
"""Digest of a corpus that is not prepared, in a plan."""
BYTES = 257
"""Vocabulary of plain bytes: 256 and the end of a document."""


def vocab_size_of(data: DataConfig) -> int:
    """Return the vocabulary size that a corpus will have once prepared."""
    fixed = getattr(data.source, "vocab_size", None)
    if fixed is not None:
        return fixed
    return BYTES if data.tokenizer.kind == "bytes" else data.tokenizer.vocab_size
