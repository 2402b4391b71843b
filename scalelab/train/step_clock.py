"""Seconds of a training loop: all steps, and the first steps of each attempt apart.

A GPU queues the work that it is given, so a step's call returns before the step is done. Wherever an
interval ends (a logged point, an evaluation, a checkpoint) the device is waited for before the time is
read; otherwise the queued steps would be booked as evaluation, or as nothing.

The first steps of an attempt compile the model, fill caches and set memory aside. They are counted as
training, and also on their own, so that a rate over the steady steps compares with an estimate, which is
measured without them (throughput.py).

Not here: the loop (loop.py), seconds of evaluation.
"""

import time

from scalelab.hardware.device import Device
from scalelab.train.checkpoints.unsharded import Progress

FIRST_STEPS = 2
"""Steps of an attempt, and after a change of the micro-batch, that do not count as steady. An estimate
leaves out as many."""


class StepClock:
    """Adds the seconds of training steps to a run's progress.

    Args:
        progress: Where the run stands at the start of the attempt.
        device: Waited for where an interval ends.
    """

    def __init__(self, progress: Progress, device: Device):
        self._device, self._first_left, self._micro_rows = device, FIRST_STEPS, progress.micro_rows
        self.restart(progress)

    def restart(self, progress: Progress) -> None:
        """Leave out the time since the last step: it was spent on something else."""
        self._last = self._logged = time.monotonic()
        self._logged_step = progress.step

    @property
    def is_steady(self) -> bool:
        """Whether the next step is none of the first ones."""
        return self._first_left == 0

    def count_step(self, progress: Progress, *, wait: bool) -> None:
        """Add the time since the last step, or since the restart, once progress.step counts the step.

        Args:
            progress: Of the run.
            wait: Whether an interval ends here, so that the device must have done what it was given.
        """
        if progress.micro_rows != self._micro_rows:  # another shape, which is compiled too
            self._micro_rows, self._first_left = progress.micro_rows, FIRST_STEPS
        is_first = self._first_left > 0
        if wait or is_first:
            self._device.synchronize()
        now = time.monotonic()
        progress.train_s += now - self._last
        if is_first:
            progress.first_steps += 1
            progress.first_steps_s += now - self._last
            self._first_left -= 1
        self._last = now

    def steps_per_s(self, progress: Progress) -> float:
        """Return the rate since the last logged point or restart, and begin the next interval."""
        rate = (progress.step - self._logged_step) / max(self._last - self._logged, 1e-9)
        self._logged, self._logged_step = self._last, progress.step
        return rate


def steady_steps_per_s(progress: Progress) -> float | None:
    """Return the steps per second without the first steps of each attempt; None without others."""
    steps, seconds = progress.step - progress.first_steps, progress.train_s - progress.first_steps_s
    return steps / seconds if steps > 0 and seconds > 0 else None
