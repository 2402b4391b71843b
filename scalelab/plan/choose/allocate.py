"""The optimum of a budget: N*, D*, L* from every law, and the cost of a wrong size.

    allocate(study) -> Allocation,   at the target compute C of the study

    waste(k) = 1 - C'/C     with L*(C') = L(k N*, C / f(k N*)):    C' would have been enough
             ~ 1 - exp(-w ln^2 k),   w = (alpha + beta) / 2 on a Chinchilla surface

N  parameters; D training tokens; C training FLOPs; L loss, nats per token; f FLOPs per token;
k a size as a multiple of the best one at the same budget. On a law with a surface the waste is
found by search. The isoFLOP law has valleys: there w is their curvature over the fall of L* per
ln C, the median over budgets, and the second line is used.

Tokens per parameter follow from the fit; none is assumed.

Source: the optimum, Hoffmann et al. 2022, arXiv:2203.15556. The second line is ours: valley and
frontier to second order in ln k; at k = 2 and alpha + beta = .714 it gives 15.8%, the search 15.6
to 15.7%.

Not here: budgets with a constraint (variants.py), the forecast as a file (frozen.py).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import brentq

from scalelab.errors import PlanError
from scalelab.laws.base import LawFit, Replicates
from scalelab.laws.description import Interval
from scalelab.laws.observations import Array
from scalelab.laws.uncertainty.bootstrap import trusted
from scalelab.laws.uncertainty.model_uncertainty import QUANTITIES, CandidateFit
from scalelab.study.study import Study
from scalelab.units import NumberKind, sci

MULTIPLES = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0)
NEAR_OPTIMAL = 0.05  # largest share of the compute that a near-optimal size wastes
FARTHEST = 1e4  # largest multiple of N* in the search for near-optimal sizes
ROUNDED = 1 + 1e-6  # ratio of two budgets that are one, written with fewer digits
ELSEWHERE = 0.10  # largest difference of the launched compute from the target of the study, as a share


@dataclass(frozen=True)
class LawRow:
    """Predictions of one fitted law at the target; None where a law does not predict a quantity."""

    law: str
    n_params: float | None
    n_tokens: float | None
    loss: float | None
    tokens_per_param: float | None
    intervals: Mapping[str, Interval]
    """Intervals of these, from replicates of the law, at the level of the study."""
    refuted: str | None
    """Reason why the runs refute the law; None if they do not."""
    broken: tuple[str, ...]
    """Reasons why the fit is unreliable; empty for none."""

    def to_json(self) -> dict[str, Any]:
        """Return the record as JSON types."""
        return {
            "law": self.law,
            **{key: getattr(self, key) for key in QUANTITIES},
            "intervals": dict(self.intervals),
            "refuted": self.refuted,
            "broken": list(self.broken),
        }


@dataclass(frozen=True, eq=False)
class RegretCurve:
    """Compute wasted by sizes other than the best, predicted by one law."""

    law: str
    how: str
    """Method, in words."""
    wasted: Callable[[Array | float], Array]
    """Function: share of the compute that k times the best size wastes, 0 to 1; broadcasts."""

    def range(self, bound: float) -> list[float] | None:
        """Return the multiples of the best size between which at most `bound` is wasted.

        None if an end lies beyond FARTHEST: the law hardly depends on size.

        Raises:
            PlanError: The bound is not between 0 and 1.
        """
        if not 0 < bound < 1:
            raise PlanError(
                f"the bound on wasted compute is {bound}",
                where="the near-optimal range of the plan",
                fix="give a share between 0 and 1, such as 0.05",
            )
        if np.min(self.wasted(np.array([1 / FARTHEST, FARTHEST]))) < bound:
            return None
        return [self._end(bound, -1), self._end(bound, +1)]

    def _end(self, bound: float, side: int) -> float:
        found = brentq(
            lambda x: float(self.wasted(np.exp(side * x))) - bound, 0, np.log(FARTHEST), xtol=1e-10
        )
        return float(np.exp(side * found))


@dataclass(frozen=True)
class SizeMultiple:
    """A size other than the best one, at the same budget."""

    k: float
    n_params: float
    n_tokens: float
    wasted: float
    """Share of the compute that this size wastes, 0 to 1."""

    def to_json(self) -> dict[str, float]:
        """Return the record as JSON types."""
        return {"k": self.k, "n_params": self.n_params, "n_tokens": self.n_tokens, "wasted": self.wasted}


@dataclass(frozen=True, eq=False)
class Allocation:
    """The optimum of a budget with its intervals, and the cost of a wrong size."""

    flops: float
    law: str
    """Primary law."""
    n_params: float
    n_tokens: float
    loss: float
    """Loss, nats per token."""
    tokens_per_param: float
    level: float
    """Level of every interval, 0 to 1."""
    intervals: Mapping[str, Interval]
    """Quoted intervals: at each end the farthest of noise and of what `quoted_from` names."""
    statistical: Mapping[str, Interval]
    """Intervals from noise alone."""
    quoted_from: tuple[str, ...]
    """What the quoted interval of N* and L* comes from beside the noise: CALIBRATED, CHOICE (study/forecast.py)."""
    calibrated: Mapping[str, list[float]]
    """Interval of each quantity from the errors of forecasts of other tables; empty without them."""
    expected_error: float | None
    """Error of the loss to expect, as a share, from forecasts of other tables; None without them."""
    laws: tuple[LawRow, ...]
    """Every fitted law, the primary law first."""
    disagreement: Mapping[str, float]
    """Highest over lowest prediction of the laws that the runs do not refute, by quantity."""
    valley: RegretCurve | None
    """Compute that wrong sizes waste; None where neither a surface nor a curvature is known."""
    valley_absent: str | None
    """Reason why there is no valley; None where there is one."""
    valleys: tuple[RegretCurve, ...]
    """Valleys of every law that has one."""
    regret: tuple[SizeMultiple, ...]
    near_optimal: Mapping[str, list[float]] | None
    """Ranges of n_params, n_tokens, tokens_per_param that waste at most `near_bound`; None without a
    valley, or where it hardly depends on size."""
    near_bound: float
    at_stake: float | None
    """Share of the compute wasted if the true N* lies at the worse end of its quoted interval."""
    reach: float
    """Target compute as a multiple of the largest in evidence."""
    kind: str
    """fitted within the compute of the evidence, or extrapolated outside."""
    grade: str
    verdict: str

    @property
    def broken(self) -> tuple[str, ...]:
        """Reasons why the primary law is unreliable; empty for none."""
        return self.laws[0].broken

    def to_json(self) -> dict[str, Any]:
        """Return the record as JSON types: the keys of a plan, then their details."""
        return {
            "flops": self.flops,
            **{key: getattr(self, key) for key in QUANTITIES},
            "intervals": {key: self.intervals[key] for key in QUANTITIES},
            "statistical": {key: self.statistical[key] for key in QUANTITIES},
            "quoted_from": list(self.quoted_from),
            "calibrated": {key: list(ends) for key, ends in self.calibrated.items()},
            "expected_error": self.expected_error,
            "level": self.level,
            "regret": {f"{m.k:g}": m.wasted for m in self.regret},
            "regret_law": self.valley and self.valley.law,
            "regret_how": self.valley.how if self.valley else self.valley_absent,
            "multiples": [m.to_json() for m in self.regret],
            "near_optimal": self.near_optimal and {**self.near_optimal, "wasted_at_most": self.near_bound},
            "at_stake": self.at_stake,
            "reach": self.reach,
            "law": self.law,
            "laws": [row.to_json() for row in self.laws],
            "disagreement": dict(self.disagreement),
            "status": self.kind,
            "grade": self.grade,
            "verdict": self.verdict,
        }


@dataclass(frozen=True)
class ExpectedLoss:
    """Expected loss of a model near the optimum, with intervals."""

    loss: float
    statistical: Interval
    quoted: Interval
    wasted: float | None
    """Share of its compute that its size wastes; None without a valley."""


def allocate(study: Study, *, near_bound: float = NEAR_OPTIMAL) -> Allocation:
    """Return the optimum at the target of a study.

    Args:
        study: The fitted laws, with the forecast at the target.
        near_bound: Largest share of the compute that a near-optimal size wastes.

    Raises:
        PlanError: The bound is not between 0 and 1.
    """
    forecast = study.forecast
    rows = sorted((_row(study, name) for name in study.fits), key=lambda r: r.law != forecast.law)
    every = valleys(study)
    valley = _quoted_valley(study, every)
    N, D = forecast.values["n_params"], forecast.values["n_tokens"]
    interval = forecast.intervals["n_params"]
    ends = valley.range(near_bound) if valley else None
    return Allocation(
        flops=forecast.flops,
        law=forecast.law,
        **{key: forecast.values[key] for key in QUANTITIES},
        level=study.level,
        intervals=forecast.intervals,
        statistical=forecast.statistical,
        quoted_from=tuple(forecast.sources("n_params")),
        calibrated=forecast.calibrated,
        expected_error=forecast.expected_error,
        laws=tuple(rows),
        disagreement=_disagreement(rows),
        valley=valley,
        valley_absent=None if valley else _no_valley(study),
        valleys=every,
        regret=tuple(
            SizeMultiple(k, k * N, D * _tokens_left(study, N, k), float(valley.wasted(k))) for k in MULTIPLES
        )
        if valley
        else (),
        near_optimal=_near(study, N, D, ends) if ends else None,
        near_bound=near_bound,
        at_stake=float(np.max(valley.wasted(N / np.array(interval))))
        if valley and interval is not None
        else None,
        reach=forecast.reach,
        kind=kind_at(study, forecast.flops),
        grade=study.verdict.grade,
        verdict=str(study.verdict),
    )


def kind_at(study: Study, flops: float) -> NumberKind:
    """Return the kind of a prediction: fitted within the compute of the evidence, extrapolated outside."""
    runs = study.runs
    smallest = float(runs.budgets[0] if runs.budgets.size else runs.C.min())
    inside = smallest / ROUNDED <= flops <= runs.largest_budget * ROUNDED
    return "fitted" if inside else "extrapolated"


def expected(study: Study, *, n_params: float, n_tokens: float, flops: float) -> ExpectedLoss:
    """Return the expected loss of a model near the optimum, from the primary law.

    A surface is evaluated at N and D. A law of optima is evaluated at the compute that would have
    been enough, C (1 - waste). The range over laws is scaled by the ratio of the losses.

    Args:
        study: The fitted laws, with a target within ELSEWHERE of the compute of the model.
        n_params: Parameters of the model, in the count of the study.
        n_tokens: Training tokens.
        flops: Training FLOPs, in the count of the study.

    Raises:
        PlanError: A value is not positive, or the target of the study is another compute.
    """
    positive(n_params=n_params, n_tokens=n_tokens, flops=flops)
    forecast = study.forecast
    if not near(flops, forecast.flops):
        raise PlanError(
            f"the model costs {sci(flops)} FLOPs, the forecast is for {sci(forecast.flops)}",
            where="the loss expected of the final run",
            fix="make a study with the compute of the model as its target",
        )
    fit, replicates = study.fits[forecast.law], study.replicates[forecast.law]
    valley = _quoted_valley(study, valleys(study))
    wasted = None
    if valley is not None:
        best = fit.optimum(flops)
        wasted = float(valley.wasted(n_params / float(np.ravel(best.N)[0])))
    if fit.is_surface:
        loss = float(fit.loss_at(n_params, n_tokens))
        draws = None if replicates is None else fit.loss_at(n_params, n_tokens, replicates.values)
    else:
        enough = flops * (1 - (wasted or 0.0))
        loss = float(np.ravel(fit.optimum(enough).L)[0])
        draws = None if replicates is None else replicates.optimum(enough).L
    statistical = None if draws is None else trusted(replicates, draws, study.level)
    quoted = forecast.moved(loss / forecast.values["loss"], statistical)
    return ExpectedLoss(loss, statistical, quoted, wasted)


def near(flops: float, target: float) -> bool:
    """Return whether what is quoted at a target holds at other FLOPs, which differ by ELSEWHERE at most."""
    return bool(abs(np.log(flops / target)) <= np.log1p(ELSEWHERE))


def valleys(study: Study) -> tuple[RegretCurve, ...]:
    """Return the regret curve of every fitted law that has one."""
    each = ((name, valley(name, fit, study.forecast.flops)) for name, fit in study.fits.items())
    return tuple(v for _, v in each if v is not None)


def valley(name: str, fit: LawFit, flops: float) -> RegretCurve | None:
    """Return the regret curve of one law at a budget; None if it has none."""
    if fit.is_surface:
        best = fit.optimum(flops)
        if not np.isfinite(best.N):
            return None
        return RegretCurve(name, f"on the {name} surface, by search", lambda k: _on_surface(fit, flops, k))
    w = stiffness(fit) if fit.minima else None
    if w is None:
        return None
    return RegretCurve(
        name,
        f"from the curvature of the isoFLOP slices, w = {w:.3g}, to second order in ln k",
        lambda k: -np.expm1(-w * np.log(np.asarray(k, float)) ** 2),
    )


def stiffness(fit: LawFit) -> float | None:
    """Return w of the header: curvature over the fall of L* per ln C, the median over the minima.

    None where it is not positive: there is no valley, or the frontier does not fall.
    """
    step = 1e-4
    ratios = []
    for minimum in fit.minima:
        L = [float(np.ravel(fit.optimum(minimum.spent * np.exp(s)).L)[0]) for s in (-step, step)]
        ratios.append(minimum.curvature / ((L[0] - L[1]) / (2 * step)))
    w = float(np.median(ratios))
    return w if np.isfinite(w) and w > 0 else None


def _on_surface(fit: LawFit, flops: float, k: Array | float) -> Array:
    """The waste at k, by bisection on ln C'/C on a monotonic frontier."""
    best = fit.optimum(flops)
    N = best.N * np.asarray(k, float)
    loss = fit.loss_at(N, flops / fit.cost(N))
    low, high = np.full(loss.shape, -60.0), np.zeros(loss.shape)
    for _ in range(50):  # to 1e-13 of ln C
        middle = (low + high) / 2
        enough = loss >= fit.optimum(flops * np.exp(middle)).L
        low, high = np.where(enough, low, middle), np.where(enough, middle, high)
    return np.where(loss <= best.L, 0.0, -np.expm1((low + high) / 2))


def _quoted_valley(study: Study, every: tuple[RegretCurve, ...]) -> RegretCurve | None:
    """The valley that the plan quotes: surface of the primary law, a reliable surface, or its own."""
    by_law = {v.law: v for v in every}
    primary = study.forecast.law
    sound = [name for name in by_law if study.fits[name].is_surface and refuted(study, name) is None]
    for name in (primary, *sound) if study.fits[primary].is_surface else (*sound, primary):
        if name in by_law:
            return by_law[name]
    return None


def _no_valley(study: Study) -> str:
    return (
        f"{', '.join(study.fits)}: no surface that the runs do not refute, and no curvature of "
        "isoFLOP slices, so the cost of a wrong size is unknown"
    )


def _member(study: Study, name: str) -> CandidateFit | None:
    of_law = (m for m in study.forecast.members if m.name == name and m.kind == "law")
    return next(of_law, None)


def refuted(study: Study, name: str) -> str | None:
    """Return why a law is not counted: its fit is unreliable or the runs refute it; None if it is."""
    member, broken = _member(study, name), study.fits[name].broken
    return broken[0] if broken else None if member is None else member.refuted


def _row(study: Study, name: str) -> LawRow:
    member, fit, C = _member(study, name), study.fits[name], study.forecast.flops
    values = dict(member.values) if member else {}
    if not fit.exponents and (forms := fit.frontiers(C)):
        values["loss"] = next(iter(forms.values()))
    intervals = _intervals(study.replicates[name], C, study.level) if member else {}
    return LawRow(
        name,
        **{key: values.get(key) for key in QUANTITIES},
        intervals=intervals,
        refuted=refuted(study, name),
        broken=tuple(fit.broken),
    )


def _intervals(replicates: Replicates | None, flops: float, level: float) -> dict[str, Interval]:
    """Interval of each quantity at the target, from the replicates of one law."""
    best = None if replicates is None else replicates.optimum(flops)
    if best is None:
        return {}
    readings = zip(QUANTITIES, (best.N, best.D, best.L, best.D / best.N), strict=True)
    return {key: trusted(replicates, value, level) for key, value in readings}


def _disagreement(rows: list[LawRow]) -> dict[str, float]:
    found = {}
    for key in QUANTITIES:
        values = [getattr(r, key) for r in rows if r.refuted is None and getattr(r, key) is not None]
        if len(values) > 1:
            found[key] = max(values) / min(values)
    return found


def _tokens_left(study: Study, N: float, k: float) -> float:
    """Tokens that the budget allows at size k N*, as a multiple of D*.

    FLOPs per token are those of a fitted surface; without one they grow as N.
    """
    costs = [fit.cost for fit in study.fits.values() if fit.cost]
    return float(costs[0](N) / costs[0](k * N)) if costs else 1 / k


def _near(study: Study, N: float, D: float, ends: list[float]) -> dict[str, list[float]]:
    tokens = [D * _tokens_left(study, N, k) for k in ends]
    sizes = [k * N for k in ends]
    ratios = [d / n for d, n in zip(tokens, sizes, strict=True)]
    return {"n_params": sizes, "n_tokens": sorted(tokens), "tokens_per_param": sorted(ratios)}


def positive(**figures: float) -> None:
    """Refuse values that are not positive and finite.

    Raises:
        PlanError: A value, with its name.
    """
    for name, value in figures.items():
        if not (np.isfinite(value) and value > 0):
            raise PlanError(
                f"{name} is {value}", where="the figures of the plan", fix=f"give a positive, finite {name}"
            )
