"""Classify how a job ended, from the reports and exit statuses of its processes."""

from collections.abc import Sequence
from pathlib import Path

from scalelab.jobs.base import Job, JobOutcome, ProcessReport

FIRST = ("refused", "error", "out_of_memory", "elsewhere")
"""Outcomes that need action; they take precedence over their consequences."""


def classify(
    job: Job,
    reports: Sequence[ProcessReport | None],
    codes: Sequence[int | None],
    first_gone: int | None = None,
) -> JobOutcome:
    """Return one outcome for all processes of a job.

    Args:
        job: The job.
        reports: Report of each process; None if it sent none.
        codes: Exit status of each; below 0 the signal that ended it; None is unknown.
        first_gone: The process that was found dead before the others were ended.
    """
    for outcome in FIRST:
        for rank, word in enumerate(reports):
            if word is not None and word.outcome == outcome:
                reason = word.reason
                if outcome in {"error", "out_of_memory"} and len(reports) > 1:
                    reason = f"process {rank}: {reason}"
                return JobOutcome(job, outcome, reason, word.where, word.fix)
    silent = [rank for rank, word in enumerate(reports) if word is None]
    rank = first_gone if first_gone in silent else next(iter(silent), None)
    if rank is not None:
        return _unreported(job, rank, codes[rank], alone=len(reports) == 1)
    outcomes = [word.outcome for word in reports if word is not None]
    for outcome in ("killed", "interrupted"):
        if outcome in outcomes:
            word = reports[outcomes.index(outcome)]
            return JobOutcome(job, outcome, word.reason)
    return JobOutcome(job, "done")


def _unreported(job: Job, rank: int, code: int | None, *, alone: bool) -> JobOutcome:
    stacks = job.dir.path / f"stalled-{rank}.txt"
    if code == 1 and _is_filled(stacks):
        return JobOutcome(job, "stalled", f"no step for too long; its stack traces: {stacks}")
    who = "the process" if alone else f"process {rank}"
    if code is None:
        return JobOutcome(job, "killed", f"{who} is gone; its exit status is unknown")
    by = f"signal {-code}" if code < 0 else f"exit status {code}"
    return JobOutcome(job, "killed", f"{who} ended by {by}")


def _is_filled(path: Path) -> bool:
    try:
        return path.stat().st_size > 0
    except OSError:  # without them the reason is less exact, and the job is tried again all the same
        return False
