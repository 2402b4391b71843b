"""How often the intervals of `scalelab fit` hold the truth: 300 simulated sweeps.

    python analysis/coverage.py [--sweeps 300] [--out analysis/coverage.md]

Three true laws, three designs, equally often. Of every sweep the whole study is made and its
intervals of the exponent a and of L* at 10x the largest budget are held against the truth.
Everything here is simulated; nothing is trained.
"""

import argparse
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import time
from pathlib import Path

import numpy as np

from scalelab.laws.observations import Observations
from scalelab.laws.study import study

NOISE = 0.003  # of the loss, one standard deviation: about what seeds do on our own runs
LEVEL = 0.9


def chinchilla(E, A, B, alpha, beta):
    """Loss, and the optimum at C = 6 N D, of a three-term law."""

    def loss(N, D):
        return E + A / N**alpha + B / D**beta

    def best(C):
        G = (alpha * A / (beta * B)) ** (1 / (alpha + beta))
        N = G * (C / 6) ** (beta / (alpha + beta))
        return N, loss(N, C / 6 / N)

    return loss, best, beta / (alpha + beta)


def kaplan(N_c, D_c, alpha_N, alpha_D):
    """The same for Kaplan's form, which has no floor."""

    def loss(N, D):
        return ((N_c / N) ** (alpha_N / alpha_D) + D_c / D) ** alpha_D

    def best(C):
        # Along D = C / 6N the bracket is u N^-p + v N with p = alpha_N / alpha_D.
        p = alpha_N / alpha_D
        N = (p * N_c**p * C / (6 * D_c)) ** (1 / (1 + p))
        return N, loss(N, C / 6 / N)

    return loss, best, alpha_D / (alpha_N + alpha_D)


LAWS = {
    "Chinchilla, as refitted by Besiroglu et al.": chinchilla(
        1.8172, 477.8, 2143.4, 0.3473, 0.3672
    ),
    "Chinchilla, alpha three times beta": chinchilla(1.69, 4000.0, 60.0, 0.465, 0.155),
    "Kaplan's form": kaplan(6.4e13, 1.8e13, 0.076, 0.103),
}
# budgets, sizes per budget, factor to either side, seeds per size, centre off by (ln N, per budget)
DESIGNS = {
    "5 budgets x 7 sizes, +-4x, centred": (np.geomspace(1e18, 1e20, 5), 7, 4.0, 1, (0.0, 0.0)),
    "6 budgets x 5 sizes x 2 seeds, +-3x, off by 1.3x": (
        np.geomspace(1e18, 1e20, 6), 5, 3.0, 2, (np.log(1.3), 0.0),
    ),
    "7 budgets x 9 sizes, +-8x, drifting to 1.5x": (
        np.geomspace(3e17, 3e20, 7), 9, 8.0, 1, (0.0, np.log(1.5) / 6),
    ),
}  # fmt: skip


def sweep(law, design, seed):
    """One simulated sweep."""
    loss, best, _ = law
    budgets, sizes, factor, seeds, (off, drift) = design
    rng = np.random.default_rng(seed)
    parts = []
    for k, C in enumerate(budgets):
        grid = best(C)[0] * np.exp(off + k * drift) * np.geomspace(1 / factor, factor, sizes)
        N = np.repeat(grid, seeds)
        D = C / (6 * N)
        L = loss(N, D) * np.exp(NOISE * rng.standard_normal(N.size))
        parts.append((N, D, L, np.full(N.size, C), np.tile(np.arange(seeds), sizes)))
    N, D, L, C, seed_of = (np.concatenate(part) for part in zip(*parts, strict=True))
    return Observations.of(N, D, L, flops_planned=C, seed=seed_of)


def holds(interval, value):
    return interval is not None and interval[0] <= value <= interval[1]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sweeps", type=int, default=300)
    parser.add_argument("--replicates", type=int, default=1000)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "coverage.md")
    args = parser.parse_args()

    began = time.process_time()
    rows = []
    cells = [(law, design) for law in LAWS for design in DESIGNS]
    for k in range(args.sweeps):
        law, design = cells[k % len(cells)]
        _, best, a = LAWS[law]
        runs = sweep(LAWS[law], DESIGNS[design], seed=k)
        found = study(
            runs,
            target_flops=None,
            param_count="total",
            flop_count="6ND",
            kind="simulated",
            level=LEVEL,
            replicates=args.replicates,
            seed=k,
        ).forecast
        L = best(found.flops)[1]
        rows.append(
            (
                law,
                design,
                found.law,
                *(
                    holds(source[key], true)
                    for key, true in (("a", a), ("loss", L))
                    for source in (found.statistical, found.intervals)
                ),
                abs(found.values["loss"] / L - 1),
                found.values["a"] - a,
            )
        )
    text = table(rows, args, time.process_time() - began)
    print(text)
    args.out.write_text(text)


def table(rows, args, seconds):
    """The result as Markdown."""
    share = lambda chosen, k: f"{np.mean([r[k] for r in chosen]):.0%}"  # noqa: E731
    lines = [
        "# Coverage of the intervals [simulated]",
        "",
        f"{len(rows)} simulated sweeps with {NOISE:.1%} noise, {LEVEL:.0%} intervals, "
        f"{args.replicates} replicates, target 10x the largest budget; "
        f"{seconds / len(rows):.2f} CPU s a study. `python analysis/coverage.py` makes this file.",
        "Noise: the bootstrap of the law that speaks. Quoted: the larger of that and the spread of "
        "laws, forms, choices and windows. Miss: mean error of L* at the target, and of a.",
        "",
        "| truth | design | sweeps | a, noise | a, quoted | L*, noise | L*, quoted "
        "| miss of L* | of a |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    groups = [(law, design) for law in LAWS for design in DESIGNS]
    groups += (
        [(law, None) for law in LAWS] + [(None, design) for design in DESIGNS] + [(None, None)]
    )
    for law, design in groups:
        mine = [r for r in rows if law in (None, r[0]) and design in (None, r[1])]
        if mine:
            shares = " | ".join(share(mine, k) for k in (3, 4, 5, 6))
            miss, off = np.mean([r[7] for r in mine]), np.mean([r[8] for r in mine])
            lines.append(
                f"| {law or 'all'} | {design or 'all'} | {len(mine)} | {shares} "
                f"| {miss:.2%} | {off:+.4f} |"
            )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
