"""Against a real `mlflow server`: its pages, its API, its death, and answers that get lost."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from scalelab.errors import TrackError
from scalelab.tracking import ui as ui_module
from scalelab.tracking.sync import sync
from scalelab.tracking.ui import serving, ui

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def place(tmp_path_factory, empty_mlflow, free_port):
    """Where a server's database is, and its port."""
    root = tmp_path_factory.mktemp("server") / "ques?x=1 pct%20q"
    root.mkdir()
    shutil.copy(empty_mlflow, root / "mlflow.db")
    return root, free_port()


@pytest.fixture(scope="module")
def served(place, family_in):
    """A server over a sweep that was mirrored before it started, and moved to an awkward place since."""
    root, port = place
    before = root.with_name("before")
    root.rename(before)
    family, _ = family_in(before)
    family.plan(2)
    family.train("run00", range(20))
    family.end("run00")
    sync(before, "fam")
    before.rename(root)
    with serving(root, port) as served:
        yield served


def ask(url, **body):
    data = json.dumps(body).encode() if body else None
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return answer.status, answer.read()


def test_the_page_opens(served):
    status, page = ask(served.url)

    assert status == 200
    assert b"<title>MLflow</title>" in page


def test_the_api_finds_the_sweep_and_its_runs(served):
    api = f"{served.url}/api/2.0/mlflow"
    experiments = json.loads(ask(f"{api}/experiments/search", max_results=10)[1])["experiments"]
    number = {e["name"]: e["experiment_id"] for e in experiments}["fam"]
    assert served.links == {"fam": f"{served.url}/#/experiments/{number}/runs?workflowType=machine_learning"}

    found = json.loads(
        ask(f"{api}/runs/search", experiment_ids=[number], filter="tags.`scalelab.key` = 'run00'")[1]
    )["runs"]
    metrics = {m["key"]: m["value"] for m in found[0]["data"]["metrics"]}
    assert (len(found), metrics["loss"]) == (1, 3.0)


def test_artifacts_of_a_project_that_was_moved_are_served(served, place, family_in):
    _, db = family_in(place[0])
    run = db.ask("select run_uuid from tags where key = 'scalelab.key' and value = 'run00'")[0][0]

    status, data = ask(f"{served.url}/get-artifact?path=result.json&run_uuid={run}")

    assert status == 200
    assert json.loads(data)["run"] == "run00"
    assert sorted(path.name for path in place[0].parent.iterdir()) == [place[0].name]


def test_port_0_takes_a_free_port(root, monkeypatch):
    monkeypatch.setattr(ui_module, "STARTS_WITHIN_S", 0.0)
    asked = []
    monkeypatch.setattr(ui_module, "_links", lambda root, url: asked.append(url) or {})

    with pytest.raises(TrackError, match="did not start"), serving(root, 0):
        pass

    assert int(asked[0].rpartition(":")[2]) > 0


def test_a_port_that_is_taken_is_refused(served, place):
    with pytest.raises(TrackError, match=f"port {place[1]} cannot be used") as error, serving(*place):
        pass

    assert error.value.fix == f"choose another: --port {place[1] + 1}"


def test_a_server_elsewhere_is_only_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking.example:5000")

    ui(tmp_path, 5000)

    assert capsys.readouterr().out == "the runs are on a server already: http://tracking.example:5000\n"


def test_a_server_that_does_not_start_is_told(root, free_port, monkeypatch):
    monkeypatch.setattr(ui_module, "STARTS_WITHIN_S", 0.0)

    with pytest.raises(TrackError, match="MLflow's server did not start"), serving(root, free_port()):
        pass


def test_answers_that_get_lost_double_nothing(served, place, family, family_in, start, free_port):
    """One answer in seven is lost after the server did what it was asked."""
    port = free_port()
    road = subprocess.Popen(
        [sys.executable, str(HERE / "proxy.py"), str(port), str(place[1]), "0.15", "5"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert road.stdout.readline() == "ready\n"
    family.sweep = "lossy"
    for run in family.plan(6, prefix="lossy"):
        family.train(run, range(30))
        family.end(run)
    try:
        uri = f"http://127.0.0.1:{port}"
        process = start(
            "--patience", "60", sweep="lossy", environ={"MLFLOW_TRACKING_URI": uri}, stderr=subprocess.DEVNULL
        )
        process.communicate(timeout=90)
    finally:
        road.terminate()
        lost = int(road.communicate(timeout=10)[0])

    _, db = family_in(place[0])
    rows = {run: found for run, found in db.metrics().items() if run.startswith("lossy")}
    assert process.returncode == 0
    assert lost >= 5
    assert rows == family.expected()


def test_a_server_that_dies_delays_the_mirror_and_nothing_else(
    served, place, family, family_in, start, until
):
    """The last of this module: the server of the others is killed and started again."""
    family.sweep = "dies"
    family.plan(2, prefix="dies")
    family.train("dies00", range(30))
    _, db = family_in(place[0])
    with open(family.root / "told", "w", encoding="utf-8") as log:
        process = start(sweep="dies", environ={"MLFLOW_TRACKING_URI": served.url}, stderr=log)
    until(lambda: "dies00" in db.metrics(), "the first rows")

    os.killpg(served.process.pid, signal.SIGKILL)
    served.process.wait()
    family.train("dies00", range(30, 60))
    family.train("dies01", range(60))
    family.end("dies01")
    until(lambda: (family.root / "told").read_text(), "the syncer to notice")
    time.sleep(1)
    with serving(*place):
        process.communicate(timeout=60)

    rows = {run: found for run, found in db.metrics().items() if run.startswith("dies")}
    assert process.returncode == 0
    assert rows == family.expected()


def test_an_interrupt_stops_every_process_of_the_server(root, free_port, until):
    port = free_port()
    code = "import sys, pathlib; from scalelab.tracking.ui import ui;"
    code += "ui(pathlib.Path(sys.argv[1]), int(sys.argv[2]))"
    page = subprocess.Popen(
        [sys.executable, "-c", code, str(root), str(port)], stdout=subprocess.PIPE, text=True
    )
    assert page.stdout.readline().startswith(f"MLflow is at http://127.0.0.1:{port}")
    assert page.stdout.readline() == "  no sweep is mirrored there yet: scalelab sync\n"

    page.terminate()
    page.communicate(timeout=20)

    assert page.returncode == 0
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2)
