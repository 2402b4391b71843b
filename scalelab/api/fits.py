"""Reading runs and fitting laws from Python.

    runs = scalelab.read_runs("runs.csv")
    result = scalelab.fit(runs, target=1e22)
    result.to_frame(); result.plot_valleys(); result

Not here: the laws (laws/), the study (study/), what a report says (report/fit/).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from scalelab.api.notebook_figures import draw
from scalelab.errors import ConfigError, DataError
from scalelab.files import runs_directory
from scalelab.records.mixture_table import is_mixture_table
from scalelab.records.runs import Runs, read_external, read_sweep, refuse_table_settings
from scalelab.records.table_bytes import has_table_ending
from scalelab.records.table_units import TableUnits
from scalelab.report.document import Document
from scalelab.report.fit.directory import write_fit
from scalelab.report.fit.document import QUANTITIES, fit_document
from scalelab.report.fit.page import figure_data
from scalelab.report.render.html import render_html
from scalelab.report.render.terminal import render_terminal
from scalelab.study.from_table import columns_read
from scalelab.study.request import FitRequest, fit_evidence
from scalelab.study.study import DEFAULT_LAWS, Study

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


def read_runs(
    source: "str | Path | pd.DataFrame",
    *,
    columns: Mapping[str, str] | None = None,
    param_count: str | None = None,
    laws: str | Sequence[str] = DEFAULT_LAWS,
    decimal: Literal["point", "comma"] | None = None,
    units: Mapping[str, str | float] | None = None,
) -> Runs:
    """Return the runs of a sweep or of an external table, checked.

    Args:
        source: Name of a sweep below runs/, path of a table (CSV, Excel, JSON, JSONL, parquet, feather), or
            a DataFrame.
        columns: Names of columns in the table by our names, such as {"n_params": "N"}; None: our names, and
            names of one clear meaning. How the table was read is in `evidence.reading` of the result.
        param_count: Which count of parameters is N: total, non_embedding, matmul or active; None: the
            source's own.
        laws: Laws that will be fitted; the columns that they need are read.
        decimal: Decimal sign of numbers in text, point or comma; None: as the cells show.
        units: Units of columns in the table, such as {"n_params": "M", "loss": "bits"}, or numbers to multiply
            them by; None: parameters, tokens, FLOPs of the training, nats per token.

    Raises:
        ConfigError: A unit is unknown, or given for the runs of a sweep; or the runs are on mixtures.
        TrackError: There is no such sweep.
        DataError: The table cannot be read, or its rows are no evidence for a law.
    """
    laws = (laws,) if isinstance(laws, str) else laws
    _refuse_mixtures(source, laws)
    if isinstance(source, str | Path):
        root = runs_directory()
        path = Path(source)
        if not has_table_ending(path) and (not path.exists() or (root / path).is_dir()):
            refuse_table_settings(units=units, columns=columns, decimal=decimal)
            return read_sweep(root, str(source), param_count)
        source = path
    stated = TableUnits.parse(units)
    return read_external(source, columns or {}, columns_read(laws), param_count, decimal, stated)


def fit(
    runs: "Runs | str | Path | pd.DataFrame",
    request: FitRequest | None = None,
    *,
    target: float | None = None,
    laws: str | Sequence[str] = DEFAULT_LAWS,
    replicates: int = 4000,
    profile: bool = False,
) -> "FitResult":
    """Fit scaling laws to runs and return the forecast with intervals, a hold-out test and a verdict.

    Args:
        runs: Runs of read_runs, or a source that read_runs takes.
        request: The request, with every setting; None: made of the arguments below.
        target: Training compute of the forecast, FLOPs; None: that of the sweep, or ten times the
            largest budget.
        laws: Laws to fit; the first that can be fitted makes the forecast.
        replicates: Bootstrap replicates; 0 for no intervals.
        profile: Whether intervals by profile likelihood are added, which takes seconds.

    Raises:
        ConfigError: The runs are on mixtures.
        FitError: No law can be fitted to these runs.
        DataError: The runs are no evidence for a law.
    """
    _refuse_mixtures(runs, (laws,) if isinstance(laws, str) else laws)
    if request is None:
        request = FitRequest.of(laws, target_flops=target, replicates=replicates, profile=profile)
    if not isinstance(runs, Runs):
        runs = read_runs(runs, laws=request.laws)
    if request.target_flops is None:
        request = replace(request, target_flops=runs.target_flops)
    return FitResult(runs, fit_evidence(runs.evidence, request))


def _refuse_mixtures(source: object, laws: Sequence[str]) -> None:
    """Refuse runs on mixtures, which have laws of their own. Raises ConfigError."""
    is_asked = "mixture" in laws
    if is_asked or (isinstance(source, str | Path) and is_mixture_table(Path(source))):
        raise ConfigError(
            "mixture laws are fitted by themselves" if is_asked else f"{source} holds runs on mixtures",
            where="scalelab.fit",
            fix=f"call scalelab.fit_mixture({str(source)!r})"
            if isinstance(source, str | Path)
            else "call scalelab.fit_mixture with the name of a sweep or the path of a table",
        )


@dataclass(frozen=True, eq=False)
class FitResult:
    """Fitted laws and their forecast."""

    runs: Runs
    """The runs that were fitted."""
    study: Study
    """Fits, intervals, hold-out, forecast and verdict in full."""

    @property
    def verdict(self) -> str:
        """How far the forecast can be trusted: the grade, and the gravest reason."""
        return str(self.study.verdict)

    def to_frame(self) -> "pd.DataFrame":
        """Return the forecast, one row a quantity: best value, both ends of each interval, unit, kind."""
        import pandas as pd

        forecast = self.study.forecast
        rows = []
        for key, symbol, _, unit in QUANTITIES:
            if key not in forecast.values:
                continue
            row: dict[str, Any] = {"quantity": key, "symbol": symbol, "best": forecast.values[key]}
            for name, ends in (
                ("quoted", forecast.intervals[key]),
                ("noise", forecast.statistical[key]),
                ("laws", forecast.structural.get(key)),
                ("calibrated", forecast.calibrated.get(key)),
            ):
                row[f"{name}_low"], row[f"{name}_high"] = (None, None) if ends is None else ends
            kind = "extrapolated" if forecast.reach > 1 else "fitted"
            rows.append({**row, "unit": unit, "kind": kind, "level": self.study.level})
        return pd.DataFrame(rows).set_index("quantity")

    def to_document(self) -> Document:
        """Return what the command line would show, as a Document."""
        return fit_document(self.study, self.runs.name)

    def write_report(self, out: str | Path | None = None, *, draws: bool = False) -> Path:
        """Write the report as `scalelab fit` does and return its page. A fit of a sweep is copied to MLflow.

        Args:
            out: Directory of the report; None: reports/NAME.
            draws: Whether every bootstrap replicate is written too.

        Raises:
            RunError: A file cannot be written.
        """
        folder = None if out is None else Path(out)
        return write_fit(self.study, self.runs, runs_directory(), folder, draws=draws)

    def plot_valleys(self) -> "Axes":
        """Draw loss against size at equal compute, and return the axes."""
        return self._drawn("valleys")[0]

    def plot_frontier(self) -> "Axes":
        """Draw the lowest loss against compute, and return the axes."""
        return self._drawn("frontier")[0]

    def plot_allocation(self) -> "list[Axes]":
        """Draw N* and D* against compute, and return both axes."""
        return self._drawn("allocation")

    def _drawn(self, figure: str) -> "list[Axes]":
        data = figure_data(self.study, ())[figure]
        if data is None:
            raise DataError(
                f"these runs have no {figure} figure",
                where=self.runs.name,
                fix="fit the law that it shows: isoflop for valleys, which needs isoFLOP budgets",
            )
        return draw(figure, data)

    def __str__(self) -> str:
        return render_terminal(self.to_document())

    def _repr_html_(self) -> str:
        return render_html(self.to_document())
