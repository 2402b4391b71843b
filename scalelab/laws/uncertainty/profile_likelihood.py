"""Profile likelihood: how far a constant, or anything derived, can go before the runs object.

    2 (F - F_min) P(|m| < 1) / mean(psi^2) <= F_1,n-p     the constants that the runs allow

F is the objective, m its errors in units of delta, psi their weight, clipped at 1. The factor
makes the test hold whatever density the errors have; P is read off their interquartile range
as of a normal, because the fit itself puts p of them on zero. For squares the region is the
usual one. An end of the interval is the extreme of the quantity over the region, found by
sequential quadratic programming from the optimum in coordinates in which the region is
nearly a ball.

It needs no redrawing, so it checks the bootstrap: both should agree, and where the region is
open on one side (a floor that may be zero) the end is None.

Source: Venzon & Moolgavkar 1988, doi:10.2307/2347496 (profile intervals); the likelihood
ratio of a robust fit, Schrader & Hettmansperger 1980, doi:10.1093/biomet/67.1.93.
"""

from collections.abc import Callable, Mapping

import numpy as np
from scipy.optimize import minimize
from scipy.special import fdtri, ndtr  # scipy.stats takes .4 s to import

from scalelab.laws.observations import Array
from scalelab.laws.solver import FittedFormula

Quantity = Callable[[Mapping[str, Array]], Array]

TRIES = 2
"""Searches for one end: the robust objective has kinks in its slope, at which a search may go to and fro until
its steps are used up; the next begins where it stood, without its curvature."""


def profile(fit: FittedFormula, quantity: Quantity, level: float) -> list[float | None]:
    """Both ends of the interval of ln `quantity`, as values; None where an end is open.

    Args:
        fit: A formula that has converged.
        quantity: A positive function of the constants, vectorised over (r,).
        level: Between 0 and 1.
    """
    surface, best = fit.surface, fit.theta
    ceiling = _ceiling(fit, level)
    axes = _whitened(fit)

    def objective(z: Array) -> tuple[float, Array]:
        with np.errstate(all="ignore"):  # far outside of what the runs allow
            ends, slope = _gradient(fit, best + axes @ z)
        return ends, axes.T @ slope

    def value(z: Array) -> float:
        theta = np.clip(best + axes @ z, surface.low, surface.high)
        with np.errstate(all="ignore"):
            return float(np.log(quantity(surface.constants(theta[None]))[0]))

    def slope_of(z: Array) -> Array:
        h = 1e-5
        return np.array([(value(z + h * e) - value(z - h * e)) / (2 * h) for e in np.eye(len(best))])

    middle, steepest = value(np.zeros(len(best))), slope_of(np.zeros(len(best)))
    radius = np.sqrt(2 * (ceiling - fit.scaled))
    found: list[float | None] = []
    for sign in (1.0, -1.0):
        start = -sign * 0.7 * radius * steepest / (np.linalg.norm(steepest) + 1e-300)
        for _ in range(TRIES):
            end = minimize(
                lambda z, sign=sign: sign * (value(z) - middle),
                start,
                jac=lambda z, sign=sign: sign * slope_of(z),
                constraints={
                    "type": "ineq",
                    "fun": lambda z: 1 - (objective(z)[0] - fit.scaled) / (ceiling - fit.scaled),
                    "jac": lambda z: -objective(z)[1] / (ceiling - fit.scaled),
                },
                method="SLSQP",
                options={"maxiter": 200, "ftol": 1e-10},
            )
            if end.success:
                break
            start = end.x
        theta = best + axes @ end.x
        slack = abs(objective(end.x)[0] - ceiling) / (ceiling - fit.scaled)
        inside = np.all((theta > surface.low) & (theta < surface.high))
        good = end.success and inside and slack < 0.01
        found.append(float(np.exp(value(end.x))) if good else None)
    return found


def _gradient(fit: FittedFormula, theta: Array) -> tuple[float, Array]:
    """F and its derivative at theta (p,)."""
    surface = fit.surface
    value, slope = surface.at(theta[None])
    miss = (value[0] - surface.target) / surface.delta
    pull = np.clip(miss, -1, 1) if surface.robust else miss
    force = surface.weight * pull
    return float(np.sum(force * (miss - pull / 2))), slope[0] @ force / surface.delta


def _whitened(fit: FittedFormula) -> Array:
    """Axes along which F rises by about z^2 / 2, shape (p, p)."""
    p, h = len(fit.theta), 1e-5
    hessian = np.empty((p, p))
    for j in range(p):
        step = h * np.eye(p)[j]
        up, down = _gradient(fit, fit.theta + step)[1], _gradient(fit, fit.theta - step)[1]
        hessian[j] = (up - down) / (2 * h)
    values, vectors = np.linalg.eigh((hessian + hessian.T) / 2)
    return vectors / np.sqrt(np.maximum(np.abs(values), 1e-9 * np.abs(values).max()))


def _ceiling(fit: FittedFormula, level: float) -> float:
    """The objective beyond which the runs object."""
    n, p = len(fit.runs), len(fit.theta)
    value = fit.surface.at(fit.theta[None])[0][0]
    miss = (value - fit.surface.target) / fit.surface.delta
    freedom = max(n - p, 1)
    allowed = float(fdtri(1, freedom, level))
    if not fit.surface.robust:
        return fit.scaled * (1 + allowed / freedom)
    low, high = np.quantile(miss, [0.25, 0.75])
    spread = max(float(high - low) / 1.349, 1e-9) * np.sqrt(n / freedom)
    inside = 2 * float(ndtr(1 / spread)) - 1
    pull = float(np.mean(np.clip(miss, -1, 1) ** 2)) * n / freedom
    return fit.scaled + allowed * pull / (2 * inside)


def profiles(fit: FittedFormula, target: float, level: float) -> dict[str, list[float | None]] | None:
    """The interval of every constant, exponent and of the optimum at `target`, by quantity.

    None for a formula that has not converged, and for one that goes through every run.
    """
    if fit.broken or fit.scaled < 1e-9 * len(fit.runs):
        return None
    quantities = {key: _constant(key) for key in fit.params}
    quantities |= {key: _exponent(fit, key) for key in fit.exponents}
    if fit.cost is not None:
        symbols = {"n_params": "N", "n_tokens": "D", "loss": "L"}
        quantities |= {k: _at_target(fit, symbol, target) for k, symbol in symbols.items()}
    return {key: profile(fit, quantity, level) for key, quantity in quantities.items()}


def _constant(name: str) -> Quantity:
    return lambda constants: constants[name]


def _exponent(fit: FittedFormula, name: str) -> Quantity:
    return lambda constants: fit.law.exponents(constants)[name]


def _at_target(fit: FittedFormula, symbol: str, target: float) -> Quantity:
    def read(constants: Mapping[str, Array]) -> Array:
        r = len(next(iter(constants.values())))
        return getattr(fit.law.optimum(constants, np.full(r, target), fit.cost), symbol)

    return read
