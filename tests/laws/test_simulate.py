"""A simulation does what it says: the truth is the law's, the noise is the noise asked for."""

import numpy as np
import pytest

from scalelab.errors import ConfigError, DataError
from scalelab.laws import LAWS
from scalelab.laws.formula import Formula
from scalelab.laws.token_cost import TokenCost
from scalelab.study.simulate.designs import (
    DESIGNS,
    NOISES,
    DriftNoise,
    GaussianNoise,
    OneSidedNoise,
    OutlierNoise,
    PerSeedNoise,
    SimulatedGrid,
    SimulatedIsoFlop,
    SimulatedLadder,
)
from scalelab.study.simulate.simulation import KnownLaw, simulate, truth

TRUTH = {"E": 1.8, "A": 480.0, "B": 2100.0, "alpha": 0.35, "beta": 0.37}
ALLOTS = [
    name
    for name in LAWS
    if issubclass(LAWS[name], Formula)
    and {"N", "D"} <= set(LAWS[name].uses) <= {"N", "D", "U"}
    and LAWS[name]().optimum(LAWS[name].published, np.array(1e21), TokenCost(6.0, 0.0, 0.0)) is not None
]


def optimal_size(C, E, A, B, alpha, beta):
    """Hoffmann et al. 2022, eq. 4."""
    return (alpha * A / (beta * B)) ** (1 / (alpha + beta)) * (C / 6) ** (beta / (alpha + beta))


def close(value, expected, rel=1e-9):
    return np.allclose(value, expected, rtol=rel, atol=0)


@pytest.mark.parametrize("C", [1e12, 1e18, 1e26, 1e30])
def test_the_truth_is_hoffmanns_closed_form(C):
    best = truth("chinchilla", TRUTH, C)

    assert close(best.N, optimal_size(C, **TRUTH), 1e-6)
    assert close(best.D, C / 6 / best.N)
    assert close(best.L, 1.8 + 480 / best.N**0.35 + 2100 / best.D**0.37)


@pytest.mark.parametrize("name", ALLOTS)
def test_the_truth_found_by_search_is_the_laws_own_optimum(name):
    known = KnownLaw.of(name)
    for C in (1e18, 1e26):
        own = known.law.optimum(known.params, np.array(C), TokenCost(6.0, 0.0, 0.0))

        assert close(known.truth(C).N, own.N, 1e-5)
        assert known.exponent(C) == pytest.approx(float(known.law.exponents(known.params)["a"]), abs=1e-5)


def test_constants_that_may_be_negative_are_those_that_the_law_says():
    assert KnownLaw.of("farseer").loss(np.array(1e9), np.array(2e10)) > 0
    with pytest.raises(DataError, match=r"alpha = nan(.|\n)*give a finite number"):
        KnownLaw.of("farseer", {"alpha": np.nan})
    with pytest.raises(DataError, match=r"alpha = -1(.|\n)*give a positive, finite number"):
        KnownLaw.of("chinchilla", {"alpha": -1.0})


@pytest.mark.parametrize("name", ["kaplan_n", "kaplan_d"])
def test_a_law_of_one_variable_has_no_truth(name):
    assert truth(name, None, 1e20) is None
    with pytest.raises(DataError, match="no best size at 1e\\+18 FLOPs"):
        simulate(name)


@pytest.mark.parametrize("design", DESIGNS.values())
def test_without_noise_losses_are_the_laws(design):
    runs = simulate("chinchilla", TRUTH, design())

    assert close(runs.L, 1.8 + 480 / runs.N**0.35 + 2100 / runs.D**0.37, 1e-12)
    assert close(runs.C, 6 * runs.N * runs.D)
    assert runs.run[0].startswith("sim-")


def test_slices_stand_around_the_truth_and_beside_it_when_asked():
    design = SimulatedIsoFlop((1e18, 1e20), sizes=5, factor=3, offset=2, drift=0.1)

    runs = simulate("chinchilla", TRUTH, design)

    for C, away in ((1e18, 10**-0.1), (1e20, 10**0.1)):
        N = runs.N[runs.flops_planned == C]
        assert N[2] == pytest.approx(2 * away * optimal_size(C, **TRUTH), rel=1e-6)
        assert N[-1] / N[0] == pytest.approx(9)


def test_a_ladder_keeps_its_ratios_and_has_no_budgets():
    runs = simulate("chinchilla", None, SimulatedLadder((1e8, 1e9), (10, 20)))

    assert sorted(set(np.round(runs.D / runs.N))) == [10, 20]
    assert runs.budgets.size == 0


def test_seeds_share_a_point_and_differ_in_their_luck():
    runs = simulate("chinchilla", None, SimulatedGrid(seeds=400), PerSeedNoise(0.02))

    spread = [np.std(runs.L[(runs.N == N)][:400]) for N in np.unique(runs.N)[:3]]
    assert np.unique(runs.seed).size == 400
    assert spread == pytest.approx([0.02] * 3, rel=0.15)


@pytest.mark.parametrize(("noise", "sd"), [("gaussian", 0.01), ("heavy", 0.01), ("onesided", 0.01 * 0.603)])
def test_noise_has_the_size_that_was_asked_for(noise, sd):
    """10,000 draws: 1% for a normal; t with 3 degrees has no fourth moment, so 20%."""
    design = SimulatedGrid((1e8,), (1e10,), seeds=10_000)
    clean = simulate("chinchilla", None, design)

    miss = np.log(simulate("chinchilla", None, design, NOISES[noise](0.01)).L / clean.L)

    assert np.std(miss) == pytest.approx(sd, rel=0.2 if noise == "heavy" else 0.03)


def test_one_sided_noise_only_raises_and_heavy_noise_has_tails():
    design = SimulatedGrid((1e8,), (1e10,), seeds=5000)
    clean = simulate("chinchilla", None, design).L[0]

    above = simulate("chinchilla", None, design, OneSidedNoise(0.01)).L
    tails = np.log(simulate("chinchilla", None, design, NOISES["heavy"](0.01)).L / clean)

    assert above.min() >= clean
    assert np.mean(np.abs(tails) > 0.04) > 0.002  # of a normal it were .00006


def test_a_share_of_the_runs_is_ruined():
    clean = simulate("chinchilla")
    runs = simulate("chinchilla", noise=OutlierNoise(0.1))

    raised = runs.L / clean.L
    assert np.sum(raised > 1.05) == 4
    assert np.sum(raised == 1) == 31


def test_drift_tilts_the_loss_with_compute():
    tilt = np.log(simulate("chinchilla", noise=DriftNoise(0.01)).L / simulate("chinchilla").L)
    runs = simulate("chinchilla")

    assert np.polyfit(np.log10(runs.C), tilt, 1)[0] == pytest.approx(0.01)


def test_the_same_seed_gives_the_same_runs_and_another_does_not():
    one, same, other = (simulate("chinchilla", noise=GaussianNoise(0.01), seed=s).L for s in (1, 1, 2))

    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


def test_compute_far_beyond_any_machine():
    runs = simulate("chinchilla", None, SimulatedIsoFlop((1e26, 1e28, 1e30)), GaussianNoise(0.001))

    assert np.isfinite(runs.L).all()


def test_repeated_data_and_steps_are_inputs_too():
    repeated = simulate(KnownLaw.of("repeated", epochs=8), design=SimulatedGrid())
    fresh = simulate(KnownLaw.of("repeated"), design=SimulatedGrid())
    stepped = simulate(KnownLaw.of("kaplan_steps", batch_tokens=1e6), design=SimulatedGrid())

    assert close(repeated.D / repeated.columns["n_tokens_unique"], 8)
    assert (repeated.L > fresh.L).all()
    assert close(stepped.D / stepped.columns["n_steps"], 1e6)


@pytest.mark.parametrize(
    ("ask", "problem"),
    [
        (lambda: simulate("isoflop"), "IsoFlopLaw is no formula of the loss"),
        (lambda: simulate("chinchilla", {"Alpha": 1}), "'Alpha' is no constant of Chinchilla"),
        (lambda: simulate("chinchilla", {"E": -1}), "E = -1"),
        (lambda: simulate("chinchilla", {"E": np.nan}), "E = nan"),
        (lambda: simulate("kaplan_steps"), "needs steps"),
        (lambda: KnownLaw.of("chinchilla", epochs=0.5), "epochs = 0.5"),
        (lambda: SimulatedIsoFlop(()), "budgets = "),
        (lambda: SimulatedIsoFlop((1e18, -1)), "budgets = "),
        (lambda: SimulatedIsoFlop(seeds=0), "seeds = 0"),
        (lambda: SimulatedIsoFlop(factor=np.inf), "factor = inf"),
        (lambda: GaussianNoise(-1), "a noise of size -1"),
        (lambda: simulate("chinchilla", None, SimulatedIsoFlop(seeds=1_000_000)), "35,000,000 runs"),
        (lambda: simulate("chinchilla", noise=PerSeedNoise(100.0)), "L must be positive"),
    ],
)
def test_what_cannot_be_simulated_is_refused(ask, problem):
    with pytest.raises(DataError) as error:
        ask()

    assert problem in error.value.problem


def test_an_unknown_law_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match="did you mean 'chinchilla'"):
        simulate("chinchila")


@pytest.mark.parametrize(
    ("build", "problem"),
    [
        (lambda: SimulatedIsoFlop(sizes=10**9), "sizes = 1000000000"),
        (lambda: SimulatedIsoFlop(sizes=7.5), "sizes = 7.5"),
        (lambda: SimulatedLadder(seeds=10**12), "seeds = 1000000000000"),
        (lambda: simulate("chinchilla", seed=-1), "seed = -1"),
        (lambda: KnownLaw.of("chinchilla", batch_tokens=0.0), "batch_tokens = 0"),
        (
            lambda: simulate("chinchilla", design=SimulatedGrid(seeds=10**6)),
            "36,000,000 runs, more than 1,000,000",
        ),
    ],
)
def test_what_cannot_be_simulated_is_refused_before_it_is_made(build, problem):
    with pytest.raises(DataError, match=problem):
        build()
