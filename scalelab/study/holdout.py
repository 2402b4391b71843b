"""The test that a forecast must pass first: fit the smaller compute, predict the larger.

Rolling origin: for every budget C that leaves enough below it, every law is fitted to the
runs up to C and asked for each larger budget. A law that cannot foresee the compute we
already paid for has no claim on compute that we have not.

    |error of the loss| at k-fold = c ln k,   c^2 = sum error^2 / sum (ln k)^2 over all tests
    trusted to about k-fold: where c ln k reaches TOLERANCE, but never past the square of the
    farthest fold that was tested (twice as far, in powers of ten)

A law that chooses its settings by tests of its own is fitted without that choice (Law.quick), which
would cost as many fits again at every origin. A law is not asked at origins too short for the form
that it uses (Law.least_budgets), but for the last, so that every law is tested where any can be.

A surface is asked for the loss of every run held out; isoFLOP trends and frontiers for the
minimum of the slice held out. Without budgets, origins lie evenly in ln C, and the runs
beyond are gathered by fold, in powers of two.

Source: rolling-origin evaluation, Tashman 2000, doi:10.1016/S0169-2070(00)00065-0; for
scaling laws extrapolation error and not R^2 or leave-one-out: Alabdulmohsin et al. 2022,
arXiv:2209.06640; Choshen et al. 2024, arXiv:2410.11840. That the error grows as ln k is our
assumption: it is what an error of an exponent does.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from scalelab.errors import FitError
from scalelab.laws.base import Law, LawFit
from scalelab.laws.isoflop.law import IsoFlopLaw, Slice
from scalelab.laws.observations import Array, Observations

TOLERANCE = 0.01  # of the loss: at published exponents, about 15% of the compute
DRIFTING = 3  # origins with errors of N* on one side; by chance one in four
ORIGINS = 4  # without budgets
LEAST_SHARE = 0.4  # of the runs below the first origin, without budgets
TINY = float(np.finfo(float).eps)
"""Least ratio of two sizes whose difference as a share differs from -1, so that it has a logarithm."""


@dataclass(frozen=True)
class HoldoutTrial:
    """One law, fitted up to one compute, asked for a larger. Errors are shares."""

    law: str
    origin: float
    """The most compute that was fitted, FLOPs."""
    flops: float
    """The compute asked for."""
    n_train: int
    n_test: int
    error: float
    """Mean absolute, of the loss of the runs held out, or of L* for a law of optima only."""
    loss: float | None
    """Signed error of L* against the minimum of the slice held out; None without one."""
    n_params: float | None
    """Signed error of N* against the same; None for a law that allots nothing."""

    @property
    def fold(self) -> float:
        """How far ahead: compute asked for over the most that was fitted."""
        return self.flops / self.origin

    def to_json(self) -> dict[str, Any]:
        """The record as JSON types."""
        return {
            "law": self.law,
            "origin": self.origin,
            "flops": self.flops,
            "fold": self.fold,
            "train": self.n_train,
            "test": self.n_test,
            "abs_rel_error": self.error,
            "loss_error": self.loss,
            "n_params_error": self.n_params,
        }


@dataclass(frozen=True)
class HoldOut:
    """How well each law, fitted to smaller compute, predicted larger compute."""

    held_out: str
    """What the last origin kept away from the fit, in words."""
    tests: tuple[HoldoutTrial, ...]
    refused: Mapping[str, str]
    """Laws that could not be asked at the last origin, and why."""

    @property
    def last(self) -> dict[str, HoldoutTrial]:
        """By law: the largest compute in evidence, asked of all that is smaller."""
        end = max(t.origin for t in self.tests)
        return {t.law: t for t in self.tests if t.origin == end}

    @property
    def farthest(self) -> float:
        """The largest fold that was tested."""
        return max(t.fold for t in self.tests)

    def growth(self, law: str) -> float | None:
        """c: error of the loss per factor e of compute; None for a law never tested."""
        mine = [t for t in self.tests if t.law == law]
        if not mine:
            return None
        ahead = np.array([np.log(t.fold) for t in mine])
        errors = np.array([t.error for t in mine])
        return float(np.sqrt(np.sum(errors**2) / np.sum(ahead**2)))

    def expected_error(self, law: str, reach: float) -> float | None:
        """Error of the loss to expect at `reach` times the evidence, as a share."""
        c = self.growth(law)
        return None if c is None else c * float(np.log(max(reach, 1.0)))

    def size_errors(self, law: str) -> tuple[float, ...]:
        """Signed errors of N* one budget ahead of each origin, as shares, origins ascending."""
        nearest: dict[float, HoldoutTrial] = {}
        for t in self.tests:
            if t.law == law and t.n_params is not None:
                at = nearest.get(t.origin)
                nearest[t.origin] = t if at is None or t.fold < at.fold else at
        return tuple(nearest[origin].n_params for origin in sorted(nearest))

    def size_drift(self, law: str, reach: float) -> float | None:
        """Ln of the factor by which N* will be off at `reach`, if it goes on as in the hold-outs.

        None where fewer than DRIFTING origins agree on its sign: noise has no side. Least squares of the
        signed ln error over ln fold, through zero.

        Args:
            law: Name of the law.
            reach: Compute of the target over the largest in evidence.
        """
        sizes = [t for t in self.tests if t.law == law and t.n_params is not None]
        sides = {np.sign(error) for error in self.size_errors(law)}
        if len(self.size_errors(law)) < DRIFTING or len(sides) > 1:
            return None
        errors = np.log1p([t.n_params for t in sizes])
        ahead = np.log([t.fold for t in sizes])
        return float(np.sum(errors * ahead) / np.sum(ahead**2) * np.log(max(reach, 1.0)))

    def trusted_fold(self, law: str) -> float | None:
        """How far beyond its evidence the law may be trusted; None for a law never tested."""
        c = self.growth(law)
        if c is None:
            return None
        limit = 2 * max(np.log(t.fold) for t in self.tests if t.law == law)
        return float(np.exp(min(TOLERANCE / c, limit) if c > 0 else limit))

    def to_json(self) -> dict[str, Any]:
        """The record as JSON types."""
        last = self.last
        any_law = next(iter(last.values()))
        optimum = {
            name: {k: v for k, v in (("n_params", t.n_params), ("loss", t.loss)) if v is not None}
            for name, t in last.items()
            if t.loss is not None
        }
        laws = dict.fromkeys(t.law for t in self.tests)
        return {
            "train": any_law.n_train,
            "test": any_law.n_test,
            "held_out": self.held_out,
            "reach": any_law.fold,
            "mean_abs_rel_error": {name: t.error for name, t in last.items()},
            "optimum": optimum,
            "trusted_fold": {name: self.trusted_fold(name) for name in laws},
            "tolerance": TOLERANCE,
            "tests": [t.to_json() for t in self.tests],
            "refused": dict(self.refused),
        }


def hold_out(runs: Observations, laws: Mapping[str, Law]) -> HoldOut | str:
    """The test, or in words why it could not be made."""
    budgets = runs.budgets
    if 0 < budgets.size < 3:
        return f"{budgets.size} budget(s): one to hold out and two to fit are needed"
    tests: list[HoldoutTrial] = []
    refused: dict[str, str] = {}
    held = ""
    for origin, train in _origins(runs):
        refused = {}
        rest = runs.take(~train)
        held = (
            f"the {int(np.sum(rest.flops_planned == budgets[-1]))} runs of the largest budget"
            if budgets.size
            else f"the {len(rest)} runs that cost most"
        )
        short = budgets.size and len(np.unique(runs.flops_planned[train])) < budgets.size - 1
        for name, law in laws.items():
            if short and np.sum(budgets <= origin) < law.least_budgets:
                continue
            try:
                fit = law.quick().fit(runs.take(train))
                asked = [_ask(name, fit, runs, which, origin) for which in _levels(runs, ~train)]
            except FitError as error:
                refused[name] = error.problem
                continue
            tests += [test for test in asked if isinstance(test, HoldoutTrial)]
            if not any(isinstance(test, HoldoutTrial) for test in asked):
                refused[name] = next(word for word in asked if isinstance(word, str))
    if not tests:
        reasons = "; ".join(f"{name}: {why}" for name, why in refused.items())
        return f"no law could be fitted to the rest ({reasons})"
    return HoldOut(held, tuple(tests), refused)


def _origins(runs: Observations) -> Iterator[tuple[float, Array]]:
    """The most compute fitted, and the mask of the runs that are."""
    budgets = runs.budgets
    if budgets.size:
        least = 3 if budgets.size > 3 else 2
        for C in budgets[least - 1 : -1]:
            yield float(C), _up_to(runs, C)
        return
    order = np.sort(runs.C)
    first = order[min(int(np.ceil(LEAST_SHARE * len(runs))), len(runs) - 2)]
    last = order[-1 - max(1, len(runs) // 10)]
    seen = None
    for C in np.geomspace(first, max(first, last), ORIGINS):
        train = runs.C <= C * (1 + 1e-9)
        if (seen is None or train.sum() > seen) and not train.all():
            seen = train.sum()
            yield float(runs.C[train].max()), train


def _up_to(runs: Observations, C: float) -> Array:
    """The runs planned for at most C, or without a plan those that spent at most C."""
    planned = runs.flops_planned
    return np.where(np.isnan(planned), runs.C, planned) <= C


def _levels(runs: Observations, unseen: Array) -> Iterator[Array]:
    """Masks of the runs to ask for together: by budget, or by fold in powers of two."""
    if runs.budgets.size:
        for C in runs.budgets:
            which = unseen & (runs.flops_planned == C)
            if which.any():
                yield which
        return
    if unseen.sum() <= max(1, len(runs) // 10):
        yield unseen
        return
    octave = np.floor(np.log2(runs.C / runs.C[~unseen].max()))
    for step in np.unique(octave[unseen]):
        yield unseen & (octave == step)


def _ask(name: str, fit: LawFit, runs: Observations, which: Array, origin: float) -> HoldoutTrial | str:
    """The law's errors on the runs of one level, or why it cannot be asked."""
    asked = runs.take(which)
    sliced = bool(runs.budgets.size)
    flops = float(asked.flops_planned[0] if sliced else np.exp(np.mean(np.log(asked.C))))
    if flops <= origin:
        return "the compute held out is no larger than what was fitted"
    forecast = fit.expected(asked)
    error = None if forecast is None else float(np.mean(np.abs(forecast / asked.L - 1)))
    loss = n_params = None
    truth = Slice.of(asked, flops, IsoFlopLaw.window) if sliced else None
    if truth is not None and truth.refused is None:
        best, forms = fit.optimum(flops), fit.frontiers(flops)
        if best is not None:
            N, L = float(np.ravel(best.N)[0]), float(np.ravel(best.L)[0])
            if not (np.isfinite([N, L]).all() and N / truth.N > TINY):
                return "no optimum at the budget held out that can be written down"
            n_params, loss = N / truth.N - 1, L / truth.L - 1
        elif forms:
            loss = next(iter(forms.values())) / truth.L - 1
    elif forecast is None:
        return "the slice held out has no interior minimum to compare with"
    if error is None:
        error = None if loss is None else abs(loss)
    if error is None:
        return "the law says nothing of the runs held out"
    if not np.isfinite([error, 0.0 if loss is None else loss]).all():
        return "the loss that it predicts of the runs held out is not finite"
    return HoldoutTrial(name, origin, flops, len(fit.runs), len(asked), error, loss, n_params)
