"""An optimizer over single weights, wherever they lie: in torch's own form.

For weights that are sharded over processes (engines/parallel.py) and for trainers of other
libraries, which ask for a torch.optim.Optimizer and save it by its state_dict.

Not here: what an optimizer is (base.py), all weights of one process in one buffer (flat.py).
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from scalelab.train.optimizers.base import Optimizer, grouped


class PerWeightOptimizer(torch.optim.Optimizer):
    """An optimizer for named weights. Gradients are not clipped here.

    Args:
        named: The weights, fp32.
        kinds: The role of each.
        optimizer: Its settings.
        steps: Weights that it does not train, with their steps; see Network.sign_steps.

    The rate of a group is its "lr", as in torch; "peak" is that at factor 1. Of a sharded weight
    an elementwise optimizer is given the part that is here, another the DTensor.

    Raises:
        ConfigError: A weight is in none of the optimizer's groups.
    """

    def __init__(
        self,
        named: Mapping[str, Tensor],
        kinds: Mapping[str, str],
        optimizer: Optimizer,
        steps: Mapping[str, float] | None = None,
    ):
        self._optimizer, steps = optimizer, steps or {}
        found = grouped(optimizer.groups(), {name: kinds[name] for name in named if name not in steps})
        self._stepped = [(named[name], step) for name, step in steps.items()]
        self._groups = [group for group, _ in found]
        groups = [{"params": [named[name] for name in names], "lr": g.lr} for g, names in found]
        super().__init__(groups, {})

    def set_factor(self, factor: float) -> None:
        """Go on at `factor` of the peak rates."""
        for torchs, group in zip(self.param_groups, self._groups, strict=True):
            torchs["lr"] = group.lr * factor

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:
        """One update of every weight that has a gradient, at each group's "lr"."""
        assert closure is None, "the gradient is there already"
        for torchs, group in zip(self.param_groups, self._groups, strict=True):
            with_gradient = [p for p in torchs["params"] if p.grad is not None]
            if not with_gradient:
                continue
            kept = [self._kept(p) for p in with_gradient]
            for state in kept:
                state["step"] += 1
            self._optimizer.update(
                [self._here(p) for p in with_gradient],
                [self._here(p.grad) for p in with_gradient],
                {name: [self._here(s[name]) for s in kept] for name in self._optimizer.state},
                group=group,
                lr=torchs["lr"],
                step=int(kept[0]["step"]),
            )
        for weight, step in self._stepped:
            if weight.grad is not None:
                _part(weight).sub_(_part(weight.grad).sign(), alpha=step)

    def _kept(self, parameter: Tensor) -> dict[str, Tensor]:
        state = self.state[parameter]
        if not state:
            state["step"] = torch.tensor(0.0)
            for name in self._optimizer.state:
                state[name] = torch.zeros_like(parameter, requires_grad=False)
        return state

    def _here(self, tensor: Tensor) -> Tensor:
        is_part = self._optimizer.elementwise and isinstance(tensor, DTensor)
        return tensor.to_local() if is_part else tensor

    @property
    def updates(self) -> int:
        """Updates made so far."""
        return int(self._kept(self.param_groups[0]["params"][0])["step"])

    def kept(self, parameter: Tensor) -> dict[str, Tensor]:
        """State of a weight by name, as views; zero before the first update, none where it is not trained."""
        if any(parameter is weight for weight, _ in self._stepped):
            return {}
        return {name: self._kept(parameter)[name] for name in self._optimizer.state}

    def restored(self, updates: int) -> None:
        """To be called once the views of kept() have been filled: so many updates are made."""
        for group in self.param_groups:
            for parameter in group["params"]:
                self._kept(parameter)["step"].fill_(float(updates))


def _part(tensor: Tensor) -> Tensor:
    """The part of a weight that is here."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
