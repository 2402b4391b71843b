"""The best settings of a cell with intervals, and the rule of the best settings over N and D.

    cell    ln L = depth + (x - x*)' H (x - x*) / 2 through its runs (response.py); x* drawn again with random weights
    rule    ln x* = ln c + a ln N + b ln D            least squares over cells, each weighted by 1 / variance of its x*

Draws of a cell give each run a weight from the exponential distribution (the Bayesian bootstrap, Rubin 1981), so every
setting stays in every draw. Few runs make them too narrow, so the differences from x* are widened until their spread
is at least the standard error of the surface, by Student's t. Where more than TOO_OFTEN of the draws have no lowest
point between the settings tried, the end of the interval lies beyond them, and the cell has no optimum: what was best
among few runs is no estimate.

Draws of the rule take one draw from each cell. Where cells scatter round the rule by more than their own errors say,
the differences from the rule are widened by sqrt(chi2 / spare) (Birge 1932). With fewer cells than constants the rule
is a constant.

L loss, nats per token; N parameters; D tokens; x settings, ln where they are spread evenly in their logarithm
Source: Rubin 1981 (The Bayesian Bootstrap); Birge 1932.

Not here: the surface (response.py), laws over N, D and settings at once (forms/response.py).
"""

from dataclasses import dataclass

import numpy as np
from scipy.stats import chi2 as chi2_of
from scipy.stats import norm, t

from scalelab.laws.observations import Array
from scalelab.laws.response import LEAST_RUNS, LEAST_SPARE, ResponseMinimum, lowest_point

DRAWS = 200
LEVEL = 0.8
"""Level of every interval here."""
TOO_OFTEN = (1 - LEVEL) / 2
CONSTANTS = 3
NO_CONSTANT = 0.01
"""Probability of so much scatter between cells of one best value below which no constant is given."""


def runs_needed(k: int) -> int:
    """Return the number of different values of k settings that a surface needs."""
    return max(LEAST_RUNS, 1 + k + k * (k + 1) // 2 + LEAST_SPARE)


@dataclass(frozen=True, eq=False)
class SettingsOptimum:
    """The best settings of one cell."""

    place: Array
    """x*, shape (k,)."""
    draws: Array
    """Draws of x*, shape (DRAWS or fewer, k)."""
    surface: ResponseMinimum
    loss: float
    """Loss at x*, nats per token."""
    loss_interval: tuple[float, float]
    no_optimum: float
    """Share of draws without a lowest point between the settings tried."""

    def interval(self, j: int) -> tuple[float, float]:
        """Both ends of setting j at LEVEL."""
        return _middle(self.draws[:, j])


def optimum_of(x: Array, loss: Array, names: tuple[str, ...], seed: int = 0) -> SettingsOptimum | str:
    """Return the best settings of a cell's runs, or in words why they give none.

    Args:
        x: Settings of each run, shape (n, k); ln of those on a log scale.
        loss: Nats per token, shape (n,).
        names: Of the settings.
        seed: Of the draws.
    """
    log_loss = np.log(loss)
    found = lowest_point(x, log_loss, np.ones(len(x)), names)
    if isinstance(found, str):
        return found
    weights = np.random.default_rng(seed).exponential(size=(DRAWS, len(x)))
    drawn = [lowest_point(x, log_loss, each, names) for each in weights]
    places = [each.place for each in drawn if isinstance(each, ResponseMinimum)]
    failed = 1 - len(places) / DRAWS
    if failed > TOO_OFTEN:
        return f"{failed:.0%} of the draws have no lowest point between the values tried"
    differences = np.array(places) - found.place
    least = found.place_error * t.ppf(1 - TOO_OFTEN, found.spare) / norm.ppf(1 - TOO_OFTEN)
    wider = np.maximum(1.0, least / np.maximum(_spread(differences), 1e-12))
    return SettingsOptimum(
        place=found.place,
        draws=found.place + wider * differences,
        surface=found,
        loss=float(np.exp(found.depth)),
        loss_interval=found.interval(LEVEL),
        no_optimum=failed,
    )


@dataclass(frozen=True, eq=False)
class SettingRule:
    """A setting as a function of N and D."""

    constants: Array
    """ln c, a, b; of a constant rule its value, 0, 0."""
    draws: Array
    """Draws of them, shape (n, 3)."""
    is_power: bool
    """Whether it is c N^a D^b; else one value."""
    is_log: bool
    """Whether the first constant is a logarithm."""
    n_cells: int
    """Cells that it was fitted to."""
    chi2: float
    """Sum over cells of (difference from the rule / standard error)^2."""
    spare: int
    """Cells beyond the constants."""
    why_constant: str = ""
    """Why it is no power; empty where it is one."""

    def at(self, N: float, D: float) -> float:
        """The setting at N and D."""
        return float(self._natural(self.constants @ _row(N, D)))

    def interval_at(self, N: float, D: float) -> tuple[float, float]:
        """Both ends of the setting at N and D, at LEVEL."""
        low, high = _middle(self.draws @ _row(N, D))
        return float(self._natural(low)), float(self._natural(high))

    def interval(self, j: int) -> tuple[float, float]:
        """Both ends of constant j at LEVEL."""
        return _middle(self.draws[:, j])

    def _natural(self, value: float) -> float:
        return np.exp(value) if self.is_log else value


def rule_of(
    N: Array, D: Array, place: Array, draws: list[Array], is_log: bool, seed: int = 0
) -> SettingRule | str:
    """Return the rule through the best values of one setting, or in words why there is none.

    Args:
        N: Parameters of each cell with an optimum, shape (n,).
        D: Tokens of each.
        place: Best value of each, ln if is_log.
        draws: Draws of each.
        is_log: Whether the setting is on a log scale; one that is not has a constant rule.
        seed: Of the draws of the rule.
    """
    n = len(N)
    if n == 0:
        return "no cell has an optimum between the values tried"
    X = np.stack([_row(*cell) for cell in zip(N, D, strict=True)])
    why = ""
    if not is_log:
        why = "its range has log: false, so no power is fitted"
    elif n < CONSTANTS:
        why = f"{n} cells have an optimum, and a power of N and D has {CONSTANTS} constants"
    elif np.linalg.matrix_rank(X - [0, *X[:, 1:].mean(axis=0)], tol=1e-6) < CONSTANTS:
        why = "the cells with an optimum do not vary N and D separately"
    middle = X[:, 1:].mean(axis=0)
    Z = X - [0, *middle] if not why else np.ones((n, 1))
    error = np.array([_spread(each[:, None])[0] for each in draws])
    error = np.maximum(error, 1e-9)
    W = 1 / error**2
    solve = np.linalg.inv(Z.T * W @ Z) @ (Z.T * W)
    best = solve @ place
    chi2 = float(W @ (place - Z @ best) ** 2)
    spare = n - Z.shape[1]
    if why and spare and chi2_of(spare).sf(chi2) < NO_CONSTANT:
        return (
            f"{why}; and no one value is right for the {n} cells, whose best values differ by more than their "
            f"intervals (chi-squared {chi2:.3g} with {spare} to spare)"
        )
    picks = np.random.default_rng(seed)
    drawn = np.stack([picks.choice(each, 4 * DRAWS) for each in draws]) - place[:, None]
    wider = max(1.0, np.sqrt(chi2 / spare)) if spare else 1.0
    constants = np.vstack([best, best + wider * (solve @ drawn).T])
    if not why:
        constants[:, 0] -= constants[:, 1:] @ middle
    constants = np.pad(constants, ((0, 0), (0, CONSTANTS - constants.shape[1])))
    return SettingRule(constants[0], constants[1:], not why, is_log, n, chi2, spare, why)


def _row(N: float, D: float) -> Array:
    return np.array([1.0, np.log(N), np.log(D)])


def _spread(draws: Array) -> Array:
    """Standard deviation of each column of draws, by their middle LEVEL."""
    low, high = np.quantile(draws, [TOO_OFTEN, 1 - TOO_OFTEN], axis=0)
    return (high - low) / 2 / norm.ppf(1 - TOO_OFTEN)


def _middle(values: Array) -> tuple[float, float]:
    """The ends of the middle LEVEL of draws."""
    low, high = np.quantile(values, [TOO_OFTEN, 1 - TOO_OFTEN])
    return float(low), float(high)
