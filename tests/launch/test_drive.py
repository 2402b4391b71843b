"""Executors and the driver: every run once, however its process ends.

The same promises are checked for every registered executor and for a third one that only this
file knows; what only processes can do (crash, be killed, hang) is checked on the one that has
processes.
"""

import os
import signal
import sys
import threading
import time
from importlib.metadata import EntryPoint, EntryPoints
from types import ModuleType
from typing import Literal

import pytest

from scalelab import registry
from scalelab.errors import LaunchError
from scalelab.jobs import EXECUTORS
from scalelab.jobs.base import AvailableDevices, Capabilities, ExecutorConfig, JobOutcome
from scalelab.jobs.executors.process_group import refuse_gang
from scalelab.jobs.record import write_record
from scalelab.jobs.worker import Assignment, run_reported
from scalelab.launch.sweep_plan import PlannedJob
from scalelab.launch.sweep_run import sweep_lock, train_all
from scalelab.leases import claim
from scalelab.sweep.base import Proposal
from scalelab.sweep.file import SweepFile
from scalelab.train.loop import train
from scalelab.train.run_directory import RunDir

THIRD = "deferred"
WEIRD = ["plain", "with space", "quo'te\"s; echo foo", "line\nbreak"]


@pytest.fixture
def make(tmp_path, tiny_spec):
    """A function that makes work for the driver: run directories with small specs."""

    def make(n=3, folder="sweep", **changes):
        work = []
        for seed in range(n):
            spec = tiny_spec(seed=seed, **changes)
            run_dir = RunDir(tmp_path / folder / spec.id)
            run_dir.create(spec)
            work.append(PlannedJob(Proposal(spec, 1e9, 1e4, 1e4), run_dir, "planned"))
        return work

    return make


def file(tiny_text, **launch):
    return SweepFile.model_validate(
        {
            "name": "t",
            "question": "?",
            "prediction": "!",
            "recipe": {
                "data": {"source": {"kind": "text", "paths": ["x"]}},
                "seq_len": 32,
                "model": {"kind": "transformer", "n_layers": 2, "head_size": 8},
                "optimizer": {"lr": 3e-3},
            },
            "design": {"kind": "isoflop", "budgets": [1e9]},
            "launch": launch,
        }
    )


HERE = ("inline", "local", THIRD)
"""Executors that need no cluster."""


class DeferredConfig(ExecutorConfig):
    """An executor from outside the product: it takes two runs and trains one when it is polled."""

    kind: Literal["deferred"] = "deferred"

    def start(self, preload=(), home=None):
        return Deferred()


class Deferred:
    capabilities = Capabilities(gangs=False, timing=False, blocking=True)
    devices = AvailableDevices(1, "one that waits", 1)

    def __init__(self):
        self.trained, self._waiting, self._stopping = [], [], False

    def check(self, job):
        refuse_gang(job, THIRD)

    def has_room(self, job):
        return len(self._waiting) < 2 and not self._stopping

    def submit(self, job):
        self._waiting.append(job)

    def poll(self):
        states = dict.fromkeys((job.id for job in self._waiting), "queued")
        if self._waiting:
            job = self._waiting.pop(0)
            self.trained.append(job.id)
            record = write_record(job)
            said = run_reported(Assignment(job.dir, record.settings, 0, 1, lambda: self._stopping), record)
            states[job.id] = JobOutcome(job, said.outcome, said.reason, said.where, said.fix)
        return states

    def cancel(self, ids, *, now):
        self._stopping = True

    def find(self, jobs):
        return ()

    def close(self):
        pass


@pytest.fixture(autouse=True)
def third(monkeypatch):
    """Register it as a plug-in would be: an entry point that leads to "module:attribute"."""
    module = ModuleType("executor_from_outside")
    module.DeferredConfig = DeferredConfig
    monkeypatch.setitem(sys.modules, module.__name__, module)
    point = EntryPoint(THIRD, "executor_from_outside:DeferredConfig", "scalelab.executors")
    monkeypatch.setattr(registry, "_installed", lambda: EntryPoints([point]))


def start(name, **settings):
    return EXECUTORS[name](**settings).start(("scalelab.launch.training",))


@pytest.fixture(params=HERE)
def executor(request):
    executor = start(request.param)
    yield executor
    executor.close()


@pytest.fixture
def local():
    """A function that makes a local executor; closed at the end."""
    made = []

    def make(**settings):
        made.append(start("local", **settings))
        return made[-1]

    yield make
    for executor in made:
        executor.close()


def run(work, executor, **launch):
    return train_all(file(None, **launch), work, executor)


def events(run_dir, kind):
    return [event for event in run_dir.events() if event["event"] == kind]


def wait_for(condition, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.01)


def test_every_run_ends_with_a_result(make, executor):
    work = make(3)
    outcomes = run(work, executor)

    assert [outcomes.ended[w.run_dir.run].outcome for w in work] == ["done"] * 3
    assert all(w.run_dir.result().status == "finished" for w in work)


def test_an_executor_from_outside_is_driven_through_every_run(make):
    work, executor = make(3, n_steps=10), start(THIRD)

    outcomes = run(work, executor)

    assert sorted(executor.trained) == sorted(w.run_dir.run for w in work)
    assert [outcomes.ended[w.run_dir.run].outcome for w in work] == ["done"] * 3


def test_executors_agree_to_the_last_bit(make):
    losses = []
    for name in HERE:
        executor = start(name)
        work = make(2, folder=name)
        run(work, executor)
        executor.close()
        losses.append([w.run_dir.result().loss for w in work])

    assert len(losses) == 3
    assert losses[1:] == losses[:1] * 2


@pytest.mark.parametrize("folder", WEIRD)
def test_paths_may_be_weird(make, executor, folder):
    work = make(1, folder=folder, n_steps=10)
    run(work, executor)

    assert work[0].run_dir.is_done


def test_a_diverged_run_is_an_outcome_and_is_not_tried_again(make, executor):
    rates = dict.fromkeys(("lr_matrix", "lr_embedding", "lr_head", "lr_vector"), 50.0)
    work = make(1, optimizer=rates | {"grad_clip": None})
    outcomes = run(work, executor)

    assert [e.outcome for e in outcomes.ended.values()] == ["done"]
    assert work[0].run_dir.result().status == "diverged"
    assert len(events(work[0].run_dir, "start")) == 1


def test_something_a_person_must_mend_stops_the_sweep(make, executor):
    work = make(2, data_digest="0123456789ab")

    with pytest.raises(LaunchError) as error:
        run(work, executor)
    assert "no prepared corpus 0123456789ab" in str(error.value)
    assert str(error.value).count("\n  fix:   ") == 1


def test_a_run_that_another_process_trains_is_waited_for(make, executor):
    work, other = make(2), make(1, folder="other")
    lease = claim(work[0].run_dir.path)

    def the_other():
        result = train(other[0].run_dir)
        wait_for(lambda: work[1].run_dir.is_done)
        work[0].run_dir.write_result(result)
        lease.release()

    thread = threading.Thread(target=the_other)
    thread.start()
    outcomes = run(work, executor)
    thread.join()

    assert {ended.outcome for ended in outcomes.ended.values()} == {"done"}
    assert not events(work[0].run_dir, "start")  # none of ours began it


def test_a_run_that_another_process_gives_up_is_taken_over(make, executor):
    work = make(1)
    lease = claim(work[0].run_dir.path)
    threading.Timer(0.5, lease.release).start()
    outcomes = run(work, executor)

    assert [ended.outcome for ended in outcomes.ended.values()] == ["done"]
    assert len(events(work[0].run_dir, "start")) == 1


def test_waiting_for_another_process_can_be_interrupted(make, executor):
    work = make(1)
    claim(work[0].run_dir.path)
    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
    outcomes = run(work, executor)

    assert outcomes.interrupted
    assert not work[0].run_dir.is_done


def test_the_longest_go_first(make, local, tiny_spec):
    work = make(3, n_steps=4)
    work = [
        PlannedJob(w.proposal, w.run_dir, w.state, seconds)
        for w, seconds in zip(work, (1.0, 3.0, 2.0), strict=True)
    ]
    run(work, local(slots=1))

    begun = [events(w.run_dir, "start")[0]["t"] for w in work]
    assert begun[1] < begun[2] < begun[0]


def test_a_killed_worker_is_tried_again_and_takes_nothing_with_it(make, local):
    straight = make(2, folder="a", n_steps=600)
    run(straight, local())
    work = make(2, folder="b", n_steps=600)

    def assassin():
        victim = work[0].run_dir
        wait_for(lambda: len(events(victim, "step")) > 3)
        os.kill(events(victim, "start")[0]["pid"], signal.SIGKILL)

    thread = threading.Thread(target=assassin)
    thread.start()
    run(work, local())
    thread.join()

    assert len(events(work[0].run_dir, "start")) == 2
    assert "signal 9" in events(work[0].run_dir, "lost")[0]["reason"]
    assert len(events(work[1].run_dir, "start")) == 1
    assert [w.run_dir.result().loss for w in work] == [w.run_dir.result().loss for w in straight]


def test_tries_are_limited(make, local):
    work = make(1, n_steps=100_000)
    stop = threading.Event()

    def assassin():
        killed = set()
        while not stop.is_set():
            for event in events(work[0].run_dir, "start"):
                if event["pid"] not in killed:
                    killed.add(event["pid"])
                    os.kill(event["pid"], signal.SIGKILL)
            time.sleep(0.02)

    thread = threading.Thread(target=assassin)
    thread.start()
    outcomes = run(work, local(), retries=1)
    stop.set()
    thread.join()

    assert [e.outcome for e in outcomes.ended.values()] == ["killed"]
    assert len(events(work[0].run_dir, "start")) == 2


def test_a_run_that_hangs_is_ended_as_stalled(make, local):
    work = make(1, n_steps=1_000_000)
    executor = local()

    def freezer():
        wait_for(lambda: events(work[0].run_dir, "step"))
        os.kill(events(work[0].run_dir, "start")[0]["pid"], signal.SIGSTOP)

    thread = threading.Thread(target=freezer)
    thread.start()
    outcomes = run(work, executor, retries=0, heartbeat_timeout_s=5.0)
    thread.join()

    (ended,) = outcomes.ended.values()
    assert ended.outcome == "stalled"
    assert "logged nothing for" in ended.reason


def test_a_run_past_its_wall_time_is_ended(make, local):
    work = make(1, n_steps=1_000_000)
    outcomes = run(work, local(), retries=0, wall_timeout_s=1.0)

    (ended,) = outcomes.ended.values()
    assert (ended.outcome, "wall_timeout_s" in ended.reason) == ("stalled", True)


def test_an_interrupt_saves_and_stops_and_the_same_call_goes_on(make, local):
    straight = make(2, folder="a", n_steps=600)
    run(straight, local())
    work = make(2, folder="b", n_steps=600)

    def interrupter():
        wait_for(lambda: all(events(w.run_dir, "step") for w in work))
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupter)
    thread.start()
    outcomes = run(work, local())
    thread.join()

    assert outcomes.interrupted
    assert all(events(w.run_dir, "interrupted") for w in work)
    assert not any(w.run_dir.is_done for w in work)
    assert not run(work, local()).interrupted
    assert [w.run_dir.result().loss for w in work] == [w.run_dir.result().loss for w in straight]


def test_one_sweep_directory_has_one_driver(tmp_path):
    with (
        sweep_lock(tmp_path, "a"),
        pytest.raises(LaunchError, match="the sweep 'a' is being run by another process") as error,
    ):
        sweep_lock(tmp_path, "a").__enter__()
    assert f"held by process {os.getpid()}" in str(error.value)
