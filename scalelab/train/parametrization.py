"""Parametrizations: how starting values, rates, decays and branches follow the width and depth of a model.

    m_w = width / width_ref,  m_d = depth / depth_ref

                      standard           mup        completep
    embedding   lr    1                  1          1
    matrix      std   m_w^-1/2           m_w^-1/2   m_w^-1/2
                lr    m_w^-e             1 / m_w    1 / m_w
                decay 1                  m_w        m_w
    residual    std   (m_w m_d)^-1/2     the same   m_w^-1/2          matrices that write into the residual stream
    vector      lr    1                  1          1
    head        lr    1                  1          1
    eps               1                  1          1 / (m_w m_d) in blocks, 1 / m_w elsewhere
    branches          1                  1          x + f(x) / m_d
    logits            1                  1 / m_w    1 / m_w

e is the optimizer's width_exponent. At width_ref and depth_ref all multipliers are 1 in each of them. The head
starts at zero. Attention divides by sqrt(head size), which must be the same at every width: a recipe whose
family holds the number of heads instead is refused.

`mup` is muP for Adam with decay that is multiplied by the rate, as in AdamW; `completep` is CompleteP with
alpha = 1.

Sources: Yang et al. 2022, arXiv:2203.03466, and github.com/microsoft/mup for the decay (literature, unchecked);
Dey et al. 2025, arXiv:2505.01618, compared with the authors' code, github.com/EleutherAI/nanoGPT-mup, model.py,
not with table 1 of the paper. That code does not scale the decay under muP, and scales eps there by 1 / m_w.

Not here: the rate itself (rules/), where multipliers enter a network (model/).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Parametrization = Literal["standard", "mup", "completep"]
SOURCES = {
    "mup": "Yang et al. 2022, arXiv:2203.03466; decay as in github.com/microsoft/mup; literature, unchecked",
    "completep": "Dey et al. 2025, arXiv:2505.01618; compared with the authors' code, not with the paper's table",
}
"""Source of each parametrization that is published."""


@dataclass(frozen=True)
class GroupMultipliers:
    """Factors of one group of weights on its values at width_ref and depth_ref."""

    init_std: float
    lr: float
    weight_decay: float
    eps: float


@dataclass(frozen=True)
class Multipliers:
    """Factors of a model on what holds at width_ref and depth_ref. All are 1 there."""

    param: Parametrization
    width: float
    """m_w"""
    depth: float
    """m_d"""
    groups: Mapping[str, GroupMultipliers]
    """By group: embedding, matrix, residual, vector (in blocks), last vector (after them), head."""
    residual: float
    """Factor on what a branch adds to the residual stream."""
    output: float
    """Factor on the logits."""

    def to_json(self) -> dict[str, Any]:
        """The multipliers as JSON types."""
        return {
            "param": self.param,
            "width": self.width,
            "depth": self.depth,
            "groups": {name: vars(group) for name, group in self.groups.items()},
            "residual": self.residual,
            "output": self.output,
        }


def multipliers(
    param: Parametrization, *, width: float, depth: float, width_exponent: float = 1.0
) -> Multipliers:
    """Return the multipliers of a model.

    Args:
        param: The parametrization.
        width: m_w, width over width_ref.
        depth: m_d, depth over depth_ref.
        width_exponent: How fast the rate of matrices falls with the width under `standard`.
    """
    rate = width**-width_exponent if param == "standard" else 1 / width
    decay = 1.0 if param == "standard" else width
    is_completep = param == "completep"
    outer_eps = 1 / width if is_completep else 1.0
    eps = outer_eps / depth if is_completep else 1.0
    std = width**-0.5
    residual_std = std if is_completep else std * depth**-0.5
    return Multipliers(
        param,
        width,
        depth,
        {
            "embedding": GroupMultipliers(1.0, 1.0, 1.0, outer_eps),
            "matrix": GroupMultipliers(std, rate, decay, eps),
            "residual": GroupMultipliers(residual_std, rate, decay, eps),
            "vector": GroupMultipliers(1.0, 1.0, 1.0, eps),
            "last vector": GroupMultipliers(1.0, 1.0, 1.0, outer_eps),
            "head": GroupMultipliers(1.0, 1.0, 1.0, outer_eps),
        },
        residual=1 / depth if is_completep else 1.0,
        output=1.0 if param == "standard" else 1 / width,
    )
