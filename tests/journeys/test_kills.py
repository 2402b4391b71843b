"""Killed anywhere, at any time, the same command resumes: same last bit, nothing twice.

The short form of analysis/kills.py: the process tree of a sweep, its command alone, its fork
server and single workers are killed at random moments, and so are the preparation of data and a
fit in the middle of its report. Afterwards everything must be what the undisturbed command gives.
"""

import os
import signal
import time

from kills import Data, Fit, Sweep, campaign, run_undisturbed, write_text_files
from observe import born, descendants, kill, living, mirrored, run_results, workers

NO_RUN = ("fit:", "sweep:")
"""Prefixes of keys in MLflow that do not belong to a run."""


def journey(world):
    return world.runs / "journey"


def mirror(world):
    return mirrored(world.runs / "mlflow.db", but=NO_RUN)


class ShortSweep(Sweep):
    """The sweep of these tests. Its runs end before they save; kills come early in them."""

    moments = ("starting", "lines", "lines")
    most_lines = 4


def test_process_tree_command_fork_server_and_workers_of_a_sweep_killed(worlds, undisturbed):
    kinds = ("tree", "parent", "server", "parent", "server", "tree", *("child",) * 6)

    done = campaign(ShortSweep(worlds), kinds, 7, undisturbed)

    assert done.kills == {"tree": 2, "parent": 2, "server": 2, "child": 6}
    assert not done.notes


def test_data_preparation_killed(worlds, tmp_path):
    text = write_text_files(tmp_path / "text", 150, 1500)
    data = Data(lambda name: worlds(name, mlflow=False), text)

    done = campaign(data, ("tree", "parent"), 7, run_undisturbed(data))

    assert done.kills == {"tree": 1, "parent": 1}
    assert not done.notes


def test_fit_killed_while_it_writes_its_report(worlds, undisturbed):
    fit = Fit(lambda name: worlds(name, mlflow=False), undisturbed)

    done = campaign(fit, ("tree", "parent"), 7, run_undisturbed(fit))

    assert done.kills == {"tree": 1, "parent": 1}
    assert not done.notes


def test_no_worker_outlives_its_killed_parent(worlds):
    world = worlds("orphans", mlflow=False)
    long = ["--set", "design.budgets=[4e12]", "--set", "recipe.data.epochs=1e9"]
    long += ["--set", "recipe.model.head_size=32", "--set", "design.span=3"]
    process = world.start("sweep", "journey.yaml", *long)
    deadline = time.monotonic() + 60
    while not workers(journey(world)) and time.monotonic() < deadline:
        time.sleep(0.05)
    below = {pid: born(pid) for pid in descendants(process.pid) if pid != process.pid}
    assert workers(journey(world))

    kill([process.pid])
    process.communicate()

    deadline = time.monotonic() + 60
    while living(below) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not living(below)


def test_ctrl_c_stops_and_the_same_command_goes_on(worlds, undisturbed):
    world, few = worlds("ctrl-c", ready=True), ("--set", "design.budgets=[4e9]")
    process = world.start("sweep", "journey.yaml", *few)
    deadline = time.monotonic() + 60
    while not workers(journey(world)) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: the whole group hears it
    stdout, stderr = process.communicate(timeout=120)
    again = world("sweep", "journey.yaml", *few)

    assert process.returncode == 130, stderr
    assert "Interrupted. Run the same command to resume." in stdout
    assert "Traceback" not in stderr
    assert again.returncode == 0
    ours, theirs = run_results(journey(world)), run_results(journey(undisturbed))
    assert len(ours) == 3
    assert all(result in theirs for result in ours)
    rows = mirrored(world.runs / "mlflow.db", but=NO_RUN)
    assert len(rows) == 3
    assert all(each in list(mirror(undisturbed).values()) for each in rows.values())


def test_ctrl_c_while_the_corpus_is_prepared_is_no_traceback(worlds, tmp_path):
    world = worlds("early", mlflow=False)
    world.environ["SCALELAB_CACHE"] = str(tmp_path / "cold")
    process = world.start("data", "journey.yaml", "--set", "recipe.data.source=pycode")
    while process.poll() is None and not list((tmp_path / "cold").rglob("*")):
        time.sleep(0.01)
    time.sleep(0.2)
    os.killpg(process.pid, signal.SIGINT)
    _, stderr = process.communicate(timeout=60)

    assert process.returncode == 130
    assert "Traceback" not in stderr
    assert "Interrupted. Run the same command to resume." in stderr
