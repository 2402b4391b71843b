"""Transformer against LSTM: multiplier, slopes, crossing, and the loss by position in the context.

    python analysis/questions.py --train transformer-or-lstm     first: trains both arms
    python analysis/lstm.py [--runs runs] [--out analysis]       writes lstm.md and lstm.png

The loss by position is that of the best run of each arm at the largest budget, on the validation windows of the sweep:
each window begins with an empty context, and position k has k tokens before it. Positions are joined in powers of two.
Intervals are 80%, from a bootstrap over windows, the same ones for both arms; they leave out the noise between seeds,
which is stated beside them. An arm stops improving where the loss of a group of positions is not shown to be below that
of the group before it.
"""

import argparse
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

import scalelab
from scalelab.data.corpus.shards import open_corpus
from scalelab.data.corpus.stream import validation_windows
from scalelab.records.sweep_manifest import SweepManifest
from scalelab.report.comparison.multipliers import multiplier_with_interval
from scalelab.report.plots.plot_style import BLUE, RED, canvas, styled
from scalelab.train.run_directory import RunDir
from scalelab.units import interval_text, sci, si

ARMS = ("transformer-or-lstm-lstm", "transformer-or-lstm-transformer")
"""Baseline and challenger."""
DRAWS = 2000
ENDS = (0.1, 0.9)
ROWS = 64  # windows of one pass


def best_run(root, sweep):
    """Directory of the run of lowest loss at the largest budget."""
    manifest = SweepManifest.load(root, sweep)
    top = max(run.flops_planned for run in manifest.runs)
    runs = [RunDir(root / run.dir) for run in manifest.runs if run.flops_planned == top]
    return min(runs, key=lambda run: run.result().loss)


def losses_by_position(run):
    """Loss of every token of the validation windows, nats, shape (windows, positions)."""
    spec = run.spec()
    windows = validation_windows(open_corpus(spec.data_digest), spec.seq_len, spec.evaluation.tokens)
    network = spec.model.network()
    network.load_state_dict(load_file(run.weights_path))
    found = []
    with torch.no_grad():
        for rows in torch.from_numpy(windows).split(ROWS):
            logits = network(rows[:, :-1]).float()
            loss = torch.nn.functional.cross_entropy(
                logits.flatten(0, 1), rows[:, 1:].reshape(-1), reduction="none"
            )
            found.append(loss.view(len(rows), -1))
    return torch.cat(found).double().numpy()


def groups(length):
    """First position and the one after the last of each group: 0, 1, 2 to 3, 4 to 7, and so on."""
    edges = [0, *(2**k for k in range(int(np.log2(length)) + 1)), length]
    edges = sorted({min(edge, length) for edge in edges})
    return list(pairwise(edges))


def drawn_means(losses, places):
    """Mean loss of each group in every draw of windows, shape (draws, groups), and over all windows."""
    by_window = np.stack([losses[:, first:end].mean(1) for first, end in places], axis=1)
    weights = np.random.default_rng(0).multinomial(
        len(losses), np.full(len(losses), 1 / len(losses)), size=DRAWS
    )
    return weights @ by_window / len(losses), by_window.mean(0)


def interval(draws):
    """Both ends at 80%."""
    return [float(end) for end in np.quantile(draws, ENDS, axis=0)]


def last_gain(draws, places):
    """First position of the last group whose loss is shown to be below that of the group before; None: none is."""
    shown = [k for k in range(1, len(places)) if np.quantile(draws[:, k - 1] - draws[:, k], ENDS[0]) > 0]
    return places[shown[-1]] if shown else None


@styled
def draw(places, means, draws, names):
    """Loss by position of both arms, with intervals."""
    figure, ((axes,),) = canvas((4.8, 3.3))
    at = [(first + end - 1) / 2 + 1 for first, end in places]
    for mean, drawn, name, color in zip(means, draws, names, (RED, BLUE), strict=True):
        low, high = np.quantile(drawn, ENDS, axis=0)
        axes.plot(at, mean, marker="o", color=color, label=name)
        axes.fill_between(at, low, high, color=color, alpha=0.2, linewidth=0)
    axes.set_xscale("log", base=2)
    axes.set_xlabel("position in the context, tokens")
    axes.set_ylabel("loss, nats per token")
    axes.legend(frameon=False)
    return figure


def main():
    """Compare both arms and write the page and the figure."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--runs", type=Path, default=Path("runs"), help="directory of all runs (default: runs)"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("analysis"), help="directory of the page (default: analysis)"
    )
    args = parser.parse_args()
    os.environ["SCALELAB_RUNS"] = str(args.runs.resolve())
    found = scalelab.compare(*ARMS)
    judged = found.comparison.pairs[0]
    pair = judged.pair
    runs = [best_run(args.runs, arm) for arm in ARMS]
    losses = [losses_by_position(run) for run in runs]
    places = groups(losses[0].shape[1])
    draws, means = zip(*(drawn_means(each, places) for each in losses), strict=True)
    rows = []
    for k, (first, end) in enumerate(places):
        gap = draws[0][:, k] - draws[1][:, k]
        name = f"{first + 1}" if end == first + 1 else f"{first + 1} to {end}"
        cells = [
            f"{mean[k]:.3f} {interval_text(interval(drawn[:, k]), three)}"
            for mean, drawn in zip(means, draws, strict=True)
        ]
        cells.append(f"{means[0][k] - means[1][k]:+.3f} {interval_text(interval(gap), signed)}")
        rows.append(f"| {name} | {' | '.join(cells)} |")
    stops = [last_gain(drawn, places) for drawn in draws]
    words = [
        "shows no gain from context"
        if stop is None
        else f"still gains at the last positions ({stop[0] + 1} to {stop[1]})"
        if stop == places[-1]
        else f"is shown to gain up to position {stop[1]} and not beyond"
        for stop in stops
    ]
    first_gap, last_gap = (draws[0][:, k] - draws[1][:, k] for k in (0, -1))
    growth = interval(last_gap - first_gap)
    fronts = [pair.frontier(second) for second in (False, True)]
    file = SweepManifest.load(args.runs, ARMS[0])
    page = [
        "# Transformer against LSTM",
        "",
        "Made by `python analysis/lstm.py` from the runs of `sweeps/questions/transformer-or-lstm-*.yaml`. Losses are "
        "measured, all else is fitted; 80% intervals.",
        "",
        f"**Prediction** (written before the runs): {' '.join(file.prediction.split())}",
        "",
        f"**Verdict: {judged.verdict}** of the transformer ({judged.reason}).",
        "",
        f"- multiplier of the transformer: {multiplier_with_interval(pair.bounded(pair.C_0))} "
        f"({pair.multiplier_kind(pair.C_0)}) at {sci(pair.C_0)} FLOPs",
        *(
            f"- at {sci(rung.flops)} FLOPs: {multiplier_with_interval(rung.multiplier)} ({rung.kind})"
            for rung in pair.rungs
        ),
        "- slopes (exponent of the loss above the shared floor): "
        f"LSTM {_slope(fronts[0])}, transformer {_slope(fronts[1])}",
        *_crossing(pair.crossing),
        f"- noise between seeds: {pair.noise_sd:.3f} nats (measured, {pair.noise.dof} spare runs)",
        *(f"- warning: {text}" for text in judged.warnings),
        "",
        "## Loss by position",
        "",
        f"Best run at the largest budget: LSTM of {si(runs[0].result().n_params_matmul)} parameters, transformer of "
        f"{si(runs[1].result().n_params_matmul)} (matmul count); {len(losses[0])} windows of "
        f"{losses[0].shape[1]} tokens.",
        "",
        "![Loss by position](lstm.png)",
        "",
        "| position | LSTM | transformer | LSTM minus transformer |",
        "|---|---|---|---|",
        *rows,
        "",
        f"The LSTM {words[0]}; the transformer {words[1]}. From the first position to the last ones the gap changes by "
        f"{means[0][-1] - means[1][-1] - means[0][0] + means[1][0]:+.3f} {interval_text(growth, signed)} nats.",
    ]
    (args.out / "lstm.md").write_text("\n".join(page) + "\n")
    draw(places, means, draws, ("LSTM", "transformer")).savefig(args.out / "lstm.png", dpi=150)


def _slope(front):
    if front.slope is None:
        return "not known"
    return f"{front.slope:.3f} {interval_text(front.slope_interval, three)}"


def _crossing(found):
    if found is None:
        return []
    best = "none fitted" if found.best is None else f"{sci(found.best)} FLOPs"
    none = "" if found.none is None else f", probability of none {found.none:.0%}"
    return [f"- crossing: {best} between {sci(found.range[0])} and {sci(found.range[1])} FLOPs{none}"]


def three(value):
    """A number with three decimals."""
    return f"{value:.3f}"


def signed(value):
    """A number with its sign and three decimals."""
    return f"{value:+.3f}"


if __name__ == "__main__":
    main()
