"""Observations refuse what no law may see, and name the runs."""

from dataclasses import replace

import numpy as np
import pytest

from scalelab.errors import DataError, FitError
from scalelab.laws.columns import UNIQUE_TOKENS, Column
from scalelab.laws.forms.chinchilla import Chinchilla
from scalelab.laws.observations import Observations
from scalelab.laws.token_cost import TokenCost
from scalelab.study.forecast import SeedNoise
from scalelab.study.quality.control import inspect


@pytest.mark.parametrize("value", [0.0, -1.0, np.nan, np.inf])
def test_refuses_a_diverged_run_and_says_which(family, value):
    runs = family()
    L = np.where(np.arange(len(runs)) == 7, value, runs.L)

    with pytest.raises(DataError, match=r"L must be positive and finite(.|\n)*7 \(row 7\)"):
        Observations.of(runs.N, runs.D, L)


@pytest.mark.parametrize("value", [1e300, 1e101, 1e-101, 1e-300])
def test_refuses_a_loss_whose_square_is_no_number(family, value):
    runs = family()
    L = np.where(np.arange(len(runs)) == 7, value, runs.L)

    with pytest.raises(DataError, match=r"L must be between 1e-100 and(.|\n)*7 \(row 7\)") as refused:
        Observations.of(runs.N, runs.D, L)
    assert f"not {value:g};" in refused.value.problem


@pytest.mark.parametrize("value", [1e99, 1e-99])
def test_a_loss_far_off_is_fitted_without_a_warning(family, value):
    runs = family()
    L = np.where(np.arange(len(runs)) == 7, value, runs.L)

    for law in (Chinchilla(), Chinchilla("squares")):
        law.fit(Observations.of(runs.N, runs.D, L))


def test_refuses_a_run_given_twice():
    with pytest.raises(DataError, match=r"stand once only(.|\n)*2 \(a\)"):
        Observations.of([1, 2, 3], [1, 2, 3], [1, 2, 3], run=["a", "b", "a"])


def test_refuses_columns_of_unequal_length():
    with pytest.raises(DataError, match=r"D has shape \(2,\), not \(3,\)"):
        Observations.of([1, 2, 3], [1, 2], [1, 2, 3], C=[1, 2, 3])


def test_budgets_are_told_apart_exactly():
    planned = [1e18, 1e18 * (1 + 1e-12), np.nan]
    runs = Observations.of([1, 2, 3], [1, 2, 3], [1, 2, 3], flops_planned=planned)

    assert len(runs.budgets) == 2


def test_seed_noise_is_pooled_over_repeated_points():
    N, L = np.array([1.0, 1, 2, 2, 3]), np.array([3.0, 3.2, 2.0, 2.4, 9.0])
    runs = Observations.of(N, N, L)

    noise = SeedNoise.of(runs)

    assert noise.dof == 2
    assert noise.sd == pytest.approx(np.sqrt((0.02 + 0.08) / 2))
    assert SeedNoise.of(runs.take(np.array([0, 2, 4]))) is None


RATE = Column("learning_rate", "lr", "per step", "peak learning rate", high=1.0)
SHARE = Column("share_of_code", "w", "share", "share of code in the text", high=1.0, closed=True)


def with_columns(**columns):
    columns = {name: np.asarray(value) for name, value in columns.items()}
    return Observations.of([1e6, 2e6, 3e6], [1e7, 1e7, 1e7], [3, 2.9, 2.8], columns=columns)


def test_named_columns_are_taken_along():
    runs = with_columns(learning_rate=[1e-3, 2e-3, 3e-3]).take(np.array([2, 0]))

    assert list(RATE.read(runs, "Mine")) == [3e-3, 1e-3]
    assert np.isnan(runs.recorded("n_steps")).all()


def test_a_named_column_has_a_value_for_each_run():
    with pytest.raises(DataError, match=r"learning_rate has shape \(2,\), not \(3,\)"):
        with_columns(learning_rate=[1e-3, 2e-3])


@pytest.mark.parametrize(
    ("column", "values", "problem"),
    [
        (RATE, None, "the Mine law needs learning_rate (peak learning rate, per step), and the "),
        (RATE, [1e-3, np.nan, np.nan], "and 2 of 3 runs have none"),
        (RATE, [1e-3, 0.0, 1e-3], "learning_rate above 0; 1 of 3 runs are not so"),
        (RATE, [1e-3, 2.0, 1e-3], "learning_rate of at most 1; 1 of 3"),
        (RATE, ["low", "high", "low"], "and it is no number"),
        (SHARE, [0.0, 0.5, -0.1], "share_of_code of at least 0; 1 of 3"),
        (replace(RATE, high=np.inf), [1e-3, np.inf, 1e-3], "that is finite; 1 of 3"),
        (UNIQUE_TOKENS, [1e7, 2e7, 1e7], "n_tokens_unique (U) no larger than D; 1 of 3"),
    ],
)
def test_a_column_that_a_law_cannot_use_is_refused(column, values, problem):
    runs = with_columns(**({} if values is None else {column.name: values}))

    with pytest.raises(FitError) as caught:
        column.read(runs, "Mine")

    assert problem in caught.value.problem
    assert column.name in caught.value.where + caught.value.fix


def test_a_share_of_nothing_is_a_share():
    assert list(SHARE.read(with_columns(share_of_code=[0, 0.5, 1]), "Mine")) == [0, 0.5, 1]


def test_runs_that_differ_in_a_law_s_own_column_are_not_one_run_with_two_seeds():
    N = np.full(3, 1e6)
    runs = Observations.of(N, 20 * N, [3.0, 3.2, 3.1])
    rates = replace(runs, columns={"learning_rate": np.array([1e-3, 2e-3, 2e-3])})

    assert SeedNoise.of(runs).dof == 2
    assert SeedNoise.of(rates).dof == 1
    assert [f.code for f in inspect(rates)] == ["unexplained repeats"]
    assert [f.code for f in inspect(replace(rates, seed=np.arange(3)))] == []


def test_token_cost_is_6n_where_every_run_spent_that(family):
    assert (TokenCost.of(family()).p, TokenCost.of(family()).q) == (6.0, 0.0)


def test_token_cost_follows_attention(measured):
    cost = TokenCost.of(measured)

    assert cost.miss < 0.01
    width = 512  # three times past the widest run: 24 d^2 + 1024 d weights, 768 d for attention
    N = 24 * width**2 + 1024 * width
    assert cost(N) == pytest.approx(6 * N + 768 * width, rel=0.02)


def test_token_cost_slope_is_the_derivative(measured):
    cost, N = TokenCost.of(measured), 1e5
    h = 1e-5

    numeric = (np.log(cost(N * np.exp(h))) - np.log(cost(N * np.exp(-h)))) / (2 * h)

    assert cost.log_slope(N) == pytest.approx(numeric, rel=1e-8)


def test_refuses_flops_that_fall_with_size():
    N = np.geomspace(1e6, 1e8, 5)

    with pytest.raises(FitError, match="do not grow with their parameters"):
        TokenCost.of(Observations.of(N, np.full(5, 1e9), np.ones(5), C=1e9 * 1e12 / N))
