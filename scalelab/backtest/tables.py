"""A directory of tables, read for a backtest.

    read_tables(Path("data")) -> TableSet(tables, left_out)

A file with a description (those that come with scalelab, and NAME.table.yaml beside the file) is read
as the description says, and refused where its SHA-256 is another. Any other table in the directory
is read by the ordinary reader of external tables and is a family by itself. What cannot be used is
listed with its reason.

Not here: the descriptions (table_config.py), which runs are forecast (cases.py).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from scalelab.backtest.table_config import TableConfig
from scalelab.errors import DataError, ScalelabError, within
from scalelab.files import matching
from scalelab.laws.columns import UNIQUE_TOKENS
from scalelab.laws.observations import Array, Observations, alike
from scalelab.records.runs import read_external
from scalelab.records.table_bytes import has_table_ending
from scalelab.records.table_file import read_file
from scalelab.sealed import file_digest
from scalelab.study.from_table import columns_read, observations

DESCRIPTIONS = Path(__file__).parent / "tables"
"""Descriptions of public tables, which are fetched from their sources."""
BESIDE = ".table.yaml"
"""Ending of descriptions that stand beside their tables."""


@dataclass(frozen=True, eq=False)
class BacktestTable:
    """The runs of one table, and what is known of it."""

    name: str
    family: str
    runs: Observations
    """Runs without repeats; with `epochs: repeated` the named column n_tokens_unique keeps them apart."""
    digest: str
    """SHA-256 of the file."""
    path: str
    held_out: Array
    """Mask of the runs that the publication held out, shape (n,)."""
    config: TableConfig | None = None
    """Its description; None: read by the ordinary reader."""
    kind: str = "measured"
    notes: tuple[str, ...] = ()
    caveats: tuple[str, ...] = ()


@dataclass(frozen=True)
class LeftOutTable:
    """A table that is not used, and why."""

    name: str
    path: str
    reason: str


@dataclass(frozen=True)
class TableSet:
    """The tables of a directory."""

    tables: tuple[BacktestTable, ...]
    left_out: tuple[LeftOutTable, ...] = ()
    absent: Mapping[str, str] = field(default_factory=dict)
    """Described tables whose file is not in the directory: name and source."""


def descriptions(directory: Path | None = None) -> tuple[TableConfig, ...]:
    """Return the descriptions that come with scalelab, and those in a directory of tables.

    Args:
        directory: Directory with files named NAME.table.yaml; None: only those of scalelab.

    Raises:
        ConfigError: A description has a mistake.
    """
    found = {config.name: config for config in map(TableConfig.load, sorted(DESCRIPTIONS.glob("*.yaml")))}
    for path in matching(directory, f"*{BESIDE}") if directory is not None else ():
        config = TableConfig.load(path)
        found[config.name] = config
    return tuple(found.values())


def read_tables(directory: Path) -> TableSet:
    """Return the tables of a directory.

    Args:
        directory: Directory with the files; other files in it are ignored.

    Raises:
        DataError: There is no such directory, it has no table, or a described file is another one.
        ConfigError: A description in it has a mistake.
    """
    known = descriptions(directory if directory.is_dir() else None)
    files = [path for path in matching(directory) if has_table_ending(path)]
    if not files:
        raise DataError(
            "there is no table in the directory" if directory.is_dir() else "there is no directory of tables",
            where=str(directory),
            fix="fetch tables into a directory and name it with --tables; public ones: "
            + "; ".join(dict.fromkeys(f"{config.file} from {config.source}" for config in known)),
        )
    tables: list[BacktestTable] = []
    left_out: list[LeftOutTable] = []
    others: list[tuple[TableConfig, str]] = []
    for path in files:
        mine = [config for config in known if config.file == path.name]
        try:
            digest = file_digest(path)
        except OSError as error:
            left_out.append(LeftOutTable(path.name, str(path), f"it cannot be read: {error.strerror}"))
            continue
        for config in mine:
            if config.sha256 != digest:
                others.append((config, str(path)))
            elif config.left_out is not None:
                left_out.append(LeftOutTable(config.name, str(path), config.left_out))
            else:
                tables.append(_described(config, path, digest))
        if not mine:
            try:
                tables.append(_external(path, digest))
            except ScalelabError as error:
                left_out.append(LeftOutTable(path.name, str(path), error.problem))
    if others:
        raise DataError(
            f"{len(others)} tables are not the files that their descriptions name: the SHA-256 differs",
            where="; ".join(f"{config.name}: {path}" for config, path in others),
            fix="fetch the file again from its source ("
            + ", ".join(dict.fromkeys(config.source for config, _ in others))
            + "); or, to score another version, rename the file, and it is read as a table of its own",
        )
    _refuse_equal_names(tables)
    there = {path.name for path in files}
    absent = {config.name: config.source for config in known if config.file not in there}
    return TableSet(tuple(tables), tuple(left_out), absent)


def _refuse_equal_names(tables: list[BacktestTable]) -> None:
    names: dict[str, str] = {}
    for table in tables:
        if table.name in names:
            raise DataError(
                f"two tables are called {table.name!r}",
                where=f"{names[table.name]} and {table.path}",
                fix="rename one of the files",
            )
        names[table.name] = table.path


def _described(config: TableConfig, path: Path, digest: str) -> BacktestTable:
    """The table that a description makes of a file."""
    raw = read_file(path).table
    raw = raw.set_axis([str(name) for name in raw.columns], axis=1)
    for column in (
        *config.columns.values(),
        *config.rows,
        *([config.held_out.column] if config.held_out else []),
    ):
        if column not in raw:
            raise DataError(
                f"the table has no column {column!r}, which its description {config.name} names",
                where=f"{path}, which has {', '.join(map(str, raw.columns[:12]))}",
                fix="correct the description",
            )
    if not {"n_params", "loss"} <= set(config.columns) or not {"n_tokens", "flops"} & set(config.columns):
        raise DataError(
            f"the description {config.name} names no column for n_params, loss, and n_tokens or flops",
            where=f"{path}, columns: {', '.join(config.columns) or 'none'}",
            fix="name them in its columns: {n_params: N, n_tokens: D, loss: L}",
        )
    for column, value in config.rows.items():
        raw = raw[raw[column].astype(str) == value]
    try:
        values = {ours: raw[theirs].to_numpy(float) for ours, theirs in config.columns.items()}
    except (TypeError, ValueError) as error:
        raise DataError(
            f"a cell of {config.name} is no number: {error}",
            where=f"{path}, the columns {', '.join(config.columns.values())}",
            fix="correct the cell, or select rows that have numbers in the description",
        ) from error
    N, L = values["n_params"], values["loss"]
    if "n_tokens" in values:
        D = values["n_tokens"]
        C = values.get("flops", 6 * N * D)
    else:
        C = values["flops"]
        D = C / (6 * N)
    unique = values.get(UNIQUE_TOKENS.name, D)
    held_out = np.zeros(len(N), bool)
    if config.held_out is not None:
        held_out = (raw[config.held_out.column].astype(str) == config.held_out.value).to_numpy(bool)
    kept = _kept(config, N, D, L, unique)
    if config.expected_runs is not None and len(kept) != config.expected_runs:
        raise DataError(
            f"{len(kept)} runs are left of {config.name}, not {config.expected_runs}",
            where=str(path),
            fix="correct its description: columns, rows, repeats or expected_runs",
        )
    with within(str(path)):
        runs = Observations.of(
            N[kept],
            D[kept],
            L[kept],
            C=C[kept],
            columns={UNIQUE_TOKENS.name: unique[kept]} if config.epochs == "repeated" else {},
        )
    return BacktestTable(
        config.name,
        config.family,
        runs,
        digest,
        str(path),
        held_out[kept],
        config,
        notes=config.conventions,
        caveats=config.caveats,
    )


def _kept(config: TableConfig, N: Array, D: Array, L: Array, unique: Array) -> Array:
    """Rows that are used, in their order."""
    epochs = D / unique
    use = np.ones(len(N), bool)
    if config.worst_left_out:
        use[np.argsort(L, kind="stable")[-config.worst_left_out :]] = False
    if config.epochs == "one":
        use &= epochs <= 1 + 1e-4
    if config.most_epochs is not None:
        use &= epochs <= config.most_epochs
    rows = np.flatnonzero(use)
    cell = alike(N[rows], D[rows], unique[rows])
    order = np.lexsort((np.arange(len(rows)), L[rows])) if config.repeats == "best" else np.arange(len(rows))
    _, first = np.unique(cell[order], return_index=True)
    return rows[np.sort(order[first])]


def _external(path: Path, digest: str) -> BacktestTable:
    """A table without a description, as `scalelab fit` reads it."""
    runs = read_external(path, {}, columns_read(()), None)
    table = runs.evidence.table
    seen = observations(table, "exact" if "flops" in table else "6ND", ())
    settings = [value for value in seen.recipe.values() if len(np.unique(value)) > 1]
    cell = alike(seen.N, seen.D)
    order = np.lexsort((np.arange(len(seen)), seen.L)) if settings else np.arange(len(seen))
    _, first = np.unique(cell[order], return_index=True)
    kept = np.sort(order[first])
    notes = [f"{len(runs.evidence.excluded)} rows are no evidence"] if runs.evidence.excluded else []
    if len(kept) < len(seen):
        which = "the best run" if settings else "the first run"
        notes.append(f"{len(seen) - len(kept)} runs repeat a size and tokens; {which} of each is used")
    return BacktestTable(
        path.name.split(".")[0],
        path.name.split(".")[0],
        seen.take(kept),
        digest,
        str(path),
        np.zeros(len(kept), bool),
        kind=runs.evidence.kind,
        notes=tuple(notes),
    )


def sources(tables: TableSet) -> Iterator[dict[str, Any]]:
    """Yield what is known of each table, as JSON types."""
    for table in tables.tables:
        config = table.config
        yield {
            "name": table.name,
            "family": table.family,
            "runs": len(table.runs),
            "kind": table.kind,
            "sha256": table.digest,
            "described": config is not None,
            "title": config.title if config else table.name,
            "source": config.source if config else None,
            "licence": config.licence if config else None,
            "papers": list(config.papers) if config else [],
            "unit": config.unit if config else "nats per token",
            "notes": list(table.notes),
            "caveats": list(table.caveats),
        }
