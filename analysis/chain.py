"""The whole chain with several seeds: what was forecast of the final run, and what came.

    python analysis/chain.py [--seeds 0 2 4 6 8 10] [--runs DIR ...] [--final 6.4e12]

For each seed the commands that a person would type: `scalelab sweep` (every run of the design
from that seed on), `scalelab plan`, `scalelab launch`. What is done is not done again, so the
script may be stopped and started at will. It writes analysis/chain.md.

    error = measured loss / forecast loss - 1
    width = (upper - lower end of the quoted interval) / forecast loss

The replicates of a sweep have the seeds after its own, so seeds two apart share no run where there is one.

Compute in FLOPs (exact, forward and backward), loss in nats per token.

Not here: the comparison with another way to spend the same compute (old_vs_new.py).
"""

import argparse
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

from scalelab.errors import ScalelabError
from scalelab.files import make_dir, write_text
from scalelab.plan.forecast.frozen import FrozenForecast
from scalelab.plan.forecast.ledger import outcome_path
from scalelab.plan.plan import PLAN_FILE, Plan
from scalelab.records.sweep_manifest import SweepManifest, manifest_path
from scalelab.study.verdict import GRADES
from scalelab.sweep.file import SweepFile
from scalelab.train.run_directory import RunDir
from scalelab.train.spent import spent
from scalelab.units import sci, si

HERE = Path(__file__).resolve().parent
SWEEP = HERE.parent / "sweeps" / "isoflop.yaml"
PLACE = Path("runs") / "old_vs_new"
FINAL_FLOPS = 6.4e12  # four times the largest budget of that sweep
Ends = tuple[float, float] | None


@dataclass(frozen=True)
class Chain:
    """One sweep, its plan and its final run."""

    seed: int
    sweep_flops: float
    """Spent by the runs of the sweep. Measured."""
    n_sweep_runs: int
    run_ids: frozenset[str]
    """Of the sweep's runs: two sweeps may share some."""
    final_flops: float
    """Spent by the final run. Measured."""
    n_params: int
    n_tokens: int
    param_count: str
    status: str
    loss: float | None
    """Measured; None unless the run finished."""
    forecast: float
    """Extrapolated."""
    noise: Ends
    """Interval of the noise alone, at `level`."""
    quoted: Ends
    """Interval that is quoted: at each end the farther of noise and choice of law."""
    level: float
    reach: float
    """Compute of the final run as a multiple of the sweep's largest budget."""
    law: str
    grade: str

    @property
    def flops(self) -> float:
        """Everything that this chain has spent."""
        return self.sweep_flops + self.final_flops

    @property
    def error(self) -> float | None:
        """Measured over forecast, less one."""
        return None if self.loss is None else self.loss / self.forecast - 1

    @property
    def width(self) -> float | None:
        """Width of the quoted interval as a share of the forecast."""
        return None if self.quoted is None else (self.quoted[1] - self.quoted[0]) / self.forecast


def holds(ends: Ends, loss: float | None) -> bool | None:
    """Whether an interval holds a loss; None where either is missing."""
    return None if ends is None or loss is None else ends[0] <= loss <= ends[1]


def sweep_of(seed: int, root: Path, sweep: Path, budgets: Sequence[float] | None = None) -> str:
    """The sweep of a seed, trained to its end below `root`; its name. Arguments as in words_of."""
    name, overrides = words_of(seed, sweep, budgets)
    if not _all_done(root, name):
        scalelab("sweep", str(sweep), *(f"--set={o}" for o in overrides), root=root, cwd=root)
    return name


def words_of(seed: int, sweep: Path, budgets: Sequence[float] | None = None) -> tuple[str, list[str]]:
    """What the sweep of a seed is called, and what it lays over the sweep file.

    Args:
        seed: Of its runs; the replicates have the next ones.
        sweep: The sweep file.
        budgets: Only these slices of it, FLOPs; None for all. They are a sweep of their own
            name, which takes over the runs that the whole one has trained; branches of trunks it
            trains anew, since their batch and warmup follow from all token counts of a size.
    """
    name, overrides = SweepFile.load(sweep).name, [f"design.seed={seed}"]
    if budgets is not None:
        name += f"-{len(budgets)}-budgets"
        overrides += [f"name={name}", f"design.budgets=[{', '.join(f'{b!r}' for b in budgets)}]"]
    return name, overrides


def _all_done(root: Path, name: str) -> bool:
    if not manifest_path(root, name).exists():
        return False
    return all(RunDir(root / run.dir).is_done for run in SweepManifest.load(root, name).runs)


def sweep_flops(root: Path, name: str) -> float:
    """FLOPs that the runs of a sweep have spent, exactly, each trunk counted once."""
    return spent(RunDir(root / run.dir).result() for run in SweepManifest.load(root, name).runs).flops


def final_of_new_arm(seed: int, root: Path, place: Path, name: str, flops: float) -> Chain:
    """Plan and launch from a finished sweep; what was forecast and what came.

    Args:
        seed: Of the final run.
        root: Where run directories lie.
        place: For the plan and the report.
        name: The sweep's.
        flops: Budget of the final run.
    """
    out = make_dir(place) / "plans" / f"{name}-{sci(flops)}"
    if not (out / PLAN_FILE).exists():
        words = ("plan", name, f"--budget={flops!r}", f"--seed={seed}", f"--out={out}")
        scalelab(*words, root=root, cwd=place)
    if not outcome_path(root, FrozenForecast.load(out / "forecast.json").digest).exists():
        scalelab("launch", str(out), root=root, cwd=place)
    return read_chain(seed, root, out, name)


def read_chain(seed: int, root: Path, out: Path, name: str) -> Chain:
    """A chain that has come to its end, from its files."""
    plan, frozen = Plan.load(out), FrozenForecast.load(out / "forecast.json")
    result = RunDir.of(plan.spec, root, plan.name).result()
    runs = SweepManifest.load(root, name).runs
    return Chain(
        seed=seed,
        sweep_flops=sweep_flops(root, name),
        n_sweep_runs=len(runs),
        run_ids=frozenset(run.run for run in runs),
        final_flops=result.flops,
        n_params=int(frozen.actual["n_params"]),
        n_tokens=result.n_tokens,
        param_count=frozen.param_count,
        status=result.status,
        loss=result.loss if result.status == "finished" else None,
        forecast=frozen.loss,
        noise=frozen.statistical and tuple(frozen.statistical),
        quoted=frozen.quoted and tuple(frozen.quoted),
        level=frozen.level,
        reach=frozen.reach,
        law=frozen.law,
        grade=frozen.grade,
    )


def scalelab(*words: str, root: Path, cwd: Path) -> None:
    """Run one command as a person would; stop where it does."""
    print("$ scalelab " + " ".join(words), flush=True)
    done = subprocess.run(
        [sys.executable, "-m", "scalelab.cli", *words],
        cwd=make_dir(cwd),
        env=os.environ | {"SCALELAB_RUNS": str(root)},
        check=False,
    )
    if done.returncode:
        sys.exit(done.returncode)


def roots(seeds: Sequence[int], given: Sequence[Path] | None, place: Path) -> dict[int, Path]:
    """Where each seed's run directories lie: what was given, else below `place`."""
    if given is not None and len(given) != len(seeds):
        sys.exit(f"--runs names {len(given)} directories, --seeds {len(seeds)} seeds")
    found = given or [place / f"seed{seed}" / "runs" for seed in seeds]
    return {seed: path.resolve() for seed, path in zip(seeds, found, strict=True)}


def arguments(parser: argparse.ArgumentParser) -> None:
    """What both scripts take."""
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 2, 4, 6, 8, 10])
    parser.add_argument(
        "--runs", type=Path, nargs="+", help="runs directory of each seed, to take sweeps from"
    )
    parser.add_argument("--place", type=Path, default=PLACE, help=f"for everything else ({PLACE})")
    parser.add_argument("--sweep", type=Path, default=SWEEP, help="the sweep file")
    parser.add_argument(
        "--final", type=float, default=FINAL_FLOPS, help=f"FLOPs of the final run ({FINAL_FLOPS:g})"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments(parser)
    parser.add_argument("--out", type=Path, default=HERE / "chain.md")
    args = parser.parse_args()
    try:
        text = page(every_chain(args))
    except ScalelabError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    write_text(args.out, text)
    print(text)
    return 0


def every_chain(args: argparse.Namespace) -> list[Chain]:
    """The chain of each seed, to its end."""
    chains = []
    for seed, root in roots(args.seeds, args.runs, args.place).items():
        name = sweep_of(seed, root, args.sweep.resolve())
        place = args.place.resolve() / f"seed{seed}"
        chains.append(final_of_new_arm(seed, root, place, name, args.final))
    return chains


def page(chains: Sequence[Chain]) -> str:
    """The result as Markdown: every chain, those that missed too."""
    level = f"{chains[0].level:.0%}"
    lines = [
        "# The whole chain, seed by seed",
        "",
        f"`scalelab sweep`, `plan` and `launch`, times {len(chains)}, each with its own seed for "
        "every run, on one corpus and one set of validation tokens. "
        "`python analysis/chain.py` makes this page.",
        "Forecast: extrapolated, frozen before the launch. Measured: validation loss of the final "
        f"run, nats per token. Noise, quoted: {level} intervals, of the noise alone and with the "
        "choice of law. Width: of the quoted interval, over forecast. Error: measured over forecast, "
        "less one.",
        "",
        f"| seed | N ({chains[0].param_count}) | D | D/N | sweep FLOPs | final FLOPs | reach | law | verdict "
        "| forecast | noise | quoted | width | measured | error | noise | quoted |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for c in chains:
        lines.append(
            f"| {c.seed} | {si(c.n_params)} | {si(c.n_tokens)} | {c.n_tokens / c.n_params:.1f} "
            f"| {sci(c.sweep_flops)} | {sci(c.final_flops)} | {c.reach:.3g}x | {c.law} | {c.grade} "
            f"| {c.forecast:.4f} | {interval(c.noise)} | {interval(c.quoted)} "
            f"| {'unknown' if c.width is None else f'{c.width:.2%}'} | {measured(c.loss, c.status)} "
            f"| {'unknown' if c.error is None else f'{c.error:+.2%}'} "
            f"| {told(c.noise, c.loss)} | {told(c.quoted, c.loss)} |"
        )
    return "\n".join([*lines, "", *_tallies(chains, level), "", _limits(chains)]) + "\n"


def _tallies(chains: Sequence[Chain], level: str) -> list[str]:
    lines = []
    for name, key in (("noise", "noise"), ("quoted", "quoted")):
        verdicts = [(c.seed, holds(getattr(c, key), c.loss)) for c in chains]
        judged = [seed for seed, held in verdicts if held is not None]
        missed = [seed for seed, held in verdicts if held is False]
        words = f"- {name}: {len(judged) - len(missed)} of {len(judged)} {level} intervals held"
        if missed:
            words += f"; MISSED with seed {', '.join(map(str, missed))}"
        if len(judged) < len(chains):
            words += f"; {len(chains) - len(judged)} could not be judged"
        lines.append(words + ".")
    clean = sum(c.grade == GRADES[0] for c in chains)
    lines.append(f"- verdict: {GRADES[0]} in {clean} of {len(chains)}.")
    widths = [c.width for c in chains if c.width is not None]
    if widths:
        lines.append(f"- width of the quoted interval: mean {mean(widths):.2%}, largest {max(widths):.2%}.")
    errors = [c.error for c in chains if c.error is not None]
    if errors:
        sizes = [abs(e) for e in errors]
        side = {(True,): "all above", (False,): "all below"}.get(
            tuple({e > 0 for e in errors}), "on both sides of"
        )
        lines.append(
            f"- mean absolute error {mean(sizes):.2%}, largest {max(sizes):.2%}; measured losses lie "
            f"{side} what was forecast."
        )
        apart = f"standard error {stdev(errors) / len(errors) ** 0.5:.2%}" if len(errors) > 1 else "one chain"
        lines.append(f"- mean signed error {mean(errors):+.2%} ({apart}).")
    return lines


def _limits(chains: Sequence[Chain]) -> str:
    shared = max((len(a.run_ids & b.run_ids) for i, a in enumerate(chains) for b in chains[:i]), default=0)
    words = (
        "How far this goes: so few chains cannot measure coverage "
        f"(analysis/coverage.md does, on simulated sweeps); the reach is {chains[0].reach:.3g}x, "
        "the models are tiny, and text and recipe are the same every time."
    )
    if shared:
        words += (
            f" Replicates of one sweep are runs of another: two of them share up to {shared} of "
            f"{chains[0].n_sweep_runs} runs, so they are not wholly independent."
        )
    return words


def interval(ends: Ends) -> str:
    """An interval of losses for eyes."""
    return "unknown" if ends is None else f"[{ends[0]:.4f}, {ends[1]:.4f}]"


def measured(loss: float | None, status: str) -> str:
    """A loss for eyes, or how the run ended."""
    return status if loss is None else f"{loss:.4f}"


def told(ends: Ends, loss: float | None) -> str:
    """Whether an interval held, in a word."""
    return {True: "held", False: "**missed**", None: "unknown"}[holds(ends, loss)]


if __name__ == "__main__":
    sys.exit(main())
