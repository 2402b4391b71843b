"""How a job ended, from what its processes said and how they exited."""

from collections.abc import Sequence

from scalelab.jobs.base import Ended, Job, Said

FIRST = ("refused", "error", "out_of_memory", "elsewhere")
"""What somebody has to act on comes before what merely followed from it."""


def classify(
    job: Job,
    said: Sequence[Said | None],
    codes: Sequence[int | None],
    first_gone: int | None = None,
) -> Ended:
    """One ending for all processes of a job.

    Args:
        job: Which.
        said: What each process said; None where it said nothing.
        codes: Exit status of each; below 0 the signal that ended it; None is unknown.
        first_gone: The process that was found dead before the others were ended.
    """
    for outcome in FIRST:
        for rank, word in enumerate(said):
            if word is not None and word.outcome == outcome:
                reason = word.reason
                if outcome in {"error", "out_of_memory"} and len(said) > 1:
                    reason = f"process {rank}: {reason}"
                return Ended(job, outcome, reason, word.where, word.fix)
    silent = [rank for rank, word in enumerate(said) if word is None]
    rank = first_gone if first_gone in silent else next(iter(silent), None)
    if rank is not None:
        return _without_a_word(job, rank, codes[rank], alone=len(said) == 1)
    outcomes = [word.outcome for word in said if word is not None]
    for outcome in ("killed", "interrupted"):
        if outcome in outcomes:
            word = said[outcomes.index(outcome)]
            return Ended(job, outcome, word.reason)
    return Ended(job, "done")


def _without_a_word(job: Job, rank: int, code: int | None, *, alone: bool) -> Ended:
    stacks = job.dir.path / f"stalled-{rank}.txt"
    if code == 1 and stacks.exists() and stacks.stat().st_size > 0:
        return Ended(job, "stalled", f"no step for too long; what it was at: {stacks}")
    who = "the process" if alone else f"process {rank}"
    if code is None:
        return Ended(job, "killed", f"{who} is gone, and nobody knows how")
    by = f"signal {-code}" if code < 0 else f"exit status {code}"
    return Ended(job, "killed", f"{who} ended by {by}")
