"""How fast the default corpus is prepared, opened and read. Exit 1 when too slow.

    python analysis/bench/data.py

Prints one JSON object a line: what was measured, its value, its unit and its limit. Uses a
cache of its own that is thrown away. Sketching is measured against the way it was done before, one
document at a time (tests/sketch_reference.py), on the same text in the same minute: the ratio does not
depend on the machine as the speeds do.
"""

import json
import sys
import tempfile
import time
from pathlib import Path

from scalelab.data.base import DataConfig, SkippedDocuments
from scalelab.data.corpus.shards import prepare
from scalelab.data.corpus.sketches import Sketcher
from scalelab.data.corpus.stream import Stream

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

import sketch_reference

SEQ_LEN, BATCH_TOKENS, BATCHES = 64, 1024, 20_000
SKETCHED_BYTES = 8_000_000


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

    texts = [document.text for document in config.source.documents(SkippedDocuments())]
    paragraphs = [part for text in texts for part in text.split("\n\n") if part.strip()]

    about = {"n_tokens": corpus.n_train + corpus.n_validation, "tokenizer": corpus.tokenizer}
    ok = [
        told("prepare from nothing", prepared - began, "s", 60, **about),
        told("prepare from cache", opened - prepared, "s", 1),
        told("batch of 1024 tokens", (read - reading) / BATCHES * 1e6, "us", 40, seq_len=SEQ_LEN),
        sketching("files", texts, 1.5),
        sketching("paragraphs", paragraphs, 2.0),
    ]
    return 0 if all(ok) else 1


def sketching(what: str, texts: list[str], least: float) -> bool:
    """Print the speed of sketching and its ratio to the old way; True when the ratio is at least `least`."""
    chosen, size = [], 0
    for text in texts:
        if size < SKETCHED_BYTES:
            chosen.append(text)
            size += len(text.encode())
    began, known = time.process_time(), {}
    for at in range(0, len(chosen), 2048):
        sketch_reference.bands_of(chosen[at : at + 2048], known)
    middle = time.process_time()
    sketcher = Sketcher(processes=0)
    for text in chosen:
        sketcher.add(text)
    sketcher.finish()
    before, now = middle - began, time.process_time() - middle
    speeds = {
        "MB_per_cpu_s_before": round(size / before / 1e6, 1),
        "MB_per_cpu_s": round(size / now / 1e6, 1),
    }
    told(f"sketch {what}: old CPU time / new", before / now, "times", least, **speeds)
    return before / now >= least


def told(what: str, value: float, unit: str, limit: float, **about: object) -> bool:
    """Print one measurement; True when it keeps its limit."""
    print(json.dumps({"what": what, "value": round(value, 3), "unit": unit, "limit": limit} | about))
    return value <= limit


if __name__ == "__main__":
    sys.exit(main())
