"""What MLflow's page shows: axes, constants, the forecast on the sweep's run, links, data and models."""

import hashlib
import json
import shutil
import sqlite3

import pytest

from scalelab.errors import TrackError
from scalelab.records.stage_manifest import StageManifest
from scalelab.records.sweep_manifest import SweepManifest
from scalelab.tracking import report_mirror, store_access
from scalelab.tracking.artifact_home import ArtifactHome
from scalelab.tracking.report_mirror import log_evaluation, log_fit, record_plan
from scalelab.tracking.store_access import open_store
from scalelab.tracking.store_uri import sqlite_uri
from scalelab.tracking.sync import sync

T0 = 1_700_000_000_000
FLOPS_PER_TOKEN = 1e12 / 1_600_000
SPEC = "model: {kind: transformer, n_layers: 2}\ndata: {source: {kind: text, paths: [a.txt]}}\nn_steps: 60\n"
FIT = {
    "n_runs": 9,
    "param_count": "total",
    "laws": {"chinchilla": {"params": {"E": 1.7}, "exponents": {"a": 0.5}}},
    "forecast": {
        "flops": 1e14,
        "n_params": 1e6,
        "n_tokens": 2e7,
        "loss": 2.5,
        "verdict": "rely on it",
        "grade": "rely",
    },
}


def make_scaling(family):
    """Two finished runs with tokens in their journals, one that diverged and one that has not begun."""
    for run in family.plan(4):
        family.dir(run).spec_path.write_text(SPEC)
    for i, run in enumerate(("run00", "run01")):
        for step in range(1, 61):
            values = {"lr": 0.1, "grad_norm": 1.0, "loss": 5 / step, "n_tokens": 26_666 * step}
            family.log(run, "step", step, step=step, **values)
        family.log(run, "eval", 61, step=60, loss=3.0 - i, bpb=1.5, n_tokens=1_600_000)
        family.end(run, t=1000 * (i + 1), loss=3.0 - i)
    family.log("run02", "step", 1, step=1, loss=9.0, lr=0.1, grad_norm=1.0, n_tokens=26_666)
    family.end("run02", "diverged", "the loss is not a number", t=5000, flops=2e10, loss=None, bpb=None)
    return family


@pytest.fixture
def report(tmp_path):
    out = tmp_path / "report"
    out.mkdir()
    (out / "valleys.png").write_bytes(b"valleys")
    (out / "fit.json").write_text(json.dumps(FIT))
    return out


@pytest.fixture(scope="module")
def shown(tmp_path_factory, empty_mlflow, family_in):
    """A sweep, its fit and its plan, mirrored: (family, database)."""
    root = tmp_path_factory.mktemp("shown")
    shutil.copy(empty_mlflow, root / "mlflow.db")
    family, db = family_in(root)
    make_scaling(family)
    out = tmp_path_factory.mktemp("report")
    (out / "valleys.png").write_bytes(b"valleys")
    log_fit(root, "fam", out, FIT)
    record_plan(root, "fam", out, "fam-1e14", {"plan.loss": 2.5, "plan.days": None}, "train it")
    sync(root, None)
    return family, db


def metrics(db, key):
    run = db.runs()[key][0]
    rows = db.ask("select key, step, value from metrics where run_uuid = ? order by key, step", run)
    found = {}
    for name, step, value in rows:
        found.setdefault(name, []).append((step, value))
    return found


def test_every_step_has_its_tokens_and_flops(shown):
    found = metrics(shown[1], "run00")

    assert [step for step, _ in found["n_tokens"]] == [step for step, _ in found["train_loss"]]
    assert found["n_tokens"][9] == (10, 266_660)
    assert found["flops"][9][1] == pytest.approx(FLOPS_PER_TOKEN * 266_660, rel=1e-12)
    assert found["n_tokens"][-1][0] == found["flops"][-1][0] == 60


def test_constants_are_params_and_timings_are_on_the_page_of_the_system(shown):
    _, db = shown
    found = metrics(db, "run00")

    assert {name for name, rows in found.items() if len(rows) == 1} == {
        "val_loss",
        "loss",
        "bpb",
        "system/train_s",
        "system/eval_s",
        "system/mean_tokens_per_s",
    }
    assert db.params("run00")["n_params_total"] == "100000"
    assert db.params("run00")["flops_per_token"] == "625000.0"


def test_the_run_of_the_sweep_has_its_best_loss_and_forecast(shown):
    family, db = shown
    found, tags = metrics(db, "sweep:fam"), db.runs()["sweep:fam"][2]

    assert found["best_loss"] == [(1, 3.0), (2, 2.0), (3, 2.0)]
    assert found["flops"] == [(1, 1e12), (2, 2e12), (3, 2.02e12)]
    assert [found[f"forecast.{name}"][0][1] for name in ("n_params", "n_tokens", "loss")] == [1e6, 2e7, 2.5]
    assert tags["scalelab.verdict"] == "rely"
    parent = db.runs()["sweep:fam"][0]
    figure = family.root / "mlflow-artifacts" / "fam" / parent / "artifacts" / "valleys.png"
    assert figure.read_bytes() == b"valleys"


def test_the_description_has_forecast_figure_and_links(shown):
    _, db = shown
    runs = db.runs()
    words = runs["sweep:fam"][2]["mlflow.note.content"]
    fit = next(run for key, (run, _, _) in runs.items() if key.startswith("fit:"))
    plan = runs["plan:fam-1e14"][0]

    assert words.startswith(
        "**What is best?**\n\nExpected: the middle\n\n**Forecast at 1e14 FLOPs: N\\* 1M, D\\* 20M"
    )
    assert f"loss 2.5000 nats/token: rely** ([the newest fit](#/experiments/1/runs/{fit}?" in words
    assert f"![valleys](get-artifact?path=valleys.png&run_uuid={runs['sweep:fam'][0]})" in words
    assert f"[plan](#/experiments/1/runs/{plan}?workflowType=machine_learning)" in words
    assert "viewStateShareKey=n_tokens" in words
    assert "| 1e12 | 100k | 1.6M | 0 | 2.0000 | run01 |" in words
    assert runs["plan:fam-1e14"][2]["scalelab.sweep"] == "fam"


def test_the_views_are_on_the_experiment(shown):
    rows = dict(shown[1].ask("select key, value from experiment_tags"))

    assert rows["mlflow.experimentKind"] == "custom_model_development"
    for metric in ("n_tokens", "flops"):
        view = json.loads(rows[f"mlflow.sharedViewState.{metric}"])
        assert len(json.dumps(view)) < 5000
        assert [chart["selectedXAxisMetricKey"] for chart in view["compareRunCharts"][:2]] == [metric] * 2


def test_data_and_models_are_objects_of_mlflow(shown):
    family, db = shown
    data = db.ask("select * from datasets")
    models = db.ask("select name, source_run_id, status from logged_models")
    losses = db.ask(
        "select metric_name, metric_value, dataset_digest from logged_model_metrics order by 1, 2"
    )

    assert len(data) == 1
    assert any("a.txt" in str(value) for value in data[0])
    assert sorted(run for _, run, _ in models) == sorted(db.runs()[key][0] for key in ("run00", "run01"))
    assert [row for row in losses if row[0] == "loss"] == [("loss", 2.0, "d1"), ("loss", 3.0, "d1")]
    kept = {path.suffix for path in (family.root / "mlflow-artifacts").rglob("*") if path.is_file()}
    assert ".safetensors" not in kept


def test_what_is_sent_again_is_there_once(family, db, report):
    make_scaling(family)
    log_fit(family.root, "fam", report, FIT)
    counts = (
        "select (select count(*) from metrics), (select count(*) from logged_models), "
        "(select count(*) from inputs), (select count(*) from runs), (select count(*) from params)"
    )
    sync(family.root, None)
    before = db.ask(counts)

    (family.root / "fam" / ".sync.json").unlink()
    sync(family.root, None)

    assert db.ask(counts) == before


def test_a_report_that_mlflow_did_not_accept_is_sent_by_sync(family, db, report, monkeypatch):
    """Its files too, where they are as they were; also into a database made anew."""
    monkeypatch.setattr(report_mirror, "FIT_PATIENCE_S", 0.0)
    make_scaling(family)
    with monkeypatch.context() as away:
        away.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
        for log in (
            lambda: log_fit(family.root, "fam", report, FIT),
            lambda: log_evaluation(family.root, "judged", report, "eval:1", {"a.accuracy": 0.5}, "fine"),
        ):
            with pytest.raises(TrackError, match="MLflow's store failed"):
                log()
    (report / "fit.json").write_text("of another fit")

    told = sync(family.root, None)

    runs = {
        tags["scalelab.kind"]: (run, tags) for run, _, tags in db.runs().values() if "scalelab.kind" in tags
    }
    assert told == "fam: 3 runs brought up to date\njudged: 1 report brought up to date"
    assert set(runs) == {"fit", "evaluation"}
    place = family.root / "mlflow-artifacts" / "fam" / runs["fit"][0] / "artifacts"
    assert [path.name for path in place.iterdir()] == ["valleys.png"]
    assert db.ask("select value from metrics where key = 'a.accuracy'") == [(0.5,)]
    assert sync(family.root, "judged") == "judged: up to date"


def test_sweep_final_run_and_post_training_name_one_another(family, another_family, db):
    make_scaling(family)
    final = another_family("fam-1e14")
    final.plan(1, prefix="final")
    final.write(source="fam")
    StageManifest(
        name="chat",
        digest="abc",
        question="",
        prediction="",
        config_yaml="",
        base={"path": str(family.root / "fam-1e14" / "final00"), "run": "final00"},
        created_ms=T0,
        stages=(),
    ).write(family.root)

    sync(family.root, None)
    sync(family.root, None)  # now each has the others to link to

    tags = {key: tags for key, (_, _, tags) in db.runs().items()}
    assert tags["sweep:fam"]["scalelab.to_final"] == "fam-1e14"
    assert tags["sweep:fam-1e14"]["scalelab.from_sweep"] == "fam"
    assert tags["sweep:fam-1e14"]["scalelab.to_posttrain"] == "chat"
    assert tags["posttrain:chat"]["scalelab.from_sweep"] == "fam-1e14"
    ids = dict(db.ask("select name, experiment_id from experiments"))
    page = "(#/experiments/{}/runs?workflowType=machine_learning)"
    for key, line in {
        "sweep:fam": f"Led to the final run [fam-1e14]{page.format(ids['fam-1e14'])}.",
        "sweep:fam-1e14": f"From the sweep [fam]{page.format(ids['fam'])}.",
        "posttrain:chat": f"From the sweep [fam-1e14]{page.format(ids['fam-1e14'])}.",
    }.items():
        assert line in tags[key]["mlflow.note.content"]


def test_a_manifest_from_before_names_no_source(family):
    family.plan(1)
    path = family.root / "fam" / "sweep.json"
    record = json.loads(path.read_text())
    assert record.pop("source") is None

    assert SweepManifest.load(family.root, "fam").source is None


def test_artifacts_move_with_the_runs(family, db, tmp_path, monkeypatch):
    """Also those of an experiment whose location was absolute, and the project with its database."""
    make_scaling(family)
    sync(family.root, "fam")
    old = (family.root / "mlflow-artifacts" / "fam").as_uri()
    places = (
        "select artifact_location from experiments union select artifact_uri from runs "
        "union select artifact_location from logged_models"
    )
    assert all(place.startswith("mlflow-artifacts:/fam") for (place,) in db.ask(places) if "fam" in place)
    with sqlite3.connect(db.path) as rows:
        for table, column in (("experiments", "artifact_location"), ("runs", "artifact_uri")):
            rows.execute(
                f"update {table} set {column} = replace({column}, 'mlflow-artifacts:/fam', ?)", (old,)
            )

    moved = tmp_path / "moved"
    shutil.move(family.root, moved)
    open_store(moved).find_experiment("fam")

    with sqlite3.connect(moved / "mlflow.db") as rows:
        found = [place for (place,) in rows.execute(places) if place and "fam" in place]
        (run,) = rows.execute(
            "select run_uuid from tags where key = 'scalelab.key' and value = 'run00'"
        ).fetchone()
    assert found
    assert all(place.startswith("mlflow-artifacts:/fam") for place in found)
    assert store_access.artifact_home(moved).folder_of(f"mlflow-artifacts:/fam/{run}/artifacts").is_dir()


def test_locations_in_another_database_follow_runs_that_were_moved(tmp_path):
    """And stay where another project still has them."""
    home = ArtifactHome(tmp_path / "b" / "mlflow-artifacts", moves=False)
    store = open_store_at(tmp_path, home)
    there = tmp_path / "a" / "mlflow-artifacts" / "fam"
    there.mkdir(parents=True)
    number = store._client.create_experiment("fam", there.as_uri())

    store.find_experiment("fam")
    assert store._client.get_experiment(number).artifact_location == there.as_uri()
    there.rmdir()
    store.find_experiment("fam")
    assert store._client.get_experiment(number).artifact_location == home.location("fam")


def open_store_at(tmp_path, home):
    from scalelab.tracking.mlflow_store import Store, make_store

    uri = sqlite_uri(tmp_path / "elsewhere.db")
    make_store(uri)
    return Store(uri, home)


def test_files_of_a_report_are_known_by_their_content(family, report):
    family.plan(1)
    record_plan(family.root, "fam", report, "p", {}, "")
    (record,) = report_mirror.report_records(family.root, "fam")

    assert record.files["valleys.png"] == hashlib.sha256(b"valleys").hexdigest()
    assert [path.name for path in record.paths(family.root)] == ["fit.json", "valleys.png"]
