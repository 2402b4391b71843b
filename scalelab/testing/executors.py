"""Conformance suite of executors."""

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from scalelab.errors import LaunchError, RunError, ScalelabError
from scalelab.jobs import EXECUTORS
from scalelab.jobs.base import AvailableDevices, Executor, ExecutorConfig, Job, JobOutcome, JobResources
from scalelab.jobs.worker import Assignment
from scalelab.train.run_directory import RunDir

PATIENCE_S = 120.0


def probe(assignment: Assignment) -> str:
    """A job that counts: it notes each step in its journal and leaves the sum as its result.

    Settings: n_steps, step_s; `refuse` and `fail` end it before the first step, the latter in the
    last process of a gang only.
    """
    settings, last = assignment.settings, assignment.processes - 1
    if settings.get("refuse"):
        raise RunError("it is refused", where="the probe", fix="ask for something else")
    if settings.get("fail") and assignment.rank == last:
        raise ValueError("it fails")
    if assignment.rank > 0:
        (assignment.dir.path / f"rank-{assignment.rank}").touch()
        while settings.get("fail"):
            time.sleep(0.01)
        return "done"
    with assignment.dir.claimed("probe") as (ours, _):
        if ours.is_done:
            return "done"
        done = [event["step"] for event in ours.events() if event["event"] == "checkpoint"]
        for step in range(len(done), settings["n_steps"]):
            if assignment.stop():
                return "interrupted"
            time.sleep(settings.get("step_s", 0.0))
            ours.append("checkpoint", step=step)
        while assignment.processes > 1 and not (ours.path / f"rank-{last}").exists():
            time.sleep(0.01)
        ours.publish(ours.result_path, str(sum(range(settings["n_steps"]))))
    return "done"


def check_executor(name: str, folder: Path, settings: Mapping[str, Any] | None = None) -> None:
    """Hold a registered executor to its promises.

    Args:
        name: In EXECUTORS.
        folder: Empty; jobs work below it.
        settings: Of its config, where it cannot do without.
    """
    config = EXECUTORS[name].model_validate({"kind": name, **(settings or {})})
    assert isinstance(config, ExecutorConfig)
    for check in (_carries, _tells_refusals, _stops, _ends_at_once, _gangs, _calls):
        home = folder / check.__name__.strip("_")
        executor = config.start((), home)
        try:
            check(executor, home)
        finally:
            executor.close()


def job(folder: Path, name: str, *, processes: int = 1, **settings: Any) -> Job:
    """A probe's job below a folder."""
    (folder / name).mkdir(parents=True, exist_ok=True)
    settings = {"n_steps": 3, **settings}
    run_dir = RunDir(folder / name)
    return Job(name, run_dir, "probe", resources=JobResources(processes), settings=settings)


def _until(executor: Executor, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """Poll until a condition of all endings so far holds."""
    ended: dict[str, Any] = {}
    deadline = time.monotonic() + PATIENCE_S
    while not condition(ended):
        assert time.monotonic() < deadline, f"nothing came of it: {ended}"
        for name, state in executor.poll().items():
            if isinstance(state, JobOutcome):
                assert name not in ended, f"the ending of {name} was reported twice"
                ended[name] = state
            else:
                assert state in {"queued", "running", "unknown"}
        time.sleep(0.01)
    return ended


def _carries(executor: Executor, folder: Path) -> None:
    """Every job is carried to its result, once."""
    jobs = [job(folder, f"job{i}") for i in range(3)]
    ended: dict[str, Any] = {}
    assert executor.find(jobs) == ()
    for each in jobs:
        executor.check(each)
        ended |= _until(executor, lambda _, each=each: executor.has_room(each))
        executor.submit(each)
    ended |= _until(executor, lambda late: len({**ended, **late}) == 3)
    assert {e.outcome for e in ended.values()} == {"done"}, ended
    for each in jobs:
        assert each.dir.result_path.read_text() == "3"
        steps = [e["step"] for e in each.dir.events() if e["event"] == "checkpoint"]
        assert steps == [0, 1, 2]
    assert not executor.poll()
    assert isinstance(executor.devices, AvailableDevices)


def _one(executor: Executor, each: Job) -> JobOutcome:
    executor.submit(each)
    return _until(executor, lambda ended: each.id in ended)[each.id]


def _tells_refusals(executor: Executor, folder: Path) -> None:
    """What a person has to fix comes back in three parts, our own bug with its last line."""
    refused = _one(executor, job(folder, "refused", refuse=True))
    assert (refused.outcome, refused.reason) == ("refused", "it is refused")
    assert (refused.where, refused.fix) == ("the probe", "ask for something else")
    failed = _one(executor, job(folder, "failed", fail=True))
    assert (failed.outcome, failed.reason) == ("error", "ValueError: it fails")
    assert (failed.job.dir.path / "traceback.txt").exists()


def _stops(executor: Executor, folder: Path) -> None:
    """A job that is asked to stop saves and stops, and another try resumes."""
    long = job(folder, "long", n_steps=100_000, step_s=0.001)
    if executor.capabilities.blocking:
        return  # it can be asked only from a signal's handler; the driver's tests do so
    executor.submit(long)
    _until(executor, lambda _: any(long.dir.events()))
    executor.cancel([long.id], now=False)
    ended = _until(executor, lambda ended: long.id in ended)[long.id]
    assert ended.outcome == "interrupted", ended
    assert not long.dir.is_done
    steps = sum(event["event"] == "checkpoint" for event in long.dir.events())
    again = _one(executor, replace(long, settings={"n_steps": steps + 1}))
    assert again.outcome == "done"


def _ends_at_once(executor: Executor, folder: Path) -> None:
    """A job that does not listen is ended."""
    deaf = job(folder, "deaf", n_steps=1, step_s=1000.0)
    if executor.capabilities.blocking:
        return
    executor.submit(deaf)
    _until(executor, lambda _: (deaf.dir.path / "job.json").exists())
    executor.cancel([deaf.id], now=True)
    ended = _until(executor, lambda ended: deaf.id in ended)[deaf.id]
    assert ended.outcome in {"killed", "interrupted"}, ended


def _gangs(executor: Executor, folder: Path) -> None:
    """Processes of a job start together and end together, or such a job is refused by name."""
    gang = job(folder, "gang", processes=2)
    if not executor.capabilities.gangs:
        refusal = _refusal(executor, gang)
        assert refusal is not None, "a gang was not refused"
        assert "2" in refusal.problem
        assert refusal.fix
        return
    executor.check(gang)
    assert _one(executor, gang).outcome == "done"
    assert (gang.dir.path / "rank-1").exists()
    broken = _one(executor, job(folder, "broken", processes=2, fail=True))
    assert (broken.outcome, broken.reason) == ("error", "process 1: ValueError: it fails")


def _refusal(executor: Executor, each: Job) -> LaunchError | None:
    try:
        executor.check(each)
    except LaunchError as refusal:
        return refusal
    return None


def _calls(executor: Executor, folder: Path) -> None:
    """A function of ours is called where the jobs are, where the executor says that it can."""
    del folder
    if executor.capabilities.timing:
        assert executor.call("scalelab.units:si", 1500) == "1.5k"
        assert executor.call("scalelab.units:si", 1500, limit_s=PATIENCE_S) == "1.5k"
        assert "a.yaml" in _place_of_error(executor), "an error that a person can fix was not passed on"


def _place_of_error(executor: Executor) -> str:
    try:
        executor.call("scalelab.config:parse_yaml", "{", "a.yaml")
    except ScalelabError as error:
        return error.where
    return ""
