"""Whether a run fits: memory on one device by part, and the way to spread it over many.

On one device, or over a layout that a person names, the memory of that is told. Over many devices
of a known kind every layout is looked at (plan/layout.py) and the cheapest that fits is taken.
Where the device's memory is not known, nobody can say whether a run fits, and nothing is refused.

Not here: the formulas (plan/memory.py, plan/layout.py).
"""

import math
from dataclasses import dataclass, replace
from typing import Any

from scalelab.accelerators import Accelerator
from scalelab.errors import PlanError
from scalelab.launch.final import parse_layout
from scalelab.laws.lawtext import wrapped
from scalelab.plan.budget import needed
from scalelab.plan.final import FinalModel, Shape
from scalelab.plan.layout import Considered, Devices, layouts, words
from scalelab.plan.memory import Memory, memory
from scalelab.report.plan_costs import Means
from scalelab.train.divide import refuse_layout
from scalelab.train.layout import Layout
from scalelab.train.memory import CPU_MICRO_TOKENS, SHARE_OF_DEVICE

PARTS = ("weights", "gradients", "optimizer", "working", "activations", "logits")
KEPT = 6  # layouts that plan.json keeps
FEW = tuple(2**k for k in range(13))
"""Numbers of devices that are tried where nobody says how many there are."""


@dataclass(frozen=True)
class Fits:
    """How a run is spread and what one device then holds."""

    layout: Layout
    memory: Memory | None
    """On the fullest device; None where no shape is known."""
    rows: int | None
    """Windows of one micro-batch on one device."""
    room_bytes: float | None
    """Memory of a device; None is unknown."""
    is_assumed: bool
    """Whether the shape is."""
    is_least: bool = False
    """Whether nobody said how many devices there are, and fewer (of powers of two) do not do."""
    considered: tuple[Considered, ...] = ()
    """Every layout that was looked at, the cheapest that fits first; none where one was named."""

    def memory_json(self) -> dict[str, Any] | None:
        """By part, bytes on the fullest device."""
        if self.memory is None:
            return None
        shape = "assumed" if self.is_assumed else "of the recipe"
        return {**self.memory.to_json(), "device_bytes": self.room_bytes, "shape": shape}

    def layouts_json(self) -> tuple[dict[str, Any], ...]:
        """The first few layouts that were looked at."""
        return tuple(one.to_json() for one in self.considered[:KEPT])

    def block(self) -> str:
        """The words."""
        if self.memory is None:
            return "Memory: unknown, since no shape of that size is"
        found, shape = self.memory, "an assumed shape" if self.is_assumed else "the model above"
        by_part = {part: getattr(found, f"{part}_bytes") for part in PARTS}
        parts = [f"{part} {_bytes(value)}" for part, value in by_part.items() if value]
        lines = [
            f"Memory of the fullest device [computed, for {shape}]",
            wrapped(f"layout: {words(self.layout)}"),
            wrapped(f"{', '.join(parts)}: {_bytes(found.total_bytes)} in all"),
        ]
        if self.room_bytes is None:
            lines.append("  what the device has is unknown, so whether it fits is too")
        else:
            share = found.total_bytes / self.room_bytes
            lines.append(
                f"  {share:.0%} of the {_bytes(self.room_bytes)} of the device; up to "
                f"{SHARE_OF_DEVICE:.0%} is planned with"
            )
        if self.is_least:
            lines.append(
                f"  {self.layout.devices} devices are the fewest (of 1, 2, 4, 8 ...) that hold it; "
                "--gpus says how many there are"
            )
        if found.host_bytes:
            lines.append(f"  and {_bytes(found.host_bytes)} of each process in host memory")
        lines += [wrapped(text) for text in self._ways()]
        return "\n".join(lines)

    def _ways(self) -> list[str]:
        """What the layout loses, and what else was looked at."""
        if not self.considered:
            return []
        best, step_s = self.considered[0], self.considered[0].step_s
        lost = [f"pipeline bubble {best.bubble:.0%}"] if best.bubble else []
        if best.recompute_s:
            lost.append(f"recomputation {_seconds(best.recompute_s)}")
        sent = ", ".join(f"{_bytes(n)} ({axis})" for axis, n in best.sent_bytes.items())
        lost.append(f"each device sends {sent or 'nothing'} a step")
        if step_s is not None:
            lost.append(
                f"{best.lost_s / step_s:.0%} of a step of {_seconds(step_s)} is not computing"
            )
        fit = [one for one in self.considered if one.fits]
        said = [
            f"the cheapest that fits of {len(self.considered)} layouts looked at, {len(fit)} of "
            f"which fit; micro-batches of {self.rows} window{'s' if self.rows > 1 else ''}",
            f"estimated: {'; '.join(lost)}",
        ]
        said += [f"next best: {words(one.layout)}{_dearer(one, best)}" for one in fit[1:3]]
        return said


def fits(
    layout: str,
    means: Means,
    shape: Shape | None,
    final: FinalModel | None,
) -> Fits:
    """The layout to take and what it holds.

    Args:
        layout: As a person named it; empty for none.
        means: How many devices there are, of which kind, and what they reach.
        shape: Of the model; None is unknown.
        final: The run, where there is one.

    Raises:
        PlanError: Nothing fits, or the layout takes another number of devices.
        LaunchError: The layout cannot be read, or cannot carry the run.
    """
    named, device = parse_layout(layout, Layout()), means.accelerator
    room = None if device is None else device.memory_bytes
    if layout and means.devices not in (None, named.devices):
        raise PlanError(
            f"the layout takes {named.devices} devices, and there are {means.devices:,}",
            where="--layout and --gpus",
            fix="name a layout whose product is the number of devices, or leave --layout out",
        )
    if layout and final is not None:
        refuse_layout(named, final.spec)
    if shape is None:
        return Fits(named, None, None, room, is_assumed=False)
    if layout or device is None:
        return _held(named, shape, _rows(shape, named.devices), device)
    if means.devices is not None:
        return _on(means.devices, means, shape)
    return _fewest(means, shape)


def _fewest(means: Means, shape: Shape) -> Fits:
    """The fewest devices that hold it without host memory; with that where none do.

    Raises:
        PlanError: No number in FEW holds it.
    """
    offloading = None
    for devices in FEW:
        try:
            found = replace(_on(devices, means, shape), is_least=devices > 1)
        except PlanError as refusal:
            last = refusal
            continue
        if not found.layout.offload:
            return found
        offloading = offloading or found
    if offloading is None:
        raise last
    return offloading


def _on(devices: int, means: Means, shape: Shape) -> Fits:
    """The best layout of so many devices. Raises PlanError where nothing fits."""
    rows = _rows(shape, devices)
    if devices == 1:
        return _held(Layout(), shape, rows, means.accelerator)
    return _searched(devices, means, shape, rows)


def _searched(devices: int, means: Means, shape: Shape, batch_rows: int) -> Fits:
    """The cheapest layout of many devices that fits.

    Raises:
        PlanError: Nothing divides or nothing fits, with numbers.
    """
    device = means.accelerator
    found = layouts(
        shape.model,
        Devices(
            count=devices,
            memory_bytes=device.memory_bytes,
            flops_per_s=device.peak_flops_per_s * needed(means.mfu).value,
            link_bytes_per_s=device.link_bytes_per_s,
            per_node=device.devices_per_node,
        ),
        seq_len=shape.seq_len,
        batch_rows=batch_rows,
        optimizer_bytes=shape.optimizer_bytes,
    )
    best = found[0].layout
    rows = batch_rows // (best.replicate * best.shard * best.micro_batches)
    return Fits(
        best, found[0].memory, rows, device.memory_bytes, shape.is_assumed, considered=found
    )


def _rows(shape: Shape, devices: int) -> int:
    """Windows of a batch; where the batch is assumed, a number that the devices divide."""
    rows = max(1, shape.batch_tokens // shape.seq_len)
    if not shape.is_assumed:
        return rows
    groups = devices // math.gcd(devices, 8)
    return groups * max(1, round(rows / groups))


def _held(layout: Layout, shape: Shape, batch_rows: int, device: Accelerator | None) -> Fits:
    """One layout: its micro-batch halved until it fits, as the training loop does."""
    rows = max(1, batch_rows // (layout.replicate * layout.shard * layout.micro_batches))
    room = None if device is None else device.memory_bytes
    alone = layout.devices == 1
    while True:
        found = memory(
            shape.model,
            seq_len=shape.seq_len,
            rows=rows,
            layout=layout,
            optimizer_bytes=shape.optimizer_bytes,
        )
        small = room is not None or not alone or rows * shape.seq_len <= CPU_MICRO_TOKENS
        if rows == 1 or (small and (room is None or found.fits(room))):
            break
        rows = -(-rows // 2)
    if room is not None and not found.fits(room):
        raise PlanError(
            f"the run does not fit: {_bytes(found.total_bytes)} on one device even with one "
            f"window at a time, and {device.name} has {_bytes(room)}, of which "
            f"{SHARE_OF_DEVICE:.0%} may be filled",
            where=f"layout: {words(layout)}",
            fix="give more devices (--gpus), another kind (--gpu), a layout that shares the model "
            "(--layout shard=8), or a smaller model (--max-params)",
        )
    return Fits(layout, found, rows, room, shape.is_assumed)


def _dearer(one: Considered, best: Considered) -> str:
    if one.step_s is None or best.step_s is None:
        return ""
    return f", a step {one.step_s / best.step_s - 1:+.1%}"


def _seconds(value: float) -> str:
    return f"{value:.3g} s" if value >= 0.1 else f"{1000 * value:.3g} ms"


def _bytes(value: float) -> str:
    """Bytes for eyes, in powers of ten: "35.8 GB"."""
    for scale, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if value >= scale:
            return f"{value / scale:.3g} {unit}"
    return f"{value:.3g} B"
