"""Which layout a run should take: what fits, and of that what loses the fewest seconds a step.

    devices = replicate x shard x tensor x pipeline x context        all products that divide
    compute = flops of a step / (devices x flops_per_s)              nothing lost
    bubble  = (p - 1) / (m + p - 1)                                  share of a pipeline's time
    lost    = bubble and uneven stages + recomputation (compute / 3) + waiting

p stages, m micro-batches of a step; P parameters of a stage / tensor; w bytes of a working number
(2 in bf16). What one device sends in a step, with a ring of n devices sending (n - 1) / n of it:

    shard       m x (2 gathers w + 1 sum 4) P      once a step, not m times, in a pipeline
    replicate   m x 2 x 4 P / shard                once a step, not m times, in a pipeline
    tensor      4 sums of w x width a token and layer, 6 with recomputation; a sum is sent twice
    pipeline    2 x w x width a token
    context     3 x 2 w x width of keys and values a token and layer
    offload     m x 12 P / shard, to the host

Sums of gradients are hidden behind computing as long as that lasts; the rest is waited for. A
group lies within a node when its span does, `tensor` nearest as in the mesh of the training loop;
else it goes over the network. All of this is estimated, none measured. Left out: latency, kernels
that small micro-batches make slow, the update on the host under offload and whether the host's
memory suffices.

Source: bubble, Narayanan et al. 2021, arXiv:2104.04473, section 2.2; sums of a tensor cut, Shoeybi
et al. 2019, arXiv:1909.08053, section 3; sharding, Rajbhandari et al. 2020, arXiv:1910.02054,
section 7. What the loop exchanges: train/parallel.py.
Not here: bytes of memory (memory.py), carrying a layout out (train/parallel.py).
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from scalelab.errors import PlanError
from scalelab.model.base import Architecture
from scalelab.plan.memory import Memory, block_params, convention, layers_of, memory, stage_params
from scalelab.train.layout import Layout
from scalelab.train.memory import SHARE_OF_DEVICE
from scalelab.units import sci

NETWORK_BYTES_PER_S = 50e9
"""Of one device to other nodes: 400 Gb/s, as for Llama 3 (arXiv:2407.21783, 3.3.1). Assumed."""
HOST_BYTES_PER_S = 25e9
"""Of one device to its host: PCIe 4 of 16 lanes, less its overhead. Assumed."""
HOST_MEMORY_BYTES = 250e9
"""Of the host, for each device: 2 TB for eight, as in a DGX H100. Assumed."""
GRADIENT_BYTES = 4  # gradients are summed in fp32
OFFLOAD_BYTES = 12  # a parameter: fp32 weights in twice, a gradient out
PLANNED_ONLY = "planned only: launch does not run it"
WORDS = {
    "replicate": "data",
    "shard": "sharded",
    "tensor": "tensor",
    "pipeline": "pipeline",
    "context": "context",
}


@dataclass(frozen=True)
class Considered:
    """One layout, what it takes and what it loses. Estimated."""

    layout: Layout
    memory: Memory
    fits: bool
    compute_s: float
    """Of a step, were nothing lost."""
    bubble: float
    """Share of its time that a pipeline stands still, 0 to 1."""
    pipeline_s: float
    """Lost to the bubble and to uneven stages."""
    recompute_s: float
    sent_bytes: dict[str, float]
    """By one device in a step, for each axis of the layout that sends."""
    wait_s: float | None
    """For what is sent and not hidden; None where the link's speed is not known."""

    @property
    def lost_s(self) -> float | None:
        """Seconds of a step that are not computing; None where waiting is not known."""
        return None if self.wait_s is None else self.pipeline_s + self.recompute_s + self.wait_s

    @property
    def step_s(self) -> float | None:
        """Seconds of a step; None where waiting is not known."""
        return None if self.lost_s is None else self.compute_s + self.lost_s

    @property
    def launches(self) -> bool:
        """Whether launch can run it: no context parallel, and one device as the sweep uses it."""
        spared = self.layout.recompute or self.layout.offload
        return self.layout.context == 1 and not (self.layout.devices == 1 and spared)

    @property
    def note(self) -> str | None:
        """What a person should know before they take it."""
        if not self.launches:
            return PLANNED_ONLY
        if self.layout.offload:
            return f"needs {self.memory.host_bytes / 1e9:.4g} GB of host memory for each device"
        return None

    def to_json(self) -> dict[str, Any]:
        """The record as JSON types."""
        return {
            "layout": self.layout.to_json(),
            "words": words(self.layout),
            "memory": self.memory.to_json(),
            "fits": self.fits,
            "compute_s": self.compute_s,
            "bubble": self.bubble,
            "pipeline_s": self.pipeline_s,
            "recompute_s": self.recompute_s,
            "sent_bytes": self.sent_bytes,
            "wait_s": self.wait_s,
            "lost_s": self.lost_s,
            "launches": self.launches,
            "note": self.note,
            "status": "estimated",
        }


@dataclass(frozen=True)
class Devices:
    """What a run is spread over.

    Args:
        count: How many work at once.
        memory_bytes: Of one.
        flops_per_s: Of one, on the model's own FLOPs: peak x MFU, or a measured pace.
        link_bytes_per_s: Of one within its node, one direction; None where not known.
        per_node: Devices that this link joins.
        network_bytes_per_s: Of one to other nodes.
        host_bytes_per_s: Of one to its host.
        host_memory_bytes: Of the host, for each device.

    Raises:
        PlanError: A figure that is not positive.
    """

    count: int
    memory_bytes: float
    flops_per_s: float
    link_bytes_per_s: float | None
    per_node: int
    network_bytes_per_s: float = NETWORK_BYTES_PER_S
    host_bytes_per_s: float = HOST_BYTES_PER_S
    host_memory_bytes: float = HOST_MEMORY_BYTES

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is not None and not value > 0:
                raise PlanError(
                    f"{name} is {value}",
                    where="the devices of the plan",
                    fix="name a positive figure",
                )


def layouts(
    model: Architecture,
    devices: Devices,
    *,
    seq_len: int,
    batch_rows: int,
    convention_name: str = "ours",
    optimizer_bytes: int | None = None,
    flash: bool = True,
) -> tuple[Considered, ...]:
    """Every layout that divides, each with its best micro-batches: the best that fits first.

    Those that fit and can be launched come first, the fewest lost seconds before others; then
    those that are planned only; then those that do not fit, the smallest first. Offload is
    tried only if no layout that can be launched fits without it.

    Args:
        model: The shape.
        devices: All are used.
        seq_len: Tokens of a window.
        batch_rows: Windows of one step, over all devices.
        convention_name: Of the memory (memory.py).
        optimizer_bytes: Likewise.
        flash: Whether attention weights are computed again instead of kept.

    Raises:
        PlanError: No product divides, or nothing fits; with numbers. Or the architecture has no
            layout over several processes.
    """
    if devices.count > 1 and "sharding" not in model.parts:
        raise PlanError(
            f"{model.kind} has no layout over several processes, and there are {devices.count} "
            "devices",
            where="the layout of the plan",
            fix="plan with one device: --gpus 1",
        )
    found: list[Considered] = []
    spared = (False, True) if devices.count > 1 else (False,)  # one device runs as in the sweep
    for offload in spared:
        for base in _products(model, devices, seq_len, batch_rows):
            options = [
                _consider(
                    model,
                    devices,
                    replace(base, micro_batches=m, recompute=recompute, offload=offload),
                    seq_len,
                    batch_rows,
                    convention_name,
                    optimizer_bytes,
                    flash,
                )
                for m in _divisors(batch_rows // (base.replicate * base.shard))
                if m >= base.pipeline
                for recompute in spared
            ]
            found.append(min(options, key=_order))
        if not found:
            raise PlanError(
                f"{devices.count} devices do not divide over a batch of {batch_rows} windows, "
                f"{model.blocks().words()}",
                where="the layout of the plan",
                fix=f"choose a number of devices that divides the batch, such as "
                f"{max(n for n in _divisors(batch_rows) if n <= devices.count)}",
            )
        if any(c.fits and c.launches for c in found):
            return tuple(sorted(found, key=_order))
    raise _nothing_fits(model, devices, seq_len, found)


def consider(
    model: Architecture,
    devices: Devices,
    layout: Layout,
    *,
    seq_len: int,
    batch_rows: int,
    convention_name: str = "ours",
    optimizer_bytes: int | None = None,
    flash: bool = True,
) -> Considered:
    """One layout that a person names, by the same estimates.

    Raises:
        PlanError: It takes another number of devices, or its parts do not divide the batch.
    """
    parts = layout.replicate * layout.shard * layout.micro_batches
    if layout.devices != devices.count or batch_rows % parts:
        raise PlanError(
            f"{words(layout)} takes {layout.devices} devices and cuts the batch in {parts}; there "
            f"are {devices.count} devices and {batch_rows} windows",
            where="the layout of the plan",
            fix="choose degrees whose product is the number of devices, and parts that divide "
            "the batch",
        )
    return _consider(
        model, devices, layout, seq_len, batch_rows, convention_name, optimizer_bytes, flash
    )


def words(layout: Layout) -> str:
    """A layout for eyes: "2 x data, 8 x tensor, 4 micro-batches"."""
    said = [f"{n} x {word}" for axis, word in WORDS.items() if (n := getattr(layout, axis)) > 1]
    said = said or ["one device"]
    if layout.micro_batches > 1:
        said.append(f"{layout.micro_batches} micro-batches")
    if layout.recompute:
        said.append("activations recomputed")
    if layout.offload:
        said.append("state in host memory")
    return ", ".join(said)


def bubble(stages: int, micro_batches: int) -> float:
    """Share of a step that a device of a 1F1B pipeline stands still."""
    return (stages - 1) / (micro_batches + stages - 1)


def _products(
    model: Architecture, devices: Devices, seq_len: int, batch_rows: int
) -> Iterator[Layout]:
    blocks = model.blocks()
    for tensor in _divisors(devices.count):
        if tensor > devices.per_node or not blocks.divides(tensor):
            continue
        for pipeline in _divisors(devices.count // tensor):
            if pipeline > blocks.most_stages:
                continue
            for context in _divisors(devices.count // (tensor * pipeline)):
                if context > devices.per_node or seq_len % context:
                    continue
                data = devices.count // (tensor * pipeline * context)
                # In a pipeline every process needs as many micro-batches as there are stages.
                if batch_rows % data or batch_rows // data < pipeline:
                    continue
                for shard in _divisors(data):
                    if blocks.width % shard == 0:
                        yield Layout(data // shard, shard, tensor, pipeline, context)


def _divisors(n: int) -> list[int]:
    small = [d for d in range(1, int(n**0.5) + 1) if n % d == 0]
    return sorted({*small, *(n // d for d in small)})


def _order(c: Considered) -> tuple[float, ...]:
    """Sorts what was considered, the best first."""
    if not c.fits:
        return (2, c.memory.total_bytes)
    # Where waiting is not known, fewer bytes sent is all that tells layouts apart.
    lost = c.pipeline_s + c.recompute_s + (c.wait_s or 0.0)
    return (not c.launches, c.layout.offload, lost, sum(c.sent_bytes.values()), c.layout.shard)


def _consider(
    model: Architecture,
    devices: Devices,
    layout: Layout,
    seq_len: int,
    batch_rows: int,
    convention_name: str,
    optimizer_bytes: int | None,
    flash: bool,
) -> Considered:
    rows = batch_rows // (layout.replicate * layout.shard * layout.micro_batches)
    needed = memory(
        model,
        seq_len=seq_len,
        rows=rows,
        layout=layout,
        convention_name=convention_name,
        optimizer_bytes=optimizer_bytes,
        flash=flash,
    )
    flops = model.size(seq_len).flops_per_token * batch_rows * seq_len
    compute_s = flops / (devices.count * devices.flops_per_s)
    m, p = layout.micro_batches, layout.pipeline
    recompute_s = compute_s / 3 if layout.recompute else 0.0
    # The slowest stage sets the pace of m + p - 1 turns.
    busy_s = (compute_s + recompute_s) * _unevenness(model, seq_len, p)
    pipeline_s = busy_s * (m + p - 1) / m - (compute_s + recompute_s)
    number = convention(convention_name).number
    sent = _sent_bytes(model, layout, rows * seq_len / layout.context, number)
    return Considered(
        layout=layout,
        memory=needed,
        fits=needed.fits(devices.memory_bytes)
        and needed.host_bytes <= SHARE_OF_DEVICE * devices.host_memory_bytes,
        compute_s=compute_s,
        bubble=bubble(p, m),
        pipeline_s=pipeline_s,
        recompute_s=recompute_s,
        sent_bytes=sent,
        wait_s=_wait_s(layout, devices, sent, compute_s),
    )


def _unevenness(model: Architecture, seq_len: int, stages: int) -> float:
    """FLOPs of the slowest stage over those of a mean one."""
    total, blocks = model.size(seq_len).flops_per_token, model.blocks()
    head = 6.0 * blocks.vocabulary
    layer = (total - head) / blocks.n
    flops = [layers * layer for layers in layers_of(blocks.n, stages)]
    flops[-1] += head
    return max(flops) * stages / total


def _sent_bytes(
    model: Architecture, layout: Layout, tokens: float, number: int
) -> dict[str, float]:
    """What one device sends in a step, by axis.

    Args:
        model: The shape.
        layout: How it is spread.
        tokens: Of one micro-batch on one device.
        number: Bytes of a working number.
    """
    m, p, blocks = layout.micro_batches, layout.pipeline, model.blocks()
    layers = max(layers_of(blocks.n, p))
    params = max(sum(stage_params(blocks, layout, s)) for s in {0, p - 1})
    params = max(params, layers * block_params(blocks, layout.tensor))
    rounds = m if p == 1 else 1
    part = {axis: 1 - 1 / getattr(layout, axis) for axis in WORDS}
    sums = 6 if layout.recompute else 4
    stream = m * tokens * number
    sent = {
        "shard": part["shard"] * rounds * (2 * number + GRADIENT_BYTES) * params,
        "replicate": part["replicate"] * rounds * 2 * GRADIENT_BYTES * params / layout.shard,
        "tensor": part["tensor"] * 2 * sums * layers * stream * blocks.width,
        "pipeline": 2 * stream * blocks.width if p > 1 else 0.0,
        "context": part["context"] * 3 * layers * stream * 2 * blocks.keys_values,
        "offload": m * OFFLOAD_BYTES * params / layout.shard if layout.offload else 0.0,
    }
    return {axis: value for axis, value in sent.items() if value}


def _wait_s(
    layout: Layout, devices: Devices, sent: dict[str, float], compute_s: float
) -> float | None:
    span, seconds = 1, {}
    for axis in ("tensor", "context", "shard", "replicate", "pipeline"):
        span *= getattr(layout, axis)
        within = span <= devices.per_node
        speed = devices.link_bytes_per_s if within else devices.network_bytes_per_s
        if axis in sent:
            if speed is None:
                return None
            seconds[axis] = sent[axis] / speed
    sums = seconds.pop("shard", 0.0) + seconds.pop("replicate", 0.0)
    host = sent.get("offload", 0.0) / devices.host_bytes_per_s
    return max(0.0, sums - compute_s) + sum(seconds.values()) + host


def _nothing_fits(
    model: Architecture, devices: Devices, seq_len: int, found: list[Considered]
) -> PlanError:
    least = min((c for c in found if c.launches), key=lambda c: c.memory.total_bytes)
    n_params = model.size(seq_len).n_params_total
    kept, on_host = least.memory, ""
    if kept.host_bytes:
        may = SHARE_OF_DEVICE * devices.host_memory_bytes
        on_host = f"; {kept.host_bytes / 1e9:.4g} GB of the host, and {may / 1e9:.4g} GB for each "
        on_host += "device are assumed"
    return PlanError(
        f"a model of {sci(n_params)} parameters does not fit {devices.count} x "
        f"{devices.memory_bytes / 1e9:.4g} GB: of all layouts {words(least.layout)} takes the "
        f"least, {kept.total_bytes / 1e9:.4g} GB on the fullest device "
        f"({kept.activations_bytes / 1e9:.3g} GB of it activations, "
        f"{kept.logits_bytes / 1e9:.3g} GB logits, {kept.working_bytes / 1e9:.3g} GB weights in "
        f"use), and {SHARE_OF_DEVICE * devices.memory_bytes / 1e9:.4g} GB may be filled{on_host}",
        where="the layout of the plan",
        fix="name more devices or devices of more memory, or plan a smaller model or shorter "
        "windows",
        evidence=tuple(sorted(found, key=_order)),
    )
