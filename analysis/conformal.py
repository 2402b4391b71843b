"""The frozen quantiles of laws/uncertainty/conformal.py, made anew from public tables.

    python analysis/conformal.py --data DIR [--out FILE]

DIR holds the public tables as they were published (names below); none of them is part of this repository.
For every case the averaged law is fitted to the smaller runs of a table and asked for larger ones:

    evidence     runs with C <= C_max / r, r in RATIOS; of the whole table, and of its part up to C_max / 8
    asked for    at most 5 runs of the lowest loss with C > max(C_max / r, C_max / 5)
    error        ln forecast - ln loss; scale s as in conformal.py
    quantile     of |error| / s, every family of tables weighing the same, every case of it the same

and for N* every budget of three tables, its best size by a parabola, from all runs below it.

Printed: the quantiles, how they differ from the frozen ones, and how well intervals hold whose quantile
comes from the other families only. The scale is one of two, and it is also chosen by the interval score of
the other families alone. Errors are measured on runs of other people; nothing is trained.

Not here: other methods on the same cases (scalelab backtest).
"""

import argparse
import json
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

from pathlib import Path

import numpy as np
import pandas as pd

from scalelab.errors import FitError
from scalelab.laws.averaged.law import Averaged
from scalelab.laws.forms.chinchilla import Chinchilla
from scalelab.laws.observations import Observations
from scalelab.laws.uncertainty import conformal

RATIOS, TOPS = (2, 4, 10, 30, 100), (1, 8)
EPOCHS, WORTH = 16, (4, 8, 15, 30)  # most epochs of a run, and candidates of what repeating is worth
FARTHEST = 150.0  # reach beyond which a target takes no part
SIZED = {"hoffmann": "hoffmann", "farseer": "farseer", "muen1": "muen"}
"""Tables with budgets that show N*, by their family."""
SCALES = {
    "cube root": lambda d: conformal.loss_scale(d.spread, d.rate, d.reach),
    "square root": lambda d: np.sqrt(d.rate + 0.001) * np.log1p(d.reach),
}


def tables(data):
    """N, D, C, loss (and unique tokens U) of every table, by name."""
    hoffmann = pd.read_csv(data / "hoffmann2022_fig4_points.csv").sort_values("loss").iloc[:-5]
    gadre, olmo = pd.read_csv(data / "gadre2024_models.csv"), pd.read_csv(data / "olmo2024_ladder_c4.csv")
    muen, farseer = pd.read_csv(data / "muennighoff2023_c4_runs.csv"), pd.read_csv(data / "farseer2025.csv")
    step = pd.read_csv(data / "steplaw2025_lr_batch.csv").groupby(["n_params", "n_tokens"]).loss.min()
    step = step.reset_index()
    flops = hoffmann["Training FLOP"]
    once = muen[muen.D_total <= muen.D_unique * 1.001]
    again = muen[muen.D_total <= EPOCHS * muen.D_unique]
    found = {
        "hoffmann": _table(hoffmann["Model Size"], flops / 6 / hoffmann["Model Size"], hoffmann.loss, C=flops)
    }
    for name, part in gadre.groupby("dataset"):
        found[f"gadre {name}"] = _table(part.N, part.D, part.loss_c4_val)
    return found | {
        "olmo": _table(olmo.N, olmo.D, olmo.c4_ce_last),
        "muen1": _table(once.N, once.D_total, once.val_loss),
        "muenR": _table(again.N, again.D_total, again.val_loss, U=again.D_unique),
        "farseer": _table(farseer.n_params, farseer.n_tokens, farseer.loss),
        "steplaw": _table(step.n_params, step.n_tokens, step.loss),
    }


def _table(N, D, L, **more):
    found = pd.DataFrame({"N": N, "D": D, "L": L, **more}).astype(float).dropna()
    if "C" not in found:
        found["C"] = 6 * found.N * found.D
    return found.drop_duplicates([name for name in "NDU" if name in found]).reset_index(drop=True)


def family(name):
    """Tables of one publication are one family."""
    return "muen" if name.startswith("muen") else name.split()[0]


def effective(table, R):
    """Repeated tokens as effective ones, arXiv:2305.16264."""
    unique = np.minimum(table.U, table.D)
    return unique + unique * R * (1 - np.exp(-(table.D / unique - 1) / R))


def observed(table, R=None):
    """Runs that laws take."""
    D = table.D if R is None else effective(table, R)
    return Observations.of(table.N.to_numpy(), D.to_numpy(), table.L.to_numpy(), C=table.C.to_numpy())


def cases(name, table):
    """Evidence and the runs asked for, every pair once."""
    seen = set()
    for top in TOPS:
        part = table[table.C.max() / top * (1 + 1e-9) >= table.C]
        for ratio in RATIOS:
            end = part.C.max() / ratio
            known = part[end * (1 + 1e-9) >= part.C]
            asked = part[max(end, part.C.max() / 5) * (1 + 1e-9) < part.C]
            if name == "muenR":
                asked = asked[asked.D > 1.2 * asked.U]
            asked = asked.nsmallest(5, "L")
            key = (tuple(known.index), tuple(asked.index))
            if (
                len(known) >= 8
                and min(known.N.nunique(), known.D.nunique()) >= 3
                and len(asked)
                and key not in seen
            ):
                seen.add(key)
                yield known, asked


def loss_errors(found):
    """One row for each target."""
    rows = []
    for name, table in found.items():
        for case, (known, asked) in enumerate(cases(name, table)):
            R = None
            if "U" in table:
                R = min(WORTH, key=lambda R: Chinchilla().fit(observed(known, R)).objective)
            fit, far = Averaged().fit(observed(known, R)), observed(asked, R)
            each = np.array([np.log(member.loss_at(far.N, far.D)) for member in fit.members])
            rows += [
                {
                    "family": family(name),
                    "case": f"{name} {case}",
                    "reach": far.C[i] / known.C.max(),
                    "error": float(np.log(fit.loss_at(far.N, far.D)[i] / far.L[i])),
                    "spread": float(np.std(each[:, i])),
                    "rate": conformal.TYPICAL_RATE if fit.rate is None else fit.rate,
                    "origins": len(fit.origins),
                }
                for i in range(len(far))
            ]
    found = pd.DataFrame(rows)
    return found[found.reach <= FARTHEST].reset_index(drop=True)


def best_sizes(table):
    """FLOPs and ln N* of every budget whose runs show a minimum."""
    ln_C, free = np.log(table.C.to_numpy()), np.ones(len(table), bool)
    centres = np.unique(np.round(ln_C / 0.05) * 0.05)
    for centre in sorted(centres, key=lambda c: -np.sum(np.abs(ln_C - c) <= 0.1)):
        mine = table[(np.abs(ln_C - centre) <= 0.1) & free]
        if len(mine) < 5:
            continue
        free &= np.abs(ln_C - centre) > 0.1
        x, y = np.log(mine.N.to_numpy()), np.log(mine.L.to_numpy())
        x = x - x[np.argmin(y)]
        near = np.abs(x) <= np.log(6)
        if near.sum() < 5:
            continue
        square, line, _ = np.polyfit(x[near], y[near], 2)
        lowest = -line / (2 * square) if square > 0 else np.inf
        if x[near].min() < lowest < x[near].max():
            yield float(np.exp(np.median(np.log(mine.C)))), lowest + np.log(mine.N.to_numpy()[np.argmin(y)])


def size_errors(found):
    """One row for each budget and evidence below it."""
    rows = []
    for name, group in SIZED.items():
        for k, (C, ln_N) in enumerate(best_sizes(found[name])):
            for ratio in RATIOS:
                known = found[name][C / ratio * (1 + 1e-9) >= found[name].C]
                try:
                    fit = Averaged().fit(observed(known)) if len(known) >= 12 else None
                except FitError:
                    continue
                if fit is None:
                    continue
                each = [np.log(member.optimum(C).N) for member in fit.members]
                reach, error = C / known.C.max(), float(np.log(fit.optimum(C).N) - ln_N)
                case = f"{name} {k} {ratio}"
                rows.append(
                    {"family": group, "case": case, "reach": reach, "error": error, "spread": np.std(each)}
                )
    found = pd.DataFrame(rows)
    return found[found.reach <= FARTHEST].reset_index(drop=True)


def weights(d):
    """Every family 1, every case of it the same."""
    per_family = d.family.map(d.groupby("family").case.nunique())
    return (1 / (per_family * d.groupby("case").case.transform("size"))).to_numpy()


def quantile(d, scale, level):
    """Of |error| / scale."""
    ratio, weight = np.abs(d.error.to_numpy()) / np.asarray(scale), weights(d)
    order = np.argsort(ratio)
    share = np.cumsum(weight[order]) / weight.sum()
    return float(ratio[order][min(np.searchsorted(share, level), len(ratio) - 1)])


def left_out(d, scale, level):
    """Half widths with the quantile of the other families."""
    half = np.empty(len(d))
    for one in d.family.unique():
        other = (d.family != one).to_numpy()
        half[~other] = quantile(d[other], scale(d[other]), level) * np.asarray(scale(d[~other]))
    return half


def score(d, half, level):
    """Balanced mean interval score."""
    miss = np.maximum(np.abs(d.error) - half, 0)
    return float(np.average(2 * half + 2 / (1 - level) * miss, weights=weights(d)))


def chosen(d, level):
    """Half widths with scale and quantile of the other families, and the scales that were chosen."""
    half, names = np.empty(len(d)), {}
    for one in d.family.unique():
        other = (d.family != one).to_numpy()
        part = d[other].reset_index(drop=True)
        name = min(SCALES, key=lambda n: score(part, left_out(part, SCALES[n], level), level))
        half[~other] = quantile(part, SCALES[name](part), level) * np.asarray(SCALES[name](d[~other]))
        names[one] = name
    return half, names


def report(d, half, level):
    """Coverage by band and family, width and score."""
    inside, near = np.abs(d.error) <= half, d.reach <= 15
    return {
        "balanced coverage": float(np.average(inside, weights=weights(d))),
        "coverage to 15x": float(inside[near].mean()),
        "coverage beyond": float(inside[~near].mean()),
        "by family": inside.groupby(d.family).mean().round(2).to_dict(),
        "full width over median error": float(np.median(2 * half) / np.median(np.abs(d.error))),
        "interval score": score(d, half, level),
    }


def main():
    """Fit, print, and write the rows where asked."""
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("--data", type=Path, required=True, help="directory of the public tables")
    asked.add_argument("--out", type=Path, help="write the errors as JSON")
    given = asked.parse_args()
    found = tables(given.data)
    losses, sizes = loss_errors(found), size_errors(found)
    for name, d, scale, frozen in (
        ("ln L*", losses, SCALES["cube root"], conformal.LOSS_QUANTILES),
        ("ln N*", sizes, lambda d: conformal.size_scale(d.spread, d.reach), conformal.SIZE_QUANTILES),
    ):
        print(f"\n{name}: {len(d)} targets, {d.case.nunique()} cases, {d.family.nunique()} families")
        for level, value in zip(conformal.LEVELS, frozen, strict=True):
            print(f"  q({level:g}) = {quantile(d, scale(d), level):.3f}, frozen {value:g}")
        print(json.dumps(report(d, left_out(d, scale, 0.8), 0.8), indent=1))
    print(f"\nmedian rate {losses[losses.origins > 0].rate.median():.4f}, frozen {conformal.TYPICAL_RATE:g}")
    half, names = chosen(losses, 0.8)
    print(f"scale chosen by the other families: {names}")
    print(json.dumps(report(losses, half, 0.8), indent=1))
    expected = left_out(losses, SCALES["cube root"], conformal.EXPECTED)
    within = np.average(np.abs(losses.error) <= expected, weights=weights(losses))
    print(f"errors at most 1.5 times the expected one, by the other families: {within:.1%}")
    if given.out:
        given.out.write_text(json.dumps({"loss": losses.to_dict("list"), "size": sizes.to_dict("list")}))


if __name__ == "__main__":
    main()
