"""The Chinchilla law: a floor, a price for being small, a price for seeing little.

    L(N, D) = E + A / N^alpha + B / D^beta
    N*(C) = G (C/6)^a,  D*(C) = (C/6)^b / G,  a = beta / (alpha + beta),  b = alpha / (alpha + beta)
    G = (alpha A / (beta B))^(1 / (alpha + beta))

L  validation loss, nats per token
N  parameters; D  training tokens, each counted once; C  training FLOPs

The optimum above holds for C = 6 N D. Where runs spent otherwise, it is found on their own
relation of FLOPs per token to N (tokencost.py), and the fit says so.

Source: Hoffmann et al. 2022, Approach 3 and eq. 4, arXiv:2203.15556. Their published constants
came from an optimiser that stopped early (Besiroglu et al. 2024, arXiv:2404.10102): fitting.py.
"""

from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from scalelab.errors import FitError
from scalelab.laws import fitting
from scalelab.laws.base import Array, Law, LawFit, Observations, Optimum, Replicates, Solver
from scalelab.laws.interval import resampled_counts
from scalelab.laws.tokencost import TokenCost

NAMES = ("E", "A", "B", "alpha", "beta")


@dataclass(frozen=True)
class Chinchilla(Law):
    """Three-term power law, fitted by a Huber penalty on log-loss."""

    formula = "L = E + A / N^alpha + B / D^beta"

    huber_delta: float = 1e-3
    """Miss, as a share of the loss, beyond which a run pulls no harder."""

    def fit(self, runs: Observations) -> "ChinchillaFit":
        self._refuse_hopeless(runs)
        cost = TokenCost.of(runs)
        surface = _Surface.of(runs, self.huber_delta)
        theta, solver = fitting.judge(surface, fitting.search(surface, surface.starts()))
        weights = np.ones((1, len(runs)))
        objective = fitting.look(surface, theta[None], weights).objective[0]
        scaled = float(objective) * self.huber_delta**2
        return ChinchillaFit(self, runs, surface, theta, scaled, solver, cost)

    def _refuse_hopeless(self, runs: Observations) -> None:
        if len(runs) < 6:
            raise FitError(
                f"{len(runs)} runs cannot pin down 5 constants",
                where="the runs handed to the Chinchilla law",
                fix="finish at least 6 runs; several budgets of 5 or more sizes are better",
            )
        for symbol in "ND":
            low, high = getattr(runs, symbol).min(), getattr(runs, symbol).max()
            if high < 2 * low:
                raise FitError(
                    f"{symbol} spans only {high / low:.2f}x, too little to see a slope",
                    where=f"{symbol} from {low:.4g} to {high:.4g}",
                    fix=f"add runs that vary {symbol} at least 2x while the other stays put",
                )
        n, d = np.log(runs.N), np.log(runs.D)
        if abs(np.corrcoef(n, d)[0, 1]) > 1 - 1e-6:
            raise FitError(
                "N and D move together in every run, so their prices cannot be told apart",
                where="D is one power of N in the whole table",
                fix="add runs that vary one of N and D while the other stays put",
            )


@dataclass(frozen=True, eq=False)
class ChinchillaFit(LawFit):
    """The fitted surface."""

    law: Chinchilla
    runs: Observations
    surface: "_Surface"
    theta: Array
    objective: float
    solver: Solver
    cost: TokenCost

    @property
    def params(self) -> dict[str, float]:
        """E, A, B, alpha, beta."""
        return {k: float(v[0]) for k, v in self.surface.constants(self.theta[None]).items()}

    @property
    def exponents(self) -> dict[str, float]:
        """The exponents of N* and D*, for C = 6 N D."""
        found = _with_exponents(self.params)
        return {"a": found["a"], "b": found["b"]}

    @property
    def miss(self) -> float:
        """Median absolute miss over the runs, as a share of the loss."""
        here = self.surface.value(self.theta[None])[0] - self.surface.log_loss
        return float(np.median(np.abs(np.expm1(here))))

    @property
    def warnings(self) -> tuple[str, ...]:
        """Why the constants may mean less than they seem to."""
        found = []
        if not self.solver.converged:
            found.append(
                f"the search did not converge: gradient {self.solver.gradient_norm:.1e}, "
                f"{self.solver.agreement:.0%} of starts agree"
            )
        elif self.solver.agreement < 0.5:
            found.append(f"only {self.solver.agreement:.0%} of starts agree on the optimum")
        if self.solver.at_bound:
            found.append(
                f"{', '.join(self.solver.at_bound)} stopped at the edge of the search: "
                "the runs do not determine it"
            )
        if self.cost.miss > 0.05:
            found.append(f"FLOPs per token are described only within {self.cost.miss:.0%}")
        return tuple(found)

    @property
    def evidence_end(self) -> float:
        return self.runs.largest_budget

    def predict(self, N: Array, D: Array) -> Array:
        E, A, B, alpha, beta = (self.params[k] for k in NAMES)
        return E + A / np.asarray(N) ** alpha + B / np.asarray(D) ** beta

    def optimum(self, C: Array | float) -> Optimum:
        return optimum(self.params, np.asarray(C, float), self.cost)

    def frontiers(self, C: float) -> dict[str, float]:
        return {"surface": float(self.optimum(C).L)}

    def replicates(self, count: int, seed: int) -> Replicates:
        counts = resampled_counts(self.runs, count, seed)
        starts = np.tile(self.theta, (count, 1))
        ends = fitting.search(self.surface, starts, counts)
        good = ends.at_rest
        values = _with_exponents(self.surface.constants(ends.theta[good]))
        clustered = len(np.unique(self.runs.group)) < len(self.runs)
        unit = "group" if clustered else "run"
        return Replicates(
            asked=count,
            failed=int(np.sum(~good)),
            unit=f"{unit} within budget" if self.runs.budgets.size else unit,
            values=values,
            optimum=lambda C: optimum(values, np.full(int(good.sum()), float(C)), self.cost),
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "params": self.params,
            "objective": self.objective,
            "solver": self.solver.to_json(),
            "exponents": self.exponents,
            "median_abs_rel_miss": self.miss,
            "flops_per_token": str(self.cost),
            "warnings": list(self.warnings),
        }


def optimum(params: dict[str, Any], C: Array, cost: TokenCost) -> Optimum:
    """The compute-optimal point of surfaces with these constants; broadcasts.

    Along a budget D = C / f(N), the optimum is where the two prices of a relative change in N
    balance: alpha A / N^alpha = s beta B / D^beta, with s = d ln f / d ln N. For f = 6 N that is
    Hoffmann et al. eq. 4, from which Newton's method starts; the balance falls steadily in
    ln N, so it has one root. Where that is beyond what floating point holds (a price that hardly
    depends on size), every answer is NaN.
    """
    with np.errstate(all="ignore"):
        return _root(params, C, cost)


def _root(params: dict[str, Any], C: Array, cost: TokenCost) -> Optimum:
    E, A, B, alpha, beta = (np.asarray(params[k]) for k in NAMES)
    ln_G = np.log(alpha * A / (beta * B)) / (alpha + beta)
    x = ln_G + beta / (alpha + beta) * np.log(C / 6)
    for _ in range(60):
        N, s = np.exp(x), cost.slope(np.exp(x))
        balance = np.log(alpha * A / (beta * B * s)) - alpha * x + beta * np.log(C / cost(N))
        step = balance / (alpha + beta * s)
        x = x + step
        if not np.any(np.abs(step) > 1e-13 * np.abs(x)):  # NaN stops too
            break
    N = np.exp(x)
    D = C / cost(N)
    L = E + A / N**alpha + B / D**beta
    held = np.isfinite(L) & (N > 1e-100) & (D > 1e-100) & (N < 1e100) & (D < 1e100)
    return Optimum(np.asarray(C), *(np.where(held, value, np.nan)[()] for value in (N, D, L)))


def _with_exponents(constants: dict[str, Any]) -> dict[str, Any]:
    alpha, beta = constants["alpha"], constants["beta"]
    return {**constants, "a": beta / (alpha + beta), "b": alpha / (alpha + beta)}


@dataclass(frozen=True, eq=False)
class _Surface:
    """ln L as a log-sum-exp of three lines, around the middle of the runs.

        theta = (ln E, ln A - alpha m_N, ln B - beta m_D, alpha, beta)

    with m_N, m_D the mean ln N and ln D: there alpha and ln A are nearly independent, where at
    N = 1 their correlation is .999 and Newton's method would lose half its digits.
    """

    x: Array
    y: Array
    middle: tuple[float, float]
    log_loss: Array
    delta: float
    low: Array
    high: Array
    names: tuple[str, ...] = NAMES

    @classmethod
    def of(cls, runs: Observations, delta: float) -> "_Surface":
        x, y, log_loss = np.log(runs.N), np.log(runs.D), np.log(runs.L)
        least, most = log_loss.min(), log_loss.max()
        # Wide enough to hold any shape worth the name; whoever ends on them is reported.
        low = [least + np.log(1e-4), least + np.log(1e-6), least + np.log(1e-6), 0.01, 0.01]
        high = [least, most + np.log(10), most + np.log(10), 3.0, 3.0]
        middle = (float(x.mean()), float(y.mean()))
        return cls(
            x - middle[0], y - middle[1], middle, log_loss, delta, np.array(low), np.array(high)
        )

    def starts(self) -> Array:
        """Floors and exponents on a wide grid; the two amplitudes that fit them best, (s, 5)."""
        L = np.exp(self.log_loss)
        found = []
        for share, alpha, beta in product((0.05, 0.4, 0.7, 0.95), *2 * [(0.1, 0.2, 0.4, 0.7, 1.2)]):
            E = share * L.min()
            terms = np.stack([np.exp(-alpha * self.x), np.exp(-beta * self.y)], axis=1)
            A, B = np.linalg.lstsq(terms, L - E, rcond=None)[0]
            A, B = np.maximum([A, B], 0.02 * (L.mean() - E))
            found.append([np.log(E), np.log(A), np.log(B), alpha, beta])
        return np.array(found)

    def constants(self, theta: Array) -> dict[str, Array]:
        """E, A, B, alpha, beta, each of shape (r,)."""
        e, a, b, alpha, beta = theta.T
        A, B = np.exp(a + alpha * self.middle[0]), np.exp(b + beta * self.middle[1])
        return {"E": np.exp(e), "A": A, "B": B, "alpha": alpha, "beta": beta}

    def _terms(self, theta: Array) -> tuple[Array, Array, Array]:
        e, a, b, alpha, beta = (column[:, None] for column in theta.T)
        return np.exp(e), np.exp(a - alpha * self.x), np.exp(b - beta * self.y)

    def value(self, theta: Array) -> Array:
        floor, small, little = self._terms(theta)
        return np.log(floor + small + little)

    def slope(self, theta: Array) -> Array:
        floor, small, little = self._terms(theta)
        whole = floor + small + little
        small, little = small / whole, little / whole
        return np.stack([floor / whole, small, little, -small * self.x, -little * self.y], axis=1)

    def bend(self, theta: Array, pull: Array) -> Array:
        slope = self.slope(theta)
        floor, small, little = (slope[:, k] * pull for k in range(3))
        bent = -(slope * pull[:, None]) @ slope.transpose(0, 2, 1)
        bent[:, 0, 0] += floor.sum(1)
        for share, line, i, j in ((small, self.x, 1, 3), (little, self.y, 2, 4)):
            first = share @ line
            bent[:, i, i] += share.sum(1)
            bent[:, i, j] -= first
            bent[:, j, i] -= first
            bent[:, j, j] += share @ line**2
        return bent
