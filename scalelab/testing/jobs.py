"""Does a kind of job keep its contract? For members of KINDS, of any package.

    check_kind(make, folder)        make(folder) gives a fresh job that works below a folder

The function of a kind is called in this process, as every executor's worker calls it.
"""

from collections.abc import Callable
from pathlib import Path

from scalelab.jobs import KINDS
from scalelab.jobs.base import Job, ProcessReport
from scalelab.jobs.record import read_record, write_record
from scalelab.jobs.worker import Assignment, run_reported
from scalelab.leases import claim, holder
from scalelab.train.run_directory import LEASE

MOST_TRIES = 1000


def check_kind(
    make: Callable[[Path], Job], folder: Path, result: Callable[[Job], object] | None = None
) -> None:
    """Hold a kind of job to its promises.

    Args:
        make: A fresh job of that kind below an empty folder; the same work each time.
        folder: Empty.
        result: What a job came to; the same for the same work. None: it is not compared.
    """
    once = make(folder / "once")
    assert once.kind in KINDS
    assert once.standing(once) is None, "it has a result before it was done"
    assert _done(once, lambda: False).outcome == "done"
    standing = once.standing(once)
    assert standing is not None, "it reported that it is done, and left no result"
    assert standing.outcome == "done"
    assert holder(once.dir.path, LEASE) is None, "it holds its lease after its end"
    before = _result_time(once)
    assert _done(once, lambda: False).outcome == "done"
    assert _result_time(once) == before, "it was done twice"

    parts = make(folder / "parts")
    tries = 0
    while (reported := _done(parts, _after(1))).outcome == "interrupted":
        assert parts.standing(parts) is None, "it was interrupted, and has a result"
        tries += 1
        assert tries < MOST_TRIES, "it does not come further from one try to the next"
    assert reported.outcome == "done", reported
    assert tries, "it was asked to stop, and did not"
    steps = [event["step"] for event in parts.dir.events() if event["event"] == "checkpoint"]
    assert steps == sorted(set(steps)), f"it noted checkpoints that an earlier try had made: {steps}"
    if result is not None:
        assert result(parts) == result(once), "done in parts it comes to something else"

    held = make(folder / "held")
    lease = claim(held.dir.path, LEASE)
    assert lease is not None
    try:
        assert _done(held, lambda: False).outcome == "elsewhere"
        assert held.standing(held) is None
    finally:
        lease.release()


def _result_time(job: Job) -> int | None:
    """When the result was written, ns; None for a kind that leaves what it did elsewhere."""
    return job.dir.result_path.stat().st_mtime_ns if job.dir.is_done else None


def _done(job: Job, stop: Callable[[], bool]) -> ProcessReport:
    write_record(job)
    record = read_record(job.dir)
    return run_reported(Assignment(job.dir, record.settings, 0, 1, stop), record)


def _after(n: int) -> Callable[[], bool]:
    """Asked to stop at the question after the first n."""
    asked = iter([False] * n)
    return lambda: next(asked, True)
