"""What every `scalelab fit` shares: the study of a checked table, and where its answer goes.

Not here: whose runs they are (fit_sweep.py, fit_table.py).
"""

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import scalelab
from scalelab.files import write_json
from scalelab.laws import LAWS
from scalelab.laws.columns import RECORDED
from scalelab.laws.conventions import Convention, Row, compare, comparison_text
from scalelab.laws.observations import Observations
from scalelab.laws.quality import sift
from scalelab.laws.study import DEFAULT_LAWS, LEVEL, Study, study
from scalelab.report.page import write_report
from scalelab.report.painters import Painters
from scalelab.track.evidence import Evidence


def answer(
    args: argparse.Namespace,
    seen: Evidence,
    target: float | None,
    *,
    counted: dict[str, Any],
    name: str,
    out: Path,
    provenance: dict[str, Any],
) -> Study:
    """Fit the evidence, print the summary, write the report and what else was asked for.

    Args:
        args: Of the command.
        seen: The runs and how they were chosen.
        target: Compute to forecast; None for the default.
        counted: The table under each count of parameters, for --compare-conventions.
        name: Of the sweep or table.
        out: Where the report goes.
        provenance: What the numbers come from.
    """
    with Painters() as painters:
        found = _study(args, seen, target)
        rows = _conventions(args, counted)
        print(found.summary())
        if rows:
            print("\n" + comparison_text(rows, LEVEL))
        written = write_report(
            found,
            out,
            name=name,
            provenance=provenance | code(),
            conventions=rows,
            draws=args.draws,
            painters=painters,
        )
    if args.json is not None:
        conventions = {"conventions": [row.to_json() for row in rows]} if rows else {}
        write_json(args.json, found.to_json() | conventions)
    print(f"\nreport: {written[0]}")
    for law, fit in found.fits.items():
        for why in fit.broken:
            print(f"warning: {law} is not a fit to rely on: {why}", file=sys.stderr)
    return found


def _study(args: argparse.Namespace, seen: Evidence, target: float | None) -> Study:
    """The study of a table that has passed the track room's checks."""
    flop_count = "exact" if "flops" in seen.table and args.flop_count == "exact" else "6ND"
    laws = tuple(args.law or DEFAULT_LAWS)
    return study(
        observations(seen.table, flop_count, laws),
        target_flops=target,
        param_count=seen.param_count,
        flop_count=flop_count,
        kind=seen.kind,
        replicates=args.replicates,
        laws=laws,
        excluded=[(item["run"], item["reason"]) for item in seen.excluded],
        with_profiles=args.profile,
    )


def columns_read(laws: Sequence[str]) -> tuple[str, ...]:
    """The columns that runs carry by name: those always recorded, then those the laws read."""
    own = (column for law in laws for column in LAWS[law].columns)
    return tuple(dict.fromkeys(column.name for column in (*RECORDED, *own)))


def observations(table: Any, flop_count: str, laws: Sequence[str]) -> Observations:
    """The rows of a table as laws read them.

    Args:
        table: With its numbers checked.
        flop_count: C counted "exact", or as 6 N D.
        laws: That will be fitted; the columns that they read come along, where there are any.
    """

    def column(name: str) -> np.ndarray | None:
        return table[name].to_numpy() if name in table else None

    return Observations.of(
        column("n_params"),
        column("n_tokens"),
        column("loss"),
        run=column("run"),
        C=column("flops") if flop_count == "exact" else None,
        flops_planned=column("flops_planned"),
        seed=column("seed"),
        group=column("group"),
        weight=column("weight"),
        columns={name: column(name) for name in columns_read(laws) if name in table},
    )


def _conventions(args: argparse.Namespace, tables: dict[str, Any]) -> tuple[Row, ...]:
    """The laws under every count of parameters and FLOPs that the runs recorded, when asked."""
    if not args.compare_conventions:
        return ()
    different = {}
    for count, table in tables.items():
        if not any(table["n_params"].equals(other["n_params"]) for other in different.values()):
            different[count] = table
    laws = tuple(args.law or DEFAULT_LAWS)
    counted = [
        Convention(count, flop_count, sift(observations(table, flop_count, laws))[0])
        for count, table in different.items()
        for flop_count in ("exact", "6ND")
        if flop_count == "6ND" or "flops" in table
    ]
    return compare(counted, laws, replicates=args.replicates, level=LEVEL)


def code() -> dict[str, str]:
    """Which code did this: the version, and the commit where there is one."""
    asked = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=Path(scalelab.__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    commit = asked.stdout.strip() if asked.returncode == 0 else "unknown"
    return {"scalelab": scalelab.__version__, "commit": commit}
