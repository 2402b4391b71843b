"""The profile of a constant of the soft-max law: the best fit for each value that it is held at.

    F_j(t) = min of F over all coordinates but j, with theta_j = t
    T_j(t) = 2 (F_j(t) - F_min) sum(w) P / sum(w^2 psi^2)        held against F_1,n-p

F is the objective of the fit, once with its prior and once without: of the runs alone. T is the likelihood
ratio of a robust fit in units of its own noise, and about chi squared of 1 degree of freedom where the
runs determine the constant. Where T of the runs alone stays low far beyond where T with the prior
rises, it is the prior that holds the constant. The prior takes part as firmly as in the fit, which is
not as a Bayesian would weigh it, so only T of the runs alone gives an interval.

w  weight of a run; psi  its error in units of delta, clipped at 1; P  share of errors within delta, as
   of a normal of the errors' interquartile range (uncertainty/profile_likelihood.py)
t  is taken from bound to bound, densely near the optimum: a sinh grid in units of the curvature

Source: profile intervals, Venzon & Moolgavkar 1988, doi:10.2307/2347496; the likelihood ratio of a robust
fit, Schrader & Hettmansperger 1980, doi:10.1093/biomet/67.1.93.

Not here: laws with a search of their own (uncertainty/profile_likelihood.py), drawing (report/fit/).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.special import fdtri, ndtr  # scipy.stats takes .4 s to import

from scalelab.laws import levenberg
from scalelab.laws.base import LawFigure
from scalelab.laws.forms.softmax_surface import SoftmaxSurface
from scalelab.laws.levenberg import Prior
from scalelab.laws.observations import Array

PROFILED = ("E", "k")
"""Constants that are profiled: those that decide how far a forecast bends, and that few runs determine."""
GRID = 25  # values of a constant, from bound to bound
STEPS, LAST_STEPS = 20, 100  # of the first search of one value, and of that for the optimum of the runs alone
OUT_OF_SIGHT = 50.0  # half of T, beyond which one search of a value is enough
SHOWN = 0.9  # level of the threshold in the figure
EXACT = 1e-9  # objective of a run, in units of delta^2, below which the fit goes through every run


@dataclass(frozen=True, eq=False)
class ProfileCurve:
    """T over one constant, ascending in it."""

    value: Array
    """The constant, shape (g,)."""
    statistic: Array
    """T, at least 0; shape (g,)."""
    best: float
    """The constant at the optimum."""


@dataclass(frozen=True, eq=False)
class ConstantProfile:
    """Profile of one constant, with the prior and of the runs alone."""

    name: str
    penalised: ProfileCurve
    """With the prior of the fit."""
    alone: ProfileCurve
    """Profile of the runs alone."""
    freedom: int
    """n - p, the runs beyond the constants."""

    def threshold(self, level: float) -> float:
        """T beyond which the runs object.

        Args:
            level: Between 0 and 1.
        """
        return float(fdtri(1, self.freedom, level))

    def interval(self, level: float) -> list[float | None]:
        """Both ends of what the runs alone allow, None for an end that they leave open.

        Args:
            level: Between 0 and 1.
        """
        return crossings(self.alone, self.threshold(level))


def crossings(curve: ProfileCurve, threshold: float) -> list[float | None]:
    """The first value on either side of the optimum at which T passes the threshold; None where it never does.

    The root of T is nearly straight there, so it is what is interpolated, over ln of the constant.
    """
    root, middle = np.sqrt(curve.statistic), int(np.argmin(curve.statistic))
    place, wanted = np.log(curve.value), np.sqrt(threshold)
    ends: list[float | None] = []
    for side in (range(middle, 0, -1), range(middle, len(root) - 1)):
        step = side.step
        end = next((k for k in side if root[k + step] > wanted >= root[k]), None)
        if end is None:
            ends.append(None)
            continue
        share = (wanted - root[end]) / (root[end + step] - root[end])
        ends.append(float(np.exp(place[end] + share * (place[end + step] - place[end]))))
    return ends


def profile_constants(
    surface: SoftmaxSurface, theta: Array, prior: Prior, starts: Array
) -> Mapping[str, ConstantProfile] | None:
    """The profile of each of PROFILED; None without a run to spare, and for a fit through every run.

    Args:
        surface: The law bound to the runs that count.
        theta: The fit, shape (p,).
        prior: That of the fit.
        starts: Where the search for the optimum of the runs alone begins, beside theta; shape (s, p).
    """
    freedom = len(surface.target) - len(theta)
    if freedom < 1:
        return None
    alone = levenberg.descend(
        surface, np.vstack([theta, starts]), delta=surface.delta, steps=LAST_STEPS, damping=1e-3
    )
    free = alone.theta[alone.order[0]]
    unit = _unit(surface, free, freedom)
    if unit <= EXACT * surface.delta**2:
        return None
    return {
        name: ConstantProfile(name, *_curves(surface, name, theta, free, prior, unit), freedom)
        for name in PROFILED
    }


def _unit(surface: SoftmaxSurface, theta: Array, freedom: int) -> float:
    """What F rises by, times 2, for T to rise by 1: sum(w^2 psi^2) delta^2 / (sum(w) P)."""
    n, weight = len(surface.target), surface.weight
    error = (surface.at(theta[None])[0][0] - surface.target) / surface.delta
    low, high = np.quantile(error, [0.25, 0.75])
    spread = max(float(high - low) / 1.349, 1e-9) * np.sqrt(n / freedom)
    inside = 2 * float(ndtr(1 / spread)) - 1
    pull = float(np.sum((weight * np.clip(error, -1, 1)) ** 2) / np.sum(weight)) * n / freedom
    return surface.delta**2 * pull / inside


def _curves(
    surface: SoftmaxSurface, name: str, theta: Array, free: Array, prior: Prior, unit: float
) -> tuple[ProfileCurve, ProfileCurve]:
    """The profile of a constant with the prior, around theta (p,), and of the runs alone, around free (p,)."""
    j = surface.coordinates.index(name)
    held = np.arange(len(theta)) == j
    priors = Prior(prior.mean, np.repeat([prior.precision, 0 * prior.precision], GRID, axis=0))
    grids = [
        _grid(at[j], surface.low[j], surface.high[j], _sd(surface, at, j, own, unit))
        for at, own in ((theta, prior), (free, None))
    ]
    ends = np.repeat([theta, free], GRID, axis=0)
    ends[:, j] = np.concatenate(grids)
    lowest = np.full(2 * GRID, np.inf)
    rows, starts = np.arange(2 * GRID), ends
    for steps in (STEPS, 2 * STEPS):
        found = levenberg.descend(
            surface,
            starts,
            delta=surface.delta,
            prior=priors.rows(rows),
            steps=steps,
            damping=1e-3,
            fixed=held,
            rest=levenberg.CONVERGED,
        )
        better = found.objective < lowest[rows]
        ends[rows[better]], lowest[rows[better]] = found.theta[better], found.objective[better]
        floor = np.repeat(lowest.reshape(2, GRID).min(axis=1), GRID)
        # Again where it matters, from where the neighbour nearer to the optimum ended.
        rows = np.flatnonzero(lowest - floor < OUT_OF_SIGHT * unit)
        best = np.repeat(np.argmin(lowest.reshape(2, GRID), axis=1) + np.array([0, GRID]), GRID)
        inner = np.arange(2 * GRID) - np.sign(np.arange(2 * GRID) - best)
        starts = np.where(held, ends, ends[inner])[rows]
    found = []
    for part in (slice(0, GRID), slice(GRID, 2 * GRID)):
        value, F = surface.constants(ends[part])[name], lowest[part]
        found.append(ProfileCurve(value, 2 * (F - F.min()) / unit, float(value[np.argmin(F)])))
    return found[0], found[1]


def _sd(surface: SoftmaxSurface, theta: Array, j: int, prior: Prior | None, unit: float) -> float:
    """Standard deviation of coordinate j by the curvature at theta, as the scale of its grid."""
    value, slope = surface.at(theta[None])
    size = np.abs(value[0] - surface.target)
    soft = surface.weight * np.minimum(1, surface.delta / np.maximum(size, 1e-300))
    hessian = (slope[0] * soft) @ slope[0].T
    if prior is not None:
        hessian = hessian + prior.precision
    hessian = hessian + 1e-9 * np.trace(hessian) * np.eye(len(theta))
    return float(np.sqrt(unit * np.linalg.inv(hessian)[j, j]))


def _grid(best: float, low: float, high: float, sd: float) -> Array:
    """Values from low to high, dense within a few sd of the best, which is one of them."""
    below, above = (np.arcsinh(abs(end - best) / sd) for end in (low, high))
    down = round(below / (below + above) * (GRID - 1))
    down = min(max(down, int(best > low)), GRID - 1 - int(best < high))
    up = GRID - 1 - down
    parts = np.concatenate([-np.linspace(below, 0, down + 1), np.linspace(0, above, up + 1)[1:]])
    return np.clip(best + sd * np.sinh(parts), low, high)


def profile_figure(found: Mapping[str, ConstantProfile], whose: str) -> LawFigure:
    """The profiles beside one another, with the threshold and what it allows.

    Args:
        found: By constant.
        whose: What was profiled, for the caption: "the fit", "its heaviest setting".
    """
    panels = [
        {
            "name": name,
            "alone": (profile.alone.value, profile.alone.statistic),
            "penalised": (profile.penalised.value, profile.penalised.statistic),
            "best": profile.penalised.best,
            "interval": profile.interval(SHOWN),
            "threshold": profile.threshold(SHOWN),
        }
        for name, profile in found.items()
    ]
    ends = "; ".join(f"{name} {_range(profile.interval(SHOWN))}" for name, profile in found.items())
    caption = (
        f"Profile likelihood of {' and '.join(found)} of {whose} [fitted]: how much worse the best fit is for each "
        "value, with the prior (solid, diamond: the fit) and for the runs alone (dashed); grey is the "
        f"{SHOWN:.0%} threshold. The runs alone allow {ends}. Where the solid line lies aside, the prior has moved "
        "the constant; where only it rises, the prior holds it."
    )
    return LawFigure("profile", {"level": SHOWN, "panels": panels}, caption)


def _range(ends: list[float | None]) -> str:
    """An interval in words, open ends included."""
    low, high = ends
    if low is None and high is None:
        return "any value"
    if low is None:
        return f"up to {high:.3g}"
    return f"from {low:.3g}" if high is None else f"{low:.3g} to {high:.3g}"
