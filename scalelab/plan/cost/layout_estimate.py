"""The estimate of one layout: its memory and the time that it loses in a step.

    devices = replicate x shard x tensor x pipeline x context        all products that divide
    compute = FLOPs of a step / (devices x flops_per_s)              without losses
    bubble  = (p - 1) / (m + p - 1)                                  idle share of a pipeline's time
    lost    = bubble and uneven stages + recomputation (compute / 3) + waiting

p stages, m micro-batches of a step; P parameters of a stage / tensor; w bytes of a working number
(2 in bf16). Bytes that one device sends in a step, where a ring of n devices sends (n - 1) / n:

    shard       m x (2 gathers w + 1 sum 4) P      once a step, not m times, in a pipeline
    replicate   m x 2 x 4 P / shard                once a step, not m times, in a pipeline
    tensor      4 sums of w x width a token and layer, 6 with recomputation; a sum is sent twice
    pipeline    2 x w x width a token
    context     3 x 2 w x width of keys and values a token and layer
    offload     m x 12 P / shard, to the host

Sums of gradients are hidden behind computing as long as that lasts; the rest adds to waiting. A
group lies within a node if its span does, `tensor` innermost as in the mesh of the training loop;
otherwise it uses the network. All of this is estimated, not measured. Left out: latency, kernels
that small micro-batches slow down, the update on the host under offload and whether the memory of
the host suffices.

Source: bubble, Narayanan et al. 2021, arXiv:2104.04473, section 2.2; sums of tensor parallelism,
Shoeybi et al. 2019, arXiv:1909.08053, section 3; sharding, Rajbhandari et al. 2020,
arXiv:1910.02054, section 7. What the loop exchanges: train/engines/parallel.py.
Not here: bytes of memory (memory.py), the search (layouts.py), the time of a plan
(training_time.py), running a layout (train/engines/parallel.py).
"""

from dataclasses import dataclass
from typing import Any

from scalelab.errors import PlanError
from scalelab.hardware.layout import Layout
from scalelab.model.base import Architecture
from scalelab.plan.cost.memory import Memory, block_params, convention, layers_of, memory, stage_params
from scalelab.train.memory import SHARE_OF_DEVICE

NETWORK_BYTES_PER_S = 50e9
"""Bandwidth of one device to other nodes: 400 Gb/s, as for Llama 3 (arXiv:2407.21783, 3.3.1). Assumed."""
HOST_BYTES_PER_S = 25e9
"""Bandwidth of one device to its host: PCIe 4 with 16 lanes, less overhead. Assumed."""
HOST_MEMORY_BYTES = 250e9
"""Host memory for each device: 2 TB for eight, as in a DGX H100. Assumed."""
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
class LayoutEstimate:
    """One layout with its memory and its lost time. Estimated.

    Seconds are those of a device that computes at Cluster.flops_per_s. They rank layouts and give
    the shares of a step; the time of a plan is in training_time.py.
    """

    layout: Layout
    memory: Memory
    fits: bool
    compute_s: float
    """Seconds of a step without losses."""
    bubble: float
    """Idle share of the time of a pipeline, 0 to 1."""
    pipeline_s: float
    """Seconds of a step lost to the bubble and to uneven stages."""
    recompute_s: float
    """Seconds of a step for recomputing activations."""
    sent_bytes: dict[str, float]
    """Bytes sent by one device in a step, by axis of the layout."""
    wait_s: float | None
    """Seconds of communication that computing does not hide; None where the link speed is unknown."""

    @property
    def lost_s(self) -> float | None:
        """Seconds of a step that are not computing; None where waiting is unknown."""
        return None if self.wait_s is None else self.pipeline_s + self.recompute_s + self.wait_s

    @property
    def step_s(self) -> float | None:
        """Seconds of a step; None where waiting is unknown."""
        return None if self.lost_s is None else self.compute_s + self.lost_s

    @property
    def shares(self) -> dict[str, float] | None:
        """Shares of a step by what it is spent on, which sum to 1; None where waiting is unknown."""
        if self.step_s is None:
            return None
        seconds = {
            "computing": self.compute_s,
            "pipeline": self.pipeline_s,
            "recomputation": self.recompute_s,
            "waiting": self.wait_s,
        }
        return {name: value / self.step_s for name, value in seconds.items()}

    @property
    def launches(self) -> bool:
        """Whether launch can run it: no context parallelism, and one device as in the sweep."""
        saves_memory = self.layout.recompute or self.layout.offload
        return self.layout.context == 1 and not (self.layout.devices == 1 and saves_memory)

    @property
    def note(self) -> str | None:
        """Remark for the user; None without one."""
        if not self.launches:
            return PLANNED_ONLY
        if self.layout.offload:
            return f"needs {self.memory.host_bytes / 1e9:.4g} GB of host memory for each device"
        return None

    def to_json(self) -> dict[str, Any]:
        """Return the record as JSON types."""
        return {
            "layout": self.layout.to_json(),
            "words": words(self.layout),
            "memory": self.memory.to_json(),
            "fits": self.fits,
            "bubble": self.bubble,
            "shares": self.shares,
            "sent_bytes": self.sent_bytes,
            "launches": self.launches,
            "note": self.note,
            "status": "estimated",
        }


@dataclass(frozen=True)
class Cluster:
    """The devices of a run.

    Args:
        count: Number of devices.
        memory_bytes: Memory of one device.
        flops_per_s: FLOPs per second of one device while it computes, without the losses of a layout.
        link_bytes_per_s: Bandwidth of one device in its node, one direction; None where unknown.
        per_node: Devices that this link joins.
        network_bytes_per_s: Bandwidth of one device to other nodes.
        host_bytes_per_s: Bandwidth of one device to its host.
        host_memory_bytes: Host memory for each device.

    Raises:
        PlanError: A value is not positive.
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
                    f"{name} is {value}", where="the devices of the plan", fix="give a positive number"
                )


def estimate(
    model: Architecture,
    devices: Cluster,
    layout: Layout,
    seq_len: int,
    batch_rows: int,
    convention_name: str,
    optimizer_bytes: int | None,
    flash: bool,
    cross_entropy: str = "auto",
) -> LayoutEstimate:
    """Return the estimate of a layout that fits the devices and the batch.

    Args:
        model: Architecture of the model.
        devices: Devices, all of which are used.
        layout: The layout.
        seq_len: Tokens in a window.
        batch_rows: Windows in a step, over all devices.
        convention_name: Memory convention, a key of memory.CONVENTIONS.
        optimizer_bytes: Bytes of optimizer state per parameter; None for that of the convention.
        flash: Whether attention weights are recomputed instead of stored.
        cross_entropy: auto, plain or chunked, as in RunSpec.
    """
    rows = batch_rows // (layout.replicate * layout.shard * layout.micro_batches)
    needed = memory(
        model,
        seq_len=seq_len,
        rows=rows,
        layout=layout,
        convention_name=convention_name,
        optimizer_bytes=optimizer_bytes,
        flash=flash,
        cross_entropy=cross_entropy,
        device_bytes=devices.memory_bytes,
    )
    flops = model.size(seq_len).flops_per_token * batch_rows * seq_len
    compute_s = flops / (devices.count * devices.flops_per_s)
    m, p = layout.micro_batches, layout.pipeline
    recompute_s = compute_s / 3 if layout.recompute else 0.0
    # The slowest stage sets the time of each of m + p - 1 turns.
    busy_s = (compute_s + recompute_s) * _unevenness(model, seq_len, p)
    pipeline_s = busy_s * (m + p - 1) / m - (compute_s + recompute_s)
    number = convention(convention_name).number
    sent = _sent_bytes(model, layout, rows * seq_len / layout.context, number)
    return LayoutEstimate(
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


def estimate_layout(
    model: Architecture,
    devices: Cluster,
    layout: Layout,
    *,
    seq_len: int,
    batch_rows: int,
    convention_name: str = "ours",
    optimizer_bytes: int | None = None,
    flash: bool = True,
    cross_entropy: str = "auto",
) -> LayoutEstimate:
    """Return the estimate of one given layout.

    Args:
        model: Architecture of the model.
        devices: Devices, all of which are used.
        layout: The layout.
        seq_len: Tokens in a window.
        batch_rows: Windows in a step, over all devices.
        convention_name: Memory convention, a key of memory.CONVENTIONS.
        optimizer_bytes: Bytes of optimizer state per parameter; None for that of the convention.
        flash: Whether attention weights are recomputed instead of stored.
        cross_entropy: auto, plain or chunked, as in RunSpec.

    Raises:
        PlanError: The layout needs another number of devices, or its parts do not divide the batch.
    """
    parts = layout.replicate * layout.shard * layout.micro_batches
    if layout.devices != devices.count or batch_rows % parts:
        raise PlanError(
            f"{words(layout)} needs {layout.devices} devices and divides the batch into {parts} parts; there "
            f"are {devices.count} devices and {batch_rows} windows",
            where="the layout of the plan",
            fix="choose degrees whose product is the number of devices, and parts that divide the batch",
        )
    return estimate(
        model, devices, layout, seq_len, batch_rows, convention_name, optimizer_bytes, flash, cross_entropy
    )


def words(layout: Layout) -> str:
    """Return a layout as text: "2 x data, 8 x tensor, 4 micro-batches"."""
    texts = [f"{n} x {word}" for axis, word in WORDS.items() if (n := getattr(layout, axis)) > 1]
    texts = texts or ["one device"]
    if layout.micro_batches > 1:
        texts.append(f"{layout.micro_batches} micro-batches")
    if layout.recompute:
        texts.append("activations recomputed")
    if layout.offload:
        texts.append("state in host memory")
    return ", ".join(texts)


def bubble(stages: int, micro_batches: int) -> float:
    """Return the idle share of a step of a device in a 1F1B pipeline."""
    return (stages - 1) / (micro_batches + stages - 1)


def _unevenness(model: Architecture, seq_len: int, stages: int) -> float:
    """FLOPs of the slowest stage over those of an average one."""
    total, blocks = model.size(seq_len).flops_per_token, model.blocks()
    head = 6.0 * blocks.vocabulary
    layer = (total - head) / blocks.n
    flops = [layers * layer for layers in layers_of(blocks.n, stages)]
    flops[-1] += head
    return max(flops) * stages / total


def _sent_bytes(model: Architecture, layout: Layout, tokens: float, number: int) -> dict[str, float]:
    """Bytes that one device sends in a step, by axis.

    Args:
        model: Architecture of the model.
        layout: Layout of the run.
        tokens: Tokens in one micro-batch on one device.
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


def _wait_s(layout: Layout, devices: Cluster, sent: dict[str, float], compute_s: float) -> float | None:
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
