"""The choice of a layout: every product of degrees that divides, the cheapest that fits first.

Not here: what a layout needs and loses (layout_estimate.py), other numbers of devices
(device_counts.py).
"""

from collections.abc import Iterator
from dataclasses import replace

from scalelab.errors import PlanError
from scalelab.hardware.layout import Layout
from scalelab.model.base import Architecture
from scalelab.plan.cost.layout_estimate import Cluster, LayoutEstimate, estimate, words
from scalelab.train.engines.layout_checks import refused_setting
from scalelab.train.memory import SHARE_OF_DEVICE
from scalelab.units import sci


def layouts(
    model: Architecture,
    devices: Cluster,
    *,
    seq_len: int,
    batch_rows: int,
    convention_name: str = "ours",
    optimizer_bytes: int | None = None,
    flash: bool = True,
    cross_entropy: str = "auto",
    cuda_graphs: str = "auto",
    matmul: str = "plain",
) -> tuple[LayoutEstimate, ...]:
    """Return every possible layout with its best micro-batches, the best one that fits first.

    Layouts that fit and can be launched come first, ordered by lost time; then those that can only
    be planned; then those that do not fit, by memory. Offload is evaluated only if no layout that
    can be launched fits without it.

    Args:
        model: Architecture of the model.
        devices: Devices, all of which are used.
        seq_len: Tokens in a window.
        batch_rows: Windows in a step, over all devices.
        convention_name: Memory convention, a key of memory.CONVENTIONS.
        optimizer_bytes: Bytes of optimizer state per parameter; None for that of the convention.
        flash: Whether attention weights are recomputed instead of stored.
        cross_entropy: auto, plain or chunked, as in RunSpec. Layouts that cannot follow it are left out.
        cuda_graphs: auto, off or on, as in RunSpec. Likewise.
        matmul: plain or fp8, as in RunSpec. Likewise.

    Raises:
        PlanError: The batch cannot be divided over the devices, nothing fits, or the architecture
            or a setting cannot be used in several processes.
    """
    refused = refused_setting(Layout(replicate=devices.count), cross_entropy, cuda_graphs, matmul)
    if refused is not None:  # whatever the layout
        raise PlanError(refused[0], where="the layout of the plan", fix=refused[1])
    if devices.count > 1 and "sharding" not in model.parts:
        raise PlanError(
            f"{model.kind} models cannot be trained on several processes, and there are {devices.count} devices",
            where="the layout of the plan",
            fix="plan with one device: --gpus 1",
        )
    found: list[LayoutEstimate] = []
    saves_memory = (False, True) if devices.count > 1 else (False,)  # one device runs as in the sweep
    for offload in saves_memory:
        for base in _products(model, devices, seq_len, batch_rows):
            if refused_setting(base, cross_entropy, cuda_graphs, matmul) is not None:
                continue
            options = [
                estimate(
                    model,
                    devices,
                    replace(base, micro_batches=m, recompute=recompute, offload=offload),
                    seq_len,
                    batch_rows,
                    convention_name,
                    optimizer_bytes,
                    flash,
                    cross_entropy,
                )
                for m in divisors(batch_rows // (base.replicate * base.shard))
                if m >= base.pipeline
                for recompute in saves_memory
            ]
            found.append(min(options, key=_order))
        if not found:
            raise PlanError(
                f"no layout of {devices.count:,} devices divides a batch of {batch_rows:,} windows, "
                f"{model.blocks().words()}",
                where="the layout of the plan",
                fix=f"choose a number of devices that divides the batch, such as "
                f"{max(n for n in divisors(batch_rows) if n <= devices.count):,}",
            )
        if any(c.fits and c.launches for c in found):
            return tuple(sorted(found, key=_order))
    if any(c.fits for c in found):  # layouts that can only be planned
        return tuple(sorted(found, key=_order))
    raise _nothing_fits(model, devices, seq_len, found)


def _products(model: Architecture, devices: Cluster, seq_len: int, batch_rows: int) -> Iterator[Layout]:
    blocks = model.blocks()
    for tensor in divisors(devices.count):
        if tensor > devices.per_node or not blocks.divides(tensor):
            continue
        for pipeline in divisors(devices.count // tensor):
            if pipeline > blocks.most_stages:
                continue
            for context in divisors(devices.count // (tensor * pipeline)):
                if context > devices.per_node or seq_len % context:
                    continue
                data = devices.count // (tensor * pipeline * context)
                # In a pipeline every process needs as many micro-batches as there are stages.
                if batch_rows % data or batch_rows // data < pipeline:
                    continue
                for shard in divisors(data):
                    if blocks.width % shard == 0:
                        yield Layout(data // shard, shard, tensor, pipeline, context)


def divisors(n: int) -> list[int]:
    """Return the divisors of a whole number, ascending."""
    small = [d for d in range(1, int(n**0.5) + 1) if n % d == 0]
    return sorted({*small, *(n // d for d in small)})


def _order(c: LayoutEstimate) -> tuple[float, ...]:
    """Sort key of layouts, the best first."""
    if not c.fits:
        return (2, c.memory.total_bytes)
    # Where waiting is unknown, layouts are ordered by the bytes that they send.
    lost = c.pipeline_s + c.recompute_s + (c.wait_s or 0.0)
    return (not c.launches, c.layout.offload, lost, sum(c.sent_bytes.values()), c.layout.shard)


def _nothing_fits(
    model: Architecture, devices: Cluster, seq_len: int, found: list[LayoutEstimate]
) -> PlanError:
    launched = [c for c in found if c.launches] or found
    least = min(launched, key=lambda c: c.memory.total_bytes)
    n_params = model.size(seq_len).n_params_total
    kept, on_host = least.memory, ""
    if kept.host_bytes:
        may = SHARE_OF_DEVICE * devices.host_memory_bytes
        on_host = f"; {kept.host_bytes / 1e9:.4g} GB of the host, and {may / 1e9:.4g} GB for each "
        on_host += "device are assumed"
    return PlanError(
        f"a model of {sci(n_params)} parameters does not fit {devices.count} x "
        f"{devices.memory_bytes / 1e9:.4g} GB: of all layouts {words(least.layout)} needs the "
        f"least, {kept.total_bytes / 1e9:.4g} GB on the fullest device "
        f"({kept.activations_bytes / 1e9:.3g} GB of it activations, "
        f"{kept.logits_bytes / 1e9:.3g} GB logits, {kept.working_bytes / 1e9:.3g} GB weights in "
        f"use), and {SHARE_OF_DEVICE * devices.memory_bytes / 1e9:.4g} GB may be used{on_host}",
        where="the layout of the plan",
        fix="use more devices or devices with more memory, or plan a smaller model or shorter windows",
        evidence=tuple(sorted(found, key=_order)),
    )
