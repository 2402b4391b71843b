"""The questions of sweeps/questions/: predictions, verdicts, what would decide. Writes analysis/questions.md.

    python analysis/questions.py [--runs runs]            compare what is trained, and write the page
    python analysis/questions.py --train NAME [...]       first train both arms of these questions, or resume them
    python analysis/questions.py --rates NAME [...]       first try three learning rates for both arms

NAME is a question, such as swiglu-or-gelu; all for every one. Multipliers are of the challenger over the baseline: how
much more compute the baseline needs for the same loss. Predictions were written into the sweep files before their runs;
PREDICTED has them as numbers. A question whose runs are not all there is listed with what is missing.
"""

import argparse
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

from pathlib import Path

import scalelab
from scalelab.errors import ScalelabError
from scalelab.launch.sweep import run_sweep
from scalelab.records.sweep_manifest import SweepManifest
from scalelab.records.tried_rates import tried_rates
from scalelab.report.comparison.multipliers import multiplier_with_interval
from scalelab.sweep.file import SweepFile
from scalelab.train.run_directory import RunDir
from scalelab.units import multiple, sci, si

FOLDER = Path("sweeps/questions")
QUESTIONS = {
    "transformer-or-lstm": ("lstm", "transformer"),
    "deeper-or-wider": ("wider", "deeper"),
    "swiglu-or-gelu": ("gelu", "swiglu"),
    "experts-or-dense": ("dense", "experts"),
    "adamw-or-muon": ("adamw", "muon"),
    "library-or-tests": ("library", "tests"),
    "mixture-weights": ("even", "3to1"),
    "compute-or-data": ("compute", "data"),
}
"""Baseline and challenger of each question."""
PREDICTED = {
    "transformer-or-lstm": (1.5, None),
    "deeper-or-wider": (1 / 1.2, 1.0),
    "swiglu-or-gelu": (1.0, 1.1),
    "experts-or-dense": (1.0, 1.3),
    "adamw-or-muon": (1.1, 1.5),
    "library-or-tests": (1.0, 1.5),
    "mixture-weights": (0.85, 1.0),
    "compute-or-data": (1.5, 4.0),
}
"""Predicted multiplier at the largest shared compute: both ends, None for open."""
RATES = (2e-3, 6e-3, 1.8e-2)
"""Learning rates that are tried for an arm; further ones by --set of `scalelab sweep`."""
TRIED_AT = (1.02e4, 2e5)
"""Parameters and tokens at which they are tried."""


def arms(name):
    """Names of the sweeps of both arms."""
    return tuple(f"{name}-{arm}" for arm in QUESTIONS[name])


def train(name, root):
    """Train both arms of a question, or resume them."""
    for arm in arms(name):
        run_sweep(SweepFile.load(FOLDER / f"{arm}.yaml"), root, limit_s=None)


def try_rates(name, root):
    """Train three learning rates of each arm at one size and token count."""
    size, tokens = TRIED_AT
    design = f"design={{kind: ladder, sizes: [{size:g}], tokens: [{tokens:g}]}}"
    for arm in arms(name):
        for rate in RATES:
            changes = [
                f"name={arm}-lr-{rate:g}",
                design,
                f"recipe.optimizer.lr={rate:g}",
                "recipe.schedule.trunk=false",
            ]
            run_sweep(SweepFile.load(FOLDER / f"{arm}.yaml", changes), root, limit_s=None)


def missing(root, arm):
    """What of an arm is not trained, in words; empty where all is."""
    try:
        manifest = SweepManifest.load(root, arm)
    except ScalelabError:
        return f"{arm}: not trained"
    done = sum(RunDir(root / run.dir).result() is not None for run in manifest.runs)
    return "" if done == len(manifest.runs) else f"{arm}: {done} of {len(manifest.runs)} runs are trained"


def seconds(root, *names):
    """Seconds of training and evaluation of all runs of sweeps, each run counted once."""
    runs = {run.dir for name in names for run in SweepManifest.load(root, name).runs}
    results = [RunDir(root / run).result() for run in sorted(runs)]
    return sum(result.train_s + result.eval_s for result in results if result is not None)


def budgets(root, arm):
    """Budgets that were run of an arm, and how many its file has, in words."""
    found = sorted({run.flops_planned for run in SweepManifest.load(root, arm).runs})
    planned = SweepFile.load(FOLDER / f"{arm}.yaml").design.budgets
    words = ", ".join(sci(budget) for budget in found)
    return words if len(found) == len(planned) else f"{words}, of the {len(planned)} of the file"


def against_prediction(name, interval):
    """Where a measured interval lies against the predicted one, in words."""
    low, high = PREDICTED[name]
    low, high = low or 0.0, high or float("inf")
    if low <= interval[0] and interval[1] <= high:
        return "held"
    return (
        "did not hold"
        if interval[1] < low or high < interval[0]
        else "open: the interval holds values on both sides"
    )


def text_of(low, high):
    """A predicted range in words."""
    if high is None:
        return f"above {multiple(low)}"
    return f"{multiple(low)} to {multiple(high)}"


def rates_of(root, arm):
    """The rates that were tried for an arm, with their losses."""
    cells = tried_rates(root, arm)
    lines = []
    for cell in cells:
        pairs = ", ".join(
            f"{rate:.2g}: {loss:.3f}" for rate, loss in zip(cell.rates, cell.losses, strict=True)
        )
        lines.append(
            f"{arm} (N = {si(cell.n_params)}, D = {si(cell.n_tokens)}, own rate {cell.own:.2g}): {pairs}"
        )
    return lines or [f"{arm}: no other rate was tried"]


def section(name, root):
    """One question as lines of the page, and its row of the table."""
    base, other = arms(name)
    file = SweepFile.load(FOLDER / f"{base}.yaml")
    lines = [f"## {name}", "", f"**Question.** {' '.join(file.question.split())}", ""]
    lines += [
        f"**Prediction.** {' '.join(file.prediction.split())} As a multiplier: {text_of(*PREDICTED[name])}.",
        "",
    ]
    lacking = [words for arm in (base, other) if (words := missing(root, arm))]
    if lacking:
        return [*lines, f"**Not decided.** {'; '.join(lacking)}.", ""], [name, "not run", "-", "-", "-"]
    try:
        found = scalelab.compare(base, other)
    except ScalelabError as error:
        return [*lines, f"**Not compared.** {error.problem} ({error.where}).", ""], [
            name,
            "refused",
            "-",
            "-",
            "-",
        ]
    judged = found.comparison.pairs[0]
    pair = judged.pair
    bounded = pair.bounded(pair.C_0)
    measured = multiplier_with_interval(bounded)
    ends = (bounded.low, bounded.high) if bounded.value is not None else (bounded.above, bounded.below)
    held = against_prediction(name, (ends[0] or 0.0, ends[1] or float("inf")))
    runs = len(pair.baseline.runs) + len(pair.other.runs)
    lines += [
        f"**Verdict: {judged.verdict}** ({judged.reason}). {other} over {base}: {measured} "
        f"({pair.multiplier_kind(pair.C_0)}, 80% interval) at {sci(pair.C_0)} FLOPs. The prediction: {held}.",
        "",
    ]
    if pair.trend is not None and not pair.supports_trend:
        lines += ["Trend: none shown, as a multiplier at one end of the compute lies beyond the runs.", ""]
    elif pair.trend is not None:
        trend = " to ".join(multiple(end) for end in pair.trend_interval)
        crossing = pair.crossing
        where = "none fitted in the range" if crossing.best is None else f"{sci(crossing.best)} FLOPs"
        lines += [
            f"Trend for ten times the compute: {multiple(pair.trend)} [{trend}]; crossing: {where}, "
            f"probability of none {'-' if crossing.none is None else f'{crossing.none:.0%}'}.",
            "",
        ]
    lines += [
        f"Budgets: {budgets(root, base)} ({base}), {budgets(root, other)} ({other}) FLOPs. "
        f"{runs} runs, {len(set(map(str, pair.fit.runs.seed)))} seeds; noise between seeds {pair.noise_sd:.3f} "
        f"nats (measured, {pair.noise.dof if pair.noise else 0} spare runs); {seconds(root, base, other):.0f} s of "
        "training.",
        "",
    ]
    if judged.verdict == "tie":
        lines += [f"What would decide: {further(judged)}", ""]
    lines += ["Learning rates that were tried, with the loss:", ""]
    lines += [f"- {line}" for arm in (base, other) for line in rates_of(root, arm)]
    lines += [f"- warning: {text}" for text in judged.warnings]
    return [*lines, ""], [name, judged.verdict, measured, text_of(*PREDICTED[name]), held]


def further(judged):
    """Further runs that would decide a tie, in words."""
    if not judged.further:
        return (
            "no number of further seeds up to 1,000, or of rungs up to 4, were the difference as estimated."
        )
    words = {
        "seeds": "{} further seeds of every size and token count",
        "top": "{} further seeds at the largest shared rung",
        "rungs": "{} further rungs",
    }
    parts = [
        f"{words[each.kind].format(each.count)} ({each.runs} runs of both, {sci(each.flops)} FLOPs, power "
        f"{each.power:.0%})"
        for each in judged.further
    ]
    return f"{'; or '.join(parts)}, were the difference as estimated (extrapolated)."


def main():
    """Train what is asked for, compare, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--runs", type=Path, default=Path("runs"), help="directory of all runs (default: runs)"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("analysis"), help="directory of the page (default: analysis)"
    )
    parser.add_argument(
        "--train", nargs="*", default=[], metavar="NAME", help="questions whose arms are trained"
    )
    parser.add_argument(
        "--rates", nargs="*", default=[], metavar="NAME", help="questions whose rates are tried"
    )
    args = parser.parse_args()
    os.environ["SCALELAB_RUNS"] = str(args.runs.resolve())
    for asked, work in ((args.rates, try_rates), (args.train, train)):
        for name in QUESTIONS if "all" in asked else asked:
            work(name, args.runs)
    sections, rows = [], []
    for name in QUESTIONS:
        lines, row = section(name, args.runs)
        sections += lines
        rows.append("| " + " | ".join(row) + " |")
    page = [
        "# Eight questions, with predictions and verdicts",
        "",
        "Made by `python analysis/questions.py`. Losses are measured; multipliers are fitted. Models of a few ten",
        "thousand parameters, on which nothing about larger ones should be built. Learning rates are those of",
        "matrices, after the recipe's rules of width and batch. Where fewer budgets were run than a file has, the",
        "question says so.",
        "",
        "| question | verdict | multiplier (80%) | predicted | prediction |",
        "|---|---|---|---|---|",
        *rows,
        "",
        *sections,
    ]
    (args.out / "questions.md").write_text("\n".join(page).rstrip() + "\n")


if __name__ == "__main__":
    main()
