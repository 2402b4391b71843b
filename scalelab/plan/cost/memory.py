"""Memory of training on the fullest device of a layout, by part, in bytes.

    weights, gradients, optimizer   bytes per parameter of a convention x parameters here
    parameters here                 of the stage, / tensor for divided matrices, / shard
    working                         gathered copies in use, and gradients not yet sharded: of the
                                    parts outside the blocks and of two blocks; in a pipeline of the
                                    whole stage, likewise where gradients are held over micro-batches
    activations                     bytes of a token per layer x tokens in flight
    logits                          of all tokens of a micro-batch, or of a chunk of them with the
                                    gradients that a loss in chunks keeps (model/loss_memory.py);
                                    vocabulary / tensor, last stage only; and no less than a
                                    validation of one window needs beside the activations

    convention   weights   gradients   optimizer              bytes per parameter
    mixed        bf16 2    bf16 2      fp32 copy 4, Adam 8    16
    ours         fp32 4    fp32 4      Adam 8                 16, and bf16 working copies
    ours alone   4 + 2     4 + 2       Adam 8                 20: one process, full working copies
    fp32         fp32 4    fp32 4      Adam 8                 16

n devices that share P parameters by ZeRO hold 4P + 12P/n (stage 1, the optimizer), 2P + 14P/n
(stage 2, gradients too) or 16P/n (stage 3, all) of "mixed"; a `shard` of n is stage 3.

Under 1F1B a stage stores as many micro-batches as there are stages from it to the last. With
recomputation a block stores only its input, and one block at a time has all activations. Attention
weights are not stored (flash attention) unless `flash` is false: then scores and weights are,
2 x heads x seq_len numbers per token.

Activations are those of blocks that are not compiled, within 10% (bytes that autograd keeps of the GPU's
branch, measured on a CPU). Blocks that are compiled keep about 20% less.

The loss is in chunks as in the training loop (train/memory.py); never in a pipeline or where `tensor`
divides the vocabulary.

Left out: fragmentation of the allocator, workspaces of kernels, communication buffers; so a layout
fits if it uses at most SHARE_OF_DEVICE. Computed, not measured.

Source: Rajbhandari et al. 2020 (ZeRO), arXiv:1910.02054, section 5; Korthikanti et al. 2022,
arXiv:2205.05198; Narayanan et al. 2021 (1F1B), arXiv:2104.04473.
Not here: the micro-batch that one process tries first (train/memory.py), the choice of a layout
(layouts.py).
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from scalelab.errors import PlanError
from scalelab.hardware.layout import Layout
from scalelab.model.base import Architecture, Blocks
from scalelab.model.loss_memory import logits_bytes, loss_bytes
from scalelab.train.memory import SHARE_OF_DEVICE, loss_rows
from scalelab.train.spec import RunSpec

IN_FLIGHT_BLOCKS = 2  # gathered at once: the one in use and the one that is prefetched
PARTS = ("weights", "gradients", "optimizer", "working", "activations", "logits")
"""Parts of the memory on a device; fields of Memory without `_bytes`."""
SUM_BYTES = 4  # of a gradient that is summed over processes or micro-batches: fp32


@dataclass(frozen=True)
class MemoryConvention:
    """Bytes per parameter of the training state, and per working number."""

    name: str
    weights: int
    gradients: int
    optimizer: int
    number: int
    """Bytes of an activation, and of a weight in use."""
    gathers: bool
    """Whether weights in use are copies beside the stored ones."""

    @property
    def state(self) -> int:
        """Bytes per parameter of weights, gradients and optimizer state."""
        return self.weights + self.gradients + self.optimizer


CONVENTIONS: Mapping[str, MemoryConvention] = {
    "mixed": MemoryConvention("mixed", 2, 2, 12, 2, False),
    "ours": MemoryConvention("ours", 4, 4, 8, 2, True),
    "fp32": MemoryConvention("fp32", 4, 4, 8, 4, False),
}
ALONE = MemoryConvention("ours", 6, 6, 8, 2, False)  # optimizers/flat.py: bf16 copies of the whole buffer


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
    """Logits and what the loss makes of them; in chunks, also the gradients of the head that it keeps."""
    host_bytes: float
    """Bytes in host memory for each process; 0 unless offloaded."""
    convention: str
    stage: int
    """Pipeline stage with the fullest device, from 0."""

    @property
    def total_bytes(self) -> float:
        """Sum over the parts on the device."""
        return (
            self.weights_bytes
            + self.gradients_bytes
            + self.optimizer_bytes
            + self.working_bytes
            + self.activations_bytes
            + self.logits_bytes
        )

    def fits(self, memory_bytes: float) -> bool:
        """Return whether it fits in a share SHARE_OF_DEVICE of the memory of a device."""
        return self.total_bytes <= SHARE_OF_DEVICE * memory_bytes

    def to_json(self) -> dict[str, Any]:
        """Return the record as JSON types."""
        return {**asdict(self), "total_bytes": self.total_bytes, "status": "computed"}


def convention(name: str) -> MemoryConvention:
    """Return a convention by its name. Raises PlanError for an unknown one."""
    if name not in CONVENTIONS:
        raise PlanError(
            f"unknown memory convention {name!r}",
            where="the memory of the plan",
            fix=f"use one of: {', '.join(CONVENTIONS)}",
        )
    return CONVENTIONS[name]


def state_bytes(n_params: float, name: str = "ours", optimizer_bytes: int | None = None) -> float:
    """Return the bytes of weights, gradients and optimizer state of a whole model.

    Args:
        n_params: Every parameter of the model.
        name: Memory convention, a key of CONVENTIONS.
        optimizer_bytes: Bytes of optimizer state per parameter; None for that of the convention.

    Raises:
        PlanError: The convention is unknown.
    """
    kept = convention(name)
    if optimizer_bytes is not None:
        kept = replace(kept, optimizer=optimizer_bytes)
    return n_params * kept.state


def zero_bytes(n_params: float, devices: int, stage: int) -> float:
    """Return the bytes per device of the mixed convention under ZeRO stage 0, 1, 2 or 3.

    Raises:
        PlanError: The stage is not 0 to 3.
    """
    mixed = CONVENTIONS["mixed"]
    shared = {0: 0, 1: mixed.optimizer, 2: mixed.optimizer + mixed.gradients, 3: mixed.state}
    if stage not in shared:
        raise PlanError(f"ZeRO stage {stage}", where="the memory of the plan", fix="give a stage from 0 to 3")
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
    held: bool = False,
    cross_entropy: str = "auto",
    device_bytes: float | None = None,
) -> Memory:
    """Return the memory of the fullest device of a layout.

    Args:
        model: Architecture of the model.
        seq_len: Tokens in a window.
        rows: Windows in one micro-batch on one device, before `context` divides them.
        layout: Layout of the run.
        convention_name: A key of CONVENTIONS.
        optimizer_bytes: Bytes of optimizer state per parameter; None for that of the convention.
        flash: Whether attention weights are recomputed instead of stored.
        held: Whether gradients are summed over processes once a step (train/engines/gradient_sums.py).
        cross_entropy: auto, plain or chunked, as in RunSpec.
        device_bytes: Memory of a GPU, by which auto is plain or chunked; None: unknown, or a CPU, and then
            auto is plain.

    Raises:
        PlanError: The convention is unknown.
    """
    kept = convention(convention_name)
    if kept.name == "ours" and layout.devices == 1 and not layout.offload:
        kept = ALONE
    if optimizer_bytes is not None:
        kept = replace(kept, optimizer=optimizer_bytes)
    layers = layers_of(model.depth(), layout.pipeline)
    # The first has the embedding, the last the head; of the others the first of the deepest.
    candidates = {0, layout.pipeline - 1, layers.index(max(layers))}
    logits = _loss_bytes(model, rows * seq_len, layout, kept.number, cross_entropy, device_bytes)
    stages = [
        _stage(model, seq_len, rows, layout, kept, flash, held, logits, stage) for stage in sorted(candidates)
    ]
    return max(stages, key=lambda m: m.total_bytes)


def holds_gradients(
    spec: RunSpec, layout: Layout, precision: str, memory_bytes: float | None, device_kind: str = "cuda"
) -> bool:
    """Return whether a device has the memory to sum gradients over processes once a step.

    Args:
        spec: The run.
        layout: Its layout.
        precision: fp32 or bf16, of the working weights.
        memory_bytes: Memory of the device; None if unknown, and then the answer is False.
        device_kind: Type of device: cpu or cuda.
    """
    if memory_bytes is None:
        return False
    rows = spec.batch_tokens // spec.seq_len
    needed = memory(
        spec.model,
        seq_len=spec.seq_len,
        rows=max(1, rows // (layout.replicate * layout.shard * layout.micro_batches)),
        layout=layout,
        convention_name="ours" if precision == "bf16" else "fp32",
        optimizer_bytes=spec.optimizer.state_bytes(1),
        held=True,
        cross_entropy=spec.cross_entropy,
        device_bytes=None if device_kind == "cpu" else memory_bytes,
    )
    return needed.fits(memory_bytes)


def layers_of(depth: int, stages: int) -> list[int]:
    """Return the number of layers of each stage, as the training loop divides them."""
    cuts = [depth * i // stages for i in range(stages + 1)]
    return [cuts[i + 1] - cuts[i] for i in range(stages)]


def block_params(blocks: Blocks, tensor: int = 1) -> float:
    """Return the parameters of one block on one process, its matrices divided over `tensor` processes."""
    return blocks.params_cut / tensor + blocks.params_whole


def stage_params(blocks: Blocks, layout: Layout, stage: int) -> tuple[float, float]:
    """Return the parameters of a stage on one process, before sharding: in blocks, and outside them."""
    layers = layers_of(blocks.n, layout.pipeline)[stage]
    is_last = stage == layout.pipeline - 1
    matrices = (stage == 0) + (is_last and not (blocks.tied and layout.pipeline == 1))
    beside = blocks.vocabulary / layout.tensor * matrices
    beside += (blocks.params_first if stage == 0 else 0) + (blocks.params_last if is_last else 0)
    return layers * block_params(blocks, layout.tensor), beside


def _stage(
    model: Architecture,
    seq_len: int,
    rows: int,
    layout: Layout,
    kept: MemoryConvention,
    flash: bool,
    held: bool,
    logits: float,
    stage: int,
) -> Memory:
    blocks = model.blocks()
    within, beside = stage_params(blocks, layout, stage)
    here = (within + beside) / layout.shard
    layers = layers_of(blocks.n, layout.pipeline)[stage]
    spread = kept.gathers or layout.shard > 1 or layout.offload
    working = 0.0
    if spread or held:
        # Weights of a block in use, and its gradient before it is summed in fp32 and sharded.
        block = block_params(blocks, layout.tensor)
        in_use = beside + min(IN_FLIGHT_BLOCKS, layers) * block
        working = kept.number * in_use + (kept.number + SUM_BYTES) * max(block, beside)
        if held or (layout.pipeline > 1 and layout.micro_batches > 1):
            # Between micro-batches a pipeline neither reshards the stage nor sums its gradient.
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
    # A validation holds no activations, and the whole logits of one window at least.
    window = logits_bytes(seq_len // layout.context, model.vocab_size, kept.number)
    logits = max(logits, window - activations)
    on_device = 0 if layout.offload else 1
    return Memory(
        weights_bytes=on_device * kept.weights * here,
        gradients_bytes=on_device * kept.gradients * here,
        optimizer_bytes=on_device * kept.optimizer * here,
        working_bytes=working,
        activations_bytes=activations,
        logits_bytes=logits if is_last else 0.0,
        host_bytes=(1 - on_device) * kept.state * here,
        convention=kept.name,
        stage=stage,
    )


def _loss_bytes(
    model: Architecture,
    tokens: int,
    layout: Layout,
    number: int,
    cross_entropy: str,
    device_bytes: float | None,
) -> float:
    """Bytes of the loss of a micro-batch of so many tokens, before `context` divides them."""
    tokens_here = tokens // layout.context
    if layout.tensor > 1 or layout.pipeline > 1:
        return logits_bytes(tokens_here, model.vocab_size, number) / layout.tensor
    rows = loss_rows(model, cross_entropy, tokens_here, number, "cuda", device_bytes)
    return float(loss_bytes(tokens_here, model.vocab_size, model.width(), number, rows))


def _block_bytes(blocks: Blocks, seq_len: int, tensor: int, number: int, flash: bool) -> float:
    """Bytes of activations of one token in one block, divided over `tensor` processes."""
    return blocks.bytes_per_token(number, 0 if flash else blocks.scores * seq_len, tensor)
