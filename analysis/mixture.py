"""How well mixture laws predict mixtures that they have not seen, and whether their intervals hold.

    python analysis/mixture.py [TABLE]       writes analysis/mixture.md and analysis/mixture.png

Table: 26 mixtures of five domains at four sizes, measured by others. 20 mixtures a size are fitted, 6 predicted.
Intervals: tables of planted laws, of which the best mixture and every loss are known; how often the 90% intervals of a
recommendation hold them. One planted law is the fitted one, the other is not (exponentials of the shares).

Source of the second planted law: Ye et al. 2024, data mixing laws, arXiv:2403.16952.
"""

import csv
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from scipy.optimize import minimize

from scalelab.laws.mixture import MIXTURE_LAWS
from scalelab.laws.mixture.base import MixtureRuns
from scalelab.laws.mixture.log_log import OFFSETS, LogLog
from scalelab.laws.mixture.recommendation import MixtureRequest, Recommendation, project, recommend
from scalelab.laws.mixture.validation import errors, leave_one_out, transfers

mpl.use("Agg")

import matplotlib.pyplot as plt

HERE = Path(__file__).parent
TABLE = HERE.parents[1] / "shared" / "data" / "domain_mixture.csv"
K = 5
NAMES = {"log_log": "log-log", "linear": "linear in the shares", "nearest": "nearest mixture", "mean": "mean"}
LEVEL, TABLES, REPLICATES, NOISE = 0.9, 60, 60, 0.004


def read(path: Path) -> dict[str, tuple[MixtureRuns, MixtureRuns]]:
    """Fitted and held-out runs by size."""
    rows = list(csv.DictReader(path.open()))
    found = {}
    for size in dict.fromkeys(row["group"] for row in rows):
        sides = []
        for split in ("train", "test"):
            these = [row for row in rows if (row["group"], row["split"]) == (size, split)]
            parts = [
                [[float(row[f"{what}_domain_{k}"]) for k in range(1, K + 1)] for row in these]
                for what in ("proportion", "loss")
            ]
            sides.append(MixtureRuns.of(*parts, names=[f"{size} {split} {i + 1}" for i in range(len(these))]))
        found[size] = (sides[0], sides[1])
    return dict(sorted(found.items(), key=lambda item: float(item[0].rstrip("M"))))


def error_table(sizes: dict[str, tuple[MixtureRuns, MixtureRuns]]) -> tuple[list[str], dict[str, np.ndarray]]:
    """Rows of the table of errors, and all relative errors by law."""
    lines, every = [], {}
    for name in MIXTURE_LAWS:
        law = MIXTURE_LAWS[name]()
        off = {size: errors(law, *sides) for size, sides in sizes.items()}
        left = np.mean([np.abs(leave_one_out(law, sides[0])).mean() for sides in sizes.values()])
        every[name] = np.stack(list(off.values()))
        cells = [f"{np.abs(one).mean():.2%}" for one in off.values()]
        total = f"**{np.abs(every[name]).mean():.2%}** | {np.abs(every[name]).max():.2%} | {left:.2%}"
        lines.append(f"| {NAMES[name]} | {' | '.join(cells)} | {total} |")
    return lines, every


def planted(kind: str, rng: np.random.Generator) -> Callable[[np.ndarray], np.ndarray]:
    """A law of five domains, whose losses of mixtures of shape (..., 5) it returns."""
    cross, own = rng.uniform(0.005, 0.03, (K, K)), rng.uniform(0.04, 0.12, K)
    if kind == "log-log":
        a, c, B = rng.uniform(0.6, 1.2, K), rng.choice(OFFSETS[3:9], K), cross + np.diag(own)
        return lambda w: np.exp(a - (np.log(w[..., None, :] + c[:, None]) * B).sum(axis=-1))
    floor, height, T = rng.uniform(1.2, 2.5, K), rng.uniform(0.3, 0.6, K), 10 * cross + 30 * np.diag(own)
    return lambda w: floor + height * np.exp(-w @ T.T)


def best(truth: Callable[[np.ndarray], np.ndarray], low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """The best mixture of a planted law within bounds."""
    found = minimize(
        lambda w: truth(w).mean(),
        project(np.full(K, 1 / K), low, high),
        method="SLSQP",
        bounds=list(zip(low, high, strict=True)),
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1},
        options={"ftol": 1e-10},
    )
    return project(found.x, low, high)


def coverage(kind: str, n: int) -> str:
    """A row: how often the intervals of recommendations of planted tables hold the truth."""
    rng = np.random.default_rng(n)
    hits: dict[str, list[bool]] = {"loss": [], "gain": [], "shares": []}
    regrets = []
    for i in range(TABLES):
        truth = planted(kind, rng)
        weights = rng.dirichlet(np.ones(K), n)
        losses = truth(weights) * np.exp(NOISE * rng.standard_normal((n, K)))
        found: Recommendation = recommend(
            LogLog(),
            MixtureRuns.of(weights, losses),
            MixtureRequest(replicates=REPLICATES, seed=i, level=LEVEL),
        )
        loss, gain = truth(found.weights).mean(), truth(found.natural).mean() - truth(found.weights).mean()
        top = best(truth, weights.min(axis=0), weights.max(axis=0))
        hits["loss"].append(found.loss_interval[0] <= loss <= found.loss_interval[1])
        hits["gain"].append(found.gain_interval[0] <= gain <= found.gain_interval[1])
        inside = (found.intervals[:, 0] - 1e-3 <= top) & (top <= found.intervals[:, 1] + 1e-3)
        hits["shares"] += inside.tolist()
        regrets.append(loss - truth(top).mean())
    shares = " | ".join(f"{np.mean(values):.0%}" for values in hits.values())
    return f"| {kind} | {n} | {shares} | {np.mean(regrets):.4f} |"


def figure(every: dict[str, np.ndarray], path: Path) -> None:
    """Cumulative shares of absolute errors, a line a law."""
    fig, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
    for name, off in every.items():
        values = np.sort(np.abs(off).ravel())
        axes.plot(
            values,
            np.arange(1, len(values) + 1) / len(values),
            label=f"{NAMES[name]}: mean {values.mean():.2%}",
        )
    axes.axvline(0.01, color="0.7", lw=0.8)
    axes.set(
        xscale="log", xlabel="absolute relative error of a predicted loss", ylabel="share of predictions"
    )
    axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:g}%")
    axes.legend(frameon=False, loc="upper left", fontsize=8)
    axes.set_title(
        "Held-out mixtures: 6 mixtures x 4 sizes x 5 domains (measured by others, fits by size)", fontsize=9
    )
    axes.spines[["top", "right"]].set_visible(False)
    fig.savefig(path, dpi=150)


def shares(values: Sequence[float]) -> str:
    """Shares in percent."""
    return ", ".join(f"{value:.1%}" for value in values)


def main() -> None:
    """Write the page and the figure."""
    sizes = read(Path(sys.argv[1]) if len(sys.argv) > 1 else TABLE)
    lines, every = error_table(sizes)
    figure(every, HERE / "mixture.png")
    rows = []
    moved, _ = transfers(LogLog(), {size: sides[0] for size, sides in sizes.items()}, MixtureRequest())
    for size, (runs, _) in sizes.items():
        found = recommend(LogLog(), runs, MixtureRequest(level=LEVEL))
        bound = ", ".join(f"{name} ({why})" for name, why in found.at_bound.items()) or "none"
        rows.append(
            f"| {size} | {shares(found.weights)} | {found.loss:.4f} [{found.loss_interval[0]:.4f}, "
            f"{found.loss_interval[1]:.4f}] | {found.gain:+.4f} [{found.gain_interval[0]:+.4f}, "
            f"{found.gain_interval[1]:+.4f}] | {found.best_trained_loss:.4f} | {bound} |"
        )
    across = [
        f"| {one.chosen_at} | {one.judged_at} | {one.rank_correlation:.3f} | {one.regret:.4f} | {one.gain:+.4f} |"
        for one in moved
    ]
    covered = [coverage(kind, n) for kind in ("log-log", "exponential") for n in (15, 25)]
    n_fit, n_test = (sides.n_mixtures for sides in next(iter(sizes.values())))
    head = " | ".join(sizes)
    text = f"""# Mixture laws: held-out mixtures, a best mixture, and whether intervals hold

Made by `python analysis/mixture.py`, which needs `../shared/data/domain_mixture.csv` (runs on mixtures of five
domains, as collected in ScaleBench, CC-BY-4.0). Losses are measured, by others; everything else is fitted.

    ln L_t = a_t + sum_j b_tj ln(w_j + c_t)        w shares of the domains; c_t by leave-one-out on the fitted mixtures

At each size {n_fit} mixtures are fitted and {n_test} are predicted; none of those {n_test} was used to choose anything.

![errors of held-out mixtures](mixture.png)

| mean absolute error of held-out losses | {head} | all | largest | leave-one-out |
|---|{"---|" * len(sizes)}---|---|---|
{chr(10).join(lines)}

Nearest is by the sum of absolute differences of shares; equally near mixtures are averaged. Leave-one-out is on the
fitted mixtures alone.

## The best mixture of each size

Least mean loss of the five domains (equal weights), within the range of shares that were trained. Gain: over the mean
of the trained mixtures. Intervals: {LEVEL:.0%}, bootstrap over mixtures, the choice made again in each replicate.

| size | shares of domains 1 to 5 | loss, nats per token | gain, nats per token | best trained | at a bound |
|---|---|---|---|---|---|
{chr(10).join(rows)}

The best mixture is extrapolated to no untried share; it was not trained, so its loss is predicted, not measured.

## At another size

The mixture chosen at one size, judged by the law of another: regret against the mixture chosen there; gain over the
mean mixture. Ranks: Spearman's correlation of the measured mean losses of the {n_fit} mixtures at both sizes.

| chosen at | judged at | rank correlation | regret, nats per token | gain, nats per token |
|---|---|---|---|---|
{chr(10).join(across)}

## Do the intervals hold?

{TABLES} tables for each row, five domains, mixtures from a flat Dirichlet distribution, noise of ln L {NOISE},
{REPLICATES} replicates, nominal {LEVEL:.0%}. `exponential` is not the fitted form: L = floor + height exp(-t w).
Shares: how often the interval of a domain's share holds the share of the truly best mixture.

| planted law | mixtures | loss of the recommended mixture | its gain | shares | mean regret, nats per token |
|---|---|---|---|---|---|
{chr(10).join(covered)}

The intervals of loss and gain are at least as wide as the errors on mixtures that were left out of the fit. Those
of shares know only noise, so where the law has another form they are too narrow.
"""
    (HERE / "mixture.md").write_text(text)


if __name__ == "__main__":
    main()
