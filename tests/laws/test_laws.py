"""Every registered law obeys these. A new law is tested by one line in LAWS and one in CASES.

A case holds the law's truth, its formula written again, and the runs to show it. The law's
own code is nowhere used to make the runs.
"""

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from scalelab.errors import FitError
from scalelab.laws import LAWS
from scalelab.laws.base import Law, LawFit, Observations
from scalelab.laws.formula import FormulaFit


def chinchilla(t, N, D):
    return t["E"] + t["A"] / N ** t["alpha"] + t["B"] / D ** t["beta"]


def kaplan(t, N, D):
    return ((t["N_c"] / N) ** (t["alpha_N"] / t["alpha_D"]) + t["D_c"] / D) ** t["alpha_D"]


def kaplan_steps(t, N, S, D):
    """The L that equals its own right side, by halving; the batch is D / S."""
    N, S, D = np.broadcast_arrays(np.asarray(N, float), S, D)
    low, high = np.full(N.shape, 1e-3), np.full(N.shape, 1e4)
    for _ in range(80):
        L = np.sqrt(low * high)
        least = S / (1 + 2.1e8 / L ** (1 / 0.21) * S / D)
        right = (t["N_c"] / N) ** t["alpha_N"] + (t["S_c"] / least) ** t["alpha_S"]
        above = right < L
        low, high = np.where(above, low, L), np.where(above, L, high)
    return L


def overtrained(t, N, D):
    C, M = 6 * N * D, D / N
    return t["E"] + (t["A"] * M ** t["eta"] + t["B"] * M ** -t["eta"]) * C ** -t["eta"]


def repeated(t, N, D, U):
    """The optimal size for U tokens from eq. 4 of Hoffmann et al. 2022, exponents tied."""
    G = (t["A"] / t["B"]) ** (1 / (2 * t["alpha"]))
    V = np.minimum(N, G * G * U)
    size = V + V * t["R_N"] * (1 - np.exp(-(N / V - 1) / t["R_N"]))
    data = U + U * t["R_D"] * (1 - np.exp(-(D / U - 1) / t["R_D"]))
    return t["E"] + t["A"] / size ** t["alpha"] + t["B"] / data ** t["beta"]


def ladder(sizes=6, lengths=6):
    """Sizes times lengths: every size at every number of tokens."""
    N, D = np.meshgrid(np.geomspace(2e7, 2e9, sizes), np.geomspace(1e9, 2e11, lengths))
    return {"N": N.ravel(), "D": D.ravel()}


def steps():
    """Sizes times steps at a batch of 2^19 tokens."""
    N, S = np.meshgrid(np.geomspace(1e6, 1e9, 6), np.geomspace(3e3, 2.5e5, 6))
    return {"N": N.ravel(), "S": S.ravel(), "D": S.ravel() * 2**19}


def epochs():
    """Sizes times lengths times 1, 4, 16 and 40 epochs."""
    both, times = ladder(5, 4), np.array([1.0, 4.0, 16.0, 40.0])
    N, D = (np.repeat(both[k], len(times)) for k in "ND")
    return {"N": N, "D": D, "U": D / np.tile(times, both["D"].size)}


def slices(budgets=(1e18, 3e18, 1e19, 3e19, 1e20), sizes=7):
    """IsoFLOP slices around the best size of TRUTH."""
    C = np.repeat(budgets, sizes)
    N = 0.0963 * (C / 6) ** 0.5139 * np.tile(np.geomspace(1 / 4, 4, sizes), len(budgets))
    return {"N": N, "D": C / 6 / N, "flops_planned": C}


def curves(sizes=20, rows=30):
    """Training curves of 20 sizes, each from a quarter of its best D to four times it."""
    C = np.repeat(np.geomspace(1e18, 1e21, sizes), rows)
    N = 0.0963 * (C / 6) ** 0.5139
    D = C / 6 / N * np.tile(np.geomspace(1 / 4, 4, rows), sizes)
    return {"N": N, "D": D, "group": np.repeat(np.arange(sizes), rows)}


def best_loss(t, N=None, D=None, C=None):
    """A Chinchilla surface with the floor of t; at C FLOPs its lowest loss instead."""
    if C is None:
        return chinchilla(TRUTH | {"E": t.get("E", 0.0)}, N, D)
    if "E" in t:
        return t["E"] + t["K"] * C ** -t["gamma"]
    return (t["C_c"] / C) ** t["alpha_C"]


def ten_times_both(inputs):
    """One run of 100 times the largest compute."""
    return {k: 10 * inputs[k].max() for k in inputs if k != "flops_planned"}


TRUTH = {"E": 1.8, "A": 480.0, "B": 2100.0, "alpha": 0.35, "beta": 0.37}
GAMMA = 0.35 * 0.37 / 0.72
BEST = (0.35 * 480 / (0.37 * 2100)) ** (1 / 0.72)  # G of eq. 4
SCALE = (480 * BEST**-0.35 + 2100 * BEST**0.37) * 6**GAMMA


@dataclass(frozen=True)
class Case:
    """How to test one law."""

    loss: Callable
    """loss(truth, **inputs): the formula, written again from the paper."""
    truth: dict[str, float]
    inputs: dict[str, np.ndarray]
    """The evidence: fields of Observations without L."""
    far: Callable[[dict], dict] = ten_times_both
    """From the evidence to inputs 100 times beyond it, where the law speaks of inputs."""
    along: Callable | None = lambda C, N: {"N": N, "D": C / 6 / N}
    """The inputs of a run of C FLOPs at N; None where the law allots nothing."""
    constants: bool = True
    """Whether the law's params carry the names and values of the truth."""
    exact: float = 1e-4
    """Relative error that it may make in noise-free constants, or in N* without constants."""
    varied: tuple[str, ...] = ("N",)
    """Inputs that must vary, or the law refuses."""
    too_few: int = 3
    """Runs with which no fit can be made."""

    def runs(self, noise=0.0, seed=0, spoilt=None, **other):
        """Observations of the truth, with noise of ln L, and one run at twice its loss."""
        inputs = self.inputs | other
        if "U" in inputs:  # what is unique among fewer tokens is fewer too
            inputs["U"] = np.minimum(inputs["U"], inputs["D"])
        used = {k: v for k, v in inputs.items() if k != "flops_planned"}
        L = self.loss(self.truth, **used)
        L = L * np.exp(noise * np.random.default_rng(seed).standard_normal(L.size))
        L = np.where(np.arange(L.size) == spoilt, 2 * L, L)
        return Observations.of(L=L, **({"N": self.inputs["N"], "D": self.inputs["D"]} | inputs))

    def best(self, C):
        """N and L of the lowest true loss at C FLOPs, by plain search."""

        def loss(x):
            return self.loss(self.truth, **self.along(C, np.exp(x)))

        x = np.linspace(np.log(1e4), np.log(1e14), 400)
        near = x[np.argmin(loss(x))]
        found = minimize_scalar(
            loss, bounds=(near - 0.1, near + 0.1), method="bounded", options={"xatol": 1e-9}
        )
        return float(np.exp(found.x)), float(found.fun)


def of_optima(**settings):
    """A law that speaks of optima only, on the slices of a Chinchilla surface."""
    return Case(chinchilla, TRUTH, slices(), constants=False, exact=0.02, **settings)


CASES = {
    "isoflop": of_optima(),
    "chinchilla": Case(chinchilla, TRUTH, ladder(), varied=("N", "D")),
    "kaplan": Case(
        kaplan,
        {"N_c": 6.4e13, "D_c": 1.8e13, "alpha_N": 0.076, "alpha_D": 0.103},
        ladder(),
        varied=("N", "D"),
    ),
    "kaplan_n": Case(
        lambda t, N, D: (t["N_c"] / N) ** t["alpha_N"],
        {"N_c": 8.8e13, "alpha_N": 0.076},
        ladder(),
        far=lambda inputs: {"N": 100 * inputs["N"].max(), "D": 1e12},
        along=None,
        too_few=2,
    ),
    "kaplan_d": Case(
        lambda t, N, D: (t["D_c"] / D) ** t["alpha_D"],
        {"D_c": 5.4e13, "alpha_D": 0.095},
        ladder(),
        far=lambda inputs: {"N": 1e12, "D": 100 * inputs["D"].max()},
        along=None,
        varied=("D",),
        too_few=2,
    ),
    "kaplan_steps": Case(
        kaplan_steps,
        {"N_c": 6.5e13, "S_c": 2.1e3, "alpha_N": 0.077, "alpha_S": 0.76},
        steps(),
        along=lambda C, N: {"N": N, "S": C / 6 / N, "D": C / 6 / N},  # one token a step
        varied=("N", "S"),
    ),
    "overtrained": Case(
        overtrained,
        {"E": 1.5083, "A": 141.3, "B": 189.5, "eta": 0.1212},
        ladder(),
        varied=("N", "D"),
    ),
    "repeated": Case(
        repeated,
        {
            "E": 1.869,
            "A": 520.8,
            "B": 1487.7,
            "alpha": 0.35266,
            "beta": 0.35266,
            "R_N": 5.31,
            "R_D": 15.39,
        },
        epochs(),
        along=lambda C, N: {"N": N, "D": C / 6 / N, "U": C / 6 / N},
        varied=("N", "D"),
    ),
}


def of_compute(truth, **settings):
    """A law of the best loss alone, on the slices of a Chinchilla surface."""
    far = {"C": 1e22}
    return Case(best_loss, truth, slices(), far=lambda _: far, along=None, **settings)


CASES |= {
    "frontier": of_compute({"E": 1.8, "K": SCALE, "gamma": GAMMA}, exact=1e-3),
    "kaplan_c": of_compute({"C_c": SCALE ** (1 / GAMMA), "alpha_C": GAMMA}, exact=5e-3),
    "envelope": Case(
        lambda t, N, D, group=None: chinchilla(t, N, D),
        TRUTH,
        curves(),
        constants=False,
        exact=0.05,
    ),
}


def test_every_law_has_a_case():
    assert set(CASES) == set(LAWS)


@dataclass(frozen=True)
class Subject:
    """A law and its case, with the fits that several tests look at."""

    law: Law
    case: Case
    done: dict = field(default_factory=dict)

    def fit(self, **settings) -> LawFit:
        key = tuple(settings.items())
        if key not in self.done:
            self.done[key] = self.law.fit(self.case.runs(**settings))
        return self.done[key]

    @property
    def end(self) -> float:
        """The largest compute in evidence."""
        return self.fit().evidence_end

    def forecast(self, **settings):
        """The loss 100 times beyond the evidence, forecast and true."""
        fit, case = self.fit(**settings), self.case
        if case.constants:
            inputs = case.far(case.inputs)
            return float(fit.predict(**inputs)), float(case.loss(case.truth, **inputs))
        return float(np.ravel(fit.optimum(100 * self.end).L)[0]), case.best(100 * self.end)[1]


SUBJECTS: dict[str, Subject] = {}


@pytest.fixture(params=LAWS)
def subject(request):
    name = request.param
    return SUBJECTS.setdefault(name, Subject(LAWS[name](), CASES[name]))


@pytest.fixture
def allotting(subject):
    if subject.case.along is None:
        pytest.skip("allots no compute")
    return subject


@pytest.fixture
def formula(subject):
    fit = subject.fit(noise=0.002)
    if not isinstance(fit, FormulaFit):
        pytest.skip("no formula of constants")
    return fit


def displaced(fit):
    """A theta beside the optimum, where nothing is symmetric by luck."""
    return fit.theta + 0.02 * np.cos(np.arange(len(fit.theta)))


def test_is_an_immutable_law(subject):
    assert isinstance(subject.law, Law)
    assert subject.law.formula
    assert "arXiv:" in subject.law.source
    with pytest.raises(dataclasses.FrozenInstanceError):
        subject.law.formula = "another"
    with pytest.raises(dataclasses.FrozenInstanceError):
        subject.fit().runs = None


def test_recovers_the_truth_from_noise_free_runs(subject):
    fit, case = subject.fit(), subject.case

    if case.constants:
        assert not fit.broken
        assert fit.params == pytest.approx(case.truth, rel=case.exact)
    else:
        budgets = case.inputs.get("flops_planned", fit.evidence_end * np.array([0.01, 0.1, 1.0]))
        for C in np.unique(budgets):
            best = fit.optimum(C)
            assert float(np.ravel(best.N)[0]) == pytest.approx(case.best(C)[0], rel=case.exact)
            assert float(np.ravel(best.L)[0]) == pytest.approx(case.best(C)[1], rel=1e-3)


def test_slope_is_the_derivative_of_the_value(formula):
    surface, theta = formula.surface, displaced(formula)

    slope = surface.at(theta[None])[1][0]

    for k, h in enumerate(1e-6 * np.eye(len(theta))):
        rise = surface.at((theta + h)[None])[0] - surface.at((theta - h)[None])[0]
        np.testing.assert_allclose(slope[k], rise[0] / 2e-6, rtol=1e-6, atol=1e-8)


def test_bend_is_the_derivative_of_the_slope(formula):
    surface, theta = formula.surface, displaced(formula)
    pull = np.linspace(-1, 1, len(formula.runs))

    bend = surface.bend(theta[None], surface.at(theta[None])[1], pull[None])[0]

    size = np.abs(bend).max()
    for k, h in enumerate(1e-5 * np.eye(len(theta))):
        up, down = (surface.at(x[None])[1][0] for x in (theta + h, theta - h))
        rise = (up - down) @ pull
        np.testing.assert_allclose(bend[k], rise / 2e-5, rtol=1e-4, atol=1e-5 * size)


def test_the_formula_as_printed_is_the_surface_that_is_searched(formula):
    surface, theta = formula.surface, displaced(formula)
    constants = {k: v[0] for k, v in surface.constants(theta[None]).items()}

    inputs = {symbol: getattr(formula.runs, symbol) for symbol in formula.law.uses}
    printed = formula.law.loss(constants, **inputs)

    searched = surface.at(theta[None])[0][0]
    np.testing.assert_allclose(np.exp(searched) if surface.robust else searched, printed, rtol=1e-9)


def test_constants_and_coordinates_are_inverse(formula):
    surface, theta = formula.surface, displaced(formula)

    back = surface.theta({k: float(v[0]) for k, v in surface.constants(theta[None]).items()})

    np.testing.assert_allclose(back, theta, rtol=1e-7, atol=1e-9)


def test_most_starts_agree_on_the_optimum(formula):
    assert formula.solver.converged
    assert formula.solver.agreement > 0.5


def test_extrapolates_100x_past_noisy_runs(subject):
    forecast, true = subject.forecast(noise=0.002)

    assert forecast == pytest.approx(true, rel=0.02)


def test_one_ruined_run_barely_moves_the_forecast(subject):
    honest, _ = subject.forecast(noise=0.002)

    ruined, _ = subject.forecast(noise=0.002, spoilt=len(subject.case.inputs["N"]) // 2)

    assert ruined == pytest.approx(honest, rel=0.01)


def test_forecasts_the_optimum_10x_past_noisy_runs(allotting):
    fit, C = allotting.fit(noise=0.001), 10 * allotting.end

    best = fit.optimum(C)

    N, L = allotting.case.best(C)
    assert float(np.ravel(best.N)[0]) == pytest.approx(N, rel=0.1)
    assert float(np.ravel(best.D)[0]) == pytest.approx(C / 6 / N, rel=0.1)
    assert float(np.ravel(best.L)[0]) == pytest.approx(L, rel=0.01)


def test_its_constants_are_not_mistaken_for_exponents(subject):
    """Replicates hold both under one roof, where a and b are the powers of N* and D*."""
    fit = subject.fit()

    assert not set(fit.exponents) & set(getattr(fit.law, "names", ()))


def test_a_law_without_inputs_to_allot_has_no_optimum(subject):
    fit = subject.fit()

    assert (fit.optimum(1e21) is None) == (subject.case.along is None)
    assert (fit.exponents == {}) == (subject.case.along is None)


def test_the_optimum_broadcasts(allotting):
    best = allotting.fit().optimum(np.array([1e20, 1e21]))

    assert best.N.shape == best.D.shape == best.L.shape == (2,)
    assert np.all(np.diff(best.N) > 0)
    assert np.all(np.diff(best.L) < 0)


def test_its_exponent_is_the_power_of_its_optimum(allotting):
    fit = allotting.fit(noise=0.002)

    best = fit.optimum(np.array([1e20, 1e22]))

    power = np.log(best.N[1] / best.N[0]) / np.log(100)
    assert power == pytest.approx(fit.exponents["a"], abs=1e-6)


def test_one_form_of_the_frontier_is_the_true_one(allotting):
    """Losses fall from about 3 to 2.25 on the way; the form without a floor falls too far."""
    C = 10 * allotting.end

    forms = allotting.fit().frontiers(C)

    L = allotting.case.best(C)[1]
    assert min(abs(loss / L - 1) for loss in forms.values()) < 0.002
    assert max(abs(loss / L - 1) for loss in forms.values()) < 0.1


def test_replicates_are_as_many_as_worked(subject):
    drawn = subject.fit(noise=0.002).replicates(50, seed=0)

    assert drawn.asked == 50
    assert all(v.shape == (50 - drawn.failed,) for v in drawn.values.values())
    assert drawn.failed <= 5
    assert drawn.unit
    if subject.case.along is None:
        assert drawn.optimum(1e21) is None
    else:
        assert {"a", "b"} <= set(drawn.values)
        assert drawn.optimum(1e21).N.shape == (50 - drawn.failed,)


def test_replicates_scatter_around_the_fit(allotting):
    fit, C = allotting.fit(noise=0.002), 10 * allotting.end

    drawn = fit.replicates(200, seed=0).optimum(C)

    low, high = np.quantile(drawn.N, [0.02, 0.98])
    assert low < float(np.ravel(fit.optimum(C).N)[0]) < high
    assert 1.005 < high / low < 3


def test_its_part_of_the_json_is_json(subject):
    told = subject.fit(noise=0.002).to_json()

    assert json.loads(json.dumps(told, allow_nan=False)) == told
    assert set(told["exponents"]) == (set() if subject.case.along is None else {"a", "b"})


def refusal(law, runs):
    """The error with which a law refuses runs, once it is seen to say all three things."""
    with pytest.raises(FitError) as caught:
        law.fit(runs)
    error = caught.value
    assert error.problem
    assert error.where
    assert error.fix
    assert str(error) == f"{error.problem}\n  where: {error.where}\n  fix:   {error.fix}"
    return error


def test_refuses_too_few_runs(subject):
    runs = subject.case.runs()

    refusal(subject.law, runs.take(np.arange(subject.case.too_few)))


def test_refuses_an_input_that_never_varies(subject):
    for symbol in subject.case.varied:
        inputs = subject.case.inputs
        fixed = np.full_like(inputs[symbol], inputs[symbol].min())

        refusal(subject.law, subject.case.runs(**{symbol: fixed}))


def test_does_not_touch_the_runs(subject):
    runs = subject.case.runs(noise=0.003)
    before = {f.name: getattr(runs, f.name).copy() for f in dataclasses.fields(Observations)}

    subject.law.fit(runs).replicates(20, seed=0)

    for name, value in before.items():
        np.testing.assert_array_equal(getattr(runs, name), value)
