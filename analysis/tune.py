"""The rate of a tuned rule at a larger size than any it saw, beside direct search there.

    scalelab tune FILE.yaml                    first: writes reports/NAME/tune.json
    python analysis/tune.py FILE.yaml --size N --tokens D [--seeds 2] [--out analysis]

At N and D, outside of the tuned cells, a grid of five rates a factor of two apart, the recipe's own in the middle, and
the rate of the rule are trained with the same seeds. The difference of the rule to the best of the grid is compared
with the noise between seeds, pooled over all rates. The best of five is lucky, which counts against the rule.

Runs are kept in runs/NAME-direct and never repeated. Writes tune.md and tune.png; all losses are measured.
"""

import argparse
import json
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

from pathlib import Path

import numpy as np

from scalelab.data.corpus import shards
from scalelab.report.plots.plot_style import BLUE, FAINT, INK, RED, canvas, counts, styled
from scalelab.sweep.tune_file import TuneFile, TuningCell
from scalelab.train.loop import train
from scalelab.train.run_directory import RunDir
from scalelab.units import si

STEPS = (0.25, 0.5, 1.0, 2.0, 4.0)
FIELD = "optimizer.lr"


def losses_at(file, cell, rates, seeds, digest):
    """Final loss of each rate and seed, shape (rates, seeds); NaN where a run diverged."""
    found = np.full((len(rates), len(seeds)), np.nan)
    for j, seed in enumerate(seeds):
        for i, rate in enumerate(rates):
            spec = file.proposal(cell, {FIELD: rate}, seed, digest).spec
            run_dir = RunDir.of(spec, Path("runs"), f"{file.name}-direct")
            run_dir.create(spec)
            with run_dir.claimed() as (ours, _):
                result = train(ours)
            if result.loss is not None:
                found[i, j] = result.loss
            print(f"lr {rate:.4g} seed {seed}: {result.status}, loss {result.loss}", flush=True)
    return found


def rule_at(written, n_params, n_tokens):
    """The rate of a written rule."""
    if written["kind"] == "constant":
        return written["value"]
    return written["coefficient"] * n_params ** written["n_params"] * n_tokens ** written["n_tokens"]


def interval_at(tuned, n_params, n_tokens):
    """The interval of the rule's exponents, in words."""
    rule = tuned["rules"][FIELD]
    if rule["kind"] != "power":
        return f"a constant: {rule['why_constant']}"
    a, b = rule["constants"][1:]
    ends = [f"[{low:+.2f}, {high:+.2f}]" for low, high in rule["intervals"][1:]]
    return f"exponents of N {a:+.2f} {ends[0]} and of D {b:+.2f} {ends[1]}, {tuned['level']:.0%} intervals"


@styled
def draw(rates, losses, rule, at_rule, place):
    """Loss of every seed against the rate, the mean of the grid, and the rule."""
    figure, ((axes,),) = canvas((4.8, 3.3))
    axes.set_xscale("log")
    axes.plot(rates, losses, "o", ms=3.5, color=BLUE)
    axes.plot(rates, losses.mean(axis=1), color=INK, lw=1, label="grid, mean of seeds")
    axes.axvline(rule, color=FAINT, lw=1, zorder=0)
    axes.plot([rule] * len(at_rule), at_rule, "D", ms=4, color=RED, label="rule")
    counts(axes.xaxis, lambda value: f"{value:.2g}")
    axes.set_xlabel(FIELD)
    axes.set_ylabel("loss, nats per token [measured]")
    axes.set_title(place)
    axes.legend(frameon=False, fontsize=8)
    return figure


def main():
    """Train what is missing, and write the page and the figure."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--size", type=float, required=True, help="target size, parameters")
    parser.add_argument("--tokens", type=float, required=True, help="training tokens")
    parser.add_argument("--seeds", type=int, default=2, help="seeds of each rate")
    parser.add_argument("--note", default="", help="sentence about the setting, for the page")
    parser.add_argument("--reports", type=Path, default=Path("reports"))
    parser.add_argument("--out", type=Path, default=Path("analysis"))
    args = parser.parse_args()
    file = TuneFile.load(args.file)
    tuned = json.loads((args.reports / file.name / "tune.json").read_text())
    corpus = shards.prepare(file.recipe.data)
    model = file.recipe.model_at(args.size, corpus.vocab_size)
    n_params = model.size(file.recipe.seq_len).count(file.recipe.param_count)
    cell = TuningCell(model, n_params, args.size, args.tokens)
    seeds = [100 + s for s in range(args.seeds)]
    rule = rule_at(tuned["written"][FIELD], n_params, args.tokens)
    rates = file.own_values(cell)[FIELD] * np.array(STEPS)
    losses = losses_at(file, cell, [float(rate) for rate in rates], seeds, corpus.digest)
    at_rule = losses_at(file, cell, [float(rule)], seeds, corpus.digest)[0]
    both = np.vstack([losses, at_rule])
    noise = float(np.sqrt(np.nanmean(np.var(both, axis=1, ddof=1))))
    mean = losses.mean(axis=1)
    best = int(np.nanargmin(mean))
    difference = float(at_rule.mean() - mean[best])
    error = noise * np.sqrt(2 / len(seeds))
    largest = max(c["n_params"] for c in tuned["cells"])
    place = f"{si(n_params)} parameters on {si(args.tokens)} tokens"
    rows = [
        [f"{rate:.4g}", *(f"{x:.4f}" for x in line), f"{line.mean():.4f}"]
        for rate, line in (*zip(rates, losses, strict=True), (rule, at_rule))
    ]
    rows[-1][0] += " (rule)"
    heads = [FIELD, *(f"seed {s}" for s in seeds), "mean"]
    cells = [
        [
            si(c["n_params"]),
            si(c["n_tokens"]),
            str(len(c["trials"])),
            f"{c['best'][FIELD]:.4g} [{c['interval'][FIELD][0]:.4g}, {c['interval'][FIELD][1]:.4g}]"
            if "best" in c
            else f"none: {c['problem']}",
        ]
        for c in tuned["cells"]
    ]
    side = "within" if abs(difference) <= 2 * error else "outside"
    text = "\n\n".join(
        [
            "# The rate of a tuned rule at a larger size [measured]",
            f"`scalelab tune` on the embedded recipe, then `python analysis/tune.py {args.file.name} --size "
            f"{args.size:g} --tokens {args.tokens:g} --seeds {args.seeds}`, which makes this file."
            + (f" {args.note}" if args.note else ""),
            table(["N", "D", "trials", f"best {FIELD}, {tuned['level']:.0%} interval [fitted]"], cells),
            f"Rule [fitted]: `{json.dumps(tuned['written'][FIELD])}`; {interval_at(tuned, n_params, args.tokens)}.",
            f"At {place}, {n_params / largest:.2g}x the largest size of the tuning, the rule gives {rule:.4g} "
            "[extrapolated]:",
            table(heads, rows),
            f"The rule is {difference:+.4f} nats from the best rate of the grid, {rates[best]:.4g}. Noise between "
            f"seeds: {noise:.4f} nats (pooled, {both.shape[0] * (len(seeds) - 1)} degrees of freedom), so a difference "
            f"of two means has a standard error of {error:.4f}: the rule is {side} two of "
            "them. The best of five is the luckiest of five, which counts against the rule.",
            "![loss against rate](tune.png)",
        ]
    )
    args.out.mkdir(exist_ok=True)
    (args.out / "tune.md").write_text(text + "\n")
    draw(rates, losses, rule, at_rule, place).savefig(args.out / "tune.png", dpi=150)
    print(text)


def table(heads, rows):
    """A table in Markdown."""
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


if __name__ == "__main__":
    main()
