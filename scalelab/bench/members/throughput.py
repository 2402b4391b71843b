"""Tokens per second, MFU and memory of training steps, from the smallest model to the largest that fits.

    MFU               FLOPs per training token x tokens per second / dense peak of the device's datasheet
    of product        the same FLOPs per second / those of a matrix product, measured on this device

FLOPs are exact and count attention in full. An MFU above 1 is impossible, so it is a failed row: the
datasheet, the count or the clock is wrong. The goals are those of the project for H100 and H200.
"""

from collections.abc import Iterator

from scalelab.bench.attempt import attempt
from scalelab.bench.base import BenchColumn, Benchmark, BenchRow, absent, failed
from scalelab.bench.steps import StepRate, TrainingSteps, obstacle_to_steps
from scalelab.bench.workbench import SizedSpec, Workbench
from scalelab.hardware.accelerators import by_driver_name
from scalelab.hardware.device import Device
from scalelab.train.memory import run_bytes

GOALS = ((3.5e8, 0.50), (1e8, 0.40), (1e7, 0.25))
"""Least target size, parameters, and the MFU that is aimed at from there on."""
GOAL_DEVICES = ("h100", "h200")
RATE_S = 4.0
"""Seconds of timed steps of each model."""


class ThroughputBenchmark(Benchmark):
    """Training steps at every size of the workload."""

    title = "Training steps"
    seconds = 150.0
    columns = (
        BenchColumn("n_params", "N", "parameters", "computed"),
        BenchColumn("tokens_per_s", "tokens/s", "tokens/s"),
        BenchColumn("flops_per_s", "FLOP/s", "FLOP/s", is_optional=True),
        BenchColumn("mfu", "MFU", "share"),
        BenchColumn("goal", "goal", "share", "assumed"),
        BenchColumn("product_ratio", "of product", "ratio"),
        BenchColumn("peak_bytes", "memory", "bytes"),
        BenchColumn("planned_bytes", "planned", "bytes", "computed"),
        BenchColumn("micro_batch_tokens", "micro-batch", "tokens", "computed", is_optional=True),
        BenchColumn("spread", "spread", "ratio", is_optional=True),
        BenchColumn("first_steps_s", "first steps", "seconds", is_optional=True),
    )
    note = (
        "N is the matmul count. MFU: share of the datasheet's dense peak. Of product: FLOP/s over those of a "
        "matrix product measured here. Planned: the memory that the planner counts on."
    )

    def rows(self, bench: Workbench, ends: float) -> Iterator[BenchRow]:
        """See Benchmark."""
        reason = ""
        for sized in bench.sizes():
            reason = reason and f"{reason} (a smaller model)"
            reason = reason or obstacle_to_steps(sized.spec, bench.device, bench.matmul_flops_per_s, ends)
            if reason:
                yield absent(sized.name, reason)
                reason = reason.removesuffix(" (a smaller model)")
                continue
            yield attempt(sized.name, bench.device, lambda sized=sized: _row(bench, sized, ends))


def _row(bench: Workbench, sized: SizedSpec, ends: float) -> BenchRow:
    steps = TrainingSteps(sized.spec, bench.device)
    try:
        rate = steps.rate(RATE_S, ends)
        rows = steps.engine.micro_rows
    finally:
        steps.close()
    if isinstance(rate, str):
        return absent(sized.name, rate)
    spec = sized.spec
    values = speeds(bench, sized, rate) | {
        "goal": goal(bench.device, sized.size),
        "peak_bytes": rate.peak_bytes,
        "planned_bytes": run_bytes(spec, steps.precision, rows, bench.device.kind, bench.device.memory_bytes),
        "micro_batch_tokens": rows * spec.seq_len,
        "spread": rate.spread,
        "first_steps_s": rate.first_steps_s,
    }
    mfu = values["mfu"]
    if isinstance(mfu, float) and mfu > 1:
        return failed(sized.name, mfu_fault(bench.device, mfu), values)
    return BenchRow(sized.name, "measured", values)


def speeds(bench: Workbench, sized: SizedSpec, rate: StepRate) -> dict[str, float | str | None]:
    """Return N, tokens per second, FLOP/s, MFU (None without a peak) and the share of a product."""
    spec, peak = sized.spec, bench.device.peak_flops_per_s
    tokens_per_s = rate.steps_per_s * spec.batch_tokens
    flops_per_s = tokens_per_s * spec.model.size(spec.seq_len).flops_per_token
    return {
        "n_params": sized.n_params,
        "tokens_per_s": tokens_per_s,
        "flops_per_s": flops_per_s,
        "mfu": None if peak is None else flops_per_s / peak,
        "product_ratio": flops_per_s / bench.matmul_flops_per_s,
    }


def mfu_fault(device: Device, mfu: float) -> str:
    """Return what an MFU above 1 says."""
    found = by_driver_name(device.name)
    return (
        f"an MFU of {mfu:.2f} cannot be: the peak of {device.name} ({found}), the count of FLOPs or the clock "
        "is wrong"
    )


def goal(device: Device, size: float) -> float | None:
    """Return the MFU that is aimed at on a device from a target size, parameters, on; None without a goal."""
    found = by_driver_name(device.name)
    if found is None or found.name not in GOAL_DEVICES:
        return None
    return next((share for least, share in GOALS if size >= least), None)
