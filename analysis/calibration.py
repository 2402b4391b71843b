"""Whether the quoted intervals hold on sweeps that are wrong in ways that happen: 200 simulated sweeps a kind.

    python analysis/calibration.py [--sweeps 200] [--jobs 2] [--only mistuned] [--out analysis/calibration.md]

Of every sweep the whole study is made at 10x the largest budget with 80% intervals, and N* and L* are held
against the truth: the optimum of the very recipe that made the losses, by a fine grid. A sweep counts as safe
where the interval holds the truth or the verdict is "do not rely". Everything is simulated; nothing is
trained. analysis/coverage.py asks the same of well-made sweeps at 90%, quantity by quantity.
"""

import argparse
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scalelab.errors import FitError
from scalelab.laws.observations import Observations
from scalelab.study.study import study

LEVEL, REACH = 0.8, 10.0
NOISE = 0.003  # of the loss, one standard deviation: about what seeds do on our own runs
Loss = Callable[[np.ndarray, np.ndarray], np.ndarray]


def chinchilla(E: float, A: float, B: float, alpha: float, beta: float) -> Loss:
    return lambda N, D: E + A / N**alpha + B / D**beta


def kaplan(N_c: float, D_c: float, alpha_N: float, alpha_D: float) -> Loss:
    return lambda N, D: ((N_c / N) ** (alpha_N / alpha_D) + D_c / D) ** alpha_D


BESIROGLU = chinchilla(1.8172, 477.8, 2143.4, 0.3473, 0.3672)
UNEVEN = chinchilla(1.69, 4000.0, 60.0, 0.465, 0.155)
KAPLAN = kaplan(6.4e13, 1.8e13, 0.076, 0.103)


def mistuned(kappa: float) -> Loss:
    """A recipe that suits 50M parameters, and costs the more the larger a model is."""
    return lambda N, D: BESIROGLU(N, D) * (1 + kappa * np.maximum(0, np.log(N / 5e7)) ** 2)


def kinked(N: np.ndarray, D: np.ndarray) -> np.ndarray:
    """A term of size that falls more slowly from 1.5B parameters on."""
    late = np.where(N < 1.5e9, 1, (N / 1.5e9) ** 0.06)
    return 1.8172 + 477.8 / N**0.3473 * late + 2143.4 / D**0.3672


@dataclass(frozen=True)
class SweepKind:
    """How the sweeps of one kind are made."""

    loss: Loss
    budgets: tuple[float, ...] = tuple(np.geomspace(1e18, 1e21, 7))
    sizes: int = 7
    factor: float = 4.0
    seeds: int = 1
    off: float = 0.0
    """ln of the centre over the true N*."""
    drift: float = 0.0
    """How much the centre moves away with each budget, in ln N."""
    shared: float = 0.0
    """Luck that all runs of a budget share, one standard deviation as a share of the loss."""
    named: bool = True
    """Whether the table names its budgets."""
    group: str | None = None
    """"sweep": one label for all runs; "budget": one for each budget."""
    well_made: bool = False

    def runs(self, rng: np.random.Generator) -> Observations:
        """One sweep."""
        parts = []
        for k, C in enumerate(self.budgets):
            centre = optimum(self.loss, C)[0] * np.exp(self.off + k * self.drift)
            N = np.repeat(centre * np.geomspace(1 / self.factor, self.factor, self.sizes), self.seeds)
            D = C / (6 * N)
            luck = self.shared * rng.standard_normal()
            L = self.loss(N, D) * np.exp(NOISE * rng.standard_normal(N.size) + luck)
            parts.append(
                (N, D, L, np.full(N.size, C), np.tile(np.arange(self.seeds), self.sizes), np.full(N.size, k))
            )
        N, D, L, C, seed, budget = (np.concatenate(part) for part in zip(*parts, strict=True))
        labels = {
            None: None,
            "sweep": np.full(N.size, "sweep-1"),
            "budget": np.array([f"b{k}" for k in budget]),
        }
        planned = C if self.named else None
        return Observations.of(N, D, L, flops_planned=planned, seed=seed, group=labels[self.group])


DENSE = tuple(np.geomspace(1e18, 1e21, 13))
KINDS: Mapping[str, SweepKind] = {
    "Chinchilla, 7 budgets x 7 sizes": SweepKind(BESIROGLU, well_made=True),
    "alpha three times beta, 5 x 7": SweepKind(UNEVEN, tuple(np.geomspace(1e18, 1e20, 5)), well_made=True),
    "Kaplan's form, 6 x 5 x 2 seeds, off by 1.3x": SweepKind(
        KAPLAN,
        tuple(np.geomspace(1e18, 1e20, 6)),
        sizes=5,
        factor=3.0,
        seeds=2,
        off=float(np.log(1.3)),
        well_made=True,
    ),
    "Chinchilla, 7 x 9, drifting to 1.5x": SweepKind(
        BESIROGLU,
        tuple(np.geomspace(3e17, 3e20, 7)),
        sizes=9,
        factor=8.0,
        drift=float(np.log(1.5)) / 6,
        well_made=True,
    ),
    "mistuned, .0007": SweepKind(mistuned(0.0007)),
    "mistuned, .0014": SweepKind(mistuned(0.0014)),
    "mistuned, .003": SweepKind(mistuned(0.003)),
    "luck of budgets, .3%": SweepKind(BESIROGLU, shared=0.003),
    "luck of budgets, 1%": SweepKind(BESIROGLU, shared=0.01),
    "luck of budgets, .3%, named by group alone": SweepKind(
        BESIROGLU, shared=0.003, named=False, group="budget"
    ),
    "thin: 13 budgets of 2 runs": SweepKind(BESIROGLU, DENSE, sizes=2, factor=2.0),
    "thin: one group for all runs": SweepKind(BESIROGLU, named=False, group="sweep"),
    "centres drift to 3x": SweepKind(BESIROGLU, drift=float(np.log(3)) / 6),
    "a kink in N": SweepKind(kinked),
}


def optimum(loss: Loss, C: float) -> tuple[float, float]:
    """N* and L* at C = 6 N D, by a grid even in ln N and a parabola between its points."""
    x = np.linspace(np.log(1e5), np.log(C / 6e5), 4000)
    L = loss(np.exp(x), C / (6 * np.exp(x)))
    k = int(np.argmin(L))
    left, here, right = L[k - 1 : k + 2]
    shift = (left - right) / (2 * (left - 2 * here + right))
    return float(np.exp(x[k] + shift * (x[1] - x[0]))), float(here - (left - right) * shift / 4)


@dataclass(frozen=True)
class SweepOutcome:
    """What the study of one sweep said, held against the truth."""

    holds: tuple[bool | None, bool | None]
    """Whether the quoted intervals of N* and L* hold the truth; None without an interval."""
    noise_holds: tuple[bool | None, bool | None]
    width: float | None
    """ln of the ends of N*'s quoted interval."""
    refused: bool
    """Whether the verdict is "do not rely", or no law could be fitted."""
    error: float
    """N* over its truth, less one."""


def outcome(kind: SweepKind, seed: int, replicates: int) -> SweepOutcome:
    """The study of one simulated sweep."""
    runs = kind.runs(np.random.default_rng(seed))
    target = REACH * float(runs.C.max())
    truth = optimum(kind.loss, target)
    try:
        found = study(
            runs,
            target_flops=target,
            param_count="total",
            flop_count="6ND",
            kind="simulated",
            level=LEVEL,
            replicates=replicates,
            seed=seed,
        )
    except FitError:
        return SweepOutcome((None, None), (None, None), None, True, float("nan"))
    forecast = found.forecast

    def holds(intervals):
        ends = [intervals[key] for key in ("n_params", "loss")]
        return tuple(None if e is None else e[0] <= t <= e[1] for e, t in zip(ends, truth, strict=True))

    quoted = forecast.intervals["n_params"]
    return SweepOutcome(
        holds(forecast.intervals),
        holds(forecast.statistical),
        None if quoted is None else float(np.log(quoted[1] / quoted[0])),
        found.verdict.grade == "do not rely",
        forecast.values["n_params"] / truth[0] - 1,
    )


def outcomes(name: str, sweeps: int, replicates: int, first: int = 0) -> list[SweepOutcome]:
    """The studies of `sweeps` sweeps of a kind."""
    return [outcome(KINDS[name], seed, replicates) for seed in range(first, first + sweeps)]


def safe(found: list[SweepOutcome], quantity: int) -> float:
    """Share of sweeps whose interval holds the truth (0: N*, 1: L*), or whose verdict is "do not rely"."""
    return float(np.mean([one.refused or bool(one.holds[quantity]) for one in found]))


def row(name: str, found: list[SweepOutcome]) -> str:
    """One line of the table."""

    def share(values):
        known = [value for value in values if value is not None]
        return f"{np.mean(known):.0%}" if known else "-"

    widths = [one.width for one in found if one.width is not None]
    relied = [one for one in found if not one.refused]
    return (
        f"| {name} | {len(found)} | {safe(found, 0):.0%} | {safe(found, 1):.0%} | {share([o.refused for o in found])} "
        f"| {share([o.holds[0] for o in relied])} | {share([o.holds[1] for o in relied])} "
        f"| {share([o.noise_holds[0] for o in found])} | {share([o.noise_holds[1] for o in found])} "
        f"| {np.expm1(np.median(widths)):+.0%} | {np.nanmedian([o.error for o in found]):+.1%} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sweeps", type=int, default=200, help="sweeps of each kind (200)")
    parser.add_argument("--replicates", type=int, default=200, help="bootstrap replicates (200)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes (every core)")
    parser.add_argument("--only", default="", help="kinds whose name holds this text")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".md"))
    args = parser.parse_args()
    text = [
        "# Calibration of the quoted intervals [simulated]",
        "",
        f"{args.sweeps} sweeps a kind, {NOISE:.1%} noise, {LEVEL:.0%} intervals at {REACH:g}x the largest budget, "
        f"{args.replicates} replicates. `python analysis/calibration.py` makes this file.",
        'Safe: the interval holds the truth or the verdict is "do not rely". Relied: of the other sweeps. Noise: '
        "the bootstrap of the law that speaks, alone. Width: upper over lower end of N*, less one, the median.",
        "",
        "| kind | sweeps | N* safe | L* safe | do not rely | N*, relied | L*, relied | N*, noise | L*, noise "
        "| width | error of N* |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    part = max(1, args.sweeps // (2 * args.jobs))
    with ProcessPoolExecutor(args.jobs) as pool:
        for name in (name for name in KINDS if args.only in name):
            starts = range(0, args.sweeps, part)
            asked = [
                pool.submit(outcomes, name, min(part, args.sweeps - s), args.replicates, s) for s in starts
            ]
            text.append(row(name, [one for future in asked for one in future.result()]))
            print(text[-1], flush=True)
    args.out.write_text("\n".join(text) + "\n")


if __name__ == "__main__":
    main()
