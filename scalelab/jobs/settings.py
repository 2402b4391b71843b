"""Settings for executing runs, and the driver's limits derived from them."""

from dataclasses import replace
from typing import Any, Literal

from pydantic import model_validator

from scalelab.config import Config, Count, NonNegative, Positive, Whole, plugin
from scalelab.jobs import EXECUTORS
from scalelab.jobs.executors.local import LocalConfig
from scalelab.jobs.kubernetes import KubernetesSettings
from scalelab.jobs.limits import Limits
from scalelab.train.process_timeouts import ProcessTimeouts
from scalelab.train.stability import Stability

MOVED = {"slots": None, "max_runs_per_gpu": 4}
"""Settings of the local executor that older files place beside it, with their defaults."""


class LaunchConfig(Config):
    """How runs are executed. None of these settings changes a result."""

    executor: plugin(EXECUTORS) = LocalConfig()
    """local: a process for each run. inline: in this process, one after another. slurm, ray: on the nodes of
    a cluster. workers: by `scalelab worker` that people or other programs start. Its own settings stand with
    it: `executor: {kind: local, slots: 2}`."""
    retries: Whole = 2
    """Further tries for a run whose process was killed, stalled or ran out of memory without reaching
    a later checkpoint than the previous try."""
    heartbeat_timeout_s: Positive = 900.0
    """Seconds without a log entry after which a run counts as stalled. Compilation logs nothing. Before
    the first step of a launched run the larger of timeouts.start_s and timeouts.first_step_s is added."""
    wall_timeout_s: Positive | None = None
    """Longest duration of one try of one run, seconds. None: no limit."""
    threads: Count = 1
    """CPU threads of each process of a launched run. One, as in a sweep, reproduces results
    exactly; more are faster on an idle machine and much slower on a busy one."""
    checkpoint_s: Positive | None = None
    """Seconds between the checkpoints of a launched run. None: as often as costs less than 5% of the time."""
    stability: Stability = Stability()
    """How a launched run handles loss spikes and non-finite batches."""
    timeouts: ProcessTimeouts = ProcessTimeouts()
    """How long the processes of a launched run wait for one another at the start, in the first step and
    in later ones. Example: timeouts.start_s=3600."""
    gradient_sums: Literal["auto", "step", "micro_batch"] = "auto"
    """How often several processes sum their gradients: once a step, which takes 6 bytes of memory for each
    parameter on a device in bf16 and 8 in fp32, or in every micro_batch. auto: once a step if the plan's
    estimate of memory fits the device with them. A pipeline always sums once a step."""
    kubernetes: KubernetesSettings = KubernetesSettings()
    """Pods of the workers that `scalelab sweep FILE --prepare kubernetes` describes."""
    price_per_device_hour: NonNegative | None = None
    """Price of one device for one hour, in any currency, for the estimate. None: not shown."""

    @model_validator(mode="before")
    @classmethod
    def _executors_have_their_own_settings(cls, values: Any) -> Any:
        """`slots` and `max_runs_per_gpu` beside the executor, as files from before have them."""
        if not isinstance(values, dict) or not MOVED.keys() & values.keys():
            return values
        values = dict(values)
        moved = {name: values.pop(name) for name in MOVED if name in values}
        moved = {name: value for name, value in moved.items() if value != MOVED[name]}
        executor = values.get("executor", "local")
        executor = {"kind": executor} if isinstance(executor, str) else executor
        if moved and not (isinstance(executor, dict) and executor.get("kind") == "local"):
            raise ValueError(
                f"{', '.join(moved)} belongs to the executor local: write "
                f"executor: {{kind: local, {next(iter(moved))}: ...}}"
            )
        if moved:
            values["executor"] = moved | executor
        return values

    @property
    def limits(self) -> Limits:
        """Return the limits for the driver."""
        return Limits(
            retries=self.retries,
            heartbeat_timeout_s=self.heartbeat_timeout_s,
            wall_timeout_s=self.wall_timeout_s,
        )

    @property
    def launched_limits(self) -> Limits:
        """Return the limits for the driver of a launched run, which may be silent for longer at first."""
        first = max(self.timeouts.start_s, self.timeouts.first_step_s)
        return replace(self.limits, first_step_timeout_s=self.heartbeat_timeout_s + first)
