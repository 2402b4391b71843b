"""How fast the default corpus is prepared, opened and read. Exit 1 when too slow.

    python analysis/bench/data.py

Prints one JSON object a line: what was measured, its value, its unit and its limit. Uses a
cache of its own that is thrown away.
"""

import json
import sys
import tempfile
import time
from pathlib import Path

from scalelab.data.base import DataConfig
from scalelab.data.shards import prepare
from scalelab.data.stream import Stream

SEQ_LEN, BATCH_TOKENS, BATCHES = 64, 1024, 20_000


def main() -> int:
    config = DataConfig(source="pycode", tokenizer={"kind": "bpe", "vocab_size": 1024})
    with tempfile.TemporaryDirectory() as directory:
        began = time.perf_counter()
        corpus = prepare(config, Path(directory))
        prepared = time.perf_counter()
        prepare(config, Path(directory))
        opened = time.perf_counter()

        stream = Stream(corpus.tokens("train"), SEQ_LEN, seed=0)
        reading = time.perf_counter()
        for k in range(BATCHES):
            stream.batch(k, BATCH_TOKENS // SEQ_LEN)
        read = time.perf_counter()

    about = {"n_tokens": corpus.n_train + corpus.n_validation, "tokenizer": corpus.tokenizer}
    ok = [
        told("prepare from nothing", prepared - began, "s", 60, **about),
        told("prepare from cache", opened - prepared, "s", 1),
        told("batch of 1024 tokens", (read - reading) / BATCHES * 1e6, "us", 40, seq_len=SEQ_LEN),
    ]
    return 0 if all(ok) else 1


def told(what: str, value: float, unit: str, limit: float, **about: object) -> bool:
    """Print one measurement; True when it keeps its limit."""
    print(
        json.dumps({"what": what, "value": round(value, 3), "unit": unit, "limit": limit} | about)
    )
    return value <= limit


if __name__ == "__main__":
    sys.exit(main())
