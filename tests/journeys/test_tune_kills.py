"""Two processes at one tuning, both killed in the middle: nothing is lost, and no trial is trained twice."""

import json
import time

import pytest
from in_process import in_process
from observe import events, kill

from scalelab.laws import tuned_settings
from scalelab.leases import CLAIM

TUNING = """
name: tuned
question: Which rate?
prediction: A higher one.
extends: journey.yaml
fields:
  optimizer.lr: {low: 3e-4, high: 1e-1}
sizes: [5e3, 1.2e4]
tokens: [1.2e4, 2.4e4]
trials: 8
spread: 6
reruns: 1
launch: {executor: inline}
"""


def finished(world):
    """Contents and times of the results of trials, by path."""
    found = {}
    for path in sorted(world.runs.glob("tuned/*/result.json")):
        found[path] = (path.read_bytes(), path.stat().st_mtime_ns, (path.parent / "log.jsonl").read_bytes())
    return found


def claims(run_dir):
    """How often a run was claimed for training."""
    last = CLAIM.read(max(run_dir.glob("lease-*.json")))
    return last.attempt - (last.publishes is not None)  # a result is published by a claim of its own


def wait_for_results(world, n, process):
    """Wait until n trials have ended while a process is at work."""
    deadline = time.monotonic() + 600
    while len(finished(world)) < n and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    assert process.poll() is None, process.communicate()
    return len(finished(world))


@pytest.fixture(scope="module")
def killed(worlds):
    """A world whose tuning was killed twice and then ended, what stood at each kill, and the last command."""
    world = worlds("tuned-kills", mlflow=False)
    (world.path / "tuned.yaml").write_text(TUNING)
    one, two = (world.start("tune", "tuned.yaml") for _ in range(2))
    wait_for_results(world, 3, one)
    kill([one.pid])
    one.communicate()
    seen = [finished(world)]
    wait_for_results(world, len(seen[0]) + 3, two)
    kill([two.pid])
    two.communicate()
    seen.append(finished(world))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tuned_settings, "DRAWS", 16)
        return world, seen, in_process(world, "tune", "tuned.yaml", "--json", "out.json")


def test_what_had_ended_at_a_kill_stays_to_the_last_bit(killed):
    world, seen, done = killed
    ended = finished(world)

    assert done.returncode == 0, done.stderr
    assert 3 <= len(seen[0]) < len(seen[1]) < 32
    for each in seen:
        assert {path: ended[path] for path in each} == each


def test_every_trial_is_there_once_and_was_trained_once(killed):
    world, _, _ = killed
    found = json.loads((world.path / "out.json").read_text())
    trials = [t for cell in found["cells"] for t in cell["trials"]]
    runs = [t["run"] for cell in found["cells"] for t in (*cell["trials"], *cell["reruns"])]

    assert [len(cell["trials"]) for cell in found["cells"]] == [8] * 4
    assert len({t["run"] for t in trials}) == 32
    assert {path.parent.name for path in finished(world)} == set(runs)
    again = [name for name in runs if claims(world.runs / "tuned" / name) > 1]
    assert len(again) <= 2  # those that the killed processes were training
    for name in runs:
        log = events(world.runs / "tuned" / name / "log.jsonl")
        steps = [e["step"] for e in log if e["event"] == "step"]
        assert name in again or steps == sorted(set(steps))


def test_no_trial_of_the_journal_is_left_unfinished(killed):
    world, _, _ = killed
    lines = (world.runs / "tuned" / "trials.journal").read_text().splitlines()
    created = sum(json.loads(line)["op_code"] == 4 for line in lines)
    ended = {json.loads(line)["trial_id"] for line in lines if json.loads(line).get("state") in (1, 2, 3)}

    assert ended == set(range(created))
