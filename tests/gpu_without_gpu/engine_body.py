"""Checks of the engine in both processes of test_layouts.py, beside the compiled layouts."""

import os
import time
import weakref

import pytest
import torch
from operations import HostBytes, Operations

from scalelab.errors import RunError
from scalelab.hardware.device import OutOfMemory, find_device
from scalelab.hardware.layout import Layout
from scalelab.model import kernels
from scalelab.model.transformer import network
from scalelab.train.engines import parallel, probe
from scalelab.train.engines.parallel import ParallelEngine
from scalelab.train.step_clock import FIRST_STEPS

COUNTED = [
    (held, axis, micro_batches)
    for held, axis in ((True, "shard"), (True, "replicate"), (False, "shard"))
    for micro_batches in (1, 4)
]
SHORT = [("forward", "shard"), ("forward", "replicate"), ("backward", "shard")]
OWN_SECONDS = (1.0, 9.0)
DEEP = 12


class Full(torch.autograd.Function):
    """Fails in the backward pass."""

    @staticmethod
    def forward(ctx, x):
        """Nothing."""
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        """Fail while something is held."""
        held = grad + 1
        raise OutOfMemory(f"no room\nfor {held.shape}")


def engine_of(spec, layout, held=True, halved=lambda tokens: None):
    return ParallelEngine(spec, layout, find_device(), "fp32", held, halved)


def step(engine, batch):
    """Loss and norm of one step, agreed on."""
    part, n = engine.share
    loss = engine.gradient(batch.chunk(n)[part])
    norm = engine.norm()
    agreed = engine.agree(loss, norm, False)
    engine.update(1.0, norm)
    return agreed.loss, agreed.norm


def counted(spec, tokens, held, axis, micro_batches):
    """Losses of two steps, collective operations of the first and of a later one, and its reads."""
    engine = engine_of(spec, Layout(**{axis: 2}, micro_batches=micro_batches), held)
    with pytest.MonkeyPatch.context() as patch:
        for module in (kernels, network):  # a GPU's branch; that of a CPU reads numbers
            patch.setattr(module, "use_cpu_kernels", lambda x: False)
        with Operations() as first:
            losses = [step(engine, tokens[0])]
        losses.append(step(engine, tokens[1]))
        for _ in range(FIRST_STEPS - 2):
            step(engine, tokens[1])
        numbers = [state["step"] for state in engine.optimizer.state.values()]
        with Operations(numbers) as later:
            step(engine, tokens[1])
    return losses, dict(first.collectives), dict(later.collectives), later.reads


def short_of_memory(spec, tokens, rank, where, axis):
    """Losses of two steps in the first of which the second process lacks memory for three windows."""
    alive, freed, halved = [], [], []
    engine = engine_of(spec, Layout(**{axis: 2}), halved=halved.append)
    forward = engine.network.forward

    def tight(inputs, targets):
        activation = engine.network.embedding[inputs] * 1.0
        alive.append(weakref.ref(activation))
        if len(inputs) > 2 and where == "forward":
            raise OutOfMemory("no room")
        loss = forward(inputs, targets)
        return Full.apply(loss + 0 * activation.square().sum()) if len(inputs) > 2 else loss

    if rank == 1:
        engine.network.forward = tight
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            parallel, "free_cached_memory", lambda device: freed.append([kept() is None for kept in alive])
        )
        losses = [step(engine, batch) for batch in tokens]
    return losses, engine.micro_rows, freed, halved


def no_room_at_all(spec, tokens, rank):
    """The refusal of a run one window of which is too much for the second process."""
    engine = engine_of(spec, Layout(shard=2, micro_batches=4))
    if rank == 1:
        engine.network.forward = lambda inputs, targets: Full.apply(engine.network.norm.sum())
    try:
        step(engine, tokens[0])
    except RunError as refusal:
        return refusal.problem, refusal.where
    return None


def no_room_for_the_update(spec, tokens, rank):
    """The error of each process when the second one lacks memory in the update, and the seconds it took.

    The second process ends at it. To be called last.
    """
    engine, begun = engine_of(spec, Layout(shard=2)), time.monotonic()
    if rank == 1:

        def full(*_, **__):
            raise OutOfMemory("no room for the update")

        engine.optimizer.step = full
    try:
        step(engine, tokens[0])
        step(engine, tokens[1])
    except RuntimeError as error:  # which an OutOfMemory is too
        return isinstance(error, OutOfMemory), time.monotonic() - begun
    return None


def starting_bytes(spec):
    """The most host memory while an engine is made, that of its shards, of its largest weight, of all."""
    deep = spec.model_copy(update={"model": spec.model.model_copy(update={"n_layers": DEEP})})
    with HostBytes() as counter:
        engine = engine_of(deep, Layout(shard=2))
    weights = list(engine.network.parameters())
    shards = sum(weight.to_local().nbytes for weight in weights)
    sizes = [weight.numel() * 4 for weight in weights]
    return counter.most, shards, max(sizes), sum(sizes)


def slow_process(spec, rank):
    """What both processes agree on when the second one is slow."""
    engine = engine_of(spec, Layout(shard=2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(probe, "device_seconds", lambda device, work: OWN_SECONDS[rank])
        own = engine.own_seconds()
    zero = torch.zeros(())
    return engine.agree(zero, zero, rank == 1, False, own_seconds=own)


def checks(spec, tokens, rank, answers):
    """Run all checks and report each under its name and rank; does not return."""
    steps = tokens[:2]
    for case in COUNTED:
        answers[("counted", *case, rank)] = counted(spec, steps, *case)
    for case in SHORT:
        answers[("short", *case, rank)] = short_of_memory(spec, steps, rank, *case)
    answers["bytes", rank] = starting_bytes(spec)
    answers["slow", rank] = slow_process(spec, rank)
    answers["no room", rank] = no_room_at_all(spec, steps, rank)
    answers["update", rank] = no_room_for_the_update(spec, steps, rank)
    os._exit(0)  # threads of the broken group would keep it alive
