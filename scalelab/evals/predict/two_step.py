"""The two curves from compute to accuracy, and their fits.

    step 1   L(C) = E + K (C / C0)^-gamma                    loss of the right answer, nats
         or  L(N, D) = E + A (N / N0)^-alpha + B (D / D0)^-beta
    step 2   acc(L) = b + (top - b) / (1 + exp(k (L - L0)))   falls from top to b as L grows

C0, N0, D0  geometric means of the models that were fitted, so that K, A and B are losses
b           accuracy of a model that knows nothing: never above chance
top         accuracy at no loss: never above 1

Each model counts by its weight; in a replicate, by how often it was drawn. Residuals are in
units of the spread of what is fitted, and all replicates are searched at once (laws/solver.py).

Source: Grattafiori et al. 2024 (Llama 3), section 3.2.1, arXiv:2407.21783 (loss first, then a
sigmoid); Bhagia et al. 2024, arXiv:2412.04403 (step 1 in N and D, and the form of step 2).
Not here: which task can be predicted, and how well (prediction.py).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from typing import Literal

import numpy as np

from scalelab.evals.predict.model_table import ModelTable
from scalelab.laws.base import Convergence
from scalelab.laws.solver import Surface, by_differences, judge, search

Array = np.ndarray
Form = Literal["compute", "size"]
"""Step 1 in training FLOPs alone, or in parameters and tokens."""

FEWEST_FOR_FREE_ENDS = 6
"""Models below which b is held at chance and top at 1: four constants would explain anything."""
FEWEST: Mapping[Form, int] = {"compute": 4, "size": 6}
"""Models below which nothing is fitted: one more than step 1 has constants."""
STEEPEST, FLATTEST = 3.0, 0.005
"""Exponents that are believed."""


@dataclass(frozen=True, eq=False)
class _Common:
    """Fields that laws.fitting asks of a formula."""

    target: Array
    delta: float
    low: Array
    high: Array
    weight: Array
    robust: bool = False


@dataclass(frozen=True, eq=False)
class PowerWithFloor(_Common, Surface):
    """A floor and one power for each column of x (m, n), the logarithms of C, or of N and D."""

    x: Array = None  # type: ignore[assignment]
    centre: Array = None  # type: ignore[assignment]
    """Means of the logarithms, shape (m,)."""

    @classmethod
    def through(cls, x: Array, loss: Array) -> "PowerWithFloor":
        """The formula bound to losses (n,) at x (m, n)."""
        m, spread = len(x), float(np.ptp(loss)) or 1.0
        centre = x.mean(axis=1)
        low = np.array([0.0, *[np.log(1e-6 * spread)] * m, *[FLATTEST] * m])
        high = np.array([loss.min(), *[np.log(100 * loss.max())] * m, *[STEEPEST] * m])
        return cls(loss, spread / 10, low, high, np.ones(len(loss)), x=x, centre=centre)

    @property
    def names(self) -> tuple[str, ...]:  # type: ignore[override]
        """E, then log-coefficients, then exponents."""
        one = len(self.x) == 1
        return ("E", "log K", "gamma") if one else ("E", "log A", "log B", "alpha", "beta")

    def terms(self, theta: Array, x: Array) -> Array:
        """What each power adds at x (m, n), shape (r, m, n)."""
        m = len(self.x)
        size, power = theta[:, 1 : m + 1, None], theta[:, m + 1 :, None]
        return np.exp(size - power * (x - self.centre[:, None]))

    def at(self, theta: Array) -> tuple[Array, Array]:
        """As in laws.fitting."""
        terms = self.terms(theta, self.x)
        slope = np.concatenate(
            [np.ones_like(terms[:, :1]), terms, -terms * (self.x - self.centre[:, None])], axis=1
        )
        return theta[:, :1] + terms.sum(axis=1), slope

    def hessian(self, theta: Array, slope: Array, pull: Array) -> Array:
        """As in laws.fitting."""
        return by_differences(self, theta, pull)

    def starts(self) -> Array:
        """Floors from none to nearly all of the smallest loss, powers from flat to steep."""
        m, least = len(self.x), self.target.min()
        found = []
        for part, *powers in product((0.0, 0.3, 0.6, 0.9), *[(0.05, 0.15, 0.4)] * m):
            rest = np.log(max(self.target.mean() - part * least, 1e-3 * least) / m)
            found.append([part * least, *[rest] * m, *powers])
        return np.array(found)

    def constants(self, theta: Array) -> dict[str, Array]:
        """As in laws.fitting."""
        return dict(zip(self.names, theta.T, strict=True))

    def theta(self, constants: dict[str, float]) -> Array:
        """As in laws.fitting."""
        return np.array([constants[name] for name in self.names])

    def loss(self, theta: Array, x: Array) -> Array:
        """Loss at x (m, j), shape (r, j)."""
        return theta[:, :1] + self.terms(theta, x).sum(axis=1)


@dataclass(frozen=True, eq=False)
class AccuracySigmoid(_Common, Surface):
    """Accuracy as a sigmoid of the loss (n,)."""

    x: Array = None  # type: ignore[assignment]

    names = ("b", "top", "log k", "L0")

    @classmethod
    def through(cls, loss: Array, accuracy: Array, chance: float) -> "AccuracySigmoid":
        """The formula bound to accuracies (n,)."""
        spread = max(float(np.ptp(accuracy)), 0.01)
        width = max(float(np.ptp(loss)), 1e-6)
        is_free = len(loss) >= FEWEST_FOR_FREE_ENDS
        low = np.array(
            [
                0.0 if is_free else chance,
                chance + 0.01 if is_free else 1.0,
                np.log(0.1 / width),
                loss.min() - 5 * width,
            ]
        )
        high = np.array([chance, 1.0, np.log(300 / width), loss.max() + 2 * width])
        return cls(accuracy, spread / 10, low, high, np.ones(len(loss)), x=loss)

    def at(self, theta: Array) -> tuple[Array, Array]:
        """As in laws.fitting."""
        bottom, top, log_k, middle = (theta[:, i : i + 1] for i in range(4))
        k = np.exp(log_k)
        far = k * (self.x - middle)
        known = 1 / (1 + np.exp(np.clip(far, -500, 500)))  # e^500: beyond, a share is 0 or 1
        moving = (top - bottom) * known * (1 - known)
        slope = np.stack([1 - known, known, -moving * far, moving * k], axis=1)
        return bottom + (top - bottom) * known, slope

    def hessian(self, theta: Array, slope: Array, pull: Array) -> Array:
        """As in laws.fitting."""
        return by_differences(self, theta, pull)

    def starts(self) -> Array:
        """Half-way points inside and below the losses that were seen, slow turns and sharp ones."""
        least, width = self.x.min(), max(float(np.ptp(self.x)), 1e-6)
        found = []
        for place, turn, top in product((-1.0, -0.2, 0.2, 0.5, 0.8), (1.0, 4.0, 16.0), (0.6, 1.0)):
            found.append([self.high[0], max(top, self.low[1]), np.log(turn / width), least + place * width])
        return np.array(found)

    def constants(self, theta: Array) -> dict[str, Array]:
        """As in laws.fitting."""
        return dict(zip(self.names, theta.T, strict=True))

    def theta(self, constants: dict[str, float]) -> Array:
        """As in laws.fitting."""
        return np.array([constants[name] for name in self.names])


def coordinates(form: Form, flops: Array, n_params: Array, n_tokens: Array) -> Array:
    """Return the logarithms of the inputs of step 1, shape (1 or 2, n).

    Args:
        form: Form of step 1.
        flops: Training compute of each model, FLOPs, (n,).
        n_params: Parameters of each model, (n,).
        n_tokens: Training tokens of each model, (n,).
    """
    columns = (flops,) if form == "compute" else (n_params, n_tokens)
    return np.log(np.array(columns, float))


@dataclass(frozen=True, eq=False)
class TwoStepFit:
    """Both steps, fitted once or in r replicates. Status: fitted."""

    form: Form
    step1: PowerWithFloor
    step2: AccuracySigmoid
    theta1: Array
    """Shape (r, p)."""
    theta2: Array
    """Shape (r, 4)."""
    solver1: Convergence | None
    """None for replicates."""
    solver2: Convergence | None

    def loss(self, x: Array) -> Array:
        """Task loss at x (m, j), shape (r, j)."""
        return self.step1.loss(self.theta1, x)

    def accuracy(self, x: Array) -> Array:
        """Accuracy at x (m, j), through the loss, shape (r, j)."""
        found = []
        for theta, loss in zip(self.theta2, self.loss(x), strict=True):
            at = AccuracySigmoid(loss, 1.0, self.step2.low, self.step2.high, np.ones(len(loss)), x=loss)
            found.append(at.at(theta[None])[0][0])
        return np.array(found)


def fit(table: ModelTable, form: Form, chance: float) -> TwoStepFit:
    """Both steps through the models, each from every start."""
    x = coordinates(form, table.flops, table.n_params, table.n_tokens)
    step1 = PowerWithFloor.through(x, table.task_loss)
    step2 = AccuracySigmoid.through(table.task_loss, table.accuracy, chance)
    theta1, solver1 = judge(step1, search(step1, step1.starts()))
    theta2, solver2 = judge(step2, search(step2, step2.starts()))
    return TwoStepFit(form, step1, step2, theta1[None], theta2[None], solver1, solver2)


def refit(chain: TwoStepFit, counts: Array) -> TwoStepFit:
    """Both steps again with each model counted as often as it was drawn, counts (r, n).

    Searched from the fit and from two points beside it; the best end of the three is kept.
    """
    return TwoStepFit(
        chain.form,
        chain.step1,
        chain.step2,
        _again(chain.step1, chain.theta1[0], counts),
        _again(chain.step2, chain.theta2[0], counts),
        None,
        None,
    )


def _again(surface: Surface, best: Array, counts: Array) -> Array:
    rng = np.random.default_rng(0)
    beside = [best, *(best + 0.1 * (surface.high - surface.low) * rng.uniform(-1, 1, (2, best.size)))]
    ends = [search(surface, np.tile(start, (len(counts), 1)), lambda i, j: counts[i:j]) for start in beside]
    winner = np.argmin([end.objective for end in ends], axis=0)
    return np.array([ends[w].theta[i] for i, w in enumerate(winner)])
