"""How runs are executed: what a person sets, and what of it the driver is told."""

from typing import Any

from pydantic import model_validator

from scalelab.config import Config, Count, NonNegative, Positive, Whole, plugin
from scalelab.jobs import EXECUTORS
from scalelab.jobs.drive import Limits
from scalelab.jobs.local import LocalConfig
from scalelab.train.stability import Stability

MOVED = {"slots": None, "max_runs_per_gpu": 4}
"""Settings of the local executor that once stood beside it, and their defaults then."""


class LaunchConfig(Config):
    """How runs are executed. Nothing here decides what they come to."""

    executor: plugin(EXECUTORS) = LocalConfig()
    """local: a process for each run. inline: in this process, one after another. Its own settings
    stand with it: `executor: {kind: local, slots: 2}`."""
    retries: Whole = 2
    """Further tries for a run whose process was killed, stalled or ran out of memory, and got no
    further than the try before."""
    heartbeat_timeout_s: Positive = 900.0
    """A run that logs nothing for so long counts as stalled. Compiling counts as silence."""
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

    @model_validator(mode="before")
    @classmethod
    def _executors_have_their_own_settings(cls, said: Any) -> Any:
        """`slots` and `max_runs_per_gpu` beside the executor, as files from before have them."""
        if not isinstance(said, dict) or not MOVED.keys() & said.keys():
            return said
        said = dict(said)
        moved = {name: said.pop(name) for name in MOVED if name in said}
        moved = {name: value for name, value in moved.items() if value != MOVED[name]}
        executor = said.get("executor", "local")
        executor = {"kind": executor} if isinstance(executor, str) else executor
        if moved and not (isinstance(executor, dict) and executor.get("kind") == "local"):
            raise ValueError(
                f"{', '.join(moved)} belongs to the executor local: write "
                f"executor: {{kind: local, {next(iter(moved))}: ...}}"
            )
        if moved:
            said["executor"] = moved | executor
        return said

    @property
    def limits(self) -> Limits:
        """What the driver is told."""
        return Limits(
            retries=self.retries,
            heartbeat_timeout_s=self.heartbeat_timeout_s,
            wall_timeout_s=self.wall_timeout_s,
        )
