"""Comparing recipes from Python.

    found = scalelab.compare("baseline", "variant")     sweeps, tables or Runs
    found.verdict; found.to_frame(); found

Not here: the comparison (comparison/), what a report says (report/comparison/).
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from scalelab.api.fits import read_runs
from scalelab.comparison.arms import UNITS, arm_of, refuse_shared
from scalelab.comparison.tuned_rates import arm_tuning
from scalelab.comparison.verdict import CompareRequest, RecipeComparison, compare_arms
from scalelab.errors import DataError
from scalelab.files import runs_directory
from scalelab.records.evaluation_text import evaluated_on
from scalelab.records.runs import Runs, read_external
from scalelab.records.table_bytes import has_table_ending
from scalelab.records.table_units import TableUnits
from scalelab.records.tried_rates import tried_rates
from scalelab.report.comparison.document import comparison_document
from scalelab.report.comparison.page import write_comparison
from scalelab.report.comparison.plot_data import multiplier_curve, recipe_frontiers
from scalelab.report.document import Document
from scalelab.report.plots.render_workers import RenderWorkers
from scalelab.report.render.html import render_html
from scalelab.report.render.terminal import render_terminal
from scalelab.study.from_table import columns_read

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

REPORTS = Path("reports")
"""Parent of the directories of reports."""


def compare(
    baseline: "Runs | str | Path | pd.DataFrame",
    *challengers: "Runs | str | Path | pd.DataFrame",
    request: CompareRequest | None = None,
    names: Sequence[str] = (),
    columns: Mapping[str, str] | None = None,
    param_count: str | None = None,
    units: Mapping[str, str | float] | None = None,
    decimal: Literal["point", "comma"] | None = None,
    **settings: Any,
) -> "ComparisonResult":
    """Compare recipes with a baseline: compute multipliers with intervals, and a verdict on each.

    Args:
        baseline: Runs of the recipe whose compute is the unit: a sweep, a table, a DataFrame or Runs.
        challengers: Runs of the other recipes; a single rung will do.
        request: The request, with every setting; None: made of `settings`.
        names: Names of all recipes, the baseline first; empty: those of the sources.
        columns: Names of columns in tables, as in read_runs.
        param_count: Which count of parameters is N; None: that of the sources.
        units: Units of columns in tables, as in read_runs.
        decimal: Decimal sign of numbers in tables, as in read_runs.
        **settings: Fields of CompareRequest, such as noise=0.01 or min_gain=1.05.

    Raises:
        ConfigError: A setting is impossible, or there is no challenger.
        DataError: The losses or counts of two recipes are different quantities, or they share runs.
        FitError: No shared compute, no noise estimate, or no joint law.
    """
    if request is None:
        request = CompareRequest.of(**settings)
    sources = [
        _read(source, request, columns=columns, param_count=param_count, units=units, decimal=decimal)
        for source in (baseline, *challengers)
    ]
    root = runs_directory()
    arms = [
        replace(
            arm_of(runs, evaluated_on(runs, root), request.metric),
            tuning=arm_tuning(tried_rates(root, runs.name) if runs.is_sweep else ()),
        )
        for runs in sources
    ]
    if names and len(names) != len(arms):
        raise DataError(
            f"{len(names)} names for {len(arms)} recipes",
            where=", ".join(names),
            fix="name all of them, the baseline first, or none",
        )
    called = list(names) or _names(sources)
    arms = [replace(arm, name=name) for arm, name in zip(arms, called, strict=True)]
    refuse_shared(arms, [runs.is_sweep for runs in sources])
    return ComparisonResult(tuple(sources), compare_arms(arms[0], arms[1:], request))


def _read(source: Any, request: CompareRequest, *, units: Any, **settings: Any) -> Runs:
    """The runs of a source, with the columns that a comparison reads."""
    if isinstance(source, Runs):
        return source
    is_name = isinstance(source, str | Path) and not has_table_ending(source)
    if is_name and (not Path(source).exists() or (runs_directory() / source).is_dir()):
        return read_runs(source, param_count=settings["param_count"])
    more = (*columns_read((request.law,)), *(("bpb",) if request.metric == "bpb" else ()))
    source = Path(source) if isinstance(source, str) else source
    columns = dict(settings["columns"] or {})
    return read_external(
        source, columns, more, settings["param_count"], settings["decimal"], TableUnits.parse(units)
    )


def _names(sources: Sequence[Runs]) -> list[str]:
    """Names of the sources; those that several share are numbered."""
    stems = [runs.stem for runs in sources]
    return [stem if stems.count(stem) == 1 else f"{stem} {k}" for k, stem in enumerate(stems, 1)]


@dataclass(frozen=True, eq=False)
class ComparisonResult:
    """Recipes compared with a baseline."""

    runs: tuple[Runs, ...]
    """The runs of each recipe, the baseline first."""
    comparison: RecipeComparison
    """Fits, intervals, tests and verdicts in full."""

    @property
    def verdict(self) -> str:
        """promote, tie or reject."""
        return self.comparison.verdict

    @property
    def exit_status(self) -> int:
        """0 promote, 3 tie, 4 reject: the exit status of the command."""
        return self.comparison.exit_status

    def to_frame(self) -> "pd.DataFrame":
        """Return one row a challenger and rung: multiplier, interval, difference in loss, verdict.

        A multiplier beyond the baseline's runs is NaN, with what it is above or below beside it; so are ends of
        its interval.
        """
        import pandas as pd

        def number(value: float | None) -> float:
            return math.nan if value is None else value

        rows = []
        for judged in self.comparison.pairs:
            for rung in judged.pair.rungs:
                rows.append(
                    {
                        "challenger": judged.name,
                        "flops": rung.flops,
                        "multiplier": number(rung.multiplier.value),
                        "multiplier_above": number(rung.multiplier.above),
                        "multiplier_below": number(rung.multiplier.below),
                        "low": number(rung.multiplier.low),
                        "high": number(rung.multiplier.high),
                        "loss_difference": rung.difference,
                        "noise_floor": rung.floor,
                        "rung_verdict": rung.verdict,
                        "verdict": judged.verdict,
                        "unit": UNITS[self.comparison.request.metric],
                        "kind": rung.kind,
                        "difference_kind": self.comparison.kind,
                        "floor_kind": judged.pair.kinds["noise_floor"],
                    }
                )
        return pd.DataFrame(rows)

    def to_document(self) -> Document:
        """Return what the command line would show, as a Document."""
        return comparison_document(self.comparison)

    def write_report(self, out: str | Path | None = None, *, workers: RenderWorkers | None = None) -> Path:
        """Write the report as `scalelab compare` does and return its page.

        Args:
            out: Directory of the report; None: reports/compare-NAMES.
            workers: Processes that draw the figures; None: this process.

        Raises:
            RunError: A file cannot be written.
        """
        folder = REPORTS / self.stem if out is None else Path(out)
        provenance = {
            f"{arm.name}, {key}": value
            for arm, runs in zip(self._arms, self.runs, strict=True)
            for key, value in runs.provenance.items()
        }
        return write_comparison(self.comparison, folder, provenance=provenance, workers=workers)

    @property
    def stem(self) -> str:
        """Name of the directory of a report."""
        names = "-".join(re.sub(r"[^A-Za-z0-9_.-]+", "_", arm.name) for arm in self._arms)
        return f"compare-{names}"[:120]

    def plot_multiplier(self, challenger: int = 0) -> "Axes":
        """Draw the multiplier of a challenger by compute, and return the axes."""
        from scalelab.api.notebook_figures import draw

        judged = self.comparison.pairs[challenger]
        return draw("compare_multiplier", multiplier_curve(self.comparison, judged))[0]

    def plot_frontiers(self, challenger: int = 0) -> "Axes":
        """Draw the frontiers of a challenger and the baseline, and return the axes."""
        from scalelab.api.notebook_figures import draw

        judged = self.comparison.pairs[challenger]
        return draw("compare_frontiers", recipe_frontiers(self.comparison, judged))[0]

    @property
    def _arms(self) -> list[Any]:
        return [self.comparison.baseline, *(each.pair.other for each in self.comparison.pairs)]

    def __str__(self) -> str:
        return render_terminal(self.to_document())

    def _repr_html_(self) -> str:
        return render_html(self.to_document())
