"""What the answer owes to the choice of law: everything that could as well have been fitted.

    laws      surface, local minima, Kaplan's form: each fitted law by itself
    forms     the frontier with and without a floor
    choices   the same law under another objective, another shape or width of the valley
    bends     the best surface with a bend in N or D, where the runs are better described with it
    windows   the same law on a part of the evidence: without the smallest budget, on the
              larger half, near the optimum

A member counts unless the runs themselves refute it: it did not converge, or its error on the
runs is more than REFUTED times that of the best surface. Errors are compared on the runs that every law
was fitted to: some leave out the smaller compute. Refuted members stay listed.
The spread of those that count is the structural interval: no bootstrap of one law shows it.

Source: that one form is not enough, METHODS of this field's re-analyses: Besiroglu et al. 2024,
arXiv:2404.10102; Porian et al. 2024, arXiv:2406.19146; Li et al. 2025, arXiv:2502.18969.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from scalelab.errors import FitError
from scalelab.laws.base import Bend, Law, LawFit, Optimum
from scalelab.laws.observations import Array, Observations
from scalelab.laws.uncertainty.bootstrap import percentile
from scalelab.units import multiple, sci, si

QUANTITIES = ("n_params", "n_tokens", "loss", "tokens_per_param")
REFUTED = 2.0  # times the best surface's rms error: four times its variance
LEAST_ERROR = 1e-4  # rms error of ln L that refutes nothing: losses are not known better
DRAWS = 400  # of a bend, at least
NEAR = 4.0  # factor around the size with the lowest loss of its budget


@dataclass(frozen=True)
class CandidateFit:
    """One way to have fitted these runs, and what it says of the target."""

    name: str
    kind: str
    """law, form, choice, bend or window."""
    values: Mapping[str, float]
    """Values of those QUANTITIES that it predicts, and of a and b."""
    refuted: str | None
    """Why it does not count; None where it does."""
    intervals: Mapping[str, list[float]] = field(default_factory=dict)
    """Intervals of the values whose own uncertainty counts too: a bend is known less well than a surface."""
    law: str | None = None
    """Name of the surface that is bent; None for other kinds."""
    bend: Bend | None = None
    """The bend of that surface."""

    def to_json(self) -> dict[str, Any]:
        """The record as JSON types."""
        found = {"name": self.name, "kind": self.kind, "values": dict(self.values), "refuted": self.refuted}
        return found | ({"intervals": dict(self.intervals)} if self.intervals else {})


@dataclass(frozen=True, eq=False)
class AlternativeFit:
    """A law fitted under another setting or to a part of the evidence."""

    law: str
    """Name of the law."""
    kind: str
    """choice or window."""
    label: str
    """The setting or the part, in words."""
    fit: LawFit


def alternatives(
    runs: Observations, laws: Mapping[str, Law], fits: Mapping[str, LawFit]
) -> tuple[AlternativeFit, ...]:
    """Return every choice and window that could be fitted; those that leave too little are left out.

    Args:
        runs: Runs that were fitted.
        laws: Laws by name.
        fits: Fits by name of the law.
    """
    found = []
    for name, kind, label, law, part in _others(runs, laws, fits):
        try:
            found.append(AlternativeFit(name, kind, label, law.quick().fit(part)))
        except FitError:
            continue  # the law itself is listed in `refused`
    return tuple(found)


def model_set(
    runs: Observations,
    laws: Mapping[str, Law],
    fits: Mapping[str, LawFit],
    target: float,
    level: float,
    others: Sequence[AlternativeFit] | None = None,
) -> tuple[CandidateFit, ...]:
    """Every member that could be fitted, the fitted laws first.

    Args:
        runs: Runs that were fitted.
        laws: Laws by name.
        fits: Fits by name of the law.
        target: Training compute of the forecast, FLOPs.
        level: Of the intervals of members that have their own.
        others: What `alternatives` returned for the same fits, to be asked at several targets; None: fit them.
    """
    common = _common(runs, fits)
    misses = {name: _miss(fit, common) for name, fit in fits.items()}
    least = min((m for m in misses.values() if m is not None), default=None)
    found: list[CandidateFit] = []
    for name, fit in fits.items():
        why = _refuted(fit, misses[name], least)
        found += [CandidateFit(name, "law", value, why) for value in _values(fit, target)]
        for form, loss in fit.frontiers(target).items():
            if np.isfinite(loss) and not any(loss == m.values.get("loss") for m in found if m.name == name):
                why_form = why or fit.refuted(form)
                found.append(CandidateFit(f"{name}, {form} form", "form", {"loss": loss}, why_form))
    of_law = {m.name: m.refuted for m in found if m.kind == "law"}
    for other in alternatives(runs, laws, fits) if others is None else others:
        why = of_law.get(other.law) and f"{other.law} itself is refuted"
        why = why or _refuted(other.fit, _miss(other.fit, common) if other.kind == "choice" else None, least)
        found += [
            CandidateFit(f"{other.law}, {other.label}", other.kind, value, why)
            for value in _values(other.fit, target)
        ]
    found += _bent(runs, fits, misses, of_law, target, level)
    return tuple(found)


def _bent(
    runs: Observations,
    fits: Mapping[str, LawFit],
    misses: Mapping[str, float | None],
    of_law: Mapping[str, str | None],
    target: float,
    level: float,
) -> Iterator[CandidateFit]:
    """The best surface with each of its bends; only that one, as a worse surface bends for its own sake."""
    kept = {name for name, refuted in of_law.items() if refuted is None}  # those with an optimum, not refuted
    names = [name for name, fit in fits.items() if fit.is_surface and not fit.broken and name in kept]
    asked = ((name, fits[name].bends()) for name in sorted(names, key=lambda name: misses[name]))
    name, found = next(((name, bends) for name, bends in asked if bends), ("", ()))
    for bend in found:
        best = bend.optimum(target)
        label = f"{name}, bent in {bend.symbol}"
        if best is None:
            if bend.worth:
                why = "the bend leaves no optimum at the target that is better than the evidence"
                yield CandidateFit(label, "bend", {}, why, {}, name, bend)
            continue
        values = _quantities(best)
        why = None if bend.worth else f"the runs do not need the bend (t = {bend.t:.1f})"
        predicted = {key: float(np.ravel(value)[0]) for key, value in values.items()}
        why = why or _beyond(predicted, runs, target)
        count = max(DRAWS, int(np.ceil(20 / (1 - level))))  # ten beyond each end, or there is no interval
        drawn = {} if why else _quantities(bend.draws(target, count))
        ends = {key: percentile(value, level) for key, value in drawn.items()}
        yield CandidateFit(
            label, "bend", predicted, why, {k: v for k, v in ends.items() if v is not None}, name, bend
        )


def _beyond(values: Mapping[str, float], runs: Observations, target: float) -> str | None:
    """Why a bent surface says nothing of the target; None where it does.

    A square of ln N or ln D that is carried on runs away. Between the evidence and the target, compute grows by a
    factor, and an optimum has no reason to grow by more than that in one input alone.
    """
    reach = max(1.0, target / float(runs.C.max()))
    for what, symbol, values_of_runs in (("n_params", "N", runs.N), ("n_tokens", "D", runs.D)):
        largest = float(values_of_runs.max())
        if values[what] > reach * largest:
            return (
                f"its {symbol}* is {si(values[what])}, {multiple(values[what] / largest)} the largest in "
                f"evidence, where compute grows by {multiple(reach)}: the bend is carried on too far"
            )
    return None


def _quantities(best: Optimum) -> dict[str, Array]:
    return dict(zip(QUANTITIES, (best.N, best.D, best.L, best.D / best.N), strict=True))


def spread(found: tuple[CandidateFit, ...], quantity: str) -> list[float] | None:
    """Lowest and highest of the members that count; None if none predicts it."""
    counted = [m for m in found if m.refuted is None and quantity in m.values]
    predicted = [end for m in counted for end in (m.values[quantity], *m.intervals.get(quantity, ()))]
    return [min(predicted), max(predicted)] if predicted else None


def _values(fit: LawFit, target: float) -> Iterator[dict[str, float]]:
    """What a fit says of the target: one dict, or none where a number is not finite and positive."""
    best = fit.optimum(target)
    if best is None:
        return
    N, D, L = (np.ravel(value)[0] for value in (best.N, best.D, best.L))
    with np.errstate(all="ignore"):
        predicted = np.array([N, D, L, D / N])
    if np.isfinite(predicted).all() and (predicted > 0).all():
        yield dict(zip(QUANTITIES, predicted.tolist(), strict=True)) | dict(fit.exponents)


def _miss(fit: LawFit, runs: Observations) -> float | None:
    """Root mean square error of ln L, the worst tenth left out; None for laws of optima only."""
    expected = fit.expected(runs)
    if expected is None:
        return None
    square = np.sort(np.log(expected / runs.L) ** 2)
    return float(np.sqrt(np.mean(square[: max(1, int(0.9 * len(square)))])))


def _common(runs: Observations, fits: Mapping[str, LawFit]) -> Observations:
    """The runs that every law with a loss of single runs was fitted to; all runs where they share none."""
    shared = np.ones(len(runs), bool)
    for fit in fits.values():
        if fit.is_surface:
            shared &= np.isin(runs.run, fit.runs.run)
    return runs.take(shared) if shared.any() else runs


def _refuted(fit: LawFit, miss: float | None, least: float | None) -> str | None:
    if fit.broken:
        return fit.broken[0]
    if miss is not None and least is not None and miss > max(REFUTED * least, LEAST_ERROR):
        if least < LEAST_ERROR:
            return f"its error on the runs is {miss:.2%}, that of the best surface below {LEAST_ERROR:.2%}"
        return f"its error on the runs is {miss / least:.1f}x that of the best surface"
    return None


def _others(
    runs: Observations, laws: Mapping[str, Law], fits: Mapping[str, LawFit]
) -> Iterator[tuple[str, str, str, Law, Observations]]:
    """Choices and windows of every law that was fitted and allots something."""
    allots = {name: law for name, law in laws.items() if name in fits and fits[name].exponents}
    for name, law in allots.items():
        for choice, other in law.variants().items():
            yield name, "choice", choice, other, runs
    for name, law in allots.items():
        for window, part in _windows(runs).items():
            if law.has_window and window == _NEAR:
                continue
            yield name, "window", window, law, part


_NEAR = f"within {NEAR:g}x of the best size"


def _windows(runs: Observations) -> dict[str, Observations]:
    """Parts of the evidence that still span something, by name."""
    budgets = runs.budgets
    found = {}
    if budgets.size >= 4:
        found[f"without {sci(budgets[0])} FLOPs"] = runs.take(runs.flops_planned > budgets[0])
    if budgets.size >= 6:
        half = budgets[budgets.size // 2]
        found[f"from {sci(half)} FLOPs"] = runs.take(runs.flops_planned >= half)
    if budgets.size:
        near = np.zeros(len(runs), bool)
        for C in budgets:
            mine = runs.flops_planned == C
            best = runs.N[mine][np.argmin(runs.L[mine])]
            near |= mine & (np.abs(np.log(runs.N / best)) <= np.log(NEAR) * (1 + 1e-9))
        if near.sum() < len(runs):
            found[_NEAR] = runs.take(near)
        return found
    if len(runs) >= 12:
        middle = np.exp(np.mean(np.log([runs.C.min(), runs.C.max()])))
        for share, name in ((np.quantile(runs.C, 1 / 3), "the costliest two thirds"),):
            found[name] = runs.take(share <= runs.C)
        if np.sum(middle <= runs.C) >= 12:
            found[f"from {sci(middle)} FLOPs"] = runs.take(middle <= runs.C)
    return found
