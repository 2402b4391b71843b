"""How far the intervals and verdicts of `scalelab compare` can be trusted: simulated pairs with a known answer.

    python analysis/compare.py [--pairs 300] [--out analysis/compare.md]
    python analysis/compare.py --only frontiers --pairs 60     makes that section of the page anew and keeps the others

Two recipes are simulated whose compute multiplier and crossing are known: the second has the loss of the first at
m(C) times the compute, ln m = ln m_0 + s ln(C / C_0), and a best size t times that of the first. Seeds of both
recipes share a part of their noise (paired data order). Counted is how often 80% intervals hold the truth, how
often a recipe that is worth nothing is promoted, also when the data are looked at several times or five recipes
are tried, and how often one that is worth something is. Everything here is simulated; nothing is trained.
"""

import argparse
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from scalelab.comparison.arms import Arm
from scalelab.comparison.verdict import CompareRequest, compare_arms
from scalelab.laws.observations import Observations

LAW = {"E": 1.8172181, "A": 477.82552, "B": 2143.4173, "alpha": 0.3473105, "beta": 0.36717238}
"""Hoffmann et al. 2022 as refitted by Besiroglu et al. 2024, arXiv:2404.10102."""
LEVEL = 0.8


@dataclass(frozen=True)
class Design:
    """Runs of one recipe, and the noise of its seeds."""

    name: str
    budgets: tuple[float, ...]
    sizes: int
    """Sizes at each budget, from 1/3 to 3 times the best; 1: the best alone, a ladder."""
    seeds: int
    noise: float = 0.004
    """Standard deviation of ln L between seeds: .1 to .5% on our own runs."""
    shared: float = 0.5
    """Share of its variance that both recipes have in common, seed by seed."""
    soft: bool = False
    """Whether the truth is another law than the one that is fitted: a soft maximum (arXiv:2608.07222)."""


def budgets(count, step=10**0.5):
    """Budgets from 1e17 FLOPs."""
    return tuple(1e17 * step**k for k in range(count))


DESIGNS = (
    Design("isoFLOP, 4 budgets of 5 sizes, 3 seeds", budgets(4), 5, 3),
    Design("isoFLOP, 5 budgets of 5 sizes, 2 seeds, unpaired", budgets(5), 5, 2, shared=0.0),
    Design("isoFLOP, 3 budgets of 3 sizes, 2 seeds", budgets(3), 3, 2),
    Design("ladder of 5 rungs, 3 seeds", budgets(5), 1, 3),
    Design("ladder of 3 rungs, 3 seeds, unpaired", budgets(3), 1, 3, shared=0.0),
)
OUTSIDE = Design(
    "isoFLOP, 4 budgets of 5 sizes, 3 seeds, truth a soft maximum", budgets(4, 10.0), 5, 3, soft=True
)


def three_terms(N, D):
    """The loss of Chinchilla's law."""
    return LAW["A"] / N ** LAW["alpha"], LAW["B"] / D ** LAW["beta"]


def soft_maximum(N, D):
    """A loss whose two terms meet in a soft maximum; constants assumed."""
    x, z = 4.0 - 0.22 * np.log(N), 5.2 - 0.25 * np.log(D)
    return 1.7 + np.exp(0.4 * np.logaddexp(x / 0.4, z / 0.4))


def best_size(C):
    """N* of that law at C = 6 N D FLOPs."""
    G = (LAW["alpha"] * LAW["A"] / (LAW["beta"] * LAW["B"])) ** (1 / (LAW["alpha"] + LAW["beta"]))
    return G * (C / 6) ** (LAW["beta"] / (LAW["alpha"] + LAW["beta"]))


def simulated_pair(design, rng, *, m=1.0, s=0.0, t=1.0):
    """Arms of a baseline and a recipe of multiplier m at the largest budget, trend s, and best size t times its own."""
    C, seed = (np.array(v, float) for v in zip(*_points(design), strict=True))
    spread = np.geomspace(1 / 3, 3, design.sizes) if design.sizes > 1 else np.ones(1)
    C, seed = np.repeat(C, design.sizes), np.repeat(seed, design.sizes)
    N = (np.sqrt(C / 120) if design.soft else best_size(C)) * np.tile(spread, len(C) // design.sizes)
    D = C / (6 * N)
    common = rng.standard_normal(len(C))
    gamma = LAW["alpha"] * LAW["beta"] / (LAW["alpha"] + LAW["beta"])
    arms = []
    for name, gain, size in (
        ("baseline", np.zeros(len(C)), 1.0),
        ("variant", np.log(m) + s * np.log(C / C.max()), t),
    ):
        if design.soft:  # the loss of the baseline at m times the compute
            L = soft_maximum(N / size * np.exp(gain / 2), D * size * np.exp(gain / 2))
        else:
            small, little = three_terms(N / size, D * size)
            L = LAW["E"] + (small + little) * np.exp(-gamma * gain)
        own = rng.standard_normal(len(C))
        noise = np.sqrt(design.shared) * common + np.sqrt(1 - design.shared) * own
        runs = Observations.of(
            N, D, L * np.exp(design.noise * noise), C=C, flops_planned=C, seed=seed.astype(int)
        )
        arms.append(Arm(name, runs, flop_count="6ND", kind="simulated"))
    return arms


def _points(design):
    return [(C, seed) for C in design.budgets for seed in range(design.seeds)]


def judged(pair, **settings):
    """The comparison of simulated arms, without redrawn fits unless asked."""
    request = CompareRequest(**({"replicates": 0} | settings))
    return compare_arms(pair[0], pair[1:], request, separate=False)


@dataclass
class Tally:
    """Counts of one design."""

    multiplier: list
    trend: list
    crossing: list
    wrong_none: list


def calibrated(design, pairs, seed):
    """How often the intervals of one design hold truths that are drawn at random."""
    found = Tally([], [], [], [])
    for k in range(pairs):
        rng = np.random.default_rng((seed, k))
        m, s, t = np.exp(rng.uniform(-0.4, 0.4)), rng.uniform(-0.12, 0.12), np.exp(rng.uniform(-0.4, 0.4))
        if design.sizes == 1:
            t = 1.0  # a ladder cannot show it, and says so
        pair = judged(simulated_pair(design, rng, m=m, s=s, t=t)).pairs[0].pair
        low, high = pair.multiplier_interval(pair.C_0)
        found.multiplier.append(low <= m <= high)
        low, high = pair.trend_interval
        found.trend.append(low <= 10**s <= high)
        at, crossing = np.exp(np.clip(np.log(pair.C_0) - np.log(m) / s, 0, 500)), pair.crossing
        if crossing.range[0] <= at <= crossing.range[1]:
            found.crossing.append(crossing.holds(at))
        else:
            found.wrong_none.append(not crossing.excluded)
    return found


@dataclass
class FrontierTally:
    """Whether intervals of the frontiers of both recipes hold the truth."""

    slope: list
    loss: list
    n_params: list


def frontier_truth(C, m, s, t, second):
    """Slope, loss and size of the optimum of a recipe at C FLOPs."""
    gamma = LAW["alpha"] * LAW["beta"] / (LAW["alpha"] + LAW["beta"])
    N = best_size(C)
    above = sum(three_terms(N, C / (6 * N)))
    if not second:
        return gamma, LAW["E"] + above, N
    return gamma * (1 + s), LAW["E"] + above * m**-gamma, t * N


def calibrated_frontiers(design, pairs, seed):
    """How often intervals of slope, loss and size of the optimum hold truths that are drawn at random."""
    found = FrontierTally([], [], [])
    for k in range(pairs):
        rng = np.random.default_rng((seed, k))
        m, s, t = np.exp(rng.uniform(-0.4, 0.4)), rng.uniform(-0.12, 0.12), np.exp(rng.uniform(-0.4, 0.4))
        t = 1.0 if design.sizes == 1 else t
        pair = judged(simulated_pair(design, rng, m=m, s=s, t=t)).pairs[0].pair
        for second in (False, True):
            front, truth = pair.frontier(second), frontier_truth(pair.C_0, m, s, t, second)
            intervals = (front.slope_interval, front.loss_interval, front.n_params_interval)
            for name, ends, value in zip(("slope", "loss", "n_params"), intervals, truth, strict=True):
                if ends is not None:
                    getattr(found, name).append(ends[0] <= value <= ends[1])
    return found


def frontiers_section(pairs):
    """The section on frontiers, as lines."""
    lines = [
        "",
        FRONTIERS,
        "",
        "80% intervals of the frontiers of both recipes at the largest shared compute; the two of a pair share most of",
        "their error. A ladder has one size at each budget, so it has no slope and no size.",
        "",
        "| design | slope | loss of the optimum | size of the optimum |",
        "|---|---|---|---|",
    ]
    every = FrontierTally([], [], [])
    for place, design in enumerate(DESIGNS):
        found = calibrated_frontiers(design, pairs // len(DESIGNS), place)
        for name in ("slope", "loss", "n_params"):
            getattr(every, name).extend(getattr(found, name))
        lines.append(
            f"| {design.name} | {share(found.slope)} | {share(found.loss)} | {share(found.n_params)} |"
        )
    lines.append(f"| **all** | {share(every.slope)} | {share(every.loss)} | {share(every.n_params)} |")
    return lines


FRONTIERS = "## Frontiers"


def promoted(design, pairs, seed, *, m=1.0, s=None, looks=1, others=0):
    """How often a recipe of multiplier m at the largest budget is promoted, and how often it is rejected.

    With `looks`, seeds come in as many equal steps and the first decision stands; with `others`, so many more
    recipes of the same multiplier are tried. s: its trend; None: drawn at random, as both are likely.
    """
    up = down = 0
    for k in range(pairs):
        rng = np.random.default_rng((seed, k))
        trend = (0.0 if k % 2 else rng.uniform(-0.12, 0.12)) if s is None else s
        arms = simulated_pair(design, rng, m=m, s=trend)
        for each in range(others):
            arms.append(replace(simulated_pair(design, rng, m=m, s=trend)[1], name=f"variant {each}"))
        for look in range(1, looks + 1):
            seen = [_first_seeds(arm, design.seeds * look // looks) for arm in arms] if looks > 1 else arms
            verdict = judged(seen, look=look, looks=looks).verdict
            if verdict != "tie":
                break
        up, down = up + (verdict == "promote"), down + (verdict == "reject")
    return up, down


def _first_seeds(arm, count):
    return replace(arm, runs=arm.runs.take(arm.runs.seed < count))


def share(hits):
    """Percent, and how many it is of."""
    return f"{100 * np.mean(hits):.1f}% of {len(hits)}" if len(hits) else "-"


def written(pairs):
    """The page, section by section, each as lines."""
    began = time.process_time()
    lines = [
        "# Calibration of `scalelab compare` [simulated]",
        "",
        "`python analysis/compare.py`: pairs of recipes whose multiplier, trend and crossing are known. Noise of ln L",
        "between seeds .4%; multipliers .67x to 1.49x at the largest budget, trends -.12 to .12 per ln C, best sizes",
        ".67x to 1.49x that of the baseline (equal in ladders). See the script's header.",
        "",
        "## 80% intervals",
        "",
        "| design | multiplier | trend | crossing, where there is one | excluded, where there is none |",
        "|---|---|---|---|---|",
    ]
    every = Tally([], [], [], [])
    for place, design in enumerate(DESIGNS):
        found = calibrated(design, pairs // len(DESIGNS), place)
        for name in ("multiplier", "trend", "crossing", "wrong_none"):
            getattr(every, name).extend(getattr(found, name))
        lines.append(_row(design.name, found))
    lines.append(_row("**all**", every))
    lines.append(_row(OUTSIDE.name, calibrated(OUTSIDE, pairs // len(DESIGNS), 50)))
    yield lines
    yield frontiers_section(pairs)
    lines = [
        "",
        "## False promotion",
        "",
        "Recipes whose multiplier at the largest budget is exactly 1; half of them have a trend. Level .025.",
        "",
        "| design | promoted | rejected |",
        "|---|---|---|",
    ]
    total = [0, 0, 0]
    for place, design in enumerate(DESIGNS):
        up, down = promoted(design, pairs // len(DESIGNS), 100 + place)
        total = [total[0] + up, total[1] + down, total[2] + pairs // len(DESIGNS)]
        lines.append(
            f"| {design.name} | {_rate(up, pairs // len(DESIGNS))} | {_rate(down, pairs // len(DESIGNS))} |"
        )
    lines.append(f"| **all** | {_rate(total[0], total[2])} | {_rate(total[1], total[2])} |")
    small, count = replace(DESIGNS[2], seeds=6), pairs // 3
    up, down = promoted(small, count, 200, looks=3)
    lines.append(
        f"| 3 budgets of 3 sizes, looks at 2, 4 and 6 seeds | {_rate(up, count)} | {_rate(down, count)} |"
    )
    count = pairs // 6
    up, down = promoted(DESIGNS[2], count, 201, s=0.0, others=4)
    lines.append(f"| {DESIGNS[2].name}, any of 5 recipes | {_rate(up, count)} | {_rate(down, count)} |")
    yield lines
    yield [
        "",
        "## Power",
        "",
        "Share promoted; isoFLOP of 3 sizes a budget, budgets 3.16x apart, half of the variance paired, no true trend",
        "(one is fitted). In brackets: with `--constant`, which assumes that there is none.",
        "",
        "| budgets | seeds | 1.02x | 1.05x | 1.1x | 1.2x |",
        "|---|---|---|---|---|---|",
    ]
    count = pairs // 10
    for n_budgets in (3, 5):
        for seeds in (2, 4, 8):
            cells = [
                _power(Design("", budgets(n_budgets), 3, seeds), m, count) for m in (1.02, 1.05, 1.1, 1.2)
            ]
            yield [f"| {n_budgets} | {seeds} | {' | '.join(cells)} |"]
    yield ["", f"{count} pairs a cell. {time.process_time() - began:.0f} s of one CPU in all."]


def _power(design, m, count):
    ups = [0, 0]
    for k in range(count):
        arms = simulated_pair(design, np.random.default_rng((300, k)), m=m)
        for constant in (False, True):
            ups[constant] += judged(arms, constant=constant).verdict == "promote"
    return f"{100 * ups[0] / count:.0f}% ({100 * ups[1] / count:.0f}%)"


def _row(name, found):
    cells = (found.multiplier, found.trend, found.crossing, [not wrong for wrong in found.wrong_none])
    return f"| {name} | {' | '.join(map(share, cells))} |"


def _rate(hits, count):
    return f"{100 * hits / count:.1f}% of {count}"


def with_section(page, section):
    """The page with its section on frontiers replaced, or put before the one on false promotion."""
    parts = page.split("\n## ")
    kept = [part for part in parts if not part.startswith(FRONTIERS.removeprefix("## "))]
    at = next(k for k, part in enumerate(kept) if part.startswith("False promotion"))
    new = "\n".join(section).strip().removeprefix("## ") + "\n"
    return "\n## ".join([*kept[:at], new, *kept[at:]])


def main():
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--pairs", type=int, default=300)
    parser.add_argument("--out", type=Path, default=Path("analysis/compare.md"))
    parser.add_argument("--only", choices=("frontiers",), help="section that is made anew")
    args = parser.parse_args()
    if args.only:
        args.out.write_text(with_section(args.out.read_text(), frontiers_section(args.pairs)))
        return
    lines = []
    for part in written(args.pairs):
        print(*part, sep="\n", flush=True)
        lines += part
    args.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
