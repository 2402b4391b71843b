"""The settings that change a run's speed or memory and not what it computes, decided for a device.

    cross_entropy   chunked where plain logits of a micro-batch take over 1/16 of a GPU's memory, and
                    chunks take less (train/memory.py)
    attention       flash3 where FlashAttention-3 can be used and precision is bf16
    cuda_graphs     on where a compiled micro-batch has fewer than 16,384 tokens
    matmul          plain; fp8 only by name, since it rounds factors to 3 bits and so changes the losses

On a CPU all four are off by default, so a run is the same there to the last bit. What is asked for by
name and cannot be is refused; cuda_graphs alone has no effect on a CPU, and the run's log says so.

CUDA graphs replay kernels on the memory in which they were recorded. So a step keeps to these rules:
shapes are static (compilation.py); weights and gradients are views of the optimizer's buffers, which stay
where they are (optimizers/flat.py); gradients are added up before the next micro-batch, which begins with
a mark, overwrites those of this one; and after a halved micro-batch all graphs are dropped with their
memory, which means that everything is compiled again, from the cache on disk.

Not here: what torch.compile is asked for (compilation.py), what the hardware has (hardware/).
"""

from collections.abc import Callable
from dataclasses import dataclass

from scalelab.errors import RunError
from scalelab.hardware.attention import flash3_obstacle
from scalelab.hardware.device import Device
from scalelab.hardware.fp8 import fp8_obstacle
from scalelab.model.fp8 import FP8_MULTIPLE
from scalelab.model.network import AttentionKernel, MatmulKernel, Network
from scalelab.train.engines.compilation import compile_obstacle_of, usable_mode
from scalelab.train.memory import first_micro_rows, loss_rows
from scalelab.train.spec import RunSpec

GRAPH_TOKENS = 16_384
"""Tokens of a micro-batch from which on its kernels take longer than their launches, about."""


@dataclass(frozen=True)
class SpeedSetting:
    """A field of a recipe that changes speed or memory, for whoever measures what it gives."""

    name: str
    """What it is, in words."""
    field: str
    """Name of the field in Recipe and RunSpec."""
    values: tuple[str, ...]
    """Values to compare: the first without it, then each with the one before it."""
    needs: str
    """What it needs of a device, in words."""
    obstacle: Callable[[Device], str]
    """Why it cannot be measured on a device; empty where it can."""
    changes_loss: bool = False
    """Whether it changes losses by more than the rounding of a kernel."""


def _without_compiler(device: Device) -> str:
    found = compile_obstacle_of(device)
    return "" if found is None else found.problem


def _without_graphs(device: Device) -> str:
    return "CUDA graphs need a GPU" if device.kind == "cpu" else _without_compiler(device)


def _without_flash3(device: Device) -> str:
    if not device.multiplies_bf16:
        return f"FlashAttention-3 computes in bf16, which {device.name} does not multiply"
    return (flash3_obstacle(device) or ("", ""))[0]


def _without_fp8(device: Device) -> str:
    return (fp8_obstacle(device) or ("", ""))[0]


def _without_bf16(device: Device) -> str:
    has_it = device.kind == "cpu" or device.multiplies_bf16  # a CPU without is slow
    return "" if has_it else f"{device.name} does not multiply bf16"


SPEED_SETTINGS = (
    SpeedSetting("bf16", "precision", ("fp32", "bf16"), "native bf16 products", _without_bf16),
    SpeedSetting(
        "torch.compile",
        "compile",
        ("off", "block", "whole"),
        "a compiler; on a GPU Triton",
        _without_compiler,
    ),
    SpeedSetting("cross-entropy in chunks", "cross_entropy", ("plain", "chunked"), "nothing", lambda _: ""),
    SpeedSetting(
        "FlashAttention-3",
        "attention",
        ("sdpa", "flash3"),
        "compute capability 9, flash_attn_interface, bf16",
        _without_flash3,
    ),
    SpeedSetting("CUDA graphs", "cuda_graphs", ("off", "on"), "a GPU, and torch.compile", _without_graphs),
    SpeedSetting(
        "products in fp8",
        "matmul",
        ("plain", "fp8"),
        "an NVIDIA GPU of compute capability 8.9 or higher, bf16",
        _without_fp8,
        changes_loss=True,
    ),
)
"""Every setting of the kind, in the order in which they are best measured."""


def attention_kernel(spec: RunSpec, device: Device, precision: str) -> AttentionKernel:
    """Return the kernel of attention.

    Args:
        spec: The run.
        device: Of the process.
        precision: fp32 or bf16, of the working weights.

    Raises:
        RunError: flash3 is asked for and cannot be used.
    """
    if spec.attention == "sdpa":
        return "sdpa"
    obstacle = flash3_obstacle(device)
    if obstacle is None and precision != "bf16":
        obstacle = (
            f"FlashAttention-3 computes in bf16, and precision is {precision}",
            "set `precision: bf16` or `attention: sdpa`",
        )
    if obstacle is None:
        return "flash3"
    if spec.attention == "auto":
        return "sdpa"
    problem, fix = obstacle
    raise RunError(f"attention is flash3, and {problem}", where=f"the device {device.name}", fix=fix)


def matmul_kernel(spec: RunSpec, device: Device, precision: str) -> MatmulKernel:
    """Return how matrix products in the blocks are computed.

    Args:
        spec: The run.
        device: Of the process.
        precision: fp32 or bf16, of the working weights.

    Raises:
        RunError: fp8 is asked for and cannot be used.
    """
    if spec.matmul == "plain":
        return "plain"
    obstacle = fp8_obstacle(device)
    if obstacle is None and precision != "bf16":
        obstacle = (f"precision is {precision}", "set `precision: bf16` or `matmul: plain`")
    if obstacle is None and spec.seq_len % FP8_MULTIPLE:
        obstacle = (
            f"seq_len {spec.seq_len} is no multiple of {FP8_MULTIPLE}",
            f"set `matmul: plain`, or a seq_len of whole multiples of {FP8_MULTIPLE}",
        )
    if obstacle is None:
        return "fp8"
    problem, fix = obstacle
    raise RunError(f"matmul is fp8, and {problem}", where=f"the device {device.name}", fix=fix)


def precision_words(spec: RunSpec, precision: str) -> str:
    """Return the precision of a run as its result names it: "bf16", or "bf16+fp8" with products in fp8."""
    return f"{precision}+fp8" if spec.matmul == "fp8" else precision


def uses_cuda_graphs(spec: RunSpec, device: Device, mode: str, micro_rows: int) -> bool:
    """Return whether compiled functions are replayed as CUDA graphs.

    Args:
        spec: The run.
        device: Of the process.
        mode: How the network is compiled there: off, block or whole.
        micro_rows: Windows of a micro-batch.

    Raises:
        RunError: They are asked for on a GPU where nothing is compiled.
    """
    if device.kind == "cpu" or spec.cuda_graphs == "off":
        return False
    if spec.cuda_graphs == "on" and mode == "off":
        raise RunError(
            "cuda_graphs is on, and the network is not compiled",
            where=f"the device {device.name}, compile: {spec.compile}",
            fix="set `compile: block` or `compile: whole` where there is a compiler, or `cuda_graphs: auto`",
        )
    return mode != "off" and (spec.cuda_graphs == "on" or micro_rows * spec.seq_len < GRAPH_TOKENS)


def graphs_note(spec: RunSpec, device: Device) -> str:
    """Return that CUDA graphs are asked for without effect; empty where they are not."""
    if device.kind != "cpu" or spec.cuda_graphs != "on":
        return ""
    return f"cuda_graphs is on without effect: {device.name} is a CPU"


def resolved_spec(spec: RunSpec, device: Device) -> RunSpec:
    """Return a run with every speed setting that it leaves to the device as the device decides it.

    Args:
        spec: The run.
        device: Of the process.

    Raises:
        RunError: A value is asked for by name, and the device cannot follow it.
    """
    precision = device.precision(spec.precision)
    micro_rows = first_micro_rows(spec, device.kind, device.memory_bytes, precision)
    mode = usable_mode(device, spec.compile)
    rows = _loss_rows(spec, device, precision, micro_rows)
    return spec.model_copy(
        update={
            "precision": precision,
            "compile": mode,
            "cross_entropy": "plain" if rows is None else "chunked",
            "attention": attention_kernel(spec, device, precision),
            "matmul": matmul_kernel(spec, device, precision),
            "cuda_graphs": "on" if uses_cuda_graphs(spec, device, mode, micro_rows) else "off",
        }
    )


def _loss_rows(spec: RunSpec, device: Device, precision: str, micro_rows: int) -> int | None:
    number_bytes, tokens = 2 if precision == "bf16" else 4, micro_rows * spec.seq_len
    return loss_rows(spec.model, spec.cross_entropy, tokens, number_bytes, device.kind, device.memory_bytes)


def configure_network(
    network: Network, spec: RunSpec, device: Device, precision: str, micro_rows: int
) -> int | None:
    """Let a network compute as its run's settings say on a device; to be called before it is compiled.

    Returns the rows whose logits its loss holds at once; None: those of the whole micro-batch.

    Args:
        network: Of the run.
        spec: The run.
        device: Of the process.
        precision: fp32 or bf16, of the working weights.
        micro_rows: Windows of a micro-batch.

    Raises:
        RunError: A value is asked for by name, and the network or the device cannot follow it.
    """
    rows = _loss_rows(spec, device, precision, micro_rows)
    kernel, matmul = attention_kernel(spec, device, precision), matmul_kernel(spec, device, precision)
    follows = network.follows if spec.model.has_chunked_loss else network.follows - {"loss_rows"}
    for field, name, asked, fix in (
        ("cross_entropy", "loss_rows", "chunked", "set `cross_entropy: auto`"),
        ("attention", "attention_kernel", "flash3", "set `attention: auto`"),
        (
            "matmul",
            "matmul",
            "fp8",
            f"set `matmul: plain`, or give every matrix of the blocks sides in multiples of {FP8_MULTIPLE}",
        ),
    ):
        if getattr(spec, field) == asked and name not in follows:
            raise RunError(
                f"{field} is {asked}, which this model cannot follow",
                where=f"the model: {spec.model.kind}, {spec.model.words()}",
                fix=fix,
            )
    rows = rows if "loss_rows" in follows else None
    network.configure(rows, kernel if "attention_kernel" in follows else "sdpa", matmul)
    return rows
