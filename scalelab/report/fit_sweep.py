"""`scalelab fit` on a sweep's run directories; its targets and the meaning of N are the sweep's."""

import argparse
from pathlib import Path

from scalelab.errors import ConfigError
from scalelab.report.answer import answer
from scalelab.report.mirrored import or_later
from scalelab.track.evidence import evidence
from scalelab.track.manifest import SweepManifest, list_sweeps
from scalelab.track.mirror import log_fit
from scalelab.track.table import run_table
from scalelab.track.tablefile import write_table
from scalelab.units import PARAM_COUNTS


def fit_sweep(args: argparse.Namespace, root: Path) -> int:
    """Fit the sweep, print, write the report, mirror it to MLflow. Returns the exit code."""
    sweep = args.source or only_sweep(root)
    manifest = SweepManifest.load(root, sweep)
    table = run_table(root, sweep)
    seen = evidence(table, args.param_count or manifest.param_count)
    used = seen.table
    out = args.out or Path("reports") / sweep
    counts = PARAM_COUNTS if args.compare_conventions else ()
    found = answer(
        args,
        seen,
        manifest.target_flops if args.target is None else args.target,
        counted={c: evidence(table, c).table for c in counts},
        name=sweep,
        out=out,
        provenance={
            "sweep": sweep,
            "question": manifest.question,
            "predicted before the runs": manifest.prediction,
            "sweep digest": manifest.digest,
            "corpus digest": ", ".join(sorted(set(used["data_digest"]))),
            "tokenizer": ", ".join(sorted(set(used["tokenizer"]))),
            "precision": ", ".join(sorted(set(used["precision"]))),
            "device": ", ".join(sorted(set(used["device"]))),
        },
    )
    write_table(table, out / "runs.csv")
    with or_later("the fit"):
        log_fit(root, sweep, out, found.to_json())
    return 0


def only_sweep(root: Path) -> str:
    """The name of the one sweep that there is. Raises ConfigError where there are more or none."""
    names = list_sweeps(root)
    if len(names) != 1:
        there = ", ".join(names) or "none"
        raise ConfigError(
            "which runs should be fitted?",
            where=f"{root} holds these sweeps: {there}",
            fix="scalelab fit NAME, or scalelab fit TABLE.csv",
        )
    return names[0]
