"""Everything that `scalelab fit` reports: laws, intervals, hold-out, forecast, verdict.

    study(observations, target_flops=1e21, param_count="total") -> Study

One law makes the forecast: the first of `laws` that could be fitted, by default the average of soft-max
laws, which was the least wrong on public tables (analysis/backtest.md). The others contradict it or not:
their spread is the structural uncertainty, which no bootstrap of one law can show.

Every number is measured, simulated, fitted or extrapolated, and says which. What could not be
had is None with its reason, never NaN.

Not here: the verdict (verdict.py), texts (report/fit/), reading tables (records/).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from scalelab.errors import DataError, FitError
from scalelab.laws import LAWS
from scalelab.laws.base import LawFit, Replicates
from scalelab.laws.description import Influence, Interval
from scalelab.laws.observations import Observations
from scalelab.laws.uncertainty.bootstrap import TOO_MANY_FAILED, percentile, trusted
from scalelab.laws.uncertainty.influence import report_influence
from scalelab.laws.uncertainty.model_uncertainty import QUANTITIES, AlternativeFit, alternatives
from scalelab.records.table_reading import TableReading
from scalelab.study.forecast import Forecast, SeedNoise
from scalelab.study.holdout import HoldOut, hold_out
from scalelab.study.quality.control import quality_control
from scalelab.study.quality.finding import QualityFinding
from scalelab.study.quality.replication import seeds_are_comparable
from scalelab.study.verdict import Verdict, judge
from scalelab.units import FLOP_COUNTS, PARAM_COUNTS

DEFAULT_LAWS = ("averaged", "isoflop", "chinchilla", "kaplan")
LEVEL = 0.9  # of intervals
DEFAULT_REACH = 10.0  # the target, as a multiple of the largest budget, when none was named
KINDS = ("measured", "simulated")


@dataclass(frozen=True, eq=False)
class Study:
    """One set of runs, seen through every law."""

    runs: Observations
    kind: str
    """What the losses are, one of KINDS."""
    param_count: str
    flop_count: str
    level: float
    seed: int
    excluded: tuple[tuple[str, str], ...]
    """Runs left out, each with its reason."""
    findings: tuple[QualityFinding, ...]
    """What the quality control of the evidence found."""
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
    influences: Mapping[str, tuple[Influence, ...]]
    """By surface: what single runs, and its outliers together, do to it."""
    others: tuple[AlternativeFit, ...] = ()
    """Choices and windows of the laws, which the forecast of another target can ask without fitting them again."""
    profiles: Mapping[str, Mapping[str, list[float | None]]] = field(default_factory=dict)
    """By law and quantity, where asked for: intervals by profile likelihood."""
    reading: TableReading | None = None
    """How the table of runs was read; None for the runs of a sweep."""

    def intervals(self, law: str) -> dict[str, Interval]:
        """Interval of every constant of a law; empty where its evidence cannot be redrawn."""
        drawn = self.replicates[law]
        if drawn is None:
            return {}
        shown = {k: v for k, v in drawn.values.items() if k != "C0"}
        return {k: trusted(drawn, v, self.level) for k, v in shown.items()}

    def standard_errors(self, law: str) -> dict[str, float | None]:
        """Standard deviation of every constant over the replicates of a law; None where it overflows."""
        drawn = self.replicates[law]
        with np.errstate(all="ignore"):
            return {
                key: _finite(np.std(value, ddof=1))
                for key, value in (drawn.values if drawn else {}).items()
                if key != "C0" and value.size > 1
            }

    def correlations(self, law: str) -> dict[tuple[str, str], float]:
        """Correlation of the constants of a law over its replicates, on a log scale."""
        drawn, fit = self.replicates[law], self.fits[law]
        names = fit.correlated
        if drawn is None or not names:
            return {}
        with np.errstate(all="ignore"):
            logs = np.array([np.log(drawn.values[name]) for name in names])
            logs = logs[:, np.isfinite(logs).all(axis=0)]
            matrix = np.corrcoef(logs) if logs.shape[1] > 2 else np.full(2 * [len(names)], np.nan)
        return {
            (names[i], names[j]): float(matrix[i, j])
            for i in range(len(names))
            for j in range(i)
            if np.isfinite(matrix[i, j])
        }

    def influential(self, law: str) -> tuple[str, ...]:
        """What a reader must know of single runs, one sentence each."""
        fit = self.fits[law]
        return report_influence(self.influences[law], fit) if law in self.influences else ()

    @property
    def sliced(self) -> str | None:
        """The first law whose fit goes through isoFLOP slices; None without one."""
        return next((name for name, fit in self.fits.items() if fit.slices), None)

    def minima_intervals(self, law: str) -> list[dict[str, Interval]]:
        """For each interior minimum of a law's slices, the interval of each quantity."""
        fit = self.fits[law]
        drawn = fit.drawn(self.count, self.seed) if self.count else None
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

    def draws(self) -> Iterator[tuple[str, int, str, float]]:
        """Every bootstrap draw, tidy: law, replicate, quantity, value.

        Replicates that failed have no rows; the optimum is that at the target.
        """
        for name, drawn in self.replicates.items():
            if drawn is None:
                continue
            columns = dict(drawn.values)
            best = drawn.optimum(self.forecast.flops)
            if best is not None:
                columns |= {"n_params": best.N, "n_tokens": best.D, "loss": best.L}
            for quantity, values in columns.items():
                for replicate, value in enumerate(values):
                    yield name, replicate, quantity, float(value)

    def to_json(self) -> dict[str, Any]:
        """Schema 1 of `fit --json`, floats in full."""
        told = isinstance(self.holdout, HoldOut)
        return {
            "schema": 1,
            "level": self.level,
            "n_runs": len(self.runs),
            "kind": self.kind,
            "read": self.reading and self.reading.to_json(),
            "excluded": [{"run": run, "reason": reason} for run, reason in self.excluded],
            "findings": [finding.to_json() for finding in self.findings],
            "param_count": self.param_count,
            "flop_count": self.flop_count,
            "runs": [str(run) for run in self.runs.run],
            "seed": self.seed,
            "seed_noise": self.seed_noise and {"sd": self.seed_noise.sd, "dof": self.seed_noise.dof},
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
                **self.forecast.to_json(),
                "verdict": str(self.verdict),
                "grade": self.verdict.grade,
                "reasons": list(self.verdict.reasons),
            },
        }

    def _law_json(self, name: str) -> dict[str, Any]:
        found, drawn = self.fits[name].to_json(), self.replicates[name]
        found["intervals"] = self.intervals(name)
        found["standard_errors"] = self.standard_errors(name)
        found["correlations"] = {
            f"{one},{other}": value for (one, other), value in self.correlations(name).items()
        }
        if name in self.influences:
            found["influence"] = [one.to_json() for one in self.influences[name]]
        if name in self.profiles:
            found["profiles"] = {key: list(ends) for key, ends in self.profiles[name].items()}
        found["bootstrap"] = drawn and drawn.to_json()
        found["warnings"] += list(drawn.notes) if drawn else []
        if self.fits[name].slices and "minima" in found:
            interior = [m for m in found["minima"] if m["refused"] is None]
            for minimum, intervals in zip(interior, self.minima_intervals(name), strict=True):
                minimum["intervals"] = intervals
        return found


def study(
    observations: Observations,
    *,
    target_flops: float | None,
    param_count: str,
    flop_count: str = "exact",
    kind: str = "measured",
    level: float = LEVEL,
    replicates: int = 4000,
    seed: int = 0,
    laws: Sequence[str] = DEFAULT_LAWS,
    excluded: Sequence[tuple[str, str]] = (),
    findings: Sequence[QualityFinding] = (),
    with_profiles: bool = False,
) -> Study:
    """Every law on these runs, and what they say together of `target_flops`.

    Args:
        observations: The runs to fit.
        target_flops: Compute to forecast; None takes 10x the largest budget.
        param_count: Which count N is; a key of units.PARAM_COUNTS.
        flop_count: Which count C is; a key of FLOP_COUNTS.
        kind: What the losses are, one of KINDS.
        level: Of every interval, between 0 and 1.
        replicates: Bootstrap replicates of each law; 0 for none, and no intervals.
        seed: Of the bootstrap.
        laws: Names in LAWS; the first that can be fitted makes the forecast.
        excluded: Runs left out beforehand, each with its reason; reported, not used.
        findings: Findings of checks made beforehand.
        with_profiles: Whether to add intervals by profile likelihood.

    Raises:
        FitError: No law could be fitted; the message says why of each.
    """
    _check(param_count, flop_count, kind, level, replicates, target_flops, laws)
    runs, found = quality_control(observations)
    findings = (*findings, *found)
    left_out = [(str(run), str(reason)) for run, reason in excluded]
    left_out += [(run, f.reason) for f in findings if f.excluded for run in f.runs]
    asked = {name: LAWS[name]() for name in laws}
    fits: dict[str, LawFit] = {}
    refusals: dict[str, FitError] = {}
    for name, law in asked.items():
        try:
            fits[name] = law.fit(runs)
        except FitError as error:
            refusals[name] = error
    if not fits:
        raise FitError(
            f"no law can be fitted to these {len(runs)} runs",
            where="\n         ".join(f"{k}: {e.problem} ({e.where})" for k, e in refusals.items()),
            fix="; ".join(dict.fromkeys(error.fix for error in refusals.values())),
            evidence=refusals,
        )
    target = DEFAULT_REACH * runs.largest_budget if target_flops is None else target_flops
    drawn = {name: fit.replicates(replicates, seed) if replicates else None for name, fit in fits.items()}
    tested = hold_out(runs, asked)
    others = alternatives(runs, asked, fits)
    forecast = Forecast.of(runs, asked, fits, drawn, target, level, others)
    noise = SeedNoise.of(runs) if seeds_are_comparable(findings) else None
    verdict = judge(
        forecast,
        fits,
        {k: e.problem for k, e in refusals.items()},
        drawn,
        tested,
        noise,
        tuple(f.reason for f in findings if f.grave and not f.disqualifying),
        replicates,
        tuple(f.reason for f in findings if f.disqualifying),
    )
    return Study(
        runs=runs,
        kind=kind,
        param_count=param_count,
        flop_count=flop_count,
        level=level,
        seed=seed,
        excluded=tuple(left_out),
        findings=findings,
        seed_noise=noise,
        fits=fits,
        refused={name: f"{error.problem} ({error.where})" for name, error in refusals.items()},
        replicates=drawn,
        count=replicates,
        holdout=tested,
        forecast=forecast,
        verdict=verdict,
        others=others,
        influences=_answers({name: fit.influence() for name, fit in fits.items()}),
        profiles=_answers({name: fit.profiles(target, level) for name, fit in fits.items()})
        if with_profiles
        else {},
    )


def _check(
    param_count: str,
    flop_count: str,
    kind: str,
    level: float,
    replicates: int,
    target: float | None,
    laws: Sequence[str],
) -> None:
    where = "the settings of the fit"
    for what, value, known in (
        ("parameter count", param_count, PARAM_COUNTS),
        ("FLOP count", flop_count, FLOP_COUNTS),
        ("kind of evidence", kind, KINDS),
    ):
        if value not in known:
            fix = f"use one of: {', '.join(known)}"
            raise DataError(f"unknown {what} {value!r}", where=where, fix=fix)
    if not 0 < level < 1:
        raise DataError(
            f"level {level} is not between 0 and 1",
            where=where,
            fix="give a share between 0 and 1, such as 0.9",
        )
    if replicates < 0:
        fix = "use 4000, or 0 for no intervals"
        raise DataError(f"{replicates} replicates", where=where, fix=fix)
    if target is not None and not (np.isfinite(target) and target > 0):
        fix = "name a positive number of FLOPs"
        raise DataError(f"target_flops is {target}", where=where, fix=fix)
    if not laws or len(set(laws)) < len(laws):
        fix = f"name each law once: {', '.join(LAWS)}"
        raise DataError(f"laws are {list(laws)}", where=where, fix=fix)


def _answers(asked: Mapping[str, Any]) -> dict[str, Any]:
    """The answers of those that could answer."""
    return {name: answer for name, answer in asked.items() if answer is not None}


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
