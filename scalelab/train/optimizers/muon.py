"""Muon: matrices move along the orthogonalised momentum, all else by AdamW.

    m <- mu m + (1 - mu) g        u = (1 - mu) g + mu m  (Nesterov)        O = NS5(u), singular values near 1
    W <- (1 - lr * decay) W - lr * 0.2 sqrt(max(rows, columns)) O

The factor 0.2 sqrt(max(rows, columns)) gives an update the root mean square that AdamW's has, so that
rates and decays tuned for AdamW carry over. In a recipe, rates follow width and batch as AdamW's do
(adamw.py); embeddings, head and gains have AdamW's update itself, and so have weights of other groups.

With `hold_norm` each matrix is scaled back after an update to the Frobenius norm that it had before
it, which is that of its starting values, and does not decay.

A weight that joins several matrices (queries, keys and values; gate and up) is updated as these: each is
orthogonalised by itself (flat.py). Layouts over several processes are refused: a process there
holds a part of a matrix.

Sources: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon; Liu et al. 2025 (Moonlight),
arXiv:2502.16982, for the factor. The iteration is torch's.
"""

from collections.abc import Callable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from scalelab.config import Fraction, Switch
from scalelab.errors import ConfigError
from scalelab.train.optimizers.adamw import AdamW, AdamWRecipe, AdamWUniform
from scalelab.train.optimizers.base import ParamGroup
from scalelab.train.rules import Scale

if TYPE_CHECKING:
    from torch import Tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Coefficients of the quintic iteration: Jordan et al. 2024."""
ITERATIONS = 5
MATRICES = "matrix/*"
"""Group of the weights that are orthogonalised."""


@cache
def _torchs() -> Callable[..., Any]:
    """The function of torch for Muon, imported once an update asks for it."""
    from torch.optim._muon import muon

    return muon


class MuonRecipe(AdamWRecipe):
    """Muon's settings as functions of the scale of a run."""

    parametrizations: ClassVar[tuple[str, ...]] = ()  # those of AdamW are derived for its update

    kind: Literal["muon"] = "muon"
    momentum: Fraction = 0.95
    """Decay of the momentum of matrices."""
    hold_norm: Switch = False
    """Whether matrices keep the norm of their starting values, without decay."""

    def at(self, scale: Scale) -> "Muon":
        """The rates of one run."""
        rates = super().at(scale).model_dump(exclude={"kind"})
        return Muon(**rates, momentum=self.momentum, hold_norm=self.hold_norm)


class MuonUniform(AdamWUniform):
    """Muon for post-training: one rate for every weight, decaying after a warmup."""

    kind: Literal["muon"] = "muon"
    momentum: Fraction = 0.95
    """As in MuonRecipe; so is hold_norm."""
    hold_norm: Switch = False

    def spec(self) -> "Muon":
        """Return the settings in full."""
        rates = super().spec().model_dump(exclude={"kind"})
        return Muon(**rates, momentum=self.momentum, hold_norm=self.hold_norm)


class Muon(AdamW):
    """Muon with the learning rate of each role of a weight already decided."""

    elementwise: ClassVar = False
    is_shardable: ClassVar = False
    recipe: ClassVar = MuonRecipe
    uniform: ClassVar = MuonUniform

    kind: Literal["muon"] = "muon"
    momentum: Fraction = 0.95
    """Decay of the momentum of matrices."""
    hold_norm: Switch = False
    """Whether matrices keep the norm of their starting values, without decay."""

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
        """See Optimizer. The momentum of a matrix is its exp_avg; its exp_avg_sq stays zero."""
        if group.match != MATRICES:
            super().update(weights, gradients, state, group=group, lr=lr, step=step)
            return
        if any(weight.dim() != 2 for weight in weights):
            raise ConfigError(
                f"muon updates matrices, and a weight of {group.match} has {max(w.dim() for w in weights)} dimensions",
                where="recipe.optimizer",
                fix="give such weights a group of their own, or choose the optimizer adamw",
            )
        before = [weight.norm() for weight in weights] if self.hold_norm else []
        _torchs()(
            weights,
            gradients,
            state["exp_avg"],
            lr=lr,
            weight_decay=0.0 if self.hold_norm else group.weight_decay,
            momentum=self.momentum,
            nesterov=True,
            ns_coefficients=COEFFICIENTS,
            ns_steps=ITERATIONS,
            eps=1e-7,
            adjust_lr_fn="match_rms_adamw",
            has_complex=False,
        )
        if self.hold_norm and lr > 0:  # at a rate of zero scaling back would round
            for weight, norm in zip(weights, before, strict=True):
                weight.mul_(norm / weight.norm().clamp(min=1e-12))

    def words(self) -> str:
        """Rates by role, momentum and decay."""
        held = ", norms held" if self.hold_norm else ""
        return f"muon, momentum {self.momentum:g}{held}: {super().words()}"
