"""What `scalelab fit` does: runs in, a summary on the screen, a report on the disk.

a sweep's name      its run directories; targets and the meaning of N come from the sweep
a .csv / .parquet   anybody's table (DESIGN: n_params, n_tokens, loss and what else it has)
"""

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

import scalelab
from scalelab.errors import ConfigError, TrackError
from scalelab.files import write_json
from scalelab.laws import LAWS
from scalelab.laws.base import Observations
from scalelab.laws.study import Study, study
from scalelab.report.page import write_report
from scalelab.track.manifest import SweepManifest, list_sweeps
from scalelab.track.mirror import log_fit
from scalelab.track.table import evidence, read_table, run_table, write_table


def run_fit(args: argparse.Namespace, root: Path) -> int:
    """Fit, print, write the report, mirror it to MLflow. Returns the exit code."""
    if args.source and Path(args.source).suffix in {".csv", ".parquet"}:
        return _fit_table(args)
    return _fit_sweep(args, root)


def _fit_sweep(args: argparse.Namespace, root: Path) -> int:
    sweep = args.source or _only_sweep(root)
    manifest = SweepManifest.load(root, sweep)
    count = args.param_count or manifest.param_count
    table = run_table(root, sweep)
    used, excluded = evidence(table, count)
    found = _study(args, used, excluded, count, args.target or manifest.target_flops)
    out = args.out or Path("reports") / sweep
    provenance = {
        "sweep": sweep,
        "question": manifest.question,
        "predicted before the runs": manifest.prediction,
        "sweep digest": manifest.digest,
        "corpus digest": ", ".join(sorted(set(used["data_digest"]))),
        "tokenizer": ", ".join(sorted(set(used["tokenizer"]))),
        "precision": ", ".join(sorted(set(used["precision"]))),
        "device": ", ".join(sorted(set(used["device"]))),
        **_code(),
    }
    _answer(args, found, out, sweep, provenance)
    write_table(table, out / "runs.csv")
    try:
        log_fit(root, sweep, out, found.to_json())
    except TrackError as error:
        print(f"warning: the fit is not in MLflow yet: {error.problem}", file=sys.stderr)
        print(f"  fix:   {error.fix}", file=sys.stderr)
    return 0


def _fit_table(args: argparse.Namespace) -> int:
    path = Path(args.source)
    count = args.param_count or "total"
    table = read_table(path, _columns(args.columns))
    found = _study(args, table, [], count, args.target)
    out = args.out or Path("reports") / path.stem
    _answer(args, found, out, path.name, {"table": str(path), **_code()})
    return 0


def _study(
    args: argparse.Namespace, table: Any, excluded: list[dict], count: str, target: float | None
) -> Study:
    """The study of a table that has passed the track room's checks."""

    def column(name: str) -> np.ndarray | None:
        return table[name].to_numpy() if name in table else None

    runs = Observations.of(
        column("n_params"),
        column("n_tokens"),
        column("loss"),
        run=column("run"),
        C=column("flops"),
        flops_planned=column("flops_planned"),
        seed=column("seed"),
        group=column("group"),
    )
    return study(
        runs,
        target_flops=target,
        param_count=count,
        replicates=args.replicates,
        laws=tuple(args.law or LAWS),
        excluded=[(item["run"], item["reason"]) for item in excluded],
    )


def _answer(
    args: argparse.Namespace, found: Study, out: Path, name: str, provenance: dict[str, Any]
) -> None:
    print(found.summary())
    written = write_report(found, out, name=name, provenance=provenance)
    if args.json is not None:
        write_json(args.json, found.to_json())
    print(f"\nreport: {written[0]}")


def _only_sweep(root: Path) -> str:
    names = list_sweeps(root)
    if len(names) != 1:
        there = ", ".join(names) or "none"
        raise ConfigError(
            "which runs should be fitted?",
            where=f"{root} holds these sweeps: {there}",
            fix="scalelab fit NAME, or scalelab fit TABLE.csv",
        )
    return names[0]


def _columns(text: str) -> dict[str, str]:
    """`n_params=N,loss=L` as a dict from our names to the table's."""
    pairs = [pair.partition("=") for pair in text.split(",") if pair]
    if bad := ["".join(pair) for pair in pairs if not (pair[0] and pair[2])]:
        raise ConfigError(
            f"cannot read the column names {bad[0]!r}",
            where="--columns",
            fix="write them as --columns n_params=N,n_tokens=D,loss=L",
        )
    return {ours.strip(): theirs.strip() for ours, _, theirs in pairs}


def _code() -> dict[str, str]:
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
