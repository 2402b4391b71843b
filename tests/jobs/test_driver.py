"""The driver: order, retries, waiting, interrupts, over an executor that does what a test says."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import observe
import pytest
from scripted_executor import Scripted, done

from scalelab.errors import LaunchError, RunError
from scalelab.jobs import driver as driver
from scalelab.jobs.base import Capabilities, JobOutcome, JobResources
from scalelab.jobs.driver import JobList, drive
from scalelab.jobs.executors.local import LocalConfig
from scalelab.jobs.limits import Limits
from scalelab.jobs.tries import GRACE_S, MOST_GRACE_S
from scalelab.jobs.view import JobDisplay, JobLabels, LiveView
from scalelab.testing.executors import job

ROOT = Path(__file__).parents[2]


@pytest.fixture
def run(monkeypatch):
    """A function that drives jobs quickly, and gives their endings and the lines of the view."""
    monkeypatch.setattr(driver, "POLL_S", 0.001)

    def run(source, executor, **limits):
        with LiveView(JobLabels()) as view:
            source = JobList(source) if isinstance(source, list) else source
            return drive(source, executor, view, Limits(**limits))

    return run


def needing(folder, name, *needs):
    return replace(job(folder, name), needs=needs)


def test_jobs_begin_once_what_they_need_is_done(run, tmp_path):
    jobs = [needing(tmp_path, "c", "a", "b"), needing(tmp_path, "b", "a"), needing(tmp_path, "a")]
    executor = Scripted(done)
    outcomes = run(jobs, executor)

    assert executor.submitted == ["a", "b", "c"]
    assert [e.outcome for e in outcomes.ended.values()] == ["done"] * 3


def test_a_need_that_is_nobody_s_job_counts_as_done(run, tmp_path):
    executor = Scripted(done)
    run([needing(tmp_path, "a", "base")], executor)
    assert executor.submitted == ["a"]


class Unavailable(Scripted):
    """An executor whose devices must not be asked for."""

    def check(self, each):
        raise AssertionError(f"{each.id} needs no device")

    has_room = check


def test_jobs_that_are_done_need_no_device(run, tmp_path):
    """Nor does the local executor start its server for them."""
    jobs = [needing(tmp_path, "a"), needing(tmp_path, "b", "a")]
    for each in jobs:
        done(None, each)

    for executor in (Unavailable(done), local := LocalConfig().start()):
        ended = run(list(jobs), executor).ended
        assert {name: e.outcome for name, e in ended.items()} == {"a": "done", "b": "done"}
    assert "_context" not in vars(local)


def test_what_needs_a_lost_job_is_blocked_and_the_rest_is_done(run, tmp_path):
    jobs = [
        needing(tmp_path, "a"),
        needing(tmp_path, "b", "a"),
        needing(tmp_path, "c", "b"),
        needing(tmp_path, "d"),
    ]

    def state(executor, each):
        return JobOutcome(each, "error", "a bug") if each.id == "a" else done(executor, each)

    ended = run(jobs, Scripted(state)).ended

    assert {n: e.outcome for n, e in ended.items()} == {
        "a": "error",
        "b": "blocked",
        "c": "blocked",
        "d": "done",
    }
    assert ended["c"].reason == "it needs b, which is not there"


def test_a_source_is_told_and_asked_again(run, tmp_path):
    class Twice:
        def __init__(self):
            self.told = []

        def ask(self):
            n = len(self.told)
            return [job(tmp_path, f"job{n}")] if n < 3 and len(asked) == n else []

        def tell(self, ended):
            self.told.append(ended.job.id)

    asked, source = [], Twice()
    before = source.ask

    def ask():
        jobs = before()
        asked.extend(jobs)
        return jobs

    source.ask = ask
    outcomes = run(source, Scripted(done))

    assert source.told == [*outcomes.ended] == ["job0", "job1", "job2"]


def test_tries_are_budgeted_by_progress(run, tmp_path):
    """Killed five times: four times a checkpoint further, then never again."""

    def state(executor, each):
        n = executor.submitted.count(each.id)
        if n < 5:
            each.dir.append("checkpoint", step=n)
        return JobOutcome(each, "killed", f"signal 9, try {n}")

    executor = Scripted(state)
    (ended,) = run([job(tmp_path, "a")], executor, retries=2).ended.values()

    assert len(executor.submitted) == 4 + 3
    assert ended.outcome == "killed"
    assert ended.reason == "signal 9, try 7; no further after 2 more tries"
    assert sum(e["event"] == "lost" for e in ended.job.dir.events()) == 7


def test_an_unknown_state_is_waited_out_and_nothing_is_submitted_twice(run, tmp_path):
    polls = Counter()

    def state(executor, each):
        polls[each.id] += 1
        return "unknown" if polls[each.id] < 20 else done(executor, each)

    executor = Scripted(state)
    outcomes = run([job(tmp_path, "a")], executor)

    assert executor.submitted == ["a"]
    assert outcomes.ended["a"].outcome == "done"


def test_a_job_that_an_earlier_process_of_ours_submitted_is_found(run, tmp_path):
    executor = Scripted(done, found=("a",))
    outcomes = run([job(tmp_path, "a"), job(tmp_path, "b")], executor)

    assert executor.submitted == ["b"]
    assert {*outcomes.ended} == {"a", "b"}


def test_a_found_job_that_dies_is_tried_again(run, tmp_path):
    def state(executor, each):
        return done(executor, each) if executor.submitted else JobOutcome(each, "killed", "signal 9")

    executor = Scripted(state, found=("a",))
    outcomes = run([job(tmp_path, "a")], executor)

    assert executor.submitted == ["a"]
    assert outcomes.ended["a"].outcome == "done"
    assert outcomes.tries["a"] == 2


def test_jobs_that_need_one_another_are_blocked(run, tmp_path):
    circle = [needing(tmp_path, "a", "b"), needing(tmp_path, "b", "a"), needing(tmp_path, "c")]
    ended = run(circle, Scripted(done)).ended

    assert {n: e.outcome for n, e in ended.items()} == {"a": "blocked", "b": "blocked", "c": "done"}
    assert ended["a"].reason == "it needs b, which is a cycle"


def test_a_source_that_asks_again_for_what_runs_gets_it_once(run, tmp_path):
    class Eager:
        def __init__(self):
            self.left = [job(tmp_path, "a"), job(tmp_path, "b")]

        def ask(self):
            return [each for each in self.left if not each.dir.is_done]

        def tell(self, ended):
            pass

    executor = Scripted(done, slots=1)
    run(Eager(), executor)
    assert executor.submitted == ["a", "b"]


def test_time_in_a_queue_is_no_silence(run, tmp_path):
    """Nor is it where the scheduler does not answer meanwhile."""
    began = time.monotonic()

    def state(executor, each):
        if time.monotonic() > began + 0.5:
            return done(executor, each)
        return "queued" if time.monotonic() < began + 0.2 else "unknown"

    executor = Scripted(state)
    outcomes = run([job(tmp_path, "a")], executor, heartbeat_timeout_s=0.1, wall_timeout_s=0.1)

    assert outcomes.ended["a"].outcome == "done"
    assert not executor.cancelled


def test_a_silent_job_is_ended_as_stalled(run, tmp_path):
    def state(executor, each):
        return JobOutcome(each, "killed", "signal 9") if executor.cancelled else "running"

    executor = Scripted(state)
    (ended,) = run([job(tmp_path, "a")], executor, heartbeat_timeout_s=0.1, retries=0).ended.values()

    assert executor.cancelled == [("a", True)]
    assert (ended.outcome, ended.reason[:18]) == ("stalled", "logged nothing for")


@pytest.mark.parametrize("logged", [None, "start", "step"])
def test_a_job_may_be_silent_for_longer_before_the_first_step_of_a_try(run, tmp_path, logged):
    """Steps of an earlier try do not count."""
    began = time.monotonic()
    each = job(tmp_path, "a")
    each.dir.append("step", step=3)

    def state(executor, each):
        if logged and not executor.cancelled and executor.submitted == ["a"]:
            executor.submitted.append(logged)
            each.dir.append(logged, step=4)
        if executor.cancelled:
            return JobOutcome(each, "killed", "signal 9")
        return done(executor, each) if time.monotonic() > began + 0.5 else "running"

    limits = {"heartbeat_timeout_s": 0.1, "first_step_timeout_s": 9.0, "retries": 0}
    (ended,) = run([each], Scripted(state), **limits).ended.values()

    assert ended.outcome == ("stalled" if logged == "step" else "done")


def test_a_refusal_stops_the_others_or_not(run, tmp_path):
    def state(executor, each):
        if each.id == "a":
            return JobOutcome(each, "refused", "the disk is full", "/disk", "free some space")
        return JobOutcome(each, "interrupted") if executor.cancelled else "running"

    executor = Scripted(state)
    with pytest.raises(LaunchError) as error:
        run([job(tmp_path, "a"), job(tmp_path, "b"), job(tmp_path, "c")], executor)
    assert str(error.value) == "the disk is full\n  where: /disk\n  fix:   free some space"
    assert executor.submitted == ["a", "b"]
    assert executor.cancelled == [("b", False)]

    def goes_on(executor, each):
        return state(executor, each) if each.id == "a" else done(executor, each)

    outcomes = run([job(tmp_path, n) for n in "abc"], Scripted(goes_on), stop_on_refusal=False)
    assert [e.job.id for e in outcomes.of("done")] == ["b", "c"]


@pytest.mark.parametrize("outlives", [False, True])
def test_an_error_has_the_jobs_that_run_saved_before_it_is_raised(run, tmp_path, outlives):
    """One directory that cannot be written; jobs of an executor that goes on without us are left to it."""

    class Refusing(Scripted):
        capabilities = Capabilities(gangs=False, timing=False, outlives=outlives)

        def submit(self, each):
            if each.id == "b":
                raise RunError("b cannot be written", where="b", fix="free some space")
            super().submit(each)

    def state(executor, each):
        return JobOutcome(each, "interrupted") if executor.cancelled else "running"

    executor = Refusing(state)
    with pytest.raises(RunError, match="b cannot be written"):
        run([job(tmp_path, "a"), job(tmp_path, "b")], executor)

    assert executor.cancelled == ([] if outlives else [("a", False)])
    assert [*executor.jobs] == (["a"] if outlives else [])


def test_a_second_error_is_raised_at_once(run, tmp_path):
    class Broken(Scripted):
        n = 0

        def poll(self):
            self.n += 1
            raise RunError(f"error {self.n}", where="here", fix="look")

    with pytest.raises(RunError, match="error 2"):
        run([job(tmp_path, "a")], Broken(lambda executor, each: "running"))


def test_a_job_that_begins_while_ctrl_c_comes_is_asked_to_stop_too(run, tmp_path):
    class Late(Scripted):
        def submit(self, each):
            super().submit(each)
            if each.id == "b":
                signal.raise_signal(signal.SIGINT)

    def state(executor, each):
        asked = (each.id, False) in executor.cancelled
        return JobOutcome(each, "interrupted") if asked else "running"

    outcomes = run([job(tmp_path, n) for n in "abc"], executor := Late(state))

    assert outcomes.interrupted
    assert executor.submitted == ["a", "b"]
    assert sorted(executor.cancelled) == [("a", False), ("b", False)]


def test_a_second_ctrl_c_ends_jobs_at_once(run, tmp_path):
    def state(executor, each):
        if len(executor.cancelled) < 2:
            signal.raise_signal(signal.SIGINT)
            return "running"
        return JobOutcome(each, "killed", "signal 9")

    executor = Scripted(state)
    outcomes = run([job(tmp_path, "a")], executor)

    assert executor.cancelled == [("a", False), ("a", True)]
    assert outcomes.ended["a"].outcome == "interrupted"


class PretendedTime:
    """A clock on which every turn of the driver takes a second."""

    def __init__(self):
        self.now = 1000.0

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        del seconds
        self.now += 1.0


def stopped_after(run, monkeypatch, folder, saves):
    """The seconds after which a job that was asked to stop was killed, and its outcome.

    `saves` is called with the job and the seconds since it was asked, until it is killed; True: it ends.
    """
    clock = PretendedTime()
    monkeypatch.setattr(driver, "time", clock)
    asked = []

    def state(executor, each):
        if not asked:
            asked.append(clock.now)
            signal.raise_signal(signal.SIGINT)
        if (each.id, True) in executor.cancelled:
            return JobOutcome(each, "killed", "signal 9")
        if clock.now > asked[0] + 10_000:
            raise AssertionError("it is never killed")
        return JobOutcome(each, "interrupted") if saves(each, clock.now - asked[0]) else "running"

    (ended,) = run([job(folder, "a")], Scripted(state)).ended.values()
    return clock.now - asked[0], ended


def grow(each, seconds):
    """A checkpoint to which every turn adds a byte."""
    each.dir.checkpoints.mkdir(exist_ok=True)
    (each.dir.checkpoints / ".partial").write_bytes(b"x" * int(seconds))


def test_a_job_that_does_not_stop_is_killed_after_a_minute(run, monkeypatch, tmp_path):
    seconds, ended = stopped_after(run, monkeypatch, tmp_path, lambda each, seconds: False)

    assert GRACE_S < seconds < GRACE_S + 5
    assert ended.outcome == "interrupted"
    assert "its save made no progress" in ended.reason


def test_a_save_that_takes_minutes_is_waited_for_while_it_writes(run, monkeypatch, tmp_path):
    def saves(each, seconds):
        grow(each, seconds)
        return seconds > 10 * GRACE_S

    seconds, ended = stopped_after(run, monkeypatch, tmp_path, saves)

    assert seconds > 10 * GRACE_S
    assert (ended.outcome, ended.reason) == ("interrupted", None)


def test_a_save_that_hangs_is_given_up_a_minute_after_its_last_byte(run, monkeypatch, tmp_path):
    def saves(each, seconds):
        grow(each, min(seconds, 100))

    seconds, ended = stopped_after(run, monkeypatch, tmp_path, saves)

    assert 100 + GRACE_S <= seconds < 105 + GRACE_S
    assert "its save made no progress" in ended.reason


def test_a_job_that_writes_without_end_is_given_up_in_the_end(run, monkeypatch, tmp_path):
    seconds, _ = stopped_after(run, monkeypatch, tmp_path, grow)

    assert MOST_GRACE_S <= seconds < MOST_GRACE_S + 5


@pytest.mark.parametrize(("allow_s", "expected"), [(500.0, 510.0), (5.0, 60.0), ("long", 60.0)])
def test_a_job_says_how_long_its_save_may_take(run, monkeypatch, tmp_path, allow_s, expected):
    """While the disk is waited for nothing grows."""

    def saves(each, seconds):
        if seconds == 10:
            each.dir.append("saving", step=3, allow_s=allow_s)

    seconds, _ = stopped_after(run, monkeypatch, tmp_path, saves)

    assert expected <= seconds < expected + 5


def test_a_job_that_asks_a_person_is_done_in_this_process(run, tmp_path):
    asks = replace(job(tmp_path, "a"), resources=JobResources(terminal=True))
    executor = Scripted(done)
    outcomes = run([asks], executor)

    assert executor.submitted == []
    assert outcomes.ended["a"].outcome == "done"


def test_ctrl_c_answers_what_a_person_is_asked(run, tmp_path):
    asks = job(tmp_path, "a", n_steps=10, step_s=100.0)
    asks = replace(asks, resources=JobResources(terminal=True))
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
    outcomes = run([asks, job(tmp_path, "b")], executor := Scripted(done))

    assert outcomes.interrupted
    assert outcomes.ended["a"].outcome == "interrupted"
    assert executor.submitted == []


PARENT = """
import sys
from scalelab.jobs.executors.local import LocalConfig

if __name__ == "__main__":
    executor = LocalConfig().start()
    print("ready", flush=True)
    executor.call("time:sleep", 1000)
"""


def test_a_parent_that_is_killed_while_it_times_takes_the_timing_with_it(tmp_path):
    (tmp_path / "parent.py").write_text(PARENT)
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "parent.py")],
        stdout=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert process.stdout.readline() == "ready\n"
    deadline = time.monotonic() + 60
    while len(observe.descendants(process.pid)) < 4:  # server, its helper, and the one that times
        assert time.monotonic() < deadline
        time.sleep(0.05)
    there = {pid: observe.born(pid) for pid in observe.descendants(process.pid)}
    process.kill()
    process.communicate()
    while left := observe.living(there):
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


def test_the_death_of_the_fork_server_costs_no_job(tmp_path):
    from multiprocessing import forkserver

    jobs = [job(tmp_path, n, n_steps=50, step_s=0.01) for n in "abc"]
    executor = LocalConfig(slots=1).start()
    killed = []

    class View(LiveView):
        def tick(self):
            super().tick()
            if not killed and any(jobs[0].dir.events()):
                killed.append(forkserver._forkserver._forkserver_pid)
                os.kill(killed[0], signal.SIGKILL)

    with View(JobLabels()) as view:
        outcomes = drive(JobList(jobs), executor, view, Limits())
    executor.close()

    assert killed
    assert [e.outcome for e in outcomes.ended.values()] == ["done"] * 3


class Steps(JobLabels):
    def display(self, each):
        return JobDisplay(each.id, n_steps=100)


def test_the_time_left_is_that_of_the_last_minute(tmp_path, monkeypatch):
    """Fast for an hour, then a tenth of that: what is said follows within two minutes."""
    now = [0.0]
    monkeypatch.setattr("scalelab.jobs.view.time.monotonic", lambda: now[0])
    each = job(tmp_path, "a")
    with LiveView(Steps()) as view:
        view.added([each])
        view.started(each)
        for step in range(51):
            each.dir.append("step", step=step, loss=1.0)
            now[0] += 72.0
            view.tick()
        assert view._eta() == pytest.approx(50 * 72.0, rel=0.05)
        for step in range(51, 53):
            now[0] += 720.0
            each.dir.append("step", step=step, loss=1.0)
            view.tick()
        assert view._eta() == pytest.approx(48 * 720.0, rel=0.05)


def test_the_time_left_does_not_shrink_between_two_lines_of_a_journal(tmp_path, monkeypatch):
    """One line in 500 s: what is left is reckoned from lines, and silence makes it longer."""
    now = [0.0]
    monkeypatch.setattr("scalelab.jobs.view.time.monotonic", lambda: now[0])
    each, told = job(tmp_path, "a"), []
    with LiveView(Steps()) as view:
        view.added([each])
        view.started(each)
        for tenth in range(31):
            if tenth % 10 == 0:
                each.dir.append("step", step=tenth // 10, loss=1.0)
            view.tick()
            if tenth >= 20:
                told.append(view._eta())
            now[0] += 50.0
        left = 97 * 500.0
        assert told[-1] == pytest.approx(left, rel=0.05)
        assert min(told) == pytest.approx(98 * 500.0, rel=0.05)
        now[0] += 5000.0
        view.tick()
        assert view._eta() > 2 * left


def test_a_process_that_is_not_the_job_s_is_refused(tmp_path):
    """Two processes of torchrun's on a job of one would both write."""
    from scalelab.jobs.record import write_record

    each = job(tmp_path, "a")
    write_record(each)
    done = subprocess.run(
        [sys.executable, "-m", "scalelab.jobs.worker", str(each.dir.path)],
        env=os.environ | {"PYTHONPATH": str(ROOT), "RANK": "1", "WORLD_SIZE": "2"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 2
    assert "error: 2 processes were started, and the job needs 1" in done.stderr
    assert "fix:   start 1 together" in done.stderr
    assert not each.dir.log_path.exists()


def test_a_starter_that_is_a_rank_itself_does_not_hand_its_number_on(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_RANK", "3")
    each = job(tmp_path, "a")
    executor = LocalConfig().start()
    with LiveView(JobLabels()) as view:
        outcomes = drive(JobList([each]), executor, view, Limits())
    executor.close()

    assert outcomes.ended["a"].outcome == "done"


def test_a_held_job_is_told_in_three_parts(tmp_path):
    from scalelab.jobs.record import write_record
    from scalelab.leases import claim

    each = job(tmp_path, "a")
    write_record(each)
    lease = claim(each.dir.path)
    done = subprocess.run(
        [sys.executable, "-m", "scalelab.jobs.worker", str(each.dir.path)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    lease.release()

    assert done.returncode == 2
    assert "is being worked on by another process" in done.stderr
    assert f"held by process {os.getpid()}" in done.stderr
    assert "fix:   wait for it to end, or stop it" in done.stderr
