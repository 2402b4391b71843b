"""What an executor is: something that trains run directories, and says how each ended.

The driver owns order, retries and the record; an executor owns processes and devices. All
of them share one job description, a run directory, so a job can always be repeated by hand
with `scalelab run <dir>/spec.yaml`.
"""

from dataclasses import dataclass
from typing import Literal, Protocol

from scalelab.config import Config, Count, NonNegative, Positive, Whole
from scalelab.train.rundir import RunDir
from scalelab.train.spec import RunSpec
from scalelab.train.stability import Stability

Outcome = Literal[
    "done",  # there is a result: finished or diverged
    "interrupted",  # saved and stopped on request
    "elsewhere",  # another process holds the run's lease, or has taken it over
    "refused",  # a person has to mend something first; the message says what
    "out_of_memory",  # not even the smallest micro-batch, or no memory for the process
    "killed",  # ended by a signal that nobody here sent
    "stalled",  # ended by us: no progress, or past its wall time
    "error",  # our own bug; there is a traceback
]
RETRIED: tuple[Outcome, ...] = ("killed", "stalled", "out_of_memory")
"""Outcomes that another try may change. A retry goes on from the newest checkpoint."""


@dataclass(frozen=True)
class Ended:
    """One job that has ended."""

    run_dir: RunDir
    outcome: Outcome
    reason: str | None = None


@dataclass(frozen=True)
class Devices:
    """What an executor found, as far as an estimate needs it."""

    n: int
    """Devices that are paid for."""
    name: str
    abreast: int
    """Runs that go on at once at the speed of one: cores of a CPU, or GPUs."""

    def __str__(self) -> str:
        return f"{self.n} x {self.name}, {self.abreast} runs abreast"


class LaunchConfig(Config):
    """How runs are executed. Nothing here decides what they come to."""

    executor: Literal["inline", "local"] = "local"
    """local: a process for each run. inline: in this process, one after another."""
    slots: Count | None = None
    """Runs at once. None: one per CPU core, or on GPUs as many as their memory holds."""
    max_runs_per_gpu: Count = 4
    """Upper end of that, since runs on one GPU also share its arithmetic."""
    retries: Whole = 2
    """Further tries for a run whose process was killed, stalled or ran out of memory."""
    heartbeat_timeout_s: Positive = 900.0
    """A run that logs nothing for so long is taken for stuck. Compiling counts as silence."""
    wall_timeout_s: Positive | None = None
    """Longest time for one try of one run. None: as long as it takes."""
    threads: Count = 1
    """CPU threads of each process of a launched run. One, as in a sweep, gives the same last bit;
    more are faster on an idle machine and far slower on a busy one: they wait for one another."""
    checkpoint_s: Positive | None = None
    """Seconds between the checkpoints of a launched run. None: as often as costs under 5%."""
    stability: Stability = Stability()
    """What a launched run does about spikes and batches that give no number."""
    price_per_device_hour: NonNegative | None = None
    """What an hour of one device costs, in any currency, for the estimate. None: not shown."""


class Executor(Protocol):
    """What the driver asks of an executor."""

    @property
    def devices(self) -> Devices:
        """What was found, for an estimate."""

    def measure(self, specs: list[RunSpec]) -> list[float] | None:
        """Seconds per token of each spec, timed; None where that failed."""

    def has_room(self, run_dir: RunDir) -> bool:
        """Whether this run could start now."""

    def submit(self, run_dir: RunDir) -> None:
        """Start a run. Only after has_room said yes."""

    def poll(self) -> list[Ended]:
        """Jobs that ended since the last call."""

    def stop(self) -> None:
        """Ask every running job to save and stop; poll will report them."""

    def kill(self) -> None:
        """End every running job now."""

    def close(self) -> None:
        """Let go of everything that was held."""
