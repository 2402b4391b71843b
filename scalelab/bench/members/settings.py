"""Settings of a recipe that change its speed: tokens per second with and without each, and the loss of both.

    gain              tokens per second with the setting / without it
    loss difference   relative, after COMPARED_STEPS steps on one batch from the same weights

The settings are those of train/engines/settings.py; each value is compared with the one before it. A row is
absent, with the reason, where the device cannot have it.

Not here: the settings themselves, and what each needs of a device (train/engines/settings.py).
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from scalelab.bench.attempt import attempt
from scalelab.bench.base import BenchColumn, Benchmark, BenchRow, absent, failed
from scalelab.bench.steps import StepRate, TrainingSteps, obstacle_to_steps
from scalelab.bench.workbench import SizedSpec, Workbench
from scalelab.errors import ConfigError, RunError
from scalelab.hardware.device import Device
from scalelab.train.engines.settings import SPEED_SETTINGS, SpeedSetting, resolved_spec

COMPARED_STEPS, COMPARED_RATE = 5, 0.1
"""Steps whose last loss is compared, and the factor on the peak rates with which they are taken."""
TOLERANCE = 2e-3
"""Largest relative difference of the losses: bf16 against fp32 was measured to make 2e-4, rates that are
10% too high make 7e-3."""
ROUGH_TOLERANCE = 5e-3
"""Likewise for settings that change losses: fp8 against bf16 was simulated to make 2e-3 at widths 128 and 256."""
RATE_S = 2.0
"""Seconds of timed steps of each side."""


@dataclass(frozen=True)
class TimedSetting:
    """One setting, as a row."""

    name: str
    without: Mapping[str, Any]
    """Fields of the RunSpec without it."""
    with_it: Mapping[str, Any]
    """These fields with it."""
    tolerance: float = TOLERANCE
    """Largest relative difference of the losses."""
    obstacle: Callable[[Device], str] = lambda _: ""
    """Why it cannot be measured on a device; empty where it can."""

    def __post_init__(self) -> None:
        if set(self.without) != set(self.with_it) or self.without == self.with_it:
            raise ValueError(f"the setting {self.name} has to change the values of the same fields")


def timed_settings(settings: Iterable[SpeedSetting]) -> tuple[TimedSetting, ...]:
    """Return the comparisons to make: each value of each setting but the first, with the value before it.

    Args:
        settings: Settings of a run, in the order of the table.
    """
    return tuple(
        TimedSetting(
            f"{setting.field}: {value}",
            {setting.field: before},
            {setting.field: value},
            tolerance=ROUGH_TOLERANCE if setting.changes_loss else TOLERANCE,
            obstacle=setting.obstacle,
        )
        for setting in settings
        for before, value in pairwise(setting.values)
    )


SETTINGS = timed_settings(SPEED_SETTINGS)
"""Every setting that changes the speed of a run, in the order of the table."""


class SettingsBenchmark(Benchmark):
    """Each setting with and without, on the middle model."""

    title = "Settings"
    seconds = 140.0
    columns = (
        BenchColumn("without_tokens_per_s", "without", "tokens/s"),
        BenchColumn("tokens_per_s", "with", "tokens/s"),
        BenchColumn("gain", "gain", "ratio"),
        BenchColumn("loss_difference", "loss differs", "ratio"),
        BenchColumn("compared_with", "compared with", "text", "computed", is_optional=True),
    )
    note = "Gain: tokens per second with the setting over those without it, everything else as by default."

    def __init__(self, settings: tuple[TimedSetting, ...] | None = None):
        self.settings = SETTINGS if settings is None else settings

    def rows(self, bench: Workbench, ends: float) -> Iterator[BenchRow]:
        """See Benchmark."""
        known: dict[str, tuple[StepRate, float]] = {}  # by resolved run: rows share their sides
        for setting in self.settings:
            yield attempt(
                setting.name, bench.device, lambda setting=setting: _row(bench, setting, ends, known)
            )


def _row(
    bench: Workbench, setting: TimedSetting, ends: float, known: dict[str, tuple[StepRate, float]]
) -> BenchRow:
    obstacle = setting.obstacle(bench.device)
    if obstacle:
        return absent(setting.name, obstacle)
    sides: list[tuple[StepRate, float]] = []
    for changes in (setting.without, setting.with_it):
        try:
            sized = bench.spec_at(bench.workload.middle, **changes)
        except ConfigError as error:
            return absent(setting.name, f"{_words(changes)} is refused: {error.problem}")
        try:
            key = resolved_spec(sized.spec, bench.device).id
        except RunError as error:  # the device cannot do it
            return absent(setting.name, f"{_words(changes)}: {error.problem}")
        if key not in known:
            measured = _measure(bench, sized, ends)
            if isinstance(measured, str):
                return absent(setting.name, f"{_words(changes)}: {measured}")
            known[key] = measured
        sides.append(known[key])
    (without, loss_without), (with_it, loss) = sides
    tokens = bench.spec_at(bench.workload.middle).spec.batch_tokens
    difference = abs(loss - loss_without) / abs(loss_without)
    values = {
        "without_tokens_per_s": without.steps_per_s * tokens,
        "tokens_per_s": with_it.steps_per_s * tokens,
        "gain": with_it.steps_per_s / without.steps_per_s,
        "loss_difference": difference if difference - difference == 0 else None,
        "compared_with": _words(setting.without),
    }
    if not difference <= setting.tolerance:
        reason = f"after {COMPARED_STEPS} steps the loss is {loss:.5f}, and {loss_without:.5f} without it"
        return failed(setting.name, reason, values)
    return BenchRow(setting.name, "measured", values)


def _measure(bench: Workbench, sized: SizedSpec, ends: float) -> tuple[StepRate, float] | str:
    """Return the rate and the last compared loss of one side, or why there is none."""
    obstacle = obstacle_to_steps(sized.spec, bench.device, bench.matmul_flops_per_s, ends)
    if obstacle:
        return obstacle
    try:
        steps = TrainingSteps(sized.spec, bench.device)
    except RunError as error:  # the device cannot do it
        return error.problem
    try:
        loss = steps.losses(COMPARED_STEPS, COMPARED_RATE)[-1]
        if time.monotonic() > ends:
            return "the time limit has passed"
        rate = steps.rate(RATE_S, ends)
    finally:
        steps.close()
    return rate if isinstance(rate, str) else (rate, loss)


def _words(changes: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}: {value}" for name, value in changes.items())
