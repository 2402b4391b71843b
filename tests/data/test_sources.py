"""Every registered source obeys these, so a new source is tested by adding how to make one."""

import json
import sysconfig

import numpy as np
import pytest

from scalelab.data import SOURCES
from scalelab.data.base import DataConfig
from scalelab.data.hashing import sha256
from scalelab.data.shards import prepare


def files(directory, texts, suffix):
    for i, text in enumerate(texts):
        path = directory / f"part{i % 3}" / f"{i:03d}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def make_pycode(directory, texts, monkeypatch):
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(directory))
    files(directory, texts, ".py")
    return {"kind": "pycode"}


def make_text(directory, texts, monkeypatch):
    files(directory, texts, ".md")
    return {"kind": "text", "paths": [f"{directory}/**/*.md"]}


def make_hub(directory, texts, monkeypatch):
    directory.mkdir(exist_ok=True)
    rows = (json.dumps({"text": text}) for text in texts)
    (directory / "rows.jsonl").write_text("\n".join(rows))
    return {"kind": "hub", "name": "nobody/nothing", "local": [str(directory / "rows.jsonl")]}


def make_synthetic(directory, texts, monkeypatch):
    return {"kind": "synthetic", "documents": 100, "length": 32, "seed": len(texts)}


def make_skills(directory, texts, monkeypatch):
    return {"kind": "skills", "documents_wanted": 20 * len(texts)}


def make_mix(directory, texts, monkeypatch):
    half = len(texts) // 2
    parts = [
        make_text(directory / "text", texts[:half], monkeypatch),
        make_hub(directory, texts[half:], monkeypatch),
    ]
    return {"kind": "mix", "parts": parts}


MAKE = {
    "skills": make_skills,
    "mix": make_mix,
    "pycode": make_pycode,
    "text": make_text,
    "hub": make_hub,
    "synthetic": make_synthetic,
}


@pytest.fixture(params=list(SOURCES))
def make(request, tmp_path, prose, monkeypatch):
    """A function that makes a config over n texts; more texts are more content."""

    def config(n=40):
        source = MAKE[request.param](tmp_path / "here", prose(n), monkeypatch)
        tokenizer = {} if request.param == "synthetic" else {"vocab_size": 300}
        return DataConfig(source=source, tokenizer=tokenizer, validation=0.2)

    return config


def documents(corpus, split):
    tokens = corpus.tokens(split)
    row = np.concatenate(tokens.shards)
    return [part.tolist() for part in np.split(row, tokens.ends[:-1].astype(int))]


def test_every_source_can_be_made_here():
    assert set(MAKE) == set(SOURCES)


def test_prepared_twice_it_is_the_same(make, tmp_path):
    one, other = prepare(make(), tmp_path / "one"), prepare(make(), tmp_path / "other")

    assert one.path != other.path
    assert one.digest == other.digest
    assert one.manifest == other.manifest


def test_other_content_has_another_fingerprint_and_digest(make):
    few = make(40)
    before, corpus = few.source.fingerprint(sha256), prepare(few)
    more = make(41)

    assert more.source.fingerprint(sha256) != before
    assert prepare(more).digest != corpus.digest


def test_the_fingerprint_does_not_drift(make):
    assert make().source.fingerprint(sha256) == make().source.fingerprint(sha256)


def test_counts_are_those_of_the_files(make):
    corpus = prepare(make())

    for split, n in (("train", corpus.n_train), ("validation", corpus.n_validation)):
        tokens = corpus.tokens(split)
        stored = sum((corpus.path / s).stat().st_size for s in corpus.manifest.splits[split].shards)
        assert stored == 2 * n
        assert len(tokens) == n == tokens.ends[-1]
        assert len(tokens.ends) == corpus.manifest.splits[split].n_documents
        assert max(map(np.max, tokens.shards)) < corpus.vocab_size


def test_no_document_is_on_both_sides(make):
    corpus = prepare(make())
    train, held_out = documents(corpus, "train"), documents(corpus, "validation")

    assert train
    assert held_out
    assert not {str(d) for d in train} & {str(d) for d in held_out}


def test_it_survives_being_written_as_yaml(make):
    from scalelab.config import parse_yaml

    config = make()

    assert DataConfig.parse(parse_yaml(config.to_yaml(), "x.yaml")) == config
