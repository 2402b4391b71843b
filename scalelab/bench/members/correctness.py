"""Losses on this device against those of fp32 on the CPU, compiled against uncompiled, resumed against not.

    difference  |loss - reference| / reference, both in nats per token

The model, its weights and the batch are the same on both sides. All steps train on that one batch, at a
tenth of the peak rates, so that its loss falls steadily and a wrong gradient or update adds up. A fresh
model has the same loss everywhere, so the first one that is compared is that after two steps. The
tolerances are about five times what bf16 was measured to make on a CPU, and a fifth of what rates that
are 10% too high make. A resumed run on the CPU has the loss of the uninterrupted one to the last bit.
"""

import time
from collections.abc import Callable, Iterator
from functools import cache, partial

from scalelab.bench.attempt import attempt
from scalelab.bench.base import BenchColumn, Benchmark, BenchRow, absent, failed
from scalelab.bench.steps import TrainingSteps
from scalelab.bench.whole_runs import own_cache, short_run, trained
from scalelab.bench.workbench import SizedSpec, Workbench
from scalelab.hardware.device import Device
from scalelab.train.engines.compilation import compile_note, usable_mode

REFERENCE = "reference"
FIRST_STEP, LAST_STEP, COMPARED_RATE = 2, 12, 0.1
"""Steps after which the losses are compared, and the factor on the peak rates with which they are taken."""
COMPARED_TOKENS = {"cpu": 1024, "cuda": 4096}
"""Tokens of the batch."""
TOLERANCES = {FIRST_STEP: {"fp32": 1e-4, "bf16": 4e-4}, LAST_STEP: {"fp32": 1e-3, "bf16": 6e-3}}
"""Relative difference of the losses after so many steps, by the precision."""
RESUMED_STEPS, STOPPED_AT = 12, 5
RESUMED_TOLERANCE = {"cpu": 0.0, "cuda": 2e-3}
"""Sums of some kernels of a GPU have no fixed order, so its runs differ in their last digits."""


class CorrectnessBenchmark(Benchmark):
    """Losses that have to agree."""

    title = "Correctness"
    seconds = 60.0
    columns = (
        BenchColumn("reference", "reference", "nats/token"),
        BenchColumn("loss", "here", "nats/token"),
        BenchColumn("difference", "difference", "ratio"),
        BenchColumn("tolerance", "tolerance", "ratio", "assumed"),
    )
    note = "Difference: of the losses, relative to the reference. A row beyond its tolerance is a failure."

    def rows(self, bench: Workbench, ends: float) -> Iterator[BenchRow]:
        """See Benchmark."""
        device = bench.device
        sized = bench.spec_at(bench.workload.reference, batch_tokens=COMPARED_TOKENS[device.kind])
        measures = _against_reference(bench, sized)
        measures["compiled"] = lambda: _against_uncompiled(device, sized)
        measures["resumed run"] = lambda: _resumed(bench)
        for name, measure in measures.items():
            if time.monotonic() > ends:
                yield absent(name, "the time limit has passed")
            else:
                yield attempt(name, device, measure)


def _losses(sized: SizedSpec, device: Device, **changes: str) -> list[float]:
    """Return the losses of a device on the fixed batch after 0, 1, 2 ... steps."""
    steps = TrainingSteps(sized.spec.model_copy(update=changes), device)
    try:
        return steps.losses(LAST_STEP + 1, COMPARED_RATE)
    finally:
        steps.close()


def _against_reference(bench: Workbench, sized: SizedSpec) -> dict[str, Callable[[], BenchRow]]:
    """Return the comparisons with fp32 on the CPU, uncompiled, by name.

    On a CPU fp32 would be compared with itself, so there is only bf16, computed slowly where the CPU does
    not multiply it.
    """
    device = bench.device
    cpu = Device("cpu", "reference", None)

    @cache
    def losses(precision: str) -> list[float]:
        if precision == REFERENCE:
            return _losses(sized, cpu, precision="fp32", compile="off")
        return _losses(sized, device, precision=precision)

    def measure(name: str, precision: str, step: int) -> BenchRow:
        reference = losses(REFERENCE)[step]
        return compared(name, reference, losses(precision)[step], TOLERANCES[step][precision])

    measures: dict[str, Callable[[], BenchRow]] = {}
    for precision in ("bf16",) if device.kind == "cpu" else ("bf16", "fp32"):
        for step in TOLERANCES:
            name = f"{precision}, after {step} steps"
            measures[name] = partial(measure, name, precision, step)
    return measures


def _against_uncompiled(device: Device, sized: SizedSpec) -> BenchRow:
    """Return the last loss of the network that is compiled by default against that of the uncompiled one."""
    name = "compiled"
    if usable_mode(device, "auto") == "off":
        reason = compile_note(device, "auto") or "runs on this type of device are not compiled by default"
        return absent(name, reason)
    reference, loss = (_losses(sized, device, compile=mode)[-1] for mode in ("off", "auto"))
    return compared(name, reference, loss, TOLERANCES[LAST_STEP][device.precision("auto")])


def _resumed(bench: Workbench) -> BenchRow:
    """Return the final loss of a run that was interrupted once against that of one that was not."""
    with own_cache(bench.directory):
        spec = short_run(bench, RESUMED_STEPS, COMPARED_TOKENS[bench.device.kind])
        whole = trained(spec, bench.directory / "whole")
        resumed = trained(spec, bench.directory / "resumed", (STOPPED_AT,))
    if whole.loss is None or resumed.loss is None or resumed.n_resumes != 1:
        return failed("resumed run", f"one ended as {whole.status}, the other as {resumed.status}")
    return compared("resumed run", whole.loss, resumed.loss, RESUMED_TOLERANCE[bench.device.kind])


def compared(name: str, reference: float, loss: float, tolerance: float) -> BenchRow:
    """Return the row of two losses, failed where they differ by more than the tolerance or are no numbers.

    Args:
        name: Name of the row.
        reference: Loss that is right, nats per token.
        loss: Loss of this device, nats per token.
        tolerance: Largest relative difference.
    """
    difference = abs(loss - reference) / abs(reference)
    values = {"reference": reference, "loss": loss, "difference": difference, "tolerance": tolerance}
    if difference <= tolerance:
        return BenchRow(name, "measured", values)
    values = {key: value if value - value == 0 else None for key, value in values.items()}
    return failed(name, f"the loss is {loss:.5f} and should be {reference:.5f}", values)
