"""A bounded law of repeated data: a large model that sees its text too often overfits, up to a limit.

    L = E + (L0 - E) h / (1 + h),   h = A / N^alpha + B / D^beta + K N^gamma / U^delta

L  validation loss, nats per token; E its floor, L0 its ceiling: what no size, data or overfitting
   goes below or above
N  parameters; D  training tokens seen; U  unique tokens among them; D / U epochs
K  what a parameter costs that the unique tokens do not determine

In the source D is T, U is D, and A, B, K are a, b, c. For small h this is E plus the three prices, of
which the first two are those of the Chinchilla law; for large h the loss approaches L0, where an
unbounded sum would run away. Unlike the law of repeated.py it lets the loss rise again as the same
text is read by larger models, and repeating in itself costs nothing: D counts every token seen.

No optimum is given: the best N for C = 6 N D depends on the unique tokens, which a budget does not
state, and for U = D it is no power of C.

Source: arXiv:2605.09189, as quoted by others (the paper itself was not read), hence no published
constants of its own: the ones in this file were fitted here.

Not here: a repetition that is worth less than new text (repeated.py).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from scalelab.errors import FitError
from scalelab.laws.columns import UNIQUE_TOKENS
from scalelab.laws.formula import HUBER_DELTA, Formula
from scalelab.laws.observations import Array, Observations
from scalelab.laws.solver import Surface

NAMES = ("E", "L0", "A", "alpha", "B", "beta", "K", "gamma", "delta")
EXPONENTS = (0.01, 4.0)
AGAIN = 1.01  # epochs from which on something is repeated
CEILING = 20.0  # times the highest loss: an L0 beyond it is not determined
LOWEST = 3.0  # L0 - E is at least the range of the losses over this; a few runs may lie above L0
ABOVE = 0.02  # share of the loss by which a run is above L0


@dataclass(frozen=True)
class Bounded(Formula):
    """Three prices of size, data and overfitting below a ceiling, fitted by a Huber penalty on log-loss."""

    formula = "L = E + (L0 - E) h / (1 + h), h = A / N^alpha + B / D^beta + K N^gamma / U^delta"
    source = "arXiv:2605.09189"
    names = NAMES
    columns = (UNIQUE_TOKENS,)
    uses = ("N", "D", "U")
    steady = ("U",)  # one corpus, read by models of several sizes, is enough
    published = {
        "E": 2.034810,
        "L0": 8.193296,
        "A": 251.2006,
        "alpha": 0.3668623,
        "B": 1.190183e10,
        "beta": 1.1712798,
        "K": 0.2402706,
        "gamma": 1.1443156,
        "delta": 1.2133196,
    }
    """Fitted here to the 296 runs of Muennighoff et al. 2023, arXiv:2305.16264; not the source's."""

    huber_delta: float = HUBER_DELTA
    """Error of ln L beyond which the weight of a run stops growing."""

    def loss(self, params: Mapping[str, Any], **inputs: Array) -> Array:
        E, L0, A, alpha, B, beta, K, gamma, delta = (params[k] for k in NAMES)
        N, D, U = (np.asarray(inputs[k], float) for k in "NDU")
        h = A / N**alpha + B / D**beta + K * N**gamma / U**delta
        return E + (L0 - E) * h / (1 + h)

    def unstated(self, N: Array, D: Array) -> dict[str, Array]:
        return {"U": D}  # every token new

    def bind(self, runs: Observations) -> "BoundedSurface":
        epochs = runs.D / self.inputs(runs)["U"]
        if epochs.max() < AGAIN:
            raise FitError(
                "no run sees a token twice, so the prices of overfitting and of little data cannot be separated",
                where=f"n_tokens / n_tokens_unique is at most {epochs.max():.3g}",
                fix="add runs of several epochs (n_tokens_unique below n_tokens), or fit the chinchilla law",
            )
        return BoundedSurface.of(runs, self.huber_delta)

    def caveats(self, runs: Observations, params: Mapping[str, float]) -> tuple[str, ...]:
        found = ["it allots no compute: its best size depends on the unique tokens"]
        over = int(np.sum(params["L0"] * (1 + ABOVE) < runs.L))
        if over:
            found.append(
                f"{over} of {len(runs)} runs end over {ABOVE:.0%} above the ceiling L0 = {params['L0']:.3g}: "
                "the law describes none of these"
            )
        return tuple(found)


@dataclass(frozen=True, eq=False)
class BoundedSurface(Surface):
    """ln L around the middle of the runs, with n, d and w their ln N, ln D and ln U less the means.

        theta = (E, u, a, alpha, b, beta, k, gamma, delta)
        L = E + H / (1 + u H),   H = e^(a - alpha n) + e^(b - beta d) + e^(k + gamma n - delta w)

    with u = 1 / (L0 - E) and H = h / u. Where the runs stay far below the ceiling, A, B, K and L0 - E
    are known as products only, and u = 0 is an ordinary point: the law without a ceiling.
    """

    n: Array
    d: Array
    w: Array
    middle: tuple[float, float, float]
    target: Array
    delta: float
    weight: Array
    low: Array
    high: Array
    robust: bool = True
    names: tuple[str, ...] = NAMES

    @classmethod
    def of(cls, runs: Observations, delta: float) -> "BoundedSurface":
        """The surface over these runs."""
        logs = [np.log(x) for x in (runs.N, runs.D, UNIQUE_TOKENS.read(runs, "Bounded"))]
        middle = tuple(float(x.mean()) for x in logs)
        n, d, w = (x - m for x, m in zip(logs, middle, strict=True))
        least, most = runs.L.min(), runs.L.max()
        faint, all_of_it = np.log(1e-8 * least), np.log(1e3 * most)
        price_low, price_high = [faint, EXPONENTS[0]], [all_of_it, EXPONENTS[1]]
        low = [1e-4 * least, 1 / (CEILING * most), *2 * price_low, *price_low, EXPONENTS[0]]
        high = [least, LOWEST / (most - least), *2 * price_high, *price_high, EXPONENTS[1]]
        ends = np.array(low, float), np.array(high, float)
        return cls(n, d, w, middle, np.log(runs.L), delta, runs.weight, *ends)

    def starts(self) -> Array:
        """Floors, ceilings and exponents with the best prices for them, shape (96, 9).

        Given those, H = (L - E) / (1 - u (L - E)) is linear in the three prices.
        """
        L = np.exp(self.target)
        found = []
        for share, height, (alpha, beta), (gamma, delta) in product(
            (0.3, 0.6, 0.85), (1.3, 4.0), ((0.3, 0.3), (0.15, 0.3), (0.4, 0.6), (0.6, 0.4)), _OVERFITTING
        ):
            E = share * L.min()
            u = 1 / (height * L.max() - E)
            H = (L - E) / (1 - u * (L - E))
            terms = np.exp([-alpha * self.n, -beta * self.d, gamma * self.n - delta * self.w]) / H
            each = np.sqrt(self.weight)
            prices, *_ = np.linalg.lstsq((terms * each).T, each)
            prices = np.log(np.maximum(prices, 0.02 / np.median(terms, axis=1)))
            found.append([E, u, prices[0], alpha, prices[1], beta, prices[2], gamma, delta])
        return np.array(found)

    def constants(self, theta: Array) -> dict[str, Array]:
        E, u, a, alpha, b, beta, k, gamma, delta = theta.T
        n, d, w = self.middle
        prices = (u * np.exp(x) for x in (a + alpha * n, b + beta * d, k - gamma * n + delta * w))
        A, B, K = prices
        return dict(zip(NAMES, (E, E + 1 / u, A, alpha, B, beta, K, gamma, delta), strict=True))

    def theta(self, constants: Mapping[str, float]) -> Array:
        E, L0, A, alpha, B, beta, K, gamma, delta = (constants[k] for k in NAMES)
        n, d, w = self.middle
        a, b, k = (np.log(x * (L0 - E)) for x in (A, B, K))
        return np.array(
            [
                E,
                1 / (L0 - E),
                a - alpha * n,
                alpha,
                b - beta * d,
                beta,
                k + gamma * n - delta * w,
                gamma,
                delta,
            ]
        )

    def _parts(self, theta: Array) -> tuple[Array, Array, Array, Array]:
        """E, u, H and its slope by a to delta, (r, 7, n)."""
        E, u, a, alpha, b, beta, k, gamma, delta = (column[:, None] for column in theta.T)
        small, little, over = (
            np.exp(np.clip(x, -200, 200))
            for x in (a - alpha * self.n, b - beta * self.d, k + gamma * self.n - delta * self.w)
        )
        slope = [small, -small * self.n, little, -little * self.d, over, over * self.n, -over * self.w]
        return E, u, small + little + over, np.stack(slope, axis=1)

    def at(self, theta: Array) -> tuple[Array, Array]:
        E, u, H, by = self._parts(theta)
        full = 1 + u * H
        L = E + H / full
        slope = np.empty((len(theta), 9, len(self.n)))
        slope[:, 0], slope[:, 1] = 1 / L, -((H / full) ** 2) / L
        slope[:, 2:] = by / (full**2 * L)[:, None]
        return np.log(L), slope

    def hessian(self, theta: Array, slope: Array, pull: Array) -> Array:
        E, u, H, by = self._parts(theta)
        full = 1 + u * H
        weight = pull / (E + H / full)
        found = -(slope * pull[:, None]) @ slope.transpose(0, 2, 1)
        found[:, 1, 1] += np.sum(weight * 2 * (H / full) ** 3, axis=1)
        mixed = (by @ (weight * -2 * H / full**3)[:, :, None])[:, :, 0]
        found[:, 1, 2:] += mixed
        found[:, 2:, 1] += mixed
        found[:, 2:, 2:] += (by * (weight * -2 * u / full**3)[:, None]) @ by.transpose(0, 2, 1)
        # Each price is e^(line), so its second derivatives are products of what its exponent holds.
        within = weight / full**2
        for first, lines in ((0, (1, -self.n)), (2, (1, -self.d)), (4, (1, self.n, -self.w))):
            price = by[:, first] * within
            for i, one in enumerate(lines):
                for j, other in enumerate(lines):
                    found[:, 2 + first + i, 2 + first + j] += np.sum(price * one * other, axis=1)
        return found


_OVERFITTING = ((0.3, 0.5), (0.6, 1.0), (1.0, 1.0), (1.0, 2.0))
"""gamma and delta of the starts."""
