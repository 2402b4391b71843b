"""What a fit owes to single runs: how far it moves without each, and without outliers together.

    shift_i = a(without run i) - a           each run, or each group of runs that share luck
    shift_O = a(without all of O) - a        O the runs that the law cannot explain

The law is fitted again without each run, from the fit itself, all at once. Beyond EXACT searches one
Newton step stands for the refit: H^-1 g_i, with H the Hessian at the optimum and g_i the run's
share of the gradient (the infinitesimal jackknife). A law to which only some runs count is fitted
again to the others of these: nothing takes the place of a run that is left out.

Outliers hide each other: without one of five the other four still hold the fit. So O is found
by peeling. Leave out every run whose error is above FAR robust standard deviations and by LEAST of its
loss, fit again, judge all runs by the new fit, until nothing changes. The spread is read off the
runs beyond the p that a fit with p constants can pass through.

SE is the jackknife's, from the shifts themselves; a run takes no part in the SE that judges it,
and outliers are held against the SE of the fit without them.

Source: deletion and infinitesimal jackknife, Efron & Tibshirani 1993, chapters 11 and 22; few
runs that turn a result, Broderick, Giordano & Meager 2020, arXiv:2011.14999; masking and
rejection by a robust fit, Rousseeuw & Leroy 1987, chapters 1 and 5. The bounds are ours.

Not here: runs that their slice contradicts, whatever the law (outliers.py, study/quality/).
"""

from collections.abc import Mapping
from typing import Protocol

import numpy as np

from scalelab.laws.base import LawFit
from scalelab.laws.description import Influence
from scalelab.laws.observations import Array, Observations
from scalelab.laws.uncertainty.refits import Refits

EXACT = 500  # searches; a refit without each of n runs costs n^2, a tenth of a second at these
FAR = 8.0  # robust standard deviations; heavy tails (Student's t, 3 degrees) rarely reach it
LEAST = 0.015  # share of the loss, at the least: below it nothing is called an outlier
MOST = 0.25  # share of the runs; where more are outliers, the law and not the runs is at fault
ROUNDS, NAMED = 20, 12
FAIR = 8.0  # times 1/sqrt(m), a run's fair share of the SE; .05 of clean sweeps have such a run
TELLING = 0.5  # standard errors of a; below it the intervals have room for the shift


class InfluencedFit(Protocol):
    """A fit that can be made again without some of its runs."""

    runs: Observations
    params: Mapping[str, float]
    exponents: Mapping[str, float]
    broken: tuple[str, ...]
    refits: Refits


def influence(fit: InfluencedFit, count: int = 5) -> tuple[Influence, ...]:
    """The outliers together, if there are any, and the `count` runs or groups that move a most.

    Empty where the law allots nothing, or where the fit itself is not to be relied on.
    """
    if "a" not in fit.exponents or fit.broken:
        return ()
    _, group = np.unique(fit.runs.group, return_inverse=True)
    order, sizes = np.argsort(group, kind="stable"), np.bincount(group)
    members = np.split(order, np.cumsum(sizes)[:-1])
    everyone = np.ones(len(fit.runs), bool)
    shifts = _shifts(fit, _without_each(fit, fit.refits.place, members, everyone))
    a = np.nan_to_num(shifts["a"])
    m = len(a)
    errors = np.abs(a) / np.maximum(np.sqrt(np.sum(a**2) - a**2), 1e-12)
    outliers = _outliers(fit, members)
    found = [] if outliers is None else [outliers]
    for k in np.argsort(-np.abs(a), kind="stable")[:count]:
        found.append(
            Influence(
                runs=tuple(map(str, fit.runs.run[members[k]])),
                kind="run" if len(members[k]) == 1 else "group",
                shifts={name: float(value[k]) for name, value in shifts.items()},
                course=(),
                misses=(),
                errors=float(errors[k]),
                telling=bool(errors[k] > max(TELLING, FAIR / np.sqrt(m))),
                exact=m * fit.refits.searches <= EXACT,
            )
        )
    return tuple(found)


def report_influence(found: tuple[Influence, ...], fit: LawFit) -> tuple[str, ...]:
    """What a reader must know of it, one sentence each: outliers, and runs that turn the fit."""
    lines = []
    for one in found:
        before, after = fit.exponents["a"], fit.exponents["a"] + one.shifts["a"]
        moved = f"a moves from {before:.3f} to {after:.3f} ({one.errors:.1f} standard errors"
        if one.kind == "outliers":
            each = [
                f"{run} ({miss:+.0f} sd; a = {after:.3f})"
                for run, miss, after in zip(one.runs, one.misses, one.course, strict=False)  # NAMED
            ]
            more = f" and {len(one.runs) - NAMED} more" if len(one.runs) > NAMED else ""
            lines.append(
                f"{len(one.runs)} run(s) are off the law by more than {FAR:g} robust standard "
                f"deviations; without them {moved}). Left out in turn, worst first: "
                f"{', '.join(each)}{more}"
            )
        elif one.telling:
            who = ", ".join(one.runs[:3]) + (" and others" if len(one.runs) > 3 else "")
            how = "" if one.exact else "; by one Newton step"
            lines.append(f"without {who} alone {moved}{how})")
    return tuple(lines)


def _without_each(fit: InfluencedFit, theta: Array, members: list[Array], kept: Array) -> Array:
    """The constants of a fit to the kept runs without each of the members, shape (m, p).

    `theta` is the fit to the kept runs. NaN where a search finds no rest.
    """
    if len(members) * fit.refits.searches > EXACT:
        return fit.refits.step_without(theta, members, kept)

    def weights(first: int, last: int) -> Array:
        found = np.tile(kept.astype(float), (last - first, 1))
        for row in range(first, last):
            found[row - first, members[row]] = 0
        return found

    return fit.refits.again(np.tile(theta, (len(members), 1)), weights)


def _shifts(fit: InfluencedFit, theta: Array) -> dict[str, Array]:
    """Change of every exponent and constant at theta (m, p)."""
    here = {**fit.exponents, **fit.params}
    return {name: value - here[name] for name, value in fit.refits.values(theta).items()}


def _misses(fit: InfluencedFit, theta: Array) -> tuple[Array, Array]:
    """Errors in robust standard deviations, and as shares of the loss; shape (n,)."""
    error, share = fit.refits.errors(theta)
    beyond = np.sort(np.abs(error))[fit.refits.free :]  # as many are met by the constants alone
    sd = 1.4826 * float(np.median(beyond)) if beyond.size else np.inf
    return error / max(sd, 1e-12), share


def _peeled(fit: InfluencedFit) -> tuple[Array, Array, Array] | None:
    """Return the runs that the law fitted to the others cannot explain, largest error first.

    Their row numbers, their errors, and the constants fitted to the others; None without any.
    """
    theta, out = fit.refits.place, np.zeros(len(fit.runs), bool)
    for _ in range(ROUNDS):
        far, share = _misses(fit, theta)
        now = (np.abs(far) > FAR) & (np.abs(share) > LEAST)
        if not now.any() or now.sum() > MOST * len(now):
            return None
        if (now == out).all():
            break
        out = now
        theta = _without_each(fit, fit.refits.place, [np.flatnonzero(out)], ~np.zeros_like(out))[0]
        if np.isnan(theta).any():
            return None
    far, _ = _misses(fit, theta)
    rows = np.flatnonzero(out)
    rows = rows[np.argsort(-np.abs(far[rows]), kind="stable")]
    return rows, far[rows], theta


def _outliers(fit: InfluencedFit, members: list[Array]) -> Influence | None:
    """The outliers together, held against the standard error of the fit without them."""
    peeled = _peeled(fit)
    if peeled is None:
        return None
    rows, misses, theta = peeled
    everyone = np.ones(len(fit.runs), bool)
    kept = everyone.copy()
    kept[rows] = False
    each = _without_each(fit, theta, members, kept)
    here = fit.exponents["a"] + float(_shifts(fit, theta[None])["a"][0])
    error = np.sqrt(np.nansum((fit.exponents["a"] + _shifts(fit, each)["a"] - here) ** 2))
    turns = [rows[: k + 1] for k in range(min(len(rows), NAMED))]
    course = _shifts(fit, _without_each(fit, fit.refits.place, turns, everyone))["a"]
    shifts = {name: float(value[0]) for name, value in _shifts(fit, theta[None]).items()}
    errors = float(abs(shifts["a"]) / max(error, 1e-12))
    return Influence(
        runs=tuple(map(str, fit.runs.run[rows])),
        kind="outliers",
        shifts=shifts,
        course=tuple(float(fit.exponents["a"] + value) for value in course),
        misses=tuple(map(float, misses)),
        errors=errors,
        telling=errors > TELLING,
        exact=True,
    )
