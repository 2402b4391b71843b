"""What the laws say of the target compute, side by side, and the noise to hold it against.

The first law that could be fitted speaks; the others, and the other forms of L*(C), are its
candidates for error. Statistical intervals come from the speaker's bootstrap, the structural
spread from the candidates.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from scalelab.errors import FitError
from scalelab.laws.base import LawFit, Observations, Replicates
from scalelab.laws.interval import Interval, trusted
from scalelab.units import sci

QUANTITIES = ("n_params", "n_tokens", "loss", "tokens_per_param")


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
        planned = np.where(np.isnan(runs.flops_planned), 0, runs.flops_planned)
        points = np.stack([planned, runs.N, runs.D], axis=1)
        _, which = np.unique(points, axis=0, return_inverse=True)
        which = which.ravel()
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
    """n_params, n_tokens, loss, tokens_per_param."""
    intervals: Mapping[str, Interval]
    """Of the same, statistical, at the study's level; None where it could not be had."""
    candidates: Mapping[str, Mapping[str, float]]
    """What each law and each of its forms says; a form of L* alone has only a loss."""
    reach: float
    """Target compute as a multiple of the largest in evidence."""

    @classmethod
    def of(
        cls,
        fits: Mapping[str, LawFit],
        drawn: Mapping[str, Replicates | None],
        target: float,
        level: float,
    ) -> "Forecast":
        """What the fits say of `target`; the first with an answer there speaks.

        Raises:
            FitError: None of them has one.
        """
        candidates: dict[str, dict[str, float]] = {}
        for name, fit in fits.items():
            best = fit.optimum(target)
            N, D, L = (float(np.ravel(value)[0]) for value in (best.N, best.D, best.L))
            if not np.isfinite([N, D, L]).all():
                continue
            candidates[name] = dict(zip(QUANTITIES, (N, D, L, D / N), strict=True))
            for form, loss in fit.frontiers(target).items():
                if loss != L:
                    candidates[f"{name}, {form} form"] = {"loss": loss}
        if not candidates:
            raise FitError(
                f"no law has an optimum at {sci(target)} FLOPs that can be written down",
                where="; ".join(f"{name}: {dict(fit.params)}" for name, fit in fits.items()),
                fix="add runs that show how loss depends on both N and D",
                evidence=fits,
            )
        law = next(name for name in fits if name in candidates)
        intervals: dict[str, Interval] = dict.fromkeys(QUANTITIES)
        if (mine := drawn[law]) is not None:
            best = mine.optimum(target)
            readings = zip(QUANTITIES, (best.N, best.D, best.L, best.D / best.N), strict=True)
            intervals = {key: trusted(mine, value, level) for key, value in readings}
        reach = target / fits[law].evidence_end
        return cls(target, law, candidates[law], intervals, candidates, reach)

    @property
    def structural(self) -> dict[str, list[float]]:
        """Lowest and highest that any law or form says."""
        return {
            key: [min(said), max(said)]
            for key in QUANTITIES
            if (said := [c[key] for c in self.candidates.values() if key in c])
        }
