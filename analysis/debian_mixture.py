"""A mixture of five domains recommended by a law, trained beside the natural one. Writes analysis/debian_mixture.md.

    python analysis/debian_mixture.py [--runs runs]     train what is missing, or resume it, and write the page

Needs the curation: scalelab data sweeps/data/debian_mixture.yaml. The law is fitted to the runs of
sweeps/questions/debian-mixture.yaml; the mixture that it recommends at each size is trained with six seeds, and so is
the text in its natural shares. Both are judged by the mean of the losses on the five domains, on the same windows.
"""

import argparse
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

from pathlib import Path

import numpy as np

from scalelab.data.corpus.shards import open_corpus
from scalelab.launch.sweep import run_sweep
from scalelab.laws.mixture.recommendation import MixtureRequest
from scalelab.records.mixture_runs import read_mixture_sweep
from scalelab.records.sweep_manifest import SweepManifest
from scalelab.study.mixture import study_mixture
from scalelab.sweep.file import SweepFile
from scalelab.train.run_directory import RunDir
from scalelab.units import si

FILE = Path("sweeps/questions/debian-mixture.yaml")
SEEDS = tuple(range(100, 106))
"""None of them is the seed of the runs that the law is fitted to."""
PREDICTED_GAIN = 0.05
"""Largest gain that the sweep file predicts, nats per token."""


def losses(root, name):
    """Losses on each domain of the runs of a sweep: n_params -> array (seeds, domains), in the order of seeds."""
    found = {}
    for run in sorted(SweepManifest.load(root, name).runs, key=lambda run: run.seed):
        result = RunDir(root / run.dir).result()
        found.setdefault(run.n_params, []).append(list(result.domain_losses.values()))
    return {n: np.array(rows) for n, rows in found.items()}


def train_arm(root, name, size, n_tokens, weights):
    """Train one mixture at one size with every seed; no weights are the natural shares."""
    seeds = f"seed: {SEEDS[0]}, seeds: {len(SEEDS)}"
    changes = [f"name={name}", f"design={{kind: ladder, sizes: [{size:g}], tokens: [{n_tokens:g}], {seeds}}}"]
    if weights is not None:
        shares = ", ".join(f"{domain}: {share:.4f}" for domain, share in weights.items())
        changes.append(f"recipe.data.weights={{{shares}}}")
    run_sweep(SweepFile.load(FILE, changes), root, limit_s=None)


def rounded(domains, shares):
    """Shares of four digits that sum to 1."""
    found = {domain: round(float(share), 4) for domain, share in zip(domains, shares, strict=True)}
    largest = max(found, key=found.get)
    found[largest] = round(found[largest] + 1 - sum(found.values()), 4)
    return found


def _gain(natural, recommended):
    """Mean gain over seeds and domains, nats per token."""
    return natural.mean() - recommended.mean()


def main():
    """Train, fit, train again, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--runs", type=Path, default=Path("runs"), help="directory of all runs (default: runs)"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("analysis"), help="directory of the page (default: analysis)"
    )
    args = parser.parse_args()
    root = args.runs
    os.environ["SCALELAB_RUNS"] = str(root.resolve())
    file = SweepFile.load(FILE)
    run_sweep(file, root, limit_s=None)
    _, table, digest = read_mixture_sweep(root, file.name)
    tokens = {domain: float(n) for domain, n in open_corpus(digest).manifest.domains["train"].items()}
    study = study_mixture(table, MixtureRequest(natural=tokens, unique_tokens=tokens))
    natural = {domain: n / sum(tokens.values()) for domain, n in tokens.items()}
    lines = [
        "# A mixture recommended by a law, trained",
        "",
        "Made by `python analysis/debian_mixture.py`. Five domains of the curated Debian pages "
        f"({si(sum(tokens.values()))} tokens),",
        f"{len(table.weights)} runs of {len(study.sizes)} sizes on "
        f"{next(iter(study.sizes.values())).n_mixtures} mixtures; the law is `{study.law}`. Losses are the mean of",
        "the five domains, nats per token.",
        "",
        f"**Question.** {' '.join(file.question.split())}",
        "",
        f"**Prediction.** {' '.join(file.prediction.split())}",
        "",
        "| N | shares | " + " | ".join(natural) + " |",
        "|---|---|" + "---:|" * len(natural),
        "| | natural (measured) | " + " | ".join(f"{share:.3f}" for share in natural.values()) + " |",
    ]
    measured = []
    for target, (size, found) in zip(file.design.sizes, study.recommendations.items(), strict=True):
        weights = rounded(found.domains, found.weights)
        ends = [
            f"{share:.3f} [{low:.3f}, {high:.3f}]"
            for share, (low, high) in zip(found.weights, found.intervals, strict=True)
        ]
        lines.append(f"| {size} | recommended (fitted, 90%) | " + " | ".join(ends) + " |")
        if found.at_bound:
            lines.append("| | at a bound | " + " | ".join(found.at_bound.get(d, "") for d in natural) + " |")
        arms = {"natural": None, "recommended": weights}
        for arm, shares in arms.items():
            train_arm(root, f"debian-{arm}-{si(target)}", target, file.design.n_tokens, shares)
        by_arm = [losses(root, f"debian-{arm}-{si(target)}") for arm in arms]
        (a,), (b,) = ([*found_losses.values()] for found_losses in by_arm)
        measured.append((size, found, a, b))
    lines += [
        "",
        "| N | natural (measured) | recommended (measured) | gain (measured, standard error) | gain (fitted, 90%) | "
        "error of the law |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for size, found, a, b in measured:
        gains = a.mean(axis=1) - b.mean(axis=1)
        low, high = found.gain_interval
        lines.append(
            f"| {size} | {a.mean():.4f} | {b.mean():.4f} | {gains.mean():+.4f} "
            f"({gains.std(ddof=1) / len(gains) ** 0.5:.4f}) | {found.gain:+.4f} [{low:+.4f}, {high:+.4f}] | "
            f"{study.errors[size][study.law]:.2%} |"
        )
    lines += [
        "",
        f"Seeds {', '.join(map(str, SEEDS))}, paired; the law was fitted to runs of seed {file.design.seed}.",
        "Its error is the mean on mixtures that were left out of the fit, one at a time. A gain of at most "
        f"{PREDICTED_GAIN} nats was",
        "predicted: " + "; ".join(f"it was {_gain(a, b):+.3f} at {size}" for size, _, a, b in measured) + ".",
        "",
    ]
    lines += ["| N | gain on | " + " | ".join(natural) + " |", "|---|---|" + "---:|" * len(natural)]
    for size, _, a, b in measured:
        gains = (a - b).mean(axis=0)
        lines.append(
            f"| {size} | each domain (measured) | " + " | ".join(f"{gain:+.4f}" for gain in gains) + " |"
        )
    (args.out / "debian_mixture.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
