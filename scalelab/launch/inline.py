"""Runs in this very process, one after another: breakpoints work, and nothing is hidden."""

from scalelab.errors import ScalelabError
from scalelab.launch.base import Devices, Ended, LaunchConfig
from scalelab.launch.worker import outcome_of
from scalelab.train.pace import seconds_per_token
from scalelab.train.rundir import RunDir
from scalelab.train.spec import RunSpec


class Inline:
    """The in-process twin of every other executor."""

    def __init__(self, config: LaunchConfig):
        del config  # nothing to choose: one run at a time, wherever we are
        self._ended: list[Ended] = []
        self._stopping = False

    @property
    def devices(self) -> Devices:
        """One device, whatever it is."""
        return Devices(1, "this process", 1)

    def measure(self, specs: list[RunSpec]) -> list[float]:
        """Seconds per token of each spec, timed here and now."""
        return seconds_per_token([spec.to_yaml() for spec in specs], None)

    def has_room(self, run_dir: RunDir) -> bool:
        """Always: submit does not return before the run has ended."""
        del run_dir
        return not self._stopping

    def submit(self, run_dir: RunDir) -> None:
        """Train the run, here and now."""
        try:
            code = outcome_of(run_dir, stop=lambda: self._stopping)
            self._ended.append(Ended(run_dir, code))
        except ScalelabError as error:
            self._ended.append(Ended(run_dir, "refused", str(error)))

    def poll(self) -> list[Ended]:
        """What submit has brought since the last call."""
        ended, self._ended = self._ended, []
        return ended

    def stop(self) -> None:
        """Make the current run save and stop after its step."""
        self._stopping = True

    def kill(self) -> None:
        """The same: there is no other process to end."""
        self._stopping = True

    def close(self) -> None:
        """Nothing is held."""
