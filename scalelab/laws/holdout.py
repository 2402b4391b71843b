"""The test that a forecast must pass first: fit without the largest budget, then predict it.

A law that cannot foresee the compute we already paid for has no claim on compute that we have
not. A surface is asked for the loss of every run held out; isoFLOP trends are asked for the
minimum of the slice held out. Without budgets the costliest tenth of the runs is held out.

Source: rolling-origin evaluation; for scaling laws, extrapolation error and not R^2 or
leave-one-out: Alabdulmohsin et al. 2022, arXiv:2209.06640; Choshen et al. 2024, arXiv:2410.11840.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from scalelab.errors import FitError
from scalelab.laws.base import Law, Observations
from scalelab.laws.isoflop import IsoFlop, Slice


@dataclass(frozen=True)
class HoldOut:
    """How well each law, fitted without the largest compute, foretold it. Errors are shares."""

    held_out: str
    """What was kept away from the fit, in words."""
    n_train: int
    n_test: int
    reach: float
    """Compute held out, as a multiple of the largest that was fitted."""
    mean_abs_rel_error: Mapping[str, float]
    """By law: of the loss of the runs held out, or of L* for a law of optima only."""
    optimum: Mapping[str, Mapping[str, float]]
    """By law: signed error of N* and L* against the minimum of the slice held out."""
    refused: Mapping[str, str]
    """Laws that could not be asked, and why."""

    def to_json(self) -> dict[str, Any]:
        """The record as JSON types."""
        return {
            "train": self.n_train,
            "test": self.n_test,
            "held_out": self.held_out,
            "reach": self.reach,
            "mean_abs_rel_error": dict(self.mean_abs_rel_error),
            "optimum": {name: dict(errors) for name, errors in self.optimum.items()},
            "refused": dict(self.refused),
        }


def hold_out(runs: Observations, laws: Mapping[str, Law]) -> HoldOut | str:
    """The test, or in words why it could not be made."""
    budgets = runs.budgets
    if 0 < budgets.size < 3:
        return f"{budgets.size} budget(s): one to hold out and two to fit are needed"
    if budgets.size:
        test = runs.flops_planned == budgets[-1]
        target, held = float(budgets[-1]), f"the {int(test.sum())} runs of the largest budget"
        reach = target / float(budgets[-2])
    else:
        count = max(1, len(runs) // 10)
        test = np.isin(np.arange(len(runs)), np.argsort(runs.C, kind="stable")[-count:])
        target, held = float(runs.C[test].max()), f"the {count} runs that cost most"
        reach = target / float(runs.C[~test].max())
    train, unseen = runs.take(~test), runs.take(test)
    truth = Slice.of(runs, target, _window(laws.values())) if budgets.size else None
    if truth is not None and truth.refused is not None:
        truth = None

    losses: dict[str, float] = {}
    optima: dict[str, dict[str, float]] = {}
    refused: dict[str, str] = {}
    for name, law in laws.items():
        try:
            fit = law.fit(train)
        except FitError as error:
            refused[name] = error.problem
            continue
        foretold = fit.expected(unseen)
        if foretold is not None:
            losses[name] = float(np.mean(np.abs(foretold / unseen.L - 1)))
        if truth is not None:
            best = fit.optimum(target)
            if not np.isfinite(best.N).all():
                refused[name] = "no optimum at the budget held out that can be written down"
                continue
            optima[name] = {
                "n_params": float(np.ravel(best.N)[0]) / truth.N - 1,
                "loss": float(np.ravel(best.L)[0]) / truth.L - 1,
            }
            losses.setdefault(name, abs(optima[name]["loss"]))
        elif foretold is None:
            refused[name] = "the slice held out has no interior minimum to compare with"
    if not losses:
        reasons = "; ".join(f"{name}: {why}" for name, why in refused.items())
        return f"no law could be fitted to the rest ({reasons})"
    return HoldOut(held, len(train), len(unseen), reach, losses, optima, refused)


def _window(laws: Iterable[Law]) -> float:
    return next((law.window for law in laws if isinstance(law, IsoFlop)), IsoFlop.window)
