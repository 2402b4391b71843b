"""The law of repeated data: tokens seen again are worth less, and so is excess size.

    L = E + A / N'^alpha + B / D'^beta
    D' = U + U R_D (1 - e^(-(D / U - 1) / R_D)),      N' = V + V R_N (1 - e^(-(N / V - 1) / R_N))
    V = min(N, (alpha A / (beta B))^(1/alpha) U^(beta/alpha)): at most the N whose best D is U

L  validation loss, nats per token
N  parameters; D  training tokens seen; U  unique tokens among them; D / U epochs
R_D, R_N  how many repetitions (epochs less one; sizes V less one) are worth having:
          beyond them the worth of the next falls below 1/e of a fresh one; R_D*, R_N* in the source

The optimum is that of unlimited unique data (U = D), where this is the Chinchilla law.

Source: Muennighoff et al. 2023, eqs. 5 and 6, arXiv:2305.16264. They fixed E, A, B and alpha on
runs without repetition and fitted R_D and R_N alone; here all are fitted at once.

Not here: losses that rise again when a model overfits; no constants of this law make them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from scalelab.errors import FitError
from scalelab.laws.base import Optimum
from scalelab.laws.columns import UNIQUE_TOKENS
from scalelab.laws.forms import chinchilla
from scalelab.laws.forms.chinchilla import WIDE, ThreeTermSurface
from scalelab.laws.formula import HUBER_DELTA, Formula
from scalelab.laws.observations import Array, Observations
from scalelab.laws.solver import Surface, by_differences
from scalelab.laws.token_cost import TokenCost

NAMES = ("E", "A", "B", "alpha", "beta", "R_N", "R_D")
REPEATS = (0.1, 1e4)  # what R_N and R_D may be; ends on them are reported
FAINT = 46.0  # ln 1e20: a V smaller than N by more is met only far from any fit, and overflows
RISE = 0.01  # share of the loss, above what another seed does
AGAIN = 1.01  # epochs, and multiples of V, from which on something is repeated


@dataclass(frozen=True)
class Repeated(Formula):
    """Three terms of effective size and data, fitted by a Huber penalty on log-loss."""

    formula = "L = E + A / N'(N, U)^alpha + B / D'(D, U)^beta"
    source = "Muennighoff et al. 2023, eqs. 5 and 6, arXiv:2305.16264"
    names = NAMES
    columns = (UNIQUE_TOKENS,)
    uses = ("N", "D", "U")
    steady = ("U",)  # one corpus, read more and less often, is enough
    published = {
        "E": float(np.exp(0.6254804)),
        "A": float(np.exp(6.255414)),
        "B": float(np.exp(7.3049974)),
        "alpha": 0.3526596,
        "beta": 0.3526596,
        "R_N": 5.309743,
        "R_D": 15.387756,
    }
    """As in the authors' code: exponents tied, C4."""

    tied: bool = True
    """One exponent for size and data, as in the source; False: two."""
    huber_delta: float = HUBER_DELTA
    """Error of ln L beyond which the weight of a run stops growing."""

    def loss(self, params: Mapping[str, Any], **inputs: Array) -> Array:
        E, A, B, alpha, beta, R_N, R_D = (params[k] for k in NAMES)
        N, D, U = (np.asarray(inputs[k], float) for k in "NDU")
        V = N * np.exp(np.clip(_ln_optimal(params, U) - np.log(N), -FAINT, 0))
        return E + A / effective(N, V, R_N) ** alpha + B / effective(D, U, R_D) ** beta

    def unstated(self, N: Array, D: Array) -> dict[str, Array]:
        return {"U": D}  # every token new

    def bind(self, runs: Observations) -> "EffectiveSurface":
        epochs = runs.D / self.inputs(runs)["U"]
        if epochs.max() < AGAIN:
            raise FitError(
                "no run sees a token twice, so what repeating costs cannot be known",
                where=f"n_tokens / n_tokens_unique is at most {epochs.max():.3g}",
                fix="add runs of several epochs (n_tokens_unique below n_tokens), or fit the chinchilla law",
            )
        return EffectiveSurface.of(runs, self.huber_delta, self.tied)

    def exponents(self, params: Mapping[str, Any]) -> dict[str, Any]:
        alpha, beta = params["alpha"], params["beta"]
        return {"a": beta / (alpha + beta), "b": alpha / (alpha + beta)}

    def optimum(self, params: Mapping[str, Any], C: Array, cost: TokenCost) -> Optimum:
        return chinchilla.optimum(params, C, cost)

    def caveats(self, runs: Observations, params: Mapping[str, float]) -> tuple[str, ...]:
        found = []
        U = self.inputs(runs)["U"]
        if not np.any(np.log(runs.N / AGAIN) > _ln_optimal(params, U)):
            found.append(
                "R_N is not determined: no run has more parameters than is optimal for its unique tokens"
            )
        rises = _rises(runs, U)
        if rises:
            found.append(
                f"{rises} of {len(runs)} runs end over {RISE:.0%} above a shorter run of equal "
                "size and unique tokens: overfitting, unknown to this law, and it moves R_D"
            )
        if self.tied:
            found.append("alpha = beta is assumed, and with it a = b = 1/2")
        return tuple(found)

    def variants(self) -> Mapping[str, "Repeated"]:
        return {"two exponents": Repeated(tied=False)} if self.tied else {}


def _ln_optimal(params: Mapping[str, Any], U: Array) -> Array:
    """The logarithm of the size whose compute-optimal number of tokens is U."""
    A, B, alpha, beta = (params[k] for k in NAMES[1:5])
    return (np.log(alpha * A / (beta * B)) + beta * np.log(U)) / alpha


def _rises(runs: Observations, U: Array) -> int:
    """Runs whose loss is above that of a run that saw less of the same unique tokens."""
    shorter = (runs.N[:, None] == runs.N) & (np.abs(U[:, None] / U - 1) < 1e-6) & (runs.D[:, None] > runs.D)
    lowest = np.where(shorter, runs.L, np.inf).min(axis=1)
    return int(np.sum(lowest * (1 + RISE) < runs.L))


def effective(amount: Array, unique: Array, worth: Array | float) -> Array:
    """What an amount is worth when only `unique` of it is new; N', D' of the header."""
    return unique * (1 - worth * np.expm1(-(amount / unique - 1) / worth))


@dataclass(frozen=True, eq=False)
class EffectiveSurface(Surface):
    """ln L around the middle of the runs.

        theta = (E, ln A - alpha m_N, ln B - beta m_D, alpha, beta, ln R_N, ln R_D)

    with m_N, m_D the mean ln N and ln D; beta is left out where it is tied to alpha.
    """

    runs: Observations
    unique: Array
    """U of the runs."""
    terms: ThreeTermSurface
    """The surface of the same runs without repetition, which gives middle, bounds and starts."""
    tied: bool
    target: Array
    delta: float
    weight: Array
    low: Array
    high: Array
    names: tuple[str, ...]
    robust: bool = True

    @classmethod
    def of(cls, runs: Observations, delta: float, tied: bool) -> "EffectiveSurface":
        """The surface over these runs."""
        terms = ThreeTermSurface.of(runs, delta, robust=True)
        low = np.append(terms.low, np.log(2 * [REPEATS[0]]))
        high = np.append(terms.high, np.log(2 * [REPEATS[1]]))
        free = [k for k in range(7) if not (tied and k == 4)]
        names = tuple(NAMES[k] for k in free)
        unique = UNIQUE_TOKENS.read(runs, "Repeated")
        bounds = low[free], high[free]
        return cls(runs, unique, terms, tied, terms.target, delta, runs.weight, *bounds, names)

    def starts(self) -> Array:
        """For several worths of repeating, the likeliest exponents with size at its full worth."""
        found = []
        for R_D in (1.0, 5.0, 20.0, 80.0):
            fresh = effective(self.runs.D, self.unique, R_D)
            like = Observations.of(self.runs.N, fresh, self.runs.L, weight=self.runs.weight)
            terms = ThreeTermSurface.of(like, self.delta, robust=True)
            best, misfit = terms.projected(WIDE, WIDE)
            if self.tied:
                misfit = np.where(np.eye(len(WIDE), dtype=bool), misfit, np.inf)
            for flat in np.argsort(misfit, axis=None)[:3]:
                i, j = np.unravel_index(flat, misfit.shape)
                E, A, B = np.maximum(best[i, j], 1e-3 * np.median(self.runs.L))
                theta = np.array([E, np.log(A), np.log(B), WIDE[i], WIDE[j]])
                constants = {k: v[0] for k, v in terms.constants(theta[None]).items()}
                found += [self.theta(constants | {"R_N": R, "R_D": R_D}) for R in (3.0, 20.0)]
        return np.array(found)

    def _whole(self, theta: Array) -> Array:
        return np.insert(theta, 4, theta[:, 3], axis=1) if self.tied else theta

    def constants(self, theta: Array) -> dict[str, Array]:
        whole = self._whole(theta)
        R_N, R_D = np.exp(whole[:, 5:].T)
        return self.terms.constants(whole[:, :5]) | {"R_N": R_N, "R_D": R_D}

    def theta(self, constants: Mapping[str, float]) -> Array:
        logs = np.log([constants["R_N"], constants["R_D"]])
        whole = np.append(self.terms.theta(constants), logs)
        return np.delete(whole, 4) if self.tied else whole

    def at(self, theta: Array) -> tuple[Array, Array]:
        whole = self._whole(theta)
        E, a, b, alpha, beta, ln_R_N, ln_R_D = (column[:, None] for column in whole.T)
        (m_N, m_D), ln_N, ln_U = self.terms.middle, np.log(self.runs.N), np.log(self.unique)
        gap = np.log(alpha / beta) + a - b + beta * (ln_U - m_D)
        optimal, least = gap / alpha + m_N, ln_N - FAINT
        size, by_V, by_R_N = _worth(ln_N, np.clip(optimal, least, ln_N), ln_R_N)
        data, _, by_R_D = _worth(np.log(self.runs.D), ln_U, ln_R_D)
        small, little = np.exp(a - alpha * (size - m_N)), np.exp(b - beta * (data - m_D))
        value = E + small + little
        # Through ln V = m_N + gap / alpha the size term depends on four of them once more.
        free = (optimal < ln_N) & (optimal > least)
        through = np.where(free, -alpha * small * by_V, 0.0)
        slope = np.stack(
            [
                np.ones_like(value),
                small + through / alpha,
                little - through / alpha,
                -small * (size - m_N) + through * (1 - gap) / alpha**2,
                -little * (data - m_D) + through * (ln_U - m_D - 1 / beta) / alpha,
                -small * alpha * by_R_N,
                -little * beta * by_R_D,
            ],
            axis=1,
        )
        slope /= value[:, None]
        if self.tied:
            slope[:, 3] += slope[:, 4]
            slope = np.delete(slope, 4, axis=1)
        return np.log(value), slope

    def hessian(self, theta: Array, slope: Array, pull: Array) -> Array:
        return by_differences(self, theta, pull)


def _worth(amount: Array, unique: Array, ln_R: Array) -> tuple[Array, Array, Array]:
    """The effective amount and its derivatives by unique and R; all are logarithms."""
    R, again = np.exp(ln_R), np.expm1(amount - unique)
    fade = np.exp(-again / R)
    gain = 1 + R * (1 - fade)
    by_unique = 1 - (again + 1) * fade / gain
    return unique + np.log(gain), by_unique, (R * (1 - fade) - again * fade) / gain
