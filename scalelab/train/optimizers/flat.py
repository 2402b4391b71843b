"""An optimizer over one flat buffer: all weights of one process, whatever the optimizer.

Every weight is a view of one buffer, groups side by side, so that clipping, the update of an
elementwise optimizer and zeroing are one kernel each however many layers there are. Working weights
and gradients may be bf16; the master copy, the state and the accumulated gradient are fp32 always.

Not here: what an optimizer is (base.py), weights in many processes (per_weight.py).
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from scalelab.train.optimizers.base import Optimizer, ParamGroup, grouped


@dataclass(frozen=True)
class _Span:
    """The weights of one group, side by side in the buffer."""

    group: ParamGroup
    names: list[str]
    weights: list[Tensor]
    gradients: list[Tensor]
    state: dict[str, Tensor]
    """Flat, one number for each of the group's weights."""
    views: dict[str, list[Tensor]]
    """Views of the buffer, shaped like the weights, or like the parts of those that are joined."""


class FlatOptimizer:
    """An optimizer for one network. Takes over the network's weights and gradients.

    Args:
        network: On its device, with its starting values.
        kinds: The role of each named parameter.
        optimizer: Its settings.
        working: dtype of the weights that the network computes with.
        sign_steps: Step of each parameter that the optimizer does not train, by name; one of 0 stays as it is.
            None: those of the network (Network.sign_steps).

    Raises:
        ConfigError: A weight is in none of the optimizer's groups.
    """

    def __init__(
        self,
        network: nn.Module,
        kinds: Mapping[str, str],
        optimizer: Optimizer,
        working: torch.dtype,
        *,
        sign_steps: Mapping[str, float] | None = None,
    ):
        self._parameters = dict(network.named_parameters())
        steps = getattr(network, "sign_steps", dict)() if sign_steps is None else sign_steps
        trained = {name: kinds[name] for name in self._parameters if name not in steps}
        found = grouped(optimizer.groups(), trained)
        device = next(iter(self._parameters.values())).device
        n = sum(p.numel() for p in self._parameters.values())
        self._joined = getattr(getattr(network, "config", None), "joined", None)
        self.optimizer = optimizer
        self.updates = 0
        """Updates made so far."""
        self.master = torch.empty(n, device=device)
        self.gradient = torch.zeros(n, device=device)
        self._working = self.master
        self._working_gradient = self.gradient
        if working != torch.float32:
            self._working = torch.empty(n, device=device, dtype=working)
            self._working_gradient = torch.zeros(n, device=device, dtype=working)
        self._places: dict[str, tuple[int, int]] = {}
        start = 0
        with torch.no_grad():
            for name in (*(name for _, names in found for name in names), *steps):
                parameter = self._parameters[name]
                end = start + parameter.numel()
                self.master[start:end] = parameter.reshape(-1)
                self._places[name] = (start, end)
                parameter.data = self._working[start:end].view(parameter.shape)
                parameter.grad = self._working_gradient[start:end].view(parameter.shape)
                start = end
        self._refresh()
        if self._working is not self.master and (exact := getattr(network, "exact_names", tuple)()):
            masters = self.weights()
            network.keep_exact({name: masters[name] for name in exact})
        self._spans = [self._span(group, names) for group, names in found]
        self._stepped = [(slice(*self._places[name]), step) for name, step in steps.items() if step]
        self._trained = self.gradient[: n - sum(self._parameters[name].numel() for name in steps)]

    def _span(self, group: ParamGroup, names: list[str]) -> _Span:
        first, end = self._places[names[0]][0], self._places[names[-1]][1]
        flat, gradient = self.master[first:end], self.gradient[first:end]
        state = {name: torch.zeros_like(flat) for name in self.optimizer.state}
        if self.optimizer.elementwise:
            views = {name: [tensor] for name, tensor in state.items()}
            return _Span(group, names, [flat], [gradient], state, views)
        views = {name: self._matrices(names, tensor) for name, tensor in state.items()}
        weights, gradients = self._matrices(names, flat), self._matrices(names, gradient)
        return _Span(group, names, weights, gradients, state, views)

    def _matrices(self, names: list[str], flat: Tensor) -> list[Tensor]:
        """A group's flat tensor in the shapes of its weights, those that are joined taken apart."""
        found = []
        for name, view in zip(names, self._views(names, flat), strict=True):
            rows = list(self._joined(name).values()) if self._joined is not None else [-1]
            found += [view] if rows == [-1] else view.split(rows)
        return found

    def _views(self, names: list[str], flat: Tensor) -> list[Tensor]:
        """A group's flat tensor in the shapes of its weights."""
        pieces = flat.split([self._parameters[name].numel() for name in names])
        return [p.view(self._parameters[n].shape) for n, p in zip(names, pieces, strict=True)]

    def gather(self) -> None:
        """Add the working gradient of one micro-batch to the fp32 gradient, and clear it."""
        if self._working_gradient is not self.gradient:
            self.gradient.add_(self._working_gradient)
            self._working_gradient.zero_()

    def zero_grad(self) -> None:
        """Clear every gradient, as after a micro-batch that did not fit."""
        self._working_gradient.zero_()
        self.gradient.zero_()

    def norm(self) -> Tensor:
        """Norm of the gradient of all that is trained, unclipped."""
        return torch.linalg.vector_norm(self._trained)

    @torch.no_grad()
    def update(self, factor: float, norm: Tensor) -> None:
        """One update at `factor` of the peak rates, the gradient of that norm clipped."""
        most = self.optimizer.max_norm()
        if most is not None:
            self._trained.mul_((most / (norm + 1e-6)).clamp_(max=1.0))
        self.updates += 1
        for span in self._spans:
            self.optimizer.update(
                span.weights,
                span.gradients,
                span.views,
                group=span.group,
                lr=span.group.lr * factor,
                step=self.updates,
            )
        for place, step in self._stepped:  # see Network.sign_steps
            self.master[place].sub_(self.gradient[place].sign(), alpha=step)
        self._refresh()
        self.gradient.zero_()

    def step(self, factor: float) -> Tensor:
        """norm() and update() in one. Returns the norm."""
        norm = self.norm()
        self.update(factor, norm)
        return norm

    def _refresh(self) -> None:
        if self._working is not self.master:
            self._working.copy_(self.master)

    @contextmanager
    def full_precision(self) -> Iterator[None]:
        """Let the network compute with the fp32 master weights for a while."""
        try:
            self._point_at(self.master)
            yield
        finally:
            self._point_at(self._working)

    def _point_at(self, buffer: Tensor) -> None:
        for name, (start, end) in self._places.items():
            parameter = self._parameters[name]
            gradient, parameter.grad = parameter.grad, None  # its dtype must match the data's
            parameter.data = buffer[start:end].view(parameter.shape)
            if buffer is self._working:
                gradient = self._working_gradient[start:end].view(parameter.shape)
                parameter.grad = gradient

    def weights(self) -> dict[str, Tensor]:
        """The fp32 weights by name, as views."""
        return {
            name: self.master[start:end].view(self._parameters[name].shape)
            for name, (start, end) in self._places.items()
        }

    def state(self) -> dict[str, Tensor]:
        """What the optimizer keeps, for a checkpoint: KIND.GROUP.NAME, and how many updates it has
        made as KIND.GROUP.step. Flat, as views.
        """
        found = {}
        for prefix, span in self._named_spans():
            found[f"{prefix}.step"] = torch.tensor(float(self.updates))
            found |= {f"{prefix}.{name}": tensor for name, tensor in span.state.items()}
        return found

    def restore(self, weights: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
        """Go on from what weights() and state() gave; other tensors may be among them.

        Raises:
            KeyError: A tensor is missing.
            RuntimeError: A tensor has another shape.
        """
        with torch.no_grad():
            for name, view in self.weights().items():
                view.copy_(weights[name])
            updates = 0
            for prefix, span in self._named_spans():
                # Before the first update older checkpoints have no state.
                updates = int(state.get(f"{prefix}.step", 0))
                for name, tensor in span.state.items():
                    tensor.copy_(state[f"{prefix}.{name}"]) if updates else tensor.zero_()
        self.restored(updates)

    def _named_spans(self) -> Iterator[tuple[str, _Span]]:
        for i, span in enumerate(self._spans):
            yield f"{self.optimizer.kind}.{i}", span

    def by_name(self) -> dict[str, dict[str, Tensor]]:
        """Under "weight" and each name of the state: tensors by the name of their weight, views."""
        found: dict[str, dict[str, Tensor]] = {"weight": self.weights()}
        for kept in self.optimizer.state:
            found[kept] = {}
            for span in self._spans:
                views = self._views(span.names, span.state[kept])
                found[kept] |= dict(zip(span.names, views, strict=True))
        return found

    def restored(self, updates: int) -> None:
        """To be called once by_name()'s views have been filled: so many updates are made."""
        self.updates = updates
        self._refresh()
