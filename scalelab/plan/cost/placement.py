"""Placement of a run: its layout over devices, the batch, the memory of the fullest device.

On one device, or in a layout that the request gives, only memory is computed. On several devices
whose memory is known every layout is evaluated (layouts.py) and the cheapest that fits is taken.
Where the memory of a device is unknown, nothing is refused.

An assumed batch is rounded to a multiple that the devices divide, by at most BATCH_ROOM; the batch
of a recipe is never changed.

Not here: the formulas (memory.py, layout_estimate.py), other numbers of devices (device_counts.py).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from scalelab.errors import PlanError
from scalelab.hardware.accelerator import Accelerator
from scalelab.hardware.layout import Layout, parse_layout
from scalelab.plan.cost.budget import Mfu
from scalelab.plan.cost.device_counts import DeviceCount, nearby_counts, power_of_two_and_three
from scalelab.plan.cost.layout_estimate import Cluster, LayoutEstimate, estimate_layout, words
from scalelab.plan.cost.layouts import divisors, layouts
from scalelab.plan.cost.memory import Memory, memory, state_bytes
from scalelab.plan.cost.resources import Resources
from scalelab.plan.cost.training_time import COMPUTE_SHARE, layout_mfu
from scalelab.plan.plan import FinalModel, RunShape, flops_per_token
from scalelab.train.engines.layout_checks import refuse_layout
from scalelab.train.memory import CPU_MICRO_TOKENS, SHARE_OF_DEVICE
from scalelab.units import size_text

KEPT = 6  # layouts that are stored in plan.json
DEVICE_COUNTS = tuple(2**k for k in range(13))
"""Numbers of devices that are tried where the request gives none."""
BATCH_ROOM = 1.25
"""Largest factor by which an assumed batch is changed so that the devices divide it."""


@dataclass(frozen=True)
class Placement:
    """The layout of a run, its batch and the memory of its fullest device."""

    layout: Layout
    memory: Memory | None
    """Memory of the fullest device; None where no shape is known."""
    rows: int | None
    """Windows in one micro-batch on one device."""
    room_bytes: float | None
    """Memory of a device, bytes; None where it is unknown."""
    shape: RunShape | None = None
    """Shape of the run, with the batch that is used; None where no shape is known."""
    is_least: bool = False
    """Whether the request gives no number of devices and this is the smallest power of two that fits."""
    considered: tuple[LayoutEstimate, ...] = ()
    """Layouts that were evaluated, the cheapest that fits first; empty where the request gives one."""
    estimate: LayoutEstimate | None = None
    """Estimate of the layout; None where the device is unknown."""
    other_counts: tuple[DeviceCount, ...] = ()
    """Nearby numbers of devices that work better than this one."""

    @property
    def is_assumed(self) -> bool:
        """Whether the shape is assumed."""
        return self.shape is not None and self.shape.is_assumed

    @property
    def state_bytes(self) -> float | None:
        """Bytes of weights, gradients and optimizer state of the whole model; None without a shape."""
        if self.shape is None:
            return None
        return state_bytes(self.shape.n_params, optimizer_bytes=self.shape.optimizer_bytes)

    def n_steps(self, n_tokens: float) -> int | None:
        """Return the number of optimizer steps on training tokens; None without a shape."""
        return None if self.shape is None else max(1, round(n_tokens / self.shape.batch_tokens))

    def mfu(self, resources: Resources, param_count: str, flop_count: str) -> Mfu | None:
        """Return the MFU that the layout would give; None where it cannot be estimated.

        Args:
            resources: Devices, with their measured MFU if there is one.
            param_count: Which count N is; a key of units.PARAM_COUNTS.
            flop_count: Which count the FLOPs of the plan are; a key of units.FLOP_COUNTS.
        """
        if self.estimate is None or self.estimate.shares is None:
            return None
        size = self.shape.model.size(self.shape.seq_len)
        ratio = flops_per_token(size, param_count, flop_count) / size.flops_per_token
        measured = resources.mfu if resources.mfu is not None and resources.mfu.status == "measured" else None
        return layout_mfu(self.estimate.shares["computing"], ratio, measured)

    def memory_json(self) -> dict[str, Any] | None:
        """Return the bytes on the fullest device by part, as JSON types; None where no shape is known."""
        if self.memory is None:
            return None
        shape = "assumed" if self.is_assumed else "of the recipe"
        return {
            **self.memory.to_json(),
            "device_bytes": self.room_bytes,
            "state_bytes": self.state_bytes,
            "batch_tokens": self.shape.batch_tokens,
            "shape": shape,
        }

    def layouts_json(self) -> tuple[dict[str, Any], ...]:
        """Return the first few layouts that were evaluated, as JSON types."""
        return tuple(one.to_json() for one in self.considered[:KEPT])


def place_run(
    layout: str, resources: Resources, shape: RunShape | None, final: FinalModel | None
) -> Placement:
    """Return the layout of a run and its memory.

    Args:
        layout: The requested layout, such as "shard=8,tensor=2"; empty for the cheapest that fits.
        resources: Number and type of devices, and their MFU.
        shape: Shape of the model; None where it is unknown.
        final: The run; None without a recipe.

    Raises:
        PlanError: Nothing fits, or the layout needs another number of devices.
        LaunchError: The layout cannot be read, or cannot be used for the run.
    """
    named, device = parse_layout(layout, Layout()), resources.accelerator
    room = None if device is None else device.memory_bytes
    if layout and resources.devices not in (None, named.devices):
        raise PlanError(
            f"the layout needs {named.devices} devices, and there are {resources.devices:,}",
            where="--layout and --gpus",
            fix="use a layout whose product is the number of devices, or leave --layout out",
        )
    if layout and final is not None:
        refuse_layout(named, final.spec)
    if shape is None:
        return Placement(named, None, None, room)
    if layout or device is None:
        parts = named.replicate * named.shard * named.micro_batches
        return _held(named, _with_batch(shape, (parts,)), resources)
    if resources.devices is not None:
        return _on_given(resources.devices, resources, shape)
    return _fewest(resources, shape)


def _on_given(devices: int, resources: Resources, shape: RunShape) -> Placement:
    """The best layout on the requested number of devices, with nearby numbers that work better.

    Raises:
        PlanError: Nothing fits or divides; the fix names the nearest numbers that work.
    """

    def share_on(count: int) -> float | None:
        try:
            found = _on(count, resources, shape).estimate
        except PlanError:
            return None
        works = found is not None and found.shares is not None and found.launches
        return found.shares["computing"] if works else None

    try:
        found = _on(devices, resources, shape)
    except PlanError as refusal:
        near = nearby_counts(devices, share_on)
        counts = " or ".join(f"{one.count:,}" for one in near)
        which = "the nearest numbers that work" if len(near) > 1 else "the nearest number that works"
        if not near:
            enough = next((n for n in DEVICE_COUNTS if n > devices and share_on(n) is not None), None)
            if enough is None:
                raise
            counts, which = f"{enough:,}", "the next power of two that works"
        raise PlanError(
            refusal.problem,
            where=refusal.where,
            fix=f"use {counts} devices (--gpus), {which}; or another type (--gpu), or a smaller model",
            evidence=refusal.evidence,
        ) from None
    if found.estimate is None or found.estimate.shares is None or power_of_two_and_three(devices):
        return found
    return replace(found, other_counts=nearby_counts(devices, share_on, found.estimate.shares["computing"]))


def _fewest(resources: Resources, shape: RunShape) -> Placement:
    """The smallest number of devices that fits without host memory, or with it if none does.

    Raises:
        PlanError: No number in DEVICE_COUNTS holds it.
    """
    offloading = None
    for devices in DEVICE_COUNTS:
        try:
            found = replace(_on(devices, resources, shape), is_least=devices > 1)
        except PlanError as refusal:
            last = refusal
            continue
        if not found.layout.offload:
            return found
        offloading = offloading or found
    if offloading is None:
        raise last
    return offloading


def _on(devices: int, resources: Resources, shape: RunShape) -> Placement:
    """The best layout on a number of devices. Raises PlanError if nothing fits."""
    if devices == 1:
        return _held(Layout(), _with_batch(shape, (1,)), resources)
    largest = devices // math.gcd(devices, 8)
    fitting = sorted((d for d in divisors(devices) if d <= largest), reverse=True)
    return _searched(devices, resources, _with_batch(shape, fitting))


def _searched(devices: int, resources: Resources, shape: RunShape) -> Placement:
    """The cheapest layout on several devices that fits.

    Raises:
        PlanError: The batch cannot be divided, or nothing fits.
    """
    device = resources.accelerator
    batch_rows = _rows(shape)
    found = layouts(
        shape.model,
        _cluster(devices, resources),
        seq_len=shape.seq_len,
        batch_rows=batch_rows,
        optimizer_bytes=shape.optimizer_bytes,
        cross_entropy=shape.cross_entropy,
        cuda_graphs=shape.cuda_graphs,
        matmul=shape.matmul,
    )
    best = found[0].layout
    rows = batch_rows // (best.replicate * best.shard * best.micro_batches)
    return Placement(
        best, found[0].memory, rows, device.memory_bytes, shape, considered=found, estimate=found[0]
    )


def _cluster(devices: int, resources: Resources) -> Cluster:
    device, mfu = resources.accelerator, resources.mfu
    computing = mfu.value if mfu is not None and mfu.status == "measured" else COMPUTE_SHARE
    return Cluster(
        count=devices,
        memory_bytes=device.memory_bytes,
        flops_per_s=device.peak_flops_per_s * computing,
        link_bytes_per_s=device.link_bytes_per_s,
        per_node=device.devices_per_node,
    )


def _rows(shape: RunShape) -> int:
    """Windows in a batch."""
    return max(1, shape.batch_tokens // shape.seq_len)


def _with_batch(shape: RunShape, parts: Sequence[int]) -> RunShape:
    """The shape with an assumed batch rounded to a multiple of the first of `parts` that is near enough.

    The batch of a recipe is kept, and so is an assumed one if none of `parts` is near enough.
    """
    if not shape.is_assumed:
        return shape
    rows = _rows(shape)
    for part in parts:
        rounded = part * max(1, round(rows / part))
        if max(rounded / rows, rows / rounded) <= BATCH_ROOM:
            return replace(shape, batch_tokens=rounded * shape.seq_len)
    return shape


def _held(layout: Layout, shape: RunShape, resources: Resources) -> Placement:
    """One layout, its micro-batch halved until it fits, as in the training loop."""
    device, batch_rows = resources.accelerator, _rows(shape)
    parts = layout.replicate * layout.shard * layout.micro_batches
    rows = max(1, batch_rows // parts)
    room = None if device is None else device.memory_bytes
    alone = layout.devices == 1
    while True:
        found = memory(
            shape.model,
            seq_len=shape.seq_len,
            rows=rows,
            layout=layout,
            optimizer_bytes=shape.optimizer_bytes,
            cross_entropy=shape.cross_entropy,
            device_bytes=room,
        )
        small = room is not None or not alone or rows * shape.seq_len <= CPU_MICRO_TOKENS
        if rows == 1 or (small and (room is None or found.fits(room))):
            break
        rows = -(-rows // 2)
    if room is not None and not found.fits(room):
        raise _too_large(found, layout, device)
    estimate = None
    if device is not None and batch_rows % parts == 0:
        estimate = estimate_layout(
            shape.model,
            _cluster(layout.devices, resources),
            layout,
            seq_len=shape.seq_len,
            batch_rows=batch_rows,
            optimizer_bytes=shape.optimizer_bytes,
            cross_entropy=shape.cross_entropy,
        )
    return Placement(layout, found, rows, room, shape, estimate=estimate)


def _too_large(found: Memory, layout: Layout, device: Accelerator) -> PlanError:
    return PlanError(
        f"the run does not fit: it needs {size_text(found.total_bytes)} on one device even with one "
        f"window at a time, and {device.name} has {size_text(device.memory_bytes)}, of which "
        f"{SHARE_OF_DEVICE:.0%} may be used",
        where=f"layout: {words(layout)}",
        fix="use more devices (--gpus), another type (--gpu), a layout that shards the model "
        "(--layout shard=8), or a smaller model (--max-params)",
    )
