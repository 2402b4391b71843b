"""Muon against AdamW at two sizes, each at a rate tuned for it: tokens to equal loss, with an interval.

    python analysis/muon.py [--seeds 3] [--runs DIR] [--seconds S] [--draw]

The recipe is that of sweeps/isoflop.yaml, the design a ladder: one trunk for each optimizer, size, rate and seed,
with a cooldown of its own for each token count. Every arm and size gets the same tuning of one number, `optimizer.lr`,
which multiplies the rates of all weights (Muon's updates have the root mean square of AdamW's, so one scale does for
both): three rates a factor of 2 apart with one seed, further ones until the best is inside, and the vertex of the
parabola in ln lr through the best and its neighbours, of the mean loss over the token counts. Compared are other seeds
at that rate. Token counts share the rate, because they share the trunk.

Tokens to equal loss: ln D as a function of the mean loss is interpolated (monotone cubic) between the token counts of
each arm. At the losses that AdamW reaches at its counts, where Muon's range has them, the ratio is AdamW's tokens over
Muon's; above 1, Muon needs fewer. Intervals are 95%: by resampling the seeds of each arm, and by Student's t over the
ratios of single seeds, which is wider and the one to trust with few seeds.

Prediction, written before the first run: Muon needs 1.1 to 1.4 times fewer tokens at both sizes, the t interval
excludes 1 at the larger one, the ratios of the two sizes differ by less than .2, and the best rates of the two
optimizers lie within a factor of 2 of each other. An update of Muon costs so much more on a CPU at these widths (5
iterations of three small products for each matrix) that in CPU seconds it wins at neither size.

Runs are kept in --runs and never repeated; interrupted, the same command goes on. --seconds ends the process between
two sweeps once so many have passed. Writes muon.md and muon.png when all runs are there; --draw does it without
training any. About 4 minutes on one quiet core.
"""

import argparse
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch starts its threads

import time
from pathlib import Path

import numpy as np
import torch
from scipy.interpolate import PchipInterpolator
from scipy.stats import t as student

from scalelab.files import write_text
from scalelab.hardware.device import find_device, use_threads
from scalelab.launch.sweep import run_sweep
from scalelab.records.run_table import run_table
from scalelab.report.plots.plot_style import BLUE, INK, RED, canvas, counts, styled
from scalelab.sweep.file import SweepFile
from scalelab.train.engines.single import SingleEngine
from scalelab.units import si

HERE = Path(__file__).parent
BASE = SweepFile.load(HERE.parent / "sweeps" / "isoflop.yaml", [])
ARMS = {"adamw": BLUE, "muon": RED}
SIZES = (2.6e4, 1.04e5)
TOKENS = (1.2e5, 1.9e5, 3e5)
RATES = (6e-3, 1.2e-2, 2.4e-2)
EVALUATION = {"tokens": 32768, "curve_points": 0}
LEVEL = 0.95
REPLICATES = 2000


class Unfinished(Exception):
    """Time is up, or training was interrupted."""


class Ladders:
    """Losses of ladders, trained where they are missing."""

    def __init__(self, root: Path, seconds: float, train: bool):
        self.root, self.train, self.until = root, train, time.monotonic() + seconds

    def losses(self, arm: str, size: float, rate: float, seed: int) -> np.ndarray:
        """Final losses, shape (1, token counts); infinite where a run diverged."""
        file = self.file(arm, size, rate, seed)
        if self.train:
            if time.monotonic() > self.until:
                raise Unfinished
            if run_sweep(file, self.root, limit_s=None).interrupted:
                raise Unfinished
        table = run_table(self.root, file.name)
        if not table.status.isin(["finished", "diverged"]).all():
            raise Unfinished
        return table.sort_values("n_tokens").loss.fillna(np.inf).to_numpy()[None]

    def file(self, arm: str, size: float, rate: float, seed: int) -> SweepFile:
        """The sweep of one trunk."""
        given = BASE.model_dump(mode="json")
        optimizer = given["recipe"]["optimizer"] | {"kind": arm, "lr": float(f"{rate:.4g}")}
        return SweepFile.model_validate(
            {
                "name": f"muon-{arm}-{size:.0f}-{rate:.4g}-{seed}-1".replace("+", "").replace(".", "_"),
                "question": "How many tokens does an optimizer need to a given loss?",
                "prediction": "See analysis/muon.py.",
                "recipe": given["recipe"] | {"optimizer": optimizer, "evaluation": EVALUATION},
                "design": {"kind": "ladder", "sizes": [size], "tokens": TOKENS, "seed": seed},
                "launch": {"executor": "inline"},
            }
        )


def tuned(ladders: Ladders, arm: str, size: float) -> tuple[dict[float, np.ndarray], float]:
    """Losses by token count of each rate with seed 0, and the rate of the vertex."""
    found = {rate: ladders.losses(arm, size, rate, 0)[0] for rate in RATES}
    while True:
        rates = sorted(found)
        best = min(rates, key=lambda rate: found[rate].mean())
        if best not in (rates[0], rates[-1]):
            break
        further = best / 2 if best == rates[0] else best * 2
        found[further] = ladders.losses(arm, size, further, 0)[0]
    return dict(sorted(found.items())), vertex(found)


def vertex(found: dict[float, np.ndarray], at: int | None = None) -> float:
    """Rate of the least loss: that of one token count, or the mean over all; NaN where it lies at an end."""
    rates = sorted(found)
    losses = [found[rate].mean() if at is None else found[rate][at] for rate in rates]
    i = int(np.argmin(losses))
    if i in (0, len(rates) - 1):
        return float("nan")
    a, b, _ = np.polyfit(np.log(rates[i - 1 : i + 2]), losses[i - 1 : i + 2], 2)
    return float(np.exp(-b / (2 * a)))


def ln_ratios(adamw: np.ndarray, muon: np.ndarray) -> np.ndarray:
    """Ln of AdamW's tokens over Muon's at equal loss, at each loss of AdamW that Muon's range has; NaN elsewhere.

    Args:
        adamw: Mean losses by token count.
        muon: Likewise.
    """
    ln_D = np.log(TOKENS)
    if np.any(np.diff(muon) >= 0):
        return np.full(len(TOKENS), np.nan)
    return ln_D - PchipInterpolator(muon[::-1], ln_D[::-1], extrapolate=False)(adamw)


def compared(adamw: np.ndarray, muon: np.ndarray) -> dict:
    """The ratios of tokens to equal loss, with their intervals.

    Args:
        adamw: Losses, shape (seeds, token counts).
        muon: Likewise.
    """
    each = ln_ratios(adamw.mean(0), muon.mean(0))
    where = np.isfinite(each)
    rng, tail = np.random.default_rng(0), (1 - LEVEL) / 2
    draws = []
    for _ in range(REPLICATES):
        one, other = (arm[rng.integers(len(arm), size=len(arm))].mean(0) for arm in (adamw, muon))
        draws.append(np.nanmean(ln_ratios(one, other)[where]))
    single = np.array([np.nanmean(ln_ratios(a, m)[where]) for a, m in zip(adamw, muon, strict=True)])
    mean, n = float(each[where].mean()), len(single)
    half = float(student.ppf(1 - tail, n - 1) * single.std(ddof=1) / np.sqrt(n))
    return {
        "each": [float(np.exp(x)) if np.isfinite(x) else None for x in each],
        "ratio": float(np.exp(mean)),
        "bootstrap": np.exp(np.nanquantile(draws, (tail, 1 - tail))).tolist(),
        "student": np.exp([mean - half, mean + half]).tolist(),
        "seeds": np.exp(single).tolist(),
    }


def step_cost(ladders: Ladders, size: float, rates: dict[str, float], rounds: int = 40) -> float:
    """CPU seconds of a step with Muon over those with AdamW, in turn: the median of ratios."""
    use_threads(1)
    steps, taken = {}, {arm: [] for arm in ARMS}
    for arm in ARMS:
        file = ladders.file(arm, size, rates[arm], 0)
        model = file.recipe.model_at(size, 1024)
        spec = file.recipe.spec(model, TOKENS[-1], data_digest="0" * 64, seed=0)
        rows = spec.batch_tokens // spec.seq_len
        steps[arm] = (
            SingleEngine(spec, find_device(), find_device().precision("auto"), rows),
            rows,
            spec.seq_len,
        )
    generator = torch.Generator().manual_seed(0)
    for _ in range(rounds):
        for arm, (engine, rows, seq_len) in steps.items():
            batch = torch.randint(1024, (rows, seq_len + 1), generator=generator)
            start = time.process_time()
            engine.gradient(batch)
            engine.update(0.1, engine.norm())
            taken[arm].append(time.process_time() - start)
    return float(np.median(np.array(taken["muon"][5:]) / np.array(taken["adamw"][5:])))


def gathered(ladders: Ladders, seeds: int) -> list[dict]:
    """Every arm of every size: its rates, the losses with each, the best, the losses of other seeds at it."""
    found = []
    for size in SIZES:
        for arm in ARMS:
            rates, best = tuned(ladders, arm, size)
            each = [vertex(rates, i) for i in range(len(TOKENS))]
            found.append({"size": size, "arm": arm, "rates": rates, "best": best, "best at": each})
    for line in found:
        each = (ladders.losses(line["arm"], line["size"], line["best"], seed) for seed in range(1, seeds + 1))
        line["losses"] = np.concatenate(list(each))
    return found


def written(results: list[tuple], cost: dict[float, float], seeds: int) -> str:
    """The page."""
    parts = [
        "# Muon against AdamW: tokens to equal loss [measured]",
        f"Made by `python analysis/muon.py --seeds {seeds}`. Recipe of sweeps/isoflop.yaml, 1,024 tokens a step, "
        f"final loss on {EVALUATION['tokens']:,} tokens in nats per token; trunks with a cooldown for each token "
        "count. Every optimizer and size has one rate, tuned with seed 0; compared are seeds 1 to "
        f"{seeds}. The prediction stands in the script.",
        "## Rates",
        "Mean loss over the token counts with seed 0, and the vertex of the parabola through the best rate and its "
        "neighbours [fitted], over all counts and at each.",
    ]
    rows = []
    for size, *arms, _ in results:
        for line in arms:
            tried = ", ".join(f"{rate:.3g}: {np.mean(loss):.4f}" for rate, loss in line["rates"].items())
            at = ", ".join("-" if np.isnan(x) else f"{x:.3g}" for x in line["best at"])
            rows.append([si(n_params(size)), line["arm"], tried, f"{line['best']:.3g}", at])
    heads = ["N", "optimizer", "lr: loss", "vertex", f"at {', '.join(si(D) for D in TOKENS)} tokens"]
    parts += [table(heads, rows), "## Losses at the tuned rate", "Mean over the seeds (standard deviation)."]
    rows = [
        [si(n_params(size)), line["arm"]]
        + [f"{x.mean():.4f} ({x.std(ddof=1):.4f})" for x in np.asarray(line["losses"]).T]
        for size, *arms, _ in results
        for line in arms
    ]
    parts += [
        table(["N", "optimizer", *(f"{si(D)} tokens" for D in TOKENS)], rows),
        "## Tokens to equal loss",
    ]
    rows = []
    for size, _, _, found in results:
        each = ", ".join("-" if x is None else f"{x:.2f}" for x in found["each"])
        ends = ["[{:.2f}, {:.2f}]".format(*found[name]) for name in ("student", "bootstrap")]
        rows.append([si(n_params(size)), f"{found['ratio']:.2f}", *ends, each, f"{cost[size]:.2f}"])
    heads = [
        "N",
        "AdamW's tokens over Muon's",
        "95%, t over seeds",
        "95%, bootstrap",
        "at AdamW's losses by count",
    ]
    parts += [
        table([*heads, "CPU seconds of a step, Muon over AdamW"], rows),
        "A ratio above 1 says that Muon needs fewer tokens. A dash: AdamW's loss there lies outside of what Muon's "
        f"counts reach. With {seeds} seeds the bootstrap is too narrow; the t interval is the one to trust. Neither "
        "knows of the tuning's own error, which is that of one seed. Where the ratio of tokens exceeds the ratio of "
        "CPU seconds, Muon is also faster here; both hold at these widths and say nothing about larger ones.",
        "![losses against rate and tokens](muon.png)",
    ]
    return "\n\n".join(parts) + "\n"


def n_params(size: float) -> int:
    """Parameters of the model nearest to a size, in the recipe's count."""
    return BASE.recipe.model_at(size, 1024).size(BASE.recipe.seq_len).count(BASE.recipe.param_count)


def table(heads: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown."""
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


@styled
def draw(results: list[tuple]):
    """Mean loss against the rate, and the loss of every seed against tokens, for each size."""
    figure, axes = canvas((7.2, 5.6), rows=2, columns=len(results), row_gap=0.75)
    for column, (size, *arms, found) in enumerate(results):
        tuning, tokens = axes[0][column], axes[1][column]
        for line in arms:
            colour, rates = ARMS[line["arm"]], list(line["rates"])
            mean = [np.mean(line["rates"][rate]) for rate in rates]
            tuning.plot(rates, mean, "o-", color=colour, ms=3.5, lw=1, label=line["arm"])
            tuning.axvline(line["best"], color=colour, lw=0.8, ls=":")
            losses = np.asarray(line["losses"])
            tokens.plot(TOKENS, losses.mean(0), "-", color=colour, lw=1, label=line["arm"])
            tokens.plot(TOKENS, losses.T, "o", color=colour, ms=3)
        for panel in (tuning, tokens):
            panel.set_xscale("log")
            panel.set_ylabel("loss, nats per token [measured]")
            panel.legend(frameon=False, fontsize=8)
        counts(tuning.xaxis, lambda value: f"{value:.2g}")
        counts(tokens.xaxis, si)
        tuning.set_xlabel("optimizer.lr (seed 0; dotted: vertex)")
        tokens.set_xlabel("training tokens")
        tuning.set_title(f"{si(n_params(size))} parameters")
        tokens.set_title(f"tokens to equal loss: {found['ratio']:.2f}x", color=INK)
    return figure


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=3, help="seeds that are compared")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="directory of all runs")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no sweep after so many")
    parser.add_argument("--draw", action="store_true", help="train nothing")
    parser.add_argument("--out", type=Path, default=HERE)
    args = parser.parse_args()
    ladders = Ladders(args.runs, args.seconds, not args.draw)
    try:
        found = gathered(ladders, args.seeds)
    except Unfinished:
        print("not all runs are there: run the same command again")
        return 3
    results = [
        (size, adamw, muon, compared(adamw["losses"], muon["losses"]))
        for size in SIZES
        for adamw, muon in [[line for line in found if line["size"] == size]]
    ]
    args.out.mkdir(exist_ok=True)
    cost = {
        size: step_cost(ladders, size, {"adamw": a["best"], "muon": m["best"]}) for size, a, m, _ in results
    }
    page = written(results, cost, args.seeds)
    write_text(args.out / "muon.md", page)
    draw(results).savefig(args.out / "muon.png", dpi=150)
    print(page)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
