"""What exists, for eyes: `scalelab runs`."""

from pathlib import Path

import pandas as pd

from scalelab.track.manifest import PlannedRun, SweepManifest, list_sweeps
from scalelab.track.table import run_table
from scalelab.train.rundir import RunDir
from scalelab.units import sci, si

STATES = ("finished", "diverged", "failed", "interrupted", "running", "planned")


def listing(root: Path, sweep: str | None) -> str:
    """All sweeps in a line each; with a name, every run of that sweep."""
    if sweep is not None:
        return _one(root, sweep)
    names = list_sweeps(root)
    if not names:
        return f"no sweeps in {root}; begin with: scalelab sweep sweeps/isoflop.yaml"
    lines = [f"{'sweep':<24} {'runs':>5}  state"]
    for name in names:
        table = run_table(root, name)
        lines.append(f"{name:<24} {len(table):>5}  {_counts(table)}")
    return "\n".join([*lines, "", "every run of one: scalelab runs NAME"])


def _one(root: Path, sweep: str) -> str:
    manifest, table = SweepManifest.load(root, sweep), run_table(root, sweep)
    lines = [f"{sweep}: {manifest.question.strip()}", _counts(table), ""]
    lines.append(
        f"{'run':<12} {'state':<11} {'budget':>8} {'N':>7} {'D':>7} {'seed':>4} {'loss':>8} "
        f"{'bits/byte':>9} {'tokens/s':>8}  note"
    )
    for planned, (_, row) in zip(manifest.runs, table.iterrows(), strict=True):
        loss = "" if pd.isna(row["loss"]) else f"{row['loss']:.4f}"
        bpb = "" if pd.isna(row["bpb"]) else f"{row['bpb']:.4f}"
        pace = "" if pd.isna(row["tokens_per_s"]) else si(row["tokens_per_s"])
        budget = "" if pd.isna(row["flops_planned"]) else sci(row["flops_planned"])
        lines.append(
            f"{planned.run:<12} {row['status']:<11} {budget:>8} {si(planned.n_params):>7} "
            f"{si(planned.n_tokens):>7} {planned.seed:>4} {loss:>8} {bpb:>9} {pace:>8}  "
            f"{_note(root, sweep, planned, row)}".rstrip()
        )
    lines += ["", f"N counts {manifest.param_count} parameters; loss in nats per token, measured"]
    return "\n".join(lines)


def _note(root: Path, sweep: str, planned: PlannedRun, row: pd.Series) -> str:
    if row["reason"]:
        return str(row["reason"]).splitlines()[0]
    if not planned.dir.startswith(f"{sweep}/"):
        return f"trained by the sweep {Path(planned.dir).parent.name}"
    if row["status"] in {"running", "interrupted"}:
        steps = [e["step"] for e in RunDir(root / planned.dir).events() if e["event"] == "step"]
        return f"step {steps[-1] if steps else 0} of {planned.n_steps}"
    return ""


def _counts(table: pd.DataFrame) -> str:
    counts = table["status"].value_counts()
    return ", ".join(f"{counts[state]} {state}" for state in STATES if state in counts)
