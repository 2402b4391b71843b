"""Farseer's law: the price of little data falls with a power that itself depends on size.

    L(N, D) = exp(S + s (N)_q) + exp(Q + B (N)_beta) D^(-exp(R + A (N)_alpha))
    (N)_q = ((N / 1e9)^q - 1) / q, and ln(N / 1e9) at q = 0

L  validation loss, nats per token
N  parameters; D  training tokens, each counted once
exp(S), exp(R)  at 1e9 parameters: loss with data without end, and exponent of D

The source writes s N^q + S, B N^b + Q and A N^a + E. That is the same law: its s is s 1e9^-q / q
here and its S is S - s / q, and likewise for the other two. Those constants diverge as a power
approaches 0 (two of the three powers are .05 and .008 on the authors' own runs); the ones used here
stay finite. Its E is called R, because E is the floor of the loss in every other law and this one
need not have a floor.

The law has no optimum. It describes the loss of runs well and the compute-optimal size badly:
measured on public tables, at more than ten times the compute in evidence, ln N* is off by .33 on the
authors' own runs and by 3.4 on those of Hoffmann et al., against .13 and 1.0 for the Chinchilla law.

Nine constants need many runs: the law is refused below LEAST_RUNS different runs or LEAST_SIZES
sizes.

Source: Li et al. 2025, arXiv:2506.10972; here all constants are fitted at once, by a Huber penalty
on log-loss.

Not here: a law for the allocation of compute (chinchilla.py), whose fit the search starts from.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.polynomial.polynomial import polyval

from scalelab.errors import FitError
from scalelab.laws import solver
from scalelab.laws.forms.chinchilla import ThreeTermSurface
from scalelab.laws.formula import HUBER_DELTA, Formula
from scalelab.laws.observations import Array, Observations
from scalelab.laws.solver import Surface

NAMES = ("S", "s", "q", "Q", "B", "beta", "R", "A", "alpha")
LEAST_RUNS, LEAST_SIZES = 60, 6
UNIT = 1e9  # parameters; the size at which S, Q and R are read
SERIES = 0.01  # |q n| below which a Box-Cox power is summed from its series


@dataclass(frozen=True)
class Farseer(Formula):
    """A size term and a data term whose exponent depends on size, fitted by a Huber penalty on log-loss."""

    formula = (
        "L = exp(S + s (N)_q) + exp(Q + B (N)_beta) D^(-exp(R + A (N)_alpha)), (N)_q = ((N / 1e9)^q - 1) / q"
    )
    source = "Li et al. 2025, arXiv:2506.10972"
    names = NAMES
    signed = frozenset(NAMES)
    uses = ("N", "D")
    least_runs = LEAST_RUNS
    published = {
        "S": -0.80633805587,
        "s": -0.11164252164,
        "q": 0.050886350839,
        "Q": 4.6422599710,
        "B": -0.83435807373,
        "beta": -0.16755900132,
        "R": -1.2178567921,
        "A": -0.15700327795,
        "alpha": 0.0078784803951,
    }
    """The optimum on the authors' 404 smaller runs, in the unit of their loss; not printed."""

    huber_delta: float = HUBER_DELTA
    """Error of ln L beyond which the weight of a run stops growing."""

    def loss(self, params: Mapping[str, Any], **inputs: Array) -> Array:
        S, s, q, Q, B, beta, R, A, alpha = (params[k] for k in NAMES)
        x, D = np.log(np.asarray(inputs["N"], float) / UNIT), inputs["D"]
        size, data, bent = (power(x, np.asarray(p, float))[0] for p in (q, beta, alpha))
        return np.exp(S + s * size) + np.exp(Q + B * data) * D ** -np.exp(R + A * bent)

    def bind(self, runs: Observations) -> "FarseerSurface":
        different = len(np.unique(np.stack([runs.N, runs.D]), axis=1).T)
        sizes = len(np.unique(runs.N))
        if different < LEAST_RUNS or sizes < LEAST_SIZES:
            raise FitError(
                f"{different} runs of different N and D at {sizes} sizes cannot pin down the 9 constants of the "
                f"Farseer law, which needs {LEAST_RUNS} at {LEAST_SIZES} sizes",
                where=f"the {len(runs)} runs handed to the Farseer law",
                fix="add runs, or fit a law of fewer constants, such as chinchilla",
            )
        return FarseerSurface.of(runs, self.huber_delta)

    def caveats(self, runs: Observations, params: Mapping[str, float]) -> tuple[str, ...]:
        return ("it predicts the loss of runs; its N* is known to be wrong, so it allots no compute",)


def power(n: Array, q: Array) -> tuple[Array, Array, Array]:
    """The Box-Cox power (e^(q n) - 1) / q, n at q = 0, and its two derivatives by q; broadcasts."""
    n, q = np.broadcast_arrays(n, q)
    x = q * n
    near = np.abs(x) < SERIES
    y, over = np.where(near, x, 0.0), np.where(near, 1.0, q)
    grown = np.exp(np.clip(x, -700, 700))
    value = np.expm1(np.clip(x, -700, 700)) / over
    first = (n * grown - value) / over
    second = (n**2 * grown - 2 * first) / over
    # n sum x^k / (k + 1)!, and its terms derived by q
    return (
        np.where(near, n * polyval(y, [1, 1 / 2, 1 / 6, 1 / 24, 1 / 120, 1 / 720]), value),
        np.where(near, n**2 * polyval(y, [1 / 2, 1 / 3, 1 / 8, 1 / 30, 1 / 144, 1 / 840]), first),
        np.where(near, n**3 * polyval(y, [1 / 3, 1 / 4, 1 / 10, 1 / 36, 1 / 168, 1 / 960]), second),
    )


@dataclass(frozen=True, eq=False)
class FarseerSurface(Surface):
    """ln L around the middle of the runs, n = ln N - m_N and d = ln D - m_D.

        theta = (S', s', q, Q', B', beta, r, A', alpha),  (n)_q = (e^(q n) - 1) / q
        L = exp(S' + s' (n)_q) + exp(Q' + B' (n)_beta - g d + e^r m_D (A' (n)_beta - expm1(A' (n)_alpha)))
        g = exp(r + A' (n)_alpha)

    A power N^q and its two constants trade off along a ridge without end as q falls to 0; in a
    Box-Cox power level, slope and q are nearly independent, and q = 0 is a point like any other. The
    term in m_D makes Q' and B' level and slope of the data term at the middle of the runs, whatever
    the exponent is.
    """

    n: Array
    """Different n, shape (m,): the powers are of sizes, of which there are few."""
    size: Array
    """Which of them each run has, shape (n,)."""
    d: Array
    middle: tuple[float, float]
    free: ThreeTermSurface
    """The Chinchilla surface of the same runs, for the starts."""
    target: Array
    delta: float
    weight: Array
    low: Array
    high: Array
    robust: bool = True
    names: tuple[str, ...] = NAMES

    @classmethod
    def of(cls, runs: Observations, delta: float) -> "FarseerSurface":
        """The surface over these runs."""
        free = ThreeTermSurface.of(runs, delta, robust=True)
        least, most = free.target.min(), free.target.max()
        low = [least + np.log(1e-3), -3, -1, least + np.log(1e-6), -3, -1, -4, -2, -1]
        high = [most + np.log(10), 0.5, 1, most + np.log(10), 2, 1, 1, 2, 1]
        ends = np.array(low, float), np.array(high, float)
        n, size = np.unique(free.x, return_inverse=True)
        return cls(n, size, free.y, free.middle, free, free.target, delta, runs.weight, *ends)

    def starts(self) -> Array:
        """24 ways to bend the Chinchilla surface through these runs, shape (24, 9)."""
        ends = solver.search(self.free, self.free.starts())
        E, a, b, alpha, beta = ends.theta[np.argmin(ends.objective)]
        size = E + np.exp(a)
        slope = -alpha * np.exp(a) / size
        found = [
            [np.log(size), k * slope, q, b, 0.0, p, np.log(k * beta), A, 0.05]
            for k, q, p, A in product((0.7, 1.4), (-0.3, 0.01, 0.2), (-0.1, 0.1), (-0.05, 0.05))
        ]
        return np.array(found)

    def constants(self, theta: Array) -> dict[str, Array]:
        S, s, q, Q, B, beta, r, A, alpha = theta.T
        m_D, price = self.middle[1], np.exp(r)
        S, s = self._read_at(S, s, q, self._unit)
        Q, B = self._read_at(Q + price * m_D, B + A * price * m_D, beta, self._unit)
        R, A = self._read_at(r, A, alpha, self._unit)
        return dict(zip(NAMES, (S, s, q, Q, B, beta, R, A, alpha), strict=True))

    def theta(self, constants: Mapping[str, float]) -> Array:
        S, s, q, Q, B, beta, R, A, alpha = (np.asarray(constants[k], float) for k in NAMES)
        m_D = self.middle[1]
        S, s = self._read_at(S, s, q, -self._unit)
        Q, B = self._read_at(Q, B, beta, -self._unit)
        r, A = self._read_at(R, A, alpha, -self._unit)
        price = np.exp(r)
        return np.array([S, s, q, Q - price * m_D, B - A * price * m_D, beta, r, A, alpha])

    @property
    def _unit(self) -> float:
        """Place of UNIT parameters on the axis of n."""
        return float(np.log(UNIT)) - self.middle[0]

    @staticmethod
    def _read_at(level: Array, slope: Array, q: Array, n: float) -> tuple[Array, Array]:
        """Level and slope of a Box-Cox curve around a point n away from its middle."""
        return level + slope * power(np.full_like(q, n), q)[0], slope * np.exp(q * n)

    def _terms(self, theta: Array) -> tuple[Array, ...]:
        """Coordinates and powers of n, with the exponent of D and what it multiplies."""
        columns = [column[:, None] for column in theta.T]
        _, _, q, _, _, beta, r, A, alpha = columns
        sizes, data, bent = ([x[:, self.size] for x in power(self.n, p)] for p in (q, beta, alpha))
        price = np.exp(r)
        exponent = price * np.exp(np.clip(A * bent[0], -50, 5))
        return (*columns, sizes, data, bent, price, exponent)

    def _parts(self, theta: Array) -> tuple[Array, Array, Array, Array]:
        """The log-loss, the share of the size term, and the slopes of both terms' logarithms, (r, p, n)."""
        S, s, q, Q, B, beta, r, A, alpha, sizes, data, bent, price, exponent = self._terms(theta)
        del q, beta, r, alpha
        m_D, tokens = self.middle[1], self.d + self.middle[1]
        steep = B + A * price * m_D
        first = np.clip(S + s * sizes[0], -200, 200)
        apart = A * data[0] - np.expm1(np.clip(A * bent[0], -50, 5))
        second = np.clip(Q + B * data[0] - exponent * self.d + price * m_D * apart, -200, 200)
        value = np.logaddexp(first, second)
        by_size, by_data = np.zeros((2, len(theta), 9, len(self.d)))
        by_size[:, 0], by_size[:, 1], by_size[:, 2] = 1, sizes[0], s * sizes[1]
        by_data[:, 3], by_data[:, 4], by_data[:, 5] = 1, data[0], steep * data[1]
        by_data[:, 6] = price * m_D * (A * data[0] + 1) - exponent * tokens
        by_data[:, 7] = price * m_D * data[0] - exponent * bent[0] * tokens
        by_data[:, 8] = -exponent * A * bent[1] * tokens
        return value, np.exp(first - value), by_size, by_data

    def at(self, theta: Array) -> tuple[Array, Array]:
        value, share, by_size, by_data = self._parts(theta)
        share = share[:, None]
        return value, share * by_size + (1 - share) * by_data

    def hessian(self, theta: Array, slope: Array, pull: Array) -> Array:
        # Of ln(U + V) with shares u and v: u U'' + v V'' + u v (U' - V')(U' - V')', of logarithms.
        _, s, _, _, B, _, _, A, _, sizes, data, bent, price, exponent = self._terms(theta)
        m_D, tokens = self.middle[1], self.d + self.middle[1]
        _, share, by_size, by_data = self._parts(theta)
        apart = by_size - by_data
        found = (apart * (pull * share * (1 - share))[:, None]) @ apart.transpose(0, 2, 1)
        u, v = pull * share, pull * (1 - share)
        steep, paid = B + A * price * m_D, exponent * tokens
        second = {
            (1, 2): u * sizes[1],
            (2, 2): u * s * sizes[2],
            (4, 5): v * data[1],
            (5, 5): v * steep * data[2],
            (5, 6): v * A * price * m_D * data[1],
            (5, 7): v * price * m_D * data[1],
            (6, 6): v * by_data[:, 6],
            (6, 7): v * by_data[:, 7],
            (6, 8): v * by_data[:, 8],
            (7, 7): -v * paid * bent[0] ** 2,
            (7, 8): -v * paid * bent[1] * (1 + A * bent[0]),
            (8, 8): -v * paid * A * (bent[2] + A * bent[1] ** 2),
        }
        for (i, j), each in second.items():
            total = each.sum(axis=1)
            found[:, i, j] += total
            if i != j:
                found[:, j, i] += total
        return found
