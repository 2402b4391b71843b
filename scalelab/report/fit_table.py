"""`scalelab fit` on anybody's table: n_params, n_tokens, loss and what else it has.

Nothing of our own runs is imported: it must answer at once, and without MLflow.
"""

import argparse
from pathlib import Path

from scalelab.errors import ConfigError
from scalelab.laws.study import DEFAULT_LAWS
from scalelab.report.answer import answer, columns_read
from scalelab.track.evidence import evidence
from scalelab.track.tablefile import read_table
from scalelab.units import PARAM_COUNTS

SIMULATED = "simulated: drawn from a known law, not trained"


def fit_table(args: argparse.Namespace) -> int:
    """Fit the table, print, write the report. Returns the exit code."""
    path = Path(args.source)
    raw = read_table(path, columns_of(args.columns), columns_read(args.law or DEFAULT_LAWS))
    seen = evidence(raw, args.param_count, str(path))
    counts = [c for c in PARAM_COUNTS if f"n_params_{c}" in raw and args.compare_conventions]
    counted = {c: evidence(raw, c, str(path)).table for c in counts}
    simulated = {"evidence": SIMULATED} if seen.kind == "simulated" else {}
    answer(
        args,
        seen,
        args.target,
        counted=counted or {seen.param_count: seen.table},
        name=path.name,
        out=args.out or Path("reports") / path.stem,
        provenance=simulated | {"table": str(path)},
    )
    return 0


def columns_of(text: str) -> dict[str, str]:
    """`n_params=N,loss=L` as a dict from our names to the table's."""
    pairs = [pair.partition("=") for pair in text.split(",") if pair]
    if bad := ["".join(pair) for pair in pairs if not (pair[0] and pair[2])]:
        raise ConfigError(
            f"cannot read the column names {bad[0]!r}",
            where="--columns",
            fix="write them as --columns n_params=N,n_tokens=D,loss=L",
        )
    return {ours.strip(): theirs.strip() for ours, _, theirs in pairs}
