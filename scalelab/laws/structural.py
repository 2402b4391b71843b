"""What the answer owes to the choice of law: everything that could as well have been fitted.

    laws      surface, local minima, Kaplan's form: each fitted law by itself
    forms     the frontier with and without a floor
    choices   the same law under another objective, another shape or width of the valley
    windows   the same law on a part of the evidence: without the smallest budget, on the
              larger half, near the optimum

A member counts unless the runs themselves refute it: it did not converge, or it misses the
runs more than REFUTED times as far as the best surface does. Refuted members stay listed.
The spread of those that count is the structural interval: no bootstrap of one law shows it.

Source: that one form is not enough, METHODS of this field's re-analyses: Besiroglu et al. 2024,
arXiv:2404.10102; Porian et al. 2024, arXiv:2406.19146; Li et al. 2025, arXiv:2502.18969.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from scalelab.errors import FitError
from scalelab.laws.base import Law, LawFit
from scalelab.laws.observations import Observations
from scalelab.units import sci

QUANTITIES = ("n_params", "n_tokens", "loss", "tokens_per_param")
REFUTED = 2.0  # times the best surface's rms miss: four times its variance
NEAR = 4.0  # factor around the size with the lowest loss of its budget


@dataclass(frozen=True)
class Member:
    """One way to have fitted these runs, and what it says of the target."""

    name: str
    kind: str
    """law, form, choice or window."""
    values: Mapping[str, float]
    """Of QUANTITIES, those that it speaks of, and of a and b."""
    refuted: str | None
    """Why it does not count; None where it does."""

    def to_json(self) -> dict[str, Any]:
        """The record as JSON types."""
        return {
            "name": self.name,
            "kind": self.kind,
            "values": dict(self.values),
            "refuted": self.refuted,
        }


def members(
    runs: Observations, laws: Mapping[str, Law], fits: Mapping[str, LawFit], target: float
) -> tuple[Member, ...]:
    """Every member that could be fitted, the fitted laws first."""
    misses = {name: _miss(fit, runs) for name, fit in fits.items()}
    least = min((m for m in misses.values() if m is not None), default=None)
    found: list[Member] = []
    for name, fit in fits.items():
        why = _refuted(fit, misses[name], least)
        found += [Member(name, "law", value, why) for value in _values(fit, target)]
        for form, loss in fit.frontiers(target).items():
            if not any(loss == m.values.get("loss") for m in found if m.name == name):
                why_form = why or fit.refuted(form)
                found.append(Member(f"{name}, {form} form", "form", {"loss": loss}, why_form))
    of_law = {m.name: m.refuted for m in found if m.kind == "law"}
    for name, kind, label, law, part in _others(runs, laws, fits):
        try:
            fit = law.fit(part)
        except FitError:
            continue  # the window leaves too little; the law itself is told in `refused`
        why = of_law.get(name) and f"{name} does not"
        why = why or _refuted(fit, _miss(fit, part) if kind == "choice" else None, least)
        found += [Member(f"{name}, {label}", kind, value, why) for value in _values(fit, target)]
    return tuple(found)


def spread(found: tuple[Member, ...], quantity: str) -> list[float] | None:
    """Lowest and highest of the members that count; None where none speaks of it."""
    said = [m.values[quantity] for m in found if m.refuted is None and quantity in m.values]
    return [min(said), max(said)] if said else None


def _values(fit: LawFit, target: float) -> Iterator[dict[str, float]]:
    """What a fit says of the target: one dict, or none where it says nothing finite."""
    best = fit.optimum(target)
    if best is None:
        return
    N, D, L = (float(np.ravel(value)[0]) for value in (best.N, best.D, best.L))
    if np.isfinite([N, D, L]).all():
        yield dict(zip(QUANTITIES, (N, D, L, D / N), strict=True)) | dict(fit.exponents)


def _miss(fit: LawFit, runs: Observations) -> float | None:
    """Root mean square miss of ln L, the worst tenth left out; None for laws of optima only."""
    expected = fit.expected(runs)
    if expected is None:
        return None
    square = np.sort(np.log(expected / runs.L) ** 2)
    return float(np.sqrt(np.mean(square[: max(1, int(0.9 * len(square)))])))


def _refuted(fit: LawFit, miss: float | None, least: float | None) -> str | None:
    if fit.broken:
        return fit.broken[0]
    if miss is not None and least is not None and miss > REFUTED * least:
        return f"misses the runs {miss / least:.1f}x as far as the best surface does"
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
