"""Compile a network with torch.compile: block by block, as a whole, or not at all.

    off    every operation is its own kernel
    block  one graph for all blocks, which are equal, and one for the head with its loss: the time to
           compile does not grow with depth
    whole  one graph for the network: every layer is unrolled, so compiling takes longer

Every graph is of one static shape. Another shape is another graph, and none has symbolic sizes,
whose kernels are slower.

Compiled kernels are kept in one directory for all runs below a directory of runs, so that the
processes of a sweep, and a run that is resumed, compile each graph once. The variable
TORCHINDUCTOR_CACHE_DIR, where it is set, names another directory.

A run that leaves the choice to the device is trained uncompiled where nothing can be compiled, which
is slower, and its log says why; a run that asks for a mode is refused there.

Not here: which mode a device gets (hardware/device.py), what torch.compile needs
(hardware/compiler.py), what a network offers as graphs (compile_with of each network).
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from scalelab.errors import RunError
from scalelab.hardware.compiler import CompileObstacle, compile_obstacle
from scalelab.hardware.device import Device
from scalelab.model.loss_memory import logits_bytes, loss_bytes
from scalelab.model.network import Network
from scalelab.train.spec import RunSpec

CACHE = "TORCHINDUCTOR_CACHE_DIR"
CACHE_NAME = ".compiled"
MOST_GRAPHS = 64
"""Graphs of one function before torch would run it uncompiled: shapes, dtypes and networks of a process."""
INDUCTOR = "inductor"
BACKEND = INDUCTOR
"""Compiler of torch.compile. Only this one needs compilers of other languages."""


def usable_mode(device: Device, asked: str) -> str:
    """Return how a network is compiled on a device: off, block or whole.

    Args:
        device: Device of the run.
        asked: auto, off, block or whole. auto is off where nothing can be compiled.

    Raises:
        RunError: A mode is asked for by name, and nothing can be compiled.
    """
    mode = device.compile_mode(asked)
    obstacle = _obstacle(device, mode)
    if obstacle is None:
        return mode
    if asked == "auto":
        return "off"
    raise RunError(
        f"compile is {asked}, and {obstacle.problem}",
        where=f"the device {device.name}",
        fix=f"{obstacle.fix}; or set `compile: auto`, which trains uncompiled here",
    )


def compile_note(device: Device, asked: str) -> str:
    """Return why a run is trained uncompiled against the default of its device; empty where it is not."""
    obstacle = _obstacle(device, device.compile_mode(asked))
    return "" if obstacle is None else f"trained uncompiled, which is slower: {obstacle}"


def _obstacle(device: Device, mode: str) -> CompileObstacle | None:
    return None if mode == "off" else compile_obstacle_of(device)


def compile_obstacle_of(device: Device) -> CompileObstacle | None:
    """Return what keeps networks from being compiled on a device; None where they can be."""
    return compile_obstacle(device) if BACKEND == INDUCTOR else None


def compile_function(
    function: Callable[..., Any], mode: str, cuda_graphs: bool = False
) -> Callable[..., Any]:
    """Return a function compiled for static shapes; the function itself where the mode is off.

    Args:
        function: What to compile.
        mode: off, block or whole.
        cuda_graphs: Whether it is replayed as CUDA graphs. Its outputs are then overwritten after the next
            torch.compiler.cudagraph_mark_step_begin().
    """
    if mode == "off":
        return function
    return torch.compile(
        function,
        backend=BACKEND,
        mode="reduce-overhead" if cuda_graphs and BACKEND == INDUCTOR else None,
        dynamic=False,
        recompile_limit=MOST_GRAPHS,
    )


def compile_network(network: Network, mode: str, cuda_graphs: bool = False) -> None:
    """Let a network compute with compiled graphs from now on.

    Args:
        network: On its device.
        mode: off, block or whole.
        cuda_graphs: See compile_function.
    """
    if mode != "off":
        network.compile_with(
            lambda function: compile_function(function, mode, cuda_graphs), whole=mode == "whole"
        )


def validation_rows(
    spec: RunSpec,
    device: Device,
    micro_rows: int,
    number_bytes: int,
    loss_rows: int | None,
    processes: int = 1,
    tensor: int = 1,
) -> int | None:
    """Return the windows of every forward pass of a validation; None on a CPU that compiles nothing.

    As many as a micro-batch of training has, and no more than the shortest validation of the run has,
    so that all validations are of one shape and compiled once. A validation holds the logits of all its
    windows, and of the whole vocabulary; training may hold those of a chunk, or of a part of the
    vocabulary. So there are no more windows than have their logits in the memory that was counted for the
    loss of a micro-batch, and at least one.

    Args:
        spec: The run.
        device: Of the process.
        micro_rows: Windows of a micro-batch.
        number_bytes: Bytes of a number of the working weights: 4 in fp32, 2 in bf16.
        loss_rows: Rows whose logits the loss of training holds at once; None: those of the micro-batch.
        processes: Number of processes that share the windows.
        tensor: Number of processes among which the vocabulary is cut in training.
    """
    if device.kind == "cpu" and usable_mode(device, spec.compile) == "off":
        return None
    fewest = min(spec.evaluation.curve_tokens, spec.evaluation.tokens) // spec.seq_len
    model, tokens = spec.model, micro_rows * spec.seq_len
    counted = loss_bytes(tokens, model.vocab_size, model.width(), number_bytes, loss_rows) // tensor
    have_room = counted // logits_bytes(spec.seq_len, model.vocab_size, number_bytes)
    return max(1, min(micro_rows, have_room, -(-fewest // processes)))


def share_compile_cache(root: Path) -> None:
    """Keep compiled kernels below `root`, a directory of runs, unless the environment names a place."""
    os.environ.setdefault(CACHE, str(root.absolute() / CACHE_NAME))
