"""The Hub as far as it can be reached here.

A directory in its layout, a server that answers as its API does, and no answer at all.
"""

import json
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest

from scalelab.data.base import DataConfig, SkippedDocuments
from scalelab.data.corpus.shards import prepare
from scalelab.data.hashing import sha256
from scalelab.data.sources.hub import HubDataset
from scalelab.errors import DataError

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def directory(tmp_path, prose, jsonl, monkeypatch):
    """A data set in the Hub's layout, 30 rows of which one is empty."""
    pytest.importorskip("datasets")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "hf"))
    (tmp_path / "set").mkdir()
    jsonl(tmp_path / "set" / "train.jsonl", [*prose(29), ""])
    return str(tmp_path / "set")


@pytest.fixture
def server(monkeypatch):
    """A Hub that knows me/set, at main and at the tag v1."""
    asked = []
    commits = {"/api/datasets/me/set": "a" * 40, "/api/datasets/me/set/revision/v1": "b" * 40}

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(503 if "busy" in self.path else 200 if self.path in commits else 404)
            self.end_headers()
            self.wfile.write(json.dumps({"sha": commits.get(self.path)}).encode())

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Answer) as http:
        thread = Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{http.server_port}")
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        yield asked
        http.shutdown()
        thread.join()


def test_a_directory_in_the_hubs_layout_is_read(directory, prose):
    skips = SkippedDocuments()

    texts = [document.text for document in HubDataset(name=directory).documents(skips)]

    assert texts == prose(29)
    assert skips.to_dict() == {"empty": {"count": 1, "examples": ["train:30"]}}


def test_it_goes_all_the_way_to_a_corpus(directory):
    config = DataConfig(source=HubDataset(name=directory), tokenizer={"vocab_size": 300}, validation=0.2)

    assert prepare(config).n_train > 1000


def test_only_so_many_rows_are_read(directory, prose):
    texts = [d.text for d in HubDataset(name=directory, max_documents=3).documents(SkippedDocuments())]

    assert texts == prose(29)[:3]


def test_a_missing_column_is_refused_with_those_there_are(directory):
    with pytest.raises(DataError, match="no field 'body'") as refused:
        list(HubDataset(name=directory, field="body").documents(SkippedDocuments()))

    assert "there are: text" in str(refused.value)


@pytest.mark.parametrize("change", [{"split": "nope"}, {"config": "nope"}])
def test_what_the_data_set_does_not_have_is_refused(directory, change):
    with pytest.raises(DataError, match=r"cannot read the data set .*nope"):
        list(HubDataset(name=directory, **change).documents(SkippedDocuments()))


def test_a_name_stands_for_the_commit_of_today(server):
    newest, tagged = (HubDataset(name="me/set", revision=r).fingerprint(sha256) for r in (None, "v1"))

    assert newest != tagged
    assert server == ["/api/datasets/me/set", "/api/datasets/me/set/revision/v1"]


def test_a_whole_commit_asks_nobody(server):
    one, other = (HubDataset(name="me/set", revision=COMMIT, split=s) for s in ("train", "test"))

    assert one.fingerprint(sha256) != other.fingerprint(sha256)
    assert server == []


@pytest.mark.usefixtures("server")
def test_a_data_set_that_the_hub_does_not_know_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text("never read: the Hub did answer")

    with pytest.raises(DataError, match="has no data set me/typo that you may read") as refused:
        HubDataset(name="me/typo", local=[str(tmp_path / "a.txt")]).fingerprint(sha256)

    assert "HF_TOKEN" in str(refused.value)


def test_without_an_answer_and_without_files_it_is_refused():
    with pytest.raises(DataError, match="the Hub cannot be reached") as refused:
        HubDataset(name="me/set").fingerprint(sha256)

    assert "where: http://127.0.0.1:9" in str(refused.value)
    assert "local: [...]" in str(refused.value)


@pytest.mark.parametrize("name", ["me/set", "me/busy"])
def test_without_an_answer_the_files_that_lie_here_are_read(tmp_path, jsonl, prose, name, request):
    if name == "me/busy":
        request.getfixturevalue("server")
    path = jsonl(tmp_path / "a.jsonl", prose(5))
    source = HubDataset(name=name, local=[str(path)], max_documents=4)
    before = source.fingerprint(sha256)

    assert [d.text for d in source.documents(SkippedDocuments())] == prose(4)
    jsonl(path, prose(6))
    assert source.fingerprint(sha256) != before


def test_offline_by_request_is_no_answer(server, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    with pytest.raises(DataError, match="the Hub cannot be reached"):
        HubDataset(name="me/set").fingerprint(sha256)
    assert server == []


def test_the_missing_package_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)

    with pytest.raises(DataError, match="needs the package datasets") as refused:
        list(HubDataset(name="me/set", revision=COMMIT).documents(SkippedDocuments()))

    assert "pip install 'scalelab[hub]'" in str(refused.value)
