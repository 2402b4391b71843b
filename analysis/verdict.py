"""How often a forecast is called sound where it may be, and where it may not.

    SCALELAB_RUNS=DIR python analysis/verdict.py isoflop [--sweeps 40] [--out analysis/verdict.md]

Takes the runs of a finished sweep for their sizes, tokens and trunks, draws new losses for them, and makes the whole
study of each drawn sweep at 4x its largest budget. The true surface is the soft-max law fitted to the measured
losses, as it is or with a fault that no law of the study describes:

    smooth              the surface itself
    kink in N           L (N / 150k)^0.03 above 150k parameters
    mistuned in N       L (1 + 0.01 ln(N / 80k)^2) above 80k: a rate that suits larger models less
    mistuned in D       L (1 + 0.004 ln(D / 800k)^2) above 800k tokens
    luck of a budget    L (1 + 0.004 z), z one standard normal number for all runs of a budget

Noise: .022 nats below 800k tokens and .0125 above, .6 of its variance shared by the branches of a trunk
(what replicates of the embedded default show). Everything is simulated; nothing is trained.

Sound before: no reason at all, the doubts about laws that are not quoted counted as well.
"""

import argparse
import dataclasses
import os
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

import scalelab
from scalelab.laws import LAWS
from scalelab.laws.observations import Array, Observations
from scalelab.study.from_table import observations
from scalelab.study.study import DEFAULT_LAWS, Study, study
from scalelab.study.verdict import SIZES, SPREAD

Loss = Callable[[Array, Array], Array]
REACH, LEVEL = 4.0, 0.8
SHARED = 0.6
LUCK = "luck of a budget"


def truths(fit: object) -> dict[str, Loss]:
    """The true losses by name, of N and D."""

    def above(x: Array, start: float) -> Array:
        return np.maximum(0, np.log(x / start))

    surface = fit.loss_at
    return {
        "smooth": surface,
        "kink in N": lambda N, D: surface(N, D) * np.exp(0.03 * above(N, 1.5e5)),
        "mistuned in N": lambda N, D: surface(N, D) * (1 + 0.01 * above(N, 8e4) ** 2),
        "mistuned in D": lambda N, D: surface(N, D) * (1 + 0.004 * above(D, 8e5) ** 2),
        LUCK: surface,
    }


def drawn(runs: Observations, loss: Loss, luck: float, rng: np.random.Generator) -> Observations:
    """The runs with losses of the truth and noise; `luck` is the sd of what a budget shares, a share of the loss."""

    def shared(labels: Array) -> Array:
        _, which = np.unique(labels, return_inverse=True)
        return rng.standard_normal(which.max() + 1)[which]

    sd = np.where(runs.D < 8e5, 0.022, 0.0125)
    noise = np.sqrt(SHARED) * shared(runs.group) + np.sqrt(1 - SHARED) * rng.standard_normal(len(runs))
    L = loss(runs.N, runs.D) * (1 + luck * shared(runs.flops_planned)) + sd * noise
    return dataclasses.replace(runs, L=L)


def best_loss(loss: Loss, cost: Callable[[Array], Array], C: float) -> float:
    """Lowest true loss at C FLOPs, by search over N."""
    N = np.geomspace(1e4, 1e7, 20_000)
    return float(np.min(loss(N, C / cost(N))))


def sound_before(made: Study) -> bool:
    """Whether there is no reason either from laws that are not quoted."""
    ends = made.forecast.structural
    spread = [np.divide(*ends[key][::-1]) for key in ("loss", "n_params")]
    others = [fit for name, fit in made.fits.items() if name != made.forecast.law]
    answered = {m.name for m in made.forecast.members if m.kind == "law" and m.refuted is None}
    warned = any(fit.warnings for fit in others if fit.law in {made.fits[n].law for n in answered})
    return made.verdict.grade == "sound" and spread[0] <= 1 + SPREAD and spread[1] <= SIZES and not warned


def main() -> None:
    """Simulate, print the table and write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sweep", help="name of a finished sweep")
    parser.add_argument("--sweeps", type=int, default=40, help="simulated sweeps of each truth (40)")
    parser.add_argument("--replicates", type=int, default=400)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "verdict.md")
    args = parser.parse_args()
    read = scalelab.read_runs(args.sweep)
    runs = observations(read.evidence.table, "exact", (*DEFAULT_LAWS, "softmax"))
    fit = LAWS["softmax"]().fit(runs)
    C = REACH * runs.largest_budget
    lines = [
        "# When a forecast is called sound [simulated]",
        "",
        f"{args.sweeps} simulated sweeps of each truth, {len(runs)} runs each (the sizes, tokens and trunks of a sweep "
        f"of the embedded default), {REACH:g}x the largest budget, {LEVEL:.0%} intervals, {args.replicates} "
        "replicates. `python analysis/verdict.py` makes this file; its head says what the truths are.",
        "",
        "Sound before: no reason at all, the doubts about laws that are not quoted counted as well. Held: the true "
        "loss at the optimum lies in the quoted interval. Error: mean |forecast / truth - 1|; a dash where no sweep "
        "is sound.",
        "",
        "| truth | sweeps | calibrated interval stands alone | sound before | sound | do not rely | held "
        "| held of the sound | error | error of the sound |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for name, loss in truths(fit).items():
        truth, rows = best_loss(loss, fit.cost, C), []
        for k in range(args.sweeps):
            sweep = drawn(runs, loss, 0.004 if name == LUCK else 0.0, np.random.default_rng([k, len(name)]))
            made = study(
                sweep, target_flops=C, param_count=read.evidence.param_count, kind="simulated", level=LEVEL,
                replicates=args.replicates, seed=k,
            )  # fmt: skip
            ends, grade = made.forecast.intervals["loss"], made.verdict.grade
            held = ends is not None and ends[0] <= truth <= ends[1]
            error = abs(made.forecast.values["loss"] / truth - 1)
            reasons = made.verdict.reasons
            rows.append((made.forecast.stands_alone, sound_before(made), grade, held, error))
            print(
                name, k, grade, f"{error:.2%}", "held" if held else "outside", *reasons, sep="; ", flush=True
            )
        alone, before, grade, held, error = map(np.array, zip(*rows, strict=True))
        sound = grade == "sound"
        of_sound = (
            [f"{held[sound].sum()} of {sound.sum()}", f"{error[sound].mean():.2%}"]
            if sound.any()
            else ["-", "-"]
        )
        counts = [str(v.sum()) for v in (alone, before, sound, grade == "do not rely", held)]
        cells = [name, str(len(rows)), *counts, of_sound[0], f"{error.mean():.2%}", of_sound[1]]
        lines.append(f"| {' | '.join(cells)} |")
    text = "\n".join(lines) + "\n"
    print(text)
    args.out.write_text(text)


if __name__ == "__main__":
    main()
