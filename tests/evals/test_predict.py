"""Accuracy predicted by way of the loss: constants come back, and what cannot be known is said."""

import numpy as np
import pytest
from scipy.optimize import least_squares

from scalelab.errors import ConfigError, DataError, FitError
from scalelab.evals.predict.model_table import read_table
from scalelab.evals.predict.prediction import (
    PredictabilityCriteria,
    PredictionTarget,
    hold_out,
    predict,
    predict_all,
)
from scalelab.evals.predict.recipes import rank_recipes
from scalelab.evals.predict.two_step import coordinates, fit, refit
from scalelab.laws.solver import evaluate, search

CHANCE = 0.25
LOSS = {"E": 0.6, "K": 0.5, "gamma": 0.18}
CURVE = {"top": 0.95, "k": 6.0, "L0": 1.0}
SIZE = {"E": 0.5, "A": 0.4, "B": 0.3, "alpha": 0.3, "beta": 0.25}
FAR = 1e22


def loss_at(flops):
    return LOSS["E"] + LOSS["K"] * (np.asarray(flops) / 1e19) ** -LOSS["gamma"]


def accuracy_at(loss):
    return CHANCE + (CURVE["top"] - CHANCE) / (1 + np.exp(CURVE["k"] * (loss - CURVE["L0"])))


def ladder(n=9, *, noise=0.0, seed=0, task="t", accuracy=accuracy_at, **columns):
    """Models from 1e17 to 1e21 FLOPs; noise of the loss as a share, of the accuracy in units."""
    rng = np.random.default_rng(seed)
    flops = np.logspace(17, 21, n)
    n_params = np.sqrt(flops / 120)
    loss = loss_at(flops)
    seen = loss * (1 + noise / 4 * rng.standard_normal(n))
    score = np.clip(accuracy(loss) + noise * rng.standard_normal(n), 0, 1)
    return [
        {
            "task": task,
            "flops": f,
            "n_params": p,
            "n_tokens": 20 * p,
            "task_loss": x,
            "accuracy": a,
            **columns,
        }
        for f, p, x, a in zip(flops, n_params, seen, score, strict=True)
    ]


def grid():
    """Sizes times tokens, with a loss that depends on both."""
    rows = []
    for p in np.logspace(7, 9, 4):
        for d in np.logspace(9, 11, 4):
            loss = SIZE["E"] + SIZE["A"] * (p / 1e8) ** -SIZE["alpha"]
            loss += SIZE["B"] * (d / 1e10) ** -SIZE["beta"]
            rows.append(
                {
                    "task": "t",
                    "flops": 6 * p * d,
                    "n_params": p,
                    "n_tokens": d,
                    "task_loss": loss,
                    "accuracy": accuracy_at(loss),
                }
            )
    return rows


def test_the_constants_that_made_the_models_come_back():
    chain = fit(read_table(ladder(), "t"), "compute", CHANCE)

    E, log_K, gamma = chain.theta1[0]
    b, top, log_k, L0 = chain.theta2[0]
    C0 = np.exp(chain.step1.centre[0])
    assert (E, gamma) == pytest.approx((LOSS["E"], LOSS["gamma"]), rel=1e-4)
    assert np.exp(log_K) == pytest.approx(LOSS["K"] * (C0 / 1e19) ** -gamma, rel=1e-4)
    assert (b, top) == pytest.approx((CHANCE, CURVE["top"]), abs=1e-4)
    assert (np.exp(log_k), L0) == pytest.approx((CURVE["k"], CURVE["L0"]), rel=1e-4)
    assert chain.solver1.agreement > 0.5
    assert chain.solver2.agreement > 0.5


def test_the_constants_of_size_and_tokens_come_back():
    chain = fit(read_table(grid(), "t"), "size", CHANCE)

    E, _, _, alpha, beta = chain.theta1[0]
    assert (E, alpha, beta) == pytest.approx((SIZE["E"], SIZE["alpha"], SIZE["beta"]), rel=1e-3)


def test_no_search_of_scipys_ends_lower():
    """Both steps on noisy models, against least_squares from many places."""
    table = read_table(ladder(noise=0.02, seed=5), "t")
    chain = fit(table, "compute", CHANCE)
    rng = np.random.default_rng(1)

    for surface, theta in ((chain.step1, chain.theta1), (chain.step2, chain.theta2)):

        def misses(at, surface=surface):
            return (surface.at(at[None])[0][0] - surface.target) / surface.delta

        ours = np.sum(misses(theta[0]) ** 2)
        room = surface.high - surface.low
        for _ in range(10):
            start = np.clip(
                theta[0] + 0.3 * room * rng.uniform(-1, 1, len(room)),
                surface.low + 1e-6 * room,
                surface.high - 1e-6 * room,
            )
            theirs = least_squares(misses, start, bounds=(surface.low, surface.high + 1e-12))
            assert ours <= 2 * theirs.cost * (1 + 1e-6) + 1e-12


def test_slopes_are_the_derivatives():
    chain = fit(read_table(grid(), "t"), "size", CHANCE)

    for surface, theta in ((chain.step1, chain.theta1), (chain.step2, chain.theta2)):
        theta = theta + 0.05
        slope = surface.at(theta)[1][0]
        for j in range(theta.shape[1]):
            up, down = theta.copy(), theta.copy()
            up[0, j] += 1e-6
            down[0, j] -= 1e-6
            expected = (surface.at(up)[0] - surface.at(down)[0])[0] / 2e-6
            assert slope[j] == pytest.approx(expected, abs=1e-6)


def test_extrapolates_a_smooth_task_tenfold():
    found = predict(ladder(noise=0.005), "t", PredictionTarget(FAR), chance=CHANCE)

    truth = float(accuracy_at(loss_at(FAR)))
    assert found.is_predictable, found.text
    assert found.accuracy == pytest.approx(truth, abs=0.02)
    assert found.loss == pytest.approx(float(loss_at(FAR)), rel=0.03)
    assert (found.status, found.reach) == ("extrapolated", pytest.approx(10))
    assert found.mean_error < found.carried_error


def test_between_the_models_a_prediction_is_fitted():
    assert predict(ladder(), "t", PredictionTarget(1e19), chance=CHANCE, replicates=4).status == "fitted"
    beyond = PredictionTarget(1e19, n_params=1e8, n_tokens=1e12)
    found = predict(grid(), "t", beyond, chance=CHANCE, form="size", replicates=4)
    assert found.status == "extrapolated"


def test_size_and_tokens_predict_an_overtrained_model():
    found = predict(grid(), "t", PredictionTarget(6e20, 1e8, 1e12), chance=CHANCE, form="size", replicates=4)

    expected = SIZE["E"] + SIZE["A"] + SIZE["B"] * 100 ** -SIZE["beta"]
    assert found.loss == pytest.approx(expected, rel=1e-3)
    assert found.accuracy == pytest.approx(float(accuracy_at(expected)), abs=1e-3)


def test_intervals_cover_the_truth():
    truth, x = float(accuracy_at(loss_at(FAR))), np.log([[FAR]])
    covers = []
    for seed in range(25):
        table = read_table(ladder(16, noise=0.01, seed=seed), "t")
        counts = np.random.default_rng(seed).multinomial(16, np.full(16, 1 / 16), 100)
        drawn = refit(fit(table, "compute", CHANCE), counts.astype(float)).accuracy(x)
        low, high = np.percentile(drawn, (2.5, 97.5))
        covers.append(low <= truth <= high)

    assert np.mean(covers) >= 0.8  # percentile intervals of 16 models are a little narrow


def test_a_replicate_keeps_the_best_of_its_searches():
    """On models without order, searches of one replicate end in different places."""
    anything = np.random.default_rng(1).uniform(0.3, 0.9, 9)
    chain = fit(read_table(ladder(accuracy=lambda loss: anything), "t"), "compute", CHANCE)
    counts = np.random.default_rng(0).multinomial(9, np.full(9, 1 / 9), 30).astype(float)

    drawn = refit(chain, counts)

    start = np.tile(chain.theta2, (30, 1))
    kept = evaluate(chain.step2, drawn.theta2, counts).objective
    alone = search(chain.step2, start, lambda i, j: counts[i:j]).objective
    assert (kept <= alone * (1 + 1e-9) + 1e-12).all()
    assert (kept < alone * 0.99 - 1e-9).any()


def test_a_task_at_chance_is_flagged():
    rows = ladder(noise=0.01, accuracy=lambda loss: np.full(len(loss), CHANCE), n_items=1800)

    found = predict(rows, "t", PredictionTarget(FAR), chance=CHANCE, replicates=20)

    assert not found.is_predictable
    assert any("above chance" in reason for reason in found.reasons)
    assert "not predictable" in found.text


def test_a_step_that_is_yet_to_come_is_flagged():
    """Accuracy leaps at a loss that no model of the table has reached."""
    leap = loss_at(3e21)
    late = lambda loss: np.where(np.asarray(loss) < leap, 0.9, CHANCE)  # noqa: E731
    rows = ladder(noise=0.004, accuracy=late)

    found = predict(rows, "t", PredictionTarget(FAR), chance=CHANCE, replicates=20)

    assert float(late(loss_at(FAR))) == 0.9
    assert found.accuracy < 0.5  # the fit cannot know
    assert not found.is_predictable
    assert any("a rise that is yet to come cannot be seen" in reason for reason in found.reasons)


def test_a_leap_that_larger_models_showed_is_flagged_by_the_hold_out():
    late = lambda loss: np.where(loss < loss_at(3e20), 0.9, CHANCE)  # noqa: E731

    found = predict(
        ladder(noise=0.004, accuracy=late), "t", PredictionTarget(FAR), chance=CHANCE, replicates=20
    )

    assert any("the mean error on held-out models" in reason for reason in found.reasons)


def test_accuracy_that_does_not_follow_the_loss_is_flagged():
    rng = np.random.default_rng(0)
    rows = [row | {"accuracy": float(a)} for row, a in zip(ladder(), rng.uniform(0.4, 0.9, 9), strict=True)]

    reasons = " ".join(predict(rows, "t", PredictionTarget(FAR), chance=CHANCE, replicates=20).reasons)

    assert "accuracy does not follow the loss" in reasons
    assert "of the variance of accuracy over" in reasons


def test_accuracy_that_never_moves_is_flagged():
    rows = [row | {"accuracy": 0.6} for row in ladder()]

    found = predict(rows, "t", PredictionTarget(FAR), chance=CHANCE, replicates=20)

    assert any("accuracy does not follow the loss" in reason for reason in found.reasons)
    assert np.isnan(found.unexplained)


def test_too_few_models_to_hold_any_out_is_a_reason():
    found = predict(ladder(4), "t", PredictionTarget(FAR), chance=CHANCE, replicates=50)

    assert found.held_out == ()
    assert found.mean_error is None
    assert any("no larger model could be held out" in reason for reason in found.reasons)


def test_criteria_are_the_users_own():
    rows = ladder(noise=0.01, seed=2)
    strict = PredictabilityCriteria(points=0.01)

    assert predict(rows, "t", PredictionTarget(FAR), chance=CHANCE, replicates=4).is_predictable
    found = predict(rows, "t", PredictionTarget(FAR), chance=CHANCE, criteria=strict, replicates=4)
    assert "more than 0.01" in " ".join(found.reasons)


def test_the_noise_of_few_items_asks_for_more_signal():
    """20 points above chance are enough on 1000 items, and not on 10."""
    weak = lambda loss: CHANCE + 0.4 * (accuracy_at(loss) - CHANCE)  # noqa: E731
    many, few = (
        predict(ladder(accuracy=weak, n_items=n), "t", PredictionTarget(FAR), chance=CHANCE, replicates=4)
        for n in (1000, 10)
    )

    assert many.is_predictable, many.text
    assert any("standard errors" in reason for reason in few.reasons)


def test_the_floor_is_never_above_chance():
    rows = ladder(accuracy=lambda loss: 0.5 + 0.4 / (1 + np.exp(9 * (loss - 1))))

    chain = fit(read_table(rows, "t"), "compute", CHANCE)

    assert chain.theta2[0][0] <= CHANCE
    assert chain.theta2[0][1] <= 1


def test_few_models_hold_the_ends_of_the_curve():
    chain = fit(read_table(ladder(5), "t"), "compute", CHANCE)

    assert chain.theta2[0][:2].tolist() == [CHANCE, 1.0]


def test_held_out_models_are_predicted_from_smaller_ones_alone():
    rows = ladder()
    poisoned = [*rows[:-1], rows[-1] | {"accuracy": 0.0, "task_loss": 3.0}]

    clean, dirty = (hold_out(read_table(r, "t"), "compute", CHANCE) for r in (rows, poisoned))

    assert [h.n_trained for h in clean] == list(range(4, 9))
    assert clean[-1].predicted == dirty[-1].predicted
    assert all(h.flops > h.trained_to and h.reach == h.flops / h.trained_to for h in clean)
    assert clean[-1].carried == rows[-2]["accuracy"]
    assert dirty[-1].error == pytest.approx(100 * dirty[-1].predicted)


def test_models_of_equal_compute_are_held_out_together():
    rows = ladder(8) + ladder(8, noise=0.01)

    found = hold_out(read_table(rows, "t"), "compute", CHANCE)

    assert [h.n_trained for h in found] == [6, 6, 8, 8, 10, 10, 12, 12, 14, 14]


def test_baseline_and_status_stand_beside_every_prediction():
    text = predict(ladder(noise=0.01), "t", PredictionTarget(FAR), chance=CHANCE, replicates=20).text

    for part in (
        "carried forward",
        "measured",
        "extrapolated",
        "chance 0.250",
        "mean error",
        "starts that agree",
        "10x the largest of 9 models",
    ):
        assert part in text


def test_replicates_with_too_few_models_are_counted():
    found = predict(ladder(4), "t", PredictionTarget(FAR), chance=CHANCE, replicates=200)

    assert 0 < found.failed < 100
    assert f"from {200 - found.failed} of 200 replicates" in found.text


def test_every_task_is_predicted_in_its_order():
    rows = ladder(task="b") + ladder(task="a")

    found = predict_all(rows, PredictionTarget(FAR), chance={"a": CHANCE, "b": CHANCE}, replicates=4)

    assert [each.task for each in found] == ["b", "a"]
    with pytest.raises(ConfigError, match="the chance level of a"):
        predict_all(rows, PredictionTarget(FAR), chance={"b": CHANCE})


def recipe(name, shift, *, n=6):
    """Models whose loss is shifted: a better or a worse recipe."""
    rows = ladder(n, accuracy=lambda loss: accuracy_at(loss + shift), recipe=name)
    return [row | {"task_loss": row["task_loss"] + shift} for row in rows]


def test_one_scale_and_two_steps_order_clean_recipes():
    rows = [row for i in range(5) for row in recipe(f"r{i}", 0.05 * i)]

    found = rank_recipes(rows, "t", chance=CHANCE)

    assert (found.by_accuracy, found.by_loss, found.by_two_steps) == (1, 1, 1)
    assert (found.n_pairs, found.n_tied) == (10, 0)
    assert found.small < found.large
    assert "two-step prediction 100% extrapolated" in found.text


def test_crossing_recipes_are_ordered_wrongly_by_one_scale():
    """At the small scale the order is the reverse of the large one."""
    rows = recipe("a", 0.0, n=3) + recipe("b", 0.2, n=3)
    rows[-1] |= {"accuracy": 0.99}

    found = rank_recipes(rows, "t", chance=CHANCE)

    assert (found.by_accuracy, found.by_loss, found.by_two_steps) == (0, 0, None)
    assert "a has 2 smaller models" in found.text


def test_a_tie_at_the_small_scale_is_half_right_and_at_the_large_one_left_out():
    rows = [row for i in range(3) for row in recipe(f"r{i}", 0.1 * i, n=3)]
    for i in (1, 4):
        rows[i] |= {"accuracy": 0.3}
    rows[7] |= {"accuracy": 0.2}
    rows[8] |= {"accuracy": rows[5]["accuracy"]}

    found = rank_recipes(rows, "t", chance=CHANCE)

    assert (found.n_pairs, found.n_tied) == (2, 1)
    assert found.by_accuracy == (0.5 + 1) / 2
    assert "1 pairs tied and left out" in found.text


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (recipe("a", 0.0), "1 recipe: nothing to choose between"),
        (recipe("a", 0.0, n=4) + recipe("b", 0.1, n=5), r"share 2 scale|share 1 scale"),
        (recipe("a", 0.0) + recipe("b", 0.0), "all recipes score alike"),
        (ladder(), "recipe is None, not a name"),
    ],
)
def test_recipes_that_cannot_be_compared_are_refused(rows, says):
    if "share" in says:
        rows = [r for r in rows if r["recipe"] == "a" or r["flops"] in (1e17,)]
    with pytest.raises(DataError, match=says):
        rank_recipes(rows, "t", chance=CHANCE)


@pytest.mark.parametrize("name", ["flops", "n_params", "n_tokens", "task_loss", "accuracy"])
@pytest.mark.parametrize("hole", [None, float("nan"), "absent"])
def test_a_missing_metric_is_refused_and_never_filled_in(name, hole):
    rows = ladder()
    rows[3] = {k: v for k, v in rows[3].items() if k != name}
    if hole != "absent":
        rows[3][name] = hole

    with pytest.raises(DataError, match=f"{name} is missing") as caught:
        predict(rows, "t", PredictionTarget(FAR), chance=CHANCE)

    assert caught.value.where == "row 3 of the table, task t"
    assert "missing values are not imputed" in caught.value.fix


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"accuracy": 61.0}, "accuracy is 61"),
        ({"accuracy": -0.1}, "accuracy is -0.1"),
        ({"task_loss": 0.0}, "task_loss is 0"),
        ({"flops": float("inf")}, "flops is inf"),
        ({"n_params": "1e8"}, "n_params is '1e8', not a number"),
        ({"task": None}, "task is None, not a name"),
        ({"accuracy_se": -1.0}, "accuracy_se is -1"),
        ({"n_items": 0}, "n_items is 0"),
    ],
)
def test_a_value_that_cannot_be_is_refused(change, says):
    rows = ladder()
    rows[2] = rows[2] | change

    with pytest.raises(DataError, match=says):
        predict(rows, "t", PredictionTarget(FAR), chance=CHANCE)


def test_an_unknown_task_is_refused_with_the_closest():
    with pytest.raises(DataError, match="did you mean 'hellaswag'"):
        predict(ladder(task="hellaswag"), "helaswag", PredictionTarget(FAR), chance=CHANCE)


def test_three_models_are_too_few():
    with pytest.raises(FitError, match="3 models cannot show") as caught:
        predict(ladder(3), "t", PredictionTarget(FAR), chance=CHANCE)

    assert "at least 4 models" in caught.value.fix


def test_five_models_are_too_few_for_size_and_tokens():
    with pytest.raises(FitError, match="5 models cannot show"):
        predict(ladder(5), "t", PredictionTarget(FAR, 1e9, 1e11), chance=CHANCE, form="size")


def test_models_of_one_compute_show_no_slope():
    rows = [row | {"flops": 1e18 * (1 + i / 100)} for i, row in enumerate(ladder())]

    with pytest.raises(FitError, match=r"flops spans only 1.08x"):
        predict(rows, "t", PredictionTarget(FAR), chance=CHANCE)


def test_two_amounts_of_compute_show_no_floor():
    rows = [row | {"flops": (1e18, 1e19)[i % 2]} for i, row in enumerate(ladder())]

    with pytest.raises(FitError, match="flops has 2 values"):
        predict(rows, "t", PredictionTarget(FAR), chance=CHANCE)


def test_models_of_several_recipes_are_refused():
    rows = recipe("a", 0.0) + recipe("b", 0.1)

    with pytest.raises(DataError, match="of 2 recipes"):
        predict(rows, "t", PredictionTarget(FAR), chance=CHANCE)


@pytest.mark.parametrize(
    ("target", "settings", "says"),
    [
        (PredictionTarget(FAR), {"form": "size"}, "does not say its n_params and n_tokens"),
        (PredictionTarget(-1.0), {}, "does not say its flops"),
        (PredictionTarget(FAR), {"chance": 1.0}, "chance is 1"),
        (PredictionTarget(FAR), {"chance": -0.1}, "chance is -0.1"),
    ],
)
def test_a_question_that_makes_no_sense_is_refused(target, settings, says):
    with pytest.raises(ConfigError, match=says):
        predict(ladder(), "t", target, **({"chance": CHANCE} | settings))


def test_coordinates_are_logarithms():
    x = coordinates("size", np.array([1.0]), np.array([np.e]), np.array([np.e**2]))

    assert x.tolist() == [[1.0], [2.0]]
