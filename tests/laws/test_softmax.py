"""The soft-max law: the laws that it holds, which runs count, what the prior does, what is refused."""

from dataclasses import replace

import numpy as np
import pytest

from scalelab.errors import FitError
from scalelab.laws import LAWS
from scalelab.laws.forms.softmax import LEAST_RUNS, Softmax
from scalelab.laws.observations import Observations

CONSTANTS = {"E": 1.6, "A": 150.0, "B": 70.0, "alpha_N": 0.26, "alpha_D": 0.2, "k": 0.5}


def grid(constants=CONSTANTS, noise=0.0, seed=0, sizes=6, lengths=6):
    N, D = (
        part.ravel() for part in np.meshgrid(np.geomspace(2e7, 2e9, sizes), np.geomspace(1e9, 2e11, lengths))
    )
    L = Softmax().loss(constants, N=N, D=D)
    return Observations.of(N, D, L * np.exp(noise * np.random.default_rng(seed).standard_normal(N.size)))


@pytest.mark.parametrize("seed", range(5))
def test_softness_one_is_chinchilla(seed):
    rng = np.random.default_rng(seed)
    N, D = np.exp(rng.uniform(15, 28, (2, 50)))
    t = {"E": rng.uniform(0, 3), "A": 10 ** rng.uniform(0, 4), "B": 10 ** rng.uniform(0, 4)}
    t |= {"alpha": rng.uniform(0.05, 0.8), "beta": rng.uniform(0.05, 0.8)}

    found = Softmax().loss(t | {"alpha_N": t["alpha"], "alpha_D": t["beta"], "k": 1.0}, N=N, D=D)

    assert found == pytest.approx(LAWS["chinchilla"]().loss(t, N=N, D=D), rel=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_softness_beta_without_a_floor_is_kaplan(seed):
    rng = np.random.default_rng(seed)
    N, D = np.exp(rng.uniform(15, 28, (2, 50)))
    N_c, D_c, alpha_N, alpha_D = *np.exp(rng.uniform(25, 32, 2)), *rng.uniform(0.05, 0.5, 2)
    kaplan = LAWS["kaplan"]().loss({"N_c": N_c, "D_c": D_c, "alpha_N": alpha_N, "alpha_D": alpha_D}, N=N, D=D)

    found = Softmax().loss(
        {
            "E": 0.0,
            "A": N_c**alpha_N,
            "B": D_c**alpha_D,
            "alpha_N": alpha_N,
            "alpha_D": alpha_D,
            "k": alpha_D,
        },
        N=N,
        D=D,
    )

    assert found == pytest.approx(kaplan, rel=1e-12)


@pytest.mark.parametrize("k", [0.04, 0.3, 3.0])
def test_nothing_overflows_at_the_edge_of_the_search(k):
    N, D = np.array([1e3, 1e8, 1e14]), np.array([1e14, 1e9, 1e3])

    L = Softmax().loss(CONSTANTS | {"k": k, "alpha_N": 2.0, "alpha_D": 2.0}, N=N, D=D)

    assert np.isfinite(L).all()


@pytest.mark.parametrize("power", [0.0, 0.5])
def test_the_optimum_is_the_lowest_loss_of_the_budget(power):
    """Also where a token does not cost 6 N."""
    runs = grid()
    runs = replace(runs, C=runs.C * (1 + 2e3 * runs.N**-0.5) ** power)
    fit = Softmax().fit(runs)

    best = fit.optimum(np.array([1e20, 1e23]))

    for C, N, L in zip(best.C, best.N, best.L, strict=True):
        sizes = N * np.exp(np.linspace(-1, 1, 2001))
        losses = fit.loss_at(sizes, C / fit.cost(sizes))
        assert abs(np.log(sizes[np.argmin(losses)] / N)) < 2e-3
        assert losses.min() * (1 + 1e-9) >= L


def test_the_upper_half_of_the_compute_counts():
    runs = grid(noise=0.003)
    fit = Softmax().fit(runs)

    assert len(fit.runs) == 18
    assert fit.total == 36
    assert fit.runs.C.min() >= np.sort(runs.C)[18] * (1 - 1e-9)
    assert fit.evidence_end == runs.C.max()


def test_ten_runs_count_at_the_least():
    runs = grid(noise=0.003, sizes=4, lengths=3)

    assert len(Softmax().fit(runs).runs) >= 10


def test_runs_below_the_half_change_nothing():
    runs = grid(noise=0.003)
    low = np.median(runs.C) > runs.C
    other = replace(runs, L=np.where(low, runs.L * 1.3, runs.L))

    assert Softmax().fit(other).params == Softmax().fit(runs).params


def test_the_prior_halves_the_error_of_small_noisy_tables():
    """Without it the floor of some runs to 0 and that of others to the lowest loss."""
    truth = Softmax().loss(CONSTANTS, N=np.array(2e10), D=np.array(2e12))
    errors, floors = {0.0: [], 3.0: []}, {0.0: [], 3.0: []}
    for seed in range(12):
        runs = grid(noise=0.02, seed=seed, sizes=4, lengths=3)
        for scale in errors:
            fit = Softmax(prior_scale=scale).fit(runs)
            errors[scale].append(abs(np.log(fit.loss_at(2e10, 2e12) / truth)))
            floors[scale].append(fit.params["E"] / runs.L.min())

    assert np.mean(errors[3.0]) < 0.6 * np.mean(errors[0.0])
    assert min(floors[0.0]) < 0.1 < 0.5 < min(floors[3.0])


def test_the_prior_holds_the_ratio_of_the_exponents():
    runs = grid(noise=0.01, sizes=4, lengths=3)

    apart = {
        sd: abs(np.log(fit.params["alpha_N"] / fit.params["alpha_D"]))
        for sd in (0.01, 0.3, np.inf)
        for fit in (Softmax(ratio_sd=sd).fit(runs),)
    }

    assert apart[0.01] < apart[0.3] < apart[np.inf]
    assert apart[0.01] < 0.01


def test_the_noise_is_that_of_the_table():
    noises = [Softmax(share=1.0).fit(grid(noise=0.004, seed=s, sizes=8, lengths=8)).noise for s in range(4)]

    assert np.mean(noises) == pytest.approx(0.004, rel=0.3)


@pytest.mark.parametrize(
    ("sizes", "lengths"), [(2, 8), (8, 2), (7, 1)], ids=["two sizes", "two token counts", "one token count"]
)
def test_thin_tables_are_refused(sizes, lengths):
    with pytest.raises(FitError) as caught:
        Softmax().fit(grid(noise=0.003, sizes=sizes, lengths=lengths))

    assert caught.value.problem
    assert caught.value.where
    assert caught.value.fix


def test_few_runs_are_refused():
    runs = grid(noise=0.003)

    with pytest.raises(FitError, match=f"{LEAST_RUNS} runs"):
        Softmax().fit(runs.take(np.linspace(0, 35, LEAST_RUNS - 1).astype(int)))


def test_the_report_names_the_settings():
    from scalelab.laws.description import FitContext

    facts = {fact.label: fact for fact in Softmax().fit(grid(noise=0.003)).facts(FitContext("softmax", 0.9))}

    assert facts["runs that count"].value.startswith("18 of 36")
    assert "3 times" in facts["prior"].value
    assert facts["prior"].kind == "assumed"
