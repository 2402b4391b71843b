"""Killed anywhere, at any time, the same command goes on: same last bit, nothing twice.

Ten times the whole process tree is killed with SIGKILL, ten times one worker, at random
moments. Then the sweep is left alone to end, and must be what the undisturbed one is.
"""

import json
import os
import random
import signal
import sqlite3
import time
from pathlib import Path

KILLS = 10


def everything(world):
    """What a sweep came to, as far as it must not depend on what happened on the way."""
    runs = {}
    for path in sorted((world.runs / "journey").glob("*/result.json")):
        result = json.loads(path.read_text())
        runs[path.parent.name] = (result["loss"], result["curve"], result["train_curve"])
    return runs


def mirrored(world):
    """Rows of MLflow's metrics by run and metric: how many, how many steps, which values."""
    with sqlite3.connect(world.runs / "mlflow.db") as db:
        return db.execute(
            "select t.value, m.key, count(*), count(distinct m.step) "
            "from tags t join runs r on r.run_uuid = t.run_uuid "
            "join metrics m on m.run_uuid = t.run_uuid "
            "where t.key = 'scalelab.key' and r.lifecycle_stage = 'active' "
            "and t.value not like 'fit:%' and t.value not like 'sweep:%' "
            "and m.key in ('train_loss', 'val_loss', 'loss') "
            "group by t.value, m.key order by 1, 2"
        ).fetchall()


def descendants(pid):
    """Every process below `pid`, and itself, by the kernel's own account."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            parents.setdefault(int(fields[1]), []).append(int(entry.name))
    found, todo = [], [pid]
    while todo:
        found.append(todo.pop())
        todo += parents.get(found[-1], [])
    return found


def kill(pids):
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def leftovers(world):
    """Half-written things that a kill may leave, where the product looks for whole ones."""
    return [p for p in world.runs.rglob("*") if p.name.startswith("step-") or p.suffix == ".tmp"]


def workers(world):
    """Process ids of the runs that are being trained."""
    pids = []
    for log in (world.runs / "journey").glob("*/log.jsonl"):
        if not (log.parent / "result.json").exists():
            starts = [json.loads(x) for x in log.read_text().splitlines() if '"start"' in x]
            pids += [starts[-1]["pid"]] if starts else []
    return pids


def trained_now(world):
    """Whether some run's own process is alive."""
    return any(Path(f"/proc/{pid}").exists() for pid in workers(world))


def test_the_process_tree_killed_ten_times(worlds, undisturbed):
    world, draw, killed = worlds("tree"), random.Random(7), 0
    while killed < KILLS:
        process = world.start("sweep", "journey.yaml")
        # Every other time on its way to training, else a little after that has begun; none of
        # these gains much, so that the sweep cannot end before it was killed often enough.
        until = time.monotonic() + (60 if killed % 2 else draw.uniform(0.2, 2.0))
        while time.monotonic() < until and process.poll() is None and not trained_now(world):
            time.sleep(0.02)
        time.sleep(draw.uniform(0.0, 0.3) if killed % 2 else 0.0)
        if process.poll() is not None:
            break
        kill(descendants(process.pid))
        process.communicate()
        killed += 1
    done = world("sweep", "journey.yaml")

    assert killed == KILLS, "the sweep ended before it was killed often enough"
    assert done.returncode == 0, done.stderr
    assert everything(world) == everything(undisturbed)
    assert mirrored(world) == mirrored(undisturbed)
    assert not leftovers(world)


def test_single_workers_killed_ten_times(worlds, undisturbed):
    world, draw, killed = worlds("workers"), random.Random(8), 0
    process = world.start("sweep", "journey.yaml", "--set", "launch.retries=20")
    met = set()
    while killed < KILLS and process.poll() is None:
        time.sleep(0.02)
        # Each soon after it was met: the sweep goes on, and cannot end before the tenth.
        new = [p for p in workers(world) if p not in met and Path(f"/proc/{p}").exists()]
        if new:
            time.sleep(draw.uniform(0.0, 0.2))
            victim = draw.choice(new)
            kill([victim])
            met.add(victim)
            killed += 1
    _, stderr = process.communicate(timeout=240)

    assert killed == KILLS
    assert process.returncode == 0, stderr
    assert everything(world) == everything(undisturbed)
    assert mirrored(world) == mirrored(undisturbed)
    assert not leftovers(world)


def test_no_worker_outlives_its_killed_parent(worlds):
    world = worlds("orphans", mlflow=False)
    long = ["--set", "design.budgets=[4e12]", "--set", "recipe.data.epochs=1e9"]
    long += ["--set", "recipe.model.head_size=32", "--set", "design.span=3"]
    process = world.start("sweep", "journey.yaml", *long)
    deadline = time.monotonic() + 60
    while not workers(world) and time.monotonic() < deadline:
        time.sleep(0.05)
    below = [pid for pid in descendants(process.pid) if pid != process.pid]
    assert workers(world)

    os.kill(process.pid, signal.SIGKILL)
    process.communicate()

    def alive():
        return [p for p in below if Path(f"/proc/{p}").exists() and "Z" not in _state(p)]

    deadline = time.monotonic() + 60
    while alive() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not alive()


def _state(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"


def test_ctrl_c_stops_and_the_same_command_goes_on(worlds, undisturbed):
    world, few = worlds("ctrl-c"), ("--set", "design.budgets=[4e9]")
    process = world.start("sweep", "journey.yaml", *few)
    deadline = time.monotonic() + 60
    while not workers(world) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: the whole group hears it
    stdout, stderr = process.communicate(timeout=120)
    again = world("sweep", "journey.yaml", *few)

    assert process.returncode == 130, stderr
    assert "the same command goes on from here" in stdout
    assert "Traceback" not in stderr
    assert again.returncode == 0
    ours, theirs = everything(world), everything(undisturbed)
    assert ours == {run: theirs[run] for run in ours}
    assert len(ours) == 3
    assert mirrored(world) == [row for row in mirrored(undisturbed) if row[0] in ours]


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
    assert "the same command goes on" in stderr
