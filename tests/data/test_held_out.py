"""Training text apart from the validation text, shares of both, and digests that say what is evaluated."""

import sysconfig
from dataclasses import replace

import numpy as np
import pytest
from pydantic import ValidationError

from scalelab.data.base import DataConfig, SkippedDocuments
from scalelab.data.corpus.shards import prepare
from scalelab.data.curate.base import WebDocument
from scalelab.data.curate.publish import CURATED, NAME, CuratedCorpus
from scalelab.data.curate.store import DocumentWriter, read_documents
from scalelab.data.hashing import draw_documents
from scalelab.errors import DataError

BYTES = {"kind": "bytes"}


def texts_of(corpus, split):
    """The documents of one side, decoded."""
    tokens, tokenizer = corpus.tokens(split), corpus.load_tokenizer()
    documents = np.split(np.concatenate(tokens.shards), tokens.ends[:-1].astype(int))
    return [tokenizer.decode(document[:-1]) for document in documents]


@pytest.fixture
def source(tmp_path, prose):
    """A function that writes n texts and returns a source of them."""

    def source(name, n, seed, more=()):
        directory = tmp_path / name
        directory.mkdir()
        for i, text in enumerate([*prose(n, seed), *more]):
            (directory / f"{i:03d}.txt").write_text(text)
        return {"kind": "text", "paths": [f"{directory}/*.txt"]}

    return source


def corpus_of(**data):
    return prepare(DataConfig.model_validate({"tokenizer": {"vocab_size": 300}, "validation": 0.2} | data))


def test_recipes_of_different_text_are_evaluated_on_the_same_tokens(source):
    held_out = source("held", 30, 0)
    one, other = (
        corpus_of(source=source(name, 20, seed), held_out=held_out) for name, seed in (("a", 1), ("b", 2))
    )
    whole = corpus_of(source=held_out)

    assert one.validation_digest == other.validation_digest == whole.validation_digest
    assert texts_of(one, "validation") == texts_of(other, "validation") == texts_of(whole, "validation")
    assert len({one.digest, other.digest, whole.digest}) == 3
    assert one.tokenizer == other.tokenizer == whole.tokenizer
    assert len(texts_of(one, "train")) == 20


def test_near_copies_of_validation_text_are_not_trained_on(source):
    held_out = source("held", 30, 0)
    validation = texts_of(corpus_of(source=held_out), "validation")
    copies = [validation[0], validation[1].replace(".\n", " again.\n")]

    found = corpus_of(source=source("a", 20, 1, copies), held_out=held_out)

    assert sorted(texts_of(found, "train")) == sorted(texts_of(corpus_of(source=source("b", 20, 1)), "train")
        + texts_of(corpus_of(source=source("c", 20, 1)), "validation"))  # fmt: skip
    assert found.manifest.skipped["validation text, or a near-copy of it"]["count"] == 2


def test_the_held_out_source_may_be_the_source(source):
    text = source("held", 30, 0)
    one, other = corpus_of(source=text), corpus_of(source=text, held_out=text)

    assert one.validation_digest == other.validation_digest
    assert texts_of(one, "train") == texts_of(other, "train")


def test_a_share_of_the_training_text_leaves_evaluation_as_it_is(source):
    text = source("held", 60, 0)
    whole, half, tenth = (corpus_of(source=text, train_share=share) for share in (1.0, 0.5, 0.1))

    assert whole.validation_digest == half.validation_digest == tenth.validation_digest
    assert set(texts_of(tenth, "train")) < set(texts_of(half, "train")) < set(texts_of(whole, "train"))
    assert half.n_train == pytest.approx(whole.n_train / 2, rel=0.05)


def test_another_tokenizer_is_another_evaluation(source):
    text = source("held", 30, 0)

    assert (
        corpus_of(source=text).validation_digest != corpus_of(source=text, tokenizer=BYTES).validation_digest
    )


def test_a_mixture_has_its_shares(source):
    parts = [source("a", 40, 1), source("b", 40, 2)]

    def shares(asked):
        config = DataConfig.model_validate({"source": {"kind": "mix", "parts": parts, "shares": asked}})
        sizes = [0, 0]
        for document in config.source.documents(SkippedDocuments()):
            sizes[int(document.name[0])] += len(document.text)
        return sizes

    whole = shares([1, 1])
    uneven = shares([3, 1])

    assert uneven[0] / sum(uneven) == pytest.approx(0.75, abs=0.02)
    assert whole[0] / sum(whole) == pytest.approx(0.5, abs=0.02)
    assert uneven[0] >= whole[0]  # the scarcest part is taken whole


@pytest.fixture
def curated(tmp_path, prose):
    """A function that writes a curated corpus, three documents in four for training, and returns a source of it."""

    def curated(name, n, seed):
        directory = tmp_path / name
        directory.mkdir()
        stored = {}
        for side, texts in {"holdout-a": prose(n, seed), "train-00000": prose(3 * n, seed + 100)}.items():
            with DocumentWriter(directory / f"{side}.jsonl") as writer:
                for i, text in enumerate(texts):
                    writer.add(WebDocument(f"{side}-{i}", text))
            stored[side] = writer.stored
        found = CuratedCorpus(
            name=name,
            train=[stored["train-00000"]],
            holdouts={"a": stored["holdout-a"]},
            fingerprint="",
            stages=[],
            config={},
        )
        CURATED.write(directory / NAME, found)
        return {"kind": "curated", "path": str(directory)}

    return curated


def test_what_parts_of_a_mixture_hold_out_is_not_trained_on(curated):
    parts = [curated("a", 8, 1), curated("b", 16, 2)]
    apart = [corpus_of(source=part, tokenizer=BYTES) for part in parts]

    mixed = corpus_of(source={"kind": "mix", "parts": parts}, tokenizer=BYTES)
    even = corpus_of(source={"kind": "mix", "parts": parts, "shares": [1, 1]}, tokenizer=BYTES)

    for side in ("train", "validation"):
        first, second = (set(texts_of(one, side)) for one in apart)
        assert set(texts_of(mixed, side)) == first | second
        assert set(texts_of(even, side)) >= first  # the scarcest part is taken whole, side by side
        taken = sum(map(len, set(texts_of(even, side)) & second))
        assert taken == pytest.approx(sum(map(len, first)), rel=0.1)


@pytest.fixture
def overlapping(curated, tmp_path):
    """Two corpora over the same pages that hold out others: each trains on what the other holds out."""
    parts = [curated("a", 8, 1), curated("b", 16, 2)]
    for name, other in ("ab", "ba"):
        held_out = [document.text for document in read_documents(tmp_path / other / "holdout-a.jsonl")]
        copies = [held_out[0], held_out[1].replace(".\n", " again.\n")]
        with DocumentWriter(tmp_path / name / "train-00001.jsonl") as writer:
            for i, text in enumerate(copies):
                writer.add(WebDocument(f"copy-{i}", text))
        found = CURATED.read(tmp_path / name / NAME)
        CURATED.write(tmp_path / name / NAME, replace(found, train=[*found.train, writer.stored]))
    return parts


def test_what_one_part_of_a_mixture_holds_out_another_does_not_train_on(overlapping):
    mixed = corpus_of(source={"kind": "mix", "parts": overlapping}, tokenizer=BYTES)

    left_out = mixed.manifest.skipped["validation text, or a near-copy of it"]
    assert left_out["count"] == 4
    assert left_out["examples"] == [f"{i}-curated/copy-{j}" for i in range(2) for j in range(2)]
    assert mixed.manifest.splits["train"].n_documents == 24 + 48
    assert not set(texts_of(mixed, "train")) & set(texts_of(mixed, "validation"))


def test_a_tokenizer_learns_nothing_from_copies_of_validation_text(overlapping, tmp_path):
    mixed = corpus_of(source={"kind": "mix", "parts": overlapping})
    for name in "ab":
        found = CURATED.read(tmp_path / name / NAME)
        CURATED.write(tmp_path / name / NAME, replace(found, train=found.train[:1]))

    assert mixed.tokenizer == corpus_of(source={"kind": "mix", "parts": overlapping}).tokenizer


def test_a_corpus_of_which_all_training_text_is_held_out_is_refused(overlapping, tmp_path):
    for name in "ab":
        found = CURATED.read(tmp_path / name / NAME)
        CURATED.write(tmp_path / name / NAME, replace(found, train=found.train[1:]))

    with pytest.raises(DataError, match="all 4 training documents are validation text or near-copies of it"):
        corpus_of(source={"kind": "mix", "parts": overlapping}, tokenizer=BYTES)


def test_a_mixture_of_which_a_part_states_no_sides_needs_text_that_is_held_out(source, curated):
    mixed = {"kind": "mix", "parts": [curated("a", 8, 1), source("b", 30, 2)]}

    with pytest.raises(DataError, match="states no side for 30 of 62 documents"):
        corpus_of(source=mixed)

    found = corpus_of(source=mixed, held_out=source("c", 30, 3), tokenizer=BYTES)
    assert found.manifest.splits["train"].n_documents == 24 + 30


def test_text_may_be_held_out_for_a_curated_corpus(source, curated):
    """Sides are those of the corpus alone: the text that is held out is divided as it would be by itself."""
    text = source("b", 30, 2)

    found = corpus_of(source=curated("a", 8, 1), held_out=text, tokenizer=BYTES)

    alone = corpus_of(source=text, tokenizer=BYTES)
    assert found.validation_digest == alone.validation_digest
    assert found.manifest.splits["train"].n_documents == 24


@pytest.mark.parametrize("wanted", [0.0, 1.0, 49.0, 51.0, 250.0, 1000.0])
def test_drawn_documents_come_as_near_as_whole_ones_can(wanted):
    content = np.arange(1, 11, dtype=np.uint64)
    drawn = draw_documents(content, np.full(10, 100), wanted, 3)

    assert abs(100 * drawn.sum() - wanted) <= 50


def test_the_library_and_its_tests_are_two_texts(tmp_path, monkeypatch):
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    for name in ("json/decoder.py", "test/test_json.py", "unittest/tests/a.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"# {name}\n")

    def names(**settings):
        config = DataConfig.model_validate({"source": {"kind": "pycode", **settings}})
        return [document.name for document in config.source.documents(SkippedDocuments())]

    assert names(tests=False) == ["json/decoder.py"]
    assert names(library=False) == ["test/test_json.py", "unittest/tests/a.py"]
    assert len(names()) == 3


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        ({"source": {"kind": "pycode", "tests": False, "library": False}}, "neither tests nor the library"),
        ({"source": "pycode", "held_out": "synthetic"}, "held_out 'synthetic' is tokens already"),
        ({"source": "synthetic", "train_share": 0.5}, "remove train_share"),
        ({"source": "pycode", "train_share": 0}, "greater than 0"),
        ({"source": {"kind": "mix", "parts": ["pycode", "skills"], "shares": [1]}}, "1 numbers for 2 parts"),
    ],
)
def test_what_cannot_be_is_refused(data, problem):
    with pytest.raises(ValidationError, match=problem):
        DataConfig.model_validate(data)
