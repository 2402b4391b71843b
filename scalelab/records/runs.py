"""The runs of a source, ready to be fitted: a sweep by its name, or an external table.

    read_runs("isoflop")    runs/isoflop, by its run directories
    read_runs("runs.csv")   an external table

Not here: which rows are evidence and why (evidence.py), reading files (external_table.py).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scalelab.errors import ConfigError
from scalelab.records.evidence import Evidence, evidence
from scalelab.records.external_table import named_table, read_table
from scalelab.records.table_units import TableUnits
from scalelab.units import PARAM_COUNTS

if TYPE_CHECKING:
    import pandas as pd

SIMULATED = "simulated: drawn from a known law, not trained"


@dataclass(frozen=True, eq=False)
class Runs:
    """The runs of one source: the table, what of it is evidence, and where it came from."""

    name: str
    """Name of the sweep, or file name of the table."""
    table: Any
    """Every run, a pandas DataFrame."""
    evidence: Evidence
    """The runs that a law may be fitted to."""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """Source of the runs, for the report."""
    target_flops: float | None = None
    """Training compute that the sweep is extrapolated to, FLOPs; None: not set."""
    is_sweep: bool = False
    """Whether the runs belong to a sweep."""
    counts: Sequence[str] = ()
    """Counts of parameters that every run recorded."""
    path: str | None = None
    """Path of the table; None for a sweep and for a DataFrame."""
    asked_count: str | None = None
    """Count of parameters that was asked for; None: nobody asked, and `evidence.param_count` is the source's."""

    @property
    def stem(self) -> str:
        """Name of the directory of a report."""
        return self.name if self.is_sweep else Path(self.name).stem

    def by_count(self) -> dict[str, Any]:
        """Return the table of evidence under each count of parameters that was recorded."""
        if not self.counts:
            return {self.evidence.param_count: self.evidence.table}
        where = "the run table" if self.is_sweep else self.name
        found = {c: evidence(self.table, c, where, self.evidence.reading) for c in self.counts}
        return {count: each.table for count, each in found.items()}


def read_external(
    source: "Path | pd.DataFrame",
    columns: Mapping[str, str],
    laws_columns: Sequence[str],
    param_count: str | None,
    decimal: str | None = None,
    units: TableUnits | None = None,
) -> Runs:
    """Return the runs of an external table.

    Args:
        source: The table: a file, or a DataFrame.
        columns: Names in the table by our names.
        laws_columns: Columns that only single laws read.
        param_count: Which count of parameters n_params is; None: the table's own.
        decimal: Decimal sign of numbers in text, point or comma; None: as the cells show.
        units: Units of its columns; None: ours.

    Raises:
        DataError: The file cannot be read as a table.
        DataError: Its rows are no evidence.
    """
    where = str(source) if isinstance(source, Path) else "the DataFrame"
    units = units or TableUnits()
    if isinstance(source, Path):
        table, reading = read_table(source, columns, tuple(laws_columns), decimal, units.names)
    else:
        table, reading = named_table(source, columns, laws_columns, where, decimal, units.names)
    table = units.apply(table, where, reading.conversions)
    seen = evidence(table, param_count, where, reading)._replace(where=where, units=units)
    simulated = {"evidence": SIMULATED} if seen.kind == "simulated" else {}
    return Runs(
        source.name if isinstance(source, Path) else "table",
        table,
        seen,
        simulated | {"table": where},
        counts=[count for count in PARAM_COUNTS if f"n_params_{count}" in table],
        path=where if isinstance(source, Path) else None,
        asked_count=param_count,
    )


def refuse_table_settings(**settings: Any) -> None:
    """Raise ConfigError where settings that say how a table is read are given for a sweep."""
    given = [f"--{name}" for name, value in settings.items() if value]
    if given:
        raise ConfigError(
            f"{' and '.join(given)} {'are' if len(given) > 1 else 'is'} for tables, and the runs are those of a "
            "sweep",
            where=", ".join(f"{name} = {str(value)[:80]}" for name, value in settings.items() if value),
            fix=f"leave {' and '.join(given)} out, or name a table",
        )


def read_sweep(root: Path, name: str | None, param_count: str | None) -> Runs:
    """Return the runs of a sweep.

    Args:
        root: Directory of all runs.
        name: Name of the sweep; None: the only one.
        param_count: Which count of parameters is N; None: that of the sweep.

    Raises:
        ConfigError: No name is given and there are several sweeps, or none.
        TrackError: There is no such sweep.
        DataError: Its runs are no evidence.
    """
    from scalelab.records.run_table import run_table
    from scalelab.records.sweep_manifest import SweepManifest

    name = name or only_sweep(root, "fit")
    manifest = SweepManifest.load(root, name)
    manifest.refuse_tuned()
    table = run_table(root, name)
    seen = evidence(table, param_count or manifest.param_count)._replace(where=f"the sweep {name}")
    used = seen.table
    return Runs(
        name,
        table,
        seen,
        {
            "sweep": name,
            "question": manifest.question,
            "predicted before the runs": manifest.prediction,
            "sweep digest": manifest.digest,
            "corpus digest": ", ".join(sorted(set(used["data_digest"]))),
            "tokenizer": ", ".join(sorted(set(used["tokenizer"]))),
            "precision": ", ".join(sorted(set(used["precision"]))),
            "device": ", ".join(sorted(set(used["device"]))),
        },
        manifest.target_flops,
        is_sweep=True,
        counts=tuple(PARAM_COUNTS),
        asked_count=param_count,
    )


def only_sweep(root: Path, command: str) -> str:
    """Return the name of the only sweep.

    Args:
        root: Directory of all runs.
        command: Command that reads a sweep or a table, for the message: "fit".

    Raises:
        ConfigError: There are several, or none.
    """
    from scalelab.records.sweep_manifest import list_sweeps

    names = list_sweeps(root)
    if len(names) != 1:
        raise ConfigError(
            f"no source is given, and there are {len(names)} sweeps",
            where=f"{root} holds: {', '.join(names) or 'no sweep'}",
            fix=f"name a sweep, or a table: scalelab {command} NAME, or scalelab {command} TABLE.csv",
        )
    return names[0]
