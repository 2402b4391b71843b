"""Everything that `scalelab fit` says: laws, intervals, hold-out, forecast, verdict.

    study(observations, target_flops=1e21, param_count="total") -> Study

One law speaks for the forecast: the first of `laws` that could be fitted, by default isoFLOP,
because near the minimum it assumes no form of the surface. The others contradict it or not:
their spread is the structural uncertainty, which no bootstrap of one law can show.

Every number is measured, fitted or extrapolated, and says which. What could not be had is
None with its reason, never NaN.

Not here: judging (verdict.py), wording (summary.py), reading tables (the track room).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from scalelab.errors import DataError, FitError
from scalelab.laws import LAWS
from scalelab.laws.base import LawFit, Observations, Replicates
from scalelab.laws.forecast import QUANTITIES, Forecast, SeedNoise
from scalelab.laws.holdout import HoldOut, hold_out
from scalelab.laws.interval import TOO_MANY_FAILED, Interval, percentile, trusted
from scalelab.laws.isoflop import IsoFlopFit
from scalelab.laws.summary import summary
from scalelab.laws.verdict import Verdict, judge
from scalelab.units import PARAM_COUNTS

DEFAULT_REACH = 10.0  # the target, as a multiple of the largest budget, when none was named


@dataclass(frozen=True, eq=False)
class Study:
    """One set of runs, seen through every law."""

    runs: Observations
    param_count: str
    level: float
    seed: int
    excluded: tuple[tuple[str, str], ...]
    """Runs left out, each with its reason."""
    seed_noise: SeedNoise | None
    fits: Mapping[str, LawFit]
    refused: Mapping[str, str]
    """Laws that these runs cannot pin down, and why."""
    replicates: Mapping[str, Replicates | None]
    count: int
    """Replicates asked of each law."""
    holdout: HoldOut | str
    """The test, or why there is none."""
    forecast: Forecast
    verdict: Verdict

    def summary(self) -> str:
        """The study in words and numbers, for a terminal and for a report."""
        return summary(self)

    def intervals(self, law: str) -> dict[str, Interval]:
        """Interval of every constant of a law; empty where its evidence cannot be redrawn."""
        drawn = self.replicates[law]
        if drawn is None:
            return {}
        shown = {k: v for k, v in drawn.values.items() if k != "C0"}
        return {k: trusted(drawn, v, self.level) for k, v in shown.items()}

    def minima_intervals(self) -> list[dict[str, Interval]]:
        """For each interior minimum of the isoFLOP slices, the interval of each quantity."""
        fit = self.fits.get("isoflop")
        if not isinstance(fit, IsoFlopFit):
            return []
        drawn = fit.drawn(self.count, self.seed)
        if drawn is None:
            return [dict.fromkeys(QUANTITIES) for _ in fit.minima]
        _, N, D, L = drawn
        lost = np.mean(np.isnan(N), axis=0)
        readings = dict(zip(QUANTITIES, (N, D, L, D / N), strict=True))
        return [
            {
                key: percentile(value[:, k], self.level) if lost[k] <= TOO_MANY_FAILED else None
                for key, value in readings.items()
            }
            for k in range(len(fit.minima))
        ]

    def to_json(self) -> dict[str, Any]:
        """Schema 1 of `fit --json`, floats in full."""
        told = isinstance(self.holdout, HoldOut)
        return {
            "schema": 1,
            "level": self.level,
            "n_runs": len(self.runs),
            "excluded": [{"run": run, "reason": reason} for run, reason in self.excluded],
            "param_count": self.param_count,
            "runs": [str(run) for run in self.runs.run],
            "seed": self.seed,
            "seed_noise": self.seed_noise
            and {"sd": self.seed_noise.sd, "dof": self.seed_noise.dof},
            "evidence": {
                key: [float(value.min()), float(value.max())]
                for key, value in (
                    ("n_params", self.runs.N),
                    ("n_tokens", self.runs.D),
                    ("flops", self.runs.C),
                    ("loss", self.runs.L),
                )
            },
            "laws": {name: self._law_json(name) for name in self.fits},
            "refused": dict(self.refused),
            "holdout": self.holdout.to_json() if told else None,
            "holdout_absent": None if told else self.holdout,
            "forecast": {
                "flops": self.forecast.flops,
                **self.forecast.values,
                "law": self.forecast.law,
                "intervals": dict(self.forecast.intervals),
                "structural": self.forecast.structural,
                "candidates": {k: dict(v) for k, v in self.forecast.candidates.items()},
                "reach": self.forecast.reach,
                "status": "extrapolated" if self.forecast.reach > 1 else "fitted",
                "verdict": str(self.verdict),
                "grade": self.verdict.grade,
                "reasons": list(self.verdict.reasons),
            },
        }

    def _law_json(self, name: str) -> dict[str, Any]:
        found, drawn = self.fits[name].to_json(), self.replicates[name]
        found["intervals"] = self.intervals(name)
        found["standard_errors"] = {
            key: _finite(np.std(value, ddof=1))
            for key, value in (drawn.values if drawn else {}).items()
            if key != "C0" and value.size > 1
        }
        found["bootstrap"] = drawn and drawn.to_json()
        found["warnings"] += list(drawn.notes) if drawn else []
        if "minima" in found:
            interior = [m for m in found["minima"] if m["refused"] is None]
            for minimum, intervals in zip(interior, self.minima_intervals(), strict=True):
                minimum["intervals"] = intervals
        return found


def study(
    observations: Observations,
    *,
    target_flops: float | None,
    param_count: str,
    level: float = 0.9,
    replicates: int = 1000,
    seed: int = 0,
    laws: Sequence[str] = ("isoflop", "chinchilla"),
    excluded: Sequence[tuple[str, str]] = (),
) -> Study:
    """Every law on these runs, and what they say together of `target_flops`.

    Args:
        observations: The runs to fit.
        target_flops: Compute to forecast; None takes 10x the largest budget.
        param_count: Which count N is; a key of units.PARAM_COUNTS.
        level: Of every interval, between 0 and 1.
        replicates: Bootstrap replicates of each law.
        seed: Of the bootstrap.
        laws: Names in LAWS; the first that can be fitted speaks for the forecast.
        excluded: Runs left out beforehand, each with its reason; reported, not used.

    Raises:
        FitError: No law could be fitted; the message says why of each.
    """
    _check(param_count, level, replicates, target_flops, laws)
    asked = {name: LAWS[name]() for name in laws}
    fits: dict[str, LawFit] = {}
    refusals: dict[str, FitError] = {}
    for name, law in asked.items():
        try:
            fits[name] = law.fit(observations)
        except FitError as error:
            refusals[name] = error
    if not fits:
        raise FitError(
            f"no law can be fitted to these {len(observations)} runs",
            where="\n         ".join(f"{k}: {e.problem} ({e.where})" for k, e in refusals.items()),
            fix="; ".join(dict.fromkeys(error.fix for error in refusals.values())),
            evidence=refusals,
        )
    target = DEFAULT_REACH * observations.largest_budget if target_flops is None else target_flops
    drawn = {name: fit.replicates(replicates, seed) for name, fit in fits.items()}
    tested = hold_out(observations, asked)
    forecast = Forecast.of(fits, drawn, target, level)
    noise = SeedNoise.of(observations)
    verdict = judge(
        forecast, fits, {k: e.problem for k, e in refusals.items()}, drawn, tested, noise
    )
    return Study(
        observations,
        param_count,
        level,
        seed,
        tuple((str(run), str(reason)) for run, reason in excluded),
        noise,
        fits,
        {name: f"{error.problem} ({error.where})" for name, error in refusals.items()},
        drawn,
        replicates,
        tested,
        forecast,
        verdict,
    )


def _check(
    param_count: str, level: float, replicates: int, target: float | None, laws: Sequence[str]
) -> None:
    where = "the settings of the fit"
    if param_count not in PARAM_COUNTS:
        fix = f"use one of: {', '.join(PARAM_COUNTS)}"
        raise DataError(f"unknown parameter count {param_count!r}", where=where, fix=fix)
    if not 0 < level < 1:
        raise DataError(f"level {level} is not between 0 and 1", where=where, fix="use 0.9")
    if replicates < 1:
        raise DataError(f"{replicates} replicates", where=where, fix="use 1000")
    if target is not None and not (np.isfinite(target) and target > 0):
        fix = "name a positive number of FLOPs"
        raise DataError(f"target_flops is {target}", where=where, fix=fix)
    if not laws or len(set(laws)) < len(laws):
        fix = f"name each law once: {', '.join(LAWS)}"
        raise DataError(f"laws are {list(laws)}", where=where, fix=fix)


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
