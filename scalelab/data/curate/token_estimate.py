"""Tokens of each stage's documents, estimated from a sample of them.

Encoding every stage of a corpus costs more than curating it, so a few hundred kilobytes of each stage, spread
evenly over its documents, are encoded, and the bytes per token of the sample stand for the stage.
"""

import json
from collections.abc import Iterator
from pathlib import Path

from scalelab.data.curate.pipeline import CurationResult
from scalelab.data.tokenizer import TextTokenizer

SAMPLE_BYTES = 300_000
"""Text of each stage that is encoded."""


def tokens_by_stage(result: CurationResult, tokenizer: TextTokenizer) -> list[float | None]:
    """Return the tokens of what each stage kept; None where it kept nothing.

    Args:
        result: A finished curation.
        tokenizer: Tokenizer of the finished corpus.
    """
    found: list[float | None] = []
    for directory, report in zip(result.directories, result.reports, strict=True):
        paths = [directory / shard.file for shard in report.shards]
        texts = list(_sample(paths, max(1, report.bytes_out // SAMPLE_BYTES)))
        size = sum(len(text.encode("utf-8")) for text in texts)
        n_tokens = sum(len(row) + 1 for row in tokenizer.encode(texts))  # 1: the end of the document
        found.append(report.bytes_out * n_tokens / size if size else None)
    return found


def _sample(paths: list[Path], every: int) -> Iterator[str]:
    """Yield the text of every so many-th document."""
    i = 0
    for path in paths:
        with open(path, "rb") as file:
            for line in file:
                if i % every == 0:
                    yield json.loads(line)["text"][:50_000]
                i += 1
