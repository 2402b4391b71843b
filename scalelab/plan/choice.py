"""A choice of N and D, the law that answers for it, and what every answer must say.

N parameters; D training tokens; C training FLOPs; L loss, nats per token.

A choice is a surface's own answer, and so are its intervals, from replicates of that law: the
choice of law is not in them, but what other laws say stands beside. Beyond the ratios D / N of
the evidence laws over-estimate what tokens bring, and every choice out there says so (Sardana
et al. 2023, section 4, arXiv:2401.00448).

Not here: the choices themselves (constrained.py, limited.py, use.py).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.optimize import brentq

from scalelab.errors import PlanError
from scalelab.laws.base import LawFit
from scalelab.laws.interval import Interval, trusted
from scalelab.laws.observations import Array
from scalelab.laws.study import Study
from scalelab.plan.allocate import refuted
from scalelab.units import sci

THREE_TERMS = ("E", "A", "B", "alpha", "beta")
COMPUTE = 1e12  # times the evidence, either way, within which a target loss is sought


@dataclass(frozen=True, eq=False)
class Choice:
    """A size and a length that meet a constraint, and what they give."""

    n_params: float
    n_tokens: float
    loss: float
    """Nats per token."""
    flops: float
    """Of training."""
    law: str
    """Whose answer it is."""
    kind: str
    """fitted within the sizes, tokens and compute of the runs; extrapolated beyond any."""
    words: str
    """The choice as a sentence."""
    assumptions: tuple[str, ...]
    warnings: tuple[str, ...]
    level: float
    """Of the intervals."""
    intervals: Mapping[str, Interval] = field(default_factory=dict)
    """By quantity, from the law's replicates; a quantity that is given has none."""
    figures: Mapping[str, float | None] = field(default_factory=dict)
    """What only this choice knows, by name with its unit; None for unknown."""
    by_law: Mapping[str, float | None] = field(default_factory=dict)
    """The answer of other laws that the runs do not refute: the loss there, or for a target loss
    the FLOPs; None where it has none."""

    @property
    def tokens_per_param(self) -> float:
        """D / N."""
        return self.n_tokens / self.n_params

    def to_json(self) -> dict[str, Any]:
        """The record as JSON types."""
        return {
            "n_params": self.n_params,
            "n_tokens": self.n_tokens,
            "tokens_per_param": self.tokens_per_param,
            "loss": self.loss,
            "flops": self.flops,
            "law": self.law,
            "status": self.kind,
            "words": self.words,
            "assumptions": list(self.assumptions),
            "warnings": list(self.warnings),
            "level": self.level,
            "intervals": dict(self.intervals),
            "figures": dict(self.figures),
            "by_law": dict(self.by_law),
        }


def surface(found: Study) -> tuple[str, LawFit]:
    """The law that answers for any N and D: the one that speaks, or the first sound surface.

    Raises:
        PlanError: No surface was fitted.
    """
    return _pick(found, lambda fit: fit.is_surface, "chinchilla or kaplan", None)


def three_terms(found: Study, prefer: str | None = None) -> tuple[str, LawFit]:
    """The law with a floor and two prices that answers; `prefer` before the one that speaks.

    Raises:
        PlanError: None was fitted.
    """
    return _pick(
        found,
        lambda fit: fit.is_surface and {*THREE_TERMS} <= {*fit.params},
        "chinchilla",
        prefer,
    )


def _pick(
    found: Study, is_able: Callable[[LawFit], bool], names: str, prefer: str | None
) -> tuple[str, LawFit]:
    """The preferred law, the one that speaks, one not refuted, or at least not broken."""
    able = [name for name, fit in found.fits.items() if is_able(fit)]
    speaker = found.forecast.law
    order = [n for n in (prefer, speaker) if n in able and not found.fits[n].broken]
    order += [n for n in able if refuted(found, n) is None]
    order += [n for n in able if not found.fits[n].broken]
    if not order:
        reasons = [f"{n}: {found.fits[n].broken[0]}" for n in able]
        reasons += [f"{n}: {why}" for n, why in found.refused.items()]
        raise PlanError(
            f"no sound surface among the laws that were fitted ({', '.join(found.fits)})",
            where="; ".join(reasons) or "the laws of the plan",
            fix=f"fit one that tells the loss of any N and D: --law {names}",
        )
    return order[0], found.fits[order[0]]


def told(
    found: Study,
    law: str,
    N: float,
    D: float,
    flops: float,
    loss: float,
    words: str,
    draws: Mapping[str, Array] | None = None,
    assumptions: tuple[str, ...] = (),
    warnings: tuple[str, ...] = (),
    figures: Mapping[str, float | None] | None = None,
) -> Choice:
    """A choice with what every choice on a surface must say beside its own words.

    Args:
        found: The laws.
        law: The surface that answers.
        N: Chosen.
        D: Chosen.
        flops: Of training.
        loss: Of that.
        words: The choice as a sentence.
        draws: By quantity, its value in every replicate of the law.
        assumptions: Of this choice.
        warnings: Of this choice.
        figures: What only this choice knows.
    """
    drawn, runs = found.replicates[law], found.runs
    inside = all(v.min() <= x <= v.max() for v, x in ((runs.N, N), (runs.D, D)))
    said = [f"loss of the {law} surface"]
    speaker, best = found.forecast.law, found.fits[found.forecast.law].optimum(flops)
    if speaker != law and best is not None:
        mine, theirs = optimum_of(law, found.fits[law], flops)[2], float(np.ravel(best.L)[0])
        said.append(
            f"for the best model of {sci(flops)} FLOPs {law} says {mine:.4f}, {speaker}, which "
            f"speaks for the forecast, {theirs:.4f}"
        )
    others = {
        name: float(fit.loss_at(N, D))
        for name, fit in found.fits.items()
        if name != law and fit.is_surface and refuted(found, name) is None
    }
    return Choice(
        N,
        D,
        loss,
        flops,
        law,
        "fitted" if inside and flops <= found.runs.largest_budget else "extrapolated",
        words,
        (*said, *assumptions),
        (*warnings, *beyond(found, N, D)),
        found.level,
        {k: trusted(drawn, v, found.level) for k, v in draws.items()} if draws else {},
        figures or {},
        others,
    )


def optimum_of(law: str, fit: LawFit, flops: float) -> tuple[float, float, float]:
    """N*, D*, L* of a surface.

    Raises:
        PlanError: They cannot be written down.
    """
    best = fit.optimum(flops)
    point = tuple(float(np.ravel(v)[0]) for v in (best.N, best.D, best.L))
    if not np.isfinite(point).all():
        raise PlanError(
            f"{law} has no optimum at {sci(flops)} FLOPs that can be written down",
            where=f"its constants, {dict(fit.params)}",
            fix="add runs that show how loss depends on both N and D",
        )
    return point


def compute_for(fit: LawFit, loss: float) -> float | None:
    """C at which the optimum of a law reaches a loss; None where none within COMPUTE does."""

    def above(ln_C: float) -> float:
        return float(np.ravel(fit.optimum(np.exp(ln_C)).L)[0]) - loss

    middle, far = np.log(fit.evidence_end), np.log(COMPUTE)
    ends = above(middle - far), above(middle + far)
    if not (np.isfinite(ends).all() and ends[0] > 0 > ends[1]):
        return None
    return float(np.exp(brentq(above, middle - far, middle + far, xtol=1e-12)))


def beyond(found: Study, N: float, D: float) -> list[str]:
    """What to say where the ratio D / N is outside that of the runs; empty inside."""
    ratios = found.runs.D / found.runs.N
    low, high = float(ratios.min()), float(ratios.max())
    if low <= D / N <= high:
        return []
    return [
        f"{D / N:.3g} tokens per parameter, the runs have {low:.3g} to {high:.3g}: laws "
        "over-estimate what tokens bring far beyond that"
    ]
