"""What becomes of a command whose jobs did not all come to a result."""

from scalelab.errors import LaunchError
from scalelab.files import exists
from scalelab.jobs.base import JobOutcome
from scalelab.jobs.driver import JobOutcomes


class JobsLost(LaunchError):
    """Processes of jobs ended without a result, and further tries did too."""

    exit_status = 1


def require_done(outcomes: JobOutcomes, fix: str) -> None:
    """Return where every job is done.

    Args:
        outcomes: How the jobs ended.
        fix: What to do about a process that was killed again and again.

    Raises:
        JobsLost: A job ended without a result.
        KeyboardInterrupt: The jobs were asked to stop, and have.
    """
    if outcomes.interrupted:
        raise KeyboardInterrupt
    for ended in outcomes.ended.values():
        if ended.outcome not in {"done", "blocked"}:
            raise _lost(ended, fix)


def _lost(ended: JobOutcome, fix: str) -> JobsLost:
    trace = ended.job.dir.path / "traceback.txt"
    is_bug = ended.outcome == "error" and exists(trace)
    return JobsLost(
        f"the job {ended.job.id} ended without a result ({ended.outcome}): {ended.reason or 'no reason is known'}",
        where=str(trace if is_bug else ended.job.dir.log_path),
        fix="report that traceback" if is_bug else fix,
    )
