"""Limits and wishes: published cases, plain searches, agreement with the optimum, refusals."""

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import brentq, minimize_scalar

from scalelab.errors import PlanError
from scalelab.laws.forms.repeated import Repeated
from scalelab.laws.observations import Observations
from scalelab.plan.choose.inference_cost import InferencePrices
from scalelab.plan.choose.inference_demand import serve
from scalelab.plan.choose.variants import (
    evaluate,
    fixed_params,
    fixed_tokens,
    for_loss,
    inference_optimal,
    inference_optimal_within,
    limited_data,
    size_limit,
)
from scalelab.study.study import study


def loss_at(N, D, E=1.8, A=480.0, B=2100.0, alpha=0.35, beta=0.37):
    return E + A / N**alpha + B / D**beta


def optimum(C, E=1.8, A=480.0, B=2100.0, alpha=0.35, beta=0.37):
    """Hoffmann et al. 2022, eq. 4."""
    N = (alpha * A / (beta * B)) ** (1 / (alpha + beta)) * (C / 6) ** (beta / (alpha + beta))
    return N, C / 6 / N


@pytest.fixture(scope="module")
def uncertain(slices):
    """The chinchilla surface of noisy slices, with replicates, and isoFLOP speaking."""
    return slices


@pytest.fixture(scope="module")
def replicates(slices):
    """The constants of the chinchilla surface, replicate by replicate."""
    drawn = slices.replicates["chinchilla"].values
    names = ("E", "A", "B", "alpha", "beta")
    rows = np.stack([drawn[k] for k in names], axis=1)
    return [dict(zip(names, row, strict=True)) for row in rows]


def middle(values):
    """The middle 80%."""
    return np.quantile(values, [0.1, 0.9]).tolist()


def widened(study, found, losses):
    """Ends of the replicates and of what the forecast quotes beside them, scaled by the ratio of the losses."""
    best = float(study.fits[found.law].optimum(study.forecast.flops).L)
    ends = [middle(losses)]
    ends += [[end * found.loss / best for end in one] for one in study.forecast.sources("loss").values()]
    return [min(low for low, _ in ends), max(high for _, high in ends)]


# --- N, D or both given ---


def test_any_size_and_length_has_the_loss_of_the_law(known):
    found = evaluate(known, n_params=7e9, n_tokens=2e12)

    assert found.loss == pytest.approx(loss_at(7e9, 2e12), rel=1e-6)
    assert found.flops == pytest.approx(6 * 7e9 * 2e12)
    assert found.kind == "fitted"


def test_beyond_the_runs_it_is_extrapolated(known):
    assert evaluate(known, n_params=1e12, n_tokens=2e13).kind == "extrapolated"


@pytest.mark.parametrize("C", [1e22, 1e24])
def test_the_best_size_given_is_the_optimum(known, C):
    N, D = optimum(C)

    given = fixed_params(known, n_params=N, flops=C), fixed_tokens(known, n_tokens=D, flops=C)

    for found in given:
        assert (found.n_params, found.n_tokens) == pytest.approx((N, D), rel=1e-6)
        assert found.figures["wasted"] == pytest.approx(0, abs=1e-6)


def test_another_size_given_wastes_what_its_loss_would_have_cost_less(known):
    C = 1e24
    N, _ = optimum(C)

    found = fixed_params(known, n_params=3 * N, flops=C)

    enough = C * (1 - found.figures["wasted"])
    assert loss_at(*optimum(enough)) == pytest.approx(loss_at(3 * N, C / 18 / N), rel=1e-6)
    assert found.loss > loss_at(N, C / 6 / N)
    assert "N is given" in found.words


def test_tokens_given_are_met_where_flops_are_not_6nd(attending):
    choice = fixed_tokens(attending, n_tokens=3e10, flops=1e21)

    per_token = 6 * choice.n_params + 4e4 * np.sqrt(choice.n_params)
    assert per_token * 3e10 == pytest.approx(1e21, rel=1e-6)


def test_memory_binds_only_below_the_best_size(known):
    N, _ = optimum(1e24)

    small, large = (size_limit(known, largest=x, flops=1e24) for x in (N / 2, N * 2))

    assert small.n_params == N / 2
    assert "N is limited to" in small.words
    assert large.n_params == pytest.approx(N, rel=1e-6)
    assert "is within the limit" in large.words


def test_the_interval_of_a_loss_is_that_of_the_replicates(uncertain, replicates):
    found = evaluate(uncertain, n_params=1e9, n_tokens=2e10)

    losses = [loss_at(1e9, 2e10, **params) for params in replicates]
    assert found.intervals["loss"] == pytest.approx(middle(losses), rel=1e-12)
    assert found.intervals["loss"][0] < found.loss < found.intervals["loss"][1]
    assert found.level == 0.8


def test_ratios_beyond_the_runs_are_warned_of(uncertain):
    ratios = uncertain.runs.D / uncertain.runs.N

    inside = evaluate(uncertain, n_params=1e9, n_tokens=2e10)
    outside = evaluate(uncertain, n_params=1e9, n_tokens=1e9 * 2 * ratios.max())

    assert inside.warnings == ()
    assert "laws overestimate the value of tokens" in outside.warnings[0]


def test_a_surface_reports_its_difference_from_the_primary_law(uncertain):
    found = fixed_params(uncertain, n_params=1e9, flops=3e20)

    assert found.law == "chinchilla"
    assert any("isoflop, the primary law of the forecast" in text for text in found.assumptions)


def test_laws_that_the_runs_refute_do_not_stand_beside(uncertain):
    beside = study(
        uncertain.runs,
        target_flops=3e20,
        param_count="total",
        replicates=0,
        laws=("chinchilla", "kaplan", "overtrained"),
    )

    found = evaluate(beside, n_params=1e9, n_tokens=2e10)

    assert set(found.by_law) == {"overtrained"}
    assert found.by_law["overtrained"] == pytest.approx(found.loss, rel=0.01)


def test_without_a_surface_nothing_is_said(uncertain):
    alone = study(uncertain.runs, target_flops=3e20, param_count="total", replicates=0, laws=("isoflop",))

    with pytest.raises(PlanError, match="no surface among") as refused:
        evaluate(alone, n_params=1e9, n_tokens=1e10)
    assert "--law chinchilla" in refused.value.fix


def test_refuses_more_tokens_than_a_budget_can_read(known):
    with pytest.raises(PlanError, match="less than one parameter costs"):
        fixed_tokens(known, n_tokens=1e13, flops=1e13)


@pytest.mark.parametrize("value", [0, -1, np.nan, np.inf])
def test_refuses_a_size_that_is_none(known, value):
    with pytest.raises(PlanError, match="n_params is"):
        evaluate(known, n_params=value, n_tokens=1e9)


# --- the inverse problem ---


@pytest.mark.parametrize("C", [3e22, 1e24, 1e26])
def test_the_compute_for_a_loss_is_the_inverse_of_the_optimum(known, C):
    N, D = optimum(C)

    found = for_loss(known, loss=loss_at(N, D))

    assert (found.flops, found.n_params, found.n_tokens) == pytest.approx((C, N, D), rel=1e-4)


def test_it_is_the_inverse_for_the_trends_of_slices_too(uncertain):
    forecast = uncertain.forecast

    found = for_loss(uncertain, loss=forecast.values["loss"])

    assert found.law == "isoflop"
    assert found.flops == pytest.approx(3e20, rel=1e-8)
    assert found.n_params == pytest.approx(forecast.values["n_params"], rel=1e-8)


def test_its_interval_is_where_the_replicates_reach_the_loss(uncertain):
    found = for_loss(uncertain, loss=2.36)

    low, high = found.intervals["flops"]
    drawn = uncertain.replicates["isoflop"]
    under = [np.mean(drawn.optimum(C).L <= 2.36) for C in (low, high)]
    assert under == pytest.approx([0.1, 0.9], abs=0.005)
    assert low < found.flops < high
    assert found.by_law["chinchilla"] == pytest.approx(found.flops, rel=0.1)


def test_replicates_that_never_come_so_low_leave_no_interval(hoffmann):
    floor = hoffmann.fits["chinchilla"].params["E"]

    found = for_loss(hoffmann, loss=floor + 0.01)

    assert found.intervals["flops"] is None
    assert any("of replicates do not reach this loss" in w for w in found.warnings)
    json.dumps(found.to_json(), allow_nan=False)


@pytest.mark.parametrize(
    ("loss", "said"),
    [
        (1.7, "not above the floor of the chinchilla law, 1.8"),
        (1.8, "not above the floor of the chinchilla law, 1.8"),
        (1e30, "above the losses"),
    ],
)
def test_refuses_a_loss_that_no_compute_reaches(known, loss, said):
    with pytest.raises(PlanError, match=said) as refused:
        for_loss(known, loss=loss)
    assert "choose a loss " in refused.value.fix


# --- data that run out ---


def repeated_loss(N, C, U, E=1.8, A=480.0, B=2100.0, alpha=0.35, beta=0.37):
    """Muennighoff et al. 2023, eqs. 5 and 6, written out."""
    R_N, R_D = 5.309743, 15.387756
    D = C / 6 / N
    U = np.minimum(U, D)
    V = np.minimum(N, (alpha * A / (beta * B) * U**beta) ** (1 / alpha))
    data = U + U * R_D * (1 - np.exp(-(D / U - 1) / R_D))
    size = V + V * R_N * (1 - np.exp(-(N / V - 1) / R_N))
    return E + A / size**alpha + B / data**beta


@pytest.mark.parametrize("U", [1e10, 1e11, 5e11])
def test_no_other_size_does_better_on_so_few_tokens(known, U):
    C = 1e24
    found = limited_data(known, unique_tokens=U, flops=C)

    x = np.linspace(np.log(1e9), np.log(1e13), 20001)
    losses = repeated_loss(np.exp(x), C, U)
    best = minimize_scalar(
        lambda v: repeated_loss(np.exp(v), C, U),
        bounds=(x[np.argmin(losses) - 1], x[np.argmin(losses) + 1]),
        method="bounded",
    )
    assert found.loss == pytest.approx(best.fun, rel=1e-6)
    assert found.n_params == pytest.approx(np.exp(best.x), rel=1e-2)
    assert found.figures["epochs"] == pytest.approx(found.n_tokens / U)
    assert found.figures["compute_wasted"] > 0
    assert "[literature: Muennighoff et al. 2023" in found.assumptions[-1]


@pytest.mark.parametrize(
    ("epochs", "worth", "marginal"),
    [(2, 0.984, 0.937), (4, 0.9314, 0.823), (8, 0.828, 0.635), (16, 0.661, 0.377)],
)
def test_repeats_are_worth_what_was_published(known, epochs, worth, marginal):
    def of(ln_U):
        return limited_data(known, unique_tokens=np.exp(ln_U), flops=1e24)

    ln_U = brentq(lambda x: of(x).figures["epochs"] - epochs, np.log(3e10), np.log(2e12))

    found = of(ln_U).figures
    assert found["worth_of_tokens"] == pytest.approx(worth, abs=6e-4)
    assert found["marginal_worth"] == pytest.approx(marginal, abs=6e-4)
    assert found["effective_tokens"] == pytest.approx(worth * epochs * np.exp(ln_U), rel=1e-3)


def test_enough_data_leave_the_optimum_as_it_is(known):
    N, D = optimum(1e24)

    found = limited_data(known, unique_tokens=D * 1.01, flops=1e24)

    assert (found.n_params, found.n_tokens) == pytest.approx((N, D), rel=1e-6)
    assert found.figures["epochs"] == 1
    assert found.figures["compute_wasted"] == 0
    assert found.figures["tokens_for_one_percent"] is None
    assert "are enough" in found.words


def test_just_too_few_data_hardly_change_it(known):
    N, D = optimum(1e24)

    found = limited_data(known, unique_tokens=D * 0.99, flops=1e24)

    assert found.n_params == pytest.approx(N, rel=0.02)
    assert found.loss == pytest.approx(loss_at(N, D), rel=1e-5)


def test_many_epochs_are_warned_of(known):
    few, many = (limited_data(known, unique_tokens=U, flops=1e24) for U in (1e12, 1e11))

    assert few.figures["epochs"] < 4
    assert not any("epochs" in w for w in few.warnings)
    assert any("beyond 4 repeats lose value" in w for w in many.warnings)


def test_one_percent_of_compute_buys_as_much_as_so_many_tokens(known):
    U = 1e11
    found = limited_data(known, unique_tokens=U, flops=1e24).figures

    more_data = limited_data(known, unique_tokens=U + found["tokens_for_one_percent"], flops=1e24)
    more_compute = limited_data(known, unique_tokens=U, flops=1.01e24)
    assert more_data.loss == pytest.approx(more_compute.loss, abs=1e-8)
    assert found["loss_with_compute"] == pytest.approx(more_compute.loss, abs=1e-9)
    assert found["flops_per_unique_token"] == pytest.approx(1e22 / found["tokens_for_one_percent"])
    assert found["loss_with_data"] is None


@pytest.mark.parametrize(("share", "better"), [(0.5, "data"), (2.0, "compute")])
def test_data_is_the_better_buy_below_the_break_even_price(known, share, better):
    per_flop = 1.4e-18
    figures = limited_data(known, unique_tokens=1e11, flops=1e24, dollars_per_flop=per_flop).figures
    price = share * figures["break_even_dollars_per_token"]

    found = limited_data(
        known, unique_tokens=1e11, flops=1e24, dollars_per_flop=per_flop, dollars_per_token=price
    )

    assert f"{better} is the better buy" in found.words
    cheaper = found.figures["loss_with_data"] < found.figures["loss_with_compute"]
    assert cheaper == (better == "data")


def test_its_intervals_are_those_of_a_search_in_every_replicate(uncertain, replicates):
    C, U = 3e20, 5e9
    N = np.geomspace(2e8, 5e9, 4000)
    best = [N[np.argmin(repeated_loss(N, C, U, **params))] for params in replicates]
    losses = [np.min(repeated_loss(N, C, U, **params)) for params in replicates]

    found = limited_data(uncertain, unique_tokens=U, flops=C)

    assert found.intervals["n_params"] == pytest.approx(middle(best), rel=2e-3)
    assert found.intervals["loss"] == pytest.approx(widened(uncertain, found, losses), rel=1e-6)
    assert found.intervals["epochs"] == pytest.approx(middle([C / 6 / n / U for n in best]), rel=2e-3)
    assert found.intervals["n_params"][0] < found.n_params < found.intervals["n_params"][1]


def test_a_fitted_law_of_repeats_is_used_for_them(known, truth):
    law = {**truth, "alpha": 0.36, "beta": 0.36, "R_N": 6.0, "R_D": 9.0}
    grid = np.meshgrid(np.geomspace(1e8, 1e10, 3), np.geomspace(1e9, 3e11, 3), [1.0, 6.0, 30.0])
    N, D, epochs = (v.ravel() for v in grid)
    L = Repeated().loss(law, N=N, D=D, U=D / epochs)
    runs = Observations.of(N, D, L, columns={"n_tokens_unique": D / epochs})
    found = replace(
        known,
        fits={**known.fits, "repeated": Repeated().fit(runs)},
        replicates={**known.replicates, "repeated": None},
    )

    choice = limited_data(found, unique_tokens=1e10, flops=1e23)

    assert choice.law == "repeated"
    worth = choice.figures["marginal_worth"]
    assert worth == pytest.approx(np.exp(-(choice.figures["epochs"] - 1) / 9), rel=0.02)
    assert "fitted to repeated runs" in choice.assumptions[-1]


def test_refuses_no_unique_tokens(known):
    with pytest.raises(PlanError, match="unique_tokens is 0"):
        limited_data(known, unique_tokens=0, flops=1e24)


# --- use ---


@pytest.mark.parametrize(
    ("N", "demand", "n_params", "n_tokens", "saved"),
    [(30e9, 5e12, 16.41e9, 3.26e12, 0.163), (70e9, 1e13, 41.55e9, 7.92e12, 0.119)],
)
def test_reproduces_the_published_models_sized_for_use(exact, sardana, N, demand, n_params, n_tokens, saved):
    D = (0.283 * 410.7 / (0.336 * 406.4 / N**0.336)) ** (1 / 0.283)

    found = inference_optimal(exact(sardana), demand=demand, flops=6 * N * D)

    assert found.n_params == pytest.approx(n_params, rel=0.005)
    assert found.n_tokens == pytest.approx(n_tokens, rel=0.005)
    assert found.figures["saved"] == pytest.approx(saved, abs=0.001)
    assert found.figures["optimal_n_params"] == pytest.approx(N, rel=1e-3)
    assert 150 < found.tokens_per_param < 210


def test_for_6_flops_a_parameter_it_is_the_closed_condition(known):
    params = known.fits["chinchilla"].params

    found, expected = inference_optimal(known, demand=3e12, loss=2.0), serve(params, 2.0, 3e12)

    assert found.n_params == pytest.approx(expected.n_params, rel=1e-9)
    assert found.n_tokens == pytest.approx(expected.n_tokens, rel=1e-9)
    assert found.figures["total_flops"] == pytest.approx(expected.flops, rel=1e-9)


def test_without_use_it_is_the_compute_optimal_model(known):
    N, D = optimum(1e24)

    found = inference_optimal(known, demand=0, flops=1e24)

    assert (found.n_params, found.n_tokens) == pytest.approx((N, D), rel=1e-5)
    assert found.figures["saved"] == pytest.approx(0, abs=1e-9)


def test_no_other_model_of_that_loss_is_cheaper_where_flops_are_not_6nd(attending):
    choice = inference_optimal(attending, demand=1e11, loss=2.4)

    def total(ln_N):
        N = np.exp(ln_N)
        D = (2100 / (2.4 - 1.8 - 480 / N**0.35)) ** (1 / 0.37)
        return (6 * N + 4e4 * np.sqrt(N)) * D + 2 * N * 1e11

    least = np.log((480 / 0.6) ** (1 / 0.35))
    best = minimize_scalar(total, bounds=(least * 1.0001, least + 9), method="bounded")
    assert choice.figures["total_flops"] == pytest.approx(best.fun, rel=1e-6)


def test_dear_use_makes_a_smaller_model_and_saves_dollars(known):
    def sized(mfu):
        prices = InferencePrices.of(
            dollars_per_device_hour=2.0, peak_flops_per_s=989e12, mfu_training=0.4, mfu_inference=mfu
        )
        return inference_optimal(known, demand=1e13, flops=1e24, prices=prices)

    alike, dear = sized(0.4), sized(0.1)

    plain = inference_optimal(known, demand=1e13, flops=1e24)
    assert alike.n_params == pytest.approx(plain.n_params, rel=1e-9)
    assert dear.n_params < alike.n_params
    paid = 2.0 / 3600 / 989e12
    assert dear.figures["total_dollars"] == pytest.approx(
        paid * (dear.flops / 0.4 + dear.figures["inference_flops"] / 0.1)
    )
    assert dear.figures["total_dollars"] < dear.figures["optimal_total_dollars"]


def test_a_total_is_spent_whole_and_buys_the_loss_that_it_costs(known):
    found = inference_optimal_within(known, demand=1e13, total=1e24)

    assert found.figures["total_flops"] == pytest.approx(1e24, rel=1e-6)
    again = inference_optimal(known, demand=1e13, loss=found.loss)
    assert again.figures["total_flops"] == pytest.approx(1e24, rel=1e-6)


def test_a_total_in_dollars_is_spent_whole(known):
    prices = InferencePrices(training=1.4e-18, inference=5.6e-18)

    found = inference_optimal_within(known, demand=1e13, total=1e6, prices=prices)

    assert found.figures["total_dollars"] == pytest.approx(1e6, rel=1e-6)


def test_without_use_a_total_is_a_training_budget(known):
    N, D = optimum(1e24)

    found = inference_optimal_within(known, demand=0, total=1e24)

    assert (found.n_params, found.n_tokens) == pytest.approx((N, D), rel=1e-5)


def test_the_interval_of_a_total_without_use_is_that_of_the_optimum(uncertain):
    best = uncertain.replicates["chinchilla"].optimum(3e20)

    found = inference_optimal_within(uncertain, demand=0, total=3e20)

    assert found.intervals["loss"] == pytest.approx(widened(uncertain, found, best.L), rel=1e-7)
    assert found.intervals["n_params"] == pytest.approx(middle(best.N), rel=1e-4)


def test_sized_for_use_in_every_replicate_it_has_these_intervals(uncertain, replicates):
    losses = [loss_at(*optimum(3e20, **params), **params) for params in replicates]
    each = [serve(params, loss, 1e10) for params, loss in zip(replicates, losses, strict=True)]

    found = inference_optimal(uncertain, demand=1e10, flops=3e20)

    assert found.intervals["loss"] == pytest.approx(widened(uncertain, found, losses), rel=1e-9)
    for key in ("n_params", "n_tokens", "tokens_per_param"):
        ends = middle([getattr(one, key) for one in each])
        assert found.intervals[key] == pytest.approx(ends, rel=1e-6), key
        assert ends[0] < getattr(found, key) < ends[1], key


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ({"demand": -1, "flops": 1e24}, "a demand of -1 tokens"),
        ({"demand": 1e12}, "both or neither"),
        ({"demand": 1e12, "flops": 1e24, "loss": 2.0}, "both or neither"),
        ({"demand": 1e12, "loss": 1.75}, r"not above the floor of the chinchilla law, 1\.8"),
    ],
)
def test_refuses_use_that_cannot_be(known, wanted, said):
    with pytest.raises(PlanError, match=said):
        inference_optimal(known, **wanted)


def test_refuses_a_total_that_trains_nothing(known):
    with pytest.raises(PlanError, match="give a larger total"):
        inference_optimal_within(known, demand=1e9, total=1e3)


def test_refuses_a_utilisation_above_one():
    with pytest.raises(PlanError, match="mfu_inference is 40"):
        InferencePrices.of(
            dollars_per_device_hour=2, peak_flops_per_s=1e15, mfu_training=0.4, mfu_inference=40
        )


def test_every_choice_is_strict_json(uncertain):
    choices = (
        evaluate(uncertain, n_params=1e9, n_tokens=2e10),
        for_loss(uncertain, loss=2.4),
        limited_data(uncertain, unique_tokens=5e9, flops=3e20),
        inference_optimal(uncertain, demand=1e11, flops=3e20),
    )

    for choice in choices:
        told = choice.to_json()
        assert json.loads(json.dumps(told, allow_nan=False)) == told
        assert told["tokens_per_param"] == pytest.approx(told["n_tokens"] / told["n_params"])


def test_a_limit_at_the_target_is_quoted_as_widely_as_the_forecast(usual):
    C, forecast = usual.forecast.flops, usual.forecast
    free = size_limit(usual, largest=1e15, flops=C)
    bound = size_limit(usual, largest=free.n_params / 3, flops=C)

    for found in (free, bound):
        ratio = found.loss / forecast.values["loss"]
        for low, high in forecast.sources("loss").values():
            assert found.intervals["loss"][0] <= low * ratio * (1 + 1e-9)
            assert found.intervals["loss"][1] >= high * ratio * (1 - 1e-9)
        assert found.quoted == ("loss",)
        assert not any("noise of the runs alone" in note for note in found.assumptions)
    assert bound.loss > free.loss
    assert free.loss == pytest.approx(forecast.values["loss"])


def test_intervals_of_noise_alone_are_named(usual):
    there = evaluate(usual, n_params=1e9, n_tokens=1e11)
    inverse = for_loss(usual, loss=2.3)

    assert there.quoted == inverse.quoted == ()
    assert any("the interval of loss;" in note for note in there.assumptions)
    assert any("the interval of flops, n_params, n_tokens;" in note for note in inverse.assumptions)
