"""Tables of runs on mixtures: a share of each domain in the training text, and the loss of each on held-out text.

    weight_web, weight_code, ...     shares of the training text (also proportion_, share_, mix_)
    loss_web, loss_code, ...         nats per token of held-out text; other names are targets of their own
    group, n_params or size          runs of one size; without it all are of one size
    split                            "test", "holdout" or "validation": held out from the fit
    n_tokens                         training tokens
    run, name                        name of a run

Not here: tables of parameters, tokens and one loss (external_table.py), the law (laws/mixture/).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from scalelab.errors import DataError
from scalelab.records.table_bytes import has_table_ending
from scalelab.records.table_file import read_file

SHARES = ("weight_", "proportion_", "share_", "mix_")
"""Beginnings of the names of columns with shares."""
LOSSES = ("loss_",)
SIZES = ("group", "n_params", "size")
HELD_OUT = {"test", "holdout", "hold-out", "held out", "validation"}


@dataclass(frozen=True, eq=False)
class MixtureTable:
    """Runs on mixtures, as they were read."""

    source: str
    domains: tuple[str, ...]
    targets: tuple[str, ...]
    weights: np.ndarray
    """Shares of the domains, shape (n, k)."""
    losses: np.ndarray
    """Nats per token, shape (n, m)."""
    sizes: tuple[str, ...]
    """Size of each run as the table names it; empty where all are of one size."""
    is_held_out: np.ndarray
    """Shape (n,)."""
    n_tokens: np.ndarray
    """Training tokens, shape (n,); NaN where they are unknown."""
    names: tuple[str, ...]
    left_out: tuple[str, ...] = ()
    """Runs without a loss, each with the reason."""


def domain_columns(columns: Iterable[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Return the columns of shares and of losses, each by the name of its domain or target."""
    shares, losses = {}, {}
    for column in map(str, columns):
        for beginnings, found in ((SHARES, shares), (LOSSES, losses)):
            for beginning in beginnings:
                if column.lower().startswith(beginning) and column[len(beginning) :]:
                    found.setdefault(column[len(beginning) :], column)
    return shares, losses


def is_mixture_table(path: Path) -> bool:
    """Return whether a CSV has shares of two domains and losses of domains, and is no table of sizes and one loss."""
    if not has_table_ending(path) or path.suffix.lower() not in (".csv", ".tsv") or not path.is_file():
        return False
    with open(path, "rb") as file:
        header = file.readline(1_000_000).decode("utf-8-sig", "replace")
    for separator in (",", ";", "\t"):
        names = [name.strip().strip('"') for name in header.split(separator)]
        shares, losses = domain_columns(names)
        if len(shares) >= 2 and losses:
            lower = {name.lower() for name in names}
            if len(losses) == 1:  # such as loss_val beside weight_decay and weight_norm
                return "loss" not in lower and not {"n_params", "n_tokens"} <= lower
            return not {"loss", "n_params"} <= lower
    return False


def read_mixture_table(path: Path) -> MixtureTable:
    """Return the runs of a table.

    Raises:
        DataError: It cannot be read, lacks columns, or a cell is no number.
    """
    table = read_file(path).table
    if table.empty:
        raise DataError(
            "the table has no rows", where=str(path), fix="give a row for each run, with shares and losses"
        )
    shares, losses = domain_columns(table.columns)
    if len(shares) < 2 or not losses:
        raise DataError(
            f"the table has {len(shares)} columns of shares and {len(losses)} of losses of domains",
            where=str(path),
            fix="name the share of each domain weight_DOMAIN, and its held-out loss loss_DOMAIN",
        )
    lower = {str(column).lower(): column for column in table.columns}
    size = next((lower[name] for name in SIZES if name in lower), None)
    split = table[lower["split"]].astype(str).str.strip().str.lower() if "split" in lower else None
    name = next((lower[one] for one in ("run", "name") if one in lower), None)
    lines = [str(int(i) + 2) for i in table.index]
    return MixtureTable(
        source=str(path),
        domains=tuple(shares),
        targets=tuple(losses),
        weights=_numbers(table, list(shares.values()), path),
        losses=_numbers(table, list(losses.values()), path),
        sizes=() if size is None else tuple(_size(cell) for cell in table[size]),
        is_held_out=np.zeros(len(table), bool) if split is None else split.isin(HELD_OUT).to_numpy(),
        n_tokens=_numbers(table, [lower["n_tokens"]], path)[:, 0]
        if "n_tokens" in lower
        else np.full(len(table), np.nan),
        names=tuple(f"line {line}" for line in lines) if name is None else tuple(map(str, table[name])),
    )


def _size(cell: object) -> str:
    return f"{cell:g}" if isinstance(cell, float) else str(cell)


def _numbers(table: pd.DataFrame, columns: list[str], path: Path) -> np.ndarray:
    found = np.empty((len(table), len(columns)))
    for j, column in enumerate(columns):
        values = pd.to_numeric(table[column], errors="coerce").to_numpy(float)
        bad = ~np.isfinite(values)
        if bad.any():
            i = int(np.argmax(bad))
            cell = table[column].iloc[i]
            what = "is empty or NaN" if pd.isna(cell) else f"holds {str(cell)[:40]!r}, no number"
            raise DataError(
                f"{column} {what}",
                where=f"{path}, line {int(table.index[i]) + 2}",
                fix="correct the cell, or remove the row",
            )
        found[:, j] = values
    return found
