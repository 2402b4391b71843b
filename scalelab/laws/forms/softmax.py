"""The soft-max law (Skaling): size and data limit the loss together, as softly as the runs say.

    L(N, D) = E + G,   ln G = k logaddexp(x / k, z / k),   x = ln A - alpha_N ln N,   z = ln B - alpha_D ln D
            = E + ((A / N^alpha_N)^(1 / k) + (B / D^alpha_D)^(1 / k))^k
    N*(C) ~ C^a,  D*(C) ~ C^b,  a = alpha_D / (alpha_N + alpha_D),  b = alpha_N / (alpha_N + alpha_D)

L  validation loss, nats per token
N  parameters; D  training tokens, each counted once; C  training FLOPs
k  softness: 1 is the Chinchilla law, E = 0 with k = alpha_D Kaplan's; towards 0 the larger of both
   prices is all that counts

How it is fitted matters as much as the formula. The runs of the upper half of the compute count, at least
10 of them. Huber's penalty of ln L is joined by a weak Gaussian prior on the coordinates
(softmax_surface.py) and on ln alpha_N - ln alpha_D, whose weight is the noise of the table itself:

    s = 1.4826 median |error| sqrt(n / (n - 6))     of a first fit without a prior, at least LEAST_NOISE
    objective = sum of w rho(error) + 1/2 (theta - mu)' P (theta - mu) (prior_scale s)^2 min(1, delta / (.8 s))

The last factor is there because Huber's penalty of errors beyond delta has that much less curvature. On
few runs E and the exponents run to their bounds without the prior; on many it moves nothing.

Source: arXiv:2608.07222; the priors and the share of the compute are this project's, chosen on public
tables (analysis/backtest.md).

Not here: its average over several settings (averaged/), the stages of the search (softmax_search.py),
profiles of E and k (softmax_profile.py).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from scalelab.errors import FitError
from scalelab.laws import levenberg
from scalelab.laws.base import LawFigure, Optimum, Replicates
from scalelab.laws.description import Fact, FitContext
from scalelab.laws.forms.chinchilla import Chinchilla
from scalelab.laws.forms.softmax_profile import ConstantProfile, profile_constants, profile_figure
from scalelab.laws.forms.softmax_search import KEPT, coarse_ends, search
from scalelab.laws.forms.softmax_surface import NAMES, SoftmaxSurface, soft_maximum
from scalelab.laws.formula import HUBER_DELTA, Formula, FormulaFit
from scalelab.laws.levenberg import LevenbergEnds, Prior
from scalelab.laws.observations import Array, Observations
from scalelab.laws.token_cost import TokenCost
from scalelab.laws.uncertainty.refits import RunWeights, SurfaceRefits

LEAST_RUNS, LEAST_LEVELS = 8, 3
"""Runs, and sizes and token counts, below which the law is refused."""
REFIT_STEPS = 200  # of one replicate
OPEN = frozenset({"E", "k"})
"""Constants that may end at a bound: no floor in sight, or a bend sharper than the runs show."""


@dataclass(frozen=True)
class Softmax(Formula):
    """The soft maximum of two power laws over a floor, fitted with weak priors to the upper compute."""

    formula = "L = E + ((A / N^alpha_N)^(1/k) + (B / D^alpha_D)^(1/k))^k"
    source = "Skaling, arXiv:2608.07222"
    names = NAMES
    uses = ("N", "D")
    published = {
        "E": 1.8172181,
        "A": 477.82552,
        "B": 2143.4173,
        "alpha_N": 0.34731050,
        "alpha_D": 0.36717238,
        "k": 1.0,
    }
    """Chinchilla's constants (Besiroglu et al. 2024, arXiv:2404.10102), which are those of k = 1."""

    least_runs = LEAST_RUNS

    share: float = 0.5
    """Share of the runs that counts, those of the most compute; 1 for all."""
    least_counted: int = 10
    """Runs that count at least, however small their share is."""
    power: float = 0.0
    """p of the weight (C / C_max)^p of a run."""
    prior_scale: float = 3.0
    """Times the noise of the table, in the weight of the prior; 0 for none."""
    ratio_sd: float = 0.3
    """Standard deviation of the prior on ln alpha_N - ln alpha_D; infinite for none."""
    huber_delta: float = HUBER_DELTA
    """Error of ln L beyond which the weight of a run stops growing."""

    def loss(self, params: Mapping[str, Any], **inputs: Array) -> Array:
        E, A, B, alpha, beta, k = (params[name] for name in NAMES)
        x = np.log(A) - alpha * np.log(inputs["N"])
        z = np.log(B) - beta * np.log(inputs["D"])
        return E + np.exp(soft_maximum(x, z, k)[1])

    def bind(self, runs: Observations) -> SoftmaxSurface:
        return SoftmaxSurface.of(runs, compute_weights(runs, self.power), self.huber_delta)

    def exponents(self, params: Mapping[str, Any]) -> dict[str, Any]:
        alpha, beta = params["alpha_N"], params["alpha_D"]
        return {"a": beta / (alpha + beta), "b": alpha / (alpha + beta)}

    def optimum(self, params: Mapping[str, Any], C: Array, cost: TokenCost) -> Optimum:
        with np.errstate(all="ignore"):
            return _optimum(params, C, cost)

    def caveats(self, runs: Observations, params: Mapping[str, float]) -> tuple[str, ...]:
        return ()

    def variants(self) -> Mapping[str, "Softmax"]:
        return {"all runs": replace(self, share=1.0)} if self.share < 1 else {}

    def used(self, runs: Observations) -> Array:
        """Which runs count, a mask of shape (n,): the upper share of the compute, and all that spent as much."""
        order = np.argsort(-runs.C, kind="stable")
        wanted = max(self.share * runs.weight.sum(), min(self.least_counted, runs.weight.sum()))
        last = min(int(np.searchsorted(np.cumsum(runs.weight[order]), wanted * (1 - 1e-9))), len(runs) - 1)
        return runs.C[order[last]] * (1 - 1e-9) <= runs.C

    def fit(self, runs: Observations) -> "SoftmaxFit":
        self.refuse(runs)
        cost = TokenCost.of(runs)
        part = runs.take(self.used(runs))
        return fit_together((self,), part, len(runs), cost)[0]

    def prior(self, surface: SoftmaxSurface, noise: float) -> Prior:
        """The prior in the unit of squared errors of ln L.

        Args:
            surface: Surface that is fitted.
            noise: Standard deviation of ln L.
        """
        mean, inverse = surface.prior(self.ratio_sd)
        soft = min(1.0, self.huber_delta / (0.8 * noise))
        return Prior(mean, inverse * (self.prior_scale * noise) ** 2 * soft)

    def refuse(self, runs: Observations) -> None:
        """Refuse runs that leave the law open; the words suit an average of such laws too.

        Raises:
            FitError: They are too few, or vary too little.
        """
        sizes, lengths = len(np.unique(runs.N)), len(np.unique(runs.D))
        if len(runs) >= self.least_runs:
            self._refuse_hopeless(runs)
            if min(sizes, lengths) >= LEAST_LEVELS:
                return
        enough = len(runs) > len(Chinchilla.names)
        raise FitError(
            f"{len(runs)} runs of {sizes} sizes and {lengths} token counts do not determine the law",
            where="the runs that were handed over to be fitted",
            fix=f"finish at least {LEAST_RUNS} runs of {LEAST_LEVELS} sizes and {LEAST_LEVELS} token counts"
            + (", or fit chinchilla, which has one constant less and no prior" if enough else ""),
        )


def compute_weights(runs: Observations, power: float) -> Array:
    """Weights (C / C_max)^power times the runs' own, with the runs' own mean; shape (n,)."""
    weight = (runs.C / runs.C.max()) ** power
    return runs.weight * weight * runs.weight.sum() / np.sum(runs.weight * weight)


def fit_together(
    laws: Sequence[Softmax], part: Observations, total: int, cost: TokenCost
) -> tuple["SoftmaxFit", ...]:
    """The fit of every law, all to the same runs.

    Args:
        laws: Laws that agree in their share of the runs and in huber_delta.
        part: Runs that count.
        total: Runs that were handed over.
        cost: FLOPs per token.
    """
    ends = search(laws, part)
    return tuple(
        SoftmaxFit(
            law,
            part,
            end.surface,
            end.theta,
            end.scaled,
            end.solver,
            cost,
            prior=end.prior,
            noise=end.noise,
            total=total,
        )
        for law, end in zip(laws, ends, strict=True)
    )


def _optimum(params: Mapping[str, Any], C: Array, cost: TokenCost) -> Optimum:
    """Where the prices of a relative change in N balance: p alpha = (1 - p) beta s, s = d ln f / d ln N."""
    E, A, B, alpha, beta, k = (np.asarray(params[name]) for name in NAMES)
    lA, lB, lnC = np.log(A), np.log(B), np.log(C)
    ln_N = (lA - lB + beta * (lnC - np.log(6)) - k * np.log(beta / alpha)) / (alpha + beta)
    for _ in range(60):
        s = cost.log_slope(np.exp(ln_N))
        balance = (
            lA - alpha * ln_N - lB + beta * (lnC - np.log(cost(np.exp(ln_N)))) - k * np.log(beta * s / alpha)
        )
        step = balance / (alpha + beta * s)
        ln_N = ln_N + step
        if not np.any(np.abs(step) > 1e-13 * np.abs(ln_N)):  # NaN stops too
            break
    N = np.exp(ln_N)
    D = C / cost(N)
    L = E + np.exp(soft_maximum(lA - alpha * ln_N, lB - beta * np.log(D), k)[1])
    return Optimum.writable(C, N, D, L)


@dataclass(frozen=True, eq=False)
class SoftmaxFit(FormulaFit):
    """The soft-max law at its best constants, with the prior that held them."""

    law: Softmax
    surface: SoftmaxSurface
    _: KW_ONLY
    prior: Prior
    noise: float
    """Robust standard deviation of ln L around the first fit."""
    total: int
    """Runs that were handed over; `runs` are those of them that count."""

    @property
    def broken(self) -> tuple[str, ...]:
        found = []
        if not self.solver.converged:
            found.append(f"the search did not converge: gradient {self.solver.gradient_norm:.1e}")
        if stuck := [name for name in self.solver.at_bound if name not in OPEN]:
            found.append(
                f"{', '.join(stuck)} stopped at the edge of the search: the runs do not determine it"
            )
        return tuple(found)

    @property
    def warnings(self) -> tuple[str, ...]:
        found = list(super().warnings)
        if stuck := [name for name in self.solver.at_bound if name in OPEN]:
            found.append(f"{', '.join(stuck)} stopped at the edge of the search: read no meaning into it")
        if self.spare < len(NAMES):
            found.append(
                f"{len(self.runs)} runs hold its {len(NAMES)} constants together with the prior: the runs alone "
                "would not determine them"
            )
        return tuple(found)

    def refitted(
        self, starts: Array, counts: Callable[[int, int], Array] | Array | None, steps: int
    ) -> LevenbergEnds:
        """Searches with the same prior from given coordinates.

        Args:
            starts: Shape (r, 6).
            counts: How often each run counts, shape (r, n), or a function that gives rows i to j.
            steps: At most.
        """
        return levenberg.descend(
            self.surface,
            starts,
            delta=self.law.huber_delta,
            weights=counts,
            prior=self.prior,
            steps=steps,
            damping=1e-4,
            rest=levenberg.CONVERGED,
        )

    def replicates(self, count: int, seed: int) -> Replicates | None:
        units = self.units
        counts = units.counts(seed)
        if counts is None:
            return None
        ends = self.refitted(np.tile(self.theta, (count, 1)), counts, REFIT_STEPS)
        good = ends.converged
        values = self.surface.constants(ends.theta[good])
        values |= self.law.exponents(values)
        return Replicates(
            asked=count,
            failed=int(np.sum(~good)),
            unit=units.drawn,
            values=values,
            optimum=lambda C: self._optima(values, C),
            notes=units.notes,
        )

    @property
    def refits(self) -> SurfaceRefits:
        """See `FormulaFit`; the prior and the runs that count stay."""

        def by(starts: Array, weights: RunWeights) -> tuple[Array, Array]:
            ends = self.refitted(starts, weights, REFIT_STEPS)
            return ends.theta, ends.converged

        return SurfaceRefits(self, self.prior, by)

    def facts(self, context: FitContext) -> tuple[Fact, ...]:
        law = self.law
        ratio = f"{law.ratio_sd:g}" if np.isfinite(law.ratio_sd) else "none"
        return (
            Fact(
                "runs that count", f"{len(self.runs)} of {self.total}, those of the most compute", "assumed"
            ),
            Fact("noise of ln L", f"{self.noise:.2%}, robust, of a first fit without a prior", "fitted"),
            Fact("weight of a run", f"(C / C_max)^{law.power:g}", "assumed"),
            Fact(
                "prior",
                f"{law.prior_scale:g} times the noise; sd of ln alpha_N - ln alpha_D {ratio}",
                "assumed",
            ),
        )

    @cached_property
    def profiled(self) -> Mapping[str, ConstantProfile] | None:
        """Profiles of E and k; None for a fit that is broken, or that the runs cannot contradict."""
        if self.broken:
            return None
        starts = coarse_ends([self.surface])[0, :KEPT]
        return profile_constants(self.surface, self.theta, self.prior, starts)

    def profiles(self, target: float, level: float) -> dict[str, list[float | None]] | None:
        """Intervals of E and k that the runs alone allow, without the prior."""
        if self.profiled is None:
            return None
        return {name: profile.interval(level) for name, profile in self.profiled.items()}

    def pictures(self) -> tuple[LawFigure, ...]:
        return () if self.profiled is None else (profile_figure(self.profiled, "the fit"),)
