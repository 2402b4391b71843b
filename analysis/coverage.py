"""How often the intervals of `scalelab fit` hold the truth: 300 simulated sweeps.

    python analysis/coverage.py [--sweeps 300] [--truth luck] [--out analysis/coverage.md]

Three true laws that are fitted, and four truths outside of what is fitted (another form, a kink, a recipe
that suits larger models less, luck that a budget shares), each in three designs, equally often. Of every
sweep the whole study is made and its intervals of the exponent a, of N* and of L* at 10x the largest budget
are held against the truth; with --truth, of the truths whose names contain it. Everything here is simulated;
nothing is trained.
"""

import argparse
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import time
from pathlib import Path

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import betaincinv

from scalelab.laws.observations import Observations
from scalelab.study.study import study

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


def numerical(loss):
    """The same for a loss without a closed optimum; it has no exponent that is the same everywhere."""

    def best(C):
        def along(x):
            return loss(np.exp(x), C / 6 / np.exp(x))

        grid = np.linspace(np.log(1e6), np.log(1e12), 2000)
        near = grid[np.argmin(along(grid))]
        N = np.exp(minimize_scalar(along, bounds=(near - 0.02, near + 0.02), method="bounded").x)
        return N, loss(N, C / 6 / N)

    return loss, best, None


def farseer(N, D):
    """The form of arXiv:2506.10972, whose exponent of D changes with N; constants are assumed."""
    power = np.exp(-1.5 + 0.1 * N**0.05)
    return np.exp(0.2 + 6 * N**-0.12) + np.exp(7.7 - 0.5 * N**0.05) * D**-power


def plain(N, D):
    """Chinchilla, as refitted by Besiroglu et al."""
    return 1.8172 + 477.8 / N**0.3473 + 2143.4 / D**0.3672


def kinked(N, D):
    """Beyond 3e8 parameters the term of size falls with half its exponent."""
    beyond = np.maximum(0, np.log(N / 3e8))
    return 1.8172 + 477.8 / N**0.3473 * np.exp(0.5 * 0.3473 * beyond) + 2143.4 / D**0.3672


def mistuned(N, D):
    """A recipe that suits 50M parameters."""
    return plain(N, D) * (1 + 0.0014 * np.maximum(0, np.log(N / 5e7)) ** 2)


LUCK = 0.005
"""Standard deviation of the luck of a budget, as a share of the loss, in the truth that has it."""
SHARED = "outside: luck shared by budget, 0.5%"
LAWS = {
    "Chinchilla, as refitted by Besiroglu et al.": chinchilla(1.8172, 477.8, 2143.4, 0.3473, 0.3672),
    "Chinchilla, alpha three times beta": chinchilla(1.69, 4000.0, 60.0, 0.465, 0.155),
    "Kaplan's form": kaplan(6.4e13, 1.8e13, 0.076, 0.103),
    "outside: Farseer's form": numerical(farseer),
    "outside: a kink in N": numerical(kinked),
    "outside: a recipe mistuned with size": numerical(mistuned),
    SHARED: numerical(plain),
}
# budgets, sizes per budget, factor to either side, seeds per size, centre off by (ln N, per budget)
DESIGNS = {
    "5 budgets x 7 sizes, +-4x, centred": (np.geomspace(1e18, 1e20, 5), 7, 4.0, 1, (0.0, 0.0)),
    "6 budgets x 5 sizes x 2 seeds, +-3x, off by 1.3x": (
        np.geomspace(1e18, 1e20, 6),
        5,
        3.0,
        2,
        (np.log(1.3), 0.0),
    ),
    "7 budgets x 9 sizes, +-8x, drifting to 1.5x": (
        np.geomspace(3e17, 3e20, 7),
        9,
        8.0,
        1,
        (0.0, np.log(1.5) / 6),
    ),
}


def sweep(law, design, seed, luck=0.0):
    """One simulated sweep; luck is the standard deviation of what the runs of a budget share."""
    loss, best, _ = law
    budgets, sizes, factor, seeds, (off, drift) = design
    rng = np.random.default_rng(seed)
    parts = []
    for k, C in enumerate(budgets):
        grid = best(C)[0] * np.exp(off + k * drift) * np.geomspace(1 / factor, factor, sizes)
        N = np.repeat(grid, seeds)
        D = C / (6 * N)
        L = loss(N, D) * np.exp(NOISE * rng.standard_normal(N.size) + luck * rng.standard_normal())
        parts.append((N, D, L, np.full(N.size, C), np.tile(np.arange(seeds), sizes)))
    N, D, L, C, seed_of = (np.concatenate(part) for part in zip(*parts, strict=True))
    return Observations.of(N, D, L, flops_planned=C, seed=seed_of)


def holds(interval, value):
    return interval is not None and interval[0] <= value <= interval[1]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sweeps", type=int, default=300)
    parser.add_argument("--replicates", type=int, default=1000)
    parser.add_argument("--truth", default="", help="only truths whose names contain this")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "coverage.md")
    args = parser.parse_args()

    began = time.process_time()
    rows = []
    cells = [(law, design) for law in LAWS if args.truth in law for design in DESIGNS]
    for k in range(args.sweeps):
        law, design = cells[k % len(cells)]
        _, best, a = LAWS[law]
        runs = sweep(LAWS[law], DESIGNS[design], seed=k, luck=LUCK if law == SHARED else 0.0)
        made = study(
            runs,
            target_flops=None,
            param_count="total",
            flop_count="6ND",
            kind="simulated",
            level=LEVEL,
            replicates=args.replicates,
            seed=k,
        )
        found = made.forecast
        N, L = best(found.flops)
        distrusted = made.verdict.grade == "do not rely"
        held = holds(found.intervals["loss"], L)
        rows.append(
            (
                law,
                design,
                found.law,
                np.nan if a is None else holds(found.intervals["a"], a),
                holds(found.intervals["n_params"], N),
                holds(found.statistical["loss"], L),
                held,
                abs(found.values["loss"] / L - 1),
                abs(np.log(found.values["n_params"] / N)),
                distrusted,
                held or distrusted,
            )
        )
    text = table(rows, args, time.process_time() - began)
    print(text)
    args.out.write_text(text)


def binomial_range(inside):
    """Share, and the range of shares that would give as many inside of as many in 95% of runs (Clopper-Pearson)."""
    n, k = len(inside), int(np.sum(inside))
    low = betaincinv(k, n - k + 1, 0.025) if k else 0.0
    high = betaincinv(k + 1, n - k, 0.975) if k < n else 1.0
    return f"{k / n:.0%} [{low:.0%}, {high:.0%}]"


def table(rows, args, seconds):
    """The result as Markdown."""
    share = lambda chosen, k: "-" if np.isnan(chosen[0][k]) else f"{np.mean([r[k] for r in chosen]):.0%}"  # noqa: E731
    lines = [
        "# Coverage of the intervals [simulated]",
        "",
        f"{len(rows)} simulated sweeps with {NOISE:.1%} noise, {LEVEL:.0%} intervals, "
        f"{args.replicates} replicates, target 10x the largest budget; "
        f"{seconds / len(rows):.2f} CPU s a study. `python analysis/coverage.py` makes this file.",
        "Noise: the bootstrap of the primary law. Quoted: the interval of the forecast, calibrated where its law "
        "is. Error: mean of |ln| of L* and of N* at the target. Do not rely: share of such verdicts. Held or "
        "warned: L* is inside, or the verdict is do not rely; in brackets its 95% binomial range.",
        "",
        "| truth | design | sweeps | a, quoted | N*, quoted | L*, noise | L*, quoted | error of L* | of N* "
        "| do not rely | held or warned |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    groups = [(law, design) for law in LAWS for design in DESIGNS]
    groups += [(law, None) for law in LAWS] + [(None, design) for design in DESIGNS]
    for law, design in groups:
        mine = [r for r in rows if law in (None, r[0]) and design in (None, r[1])]
        if mine:
            shares = (
                [share(mine, k) for k in (3, 4, 5, 6)] if law else ["-", *(share(mine, k) for k in (4, 5, 6))]
            )
            off, sized = np.mean([r[7] for r in mine]), np.mean([r[8] for r in mine])
            lines.append(
                f"| {law or 'all'} | {design or 'all'} | {len(mine)} | {' | '.join(shares)} | {off:.2%} | {sized:.3f} "
                f"| {share(mine, 9)} | {binomial_range([r[10] for r in mine])} |"
            )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
