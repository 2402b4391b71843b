"""The cost of a training run in one call, by the functions that a plan uses."""

from scalelab.plan.cost.budget import Mfu
from scalelab.plan.cost.price import FINAL, of_hours
from scalelab.plan.cost.training_time import TrainingTime


def cost(flops, *, devices, peak_flops_per_s, mfu, **rates):
    """Return the days of a run and its part of a project."""
    rate = peak_flops_per_s * Mfu(mfu).value
    time = TrainingTime(flops, devices, rate, "assumed", "a test")
    return time.days, of_hours(FINAL, "planned", flops=flops, device_hours=time.device_hours, **rates)
