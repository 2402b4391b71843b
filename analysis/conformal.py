"""The frozen quantiles of laws/uncertainty/conformal.py, made anew from public tables.

    python analysis/conformal.py --data DIR [--out FILE]

DIR holds the public tables as they were published; none of them is part of this repository. The cases are
those of `scalelab backtest` (backtest/cases.py): the averaged law is fitted to the smaller runs of a table
and asked for larger ones, and for the best size of larger budgets.

    error        ln forecast - ln actual, of the loss of a run or of the best size; scale s as in conformal.py
    quantile     of |error| / s, every family of tables weighing the same, every case of it the same

Printed: the quantiles, how they differ from the frozen ones, and how well intervals hold whose quantile
comes from the other families only. The scale is one of two, and it is also chosen by the interval score of
the other families alone. Errors are measured on runs of other people; nothing is trained.

Not here: other methods on the same cases, and the whole forecast (scalelab backtest).
"""

import argparse
import json
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

from pathlib import Path

import numpy as np
import pandas as pd

from scalelab.backtest.cases import loss_cases, size_cases
from scalelab.backtest.tables import read_tables
from scalelab.errors import FitError
from scalelab.laws.averaged.law import Averaged
from scalelab.laws.uncertainty import conformal
from scalelab.laws.weighted_quantile import weighted_quantile

FARTHEST = 150.0  # reach beyond which a target takes no part
SCALES = {
    "cube root": lambda d: conformal.loss_scale(d.spread, d.rate, d.reach),
    "square root": lambda d: np.sqrt(d.rate + 0.001) * np.log1p(d.reach),
}


def loss_errors(found):
    """One row for each run asked for."""
    rows = []
    for table in found:
        for number, case in enumerate(loss_cases(table)):
            fit, far = Averaged().fit(case.evidence), case.asked
            spread = np.std([np.log(member.loss_at(far.N, far.D)) for member in fit.members], axis=0)
            errors = np.log(fit.loss_at(far.N, far.D) / far.L)
            rows += [
                {
                    "family": table.family,
                    "case": f"{table.name} {number}",
                    "reach": reach,
                    "error": error,
                    "spread": apart,
                    "rate": conformal.TYPICAL_RATE if fit.rate is None else fit.rate,
                    "origins": len(fit.origins),
                }
                for reach, error, apart in zip(case.reach, errors, spread, strict=True)
            ]
    return near(rows)


def size_errors(found):
    """One row for each budget and evidence below it."""
    rows = []
    for table in found:
        for number, case in enumerate(size_cases(table)):
            try:
                fit = Averaged().fit(case.evidence)
            except FitError:
                continue
            C, N = (np.array([getattr(b, name) for b in case.budgets]) for name in ("flops", "n_params"))
            spread = np.std([np.log(member.optimum(C).N) for member in fit.members], axis=0)
            errors = np.log(fit.optimum(C).N / N)
            rows += [
                {
                    "family": table.family,
                    "case": f"{table.name} {number}",
                    "reach": reach,
                    "error": error,
                    "spread": apart,
                }
                for reach, error, apart in zip(case.size_reach, errors, spread, strict=True)
            ]
    return near(rows)


def near(rows):
    """Those within FARTHEST of their evidence."""
    found = pd.DataFrame(rows)
    return found[found.reach <= FARTHEST].reset_index(drop=True)


def weights(d):
    """Every family 1, every case of it the same."""
    per_family = d.family.map(d.groupby("family").case.nunique())
    return (1 / (per_family * d.groupby("case").case.transform("size"))).to_numpy()


def quantile(d, scale, level):
    """Of |error| / scale."""
    return weighted_quantile(np.abs(d.error.to_numpy()) / np.asarray(scale), weights(d), level)


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
    found = read_tables(given.data).tables
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
