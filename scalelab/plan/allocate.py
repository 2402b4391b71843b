"""What to train with a budget: N*, D*, L* from every law, and what a wrong size would cost.

    allocate(found) -> Allocation,   at the target compute C of the study

    waste(k) = 1 - C'/C     with L*(C') = L(k N*, C / f(k N*)):    C' would have been enough
             ~ 1 - exp(-w ln^2 k),   w = (alpha + beta) / 2 on a Chinchilla surface

N  parameters; D training tokens; C training FLOPs; L loss, nats per token; f FLOPs per token.
k is a size as a multiple of the best one at the same budget. The waste is found on the surface
of a law that has one, by search. The isoFLOP law has valleys: there w is their curvature over
the fall of L* per ln C, the median over budgets, and the second line is the answer.

Tokens per parameter come out of the fit; none is assumed.

Source: the optimum, Hoffmann et al. 2022, arXiv:2203.15556. The second line is ours: both
valley and frontier to second order in ln k; at k = 2 and alpha + beta = .714 it says 15.8%
where the search says 15.6 to 15.7%.

Not here: budgets that something else limits (constrained.py), and the forecast as a file
(frozen.py).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import brentq

from scalelab.errors import PlanError
from scalelab.laws.base import LawFit, Replicates
from scalelab.laws.interval import Interval, trusted
from scalelab.laws.observations import Array
from scalelab.laws.structural import QUANTITIES, Member
from scalelab.laws.study import Study
from scalelab.units import sci

MULTIPLES = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0)
NEAR_OPTIMAL = 0.05  # share of the compute that a size may waste and still be called near
FARTHEST = 1e4  # multiple of N* beyond which no near-optimal size is sought
ELSEWHERE = 0.10  # share by which the launched compute may differ from the study's target


@dataclass(frozen=True)
class LawRow:
    """What one fitted law says of the target; None where it says nothing of a quantity."""

    law: str
    n_params: float | None
    n_tokens: float | None
    loss: float | None
    tokens_per_param: float | None
    intervals: Mapping[str, Interval]
    """Of the same, from its own redrawn evidence, at the study's level."""
    refuted: str | None
    """Why the runs speak against it; None where they do not."""
    broken: tuple[str, ...]
    """What forbids relying on its fit."""

    def to_json(self) -> dict[str, Any]:
        """The record as JSON types."""
        return {
            "law": self.law,
            **{key: getattr(self, key) for key in QUANTITIES},
            "intervals": dict(self.intervals),
            "refuted": self.refuted,
            "broken": list(self.broken),
        }


@dataclass(frozen=True, eq=False)
class Valley:
    """Compute wasted by a size that is not the best, as one law sees it."""

    law: str
    how: str
    """How it was found, in words."""
    wasted: Callable[[Array | float], Array]
    """Share of the compute that k times the best size wastes, 0 to 1; broadcasts."""

    def range(self, bound: float) -> list[float] | None:
        """The multiples of the best size between which no more than `bound` is wasted.

        None where an end lies beyond FARTHEST: the law hardly depends on size.

        Raises:
            PlanError: The bound is no share between 0 and 1.
        """
        if not 0 < bound < 1:
            raise PlanError(
                f"{bound} of the compute may be wasted",
                where="the near-optimal range of the plan",
                fix="name a share between 0 and 1, such as 0.05",
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
class Multiple:
    """A size beside the best one, at the same budget."""

    k: float
    n_params: float
    n_tokens: float
    wasted: float
    """Share of the compute, 0 to 1."""

    def to_json(self) -> dict[str, float]:
        """The record as JSON types."""
        return {
            "k": self.k,
            "n_params": self.n_params,
            "n_tokens": self.n_tokens,
            "wasted": self.wasted,
        }


@dataclass(frozen=True, eq=False)
class Allocation:
    """The best use of a budget, how sure that is, and what missing it costs."""

    flops: float
    law: str
    """Which law speaks."""
    n_params: float
    n_tokens: float
    loss: float
    """Nats per token."""
    tokens_per_param: float
    level: float
    """Of every interval."""
    intervals: Mapping[str, Interval]
    """What is quoted: at each end the farther of noise and choice of law."""
    statistical: Mapping[str, Interval]
    """From noise alone."""
    laws: tuple[LawRow, ...]
    """Every law that was fitted, the one that speaks first."""
    disagreement: Mapping[str, float]
    """By quantity, highest over lowest of the laws that the runs do not refute."""
    valley: Valley | None
    """What wrong sizes waste; None where neither surface nor curvature is known."""
    valley_absent: str | None
    """Why there is none."""
    valleys: tuple[Valley, ...]
    """The same from every law that has one."""
    regret: tuple[Multiple, ...]
    near_optimal: Mapping[str, list[float]] | None
    """Ranges of n_params, n_tokens, tokens_per_param that waste at most `near_bound`.
    None without a valley, or where one hardly depends on size."""
    near_bound: float
    at_stake: float | None
    """Compute wasted if the true N* lies at the worse end of its quoted interval, a share."""
    reach: float
    """Target compute as a multiple of the largest in evidence."""
    kind: str
    """fitted inside the evidence, extrapolated beyond it."""
    grade: str
    verdict: str

    @property
    def broken(self) -> tuple[str, ...]:
        """What forbids relying on the law that speaks."""
        return self.laws[0].broken

    def to_json(self) -> dict[str, Any]:
        """The record as JSON types: the keys of a plan, then what stands behind them."""
        return {
            "flops": self.flops,
            **{key: getattr(self, key) for key in QUANTITIES},
            "intervals": {key: self.intervals[key] for key in QUANTITIES},
            "statistical": {key: self.statistical[key] for key in QUANTITIES},
            "level": self.level,
            "regret": {f"{m.k:g}": m.wasted for m in self.regret},
            "regret_law": self.valley and self.valley.law,
            "regret_how": self.valley.how if self.valley else self.valley_absent,
            "multiples": [m.to_json() for m in self.regret],
            "near_optimal": self.near_optimal
            and {**self.near_optimal, "wasted_at_most": self.near_bound},
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
class Expected:
    """The loss to expect of a model that is nearly the best one, and the same for intervals."""

    loss: float
    statistical: Interval
    quoted: Interval
    wasted: float | None
    """Share of its compute that its size wastes; None where no valley is known."""


def allocate(found: Study, *, near_bound: float = NEAR_OPTIMAL) -> Allocation:
    """What a study's laws say is best at its target.

    Args:
        found: The laws, fitted; its forecast is at the target.
        near_bound: Share of the compute that a near-optimal size may waste.

    Raises:
        PlanError: The bound is no share between 0 and 1.
    """
    forecast = found.forecast
    rows = sorted((_row(found, name) for name in found.fits), key=lambda r: r.law != forecast.law)
    every = valleys(found)
    valley = _told(found, every)
    N, D = forecast.values["n_params"], forecast.values["n_tokens"]
    interval = forecast.intervals["n_params"]
    ends = valley.range(near_bound) if valley else None
    return Allocation(
        flops=forecast.flops,
        law=forecast.law,
        **{key: forecast.values[key] for key in QUANTITIES},
        level=found.level,
        intervals=forecast.intervals,
        statistical=forecast.statistical,
        laws=tuple(rows),
        disagreement=_disagreement(rows),
        valley=valley,
        valley_absent=None if valley else _no_valley(found),
        valleys=every,
        regret=tuple(
            Multiple(k, k * N, D * _tokens_left(found, N, k), float(valley.wasted(k)))
            for k in MULTIPLES
        )
        if valley
        else (),
        near_optimal=_near(found, N, D, ends) if ends else None,
        near_bound=near_bound,
        at_stake=float(np.max(valley.wasted(N / np.array(interval))))
        if valley and interval is not None
        else None,
        reach=forecast.reach,
        kind="extrapolated" if forecast.reach > 1 else "fitted",
        grade=found.verdict.grade,
        verdict=str(found.verdict),
    )


def expected(found: Study, *, n_params: float, n_tokens: float, flops: float) -> Expected:
    """The loss of a model near the best one, on the law that speaks.

    A surface is asked at N and D. A law of optima is asked for the compute that would have been
    enough, C (1 - waste). The spread of laws is moved along by the ratio of the losses.

    Args:
        found: The laws; their target must be the compute of the model within ELSEWHERE.
        n_params: Of the model, in the study's own count.
        n_tokens: To be trained on.
        flops: These cost, in the study's own count.

    Raises:
        PlanError: A figure is not positive, or the study looks at another compute.
    """
    positive(n_params=n_params, n_tokens=n_tokens, flops=flops)
    forecast = found.forecast
    if abs(np.log(flops / forecast.flops)) > np.log1p(ELSEWHERE):
        raise PlanError(
            f"the model costs {sci(flops)} FLOPs, the forecast is for {sci(forecast.flops)}",
            where="the loss expected of the final run",
            fix="make the study at the compute of the model, and freeze that",
        )
    fit, drawn = found.fits[forecast.law], found.replicates[forecast.law]
    valley = _told(found, valleys(found))
    wasted = None
    if valley is not None:
        best = fit.optimum(flops)
        wasted = float(valley.wasted(n_params / float(np.ravel(best.N)[0])))
    if fit.is_surface:
        loss = float(fit.loss_at(n_params, n_tokens))
        draws = None if drawn is None else fit.loss_at(n_params, n_tokens, drawn.values)
    else:
        enough = flops * (1 - (wasted or 0.0))
        loss = float(np.ravel(fit.optimum(enough).L)[0])
        draws = None if drawn is None else drawn.optimum(enough).L
    statistical = None if draws is None else trusted(drawn, draws, found.level)
    moved = [end * loss / forecast.values["loss"] for end in forecast.structural.get("loss", ())]
    quoted = statistical
    if statistical is not None and moved:
        quoted = [min(statistical[0], moved[0]), max(statistical[1], moved[1])]
    return Expected(loss, statistical, quoted, wasted)


def valleys(found: Study) -> tuple[Valley, ...]:
    """What wrong sizes waste, from every fitted law that can say."""
    each = ((name, valley(name, fit, found.forecast.flops)) for name, fit in found.fits.items())
    return tuple(v for _, v in each if v is not None)


def valley(name: str, fit: LawFit, flops: float) -> Valley | None:
    """What wrong sizes waste at a budget, on one law; None where it cannot say."""
    if fit.is_surface:
        best = fit.optimum(flops)
        if not np.isfinite(best.N):
            return None
        return Valley(
            name, f"on the {name} surface, by search", lambda k: _on_surface(fit, flops, k)
        )
    w = stiffness(fit) if fit.minima else None
    if w is None:
        return None
    return Valley(
        name,
        f"from the curvature of the isoFLOP slices, w = {w:.3g}, to second order in ln k",
        lambda k: -np.expm1(-w * np.log(np.asarray(k, float)) ** 2),
    )


def stiffness(fit: LawFit) -> float | None:
    """Factor w of the header: curvature over the fall of L* per ln C, the median over the minima.

    None where that is not positive: no valley, or a frontier that does not fall.
    """
    step = 1e-4
    ratios = []
    for minimum in fit.minima:
        L = [float(np.ravel(fit.optimum(minimum.spent * np.exp(s)).L)[0]) for s in (-step, step)]
        ratios.append(minimum.curvature / ((L[0] - L[1]) / (2 * step)))
    w = float(np.median(ratios))
    return w if np.isfinite(w) and w > 0 else None


def _on_surface(fit: LawFit, flops: float, k: Array | float) -> Array:
    """The waste at k by bisection on ln C'/C, where the frontier falls steadily."""
    best = fit.optimum(flops)
    N = best.N * np.asarray(k, float)
    loss = fit.loss_at(N, flops / fit.cost(N))
    low, high = np.full(loss.shape, -60.0), np.zeros(loss.shape)
    for _ in range(50):  # to 1e-13 of ln C
        middle = (low + high) / 2
        enough = loss >= fit.optimum(flops * np.exp(middle)).L
        low, high = np.where(enough, low, middle), np.where(enough, middle, high)
    return np.where(loss <= best.L, 0.0, -np.expm1((low + high) / 2))


def _told(found: Study, every: tuple[Valley, ...]) -> Valley | None:
    """The valley that the plan tells: the speaker's surface, a sound surface, the speaker's own."""
    by_law = {v.law: v for v in every}
    speaker = found.forecast.law
    sound = [
        name for name in by_law if found.fits[name].is_surface and refuted(found, name) is None
    ]
    for name in (speaker, *sound) if found.fits[speaker].is_surface else (*sound, speaker):
        if name in by_law:
            return by_law[name]
    return None


def _no_valley(found: Study) -> str:
    return (
        f"{', '.join(found.fits)}: no surface that the runs do not refute, and no curvature of "
        "isoFLOP slices, so what a wrong size wastes is unknown"
    )


def _member(found: Study, name: str) -> Member | None:
    of_law = (m for m in found.forecast.members if m.name == name and m.kind == "law")
    return next(of_law, None)


def refuted(found: Study, name: str) -> str | None:
    """Why a law does not count: its fit is broken, or the runs speak against it; None: it does."""
    member, broken = _member(found, name), found.fits[name].broken
    return broken[0] if broken else None if member is None else member.refuted


def _row(found: Study, name: str) -> LawRow:
    member, fit, C = _member(found, name), found.fits[name], found.forecast.flops
    values = dict(member.values) if member else {}
    if not fit.exponents and (forms := fit.frontiers(C)):
        values["loss"] = next(iter(forms.values()))
    intervals = _intervals(found.replicates[name], C, found.level) if member else {}
    return LawRow(
        name,
        **{key: values.get(key) for key in QUANTITIES},
        intervals=intervals,
        refuted=refuted(found, name),
        broken=tuple(fit.broken),
    )


def _intervals(drawn: Replicates | None, flops: float, level: float) -> dict[str, Interval]:
    """Of each quantity at the target, from one law's replicates."""
    best = None if drawn is None else drawn.optimum(flops)
    if best is None:
        return {}
    readings = zip(QUANTITIES, (best.N, best.D, best.L, best.D / best.N), strict=True)
    return {key: trusted(drawn, value, level) for key, value in readings}


def _disagreement(rows: list[LawRow]) -> dict[str, float]:
    found = {}
    for key in QUANTITIES:
        said = [getattr(r, key) for r in rows if r.refuted is None and getattr(r, key) is not None]
        if len(said) > 1:
            found[key] = max(said) / min(said)
    return found


def _tokens_left(found: Study, N: float, k: float) -> float:
    """Tokens that k N* leaves of the budget, as a multiple of D*.

    By the surface's FLOPs per token where one was fitted; without, FLOPs per token grow as N.
    """
    costs = [fit.cost for fit in found.fits.values() if fit.cost]
    return float(costs[0](N) / costs[0](k * N)) if costs else 1 / k


def _near(found: Study, N: float, D: float, ends: list[float]) -> dict[str, list[float]]:
    tokens = [D * _tokens_left(found, N, k) for k in ends]
    sizes = [k * N for k in ends]
    ratios = [d / n for d, n in zip(tokens, sizes, strict=True)]
    return {"n_params": sizes, "n_tokens": sorted(tokens), "tokens_per_param": sorted(ratios)}


def positive(**figures: float) -> None:
    """Refuse figures that are not positive and finite, by name.

    Raises:
        PlanError: One is not.
    """
    for name, value in figures.items():
        if not (np.isfinite(value) and value > 0):
            raise PlanError(
                f"{name} is {value}",
                where="the figures of the plan",
                fix=f"name a positive, finite {name}",
            )
