"""What curation is worth as a compute multiplier: writes the section "What it is worth" of analysis/curation.md.

    python analysis/curation_worth.py [--runs runs]      compare what is trained, and write the section
    python analysis/curation_worth.py --train            first train every arm on both hold-outs, or resume them

Training needs the curations in curated/: scalelab data sweeps/data/NAME.yaml for debian_raw, debian and the ablations.
Multipliers are of the second arm over the first: how much more compute the first needs for the same loss. Predictions
were written into the sweep files before their runs; PREDICTED has them as numbers.
"""

import argparse
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

from pathlib import Path

import scalelab
from scalelab.errors import ScalelabError
from scalelab.launch.sweep import run_sweep
from scalelab.records.sweep_manifest import SweepManifest
from scalelab.report.comparison.multipliers import multiplier_with_interval
from scalelab.sweep.file import SweepFile
from scalelab.train.run_directory import RunDir
from scalelab.units import multiple, sci

FOLDER = Path("sweeps/questions")
HOLDOUTS = ("python", "apache")
ARMS = {
    "raw": "raw-or-curated-raw",
    "curated": "raw-or-curated-curated",
    "all-languages": "raw-or-curated-all-languages",
    "neither": "raw-or-curated-neither",
    "no-dedup": "raw-or-curated-no-dedup",
    "no-quality": "raw-or-curated-no-quality",
    "same-domains": "raw-or-curated-same-domains",
    "cleaned-raw": "cleaned-holdout-raw",
    "cleaned-curated": "cleaned-holdout-curated",
    "cleaned-same-domains": "cleaned-holdout-same-domains",
    "even": "cooldown-or-even-even",
    "cooldown": "cooldown-or-even-cooldown",
}
"""Sweep file of each arm."""
PREDICTED = {
    ("raw", "curated"): (1.0, 2.0),
    ("all-languages", "curated"): (1.5, 3.0),
    ("neither", "curated"): (1.0, 1.2),
    ("no-dedup", "curated"): (1.0, 1.15),
    ("no-quality", "curated"): (1.0, 1.1),
    ("raw", "neither"): (None, None),
    ("raw", "same-domains"): (1.0, 1.2),
    ("cleaned-raw", "cleaned-curated"): {"python": (1.3, 1.6), "apache": (0.95, 1.3)},
    ("cleaned-raw", "cleaned-same-domains"): (None, None),
    ("even", "cooldown"): (1.0, 1.2),
}
"""Predicted multiplier of each comparison, on both hold-outs alike or by hold-out; None where nothing was predicted."""
HEADING = "## What it is worth"


def train(root):
    """Train every arm on both hold-outs, or resume it."""
    for holdout in HOLDOUTS:
        for arm, stem in ARMS.items():
            changes = [f"recipe.data.held_out.holdout={holdout}", f"name={arm}-{holdout}"]
            run_sweep(SweepFile.load(FOLDER / f"{stem}.yaml", changes), root, limit_s=None)


def against(predicted, interval):
    """Where an interval lies against the predicted one, in words."""
    low, high = predicted
    if low is None:
        return "-"
    if low <= interval[0] and interval[1] <= high:
        return f"{multiple(low)} to {multiple(high)}: held"
    words = "did not hold" if interval[1] < low or high < interval[0] else "open"
    return f"{multiple(low)} to {multiple(high)}: {words}"


def row(base, other, holdout, predicted):
    """One comparison as a row of the table."""
    name = f"{other} over {base}"
    try:
        (judged,) = scalelab.compare(f"{base}-{holdout}", f"{other}-{holdout}").comparison.pairs
    except ScalelabError as error:
        return [name, holdout, f"not compared: {error.problem}", "-", "-", "-"]
    pair = judged.pair
    bounded = pair.bounded(pair.C_0)
    ends = (bounded.low, bounded.high) if bounded.value is not None else (bounded.above, bounded.below)
    low, high = ends[0] or 0.0, ends[1] or float("inf")
    trend = "-"
    if pair.trend is not None and pair.supports_trend:
        trend = f"{multiple(pair.trend)} [{', '.join(multiple(end) for end in pair.trend_interval)}]"
    measured = f"{multiplier_with_interval(bounded)} at {sci(pair.C_0)} ({pair.multiplier_kind(pair.C_0)})"
    return [name, holdout, judged.verdict, measured, trend, against(predicted, (low, high))]


def spent(root):
    """Runs, their compute in FLOPs and their seconds, of all arms, each run counted once."""
    runs = {}
    for holdout in HOLDOUTS:
        for arm in ARMS:
            try:
                planned = SweepManifest.load(root, f"{arm}-{holdout}").runs
            except ScalelabError:
                continue
            runs.update({run.dir: RunDir(root / run.dir).result() for run in planned})
    done = [result for result in runs.values() if result is not None]
    return len(done), sum(r.flops for r in done), sum(r.train_s + r.eval_s for r in done)


def main():
    """Train what is asked for, compare, and write the section."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--runs", type=Path, default=Path("runs"), help="directory of all runs (default: runs)"
    )
    parser.add_argument(
        "--page", type=Path, default=Path("analysis/curation.md"), help="page (default: analysis/curation.md)"
    )
    parser.add_argument("--train", action="store_true", help="train every arm on both hold-outs")
    args = parser.parse_args()
    os.environ["SCALELAB_RUNS"] = str(args.runs.resolve())
    if args.train:
        train(args.runs)
    rows = [
        row(base, other, holdout, predicted[holdout] if isinstance(predicted, dict) else predicted)
        for (base, other), predicted in PREDICTED.items()
        for holdout in HOLDOUTS
    ]
    n, flops, seconds = spent(args.runs)
    section = [
        HEADING,
        "",
        f"Made by `python analysis/curation_worth.py`: {n} runs, {sci(flops)} FLOPs, {seconds:,.0f} s of training and",
        "evaluation (measured). A multiplier is that of the largest compute that both arms were run at, with its 80%",
        "interval; the trend is its factor for ten times the compute (fitted).",
        "",
        "| text | hold-out | verdict | multiplier at FLOPs | trend | predicted |",
        "|---|---|---|---|---|---|",
        *("| " + " | ".join(cells) + " |" for cells in rows),
        "",
    ]
    text = args.page.read_text()
    begin = text.find(HEADING)
    before = text if begin < 0 else text[:begin]
    end = text.find("\n## ", begin + 1) if begin >= 0 else -1
    after = "" if end < 0 else text[end + 1 :]
    args.page.write_text(before.rstrip() + "\n\n" + "\n".join(section) + ("\n" + after if after else ""))


if __name__ == "__main__":
    main()
