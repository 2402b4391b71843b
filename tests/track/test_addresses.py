"""Addresses of stores: built from any path, free of secrets in any text, and answered when wrong."""

import errno
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
import time

import pytest

from scalelab.errors import RunError, TrackError
from scalelab.files import RESERVED, place_of
from scalelab.leases import claim
from scalelab.tracking import store_access
from scalelab.tracking import sync as sync_module
from scalelab.tracking.mlflow_store import Store, make_store
from scalelab.tracking.redaction import redact
from scalelab.tracking.store_access import open_store
from scalelab.tracking.store_errors import StoreDown
from scalelab.tracking.store_uri import for_mlflow, sqlite_path, sqlite_uri, tracking_uri
from scalelab.tracking.sync import sync

ODD = ["ques?x=1", "pct%20q", "a#b", "a b&c", "é;", "100%", "uri=true"]


def entries(path):
    return sorted(entry.name for entry in path.iterdir())


@pytest.mark.parametrize("name", ODD)
def test_every_path_comes_back_from_its_address(tmp_path, name):
    path = tmp_path / name / "mlflow.db"

    assert sqlite_path(sqlite_uri(path)) == path
    assert sqlite_path(for_mlflow(sqlite_uri(path))) == path


@pytest.mark.parametrize("name", ["ques?x=1", "pct%20q"])
def test_the_database_and_the_artifacts_stay_with_the_runs(
    tmp_path, empty_mlflow, family_in, monkeypatch, name
):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    root = tmp_path / name / "runs"
    root.mkdir(parents=True)
    shutil.copy(empty_mlflow, root / "mlflow.db")
    family, _ = family_in(root)
    family.plan(1)
    family.train("run00", range(3))
    family.end("run00")

    assert sync(root, "fam") == "fam: 1 run brought up to date"

    assert entries(tmp_path) == [name]
    assert entries(tmp_path / name) == ["runs"]
    assert len(list(root.glob("mlflow-artifacts/fam/*/artifacts/result.json"))) == 1
    with sqlite3.connect(root / "mlflow.db") as rows:
        assert rows.execute("select count(*) from runs").fetchone() == (2,)


def test_a_missing_database_is_made_in_its_place(tmp_path, monkeypatch, empty_mlflow):
    """Also where a killed writer left a journal, which SQLite would apply to the new file."""
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "q?x"
    root.mkdir()
    (root / "mlflow.db-journal").write_bytes(b"left behind")

    make_store(sqlite_uri(root / "mlflow.db"))

    assert entries(tmp_path) == ["q?x"]
    assert entries(root) == ["mlflow.db"]


def test_a_directory_that_is_no_text_is_refused(tmp_path):
    with pytest.raises(TrackError, match="cannot be addressed") as error:
        tracking_uri(tmp_path / "a\udcff")

    str(error.value).encode()


SECRET = "s3cret/@x"
WRONG = {
    "postgresql://ann:PW@127.0.0.1:9/db": ("the database driver psycopg", "pip install 'psycopg"),
    "postgres://ann:PW@h/db": ("does not know the scheme 'postgres'", "MLFLOW_TRACKING_URI"),
    "http://ann:PW@[bad": ("is not an address: ", "MLFLOW_TRACKING_URI"),
    "postgresql://ann:PW@h:port/db": ("is not an address: ", "MLFLOW_TRACKING_URI"),
    "http://ann:PW/more@h/": ("is not an address: its port is not a number", "MLFLOW_TRACKING_URI"),
    "sqlite://": ("a database in memory", "MLFLOW_TRACKING_URI"),
    "./mlruns": ("a directory", "MLFLOW_TRACKING_URI"),
    "file:///x/mlruns": ("a directory", "MLFLOW_TRACKING_URI"),
    "http://ann:PW@127.0.0.1:9": ("API request to http://***@127.0.0.1:9", "nothing is lost"),
}


@pytest.mark.parametrize("uri", WRONG)
def test_a_wrong_address_is_answered_at_once_and_without_its_password(family, monkeypatch, uri):
    monkeypatch.setattr(sync_module, "SYNC_PATIENCE_S", 0.0)
    monkeypatch.chdir(family.root)
    monkeypatch.setitem(sys.modules, "psycopg", None)
    monkeypatch.setitem(sys.modules, "psycopg2", None)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri.replace("PW", "s3cret"))
    family.plan(1)
    before, began = entries(family.root), time.monotonic()

    with pytest.raises(TrackError) as error:
        sync(family.root, "fam")

    problem, fix = WRONG[uri]
    assert time.monotonic() - began < 10
    assert problem in error.value.problem
    assert fix in error.value.fix
    assert "s3" not in str(error.value)
    assert {name for name in entries(family.root) if name[0] != "."} == {n for n in before if n[0] != "."}


def test_secrets_leave_every_text(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"postgresql://ann:{SECRET}@host/db?sslpassword=hush")
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "t0ken")
    texts = [
        f"login with {SECRET} failed",
        "quoted: s3cret%2F%40x and s3cret%2F@x",
        "postgresql+psycopg2://bob:other@host/db",
        "dsn: host=h password=another user=u",
        "https://h/?token=abc&x=1",
        "https://h/?token=ab%20cd&x=1 and token%3Dab%26x%3D1",
        "Bearer t0ken, hush",
    ]

    shown = [redact(text) for text in texts]

    assert shown == [
        "login with *** failed",
        "quoted: *** and s3cret%2F@x",
        "postgresql+psycopg2://***@host/db",
        "dsn: host=h password=*** user=u",
        "https://h/?token=***&x=1",
        "https://h/?token=***&x=1 and token%3D***%26x%3D1",
        "Bearer ***, ***",
    ]


@pytest.mark.parametrize("name", RESERVED)
def test_what_lies_among_the_runs_is_no_name(tmp_path, name):
    with pytest.raises(RunError, match=f"'{name}' cannot be the name") as error:
        place_of(tmp_path, name)

    assert error.value.fix == "choose another name"
    assert not entries(tmp_path)


def test_a_damaged_database_can_be_deleted_and_nothing_is_lost(family, db, once):
    family.plan(2)
    family.train("run00", range(30))
    family.end("run00")
    sync(family.root, "fam")
    before = db.metrics()
    data = bytearray(db.path.read_bytes())
    data[4096:] = b"x" * (len(data) - 4096)
    db.path.write_bytes(data)

    code, told = once("--patience", "100")

    error = told[told.index("error: MLflow's database failed: ") :].splitlines()
    assert code == 3
    assert "database disk image is malformed" in error[0]
    assert error[1] == f"  where: {db.path}"
    assert f"delete {db.path} and run `scalelab sync`" in error[2]
    db.path.unlink()
    assert once() == (0, "")
    assert db.metrics() == before


@pytest.mark.parametrize("damage", [b"x" * 8192, b"SQLite format 3\0" + b"x" * 8192])
def test_a_file_that_is_no_database_is_answered_at_once(family, db, damage):
    family.plan(1)
    db.path.write_bytes(damage)
    began = time.monotonic()

    with pytest.raises(TrackError, match="file is not a database") as error:
        sync(family.root, "fam")

    assert time.monotonic() - began < sync_module.SYNC_PATIENCE_S  # it is not tried again
    assert f"delete {db.path} and run `scalelab sync`" in error.value.fix


def test_a_deleted_experiment_is_restored_and_reported(family, db):
    from mlflow.tracking import MlflowClient

    family.plan(1)
    family.train("run00", range(30))
    sync(family.root, "fam")
    client = MlflowClient(sqlite_uri(db.path))
    client.delete_experiment(client.get_experiment_by_name("fam").experiment_id)

    told = sync(family.root, "fam")

    assert told == "fam: up to date (the experiment had been deleted in MLflow and was restored)"
    assert db.metrics() == family.expected()
    assert sync(family.root, "fam") == "fam: up to date"


def test_two_at_once_mirror_everything_once(family, db, start):
    for run in family.plan(3):
        family.train(run, range(20))
        family.end(run)
    processes = [start("--once", stderr=subprocess.PIPE) for _ in range(2)]
    told = [process.communicate(timeout=300)[1] for process in processes]

    assert [process.returncode for process in processes] == [0] * 2, told
    assert db.metrics() == family.expected()


def test_another_writer_is_waited_for_longer_than_a_store_that_is_down(family, db, monkeypatch, capsys):
    monkeypatch.setattr(sync_module, "SYNC_PATIENCE_S", 0.0)
    monkeypatch.setattr(store_access, "SILENT_WAIT_S", 0.1)
    family.plan(1)
    family.train("run00", range(3))
    lease = claim(family.root, ".sync", 600)
    threading.Timer(0.5, lease.release).start()

    assert sync(family.root, "fam") == "fam: 1 run brought up to date"
    assert capsys.readouterr().err.startswith("waiting: another process is writing to the mirror: process ")


def test_the_tag_of_the_view_is_set_where_nobody_chose_another(root):
    store = open_store(root)
    for value, expected in ((None, "custom_model_development"), ("finetuning", "finetuning")):
        name = f"made-{value}"
        number = store._client.create_experiment(name, tags={"mlflow.experimentKind": value} if value else {})
        store.experiment(name)
        assert store._client.get_experiment(number).tags["mlflow.experimentKind"] == expected


def test_a_database_that_cannot_be_seen_is_neither_made_again_nor_gone(root, monkeypatch):
    database = root / "mlflow.db"
    make_store(sqlite_uri(database))
    before, ask = database.read_bytes(), os.stat
    store = Store(sqlite_uri(database), None)

    def stale(path, *rest, **named):
        if os.fspath(path) == str(database):
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), path)
        return ask(path, *rest, **named)

    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", stale)
        with pytest.raises(StoreDown, match="Stale file handle"):
            make_store(sqlite_uri(database))
        assert not store.is_gone
    assert database.read_bytes() == before
    database.unlink()
    assert store.is_gone
