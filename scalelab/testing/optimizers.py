"""Does an optimizer keep its contract? For members of OPTIMIZERS, of any package.

    check_optimizer("mine", {"lr": 0.01})

It trains a small network for a few updates, on a CPU, in less than a second. Every check is an
AssertionError that says what does not hold.

Not here: what an optimizer is (train/optimizers/base.py).
"""

import copy
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from scalelab.config import changed, parse_yaml
from scalelab.train import OPTIMIZERS
from scalelab.train.optimizers.base import Optimizer, grouped
from scalelab.train.optimizers.flat import FlatOptimizer
from scalelab.train.optimizers.per_weight import PerWeightOptimizer
from scalelab.train.rules import Scale

ROLES = {"embedding": "embedding", "first": "matrix", "second": "matrix", "gain": "vector", "head": "head"}
SCALE = Scale(n_params=1e5, n_tokens=2e6, width=64, depth=4, flops=1.2e12, batch=1024)
UPDATES = 12
CLOSE = 1e-5
"""Tolerance of weights: some kernels add up a flat tensor and single ones in another order."""


class Small(nn.Module):
    """A network with a weight of each role."""

    def __init__(self, seed: int = 0):
        super().__init__()
        draw = torch.Generator().manual_seed(seed)
        self.embedding = nn.Parameter(torch.randn(11, 8, generator=draw))
        self.first = nn.Parameter(torch.randn(8, 8, generator=draw) / 3)
        self.second = nn.Parameter(torch.randn(12, 8, generator=draw) / 3)
        self.gain = nn.Parameter(torch.ones(8))
        self.head = nn.Parameter(torch.randn(11, 12, generator=draw) / 3)

    def forward(self, tokens: Tensor) -> Tensor:
        """Mean loss of telling each token from itself."""
        hidden = torch.tanh(self.embedding[tokens] @ self.first.T) * self.gain
        logits = torch.tanh(hidden @ self.second.T) @ self.head.T
        return nn.functional.cross_entropy(logits, tokens)


def check_optimizer(name: str, settings: Mapping[str, Any]) -> None:
    """All checks of one optimizer.

    Args:
        name: In OPTIMIZERS.
        settings: As under `optimizer:` in a recipe, without `kind`; rates that lower the loss of a
            small network.
    """
    member = OPTIMIZERS[name]
    recipe = member.recipe.model_validate({"kind": name, **settings})
    optimizer = recipe.at(SCALE)
    check_settings(name, optimizer)
    assert len(recipe.summary().splitlines()) == 1, "summary() is no line"
    assert isinstance(member.uniform, type), "uniform is no class"
    check_groups(optimizer)
    check_state(optimizer)
    check_learning(optimizer)
    check_going_on(optimizer)
    check_single_weights(optimizer)
    check_working_weights(optimizer)


def check_settings(name: str, optimizer: Optimizer) -> None:
    """It is what its name says, and is read back from a spec as it was written."""
    member = OPTIMIZERS[name]
    assert type(optimizer) is member, f"the recipe gives {type(optimizer).__name__}, not {member}"
    assert optimizer.kind == name == member.model_fields["kind"].default, "kind is not its name"
    assert member.parse(parse_yaml(optimizer.to_yaml(), name)) == optimizer, "lost in YAML"
    assert isinstance(changed(optimizer), dict)
    assert "lr" in optimizer.rates(), 'rates() has no "lr", the rate that is plotted'
    assert all(math.isfinite(rate) for rate in optimizer.rates().values()), "a rate is no number"
    assert len(optimizer.words().splitlines()) == 1, "words() is no line"
    most = optimizer.max_norm()
    assert most is None or most > 0, f"max_norm() is {most}"


def check_groups(optimizer: Optimizer) -> None:
    """Every weight is in one group, whatever its name, and the first that matches has it."""
    found = grouped(optimizer.groups(), ROLES)
    names = sorted(name for _, names in found for name in names)
    assert names == sorted(ROLES), f"weights in groups: {names}"


class OptimizerTrial:
    """A small network under an optimizer."""

    def __init__(self, optimizer: Optimizer, seed: int = 0, working: torch.dtype = torch.float32):
        self.network = Small(seed)
        self.flat = FlatOptimizer(self.network, ROLES, optimizer, working)

    def gradient(self, k: int) -> float:
        """Gradient of batch k, kept inside; its loss."""
        loss = self.network(torch.arange(11).roll(k)[:7])
        loss.backward()
        self.flat.gather()
        return float(loss.detach())

    def train(self, first: int, end: int, factor: float = 1.0) -> list[float]:
        """Updates first to end - 1 and the loss before each, the rate falling by half."""
        losses = []
        for k in range(first, end):
            losses.append(self.gradient(k))
            self.flat.step(factor / (1 + k / UPDATES))
        return losses

    def state(self) -> dict[str, Tensor]:
        """What the optimizer keeps, flat, without the number of updates."""
        return {k: v for k, v in self.flat.state().items() if not k.endswith(".step")}


def check_state(optimizer: Optimizer) -> None:
    """State is zero at first, stays where it is, and is as large as it says."""
    trial = OptimizerTrial(optimizer)
    before = {name: tensor.data_ptr() for name, tensor in trial.state().items()}
    assert not any(tensor.any() for tensor in trial.state().values()), "state is not zero at first"
    trial.train(0, 3)
    after = {name: tensor.data_ptr() for name, tensor in trial.state().items()}
    assert before == after, "state is replaced instead of changed in place"
    assert all(t.isfinite().all() for t in trial.state().values()), "state that is no number"
    held = sum(tensor.nbytes for tensor in trial.state().values())
    stated = optimizer.state_bytes(len(trial.flat.master))
    assert stated >= held, f"state_bytes() is {stated}, and the state takes {held}"


def check_learning(optimizer: Optimizer) -> None:
    """The loss falls, the same is the same again, and a rate of zero moves nothing."""
    losses = OptimizerTrial(optimizer).train(0, UPDATES)
    assert losses[-1] < losses[0], f"the loss does not fall: {losses[0]:.4g} to {losses[-1]:.4g}"
    assert losses == OptimizerTrial(optimizer).train(0, UPDATES), "the same updates end otherwise"
    still = OptimizerTrial(optimizer)
    before = still.flat.master.clone()
    still.train(0, 2, factor=0.0)
    assert torch.equal(before, still.flat.master), "weights move at a rate of zero"


def check_going_on(optimizer: Optimizer) -> None:
    """Stopped and gone on, from either form of a checkpoint, it ends with the same last bit."""
    straight, stopped = OptimizerTrial(optimizer), OptimizerTrial(optimizer)
    straight.train(0, UPDATES)
    stopped.train(0, UPDATES // 2)
    whole = copy.deepcopy({**stopped.flat.weights(), **stopped.flat.state()})
    named = copy.deepcopy(stopped.flat.by_name())
    restored, filled = OptimizerTrial(optimizer, seed=1), OptimizerTrial(optimizer, seed=1)
    restored.flat.restore(whole, whole)
    with torch.no_grad():
        for what, tensors in filled.flat.by_name().items():
            for name, tensor in tensors.items():
                tensor.copy_(named[what][name])
    filled.flat.restored(stopped.flat.updates)
    for trial in (restored, filled):
        trial.train(UPDATES // 2, UPDATES)
        assert torch.equal(trial.flat.master, straight.flat.master), "it goes on to other weights"


def check_single_weights(optimizer: Optimizer) -> None:
    """Each weight by itself, as in a sharded run, is updated as among others."""
    trial, network = OptimizerTrial(optimizer), Small()
    named = dict(network.named_parameters())
    single = PerWeightOptimizer(named, ROLES, optimizer)
    for k in range(4):
        trial.gradient(k)
        norm, most = trial.flat.norm(), optimizer.max_norm()
        share = 1.0 if most is None else (most / (norm + 1e-6)).clamp(max=1.0)
        for name, parameter in trial.network.named_parameters():
            named[name].grad = parameter.grad * share
        trial.flat.update(1 / (1 + k), norm)
        single.set_factor(1 / (1 + k))
        single.step()
    assert single.updates == trial.flat.updates
    for name, weight in trial.flat.weights().items():
        assert torch.allclose(named[name], weight, rtol=CLOSE, atol=CLOSE), (
            f"{name} alone is updated otherwise than among others: where the shape of a weight "
            "decides, elementwise is False"
        )


def check_working_weights(optimizer: Optimizer) -> None:
    """Weights in bf16 are those of the fp32 master, rounded."""
    trial = OptimizerTrial(optimizer, working=torch.bfloat16)
    trial.train(0, 3)
    weights = trial.flat.weights()
    for name, parameter in trial.network.named_parameters():
        assert torch.equal(parameter, weights[name].bfloat16()), f"{name} is not its master's"
