"""Equal compute, two ways: fit a law and launch once, or tune on the large model and launch.

    python analysis/old_vs_new.py [--seeds 0 1 2] [--runs DIR ...] [--ways new naive ...]

    new    sweep of small models, law, plan, launch (chain.py): size and tokens from the law
    old    size from a rule that no own data enter, tuning on that model, launch (old_way.py)
    T      FLOPs of the sweep + FLOPs of the final run, per seed, the same for both

    difference = loss of the old way - loss of the new way, at the same seed

What is done is not done again: the script may be stopped and started at will. It writes
analysis/old_vs_new.md and .png.

Compute in FLOPs (exact, forward and backward; evaluation counts in neither way), loss in nats
per token on the recipe's fixed validation tokens.

Not here: the forecasts themselves (chain.py), what an old pipeline would cost (the plan room).
"""

import argparse
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import chain
import numpy as np
from old_way import (
    BATCHES,
    KAPLAN_EXPONENT,
    NAIVE_WINDOWS,
    NEW,
    OLD,
    RANDOM,
    RECIPE_FLOPS,
    SPACE,
    TOKENS_PER_PARAM,
    Lab,
    Search,
    Task,
    Trial,
    search,
    train,
)

from scalelab.errors import ScalelabError
from scalelab.files import whole, write_text
from scalelab.jobs.base import Executor
from scalelab.launch.sweep_plan import place
from scalelab.sweep.file import SweepFile
from scalelab.train.spec import RunResult
from scalelab.units import sci, si

HERE = Path(__file__).resolve().parent
LEVEL = 0.95  # of the t intervals
KAPLAN_CONSTANT = 1.3e9  # N at one PF-day; Kaplan et al. 2020, table 6
PF_DAY = 8.64e19  # FLOPs


@dataclass(frozen=True)
class Arm:
    """What one way came to with one seed. Measured, but for the forecast."""

    way: str
    seed: int
    search_flops: float
    """Of the sweep, or of the trials."""
    final_flops: float
    n_params: int
    n_tokens: int
    loss: float | None
    status: str
    trials: tuple[Trial, ...] = ()
    forecast: chain.Chain | None = None

    @property
    def flops(self) -> float:
        """Everything that was spent."""
        return self.search_flops + self.final_flops


def new_arm(lab: Lab, name: str) -> Arm:
    """The new way with one seed: law, plan, launch."""
    split = NEW[name]
    sweep = lab.swept(split)
    rest = lab.total_flops - lab.search_flops(split)
    found = chain.final_of_new_arm(lab.seed, lab.root, lab.place, sweep, rest)
    return Arm(
        way=name,
        seed=lab.seed,
        search_flops=found.sweep_flops,
        final_flops=found.final_flops,
        n_params=found.n_params,
        n_tokens=found.n_tokens,
        loss=found.loss,
        status=found.status,
        forecast=found,
    )


def old_arms(labs: Sequence[Lab], ways: Sequence[str], executor: Executor) -> list[Arm]:
    """Every old way with every seed: all searches, then all final runs together."""
    tasks = [Task(lab, way) for lab in labs for way in ways]
    for task in tasks:
        task.refuse_short()
    searches = [search(task, executor) for task in tasks]
    work = [
        planned
        for found in searches
        for planned in place((found.final(),), found.task.lab.root, f"old-{found.task.name}")
    ]
    results = train(labs[0].file, work, executor)
    return [_arm(found, result) for found, result in zip(searches, results, strict=True)]


def _arm(found: Search, result: RunResult) -> Arm:
    task, recipe = found.task, found.task.recipe
    return Arm(
        way=task.name,
        seed=task.lab.seed,
        search_flops=found.spent,
        final_flops=result.flops,
        n_params=task.model.size(recipe.seq_len).count(recipe.param_count),
        n_tokens=result.n_tokens,
        loss=result.loss if result.status == "finished" else None,
        status=result.status,
        trials=found.trials,
    )


@dataclass(frozen=True)
class Difference:
    """Old less new, seed by seed, nats per token: above zero the new way ended lower."""

    pairs: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Over the seeds."""
        return float(np.mean(self.pairs))

    @property
    def interval(self) -> chain.Ends:
        """Student's t interval of the mean; None of fewer than two seeds."""
        from scipy.stats import t  # not at the top, as in Sampler

        n = len(self.pairs)
        if n < 2:
            return None
        half = float(t.ppf((1 + LEVEL) / 2, n - 1) * np.std(self.pairs, ddof=1) / np.sqrt(n))
        return self.mean - half, self.mean + half

    def __str__(self) -> str:
        """The verdict in words."""
        better = sum(d > 0 for d in self.pairs)
        count = f"the new way ended lower in {better} of {len(self.pairs)} pairs"
        if self.interval is None:
            return f"not judged: {count}"
        low, high = self.interval
        said = "**new lower**" if low > 0 else "**old lower**" if high < 0 else "**not told apart**"
        return f"{said}; {count}"


def difference(arms: Sequence[Arm], way: str) -> Difference:
    """An old way against its new one, over the seeds in which both finished."""
    losses = {(arm.way, arm.seed): arm.loss for arm in arms if arm.loss is not None}
    seeds = sorted(s for w, s in losses if w == way and (OLD[way].against, s) in losses)
    return Difference(tuple(losses[way, s] - losses[OLD[way].against, s] for s in seeds))


def page(arms: Sequence[Arm], figure: str) -> str:
    """The result as Markdown."""
    ways = list(dict.fromkeys(arm.way for arm in arms))
    old = [way for way in ways if way in OLD]
    seeds = sorted({arm.seed for arm in arms})
    lines = [
        "# Old way against new way, at equal compute [measured]",
        "",
        f"Seeds {', '.join(map(str, seeds))}; `python analysis/old_vs_new.py` makes this page. "
        "Final validation loss, nats per token; lower is better.",
        "",
        f"![Final losses of both ways]({figure})",
        "",
        "## What came out",
        "",
        f"Difference: old less new at the same seed, mean and {LEVEL:.0%} interval by Student's t "
        "over the seeds.",
        "",
        "| way | seeds | mean loss | sd | against | difference | verdict |",
        "|---|---|---|---|---|---|---|",
        *(_row(arms, way) for way in ways),
        "",
        *_forecasts(arms),
        "",
        "## The ways",
        "",
        *(f"- **{way}**: {(NEW | OLD)[way].words}." for way in ways),
        "",
        *_rules(arms),
        "",
        "## Every run",
        "",
        "FLOPs spent, exact, in units of 1e12; T is sweep or trials plus the final run.",
        "",
        "| way | seed | sweep or trials | final run | T | N | D | D/N | loss | forecast |",
        "|---|---|---|---|---|---|---|---|---|---|",
        *(_run(arm) for arm in arms),
        "",
        *(_settings(arms) if old else ()),
        "## How far this goes",
        "",
        *_limits(arms),
    ]
    return "\n".join(lines) + "\n"


def _row(arms: Sequence[Arm], way: str) -> str:
    losses = [arm.loss for arm in arms if arm.way == way and arm.loss is not None]
    mean = f"{np.mean(losses):.4f}" if losses else "unknown"
    sd = f"{np.std(losses, ddof=1):.4f}" if len(losses) > 1 else "unknown"
    cells = f"| {way} | {len(losses)} | {mean} | {sd} |"
    if way not in OLD:
        return cells + " | | |"
    apart = difference(arms, way)
    if not apart.pairs:
        return cells + f" {OLD[way].against} | unknown | not judged |"
    ends = apart.interval
    within = "no interval" if ends is None else f"[{ends[0]:+.4f}, {ends[1]:+.4f}]"
    return cells + f" {OLD[way].against} | {apart.mean:+.4f} {within} | {apart} |"


def _forecasts(arms: Sequence[Arm]) -> list[str]:
    """Whether the new way's own forecasts held."""
    lines = []
    for way in NEW:
        found = [arm.forecast for arm in arms if arm.way == way and arm.forecast is not None]
        verdicts = [(c.seed, chain.holds(c.quoted, c.loss)) for c in found]
        if not found:
            continue
        held = [seed for seed, holds in verdicts if holds]
        missed = [str(seed) for seed, holds in verdicts if holds is False]
        words = f"Forecasts of **{way}** [extrapolated {found[0].reach:.3g}x]: "
        words += f"{len(held)} of {len(found)} quoted {found[0].level:.0%} intervals held"
        words += f"; missed with seed {', '.join(missed)}" if missed else ""
        lines.append(words + ". The old way foretells nothing.")
    return lines


def _rules(arms: Sequence[Arm]) -> list[str]:
    old = [arm for arm in arms if arm.way in OLD]
    if not old:
        return []
    flops = min(arm.final_flops for arm in old)
    kaplan = KAPLAN_CONSTANT * (flops / PF_DAY) ** KAPLAN_EXPONENT
    space = ", ".join(f"{key} {low:g} to {high:g}" for key, (low, high) in SPACE.items())
    return [
        f"Size in the old way: {TOKENS_PER_PARAM:g} tokens per parameter [literature, Hoffmann et "
        "al. 2022] at the budget of the final run, in the recipe's own count; **larger**: the size "
        f"that this gives at the sweep's smallest budget, grown as C^{KAPLAN_EXPONENT} "
        f"[literature, Kaplan et al. 2020]. (Their constants themselves would say {si(kaplan)} "
        f"parameters at {sci(flops)} FLOPs, far below any size they were fitted on.)",
        "",
        "Tuning in the old way: every trial is a full short schedule of the large model, all of "
        f"one length. The first is the start itself, the next {RANDOM - 1} are random, then "
        f"Optuna's TPE asks, all within {space} (logarithmic) and "
        f"{', '.join(f'{b:g}' for b in BATCHES)} times the start's batch. The lowest validation "
        "loss wins and is trained at full length. AdamW's defaults: lr 1e-3 for every weight at "
        f"every width, beta2 0.999, weight decay 0.01; batches of {NAIVE_WINDOWS} windows. "
        "Schedule, context, clipping and text are the new way's own. What whole steps and "
        "diverged trials leave over goes to the final run.",
    ]


def _run(arm: Arm) -> str:
    words = ""
    if (c := arm.forecast) is not None:
        word = {True: "held", False: "**missed**", None: "not judged"}[chain.holds(c.quoted, c.loss)]
        words = f"{c.forecast:.4f} {chain.interval(c.quoted)} {word}"
    return (
        f"| {arm.way} | {arm.seed} | {arm.search_flops / 1e12:.6g} | {arm.final_flops / 1e12:.6g} "
        f"| {arm.flops / 1e12:.6g} | {si(arm.n_params)} | {si(arm.n_tokens)} "
        f"| {arm.n_tokens / arm.n_params:.1f} | {chain.measured(arm.loss, arm.status)} "
        f"| {words} |"
    )


def _settings(arms: Sequence[Arm]) -> list[str]:
    lines = [
        "## What tuning chose",
        "",
        "Losses of the short runs; batch in multiples of the start's. Start: the first trial.",
        "",
        "| way | seed | trials | diverged | FLOPs each | start | median | best "
        f"| {' | '.join((*SPACE, 'batch'))} |",
        "|---" * (8 + len(SPACE) + 1) + "|",
    ]
    for arm in arms:
        if not arm.trials:
            continue
        done = [trial for trial in arm.trials if trial.loss is not None]
        best = min(done, key=lambda trial: trial.loss)
        chosen = " | ".join(f"{best.settings[key]:g}" for key in (*SPACE, "batch"))
        first = arm.trials[0].loss
        lines.append(
            f"| {arm.way} | {arm.seed} | {len(arm.trials)} | {len(arm.trials) - len(done)} "
            f"| {sci(arm.search_flops / len(arm.trials))} "
            f"| {'diverged' if first is None else f'{first:.4f}'} "
            f"| {np.median([t.loss for t in done]):.4f} | {best.loss:.4f} | {chosen} |"
        )
    return [*lines, ""]


def _limits(arms: Sequence[Arm]) -> list[str]:
    n, n_old = len({arm.seed for arm in arms}), len({arm.way for arm in arms if arm.way in OLD})
    whole_sweep = [arm for arm in arms if arm.way == "new"]
    lines = [
        f"- Seeds: {n}; models of at most "
        f"{si(max(arm.n_params for arm in arms))} parameters, one text, one kind of processor. An "
        f"interval over so few seeds tells only large differences apart; comparisons made, without "
        f"correcting for their number: {n_old}."
    ]
    if whole_sweep:
        arm = whole_sweep[0]
        lines.append(
            f"- The sweep costs {arm.search_flops / arm.final_flops:.2g} times the final run, "
            "where a real one costs a few percent of it. So both ways spend much of T before the "
            "run that counts; **longer** and **new, longer** show what spending less does."
        )
        ratios = [arm.n_tokens / arm.n_params for arm in whole_sweep]
        lines.append(
            f"- {TOKENS_PER_PARAM:g} tokens per parameter is itself the result of somebody's "
            f"scaling law, and the new way found {min(ratios):.1f} to {max(ratios):.1f} here: the "
            "old way gets a good size for nothing, but for **larger**."
        )
    lines += [
        "- The new way's recipe was itself tuned beforehand (analysis/LOG.md: 9 settings at two "
        f"sizes, {sci(RECIPE_FLOPS)} FLOPs, on this text), which T leaves out. **paid** gives the "
        "old way as much in further trials, beyond T; **tuned** gives it the recipe.",
        "- The ranges that the old way searches were drawn by somebody who knew where the tuned "
        "recipe lies: that helps it.",
        "- What else the new way leaves behind (a forecast with an interval, sizes for the next "
        "budget) is not in these numbers; nor is what the old way would gain from transferring "
        "its rates over length.",
    ]
    return lines


def draw(arms: Sequence[Arm], path: Path) -> None:
    """Losses by way, and differences with their intervals, as a picture."""
    import matplotlib  # not at the top, as in Sampler

    from scalelab.report.plots.plot_style import BLUE, GREY, INK, MARKERS, RED, SMALL, STYLE

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    ways = list(dict.fromkeys(arm.way for arm in arms))
    seeds = sorted({arm.seed for arm in arms})
    old = [way for way in ways if way in OLD and difference(arms, way).pairs]
    with matplotlib.rc_context(STYLE):
        figure, (left, right) = plt.subplots(
            1, 2, figsize=(8.4, 1.3 + 0.36 * len(ways)), width_ratios=(1.15, 1), layout="constrained"
        )
        for row, way in enumerate(ways):
            colour = BLUE if way in NEW else RED
            mine = [arm for arm in arms if arm.way == way and arm.loss is not None]
            for arm in mine:
                left.plot(
                    arm.loss,
                    row,
                    MARKERS[seeds.index(arm.seed) % len(MARKERS)],
                    color=colour,
                    markersize=5,
                    markerfacecolor=colour if way in NEW else "white",
                )
            if mine:
                left.plot(np.mean([arm.loss for arm in mine]), row, "|", color=INK, markersize=15)
        left.set_yticks(range(len(ways)), ways)
        left.set_ylim(len(ways) - 0.5, -0.5)
        left.set_xlabel("final validation loss,\nnats per token")
        left.set_title("filled: new way, hollow: old way; bar: mean", fontsize=SMALL)
        for seed in seeds:
            marker = MARKERS[seeds.index(seed) % len(MARKERS)]
            left.plot([], [], marker, color=INK, markerfacecolor="white", label=f"seed {seed}")
        left.legend(
            fontsize=SMALL,
            frameon=False,
            ncols=len(seeds),
            loc="lower left",
            bbox_to_anchor=(0, 1.09),
            borderpad=0,
            handletextpad=0.2,
            columnspacing=1.2,
        )
        right.axvline(0, color=GREY, linewidth=0.8)
        for row, way in enumerate(old):
            apart = difference(arms, way)
            if apart.interval is not None:
                right.plot(apart.interval, [row, row], "-", color=INK, linewidth=1.4)
            right.plot(apart.pairs, [row] * len(apart.pairs), "o", color=GREY, markersize=3.5)
            right.plot(apart.mean, row, "D", color=INK, markersize=5)
        right.set_yticks(range(len(old)), [f"{way} - {OLD[way].against}" for way in old])
        right.set_ylim(max(len(old), 1) - 0.5, -0.5)
        right.set_xlabel("old less new, nats per token\n(right of zero: the new way ended lower)")
        right.set_title(f"dot: one seed; diamond, line: mean, {LEVEL:.0%} interval", fontsize=SMALL)
        with whole(path) as file:
            figure.savefig(file, format="png", dpi=150, metadata={"Software": None})
        plt.close(figure)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    chain.arguments(parser)
    every = [*NEW, *OLD]
    parser.add_argument("--ways", nargs="+", choices=every, default=every, help="which to run")
    parser.add_argument("--out", type=Path, default=HERE / "old_vs_new.md")
    args = parser.parse_args()
    try:
        arms = compare(args)
    except ScalelabError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    picture = args.out.with_suffix(".png")
    draw(arms, picture)
    text = page(arms, picture.name)
    write_text(args.out, text)
    print(text)
    return 0


def compare(args: argparse.Namespace) -> list[Arm]:
    """Every way that was asked for, with every seed."""
    sweep = args.sweep.resolve()
    file = SweepFile.load(sweep)
    labs = [
        Lab(seed, root, args.place.resolve() / f"seed{seed}", sweep, file, args.final)
        for seed, root in chain.roots(args.seeds, args.runs, args.place).items()
    ]
    arms = [new_arm(lab, way) for lab in labs for way in NEW if way in args.ways]
    with closing(file.launch.executor.start(("scalelab.launch.training",))) as executor:
        arms += old_arms(labs, [way for way in OLD if way in args.ways], executor)
    order = [*NEW, *OLD]
    return sorted(arms, key=lambda arm: (order.index(arm.way), arm.seed))


if __name__ == "__main__":
    sys.exit(main())
