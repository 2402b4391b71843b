"""AdamW, with a rate for each role of a weight.

    m <- beta1 m + (1 - beta1) g        v <- beta2 v + (1 - beta2) g^2
    w <- (1 - lr * decay) w - lr * m' / (sqrt(v') + eps)        m', v' over 1 - beta^step

In a recipe, rates are one rate and its multiples, which follow width and batch:

    base         = lr * (batch_tokens / batch_ref)^batch_exponent
    lr_matrix    = base * (width_ref / width)^width_exponent
    lr_embedding = base * embedding_lr                              (head and gains alike)

Any number in it may be given as a rule (rules.py). A rule for `lr` that says all there is to say
goes with `width_exponent: 0` and `batch_exponent: 0`.

Sources: Loshchilov & Hutter 2019, arXiv:1711.05101; the 1/width rule for hidden matrices, Yang et
al. 2022 (muP), arXiv:2203.03466; rate by the square root of the batch, Malladi et al. 2022,
arXiv:2205.10287. The constants are the recipe's own and must be tuned.
"""

from collections.abc import Callable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field

from scalelab.config import Config, Count, Fraction, NonNegative, Number, Positive
from scalelab.train.optimizers.base import Optimizer, ParamGroup
from scalelab.train.parametrization import Multipliers
from scalelab.train.rules import Scale
from scalelab.units import sci

if TYPE_CHECKING:
    from torch import Tensor

LATER = {"since": 2}
"""Fields that came after the first run ids."""
IN_BLOCKS = "blocks.*"
"""Names of weights inside blocks, in networks that have multipliers."""


@cache
def _torchs() -> tuple[Callable[..., Any], Callable[..., Any]]:
    """torch.full, and torch's function for AdamW: its class imports all of torch.compile.

    Imported once an update asks for it, so that a sweep is planned without torch.
    """
    import torch
    from torch.optim.adamw import adamw

    return torch.full, adamw


class RelativeGroup(Config):
    """A group of weights in a recipe."""

    match: str
    """As in ParamGroup."""
    lr: Positive = 1.0
    """Peak rate, as a multiple of the recipe's lr at the run's batch."""
    width_exponent: Number = 0.0
    """How fast the rate falls with width."""
    weight_decay: NonNegative | None = None
    """None: that of the recipe."""


class AdamWRecipe(Config):
    """AdamW's settings as functions of the scale of a run."""

    rate_exponents: ClassVar = ("width_exponent", "batch_exponent")
    """Fields by which lr is multiplied with width and batch; see PublishedFit.is_whole_rate."""
    parametrizations: ClassVar[tuple[str, ...]] = ("mup", "completep")
    """Published parametrizations that hold for it; see Recipe.param."""

    kind: Literal["adamw"] = Field("adamw", json_schema_extra=LATER)
    lr: Positive
    """Peak rate of hidden matrices at width_ref and batch_ref."""
    width_ref: Positive = 64
    """Width of the model at which hidden matrices get lr itself."""
    width_exponent: Number = 1.0
    """How fast the rate of hidden matrices falls with width; 1 is muP's, 0 none."""
    depth_ref: Count | None = Field(None, json_schema_extra=LATER)
    """Depth of the model at which the recipe's `param: completep` changes nothing. Other parametrizations do not
    read it."""
    batch_ref: Positive = 1024
    """Tokens a step at which lr applies."""
    batch_exponent: Number = 0.5
    """How fast all rates rise with the batch."""
    embedding_lr: Positive = 1.0
    """Rate of the input embedding, as a multiple of lr. It does not fall with width."""
    head_lr: Positive = 1.0
    """Rate of the output head, likewise."""
    vector_lr: Positive = 1.0
    """Rate of the norms' gains, likewise."""
    beta1: Fraction = 0.9
    beta2: Fraction = 0.95
    eps: Positive = 1e-8
    weight_decay: NonNegative = 0.1
    grad_clip: Positive | None = 1.0
    groups: tuple[RelativeGroup, ...] = Field((), json_schema_extra=LATER)
    """Weights with rates of their own, by pattern, tried in order before the four roles."""

    def at(self, scale: Scale) -> "AdamW":
        """The rates of one run."""
        base = self.lr * (scale.batch_tokens / self.batch_ref) ** self.batch_exponent
        narrower = self.width_ref / scale.width
        return AdamW(
            lr_matrix=base * narrower**self.width_exponent,
            lr_embedding=base * self.embedding_lr,
            lr_head=base * self.head_lr,
            lr_vector=base * self.vector_lr,
            beta1=self.beta1,
            beta2=self.beta2,
            eps=self.eps,
            weight_decay=self.weight_decay,
            grad_clip=self.grad_clip,
            own_groups=tuple(
                ParamGroup(
                    match=group.match,
                    lr=base * group.lr * narrower**group.width_exponent,
                    weight_decay=(self.weight_decay if group.weight_decay is None else group.weight_decay),
                )
                for group in self.groups
            ),
        )

    def summary(self) -> str:
        """The rate, for a plan."""
        return f"lr {sci(self.lr)}"


class AdamWUniform(Config):
    """AdamW for post-training: one rate for every weight, decaying after a warmup."""

    kind: Literal["adamw"] = Field("adamw", json_schema_extra=LATER)
    lr: Positive
    """Peak learning rate."""
    beta2: Positive = 0.99
    weight_decay: float = 0.0
    grad_clip: Positive | None = 1.0

    def spec(self) -> "AdamW":
        """Return the settings in full."""
        return AdamW(
            lr_matrix=self.lr,
            lr_embedding=self.lr,
            lr_head=self.lr,
            lr_vector=self.lr,
            beta2=self.beta2,
            weight_decay=self.weight_decay,
            grad_clip=self.grad_clip,
        )


class AdamW(Optimizer):
    """AdamW with the learning rate of each role of a weight already decided."""

    state: ClassVar = ("exp_avg", "exp_avg_sq")
    recipe: ClassVar = AdamWRecipe
    uniform: ClassVar = AdamWUniform

    kind: Literal["adamw"] = Field("adamw", json_schema_extra=LATER)
    lr_matrix: Positive
    """Peak rate of the matrices inside the blocks."""
    lr_embedding: Positive
    """Peak rate of the input embedding."""
    lr_head: Positive
    """Peak rate of the output head (unused when it is tied to the embedding)."""
    lr_vector: Positive
    """Peak rate of gains (the norms)."""
    beta1: Fraction = 0.9
    beta2: Fraction = 0.95
    eps: Positive = 1e-8
    weight_decay: NonNegative = 0.1
    """Decoupled decay of matrices, times the rate. Gains do not decay."""
    grad_clip: Positive | None = 1.0
    """Largest norm of the whole gradient. None: not clipped."""
    own_groups: tuple[ParamGroup, ...] = Field((), json_schema_extra=LATER)
    """Weights with rates of their own, tried in order before the four roles."""
    weight_decay_matrix: NonNegative | None = Field(None, json_schema_extra=LATER)
    """Decay of the matrices inside the blocks; None: weight_decay."""
    eps_blocks: Positive | None = Field(None, json_schema_extra=LATER)
    """eps of weights inside the blocks; None: eps."""

    def groups(self) -> tuple[ParamGroup, ...]:
        """Those with rates of their own, then the four roles."""
        decays = {"matrix": self.weight_decay_matrix, "vector": 0.0}
        roles = [
            ParamGroup(
                match=f"{role}/*",
                lr=getattr(self, f"lr_{role}"),
                weight_decay=self.weight_decay if decays.get(role) is None else decays[role],
                eps=self.eps_blocks if role == "matrix" else None,
            )
            for role in ("matrix", "embedding", "head", "vector")
        ]
        if self.eps_blocks is not None:
            gains = ParamGroup(match=f"vector/{IN_BLOCKS}", lr=self.lr_vector, eps=self.eps_blocks)
            roles.insert(0, gains)
        return (*self.own_groups, *roles)

    def with_multipliers(self, found: Multipliers) -> Self:
        """Return the optimizer with the multipliers of a parametrization on its rates, decays and eps."""
        by = found.groups
        rates = {
            f"lr_{role}": getattr(self, f"lr_{role}") * by[role].lr
            for role in ("matrix", "embedding", "head", "vector")
        }
        if by["matrix"].weight_decay != 1:
            rates["weight_decay_matrix"] = self.weight_decay * by["matrix"].weight_decay
        if by["matrix"].eps != by["head"].eps:
            rates["eps_blocks"] = self.eps * by["matrix"].eps
        return self.model_copy(update=rates | {"eps": self.eps * by["head"].eps})

    def with_rates_times(self, factor: float) -> Self:
        """See Optimizer."""
        own = tuple(group.model_copy(update={"lr": group.lr * factor}) for group in self.own_groups)
        return super().with_rates_times(factor).model_copy(update={"own_groups": own})

    def max_norm(self) -> float | None:
        """Largest norm of the whole gradient."""
        return self.grad_clip

    def update(
        self,
        weights: "list[Tensor]",
        gradients: "list[Tensor]",
        state: "Mapping[str, list[Tensor]]",
        *,
        group: ParamGroup,
        lr: float,
        step: int,
    ) -> None:
        """See Optimizer."""
        full, adamw = _torchs()
        # The fused kernel reads the number of updates made on the device, and adds 1.
        made = [full((), step - 1.0, device=weight.device) for weight in weights]
        adamw(
            weights,
            gradients,
            state["exp_avg"],
            state["exp_avg_sq"],
            [],
            made,
            fused=True,
            amsgrad=False,
            maximize=False,
            lr=lr,
            beta1=self.beta1,
            beta2=self.beta2,
            eps=self.eps if group.eps is None else group.eps,
            weight_decay=group.weight_decay,
        )

    def rates(self) -> dict[str, float]:
        """The rate of matrices."""
        return {"lr": self.lr_matrix}

    def words(self) -> str:
        """Rates by role, and decay."""
        return (
            f"matrices {self.lr_matrix:.3g}, embedding {self.lr_embedding:.3g}, "
            f"head {self.lr_head:.3g}, gains {self.lr_vector:.3g}"
            + "".join(f", {group.match} {group.lr:.3g}" for group in self.own_groups)
            + f"; weight decay {self.weight_decay:g}"
            + ("" if self.weight_decay_matrix is None else f", of matrices {self.weight_decay_matrix:.3g}")
        )
