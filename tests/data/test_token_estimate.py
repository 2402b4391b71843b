"""Tokens behind each stage: near the truth for long documents, and comparable between stages."""

import random
from types import SimpleNamespace

import pytest

from scalelab.data.curate.base import WebDocument
from scalelab.data.curate.store import DocumentWriter
from scalelab.data.curate.token_estimate import SAMPLE_CHARACTERS, tokens_by_stage


class Tokens:
    """A tokenizer that needs a token for four ASCII characters, or for one byte of another text."""

    def __init__(self):
        self.seen = []

    def encode(self, texts):
        self.seen.append(texts)
        return [[0] * (-(-len(text) // 4) if text.isascii() else len(text.encode())) for text in texts]


@pytest.fixture
def curation(tmp_path):
    """A function that stores the documents behind each stage, in two shards, as a finished curation."""

    def curation(*stages):
        directories, reports = [], []
        for i, stage in enumerate(stages):
            directory = tmp_path / str(i)
            directory.mkdir()
            shards = []
            for j in range(2):
                with DocumentWriter(directory / f"documents-{j:05d}.jsonl") as writer:
                    for found in stage[j::2]:
                        writer.add(found)
                shards.append(writer.stored)
            directories.append(directory)
            n_bytes = sum(each.n_bytes for each in shards)
            reports.append(SimpleNamespace(shards=shards, bytes_out=n_bytes, n_out=len(stage)))
        return SimpleNamespace(directories=directories, reports=reports)

    return curation


def truth(stage):
    return sum(len(row) + 1 for row in Tokens().encode([each.text for each in stage]))


def test_long_documents_are_not_judged_by_the_first(curation):
    draw = random.Random(0)
    sizes = [draw.randint(700_000, 900_000) for _ in range(30)]
    stage = [
        WebDocument(f"page{i}", "中" * (size // 3) if i == 0 else "abc " * (size // 4))
        for i, size in enumerate(sizes)
    ]

    assert tokens_by_stage(curation(stage), Tokens()) == pytest.approx([truth(stage)], rel=0.02)


@pytest.mark.parametrize("seed", range(6))
def test_documents_of_all_lengths_and_scripts_are_weighed_by_their_bytes(curation, seed):
    draw = random.Random(seed)
    stage = []
    for i in range(600):
        size = int(10 ** draw.uniform(1.5, 5))
        stage.append(WebDocument(f"{seed}-{i}", "中" * (size // 3) if draw.random() < 0.2 else "abc " * size))

    tokens = Tokens()
    assert tokens_by_stage(curation(stage), tokens) == pytest.approx([truth(stage)], rel=0.15)
    assert SAMPLE_CHARACTERS <= sum(map(len, tokens.seen[0])) <= 1.05 * SAMPLE_CHARACTERS


@pytest.mark.parametrize("sizes", [[0], [250_000], [90, 40_000, 0, 7] + [400] * 100])
def test_a_stage_smaller_than_the_sample_is_counted(curation, sizes):
    """Every document has one end, however long it is, and all of it is encoded."""
    stage = [WebDocument(f"page{i}", "a" * size) for i, size in enumerate(sizes)]

    found = tokens_by_stage(curation(stage), Tokens())

    assert found == pytest.approx([truth(stage)], rel=1e-12)


def test_the_sample_behind_a_stage_is_what_is_left_of_the_one_before(curation):
    draw = random.Random(1)
    stages = [[WebDocument(f"page{i}", f"{i} " * draw.randint(20, 600)) for i in range(1500)]]
    for _ in range(3):
        stages.append([each for each in stages[-1] if draw.random() < 0.7])
    stages.append([])
    tokens = Tokens()

    found = tokens_by_stage(curation(*stages), tokens)

    for before, after, stage in zip(tokens.seen, tokens.seen[1:4], stages[1:], strict=False):
        left = set(before) & {each.text for each in stage}
        assert left <= set(after)
        assert len(left) > 0.5 * len(before)
    assert found == [*sorted(found[:-1], reverse=True), None]


def test_a_repeated_document_is_sampled_as_often_as_it_stands_there(curation):
    once = [WebDocument(f"page{i}", f"{i:09d} " * 100) for i in range(1200)]
    twice = [each for one in once for each in (one, WebDocument(f"{one.name}#2", one.text))]
    tokens = Tokens()

    tokens_by_stage(curation(twice), tokens)

    n_single = sum(tokens.seen[0].count(text) == 1 for text in set(tokens.seen[0]))
    assert n_single <= 2  # at the edge of the sample
