"""The mirror on a real SQLite store: complete, never doubled, rebuilt from whatever is left."""

import json
import re
import shutil
import sqlite3
from contextlib import nullcontext
from dataclasses import replace

import pytest

from scalelab.errors import TrackError
from scalelab.leases import hold
from scalelab.tracking.report_mirror import log_fit
from scalelab.tracking.store_errors import StoreRefused
from scalelab.tracking.sync import sync

T0 = 1_700_000_000_000
FIT = {
    "n_runs": 9,
    "param_count": "total",
    "laws": {"chinchilla": {"params": {"E": 1.7, "alpha": 0.34}, "exponents": {"a": 0.5}}},
    "forecast": {"flops": 1e14, "n_params": 1e6, "n_tokens": 2e7, "loss": 2.5, "verdict": "fair"},
}


def make_mixed(family):
    """A sweep with a run in every state; one was resumed, one diverged at NaN."""
    family.plan(6)
    family.train("run00", range(60))
    family.end("run00")
    family.train("run01", range(40))
    family.log("run01", "resume", 50, step=20)
    family.train("run01", range(20, 60), t=500)
    family.end("run01", t=2000, n_resumes=1)
    family.train("run02", range(5))
    family.log("run02", "step", 6, step=5, loss=float("nan"), lr=0.1, grad_norm=float("inf"))
    family.end("run02", "diverged", "the loss is not a number at step 5")
    family.train("run03", range(12))
    family.log("run03", "lost", 99, outcome="killed", reason="killed by signal 9")
    family.train("run04", range(12))
    family.log("run04", "interrupted", 12, step=11)
    return family


@pytest.fixture
def mixed(family):
    return make_mixed(family)


@pytest.fixture(scope="module")
def mirrored(tmp_path_factory, empty_mlflow, family_in):
    """The same, mirrored once, for tests that only look: (family, database, what sync said)."""
    root = tmp_path_factory.mktemp("mirrored")
    shutil.copy(empty_mlflow, root / "mlflow.db")
    family, db = family_in(root)
    make_mixed(family)
    return family, db, sync(root, "fam")


def expected(family):
    """The journals' rows, less those that are no number."""
    return {
        run: {row for row in rows if abs(row[3]) < float("inf")} for run, rows in family.expected().items()
    }


def test_every_row_of_every_journal_is_there_once(mirrored):
    mixed, db, told = mirrored

    assert told == "fam: 5 runs brought up to date"
    assert db.metrics() == expected(mixed)


def test_runs_end_as_their_directories_say(mirrored):
    _, db, _ = mirrored

    states = {k: (status, tags["scalelab.state"]) for k, (_, status, tags) in db.runs().items()}
    assert states == {
        "sweep:fam": ("KILLED", "interrupted"),
        "run00": ("FINISHED", "finished"),
        "run01": ("FINISHED", "finished"),
        "run02": ("FAILED", "diverged"),
        "run03": ("FAILED", "failed"),
        "run04": ("KILLED", "interrupted"),
    }


def test_values_that_are_no_numbers_become_tags(mirrored):
    _, db, _ = mirrored

    tags = db.runs()["run02"][2]
    assert tags["scalelab.nonfinite.train_loss"] == "nan at step 5"
    assert tags["scalelab.nonfinite.grad_norm"] == "inf at step 5"
    assert tags["scalelab.reason"] == "the loss is not a number at step 5"


def test_a_second_sync_changes_nothing(mixed, db):
    sync(mixed.root, "fam")
    before = db.metrics(), db.runs()

    told = sync(mixed.root, "fam")

    assert told == "fam: up to date"
    assert (db.metrics(), db.runs()) == before


def digit_changed(text):
    place = text.index('"offset": ') + len('"offset": ')
    return f"{text[:place]}{9 - int(text[place])}{text[place + 1 :]}"


def unsealed(text):
    return json.dumps({k: v for k, v in json.loads(text).items() if k not in ("seal", "schema")})


@pytest.mark.parametrize(
    "change",
    [None, lambda text: text[: len(text) // 2], digit_changed, unsealed],
    ids=["missing", "cut", "digit changed", "unsealed"],
)
def test_a_lost_or_damaged_state_costs_time_only(mixed, db, change):
    sync(mixed.root, "fam")
    before = db.metrics(), db.runs()

    path = mixed.root / "fam" / ".sync.json"
    path.unlink() if change is None else path.write_text(change(path.read_text()))
    told = sync(mixed.root, "fam")

    assert told == "fam: 5 runs brought up to date"
    assert (db.metrics(), db.runs()) == before


def test_a_damaged_line_of_a_log_is_skipped_and_counted(mixed, db):
    """Also over several passes."""
    log = mixed.dir("run03").log_path
    with open(log, "a") as file:
        file.write("\x00\n" + '{"t":1,"event":"step","step":2,"loss":9.0,"crc":"00000000"}\n')
    sync(mixed.root, "fam")
    assert db.runs()["run03"][2]["scalelab.log_lines_skipped"] == "2"

    with open(log, "a") as file:
        file.write("torn\n")
    mixed.log("run03", "step", 200, step=14, loss=1.0, lr=0.1, grad_norm=1.0)
    sync(mixed.root, "fam")

    assert db.runs()["run03"][2]["scalelab.log_lines_skipped"] == "3"
    assert ("train_loss", T0 + 200, 14, 1.0) in db.metrics()["run03"]
    assert "scalelab.log_lines_skipped" not in db.runs()["run00"][2]


def test_a_manifest_that_cannot_be_read_does_not_keep_the_other_sweeps_out(mixed, db):
    other = mixed.root / "other"
    other.mkdir()
    (other / "sweep.json").write_text("{")

    with pytest.raises(TrackError, match="1 names could not be mirrored; all others are") as error:
        sync(mixed.root, None)

    assert "name 'other' is not mirrored: sweep.json cannot be read" in error.value.where
    assert len(db.metrics()) == 5


@pytest.mark.parametrize("is_driven", [False, True])
def test_a_database_made_anew_is_filled_again(mixed, db, empty_mlflow, once, is_driven):
    """Also where the file system gives the new file the number of the old.

    While the sweep is driven nothing is checked against the store: then only the id of the
    parent tells one database from another.
    """
    sync(mixed.root, "fam")

    db.path.unlink()
    shutil.copy(empty_mlflow, db.path)
    lock = hold(mixed.root / "fam" / "lock", "taken", "wait")
    with lock if is_driven else nullcontext():
        assert once() == (0, "")

    assert db.metrics() == expected(mixed)


def test_what_a_resumed_run_says_again_is_mirrored_once(mixed, db):
    """Also when the syncer met the journal in two parts, on either side of the resume."""
    family = mixed
    log = family.dir("run01").log_path
    whole, result = log.read_bytes(), family.dir("run01").result_path.read_bytes()
    cut = whole.index(b'"resume"')
    log.write_bytes(whole[:cut])
    family.dir("run01").result_path.unlink()
    sync(family.root, "fam")

    log.write_bytes(whole)
    family.dir("run01").result_path.write_bytes(result)
    sync(family.root, "fam")

    assert db.metrics()["run01"] == expected(family)["run01"]


def test_a_torn_last_line_waits_until_it_is_whole(family, db):
    family.plan(1)
    family.train("run00", range(3))
    log = family.dir("run00").log_path
    whole = log.read_bytes()
    log.write_bytes(whole[:-9])

    sync(family.root, "fam")
    assert max(step for _, _, step, _ in db.metrics()["run00"]) == 1

    log.write_bytes(whole)
    sync(family.root, "fam")
    assert db.metrics() == expected(family)


def test_children_hang_below_the_sweep_and_carry_their_spec(mirrored):
    _, db, _ = mirrored

    runs = db.runs()
    parents = {tags.get("mlflow.parentRunId") for key, (_, _, tags) in runs.items() if key[0] == "r"}
    assert parents == {runs["sweep:fam"][0]}
    assert db.params("run00") == {
        "model.kind": "transformer",
        "model.n_layers": "2",
        "batch_tokens": "256",
        "n_steps": "60",
        "seed": "0",
        "flops_6nd": "960000000000.0",
        "flops_per_token": "625000.0",
        "n_params_total": "100000",
        "n_params_non_embedding": "60000",
        "n_params_matmul": "80000",
        "n_params_active": "100000",
        "n_tokens_unique": "1600000",
    }
    tags = runs["run00"][2]
    assert tags["scalelab.flops_planned"] == "1000000000000.0"
    assert tags["scalelab.data_digest"] == "d1"


def test_the_spec_and_the_result_are_artifacts(mirrored):
    family, _, _ = mirrored

    kept = {p.name for p in (family.root / "mlflow-artifacts").rglob("*") if p.is_file()}
    assert kept == {"spec.yaml", "result.json"}


def test_the_parent_says_the_question_and_what_came_of_each_run(mirrored):
    _, db, _ = mirrored

    words = db.runs()["sweep:fam"][2]["mlflow.note.content"]
    assert words.startswith("**What is best?**\n\nExpected: the middle")
    assert "| 1e12 | 100k | 1.6M | 0 | 3.0000 | run00 |" in words
    assert "| 1e12 | 100k | 1.6M | 0 | diverged | run02 |" in words


def test_the_parent_of_a_large_family_says_how_many_it_leaves_out(family, db):
    family.plan(200)
    family.train("run00", range(1))
    sync(family.root, "fam")

    words = db.runs()["sweep:fam"][2]["mlflow.note.content"]
    shown = len(re.findall(r"run\d+ \|", words))
    assert len(words) < 8000
    assert words.endswith(f"and {200 - shown} more, each a run below")


def test_a_finished_family_is_finished(family, db):
    family.plan(2)
    for run in ("run00", "run01"):
        family.train(run, range(60))
        family.end(run)
    sync(family.root, "fam")

    assert {status for _, status, _ in db.runs().values()} == {"FINISHED"}
    ends = {end for (end,) in db.ask("select end_time from runs where lifecycle_stage='active'")}
    assert ends == {T0 + 1000}


def test_losses_of_domains_are_mirrored_beside_the_loss(family, db):
    family.plan(2)
    for run in ("run00", "run01"):
        family.train(run, range(60))
    family.end("run00", domain_losses={"web": 3.25, "python3.11-doc": 2.5})
    family.end("run01")
    sync(family.root, "fam")
    sync(family.root, "fam")

    rows = db.metrics()
    of_domains = {row for row in rows["run00"] if row[0].startswith("domain_loss/")}
    assert of_domains == {
        ("domain_loss/web", T0 + 1000, 60, 3.25),
        ("domain_loss/python3.11-doc", T0 + 1000, 60, 2.5),
    }
    assert not any(row[0].startswith("domain_loss/") for row in rows["run01"])


def test_a_run_that_goes_on_after_a_sync_ends_well(mixed, db):
    sync(mixed.root, "fam")

    mixed.train("run04", range(12, 60), t=100)
    mixed.end("run04")
    sync(mixed.root, "fam")

    assert db.runs()["run04"][1] == "FINISHED"
    assert db.metrics() == expected(mixed)


def test_a_run_trained_by_another_sweep_is_mirrored_there_only(mixed, another_family, db):
    second = another_family("second")
    second.plan(1, prefix="own")
    second.planned.append(mixed.planned[0])
    second.write()
    second.train("own00", range(3))

    sync(mixed.root, None)

    tags = db.runs()["sweep:second"][2]
    assert "| 3.0000 | run00 (of fam) |" in tags["mlflow.note.content"]
    assert db.ask("select count(*) from tags where key='scalelab.key' and value='run00'") == [(1,)]


def test_a_run_whose_sweep_no_longer_lists_it_is_mirrored_where_it_is_listed(mixed, another_family, db):
    second = another_family("second")
    second.planned.append(mixed.planned.pop(0))
    mixed.write()
    second.write()
    (mixed.root / "second").mkdir(exist_ok=True)

    sync(mixed.root, None)

    assert db.runs()["run00"][2]["scalelab.sweep"] == "second"


def test_another_plan_for_the_same_run_is_no_conflict(mixed, db):
    """A budget is not part of a run, so a later plan may say another one."""
    sync(mixed.root, "fam")
    mixed.planned[0] = replace(mixed.planned[0], flops_planned=2e12)
    mixed.write(param_count="matmul")
    (mixed.root / "fam" / ".sync.json").unlink()

    sync(mixed.root, "fam")

    assert db.runs()["run00"][2]["scalelab.flops_planned"] == "2000000000000.0"
    assert db.runs()["sweep:fam"][2]["scalelab.param_count"] == "matmul"


def test_a_run_trained_again_from_nothing_replaces_the_first(mixed, db):
    sync(mixed.root, "fam")
    shutil.rmtree(mixed.dir("run00").path)
    mixed.dir("run00").path.mkdir()
    mixed.dir("run00").spec_path.write_text("n_steps: 60\n")
    mixed.train("run00", range(60), t=7000)
    mixed.end("run00", t=9000)

    sync(mixed.root, "fam")

    assert db.metrics() == expected(mixed)


def test_a_result_without_its_journal_is_mirrored(mixed, db):
    mixed.dir("run00").log_path.unlink()

    sync(mixed.root, "fam")

    rows = {name: value for name, _, _, value in db.metrics()["run00"]}
    assert (rows["loss"], rows["flops"]) == (3.0, 1e12)


@pytest.mark.parametrize(("key", "start"), [("run00", T0), ("sweep:fam", 5)])
def test_a_double_made_by_a_late_server_is_removed(mixed, db, key, start):
    """The server answered too late, we made the run again, then it finished the first call."""
    from mlflow.tracking import MlflowClient

    sync(mixed.root, "fam")
    client = MlflowClient(f"sqlite:///{db.path}")
    experiment = client.get_experiment_by_name("fam").experiment_id
    for _ in range(3):
        client.create_run(experiment, start_time=start, tags={"scalelab.key": key})

    sync(mixed.root, "fam")

    assert db.metrics() == expected(mixed)
    assert db.runs()["sweep:fam"][2]["scalelab.digest"] == "abc"
    assert db.runs()["run00"][1] == "FINISHED"


@pytest.mark.parametrize("keys", [["run00"], ["sweep:fam", "run04"]])
def test_runs_deleted_by_hand_come_back(mixed, db, keys):
    from mlflow.tracking import MlflowClient

    sync(mixed.root, "fam")
    runs, client = db.runs(), MlflowClient(f"sqlite:///{db.path}")
    for key in keys:
        client.delete_run(runs[key][0])
    mixed.train("run04", range(12, 20), t=100)

    sync(mixed.root, "fam")

    runs = db.runs()
    parents = {tags["mlflow.parentRunId"] for key, (_, _, tags) in runs.items() if key[0] == "r"}
    assert db.metrics() == expected(mixed)
    assert parents == {runs["sweep:fam"][0]}


def test_one_broken_run_does_not_keep_the_others_out(mixed, db):
    mixed.dir("run00").result_path.write_text("{")
    mixed.dir("run03").spec_path.unlink()

    with pytest.raises(TrackError) as error:
        sync(mixed.root, "fam")

    assert "2 runs could not be mirrored; all others are" in str(error.value)
    assert "run run00 is not mirrored: result.json cannot be read" in str(error.value)
    assert "run run03 is not mirrored: spec.yaml cannot be read" in str(error.value)
    assert set(db.metrics()) == {"run01", "run02", "run04"}


def test_a_param_that_stands_with_another_value_is_told_and_left(mixed, db):
    sync(mixed.root, "fam")
    mixed.dir("run00").spec_path.write_text("n_steps: 61\n")
    (mixed.root / "fam" / ".sync.json").unlink()

    with pytest.raises(TrackError, match="run run00 is not mirrored: MLflow refused it"):
        sync(mixed.root, "fam")

    assert db.params("run00")["n_steps"] == "60"


def test_there_is_no_such_sweep(mixed):
    with pytest.raises(TrackError, match="there is no sweep 'fan'") as error:
        sync(mixed.root, "fan")

    assert "which holds: fam" in error.value.where


def test_nothing_to_mirror_is_no_error(tmp_path):
    assert sync(tmp_path, None) == f"no sweeps in {tmp_path}: nothing to mirror"


def test_a_fit_is_one_run_however_often_it_is_told(mixed, db, tmp_path):
    out = tmp_path / "report"
    out.mkdir()
    (out / "fit.json").write_text(json.dumps(FIT))
    (out / "frontier.png").write_bytes(b"png")
    first = log_fit(mixed.root, "fam", out, FIT)
    (out / "fit.json").write_text(json.dumps(FIT))

    assert log_fit(mixed.root, "fam", out, FIT) == first
    rows = db.ask("select key, value from metrics where run_uuid = ? order by key", first)
    assert rows == [
        ("forecast.flops", 1e14),
        ("forecast.loss", 2.5),
        ("forecast.n_params", 1e6),
        ("forecast.n_tokens", 2e7),
    ]
    params = dict(db.ask("select key, value from params where run_uuid = ?", first))
    assert params["chinchilla.E"] == "1.7"
    assert params["chinchilla.a"] == "0.5"
    kept = {p.name for p in (mixed.root / "mlflow-artifacts").rglob("*") if p.is_file()}
    assert {"fit.json", "frontier.png"} <= kept
    assert log_fit(mixed.root, "fam", out, FIT | {"n_runs": 10}) != first


def test_refused_and_down_are_told_apart(root):
    from scalelab.tracking.store_access import open_store

    with pytest.raises(StoreRefused, match="not found"):
        open_store(root).log("f" * 32, tags={"a": "b"})


def test_a_database_whose_maker_ended_half_way_is_made_anew(tmp_path, monkeypatch):
    from scalelab.tracking import mlflow_store
    from scalelab.tracking.store_access import open_store

    class Ends:
        """A client that has made one table when its process ends."""

        def __init__(self, uri):
            with sqlite3.connect(uri.removeprefix("sqlite:///")) as db:
                db.execute("create table experiments (one integer)")
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(mlflow_store, "MlflowClient", Ends)
        with pytest.raises(KeyboardInterrupt):
            open_store(tmp_path)

    assert open_store(tmp_path).experiment("x")
    assert not list(tmp_path.glob(".*.partial"))
