"""Training time of a run, from one derivation: the time of a step and the MFU follow from it.

    time = C / (devices x rate)        rate = peak x MFU        step = time / steps

C training FLOPs in the count of the plan; rate FLOP/s of one device, end to end: pipeline bubbles,
recomputation and waiting for links are inside it. The MFU is

    stated      --mfu
    estimated   COMPUTE_SHARE x share of a step that is computing x C / exact FLOPs, for a layout
    measured    of the sweep's largest runs, each on one device of the same type; on several
                devices times the share of a step that is computing

Without a peak the rate is the throughput of the sweep's largest runs.

Not here: the shares of a step (layout_estimate.py), restarts and idle time (availability.py).
"""

from dataclasses import dataclass

from scalelab.plan.cost.budget import Mfu

COMPUTE_SHARE = 0.55
"""Share of the dense peak that a device reaches while it computes. Assumed: Megatron-LM reaches an
MFU of 0.47 with a pipeline of 8 stages (175B parameters on H100s, Megatron Core documentation)."""
NOTABLE = 0.1  # relative difference of two MFUs from which a report points it out


@dataclass(frozen=True)
class TrainingTime:
    """Time of a training run and of its steps."""

    flops: float
    """Training FLOPs C, in the count of the plan."""
    devices: int
    flops_per_s: float
    """FLOPs per second of one device, end to end, in the same count."""
    status: str
    """Kind of the rate: measured or assumed."""
    basis: str
    """Source of the rate, in words."""
    mfu: Mfu | None = None
    """None where the peak of the device is unknown."""
    n_steps: int | None = None
    """Optimizer steps; None where the batch is unknown."""

    @property
    def seconds(self) -> float:
        """Seconds of training."""
        return self.flops / (self.devices * self.flops_per_s)

    @property
    def days(self) -> float:
        """Days of training."""
        return self.seconds / 86400

    @property
    def device_hours(self) -> float:
        """Hours of training, summed over the devices."""
        return self.flops / self.flops_per_s / 3600

    @property
    def step_s(self) -> float | None:
        """Seconds of a step; None where the number of steps is unknown."""
        return None if self.n_steps is None else self.seconds / self.n_steps


def layout_mfu(computing: float, count_ratio: float, measured: Mfu | None = None) -> Mfu:
    """Return the MFU that a layout would give.

    Args:
        computing: Share of a step that is computing, 0 to 1.
        count_ratio: FLOPs in the count of the plan over exact FLOPs.
        measured: MFU measured on one device; None for COMPUTE_SHARE.
    """
    if measured is not None:
        value = measured.value * computing
        return Mfu(value, f"{measured.origin}, times the {computing:.0%} of a step that is computing")
    origin = (
        f"estimated for the layout: {COMPUTE_SHARE:g} of the peak while computing, assumed, x {computing:.0%} "
        "of a step"
    )
    if abs(count_ratio - 1) > 0.005:
        origin += f" x {count_ratio:.0%}, the share of the FLOPs that the plan counts"
    return Mfu(min(1.0, COMPUTE_SHARE * computing * count_ratio), origin)
