"""How long the processes of a launched run wait for one another before one counts as dead.

    start        joining, opening the corpus, verifying and loading a checkpoint; also returning to one
    first step   first step and first evaluation of an attempt, which compile the model
    step         every later collective operation of training and evaluation

A process that has ended is noticed at once, since its connections close. These are for one that hangs,
and must leave time for the slowest process of each phase: hashing and compilation take minutes at sizes
at which a step takes a second.

Not here: seconds without a step after which a process ends itself (jobs/worker.py).
"""

from scalelab.config import Config, Positive


class ProcessTimeouts(Config):
    """Timeouts of a launched run's phases, seconds."""

    start_s: Positive = 1800.0
    """Seconds that processes wait for one another while a checkpoint is verified, loaded or written, and
    while they join. Example: 3600."""
    first_step_s: Positive = 900.0
    """Seconds that they wait in the first step and the first evaluation, which compile. Example: 1800."""
    step_s: Positive = 120.0
    """Seconds that they wait in any later step or evaluation. Example: 300."""
