"""Bytes that training a model takes on the fullest device of a layout, by part.

    weights, gradients, optimizer   bytes per parameter of a convention x parameters here
    parameters here                 of the stage, / tensor for what is cut, / shard
    working                         copies gathered for use, and gradients not yet cut: of what lies
                                    beside the blocks and two blocks; in a pipeline of the stage
    activations                     what a token leaves per layer x tokens in flight
    logits                          8 bytes x vocabulary / tensor per token, last stage only

    convention   weights   gradients   optimizer              bytes per parameter
    mixed        bf16 2    bf16 2      fp32 copy 4, Adam 8    16
    ours         fp32 4    fp32 4      Adam 8                 16, and bf16 working copies
    ours alone   4 + 2     4 + 2       Adam 8                 20: one process, working copies whole
    fp32         fp32 4    fp32 4      Adam 8                 16

n devices that share P parameters by ZeRO hold 4P + 12P/n (stage 1, the optimizer), 2P + 14P/n
(stage 2, gradients too) or 16P/n (stage 3, all) of "mixed"; a `shard` of n is stage 3.

Under 1F1B a stage holds as many micro-batches as there are stages after it, with its own. With
recomputation a block keeps its input alone, and one block at a time is whole. Attention weights
are not kept (flash attention) unless `flash` is false: then their scores and shares are, heads x
seq_len numbers a token twice.

What this leaves out: the allocator's waste, kernels' workspaces, buffers of the network; so a
layout fits if it fills no more than SHARE_OF_DEVICE. Computed, not measured.

Source: Rajbhandari et al. 2020 (ZeRO), arXiv:1910.02054, section 5; Korthikanti et al. 2022,
arXiv:2205.05198; Narayanan et al. 2021 (1F1B), arXiv:2104.04473.
Not here: the micro-batch that one process tries first (train/memory.py), which layout to take
(layout.py).
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from scalelab.errors import PlanError
from scalelab.model.base import Architecture, Blocks
from scalelab.train.layout import Layout
from scalelab.train.memory import SHARE_OF_DEVICE

IN_FLIGHT_BLOCKS = 2  # gathered at once: the one in use and the one that is fetched ahead
SUM_BYTES = 4  # of a gradient that is summed over processes or micro-batches: fp32


@dataclass(frozen=True)
class Convention:
    """Bytes per parameter of what is kept, and per number of what passes through."""

    name: str
    weights: int
    gradients: int
    optimizer: int
    number: int
    """Of an activation, and of a weight in use."""
    gathers: bool
    """Whether weights in use are copies beside those that are kept."""

    @property
    def state(self) -> int:
        """Bytes per parameter of all that is kept."""
        return self.weights + self.gradients + self.optimizer


CONVENTIONS: Mapping[str, Convention] = {
    "mixed": Convention("mixed", 2, 2, 12, 2, False),
    "ours": Convention("ours", 4, 4, 8, 2, True),
    "fp32": Convention("fp32", 4, 4, 8, 4, False),
}
ALONE = Convention("ours", 6, 6, 8, 2, False)  # optimizers/flat.py: bf16 copies of the whole buffer


@dataclass(frozen=True)
class Memory:
    """Bytes on the fullest device, by part."""

    weights_bytes: float
    gradients_bytes: float
    optimizer_bytes: float
    working_bytes: float
    """Gathered copies of weights in use and of their gradients."""
    activations_bytes: float
    logits_bytes: float
    host_bytes: float
    """Of a process's share in host memory; 0 unless offloaded."""
    convention: str
    stage: int
    """Of the pipeline, from 0: the one with the fullest device."""

    @property
    def total_bytes(self) -> float:
        """All of it, on the device."""
        return (
            self.weights_bytes
            + self.gradients_bytes
            + self.optimizer_bytes
            + self.working_bytes
            + self.activations_bytes
            + self.logits_bytes
        )

    def fits(self, memory_bytes: float) -> bool:
        """Whether a device of so much memory takes it, with room for what is not counted."""
        return self.total_bytes <= SHARE_OF_DEVICE * memory_bytes

    def to_json(self) -> dict[str, Any]:
        """The record as JSON types."""
        return {**asdict(self), "total_bytes": self.total_bytes, "status": "computed"}


def convention(name: str) -> Convention:
    """A convention by its name. Raises PlanError for an unknown one."""
    if name not in CONVENTIONS:
        raise PlanError(
            f"unknown memory convention {name!r}",
            where="the memory of the plan",
            fix=f"use one of: {', '.join(CONVENTIONS)}",
        )
    return CONVENTIONS[name]


def state_bytes(n_params: float, name: str) -> float:
    """Weights, gradients and optimizer of a whole model under a convention."""
    return n_params * convention(name).state


def zero_bytes(n_params: float, devices: int, stage: int) -> float:
    """Bytes per device of the mixed convention under ZeRO 0, 1, 2 or 3.

    Raises:
        PlanError: No such stage.
    """
    mixed = CONVENTIONS["mixed"]
    shared = {
        0: 0,
        1: mixed.optimizer,
        2: mixed.optimizer + mixed.gradients,
        3: mixed.state,
    }
    if stage not in shared:
        raise PlanError(
            f"ZeRO stage {stage}", where="the memory of the plan", fix="name a stage from 0 to 3"
        )
    return n_params * (mixed.state - shared[stage] + shared[stage] / devices)


def memory(
    model: Architecture,
    *,
    seq_len: int,
    rows: int,
    layout: Layout,
    convention_name: str = "ours",
    optimizer_bytes: int | None = None,
    flash: bool = True,
) -> Memory:
    """What the fullest device of a layout holds.

    Args:
        model: The shape.
        seq_len: Tokens of a window.
        rows: Windows of one micro-batch on one device, whole windows before `context` cuts them.
        layout: How the run is spread.
        convention_name: A key of CONVENTIONS.
        optimizer_bytes: Per parameter, of what the run's own optimizer keeps; None: as the
            convention has it.
        flash: Whether attention weights are computed again instead of kept.

    Raises:
        PlanError: No such convention.
    """
    kept = convention(convention_name)
    if kept.name == "ours" and layout.devices == 1 and not layout.offload:
        kept = ALONE
    if optimizer_bytes is not None:
        kept = replace(kept, optimizer=optimizer_bytes)
    layers = layers_of(model.depth(), layout.pipeline)
    # The first has the embedding, the last the head; of the others the first of the deepest.
    candidates = {0, layout.pipeline - 1, layers.index(max(layers))}
    stages = [
        _stage(model, seq_len, rows, layout, kept, flash, stage) for stage in sorted(candidates)
    ]
    return max(stages, key=lambda m: m.total_bytes)


def layers_of(depth: int, stages: int) -> list[int]:
    """Layers of each stage, as the training loop cuts them."""
    cuts = [depth * i // stages for i in range(stages + 1)]
    return [cuts[i + 1] - cuts[i] for i in range(stages)]


def block_params(blocks: Blocks, tensor: int = 1) -> float:
    """Parameters of one block on one process, its matrices cut over `tensor` of them."""
    return blocks.params_cut / tensor + blocks.params_whole


def stage_params(blocks: Blocks, layout: Layout, stage: int) -> tuple[float, float]:
    """Parameters of a stage on one process, before sharding: in blocks, and beside them."""
    layers = layers_of(blocks.n, layout.pipeline)[stage]
    is_last = stage == layout.pipeline - 1
    matrices = (stage == 0) + (is_last and not (blocks.tied and layout.pipeline == 1))
    beside = blocks.vocabulary / layout.tensor * matrices + (blocks.params_last if is_last else 0)
    return layers * block_params(blocks, layout.tensor), beside


def _stage(
    model: Architecture,
    seq_len: int,
    rows: int,
    layout: Layout,
    kept: Convention,
    flash: bool,
    stage: int,
) -> Memory:
    blocks = model.blocks()
    within, beside = stage_params(blocks, layout, stage)
    here = (within + beside) / layout.shard
    layers = layers_of(blocks.n, layout.pipeline)[stage]
    spread = kept.gathers or layout.shard > 1 or layout.offload
    working = 0.0
    if spread:
        # A block's weights in use, and its gradient before it is summed in fp32 and cut.
        block = block_params(blocks, layout.tensor)
        in_use = beside + min(IN_FLIGHT_BLOCKS, layers) * block
        working = kept.number * in_use + (kept.number + SUM_BYTES) * max(block, beside)
        if layout.pipeline > 1 and layout.micro_batches > 1:
            # Between micro-batches a pipeline neither cuts the stage again nor sums its gradient.
            working = (kept.number + SUM_BYTES) * (within + beside) + kept.number * block
    tokens = rows * seq_len / layout.context
    in_flight = min(layout.pipeline - stage, layout.micro_batches)
    whole = _block_bytes(blocks, seq_len, layout.tensor, kept.number, flash)
    if layout.recompute:
        entry = kept.number * blocks.width
        activations = tokens * (in_flight * layers * entry + whole)
    else:
        activations = tokens * in_flight * layers * whole
    is_last = stage == layout.pipeline - 1
    on_device = 0 if layout.offload else 1
    return Memory(
        weights_bytes=on_device * kept.weights * here,
        gradients_bytes=on_device * kept.gradients * here,
        optimizer_bytes=on_device * kept.optimizer * here,
        working_bytes=working,
        activations_bytes=activations,
        logits_bytes=8 * model.vocab_size / layout.tensor * tokens if is_last else 0.0,
        host_bytes=(1 - on_device) * kept.state * here,
        convention=kept.name,
        stage=stage,
    )


def _block_bytes(blocks: Blocks, seq_len: int, tensor: int, number: int, flash: bool) -> float:
    """What one token leaves behind in one block, cut over `tensor` processes."""
    scores = 0 if flash else blocks.scores * seq_len
    return number * (blocks.numbers_whole + (blocks.numbers_cut + scores) / tensor)
