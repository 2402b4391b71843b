"""One law for two recipes: shared floor and exponents, and how much compute the second is worth.

    L_i(N, C) = E + [P^(1/k) + Q^(1/k)]^k m_i(C)^-gamma
    P = A (N / t_i)^-alpha,  Q = B (t_i C / 6 N)^-beta,  gamma = alpha beta / (alpha + beta)
    ln m(C) = mu + s (ln C - ln C_0);   m = t = 1 for the baseline

so the optimum of the second recipe at C FLOPs has the loss of the baseline's at m(C) C FLOPs:

    L*(C) = E + K (m(C) C)^-gamma,   exponent of its frontier: gamma (1 + s)
    ln N*(C) = ln t + [ln A - ln B + beta ln(C / 6) - k ln(beta / alpha)] / (alpha + beta)

E, A, B, alpha, beta  shared constants; L loss; N parameters; C training FLOPs as counted
k  softness, shared: 1 is the Chinchilla law; held at the mean of its prior where no sizes vary at equal compute
m  compute multiplier: above 1, the second recipe needs less compute for the same loss
s  its trend, per ln C; 0 where the compute range cannot show one, or where it is assumed
t  best size of the second recipe over that of the baseline; 1 where sizes do not vary at equal compute

The law is written in N and C, with C / 6 N for tokens: a recipe that spends more FLOPs per token pays for them,
and the frontier is exact for the FLOPs of the runs. Weak priors (PRIOR, assumed) hold the shared constants and t
where the runs do not; mu and s have none.

Source: compute multipliers with a common floor and exponent, Davidson et al. 2023, arXiv:2312.07413; shared
exponents with one rescaling a recipe, Volkova et al. 2026, arXiv:2602.07712; the surface, arXiv:2608.07222.

Not here: what is drawn again (redrawing.py), the decision (verdict.py), laws of one recipe (laws/).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from scalelab.errors import FitError
from scalelab.laws.base import Optimum
from scalelab.laws.levenberg import LevenbergEnds, Prior, descend
from scalelab.laws.observations import Array, Observations

NAMES = ("floor", "a", "b", "ln_alpha", "ln_beta", "ln_k", "mu", "s", "ln_t")
FLOOR, A, B, ALPHA, BETA, SOFTNESS, MU, TREND, SIZE = range(len(NAMES))
PRIOR = {
    "floor": (0.6, 1.2),
    "a - b": (0.0, 1.0),
    "ln_alpha": (np.log(0.35), 0.35),
    "ln_beta": (np.log(0.35), 0.35),
    "ln_k": (np.log(0.7), 0.7),
    "ln_t": (0.0, 0.5),
}
"""Mean and standard deviation of each prior: the floor as the logit of its share of the lowest loss (.35 to .86),
both exponents .25 to .5, softness .35 to 1.4, the best size within 1.6x of the baseline's. Assumed: wide around
published constants; that of k is the prior of the soft-max law."""
LOW = (-9.0, -14.0, -14.0, np.log(0.02), np.log(0.02), np.log(0.04), -9.0, -0.95, -4.0)
HIGH = (9.0, 6.0, 6.0, np.log(3.0), np.log(3.0), np.log(3.0), 9.0, 4.0, 4.0)
SQUARES = 10.0  # error of ln L beyond which a run would lose weight: none has it, so these are least squares
CHEAP_STEPS, STEPS, LONG_STEPS = (
    10,
    300,
    3000,
)  # of every search, of the likeliest, and where those do not end
BASINS = 6  # searches that go on after the first steps
LEAST_RANGE = 2.0  # of C within the shared range, below which no trend is fitted
LEAST_VARIED = 0.2  # sd of ln N around its trend in ln C, above which a best size is fitted


@dataclass(frozen=True, eq=False)
class EfficiencySurface:
    """The law of both recipes bound to their runs, in coordinates by NAMES; a model of levenberg.py."""

    x: Array
    """ln N around its mean, shape (n,)."""
    y: Array
    """ln(C / 6 N) around its mean."""
    w: Array
    """ln(C / C_0)."""
    z: Array
    """1 for runs of the second recipe, 0 for the baseline."""
    target: Array
    """ln L."""
    weight: Array
    lowest: float
    """Lowest loss; the floor is below it."""
    middle: tuple[float, float]
    """Means of ln N and ln(C / 6 N)."""

    @classmethod
    def of(cls, runs: Observations, z: Array, C_0: float) -> "EfficiencySurface":
        """The law over these runs.

        Args:
            runs: Those of both recipes.
            z: 1 for those of the second, shape (n,).
            C_0: Compute at which mu is the multiplier, FLOPs.
        """
        x, y = np.log(runs.N), np.log(runs.C / (6 * runs.N))
        return cls(
            x - x.mean(),
            y - y.mean(),
            np.log(runs.C / C_0),
            z,
            np.log(runs.L),
            runs.weight,
            float(runs.L.min()),
            (float(x.mean()), float(y.mean())),
        )

    @property
    def low(self) -> Array:
        """Least coordinates; a and b are around the ln of the lowest loss."""
        return self._around_loss(LOW)

    @property
    def high(self) -> Array:
        """Greatest coordinates."""
        return self._around_loss(HIGH)

    def _around_loss(self, ends: Sequence[float]) -> Array:
        found = np.array(ends)
        found[[A, B]] += np.log(self.lowest)
        return found

    def at(self, theta: Array) -> tuple[Array, Array]:
        """Return ln L and its derivative, shapes (r, n) and (r, 9, n); see levenberg.SmoothModel."""
        floor, a, b, ln_alpha, ln_beta, ln_k, mu, s, ln_t = (column[:, None] for column in theta.T)
        share = 1 / (1 + np.exp(-floor))
        alpha, beta, k = np.exp(ln_alpha), np.exp(ln_beta), np.exp(ln_k)
        gamma = alpha * beta / (alpha + beta)
        x, y = self.x - self.z * ln_t, self.y + self.z * ln_t
        gain = self.z * (mu + s * self.w)
        ln_P, ln_Q = a - alpha * x, b - beta * y
        soft = k * np.logaddexp(ln_P / k, ln_Q / k)
        p = np.exp((ln_P - soft) / k)  # share of size in the soft maximum, 1 - p that of tokens
        E, R = self.lowest * share, np.exp(soft - gamma * gain)
        L = E + R
        slope = np.zeros((len(theta), len(NAMES), len(self.x)))
        slope[:, A], slope[:, B] = p, 1 - p
        slope[:, ALPHA] = -alpha * x * p - gain * gamma * beta / (alpha + beta)
        slope[:, BETA] = -beta * y * (1 - p) - gain * gamma * alpha / (alpha + beta)
        slope[:, SOFTNESS] = soft - p * ln_P - (1 - p) * ln_Q
        slope[:, MU] = -self.z * gamma
        slope[:, TREND] = slope[:, MU] * self.w
        slope[:, SIZE] = self.z * (alpha * p - beta * (1 - p))
        slope *= R[:, None]
        slope[:, FLOOR] = E * (1 - share)
        return np.log(L), slope / L[:, None]

    def constants(self, theta: Array) -> dict[str, Array]:
        """E, A, B, alpha, beta and k, each of shape (r,)."""
        alpha, beta = np.exp(theta[:, ALPHA]), np.exp(theta[:, BETA])
        return {
            "E": self.lowest / (1 + np.exp(-theta[:, FLOOR])),
            "A": np.exp(theta[:, A] + alpha * self.middle[0]),
            "B": np.exp(theta[:, B] + beta * self.middle[1]),
            "alpha": alpha,
            "beta": beta,
            "k": np.exp(theta[:, SOFTNESS]),
        }

    def prior(self, sd: float) -> tuple[Array, Array]:
        """Mean (9,) and precision (9, 9) of the prior, times the variance of the errors.

        Args:
            sd: Standard deviation of ln L between seeds.
        """
        mean, precision = np.zeros(len(NAMES)), np.zeros((len(NAMES), len(NAMES)))
        for name, (centre, wide) in PRIOR.items():
            if name == "a - b":
                line = np.zeros(len(NAMES))
                line[[A, B]] = 1.0, -1.0
            else:
                line = np.eye(len(NAMES))[NAMES.index(name)]
                mean += centre * line
            precision += np.outer(line, line) * (sd / wide) ** 2
        return mean, precision

    def starts(self) -> Array:
        """Searches begin here, shape (27, 9): floors and exponents over their priors, an even split of the rest."""
        found = []
        typical = float(np.exp(np.median(self.target)))
        for floor, alpha, beta in product((-0.5, 0.6, 1.7), (0.22, 0.35, 0.55), (0.22, 0.35, 0.55)):
            rest = max(typical - self.lowest / (1 + np.exp(-floor)), 0.05 * typical)
            each = np.log(rest) - 0.7 * np.log(2)
            found.append([floor, each, each, np.log(alpha), np.log(beta), np.log(0.7), 0.0, 0.0, 0.0])
        return np.array(found)


@dataclass(frozen=True, eq=False)
class EfficiencyFit:
    """Both recipes under one law."""

    surface: EfficiencySurface
    runs: Observations
    """Those of both recipes, in the order of the surface."""
    C_0: float
    """Compute at which mu is the multiplier, FLOPs."""
    theta: Array
    """Coordinates of the fit, shape (9,)."""
    held: Array
    """Coordinates that were not fitted, a mask of shape (9,)."""
    sd: float
    """Standard deviation of ln L between seeds, which weighs the priors."""
    agreement: float
    """Share of the likeliest searches that reached the best objective."""

    @property
    def residuals(self) -> Array:
        """Measured minus fitted ln L, shape (n,)."""
        return self.surface.target - self.surface.at(self.theta[None])[0][0]

    @property
    def jacobian(self) -> Array:
        """Derivative of the fitted ln L by the coordinates that were fitted, shape (n, p)."""
        return self.surface.at(self.theta[None])[1][0][~self.held].T

    @property
    def precision(self) -> Array:
        """Precision of the priors on the fitted coordinates, times the variance of the errors, shape (p, p)."""
        return self.surface.prior(self.sd)[1][np.ix_(~self.held, ~self.held)]

    @property
    def has_trend(self) -> bool:
        """Whether the multiplier may change with compute."""
        return not self.held[TREND]

    @property
    def has_size(self) -> bool:
        """Whether the best size of the second recipe was fitted."""
        return not self.held[SIZE]

    @property
    def params(self) -> dict[str, float]:
        """Constants of the law by their symbols in the module's header."""
        shared = {name: float(value[0]) for name, value in self.surface.constants(self.theta[None]).items()}
        own = {"mu": self.theta[MU], "s": self.theta[TREND], "t": np.exp(self.theta[SIZE])}
        return shared | {name: float(value) for name, value in own.items()}

    @property
    def names(self) -> tuple[str, ...]:
        """Coordinates that were fitted."""
        return tuple(name for name, held in zip(NAMES, self.held, strict=True) if not held)

    def along(self, C: Array | float) -> Array:
        """Derivative of ln m(C) by the coordinates that were fitted, shape (p,) or (k, p) for k values of C."""
        C = np.asarray(C, float)
        found = np.zeros((*C.shape, len(NAMES)))
        found[..., MU], found[..., TREND] = 1.0, np.log(C / self.C_0)
        return found[..., ~self.held]

    def ln_multiplier(self, C: Array | float, theta: Array | None = None) -> Array:
        """Return ln m at C FLOPs; broadcasts over C.

        Args:
            C: FLOPs.
            theta: Coordinates of r replicates, shape (r, 9), which give (r, k); None: the fit's.
        """
        w = np.log(np.asarray(C, float) / self.C_0)
        if theta is None:
            return self.theta[MU] + self.theta[TREND] * w
        return theta[:, MU, None] + theta[:, TREND, None] * w

    def gamma(self, theta: Array | None = None) -> Array:
        """Exponent of the baseline's frontier; shape (r,) for coordinates of shape (r, 9)."""
        theta = self.theta[None] if theta is None else theta
        alpha, beta = np.exp(theta[:, ALPHA]), np.exp(theta[:, BETA])
        return alpha * beta / (alpha + beta)

    def frontier(self, C: Array | float, second: bool, theta: Array | None = None) -> Optimum:
        """The optima at C FLOPs of the baseline or the second recipe.

        Args:
            C: FLOPs, shape (k,); with `theta` the answers have shape (r, k).
            second: Whether it is the second recipe.
            theta: Coordinates of r replicates, shape (r, 9); None: the fit's.
        """
        one = self.theta[None] if theta is None else theta
        C = np.atleast_1d(np.asarray(C, float))
        E, _, _, alpha, beta, k = (value[:, None] for value in self.surface.constants(one).values())
        a, b, size = (one[:, at, None] for at in (A, B, SIZE))
        across = np.log(C / 6)[None] - sum(self.surface.middle)
        x = (a - b + beta * across - k * np.log(beta / alpha)) / (alpha + beta)
        rest = k * np.logaddexp((a - alpha * x) / k, (b - beta * (across - x)) / k)
        ln_N = x + self.surface.middle[0]
        if second:
            ln_N = ln_N + size
            rest = rest - self.gamma(one)[:, None] * self.ln_multiplier(C, one)
        best = Optimum(np.broadcast_to(C, rest.shape), np.exp(ln_N), C / 6 / np.exp(ln_N), E + np.exp(rest))
        if theta is None:
            return Optimum(C, best.N[0], best.D[0], best.L[0])
        return best


def fit_efficiency(
    runs: Observations, z: Array, C_0: float, sd: float, *, trend: bool = True
) -> EfficiencyFit:
    """Fit the law of both recipes.

    Args:
        runs: Runs of both recipes.
        z: 1 for those of the second recipe, 0 for the baseline, shape (n,).
        C_0: Compute at which mu is the multiplier, FLOPs.
        sd: Standard deviation of ln L between seeds.
        trend: Whether the multiplier may change with compute, where the second recipe's runs can show it.

    Raises:
        FitError: No search ended at an optimum.
    """
    surface = EfficiencySurface.of(runs, z, C_0)
    held = np.zeros(len(NAMES), bool)
    held[TREND] = not (trend and _shows_trend(runs.C[z == 1]) and _shows_trend(runs.C[z == 0]))
    varied = [_varies_size(runs.take(z == arm)) for arm in (0, 1)]
    held[SIZE], held[SOFTNESS] = not all(varied), not any(varied)
    prior = Prior(*surface.prior(sd))

    def search(starts: Array, steps: int) -> LevenbergEnds:
        return descend(surface, starts, delta=SQUARES, prior=prior, fixed=held, steps=steps)

    first = search(surface.starts(), CHEAP_STEPS)
    ends = search(first.theta[first.order[:BASINS]], STEPS)
    if not ends.converged[ends.order[0]]:  # a long, flat valley
        ends = search(np.concatenate([ends.theta, surface.starts()]), LONG_STEPS)
    best = int(ends.order[0])
    if not ends.converged[best]:
        raise FitError(
            f"the joint law of both recipes was not found: remaining gradient {ends.gradient_norm[best]:.1e}",
            where=f"{len(ends.theta)} searches over {len(runs)} runs",
            fix="look for runs far off the others, or give more runs at different compute",
        )
    same = ends.objective <= ends.objective[best] * (1 + 1e-4) + 1e-12 * sd**2
    return EfficiencyFit(surface, runs, C_0, ends.theta[best], held, sd, float(np.mean(same)))


def _shows_trend(C: Array) -> bool:
    return bool(C.max() >= LEAST_RANGE * C.min())


def _varies_size(runs: Observations) -> bool:
    """Whether sizes vary at equal compute, so that a best size can be seen."""
    points = np.unique(np.log(np.stack([runs.N, runs.C], axis=1)), axis=0)
    if len(points) < 5:
        return False
    x, y = points.T
    line = np.polyfit(y, x, 1) if np.ptp(y) > 0.1 else [0.0, x.mean()]
    return bool(np.std(x - np.polyval(line, y)) > LEAST_VARIED)
