"""Tokens of each stage's documents, estimated from a sample of them.

Encoding every stage of a corpus costs more than curating it, so about 300,000 characters of each stage are encoded:

    choose     documents by size / u, the largest first, where u in (0, 1] is a hash of the name
    excerpt    a few thousand characters from a place that the hash sets, more where documents are few,
               all of each where the stage is no larger than the sample
    weigh      each document by the bytes of the corpus that it stands for

So a document's chance is proportional to its size, and the estimate is that of priority sampling. The name stays
through all stages: the sample behind a stage is what is left of the sample before it, enlarged where that is too
little, and neighbouring stages share their noise. The token that ends a document is counted, not estimated.

Source: Duffield, Lund and Thorup 2007, Priority sampling for estimation of arbitrary subset sums.
"""

import heapq
import json
import re
from dataclasses import dataclass
from pathlib import Path

from scalelab.data.curate.pipeline import CurationResult
from scalelab.data.hashing import content_hash
from scalelab.data.tokenizer import TextTokenizer

SAMPLE_CHARACTERS = 300_000
"""Text of each stage that is encoded."""
_EXCERPT = 4_000  # characters of a document: at least 75 documents where there are so many
_REPEAT = re.compile(rb"#\d+$")  # ends the name of a repeated document


@dataclass(frozen=True, order=True)
class _SampledDocument:
    priority: float
    place: int
    """Place in the stage, which decides between equal priorities."""
    line_bytes: int
    n_bytes: int
    """UTF-8 bytes of the text."""
    excerpt: str


def tokens_by_stage(result: CurationResult, tokenizer: TextTokenizer) -> list[float | None]:
    """Return the tokens of what each stage kept; None where it kept nothing.

    Args:
        result: A finished curation.
        tokenizer: Tokenizer of the finished corpus.
    """
    found: list[float | None] = []
    for directory, report in zip(result.directories, result.reports, strict=True):
        paths = [directory / shard.file for shard in report.shards]
        if not report.n_out:
            found.append(None)
            continue
        is_whole = report.bytes_out <= SAMPLE_CHARACTERS
        length = SAMPLE_CHARACTERS if is_whole else max(_EXCERPT, SAMPLE_CHARACTERS // report.n_out)
        sample, threshold = _sample(paths, length)
        n_tokens = n_bytes = 0.0
        rows = tokenizer.encode([each.excerpt for each in sample])
        for each, row in zip(sample, rows, strict=True):
            if each.n_bytes:
                weight = each.n_bytes * max(1.0, threshold / each.line_bytes)
                n_tokens += weight * len(row) / len(each.excerpt.encode("utf-8"))
                n_bytes += weight
        rate = n_tokens / n_bytes if n_bytes else 0.0
        found.append(report.n_out + report.bytes_out * rate)
    return found


def _sample(paths: list[Path], length: int) -> tuple[list[_SampledDocument], float]:
    """Return the documents of the highest priority, and the highest priority of the others (0: there are none)."""
    sample: list[_SampledDocument] = []
    size, threshold, place = 0, 0.0, 0
    for path in paths:
        with open(path, "rb") as file:
            for line in file:
                hashed = _name_hash(line)
                priority, place = len(line) / ((hashed + 1) / 2**64), place + 1
                if size >= SAMPLE_CHARACTERS and priority < sample[0].priority:
                    threshold = max(threshold, priority)
                    continue
                text = json.loads(line).get("text", "")  # an empty field is not stored
                start = int((hashed % 2**32) / 2**32 * max(0, len(text) - length + 1))
                excerpt = text[start : start + length]
                each = _SampledDocument(priority, place, len(line), len(text.encode("utf-8")), excerpt)
                heapq.heappush(sample, each)
                size += len(excerpt)
                while size - len(sample[0].excerpt) >= SAMPLE_CHARACTERS:
                    left_out = heapq.heappop(sample)
                    size -= len(left_out.excerpt)
                    threshold = max(threshold, left_out.priority)
    return sample, threshold


def _name_hash(line: bytes) -> int:
    """Return 64 bits that name a stored document and its repeats alike; the name is its first field."""
    name = line.partition(b'", "')[0]
    return content_hash(b"token sample " + _REPEAT.sub(b"", name))
