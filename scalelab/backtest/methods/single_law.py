"""One law of scalelab, with the interval of its own bootstrap.

A surface is asked for the loss of the run; a law of optima for the loss at the best size of as much
compute, near which the runs asked for lie. The best size of a budget is that of the law's optimum.

The interval is that of redrawn evidence alone: neither the choice of the law nor the noise of the
run asked for is in it.

Not here: the laws (laws/), what `scalelab fit` quotes (product.py).
"""

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from scalelab.backtest.base import Answer, ForecastMethod, ForecastQuestion
from scalelab.errors import FitError
from scalelab.laws import LAWS
from scalelab.laws.base import LawFit, Replicates
from scalelab.laws.observations import Array, Observations
from scalelab.study.quality.budgets import realised_budgets

REPLICATES = 400
"""Bootstrap replicates of an interval; its ends at 90% then rest on 20 each."""
TOO_MANY_LOST = 0.2
"""Share of replicates without an answer beyond which there is no interval."""


@dataclass(frozen=True)
class _LawForecast(ForecastMethod):
    """A law by its name."""

    law: ClassVar[str]

    @property
    @abstractmethod
    def summary(self) -> str:  # type: ignore[override]
        """See `ForecastMethod`."""

    def prepared(self, evidence: Observations) -> Observations:
        """Return the evidence with what the law needs beside N, D, C and L."""
        return evidence

    def forecast(self, evidence: Observations, question: ForecastQuestion) -> Answer:
        """See `ForecastMethod`."""
        fit = LAWS[self.law]().fit(self.prepared(evidence))
        drawn = fit.replicates(REPLICATES, question.seed)
        sizes, size_draws = best_sizes(fit, drawn, question.budgets)
        return Answer.of(
            question,
            losses(fit, question),
            loss_draws(fit, drawn, question),
            sizes,
            size_draws,
            trusted=not fit.broken,
            notes=fit.broken,
        )


def losses(fit: LawFit, question: ForecastQuestion) -> Array:
    """Return what a fit expects of the runs asked for, shape (m,).

    Raises:
        FitError: It expects nothing of them, or no finite number.
    """
    if not len(question.N):
        return np.zeros(0)
    if fit.is_surface:
        return np.asarray(fit.loss_at(question.N, question.D), float)
    if _of_size_and_tokens(fit):
        return np.asarray(fit.predict(N=question.N, D=question.D), float)
    best = fit.optimum(question.C)
    if best is None:
        raise FitError(
            f"the {type(fit.law).__name__} law has neither a loss of N and D nor an optimum",
            where=f"its fit to {len(fit.runs)} runs",
            fix="use a law that has one",
        )
    return np.asarray(best.L, float)


def loss_draws(fit: LawFit, drawn: Replicates | None, question: ForecastQuestion) -> Array | None:
    """Return the same of every replicate, shape (r, m); None where too many were lost."""
    if drawn is None or drawn.failed > TOO_MANY_LOST * drawn.asked:
        return None
    if not len(question.N):
        return np.zeros((1, 0))
    if fit.is_surface:
        params = {name: np.asarray(value)[:, None] for name, value in drawn.values.items()}
        found = np.asarray(fit.loss_at(question.N[None], question.D[None], params), float)
    elif _of_size_and_tokens(fit):
        params = {name: np.asarray(drawn.values[name])[:, None] for name in fit.law.names}
        found = np.asarray(fit.law.loss(params, N=question.N[None], D=question.D[None]), float)
    else:
        found = np.stack([drawn.optimum(float(C)).L for C in question.C], axis=1)
    return _kept(found)


def best_sizes(fit: LawFit, drawn: Replicates | None, budgets: Array) -> tuple[Array | None, Array | None]:
    """Return the best size of each budget (b,) and of every replicate (r, b); None where there are none."""
    best = fit.optimum(budgets)
    if best is None:
        return None, None
    sizes = np.asarray(best.N, float)
    if not (np.isfinite(sizes) & (sizes > 0)).all():
        return None, None
    if drawn is None or drawn.failed > TOO_MANY_LOST * drawn.asked or not len(budgets):
        return sizes, None
    return sizes, _kept(np.stack([drawn.optimum(float(C)).N for C in budgets], axis=1))


def _of_size_and_tokens(fit: LawFit) -> bool:
    """Whether the law is a formula of N and D, though it allots nothing."""
    return set(fit.law.uses) == {"N", "D"}


def _kept(draws: Array) -> Array | None:
    """The draws without those that are no positive number; None where these are too many."""
    good = (np.isfinite(draws) & (draws > 0)).all(axis=1)
    return draws[good] if good.mean() >= 1 - TOO_MANY_LOST else None


@dataclass(frozen=True)
class ChinchillaForecast(_LawForecast):
    """Approach 3 of Hoffmann et al."""

    law = "chinchilla"
    summary = "L = E + A / N^alpha + B / D^beta by log-Huber (approach 3)"
    source = "Hoffmann et al. 2022, arXiv:2203.15556"


@dataclass(frozen=True)
class KaplanForecast(_LawForecast):
    """The joint law of Kaplan et al."""

    law = "kaplan"
    summary = "the joint law of N and D without a floor"
    source = "Kaplan et al. 2020, arXiv:2001.08361"


@dataclass(frozen=True)
class IsoFlopForecast(_LawForecast):
    """Approach 2 of Hoffmann et al., on budgets that are given or found."""

    law = "isoflop"
    summary = "minima of isoFLOP slices and their trends (approach 2)"
    source = "Hoffmann et al. 2022, arXiv:2203.15556"

    def prepared(self, evidence: Observations) -> Observations:
        """Return the evidence under the budgets that its runs share."""
        return realised_budgets(evidence)[0]


@dataclass(frozen=True)
class EnvelopeForecast(_LawForecast):
    """Approach 1 of Hoffmann et al.; the runs of one size stand for its training curve."""

    law = "envelope"
    summary = "the envelope of the runs of each size (approach 1)"
    source = "Hoffmann et al. 2022, arXiv:2203.15556"

    def prepared(self, evidence: Observations) -> Observations:
        """Return the evidence with one group a size."""
        return replace(evidence, group=evidence.N.astype(str))


@dataclass(frozen=True)
class SoftmaxForecast(_LawForecast):
    """One soft-max law with weak priors on the upper half of the compute."""

    law = "softmax"
    summary = "the soft-max law with weak priors, upper half of the compute"
    source = "Skaling, arXiv:2608.07222"


@dataclass(frozen=True)
class FarseerForecast(_LawForecast):
    """Farseer's law; it allots nothing."""

    law = "farseer"
    summary = "Farseer's law, from 60 runs and 6 sizes on"
    source = "Li et al. 2025, arXiv:2506.10972"


@dataclass(frozen=True)
class AveragedForecast(_LawForecast):
    """Soft-max laws under several settings, weighted by how well each forecast within the evidence."""

    law = "averaged"
    summary = "four soft-max laws averaged by their rolling-origin error"
    source = "scalelab; soft-max, arXiv:2608.07222"
