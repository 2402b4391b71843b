"""How fast and how exact the fitter is, beside scipy on the same objective in the same run.

    python analysis/bench/fit.py

One thread, CPU seconds, imports excluded. Hoffmann's 240 points are used where they lie beside
the repository (../shared/data), else simulated points of the same number. Prints one JSON
object a line: what, value, unit, limit where there is one, and whether it was met. Exit 1 when
a limit is missed.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"

import csv
import json
import resource
import subprocess
import sys
import tempfile
import time
from itertools import product
from pathlib import Path

import numpy as np
from scipy.optimize import minimize

from scalelab.laws import solver
from scalelab.laws.averaged.law import Averaged
from scalelab.laws.forms.chinchilla import Chinchilla
from scalelab.laws.isoflop.law import IsoFlopLaw
from scalelab.laws.observations import Observations
from scalelab.study.study import study

POINTS = Path(__file__).parents[3] / "shared" / "data" / "hoffmann2022_fig4_points.csv"
TIGHT = {"ftol": 1e-15, "gtol": 1e-12, "maxiter": 5000, "maxfun": 20000}
missed = []


def say(what, value, unit, limit=None, **more):
    """One line, and a note of what missed its limit."""
    met = {} if limit is None else {"limit": limit, "met": bool(value <= limit)}
    if met and not met["met"]:
        missed.append(what)
    print(json.dumps({"what": what, "value": float(f"{value:.4g}"), "unit": unit} | met | more))


def cpu(call):
    """CPU seconds of a call, and what it returned."""
    began = time.process_time()
    result = call()
    return time.process_time() - began, result


def simulated(count, seed=0):
    """Runs of a Chinchilla law with .3% noise over 3 decades of each of N and D."""
    rng = np.random.default_rng(seed)
    N, D = 10 ** rng.uniform(7.5, 10.5, count), 10 ** rng.uniform(9, 12, count)
    L = (1.82 + 478 / N**0.347 + 2143 / D**0.367) * np.exp(0.003 * rng.standard_normal(count))
    return Observations.of(N, D, L)


def hoffmann():
    """The 240 points, or as many simulated ones."""
    if not POINTS.exists():
        return simulated(240), "240 simulated points"
    with open(POINTS, encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    N, C, L = (np.array([float(r[k]) for r in rows]) for k in ("Model Size", "Training FLOP", "loss"))
    kept = np.argsort(L)[:-5]
    runs = Observations.of(N[kept], C[kept] / (6 * N[kept]), L[kept], C=C[kept])
    return runs, "Hoffmann's 240 points"


def scipy_from(surface, starts, weights=None):
    """L-BFGS-B with tight tolerances on the same scaled sum, from every start; best objective."""
    w = surface.weight if weights is None else weights

    def objective(theta):
        value, slope = surface.at(theta[None])
        miss = (value[0] - surface.target) / surface.delta
        pull = np.clip(miss, -1, 1)
        return np.sum(w * pull * (miss - pull / 2)), slope[0] @ (w * pull) / surface.delta

    bounds = list(zip(surface.low, surface.high, strict=True))
    ends = [minimize(objective, s, jac=True, method="L-BFGS-B", bounds=bounds, options=TIGHT) for s in starts]
    values = np.array([end.fun for end in ends])
    return values, np.array([end.x for end in ends])


def point_fit(runs, name):
    """One fit, ours and scipy's."""
    Chinchilla().fit(runs)  # first calls load code
    ours, fit = cpu(lambda: Chinchilla().fit(runs))
    say(
        f"point fit, {name}",
        ours,
        "CPU s",
        0.1,
        starts=fit.solver.starts,
        starts_agree=fit.solver.agreement,
        objective=fit.objective,
    )
    surface = fit.surface
    theirs, (values, _) = cpu(lambda: scipy_from(surface, surface.starts()))
    agree = float(np.mean(values <= fit.scaled * (1 + 1e-4)))
    say("scipy L-BFGS-B from the same starts", theirs, "CPU s", starts_agree=agree)
    say("scipy over ours, same starts", theirs / ours, "ratio", best=float(values.min() * 1e-6))

    grid = list(product(np.exp((-1, -0.5, 0, 0.5, 1)), *2 * [range(0, 30, 5)], *2 * [GRID]))
    m, k = surface.middle
    rng = np.random.default_rng(0)
    sample = [grid[i] for i in rng.choice(len(grid), 60, replace=False)]
    starts = [[E, a - alpha * m, b - beta * k, alpha, beta] for E, a, b, alpha, beta in sample]
    theirs, (values, _) = cpu(lambda: scipy_from(surface, np.clip(starts, surface.low, surface.high)))
    whole = theirs / len(sample) * len(grid)
    say(
        f"scipy from Hoffmann's grid of {len(grid)} starts, extrapolated from {len(sample)}",
        whole,
        "CPU s",
        starts_agree=float(np.mean(values <= fit.scaled * (1 + 1e-4))),
    )
    say("that over ours", whole / ours, "ratio")
    return fit


GRID = (0, 0.5, 1, 1.5, 2)


def bootstrap(fit):
    """4,000 replicates; 150 of them against their own search from every start."""
    count = 4000
    seconds, drawn = cpu(lambda: fit.replicates(count, 0))
    ours = 1000 * seconds / count
    say("bootstrap of 4,000", ours, "CPU ms a replicate", 1.0, failed=drawn.failed)

    surface, counts = fit.surface, fit.units.counts(0)
    warm = solver.search(surface, np.tile(fit.theta, (150, 1)), counts, damping=1e-4)
    worst = 0.0
    for row in range(150):
        weights = counts(row, row + 1)
        many = np.vstack([surface.starts(), fit.theta])
        ends = solver.search(surface, many, lambda i, j, w=weights: np.repeat(w, j - i, axis=0))
        worst = max(worst, warm.objective[row] / ends.objective.min() - 1)
    say("worst of 150 replicates over its own multi-start optimum", worst, "share", 1e-6)

    def theirs():
        for row in range(40):
            scipy_from(surface, [fit.theta], counts(row, row + 1)[0])

    seconds, _ = cpu(theirs)
    say("scipy, warm start", 1000 * seconds / 40, "CPU ms a replicate")
    say("scipy over ours, a replicate", 1000 * seconds / 40 / ours, "ratio")


def forecast(runs, name):
    """The forecast that is quoted, beside one multi-start Chinchilla fit to the same runs.

    The parts: the average with its weights and its calibrated interval; the noise by 4,000 replicates; and the
    study, which fits the other laws, their windows and hold-outs too.
    """
    target = 10 * float(runs.C.max())
    unit = min(cpu(lambda: Chinchilla().fit(runs))[0] for _ in range(5))

    def calibrated():
        fit = Averaged().fit(runs)
        return fit, fit.optimum(target), fit.calibrated(target, 0.9)

    def quoted():
        return calibrated()[0].replicates(4000, 0).optimum(target)

    def whole():
        return study(runs, target_flops=target, param_count="total", replicates=4000)

    for what, call, limit in (
        ("averaged forecast with its calibrated interval", calibrated, None),
        ("the same and 4,000 replicates: the quoted interval", quoted, 100.0),
        ("the whole study with 4,000 replicates of every law", whole, None),
    ):
        seconds = min(cpu(call)[0] for _ in range(2))
        say(
            f"{what}, {name}",
            seconds / unit,
            "Chinchilla fits of CPU",
            limit,
            seconds=float(f"{seconds:.3g}"),
        )


def minima():
    """The bootstrap of isoFLOP parabolas."""
    budgets = np.repeat(np.geomspace(1e18, 1e20, 5), 7)
    N = np.tile(np.geomspace(0.25, 4, 7), 5) * (budgets / 6) ** 0.51 * 0.12
    D = budgets / 6 / N
    L = 1.82 + 478 / N**0.347 + 2143 / D**0.367
    L *= np.exp(0.003 * np.random.default_rng(0).standard_normal(N.size))
    fit = IsoFlopLaw().fit(Observations.of(N, D, L, flops_planned=budgets))
    seconds, _ = cpu(lambda: fit.replicates(4000, 0))
    say("bootstrap of 5 parabolas", 1000 * seconds / 4000, "CPU ms a replicate", 1.0)


def large():
    """100,000 runs with 1,000 replicates."""
    runs = simulated(100_000)

    def whole():
        fit = Chinchilla().fit(runs)
        return fit, fit.replicates(1000, 0)

    seconds, (fit, drawn) = cpu(whole)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    share = fit.solver.agreement
    say("100,000 runs, fit and 1,000 replicates", seconds, "CPU s", 60.0, starts_agree=share)
    say("peak memory by then", peak, "GiB", 2.0, failed=drawn.failed)


def command():
    """From shell to prompt."""
    runs, _ = hoffmann()
    scalelab = [sys.executable, "-m", "scalelab.cli"]
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "table.csv"
        lines = [f"{n},{d},{c},{loss}" for n, d, c, loss in zip(runs.N, runs.D, runs.C, runs.L, strict=True)]
        table.write_text("n_params,n_tokens,flops,loss\n" + "\n".join(lines) + "\n")
        for what, args, limit in (
            ("scalelab fit table.csv --replicates 0", ["fit", str(table), "--replicates", "0"], 2.0),
            ("scalelab fit table.csv", ["fit", str(table)], None),
            ("scalelab --help", ["--help"], 0.3),
        ):
            walls = []
            for _ in range(5):
                began = time.perf_counter()
                subprocess.run([*scalelab, *args], cwd=folder, check=True, capture_output=True)
                walls.append(time.perf_counter() - began)
            say(what, min(walls), "wall s, best of 5", limit)


def main():
    runs, name = hoffmann()
    fit = point_fit(runs, name)
    bootstrap(fit)
    forecast(runs, name)
    minima()
    large()
    command()
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
