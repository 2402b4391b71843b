"""Stochastic gradient descent with momentum.

    m <- momentum m + g        w <- (1 - lr * decay) w - lr m

Source: Sutskever et al. 2013, section 2, in the form without the factor on g; decay decoupled as in
Loshchilov & Hutter 2019, arXiv:1711.05101.
"""

from typing import ClassVar, Literal

from scalelab.config import Fraction, NonNegative, Positive
from scalelab.train.optimizers.base import Optimizer, ParamGroup


class Sgd(Optimizer):
    """One rate for every weight. Gains do not decay."""

    state: ClassVar = ("velocity",)

    kind: Literal["sgd"] = "sgd"
    lr: Positive
    """Peak rate."""
    momentum: Fraction = 0.9
    weight_decay: NonNegative = 0.0
    grad_clip: Positive | None = 1.0

    def groups(self):
        """Gains, and all else."""
        return (
            ParamGroup(match="vector/*", lr=self.lr),
            ParamGroup(match="*", lr=self.lr, weight_decay=self.weight_decay),
        )

    def max_norm(self):
        """Largest norm of the whole gradient."""
        return self.grad_clip

    def update(self, weights, gradients, state, *, group, lr, step):
        """See Optimizer."""
        del step
        for weight, gradient, velocity in zip(weights, gradients, state["velocity"], strict=True):
            velocity.mul_(self.momentum).add_(gradient)
            weight.mul_(1 - lr * group.weight_decay).sub_(velocity, alpha=lr)

    def rates(self):
        """The rate."""
        return {"lr": self.lr}
