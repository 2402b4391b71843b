"""Limits of the driver: how often and for how long a job is tried, and what stops all of them.

Units: seconds. Not here: how long one that was asked to stop may take to save (tries.py).
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Number of tries and their timeouts."""

    retries: int = 2
    """Further tries of a job that was killed, stalled or ran out of memory, and got no further."""
    heartbeat_timeout_s: float = 900.0
    """Seconds without a log entry after which a job counts as stalled."""
    first_step_timeout_s: float | None = None
    """Seconds without a log entry before the first step of a try, when checkpoints are verified and models
    are compiled. None: heartbeat_timeout_s."""
    wall_timeout_s: float | None = None
    """Longest duration of one try, seconds. None: no limit."""
    stop_on_refusal: bool = True
    """Whether a refused job, which needs a person to fix something, stops the others."""
    stop_after_s: float | None = None
    """Seconds after which all jobs are asked to save and stop, as by Ctrl-C. None: never."""
    take_over: bool = True
    """Whether to wait for jobs that other processes run, to take over what they leave behind. False: such a job
    ends at once, as elsewhere."""
    ask_s: float | None = None
    """Seconds after which the source is asked again although no job has ended. None: only then."""
