"""Kaplan's law of size and steps, and the critical batch that ties steps to compute.

    L(N, S_min) = (N_c / N)^alpha_N + (S_c / S_min)^alpha_S
    S_min = S / (1 + B_crit / B),  C_min = C / (1 + B / B_crit),  B_crit = B_star / L^(1/alpha_B)
    N*(C_min) ~ C_min^a,  a = 1 / (1 + alpha_N / alpha_B + alpha_N / alpha_S),  b = 1 - a

L  validation loss, nats per token; N parameters, in the source without embeddings
S  optimizer steps; S_min the fewest, at batches far above B_crit
B  tokens per step, D / S; C training FLOPs; C_min the least, at batches far below B_crit

`loss` with N, S and D is the loss after S steps at the batch D / S: the L that solves the first
line with its own S_min. With N and S alone, S is S_min. Fits solve for L too, instead of
putting the measured loss into B_crit as the source does, so a forecast needs no loss.
An optimum is one of C_min: D counts tokens seen in small batches, and steps are no object.

Source: Kaplan et al. 2020, eqs. 1.6 and 5.1 to 5.5, section 6 and appendix B,
arXiv:2001.08361; the critical batch, McCandlish et al. 2018, arXiv:1812.06162.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from scalelab.laws.base import Optimum
from scalelab.laws.columns import BATCH_TOKENS, STEPS
from scalelab.laws.formula import HUBER_DELTA, Formula
from scalelab.laws.observations import Array, Observations
from scalelab.laws.solver import Surface
from scalelab.laws.token_cost import TokenCost

NAMES = ("N_c", "S_c", "alpha_N", "alpha_S")
EXPONENTS = (0.01, 3.0)  # below, N_c is beyond floating point; ends on them are reported
WIDE = np.geomspace(0.02, 2.0, 16)  # of both exponents, for the starts
B_STAR, ALPHA_B = 2.1e8, 0.21
"""Tokens, and the power of the loss. Source: Kaplan et al. 2020, table 5."""


def critical_batch(L: Array | float, B_star: float = B_STAR, alpha_B: float = ALPHA_B) -> Array:
    """Tokens per step at loss L where steps cost twice the fewest, and compute twice the least."""
    return B_star / np.asarray(L, float) ** (1 / alpha_B)


def minimum_steps(S: Array | float, batch: Array | float, L: Array | float) -> Array:
    """Steps that would reach L at batches far above the critical, had S at `batch` reached it."""
    return S / (1 + critical_batch(L) / batch)


def minimum_compute(C: Array | float, batch: Array | float, L: Array | float) -> Array:
    """FLOPs that would reach L at batches far below the critical, had C at `batch` reached it."""
    return C / (1 + batch / critical_batch(L))


@dataclass(frozen=True)
class KaplanSteps(Formula):
    """Two power laws added, steps corrected for the batch; a Huber penalty on log-loss."""

    formula = "L = (N_c / N)^alpha_N + (S_c / S_min)^alpha_S"
    source = "Kaplan et al. 2020, eq. 1.6, arXiv:2001.08361"
    names = NAMES
    columns = (STEPS,)
    uses = ("N", "S", "D")
    published = {"N_c": 6.5e13, "S_c": 2.1e3, "alpha_N": 0.077, "alpha_S": 0.76}
    """Kaplan et al. 2020, table 3, N without embeddings."""

    B_star: float = B_STAR
    """Critical batch at a loss of one, tokens; not fitted."""
    alpha_B: float = ALPHA_B
    """How it grows as the loss falls; not fitted."""
    huber_delta: float = HUBER_DELTA
    """Error of ln L beyond which the weight of a run stops growing."""

    def loss(self, params: Mapping[str, Any], **inputs: Array) -> Array:
        N_c, S_c, alpha_N, alpha_S = (np.asarray(params[k]) for k in NAMES)
        small, short = alpha_N * np.log(N_c / inputs["N"]), alpha_S * np.log(S_c / inputs["S"])
        if "D" not in inputs:
            return np.exp(small) + np.exp(short)
        ratio = np.log(self.B_star * inputs["S"] / inputs["D"])
        return np.exp(_own_loss(small, short, alpha_S, ratio, self.alpha_B)[0])

    def bind(self, runs: Observations) -> "SizeStepsSurface":
        return SizeStepsSurface.of(runs, self)

    def exponents(self, params: Mapping[str, Any]) -> dict[str, Any]:
        alpha_N, alpha_S = params["alpha_N"], params["alpha_S"]
        a = 1 / (1 + alpha_N / self.alpha_B + alpha_N / alpha_S)
        return {"a": a, "b": 1 - a}

    def optimum(self, params: Mapping[str, Any], C: Array, cost: TokenCost) -> Optimum:
        with np.errstate(all="ignore"):
            return _root(params, C, cost, self)

    def caveats(self, runs: Observations, params: Mapping[str, float]) -> tuple[str, ...]:
        found = ["the critical batch (B_star, alpha_B) is that of the source, not of these runs"]
        batch = np.asarray(runs.recorded(BATCH_TOKENS.name), float)
        off = np.abs(self.inputs(runs)["S"] * batch / runs.D - 1)
        if np.any(off > 0.01):  # NaN where the batch is unknown
            found.append(
                f"n_steps x batch_tokens differs from n_tokens by up to {np.nanmax(off):.0%}; "
                "the batch is taken as n_tokens / n_steps"
            )
        return tuple(found)


def _own_loss(
    small: Array, short: Array, alpha_S: Array, ratio: Array, alpha_B: float
) -> tuple[Array, Array, Array]:
    """The own ln L of runs, the share of steps in it, and ln(S / S_min); broadcasts.

    small and short are the logarithms of both prices, the latter with S in place of S_min, and
    ratio is ln(B_star / B). The right side falls and is convex in ln L, so Newton's method
    from below approaches the one root from below.
    """
    z = np.logaddexp(small, short)
    for _ in range(100):
        excess = np.logaddexp(0, ratio - z / alpha_B)
        paid = short + alpha_S * excess
        right = np.logaddexp(small, paid)
        share = np.exp(paid - right)
        fall = share * alpha_S / alpha_B * -np.expm1(-excess)
        step = (right - z) / (1 + fall)
        z = z + step
        if not np.any(np.abs(step) > 1e-14 * (1 + np.abs(z))):  # NaN stops too
            break
    return z, share, excess


def _root(params: Mapping[str, Any], C: Array, cost: TokenCost, law: KaplanSteps) -> Optimum:
    """The lowest loss for C = f(N) B_crit(L) S_min; broadcasts, NaN where it cannot be written.

    There alpha_N (N_c / N)^alpha_N = s alpha_S (S_c / S_min)^alpha_S with s = d ln f / d ln N:
    training stops alpha_N / alpha_S above the loss of a model trained without end. For
    f = 6 N the first step of Newton's method is the answer.
    """
    N_c, S_c, alpha_N, alpha_S = (np.asarray(params[k]) for k in NAMES)
    a = 1 / (1 + alpha_N / law.alpha_B + alpha_N / alpha_S)
    x = np.log(np.asarray(C, float)) / 2
    for _ in range(60):
        s = cost.log_slope(np.exp(x))
        small = alpha_N * (np.log(N_c) - x)
        short = small + np.log(alpha_N / (s * alpha_S))
        ln_L = np.logaddexp(small, short)
        batch = np.log(law.B_star) - ln_L / law.alpha_B
        steps = np.log(S_c) - short / alpha_S
        step = (np.log(C) - np.log(cost(np.exp(x))) - batch - steps) * a
        x = x + step
        if not np.any(np.abs(step) > 1e-13 * np.abs(x)):  # NaN stops too
            break
    N, L = np.exp(x), np.exp(ln_L)
    D = C / cost(N)
    return Optimum.writable(C, N, D, L)


@dataclass(frozen=True, eq=False)
class SizeStepsSurface(Surface):
    """ln L around the middle of the runs, each with the S_min of its own L.

        theta = (alpha_N (ln N_c - m_N), alpha_S (ln S_c - m_S), alpha_N, alpha_S)

    with m_N, m_S the mean ln N and ln S.
    """

    x: Array
    y: Array
    middle: tuple[float, float]
    ratio: Array
    """ln(B_star / B) of the runs."""
    power: float
    """alpha_B."""
    target: Array
    delta: float
    weight: Array
    low: Array
    high: Array
    robust: bool = True
    names: tuple[str, ...] = NAMES

    @classmethod
    def of(cls, runs: Observations, law: KaplanSteps) -> "SizeStepsSurface":
        """The surface over these runs."""
        S = law.inputs(runs)["S"]
        x, y, target = np.log(runs.N), np.log(S), np.log(runs.L)
        middle = (float(x.mean()), float(y.mean()))
        low = [*2 * [target.min() + np.log(1e-6)], *2 * [EXPONENTS[0]]]
        high = [*2 * [target.max() + np.log(10)], *2 * [EXPONENTS[1]]]
        return cls(
            x - middle[0],
            y - middle[1],
            middle,
            np.log(law.B_star * S / runs.D),
            law.alpha_B,
            target,
            law.huber_delta,
            runs.weight,
            np.array(low),
            np.array(high),
        )

    def starts(self) -> Array:
        """The likeliest 16 and 16 spread out, of all exponents in WIDE x WIDE, shape (s, 4).

        Given the exponents and S_min at the measured loss, L is linear in two amplitudes.
        """
        excess = np.logaddexp(0, self.ratio - self.target / self.power)
        u = np.exp(-np.outer(WIDE, self.x) - self.target)
        v = np.exp(-np.outer(WIDE, self.y - excess) - self.target)
        n, s = (index.ravel() for index in np.indices((len(WIDE),) * 2))
        uu, vv, uv = (u**2 @ self.weight)[n], (v**2 @ self.weight)[s], (u * self.weight @ v.T)[n, s]
        us, vs = (u @ self.weight)[n], (v @ self.weight)[s]
        det = uu * vv - uv**2 + 1e-12 * uu * vv
        p, q = (vv * us - uv * vs) / det, (uu * vs - uv * us) / det
        alone = (p <= 0) | (q <= 0)  # one price alone fits best: start with a tenth of the other
        p, q = np.where(alone, 0.9 * us / uu, p), np.where(alone, 0.1 * vs / vv, q)
        theta = np.column_stack([np.log(p), np.log(q), WIDE[n], WIDE[s]])
        misfit = np.abs(p[:, None] * u[n] + q[:, None] * v[s] - 1) @ self.weight
        chosen = np.zeros(len(theta), bool)
        chosen[8::17] = True
        chosen[np.argsort(misfit)[:16]] = True
        return theta[chosen]

    def constants(self, theta: Array) -> dict[str, Array]:
        a, s, alpha_N, alpha_S = theta.T
        N_c, S_c = np.exp(a / alpha_N + self.middle[0]), np.exp(s / alpha_S + self.middle[1])
        return {"N_c": N_c, "S_c": S_c, "alpha_N": alpha_N, "alpha_S": alpha_S}

    def theta(self, constants: Mapping[str, float]) -> Array:
        N_c, S_c, alpha_N, alpha_S = (constants[k] for k in NAMES)
        a = alpha_N * (np.log(N_c) - self.middle[0])
        s = alpha_S * (np.log(S_c) - self.middle[1])
        return np.array([a, s, alpha_N, alpha_S])

    def at(self, theta: Array) -> tuple[Array, Array]:
        a, s, alpha_N, alpha_S = (column[:, None] for column in theta.T)
        small, short = a - alpha_N * self.x, s - alpha_S * self.y
        value, paid, excess = _own_loss(small, short, alpha_S, self.ratio, self.power)
        fall = paid * alpha_S / self.power * -np.expm1(-excess)
        by_size, by_steps = (1 - paid) / (1 + fall), paid / (1 + fall)
        slope = [by_size, by_steps, -by_size * self.x, by_steps * (excess - self.y)]
        return value, np.stack(slope, axis=1)

    def hessian(self, theta: Array, slope: Array, pull: Array) -> Array:
        # With q the logarithm of the second price, of L by S_min, and k the difference of both
        # prices' derivatives: L'' = (share (1 - share) k k + share q'') / (1 + fall), where q''
        # is q's curvature in ln L and alpha_S.
        a, s, alpha_N, alpha_S = (column[:, None] for column in theta.T)
        small, short = a - alpha_N * self.x, s - alpha_S * self.y
        _, paid, excess = _own_loss(small, short, alpha_S, self.ratio, self.power)
        late = -np.expm1(-excess)
        by_loss = -alpha_S * late / self.power
        weight = pull * paid / (1 - paid * by_loss)
        apart = by_loss[:, None] * slope
        apart[:, 0] -= 1
        apart[:, 1] += 1
        apart[:, 2] += self.x
        apart[:, 3] += excess - self.y
        bent = (apart * (weight * (1 - paid))[:, None]) @ apart.transpose(0, 2, 1)
        curved = weight * alpha_S * late * (1 - late) / self.power**2
        bent += (slope * curved[:, None]) @ slope.transpose(0, 2, 1)
        mixed = np.einsum("rn,rpn->rp", weight * late / self.power, slope)
        bent[:, 3] -= mixed
        bent[:, :, 3] -= mixed
        return bent
