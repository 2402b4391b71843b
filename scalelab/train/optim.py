"""AdamW over one flat buffer, with a rate and a decay for each kind of weight.

Every weight is a view of one buffer, kinds side by side, so that clipping, the update and
zeroing are one kernel each however many layers there are. Working weights and gradients may
be bf16; the master copy, the moments and the accumulated gradient are fp32 always.

Source: Loshchilov & Hutter 2019, arXiv:1711.05101.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

from scalelab.model.base import Kind
from scalelab.train.spec import AdamWSpec

ORDER: tuple[Kind, ...] = ("matrix", "embedding", "head", "vector")
MOMENTS = ("exp_avg", "exp_avg_sq")
PREFIX = "adamw."
"""Of the moments' names in a checkpoint."""


@dataclass
class _Group:
    """The weights of one kind, side by side in the buffer: flat, fp32, shape (end - first,)."""

    first: int
    end: int
    weights: Tensor
    gradient: Tensor
    peak: float
    """Rate at factor 1."""
    decay: float
    memory: dict[str, Tensor] = field(default_factory=dict)
    """step, exp_avg and exp_avg_sq; empty before the first update."""

    def remember(self, updates: int) -> None:
        """So many updates are made; moments that are missing begin at zero."""
        # The step counter is a tensor on the device: the fused kernel reads it there.
        self.memory["step"] = torch.tensor(float(updates), device=self.weights.device)
        for moment in MOMENTS:
            if moment not in self.memory:
                self.memory[moment] = torch.zeros_like(self.weights)


class FlatAdamW:
    """AdamW for one network. Takes over the network's weights and gradients.

    Args:
        network: On its device, with its starting values.
        kinds: What each named parameter is.
        spec: Peak rates, betas, decay, clipping.
        working: dtype of the weights that the network computes with.
    """

    def __init__(
        self, network: nn.Module, kinds: dict[str, Kind], spec: AdamWSpec, working: torch.dtype
    ):
        named = sorted(network.named_parameters(), key=lambda item: ORDER.index(kinds[item[0]]))
        device = named[0][1].device
        n = sum(p.numel() for _, p in named)
        self.spec = spec
        self.master = torch.empty(n, device=device)
        self.gradient = torch.zeros(n, device=device)
        self._working = self.master
        self._working_gradient = self.gradient
        if working != torch.float32:
            self._working = torch.empty(n, device=device, dtype=working)
            self._working_gradient = torch.zeros(n, device=device, dtype=working)
        self._parameters = dict(named)
        self._spans: dict[str, tuple[int, int]] = {}
        start = 0
        with torch.no_grad():
            for name, parameter in named:
                end = start + parameter.numel()
                self.master[start:end] = parameter.reshape(-1)
                self._spans[name] = (start, end)
                parameter.data = self._working[start:end].view(parameter.shape)
                parameter.grad = self._working_gradient[start:end].view(parameter.shape)
                start = end
        self._refresh()
        self._groups = list(self._grouped(kinds))

    def _grouped(self, kinds: dict[str, Kind]) -> Iterator[_Group]:
        for kind in ORDER:
            spans = [span for name, span in self._spans.items() if kinds[name] == kind]
            if spans:
                first, end = spans[0][0], spans[-1][1]
                decay = 0.0 if kind == "vector" else self.spec.weight_decay
                peak = getattr(self.spec, f"lr_{kind}")
                weights, gradient = self.master[first:end], self.gradient[first:end]
                yield _Group(first, end, weights, gradient, peak, decay)

    def gather(self) -> None:
        """Add the working gradient of one micro-batch to the fp32 gradient, and clear it."""
        if self._working_gradient is not self.gradient:
            self.gradient.add_(self._working_gradient)
            self._working_gradient.zero_()

    def forget_gradient(self) -> None:
        """Clear every gradient, as after a micro-batch that did not fit."""
        self._working_gradient.zero_()
        self.gradient.zero_()

    def norm(self) -> Tensor:
        """Norm of the gradient, unclipped."""
        return torch.linalg.vector_norm(self.gradient)

    def update(self, factor: float, norm: Tensor) -> None:
        """One update at `factor` of the peak rates, the gradient of that norm clipped."""
        if self.spec.grad_clip is not None:
            self.gradient.mul_((self.spec.grad_clip / (norm + 1e-6)).clamp_(max=1.0))
        for group in self._groups:
            self._update(group, factor)
        self._refresh()
        self.gradient.zero_()

    @torch.no_grad()
    def _update(self, group: _Group, factor: float) -> None:
        # torch's function and not its class, which imports all of torch.compile to be made.
        if not group.memory:
            group.remember(0)
        memory = group.memory
        adamw(
            [group.weights], [group.gradient], [memory["exp_avg"]], [memory["exp_avg_sq"]], [],
            [memory["step"]], fused=True, amsgrad=False, maximize=False, lr=group.peak * factor,
            beta1=self.spec.beta1, beta2=self.spec.beta2, eps=self.spec.eps,
            weight_decay=group.decay,
        )  # fmt: skip

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
        for name, (start, end) in self._spans.items():
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
            for name, (start, end) in self._spans.items()
        }

    def moments(self) -> dict[str, Tensor]:
        """What AdamW remembers, by name, as views. Empty before the first step."""
        return {
            f"{PREFIX}{i}.{key}": value
            for i, group in enumerate(self._groups)
            for key, value in group.memory.items()
        }

    def restore(self, weights: dict[str, Tensor], moments: dict[str, Tensor]) -> None:
        """Go on from what weights() and moments() gave."""
        with torch.no_grad():
            for name, view in self.weights().items():
                view.copy_(weights[name])
        for i, group in enumerate(self._groups):
            prefix = f"{PREFIX}{i}."
            state = {k.removeprefix(prefix): v for k, v in moments.items() if k.startswith(prefix)}
            # The step counter stays a tensor of its own, as the fused kernel wants it.
            group.memory = {k: v.to(self.master.device) for k, v in state.items()}
        self._refresh()

    @property
    def updates(self) -> int:
        """Updates made so far."""
        return int(self._groups[0].memory.get("step", 0))

    def by_name(self) -> dict[str, dict[str, Tensor]]:
        """weight, exp_avg and exp_avg_sq by name, as views; moments are zero before a step."""
        self._remember(self.updates)
        found: dict[str, dict[str, Tensor]] = {"weight": self.weights()}
        for moment in MOMENTS:
            found[moment] = {}
            for group in self._groups:
                for name, (low, high) in self._spans.items():
                    if group.first <= low and high <= group.end:
                        view = group.memory[moment][low - group.first : high - group.first]
                        found[moment][name] = view.view(self._parameters[name].shape)
        return found

    def restored(self, updates: int) -> None:
        """To be called once by_name()'s views have been filled: so many updates are made."""
        self._remember(updates)
        self._refresh()

    def _remember(self, updates: int) -> None:
        for group in self._groups:
            group.remember(updates)
