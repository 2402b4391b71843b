"""The record of a variant of a plan: N and D, the law behind them, assumptions and warnings.

N parameters; D training tokens; C training FLOPs; L loss, nats per token.

The numbers of a variant come from one surface and its intervals from the replicates of that surface. The
interval of a loss at the compute of the forecast is widened as the forecast itself is, by the errors of
earlier forecasts and the choice of law, scaled by the ratio of the losses. Intervals that are not have a
note, and the values of other laws are recorded beside them. Beyond the ratios
D / N of the evidence laws overestimate the value of tokens, and every variant out there has a
warning (Sardana et al. 2023, section 4, arXiv:2401.00448).

Not here: the variants (variants.py, data_constrained.py, inference_cost.py).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.optimize import brentq

from scalelab.errors import PlanError
from scalelab.laws.base import LawFit
from scalelab.laws.description import Interval
from scalelab.laws.observations import Array
from scalelab.laws.uncertainty.bootstrap import trusted
from scalelab.plan.choose.allocate import kind_at, near, refuted
from scalelab.study.study import Study
from scalelab.units import sci

THREE_TERMS = ("E", "A", "B", "alpha", "beta")
COMPUTE = 1e30  # factor from the evidence, either way, within which a target loss is sought


@dataclass(frozen=True, eq=False)
class ConstrainedOptimum:
    """A size and a number of tokens that meet a constraint, and their loss."""

    n_params: float
    n_tokens: float
    loss: float
    """Loss, nats per token."""
    flops: float
    """Training FLOPs."""
    law: str
    """Law that the loss comes from."""
    kind: str
    """fitted inside the sizes, tokens and compute of the runs; extrapolated outside any of them."""
    words: str
    """The variant as a sentence."""
    assumptions: tuple[str, ...]
    warnings: tuple[str, ...]
    level: float
    """Level of the intervals, 0 to 1."""
    intervals: Mapping[str, Interval] = field(default_factory=dict)
    """Interval of each quantity; a given quantity has none. See `quoted`."""
    figures: Mapping[str, float | None] = field(default_factory=dict)
    """Quantities of this variant alone, named with their unit; None where unknown."""
    by_law: Mapping[str, float | None] = field(default_factory=dict)
    """Values of other laws that the runs do not refute: the loss at this point, or the FLOPs for a
    target loss; None where a law has none."""
    quoted: tuple[str, ...] = ()
    """Quantities whose interval has the error of the law and the choice of law too; the others' is noise alone."""
    doubt: str | None = None
    """Why the law is not to be relied on: its fit is unreliable, or the runs refute it; None if it is."""

    @property
    def tokens_per_param(self) -> float:
        """Training tokens per parameter, D / N."""
        return self.n_tokens / self.n_params

    def to_json(self) -> dict[str, Any]:
        """Return the record as JSON types."""
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
            "quoted": list(self.quoted),
            "by_law": dict(self.by_law),
            "doubt": self.doubt,
        }


def surface(study: Study) -> tuple[str, LawFit]:
    """Return the law used for any N and D: the primary law, or the first sound surface, or any surface.

    Raises:
        PlanError: No surface was fitted.
    """
    return _pick(study, lambda fit: fit.is_surface, "chinchilla or kaplan", None)


def three_terms(study: Study, prefer: str | None = None) -> tuple[str, LawFit]:
    """Return the law used where a floor and two power terms are needed.

    Args:
        study: The fitted laws.
        prefer: Law that is used before the primary law, if it qualifies.

    Raises:
        PlanError: No such law was fitted.
    """
    return _pick(study, lambda fit: fit.is_surface and {*THREE_TERMS} <= {*fit.params}, "chinchilla", prefer)


def _pick(
    study: Study, is_able: Callable[[LawFit], bool], names: str, prefer: str | None
) -> tuple[str, LawFit]:
    """The first law that qualifies: preferred, primary, not refuted, reliable, or at least fitted.

    What rests on a law that is refuted or unreliable has the doubt in its record.

    Args:
        study: The fitted laws.
        is_able: Whether a fit qualifies.
        names: Laws to suggest in the error message.
        prefer: Law to use first; None for the primary law.
    """
    able = [name for name, fit in study.fits.items() if is_able(fit)]
    primary = study.forecast.law
    order = [n for n in (prefer, primary) if n in able and not study.fits[n].broken]
    order += [n for n in able if refuted(study, n) is None]
    order += [n for n in able if not study.fits[n].broken]
    order += able
    if not order:
        reasons = [f"{n}: {why}" for n, why in study.refused.items()]
        raise PlanError(
            f"no surface among the fitted laws ({', '.join(study.fits)})",
            where="; ".join(reasons) or "the laws of the plan",
            fix=f"fit a law that gives the loss of any N and D: --law {names}",
        )
    return order[0], study.fits[order[0]]


def constrained_optimum(
    study: Study,
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
) -> ConstrainedOptimum:
    """Return a variant with the assumptions and warnings that every variant on a surface has.

    Args:
        study: The fitted laws.
        law: Surface that the loss comes from.
        N: Parameters.
        D: Training tokens.
        flops: Training FLOPs.
        loss: Loss, nats per token.
        words: The variant as a sentence.
        draws: Value of each quantity in every replicate of the law.
        assumptions: Assumptions of this variant.
        warnings: Warnings of this variant.
        figures: Quantities of this variant alone.
    """
    runs = study.runs
    inside = all(v.min() <= x <= v.max() for v, x in ((runs.N, N), (runs.D, D)))
    notes = [f"loss from the {law} surface"]
    primary, best = study.forecast.law, study.fits[study.forecast.law].optimum(flops)
    if primary != law and best is not None:
        mine, theirs = optimum_of(law, study.fits[law], flops)[2], float(np.ravel(best.L)[0])
        notes.append(
            f"at the optimum of {sci(flops)} FLOPs {law} predicts {mine:.4f} and {primary}, the primary "
            f"law of the forecast, {theirs:.4f}"
        )
    others = {
        name: float(fit.loss_at(N, D))
        for name, fit in study.fits.items()
        if name != law and fit.is_surface and refuted(study, name) is None
    }
    intervals, alone = _intervals(study, law, flops, loss, draws or {})
    return ConstrainedOptimum(
        N,
        D,
        loss,
        flops,
        law,
        kind_at(study, flops) if inside else "extrapolated",
        words,
        (*notes, *noise_alone(alone), *assumptions),
        (*warnings, *beyond(study, N, D)),
        study.level,
        intervals,
        figures or {},
        others,
        tuple(key for key, interval in intervals.items() if interval is not None and key not in alone),
        refuted(study, law),
    )


def _intervals(
    study: Study, law: str, flops: float, loss: float, draws: Mapping[str, Array]
) -> tuple[dict[str, Interval], list[str]]:
    """Return the interval of each quantity, and those of them that are from noise alone."""
    replicates, forecast = study.replicates[law], study.forecast
    found = {key: trusted(replicates, values, study.level) for key, values in draws.items()}
    alone = [key for key, interval in found.items() if interval is not None]
    if "loss" in alone and forecast.sources("loss") and near(flops, forecast.flops):
        ratio = loss / optimum_of(law, study.fits[law], forecast.flops)[2]
        found["loss"] = forecast.moved(ratio, found["loss"])
        alone.remove("loss")
    return found, alone


def noise_alone(quantities: Sequence[str]) -> tuple[str, ...]:
    """Return the note on intervals that come from redrawn runs only; empty without such intervals."""
    if not quantities:
        return ()
    return (
        f"from the noise of the runs alone: the interval of {', '.join(quantities)}; the error of the law "
        "and the choice of law are not in it",
    )


def optimum_of(law: str, fit: LawFit, flops: float) -> tuple[float, float, float]:
    """Return N*, D*, L* of a surface.

    Args:
        law: Name of the law.
        fit: Its fit.
        flops: Training FLOPs.

    Raises:
        PlanError: The optimum is not finite.
    """
    best = fit.optimum(flops)
    point = tuple(float(np.ravel(v)[0]) for v in (best.N, best.D, best.L))
    if not np.isfinite(point).all():
        raise PlanError(
            f"the {law} law has no finite optimum at {sci(flops)} FLOPs",
            where=f"constants {dict(fit.params)}",
            fix="add runs in which both N and D vary",
        )
    return point


def compute_for(fit: LawFit, loss: float) -> float | None:
    """Return the compute at which the optimum of a law reaches a loss; None if none within COMPUTE does."""

    def above(ln_C: float) -> float:
        return float(np.ravel(fit.optimum(np.exp(ln_C)).L)[0]) - loss

    middle, far = np.log(fit.evidence_end), np.log(COMPUTE)
    ends = above(middle - far), above(middle + far)
    if not (np.isfinite(ends).all() and ends[0] > 0 > ends[1]):
        return None
    return float(np.exp(brentq(above, middle - far, middle + far, xtol=1e-12)))


def beyond(study: Study, N: float, D: float) -> list[str]:
    """Return a warning if D / N is outside the range of the runs; empty inside."""
    ratios = study.runs.D / study.runs.N
    low, high = float(ratios.min()), float(ratios.max())
    if low <= D / N <= high:
        return []
    return [
        f"{D / N:.3g} tokens per parameter, outside the {low:.3g} to {high:.3g} of the runs: laws "
        "overestimate the value of tokens far beyond that"
    ]
