"""What the laws say of the target compute, side by side, and the noise to hold it against.

The first law that could be fitted and has an optimum there speaks. Its bootstrap gives the
statistical interval; everything that could as well have been fitted gives the structural one
(structural.py). At each end the larger of the two is quoted, and which one dominates is named.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from scalelab.errors import FitError
from scalelab.laws.base import Law, LawFit, Replicates
from scalelab.laws.interval import Interval, trusted
from scalelab.laws.observations import Observations, alike
from scalelab.laws.structural import QUANTITIES, Member, members, spread
from scalelab.units import sci

NOISE, CHOICE = "noise", "choice of law"


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
    """Which law speaks."""
    values: Mapping[str, float]
    """n_params, n_tokens, loss, tokens_per_param, and the exponents a and b."""
    statistical: Mapping[str, Interval]
    """Of the same, from redrawn evidence, at the study's level; None where it could not be had."""
    members: tuple[Member, ...]
    """Every way to have fitted these runs, and what it says."""
    reach: float
    """Target compute as a multiple of the largest in evidence."""

    @classmethod
    def of(
        cls,
        runs: Observations,
        laws: Mapping[str, Law],
        fits: Mapping[str, LawFit],
        drawn: Mapping[str, Replicates | None],
        target: float,
        level: float,
    ) -> "Forecast":
        """What the fits say of `target`; the first with an answer there speaks.

        Raises:
            FitError: None of them has one.
        """
        found = members(runs, laws, fits, target)
        said = {m.name: m.values for m in found if m.kind == "law"}
        if not any(fit.exponents for fit in fits.values()):
            raise FitError(
                f"{', '.join(fits)} allots no compute to N and D, so nothing can be forecast",
                where=f"--law {' --law '.join(fits)}",
                fix="fit a law that does beside it: --law isoflop, chinchilla or kaplan",
                evidence=fits,
            )
        if not said:
            raise FitError(
                f"no law has an optimum at {sci(target)} FLOPs that can be written down",
                where="; ".join(f"{name}: {dict(fit.params)}" for name, fit in fits.items()),
                fix="add runs that show how loss depends on both N and D, and fit a law that "
                "allots compute (isoflop, chinchilla, kaplan)",
                evidence=fits,
            )
        law = next(name for name in fits if name in said)
        intervals: dict[str, Interval] = dict.fromkeys((*QUANTITIES, "a", "b"))
        if (mine := drawn[law]) is not None:
            best = mine.optimum(target)
            readings = dict(zip(QUANTITIES, (best.N, best.D, best.L, best.D / best.N), strict=True))
            readings |= {key: mine.values[key] for key in "ab" if key in mine.values}
            intervals |= {key: trusted(mine, value, level) for key, value in readings.items()}
        reach = target / fits[law].evidence_end
        return cls(target, law, said[law], intervals, found, reach)

    @property
    def structural(self) -> dict[str, list[float]]:
        """Lowest and highest that any member says that counts."""
        keys = (*QUANTITIES, "a", "b")
        return {key: ends for key in keys if (ends := spread(self.members, key)) is not None}

    @property
    def dominates(self) -> dict[str, str]:
        """By quantity, the larger source of doubt; left out where there is no interval."""
        return {
            key: CHOICE if _width(self.structural[key]) > _width(interval) else NOISE
            for key, interval in self.statistical.items()
            if interval is not None and key in self.structural
        }

    @property
    def intervals(self) -> dict[str, Interval]:
        """What is quoted: at each end the farther of both; None where the noise is unknown.

        The speaker may stand at an end of the spread of laws, so that the wider of the two
        alone would leave out its own noise on that side.
        """
        return {
            key: interval and _hull(interval, self.structural.get(key, interval))
            for key, interval in self.statistical.items()
        }

    def to_json(self) -> dict[str, Any]:
        """The record as JSON types, without the verdict."""
        return {
            "flops": self.flops,
            **{key: self.values[key] for key in QUANTITIES},
            "law": self.law,
            "intervals": self.intervals,
            "statistical": dict(self.statistical),
            "structural": self.structural,
            "dominates": self.dominates,
            "members": [m.to_json() for m in self.members],
            "reach": self.reach,
            "status": "extrapolated" if self.reach > 1 else "fitted",
        }


def _hull(one: list[float], other: list[float]) -> list[float]:
    return [min(one[0], other[0]), max(one[1], other[1])]


def _width(interval: list[float]) -> float:
    """As a share: ln of the upper end over the lower; infinite where that cannot be had."""
    low, high = interval
    return float(np.log(high / low)) if low > 0 else np.inf
