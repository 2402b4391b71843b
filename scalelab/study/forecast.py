"""What the laws say of the target compute, side by side, and the noise to hold it against.

The primary law is the first that could be fitted and has an optimum there. Its bootstrap gives the
statistical interval; everything that could as well have been fitted gives the structural one
(model_uncertainty.py); a law that knows how far its forecasts of other tables were off gives a calibrated
one (conformal.py).

    with a calibrated interval      quoted: at each end the farther of it and the noise; below LEAST_ORIGINS
                                    origins inside the evidence, and where the runs bend away from the
                                    surfaces, also of the choice of law
    without one                     quoted: at each end the farther of the noise and the choice of law

The widest of those that are quoted is named.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from scalelab.errors import FitError
from scalelab.laws.base import Law, LawFit, Replicates
from scalelab.laws.description import Interval
from scalelab.laws.observations import Observations, alike
from scalelab.laws.token_cost import TokenCost
from scalelab.laws.uncertainty.bootstrap import trusted
from scalelab.laws.uncertainty.conformal import EXPECTED, CalibratedWidth
from scalelab.laws.uncertainty.model_uncertainty import (
    QUANTITIES,
    AlternativeFit,
    CandidateFit,
    model_set,
    spread,
)
from scalelab.units import sci

NOISE, CHOICE, CALIBRATED = "noise", "choice of law", "calibrated"


@dataclass(frozen=True)
class SeedNoise:
    """Spread of the loss between runs that differ only in their seed."""

    sd: float
    """Pooled standard deviation, nats per token."""
    dof: int
    """Runs beyond one for each repeated (budget, size, tokens)."""

    @classmethod
    def of(cls, runs: Observations) -> "SeedNoise | None":
        """Pooled over every design point that was run more than once; None without any."""
        which = alike(runs.flops_planned, runs.N, runs.D, *runs.own_columns.values())
        mean = np.bincount(which, runs.L) / np.bincount(which)
        dof = len(runs) - len(mean)
        return cls(float(np.sqrt(np.sum((runs.L - mean[which]) ** 2) / dof)), dof) if dof else None


@dataclass(frozen=True, eq=False)
class Forecast:
    """What to expect of the target compute. Extrapolated wherever reach is above 1."""

    flops: float
    law: str
    """Name of the primary law."""
    values: Mapping[str, float]
    """n_params, n_tokens, loss, tokens_per_param, and the exponents a and b."""
    statistical: Mapping[str, Interval]
    """Interval of each, from redrawn evidence, at the study's level; None where it could not be had."""
    members: tuple[CandidateFit, ...]
    """Every way to have fitted these runs, and what it says."""
    reach: float
    """Target compute as a multiple of the largest in evidence."""
    width: CalibratedWidth | None = None
    """How far the forecasts of the primary law were off on other tables; None where it does not say."""
    calibrated: Mapping[str, list[float]] = field(default_factory=dict)
    """Interval of each quantity from that width; empty without one."""
    expected_error: float | None = None
    """Error of the loss to expect, as a share, from forecasts of other tables; None without them."""
    evidence_start: float = 0.0
    """Least compute of the runs that the primary law was fitted to, FLOPs."""

    @classmethod
    def of(
        cls,
        runs: Observations,
        laws: Mapping[str, Law],
        fits: Mapping[str, LawFit],
        drawn: Mapping[str, Replicates | None],
        target: float,
        level: float,
        others: Sequence[AlternativeFit] | None = None,
    ) -> "Forecast":
        """Return the forecast of the fits at `target`; the first with an optimum there is the primary law.

        Args:
            runs: Runs that were fitted.
            laws: Laws by name.
            fits: Fits by name of the law, the primary law first.
            drawn: Bootstrap replicates of each fit; None where there are none.
            target: Training compute, FLOPs.
            level: Level of the intervals, 0 to 1.
            others: Choices and windows that were fitted before (model_uncertainty.alternatives); None: fit them.

        Raises:
            FitError: None of them has one.
        """
        found = model_set(runs, laws, fits, target, level, others)
        said = {m.name: m.values for m in found if m.kind == "law"}
        if not any(fit.exponents for fit in fits.values()):
            raise FitError(
                f"{', '.join(fits)} allots no compute to N and D, so nothing can be forecast",
                where=f"--law {' --law '.join(fits)}",
                fix="fit a law that does beside it: --law averaged, isoflop, chinchilla or kaplan",
                evidence=fits,
            )
        if not said:
            raise FitError(
                f"no law has an optimum at {sci(target)} FLOPs that can be written down",
                where="; ".join(f"{name}: {dict(fit.params)}" for name, fit in fits.items()),
                fix="add runs that show how loss depends on both N and D, and fit a law that "
                "allots compute (averaged, isoflop, chinchilla, kaplan)",
                evidence=fits,
            )
        law = next(name for name in fits if name in said)
        intervals: dict[str, Interval] = dict.fromkeys((*QUANTITIES, "a", "b"))
        if (mine := drawn[law]) is not None:
            best = mine.optimum(target)
            with np.errstate(all="ignore"):
                ratio = best.D / best.N
            readings = dict(zip(QUANTITIES, (best.N, best.D, best.L, ratio), strict=True))
            readings |= {key: mine.values[key] for key in "ab" if key in mine.values}
            intervals |= {key: trusted(mine, value, level) for key, value in readings.items()}
        fit = fits[law]
        width = fit.calibrated(target, level)
        ends = {} if width is None else calibrated_ends(said[law], width, fit.cost, target)
        known = width or fit.calibrated(
            target, EXPECTED
        )  # which has no interval, but an error, at every level
        return cls(
            target,
            law,
            said[law],
            intervals,
            found,
            target / fit.evidence_end,
            width,
            ends,
            known and known.expected_error,
            float(fit.runs.C.min()),
        )

    @property
    def is_extrapolated(self) -> bool:
        """Whether the target lies outside the runs that the primary law was fitted to, on either side."""
        return self.reach > 1 or self.flops < self.evidence_start * (1 - 1e-9)

    @property
    def structural(self) -> dict[str, list[float]]:
        """Lowest and highest that any member says that counts."""
        keys = (*QUANTITIES, "a", "b")
        return {key: ends for key in keys if (ends := spread(self.members, key)) is not None}

    @property
    def stands_alone(self) -> bool:
        """Whether the calibrated interval is quoted without the choice of law.

        It needs origins inside the evidence, a primary law that the runs do not refute, and runs that do not bend
        away from the surfaces, however far the bend can be carried on: the tables that it comes from are of recipes
        that suit all their sizes.
        """
        bent = any(member.bend is not None and member.bend.worth for member in self.members)
        refuted = any(m.refuted is not None for m in self.members if m.kind == "law" and m.name == self.law)
        return self.width is not None and self.width.alone and not bent and not refuted

    def sources(self, key: str) -> dict[str, list[float]]:
        """The intervals beside the noise that are quoted for one quantity, by what they come from."""
        found = {}
        if key in self.calibrated:
            found[CALIBRATED] = list(self.calibrated[key])
        if key in self.structural and not (key in self.calibrated and self.stands_alone):
            found[CHOICE] = self.structural[key]
        return found

    @property
    def dominates(self) -> dict[str, str]:
        """By quantity, the largest source of doubt that is quoted; left out where there is no interval."""
        found = {}
        for key, interval in self.statistical.items():
            if interval is not None and (sources := self.sources(key)):
                widths = {NOISE: _width(interval)} | {name: _width(ends) for name, ends in sources.items()}
                found[key] = max(widths, key=widths.__getitem__)
        return found

    @property
    def intervals(self) -> dict[str, Interval]:
        """What is quoted: at each end the farthest of what counts; None where the noise is unknown.

        The primary law may stand at an end of the spread of laws, so that the wider of the two
        alone would leave out its own noise on that side.
        """
        return {
            key: interval and _hull(interval, *self.sources(key).values())
            for key, interval in self.statistical.items()
        }

    def moved(self, ratio: float, noise: Interval) -> Interval:
        """The interval of the loss of another run near the optimum; None where its noise is unknown.

        Args:
            ratio: Its loss over that of the forecast.
            noise: Its own interval from redrawn evidence.
        """
        others = [[end * ratio for end in ends] for ends in self.sources("loss").values()]
        return noise and _hull(noise, *others)

    def to_json(self) -> dict[str, Any]:
        """The record as JSON types, without the verdict."""
        return {
            "flops": self.flops,
            **{key: self.values[key] for key in QUANTITIES},
            "law": self.law,
            "intervals": self.intervals,
            "statistical": dict(self.statistical),
            "structural": self.structural,
            "calibrated": {key: list(ends) for key, ends in self.calibrated.items()},
            "expected_error": self.expected_error,
            "dominates": self.dominates,
            "members": [m.to_json() for m in self.members],
            "reach": self.reach,
            "status": "extrapolated" if self.is_extrapolated else "fitted",
        }


def calibrated_ends(
    values: Mapping[str, float], width: CalibratedWidth, cost: TokenCost | None, target: float
) -> dict[str, list[float]]:
    """Return the interval of every quantity of the optimum; D* and D*/N* are those of the ends of N*.

    Args:
        values: The forecast, by quantity.
        width: Half widths of ln L* and ln N*.
        cost: FLOPs per token of the runs; None: unknown, and D* has no interval.
        target: Training compute, FLOPs.
    """
    low, high = (values["loss"] * np.exp(sign * width.loss) for sign in (-1, 1))
    small, large = (values["n_params"] * np.exp(sign * width.n_params) for sign in (-1, 1))
    found = {"loss": [float(low), float(high)], "n_params": [float(small), float(large)]}
    if cost is not None:
        many, few = (float(target / cost(size)) for size in (small, large))
        found |= {"n_tokens": [few, many], "tokens_per_param": [float(few / large), float(many / small)]}
    return found


def _hull(one: list[float], *others: list[float]) -> list[float]:
    return [min(ends[0] for ends in (one, *others)), max(ends[1] for ends in (one, *others))]


def _width(interval: list[float]) -> float:
    """As a share: ln of the upper end over the lower; infinite where that cannot be had."""
    low, high = interval
    return float(np.log(high / low)) if low > 0 else np.inf
