"""How well laws of dense size and experts forecast a larger size, on a public table: writes analysis/moe.md.

    python analysis/moe.py [TABLE]

Fitted: the 193 runs marked `train`, of 5 dense sizes with 1 to 512 experts. Predicted: the 28 marked `test`, of
one dense size 3.6 times the largest fitted. Held against the law: the loss of the nearest fitted run by
|ln N| and |ln M| with equal weights, the law of size alone on the dense runs, and that on all runs.
"""

import csv
import sys
from pathlib import Path

import numpy as np

from scalelab.laws.forms.experts import Experts
from scalelab.laws.forms.kaplan_single import KaplanN
from scalelab.laws.observations import Observations

HERE = Path(__file__).parent
TABLE = HERE.parents[1] / "shared" / "data" / "moe_routed.csv"
TOKENS = 130e9
"""Training tokens of every run: literature, Clark et al. 2022. No law here reads it."""
REPLICATES = 2000


def observations(rows: list[dict[str, str]]) -> Observations:
    """The runs of a part of the table."""
    N, M, L = (
        np.array([float(row[name]) for row in rows])
        for name in ("dense_parameter_count", "num_experts", "loss_validation")
    )
    return Observations.of(N, np.full_like(N, TOKENS), L, columns={"n_experts": M})


def nearest(fitted: Observations, asked: Observations) -> np.ndarray:
    """The mean loss of the fitted runs nearest to each run that is asked for."""
    far = sum(
        np.abs(np.log(one)[:, None] - np.log(other))
        for one, other in ((asked.N, fitted.N), (asked.columns["n_experts"], fitted.columns["n_experts"]))
    )
    near = far <= far.min(axis=1, keepdims=True) + 1e-9
    return (near * fitted.L).sum(axis=1) / near.sum(axis=1)


def noise(runs: Observations) -> tuple[int, float]:
    """Pairs of N and M with several runs, and the median spread of their ln L (standard deviation)."""
    cells: dict[tuple[float, float], list[float]] = {}
    for N, M, L in zip(runs.N, runs.columns["n_experts"], runs.L, strict=True):
        cells.setdefault((N, M), []).append(float(np.log(L)))
    spreads = [np.std(values, ddof=1) for values in cells.values() if len(values) > 1]
    return len(spreads), float(np.median(spreads))


def line(name: str, predicted: np.ndarray, measured: np.ndarray) -> str:
    """A row of the table of errors."""
    error = predicted / measured - 1
    absolute, worst = np.abs(error), np.argmax(np.abs(error))
    return f"| {name} | {absolute.mean():.2%} | {np.median(absolute):.2%} | {error.mean():+.2%} | {error[worst]:+.2%} |"


def main(table: Path) -> str:
    """The page."""
    with table.open() as file:
        rows = list(csv.DictReader(file))
    fitted = observations([row for row in rows if row["split"] == "train"])
    asked = observations([row for row in rows if row["split"] == "test"])
    dense = fitted.take(np.flatnonzero(fitted.columns["n_experts"] == 1))
    law, alone, size = Experts().fit(fitted), KaplanN().fit(dense), KaplanN().fit(fitted)
    drawn = law.replicates(REPLICATES, 0).values
    constants = [
        f"| {name} | {value:.5g} | [{np.quantile(drawn[name], 0.1):.5g}, {np.quantile(drawn[name], 0.9):.5g}] |"
        for name, value in law.params.items()
    ]
    inputs = {"N": asked.N, "M": asked.columns["n_experts"]}
    errors = [
        line("experts (bilinear)", law.predict(**inputs), asked.L),
        line("nearest neighbour", nearest(fitted, asked), asked.L),
        line("dense law, on the dense runs", alone.predict(N=asked.N), asked.L),
        line("dense law, on all runs", size.predict(N=asked.N), asked.L),
    ]
    residual = np.abs(law.expected(fitted) / fitted.L - 1)
    cells, spread = noise(fitted)
    by_experts = [
        f"| {M:.0f} | {np.sum(at)} | {np.mean(asked.L[at]):.4f} | "
        f"{np.mean(law.predict(N=asked.N[at], M=inputs['M'][at]) / asked.L[at] - 1):+.2%} |"
        for M in np.unique(inputs["M"])
        for at in [inputs["M"] == M]
    ]
    caveats = law.warnings or ("none",)
    return "\n".join(
        [
            "# Mixtures of experts: a law of dense size and experts on a public table",
            "",
            "Made by `python analysis/moe.py`, which needs `../shared/data/moe_routed.csv` (runs of routed language",
            "models in the manner of Clark et al. 2022, arXiv:2202.01169, as collected in ScaleBench). Losses are",
            "measured, by others; everything else here is fitted, or extrapolated from the fit.",
            "",
            "    ln L = k - alpha ln N - beta ln M + gamma ln N ln M        N dense parameters, M experts",
            "",
            f"{len(fitted)} runs are fitted: {len(np.unique(fitted.N))} dense sizes from {fitted.N.min():.3g} to "
            f"{fitted.N.max():.3g}, 1 to {fitted.columns['n_experts'].max():.0f} experts.",
            f"{len(asked)} are predicted: N = {asked.N[0]:.4g}, {asked.N[0] / fitted.N.max():.1f} times the largest.",
            "",
            "| error of the predicted | mean of absolute | median of absolute | mean | largest |",
            "|---|---|---|---|---|",
            *errors,
            "",
            "Nearest is by |ln N| + |ln M|, which makes it the largest fitted size with as many experts; several such",
            "runs are averaged. The dense laws do not know the number of experts.",
            "",
            "| constant | fitted | 80% interval (bootstrap over runs) |",
            "|---|---|---|",
            *constants,
            "",
            f"Error on the fitted runs: mean {residual.mean():.2%}, largest {residual.max():.2%}.",
            f"{cells} pairs of N and M have several runs; the median standard deviation of ln L within a pair is",
            f"{spread:.2%}. The table does not say in what they differ, so it is no seed noise.",
            "",
            f"What the fit says of itself: {'; '.join(caveats)}.",
            "",
            "| experts | runs | mean measured loss | mean error of the law |",
            "|---|---|---|---|",
            *by_experts,
            "",
        ]
    )


if __name__ == "__main__":
    page = main(Path(sys.argv[1]) if len(sys.argv) > 1 else TABLE)
    (HERE / "moe.md").write_text(page)
