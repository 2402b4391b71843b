"""Every registered source obeys these, so a new source is tested by adding how to make one."""

import json
import sysconfig

import numpy as np
import pytest

from scalelab.data import SOURCES
from scalelab.data.base import DataConfig, SkippedDocuments
from scalelab.data.curate.file import CurationFile
from scalelab.data.curate.pipeline import curate
from scalelab.data.curate.publish import publish
from scalelab.errors import DataError
from scalelab.testing.sources import check_source


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


def make_tokens(directory, texts, monkeypatch):
    directory.mkdir(exist_ok=True)
    rows = [np.append(np.frombuffer(text.encode(), np.uint8), 256) for text in texts]
    np.save(directory / "rows.npy", np.concatenate(rows).astype(np.uint16))
    return {"kind": "tokens", "paths": [str(directory / "*.npy")], "vocab": 257, "end": 256}


def make_curated(directory, texts, monkeypatch):
    files(directory, texts, ".txt")
    stages = [{"kind": "extract", "extractor": "own", "min_characters": 1}]
    file = {"name": "curated", "source": {"kind": "files", "paths": [str(directory)]}, "stages": stages}
    publish(curate(CurationFile.model_validate(file), processes=1), directory.parent / "curated")
    return {"kind": "curated", "path": str(directory.parent / "curated")}


MAKE = {
    "tokens": make_tokens,
    "curated": make_curated,
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
        tokenizer = {} if request.param in ("synthetic", "tokens") else {"vocab_size": 300}
        return DataConfig(source=source, tokenizer=tokenizer, validation=0.2)

    return config


def test_every_source_can_be_made_here():
    assert set(MAKE) == set(SOURCES)


def test_it_conforms(make, tmp_path):
    check_source(make, tmp_path / "corpora")


def test_documents_of_chosen_domains_of_a_curated_corpus(tmp_path, monkeypatch):
    for domain in ("manual", "faq"):
        (tmp_path / "pages" / domain).mkdir(parents=True)
        (tmp_path / "pages" / domain / "a.txt").write_text(f"This is the text of the {domain}.")
    file = {
        "name": "curated",
        "source": {"kind": "files", "paths": [str(tmp_path / "pages")]},
        "stages": [
            {"kind": "extract", "extractor": "own", "min_characters": 1},
            {"kind": "domains", "rules": {"manual": ["*manual*"], "faq": ["*faq*"]}},
        ],
    }
    publish(curate(CurationFile.model_validate(file), processes=1), tmp_path / "curated")
    whole, one, other = (
        SOURCES["curated"](path=str(tmp_path / "curated"), domains=domains)
        for domains in ([], ["faq"], ["fag"])
    )

    assert len(list(whole.documents(SkippedDocuments()))) == 2
    assert [found.text for found in one.documents(SkippedDocuments())] == ["This is the text of the faq."]
    assert whole.fingerprint(str) != one.fingerprint(str)
    with pytest.raises(DataError, match="no document of the domain 'fag'; did you mean 'faq'"):
        list(other.documents(SkippedDocuments()))
