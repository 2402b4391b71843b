"""Share of attention in the time of a training step, by torch's profiler.

    on a GPU   time of the kernels whose names are those of attention / time of all kernels
    on a CPU   time of the operations of attention, forward and backward / time of the steps

Beside it the share in the FLOPs, as they are counted: 1 - 6 x matmul parameters / FLOPs per token. A
compiler can fuse attention into kernels that have other names; where no name is known there is no share.
"""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from scalelab.bench.attempt import attempt_steps
from scalelab.bench.base import BenchColumn, Benchmark, BenchRow, absent
from scalelab.bench.steps import TrainingSteps
from scalelab.bench.workbench import SizedSpec, Workbench

PROFILED_STEPS = 3
KERNEL_WORDS = ("flash", "fmha", "attention", "attn", "sdpa")
"""Parts of the names of kernels of attention: FlashAttention, CUTLASS (efficient), cuDNN, AOTriton."""
OPERATIONS = (
    "_ShortAttention",
    "_ShortAttentionBackward",
    "aten::scaled_dot_product_attention",
    "aten::_scaled_dot_product_flash_attention_for_cpu_backward",
)
"""Operations of attention on a CPU, none inside another (model/kernels.py, and torch's own)."""


@dataclass(frozen=True)
class ProfiledName:
    """Time of one name in a profile."""

    name: str
    seconds: float
    """A kernel's own time; the time of an operation on a CPU includes all that it calls."""


class AttentionBenchmark(Benchmark):
    """Attention's share of a step of the middle model."""

    title = "Attention"
    seconds = 20.0
    columns = (
        BenchColumn("time_share", "share of time", "share"),
        BenchColumn("flops_share", "share of FLOPs", "share", "computed"),
        BenchColumn("step_s", "a step", "seconds"),
        BenchColumn("kernels", "kernels", "text"),
    )

    def rows(self, bench: Workbench, ends: float) -> Iterator[BenchRow]:
        """See Benchmark."""
        yield attempt_steps(bench, bench.spec_at(bench.workload.middle), ends, _row)


def _row(bench: Workbench, sized: SizedSpec, ends: float) -> BenchRow:
    del ends  # a profile of a few steps
    is_gpu = bench.device.torch.type == "cuda"
    steps = TrainingSteps(sized.spec, bench.device)
    try:
        steps.seconds(2)
        os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler writes to stderr when it starts
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if is_gpu else [])]
        with profile(activities=activities) as profiler:
            seconds = steps.seconds(PROFILED_STEPS)
    finally:
        steps.close()
    found = list(_kernels(profiler) if is_gpu else _operations(profiler))
    total = sum(kernel.seconds for kernel in found) if is_gpu else seconds
    return attention_row(sized, found, total, seconds / PROFILED_STEPS)


def _kernels(profiler: profile) -> Iterator[ProfiledName]:
    for event in profiler.key_averages():
        if event.device_type == DeviceType.CUDA:
            yield ProfiledName(event.key, event.self_device_time_total / 1e6)


def _operations(profiler: profile) -> Iterator[ProfiledName]:
    for event in profiler.key_averages():
        if event.device_type == DeviceType.CPU:
            yield ProfiledName(event.key, event.cpu_time_total / 1e6)


def is_attention(name: str) -> bool:
    """Return whether a kernel or an operation is one of attention, by its name.

    Kernels that torch.compile wrote are named after the operations around which they were fused, which
    attention can be one of; attention itself is never among them.
    """
    if name in OPERATIONS:
        return True
    is_ours_or_torchs = name.startswith(("_", "aten::", "autograd::", "triton_"))
    return not is_ours_or_torchs and any(word in name.lower() for word in KERNEL_WORDS)


def attention_row(
    sized: SizedSpec, profiled: Iterable[ProfiledName], total_s: float, step_s: float
) -> BenchRow:
    """Return the row of a profile.

    Args:
        sized: The model.
        profiled: Names with their times.
        total_s: Time of which the share is taken, seconds.
        step_s: Time of a step, profiled, seconds.
    """
    of_attention = [found for found in profiled if is_attention(found.name)]
    if not of_attention or total_s <= 0:
        return absent(sized.name, "no kernel in the profile has a name that is known as one of attention")
    size = sized.spec.model.size(sized.spec.seq_len)
    first = max(of_attention, key=lambda found: found.seconds)
    return BenchRow(
        sized.name,
        "measured",
        {
            "time_share": sum(found.seconds for found in of_attention) / total_s,
            "flops_share": 1 - 6 * size.n_params_matmul / size.flops_per_token,
            "step_s": step_s,
            "kernels": f"{len(of_attention)}, most time in {first.name[:40]}",
        },
    )
