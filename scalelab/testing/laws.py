"""Does a law keep its contract? For members of LAWS, of any package.

    check_law("mine", columns={"learning_rate": rates})         all of it
    for check in checks(case.law): check(case)                   one by one, on a case of one's own

A case holds the truth and the runs that show it. The runs are drawn from the law's own `loss`, or
better from the formula written again by hand. Every check is an AssertionError that says what
does not hold.

Not here: how well a law forecasts, which is a matter of the law (tests/laws/test_laws.py).
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import FrozenInstanceError, dataclass, field, fields, replace
from typing import Any

import numpy as np
from numpy.testing import assert_allclose, assert_array_equal

from scalelab.errors import FitError
from scalelab.laws import LAWS
from scalelab.laws.base import Law, LawFit
from scalelab.laws.columns import BATCH_TOKENS, LEARNING_RATE, N_EXPERTS, STEPS, TOTAL_PARAMS, UNIQUE_TOKENS
from scalelab.laws.description import FitContext
from scalelab.laws.formula import Formula
from scalelab.laws.observations import Array, Observations
from scalelab.units import NUMBER_KINDS

FIELDS = {f.name for f in fields(Observations)} - {"columns", "recipe"}
COMPUTE = np.array([1e20, 1e21])
NOISE = 0.002  # of ln L: two seeds of one run differ by about as much
REPLICATES = 200
LEVEL = 0.98


@dataclass(frozen=True, eq=False)
class LawCase:
    """A law, a truth, and the runs to show it."""

    law: Law
    truth: Mapping[str, float]
    """Constants of `loss`."""
    inputs: Mapping[str, Array]
    """The evidence, each (n,): N, D, symbols of the law's columns, other fields of Observations."""
    loss: Callable[..., Array] | None = None
    """loss(truth, **inputs), written again from the paper; None: the law's own."""
    constants: bool = True
    """Whether the fit's params carry the names and values of the truth."""
    exact: float = 1e-4
    """Relative error that it may make in constants from runs without noise."""
    allots: bool = True
    """Whether it has an optimum of N and D."""
    weighs: bool = True
    """Whether a run of weight 2 counts as two."""
    varied: tuple[str, ...] = ("N",)
    """Inputs that must vary, or the law refuses."""
    too_few: int = 3
    """Runs with which no fit can be made."""
    done: dict[tuple[Any, ...], LawFit] = field(default_factory=dict)
    """Fits that several checks look at."""

    @classmethod
    def of(
        cls,
        law: str | type[Law],
        truth: Mapping[str, float] | None = None,
        *,
        columns: Mapping[str, Array] | None = None,
        **settings: Any,
    ) -> "LawCase":
        """A case of 6 sizes times 6 lengths or as many as the law needs, at every value of its columns.

        Args:
            law: A name in LAWS, or a class.
            truth: Constants; None: the published ones.
            columns: By name, the values that each column takes; ours have values of their own.
            settings: Other fields of the case.
        """
        made = (LAWS[law] if isinstance(law, str) else law)()
        lengths = max(6, -(-made.least_runs // 6))
        grid = {"N": np.geomspace(2e7, 2e9, 6), "D": np.geomspace(1e9, 2e11, lengths)}
        usual = {
            UNIQUE_TOKENS.name: lambda D, x: D / x,
            STEPS.name: lambda D, x: D / x,
            BATCH_TOKENS.name: lambda D, x: x,
        }
        values = {
            UNIQUE_TOKENS.name: np.array([1.0, 4.0, 16.0]),
            STEPS.name: np.array([2.0**18, 2.0**20]),
            BATCH_TOKENS.name: np.geomspace(2e4, 6e6, 7),
            LEARNING_RATE.name: np.geomspace(8e-5, 1e-1, 9),
            N_EXPERTS.name: np.array([1.0, 4.0, 16.0, 64.0]),
            TOTAL_PARAMS.name: np.array([1.0, 4.0, 16.0]),
            **(columns or {}),
        }
        for column in made.columns:
            assert column.name in values, f"say which values {column.name} takes: columns="
            grid[column.symbol] = values[column.name]
        points = dict(zip(grid, map(np.ravel, np.meshgrid(*grid.values())), strict=True))
        for column in made.columns:
            if column.name == TOTAL_PARAMS.name and column.name not in (columns or {}):
                points[column.symbol] = points["N"] * points[column.symbol]
            elif column.name in usual and column.name not in (columns or {}):
                points[column.symbol] = usual[column.name](points["D"], points[column.symbol])
        return cls(made, dict(made.published if truth is None else truth), points, **settings)

    def runs(
        self, noise: float = 0.0, seed: int = 0, spoilt: int | None = None, **other: Array
    ) -> Observations:
        """Observations of the truth, with noise of ln L, and one run at twice its loss.

        Args:
            noise: Standard deviation.
            seed: Of the noise.
            spoilt: Row of the ruined run.
            other: Inputs in place of the case's own.
        """
        inputs = dict(self.inputs) | other
        for column in self.law.columns:
            if column.at_most is not None and column.symbol in inputs:
                inputs[column.symbol] = np.minimum(inputs[column.symbol], inputs[column.at_most])
        symbols = {column.symbol: column.name for column in self.law.columns}
        if self.loss is None:
            L = self.law.loss(self.truth, **{key: inputs[key] for key in self.law.uses})
        else:
            used = (key for key in inputs if key in symbols or key in {*"ND"})
            L = self.loss(self.truth, **{key: inputs[key] for key in used})
        L = np.asarray(L, float)
        L = L * np.exp(noise * np.random.default_rng(seed).standard_normal(L.size))
        L = np.where(np.arange(L.size) == spoilt, 2 * L, L)
        known = {key: value for key, value in inputs.items() if key in FIELDS}
        columns = {symbols[key]: value for key, value in inputs.items() if key in symbols}
        return Observations.of(L=L, columns=columns, **known)

    def fit(self, **settings: Any) -> LawFit:
        """The law fitted to `runs(**settings)`."""
        key = tuple(settings.items())
        if key not in self.done:
            self.done[key] = self.law.fit(self.runs(**settings))
        return self.done[key]


def check_immutable(case: LawCase) -> None:
    """Law and fit are frozen, and say where they come from."""
    assert isinstance(case.law, Law)
    assert case.law.formula, "a law has a formula"
    assert case.law.source, "a law has a source"
    for what, name in ((case.law, "formula"), (case.fit(), "runs")):
        try:
            setattr(what, name, None)
        except FrozenInstanceError:
            continue
        raise AssertionError(f"{type(what).__name__} is not a frozen dataclass")


def check_recovers_its_constants(case: LawCase) -> None:
    """From runs of its own, without noise."""
    fit = case.fit()
    assert not fit.broken, f"broken on runs of its own: {fit.broken}"
    if not case.constants:
        return
    assert {*fit.params} == {*case.truth}, f"{sorted(fit.params)} is not {sorted(case.truth)}"
    for name, value in case.truth.items():
        assert_allclose(fit.params[name], value, rtol=case.exact, atol=1e-12, err_msg=name)


def check_order_of_runs(case: LawCase) -> None:
    """Runs in another order give the same fit."""
    runs = case.runs(noise=NOISE)
    mixed = case.law.fit(runs.take(np.random.default_rng(0).permutation(len(runs))))
    for name, value in case.fit(noise=NOISE).params.items():
        assert_allclose(mixed.params[name], value, rtol=1e-5, err_msg=name)


def check_weights(case: LawCase) -> None:
    """A run of weight 2 counts as two equal runs."""
    if not case.weighs:
        return
    runs = case.runs(noise=NOISE)
    twice = np.arange(len(runs)) % 3 == 0
    heavy = case.law.fit(replace(runs, weight=np.where(twice, 2.0, 1.0)))
    rows = np.concatenate([np.arange(len(runs)), np.flatnonzero(twice)])
    names = np.array([f"row {i}" for i in range(len(rows))])
    doubled = Observations(
        **{name: getattr(runs, name)[rows] for name in FIELDS if name not in ("run", "group")},
        run=names,
        group=names,
        columns={name: value[rows] for name, value in runs.columns.items()},
    )
    again = case.law.fit(doubled)
    for name, value in heavy.params.items():
        assert_allclose(again.params[name], value, rtol=1e-3, err_msg=name)


def check_replicates(case: LawCase) -> None:
    """They are as many as worked, and scatter around the fit."""
    fit = case.fit(noise=NOISE)
    drawn = fit.replicates(REPLICATES, seed=0)
    if drawn is None:
        return
    count = REPLICATES - drawn.failed
    assert drawn.asked == REPLICATES
    assert drawn.unit, "say what was drawn again"
    assert drawn.failed <= 0.1 * REPLICATES, f"{drawn.failed} of {REPLICATES} replicates failed"
    for name, value in drawn.values.items():
        assert value.shape == (count,), f"{name} has shape {value.shape}, not ({count},)"
    ends = {k: np.quantile(v, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]) for k, v in drawn.values.items()}
    for name, value in {**fit.params, **fit.exponents}.items():
        if name in ends:
            low, high = ends[name]
            slack = 1e-9 * abs(value)
            assert low - slack <= value <= high + slack, f"{name}: {value} not in [{low}, {high}]"
    best = drawn.optimum(COMPUTE[0])
    assert (best is None) == (not case.allots), "replicates have an optimum where the fit has one"
    if best is not None:
        assert best.N.shape == best.D.shape == best.L.shape == (count,)
        assert {"a", "b"} <= {*drawn.values}


def check_json(case: LawCase) -> None:
    """Its part of fit.json comes back as it went."""
    told = case.fit(noise=NOISE).to_json()
    assert json.loads(json.dumps(told, allow_nan=False)) == told
    assert {*told["exponents"]} == ({"a", "b"} if case.allots else set())
    assert told["params"] == dict(case.fit(noise=NOISE).params)
    assert isinstance(told["warnings"], list)


def check_facts(case: LawCase) -> None:
    """Its facts have a label and a known kind, and no number is nan."""
    fit = case.fit(noise=NOISE)
    minima = [dict.fromkeys(("n_params", "n_tokens", "loss", "tokens_per_param"))] * len(fit.minima)
    facts = fit.facts(FitContext("mine", 0.9, minima=minima))
    assert all(fact.label and fact.kind in NUMBER_KINDS for fact in facts), f"labels and kinds: {facts}"
    assert not any("nan" in fact.value.split() for fact in facts), f"a number is nan: {facts}"
    assert fit.params, "it has no constants"
    assert all(value == value for value in fit.params.values()), "a constant is nan"


def check_columns(case: LawCase) -> None:
    """Runs without a column that it reads are refused, by the column and the law."""
    runs = case.runs()
    assert {*case.law.uses} <= {*"NDC"} | {column.symbol for column in case.law.columns}
    for column in case.law.columns:
        values = np.asarray(runs.columns[column.name], float)
        rest = {name: value for name, value in runs.columns.items() if name != column.name}
        holed, low = np.array([np.nan, *values[1:]]), np.array([-np.inf, *values[1:]])
        for columns in (rest, {**rest, column.name: holed}, {**rest, column.name: low}):
            error = refusal(case.law, replace(runs, columns=columns))
            told = f"{error.problem} {error.where} {error.fix}"
            assert column.name in told, f"no word of {column.name}: {told}"
            assert type(case.law).__name__ in told, f"no word of the law: {told}"


def check_refusals(case: LawCase) -> None:
    """Too few runs, and inputs that never vary, are refused in three parts."""
    refusal(case.law, case.runs().take(np.arange(case.too_few)))
    for symbol in case.varied:
        values = case.inputs[symbol]
        refusal(case.law, case.runs(**{symbol: np.full_like(values, values.min())}))


def check_optimum(case: LawCase) -> None:
    """It broadcasts, and grows as its exponents say; a law that allots nothing has none."""
    fit = case.fit(noise=NOISE)
    best = fit.optimum(COMPUTE)
    assert (best is None) == (not case.allots)
    assert (dict(fit.exponents) == {}) == (not case.allots)
    if best is None:
        return
    assert best.N.shape == best.D.shape == best.L.shape == COMPUTE.shape
    assert np.all(np.diff(best.N) > 0), "more compute, larger models"
    assert np.all(np.diff(best.L) < 0), "more compute, less loss"
    power = np.log(best.N[1] / best.N[0]) / np.log(COMPUTE[1] / COMPUTE[0])
    assert_allclose(power, fit.exponents["a"], atol=1e-6, err_msg="a is the power of N*")
    assert fit.frontiers(float(COMPUTE[0])), "an optimum has a loss, so there is a frontier"


def check_answers(case: LawCase) -> None:
    """What it says it can answer it answers, and the rest it refuses by its name."""
    fit = case.fit(noise=NOISE)
    expected = fit.expected(fit.runs)
    if expected is not None:
        assert expected.shape == fit.runs.L.shape
        assert_allclose(expected, fit.runs.L, rtol=0.1, err_msg="far from the runs it was given")
    assert np.isfinite(fit.evidence_end)
    if not fit.is_surface:
        refusal_of(lambda: fit.loss_at(1e9, 2e10), type(case.law).__name__)
        return
    best = fit.optimum(COMPUTE)
    assert fit.cost is not None, "a surface knows what a token costs"
    assert_allclose(fit.loss_at(best.N, best.D), best.L, rtol=1e-9, err_msg="the loss at N*, D*")
    for k in (0.8, 1.25):
        beside = fit.loss_at(k * best.N, COMPUTE / fit.cost(k * best.N))
        assert np.all(beside > best.L), f"{k} N* is better than N*"
    drawn = fit.replicates(20, seed=0)
    if drawn is not None:
        assert fit.loss_at(1e9, 2e10, drawn.values).shape == (20 - drawn.failed,)


def check_names(case: LawCase) -> None:
    """Constants are not mistaken for exponents, which share a table with them."""
    assert not {"a", "b"} & {*case.law.names}
    own = [column.symbol for column in case.law.columns]
    assert not {*own} & {*"NDCL"}, "N, D, C and L are taken"


def check_leaves_runs_alone(case: LawCase) -> None:
    """A fit changes nothing in the runs that it was given."""
    runs = case.runs(noise=NOISE)
    before = {name: getattr(runs, name).copy() for name in FIELDS}
    columns = {name: value.copy() for name, value in runs.columns.items()}
    case.law.fit(runs).replicates(20, seed=0)
    for name, value in before.items():
        assert_array_equal(getattr(runs, name), value, err_msg=name)
    for name, value in columns.items():
        assert_array_equal(runs.columns[name], value, err_msg=name)


def check_slope(case: LawCase) -> None:
    """Check that the slope of a Formula's surface is the derivative of its value."""
    surface, theta = _beside(case)
    slope = surface.at(theta[None])[1][0]
    for k, h in enumerate(1e-6 * np.eye(len(theta))):
        rise = surface.at((theta + h)[None])[0] - surface.at((theta - h)[None])[0]
        assert_allclose(slope[k], rise[0] / 2e-6, rtol=1e-6, atol=1e-8, err_msg=surface.names[k])


def check_hessian(case: LawCase) -> None:
    """Check that the curvature of a Formula's surface is the derivative of its slope."""
    surface, theta = _beside(case)
    pull = np.linspace(-1, 1, surface.target.size)
    bend = surface.hessian(theta[None], surface.at(theta[None])[1], pull[None])[0]
    size = np.abs(bend).max()
    for k, h in enumerate(1e-5 * np.eye(len(theta))):
        up, down = (surface.at(x[None])[1][0] for x in (theta + h, theta - h))
        rise = (up - down) @ pull
        assert_allclose(bend[k], rise / 2e-5, rtol=1e-4, atol=1e-5 * size, err_msg=surface.names[k])


def check_printed_formula(case: LawCase) -> None:
    """Check that a Formula searches what it prints, and that constants and theta are inverse."""
    surface, theta = _beside(case)
    constants = {k: float(v[0]) for k, v in surface.constants(theta[None]).items()}
    runs = case.fit(noise=NOISE).runs
    printed = case.law.loss(constants, **case.law.inputs(runs))
    searched = surface.at(theta[None])[0][0]
    assert_allclose(np.exp(searched) if surface.robust else searched, printed, rtol=1e-9)
    assert_allclose(surface.theta(constants), theta, rtol=1e-7, atol=1e-9)


def check_starts(case: LawCase) -> None:
    """Check that most starts of a Formula agree on the optimum."""
    solver = case.fit(noise=NOISE).solver
    assert solver.converged
    assert solver.agreement > 0.5, f"{solver.agreement:.0%} of {solver.starts} starts agree"


CHECKS: tuple[Callable[[LawCase], None], ...] = (
    check_immutable,
    check_recovers_its_constants,
    check_order_of_runs,
    check_weights,
    check_replicates,
    check_json,
    check_facts,
    check_columns,
    check_refusals,
    check_optimum,
    check_answers,
    check_names,
    check_leaves_runs_alone,
)
"""Checks of every law."""
FORMULA_CHECKS = (check_slope, check_hessian, check_printed_formula, check_starts)
"""Further checks of a law that is a Formula."""


def check_law(law: str | type[Law] | LawCase, **settings: Any) -> None:
    """Every check of one law: of a case, or of `LawCase.of(law, **settings)`."""
    case = law if isinstance(law, LawCase) else LawCase.of(law, **settings)
    for check in checks(case.law):
        check(case)


def checks(law: Law) -> tuple[Callable[[LawCase], None], ...]:
    """What a law is held to."""
    return CHECKS + (FORMULA_CHECKS if isinstance(law, Formula) else ())


def refusal(law: Law, runs: Observations) -> FitError:
    """The error with which a law refuses runs, once it is seen to say all three things."""
    return refusal_of(lambda: law.fit(runs), "")


def refusal_of(ask: Callable[[], Any], name: str) -> FitError:
    """The error of a question that is refused, and that holds `name`."""
    refused = None
    try:
        ask()
    except FitError as error:
        refused = error
    assert refused is not None, "it was not refused"
    assert refused.problem, "a refusal says what is wrong"
    assert refused.where, f"a refusal says where: {refused.problem}"
    assert refused.fix, f"a refusal says what to do: {refused.problem}"
    assert name in str(refused), f"no word of {name}: {refused}"
    return refused


def _beside(case: LawCase) -> tuple[Any, Array]:
    """The surface of a Formula's fit, and a theta where nothing is symmetric by luck."""
    fit = case.fit(noise=NOISE)
    return fit.surface, fit.theta + 0.02 * np.cos(np.arange(len(fit.theta)))
