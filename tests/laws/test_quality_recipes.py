"""A sweep of a setting is no repetition: the best of each size and tokens is fitted, never the mean."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from scalelab.laws import columns
from scalelab.laws.isoflop.law import IsoFlopLaw
from scalelab.laws.observations import Observations
from scalelab.records import column_names
from scalelab.records.column_names import meaning_of
from scalelab.study.forecast import SeedNoise
from scalelab.study.from_table import observations
from scalelab.study.quality.control import quality_control
from scalelab.study.study import study

BUDGETS = (1e18, 1e19, 1e20, 1e21)


@pytest.fixture
def tuned(family):
    """One run of each size, trained at its best rate."""
    return family(budgets=BUDGETS, noise=0.001, seed=1)


def sweep(runs, rates=(3e-4, 1e-3, 3e-3), best=1e-3, cost=0.02, name="learning_rate", words=None):
    """Every run at several rates; a decade beside the best one costs so much of the loss."""
    k = len(rates)
    L = np.repeat(runs.L, k) * (1 + cost * np.tile(np.log(np.array(rates) / best) ** 2, len(runs)))
    setting = np.tile(np.array(rates if words is None else words), len(runs))
    again = {key: np.repeat(getattr(runs, key), k) for key in ("N", "D", "flops_planned")}
    return Observations.of(again["N"], again["D"], L, flops_planned=again["flops_planned"]), {name: setting}


def swept(runs, **settings):
    found, recipe = sweep(runs, **settings)
    return replace(found, recipe=recipe)


def optimum(runs):
    return IsoFlopLaw().fit(runs).optimum(1e22)


def findings(runs, code):
    return [f for f in quality_control(runs)[1] if f.code == code]


def test_the_best_rate_of_each_size_is_fitted(tuned):
    runs = swept(tuned)

    kept, _ = quality_control(runs)
    (found,) = findings(runs, "recipe")

    assert list(kept.L) == list(tuned.L)
    assert found.excluded
    assert len(found.runs) == len(runs) - len(tuned)
    assert "another learning_rate was better" in found.reason
    assert "28 of 28 tried up to 3 recipes" in found.reason
    assert SeedNoise.of(kept) is None
    assert float(np.ravel(optimum(kept).L)[0]) == pytest.approx(float(np.ravel(optimum(tuned).L)[0]))


@pytest.mark.parametrize("name", ["batch_size", "weight_decay", "width", "warmup"])
def test_every_setting_of_the_recipe_belongs_to_a_cell(tuned, name):
    assert len(quality_control(swept(tuned, name=name))[0]) == len(tuned)


def test_words_belong_to_a_cell_and_have_no_end(tuned):
    runs = swept(tuned, name="schedule", words=["linear", "cosine", "wsd"])

    assert len(quality_control(runs)[0]) == len(tuned)
    assert not findings(runs, "recipe at an end")


def test_two_rates_of_equal_loss_are_no_run_written_twice(tuned):
    assert not findings(swept(tuned, cost=0.0), "duplicate")


def test_repeats_of_the_best_rate_all_stay(family):
    twice = family(budgets=BUDGETS, noise=0.001, seed=1, seeds=2)
    runs = replace(swept(twice), seed=np.repeat(twice.seed, 3))

    kept, _ = quality_control(runs)

    assert list(kept.L) == list(twice.L)
    assert SeedNoise.of(kept).dof == len(twice) // 2


def test_a_best_rate_at_an_end_is_doubtful(tuned):
    (found,) = findings(swept(tuned, best=3e-3), "recipe at an end")

    assert found.grave
    assert len(found.runs) == len(tuned)
    assert "0.003, the largest, at" in found.reason
    assert "for 28 of 28 sizes" in found.reason


def test_a_rate_by_rule_leaves_out_nothing(tuned):
    runs = replace(tuned, recipe={"learning_rate": tuned.N**-0.3, "batch_size": np.round(tuned.C**0.3)})

    kept, found = quality_control(runs)

    assert len(kept) == len(runs)
    assert found == ()


def test_a_few_tuned_sizes_leave_the_others_in(tuned):
    runs = swept(tuned)
    one = runs.take((np.arange(len(runs)) % 3 == 1) | (np.arange(len(runs)) < 9))

    kept, _ = quality_control(one)
    (found,) = findings(one, "recipe")

    assert len(kept) == len(tuned)
    assert "3 of 28 tried up to 3 recipes; the other 25 tried one" in found.reason


def test_whole_steps_of_another_batch_are_the_same_tokens(tuned):
    runs = swept(tuned, name="batch_size")
    steps = np.tile([1, 1.004, 0.998], len(tuned))
    runs = replace(runs, D=runs.D * steps, C=runs.C * steps)

    assert len(quality_control(runs)[0]) == len(tuned)


def test_columns_of_a_table_come_along_as_recipe(tuned):
    table = pd.DataFrame(
        {
            "n_params": tuned.N,
            "n_tokens": tuned.D,
            "loss": tuned.L,
            "learning_rate": 1e-3,
            "optimizer": "adam",
        }
    )
    table.loc[0, "optimizer"] = None

    runs = observations(table, "6ND", ("isoflop",))

    assert set(runs.recipe) == {"learning_rate", "optimizer"}
    assert runs.recipe["learning_rate"].dtype == float
    assert list(runs.recipe["optimizer"][:2]) == ["", "adam"]


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        ([1, None, 3], [1, np.nan, 3]),
        (["3e-4", "1e-3", None], [3e-4, 1e-3, np.nan]),
        (pd.array([1, None, 3], dtype="Int64"), [1, np.nan, 3]),
        (pd.array(["a", None, "b"], dtype="string"), ["a", "", "b"]),
        ([1, "cosine", None], ["1", "cosine", ""]),
        ([10**400, 1, 2], [str(10**400), "1", "2"]),
        ([True, False, True], [1, 0, 1]),
        (pd.to_datetime(["2024-01-01", None, "2024-01-02"]), None),
        ([[1], {"a": 1}, None], ["[1]", "{'a': 1}", ""]),
    ],
)
def test_any_cell_of_a_recipe_is_a_number_or_a_word(cells, expected):
    table = pd.DataFrame({"n_params": 1e8, "n_tokens": 2e9, "loss": [3.0, 3.1, 3.2], "schedule": cells})

    found = observations(table, "6ND", ("chinchilla",))

    if expected is not None:
        np.testing.assert_array_equal(found.recipe["schedule"], np.array(expected))
    assert len(quality_control(found)[0])


def test_repeats_that_no_column_explains_are_no_seed_noise(tuned):
    """Rates without their column: the mean is 4% too high, and nothing may be relied on."""
    bare, _ = sweep(tuned, cost=0.05)

    (found,) = findings(bare, "unexplained repeats")
    seen = study(bare, target_flops=1e22, param_count="total", replicates=0)

    assert found.disqualifying
    assert "more than the 0.5% that a seed explains: which setting differs?" in found.reason
    assert seen.seed_noise is None
    assert seen.verdict.grade == "do not rely"
    assert found.reason in seen.verdict.reasons


def test_repeats_as_close_as_seeds_are_seed_noise(family):
    runs = family(budgets=BUDGETS, noise=0.004, seed=2, seeds=3)
    bare = replace(runs, seed=np.zeros(len(runs), int))

    assert not findings(bare, "unexplained repeats")
    assert len(findings(bare, "repeat")) == 1


def test_one_diverged_repeat_does_not_make_the_others_doubtful(family):
    runs = family(budgets=BUDGETS, noise=0.002, seed=2, seeds=2)
    L = np.where(np.arange(len(runs)) == 11, 2, 1) * runs.L

    assert not findings(replace(runs, L=L, seed=np.zeros(len(runs), int)), "unexplained repeats")
    assert not findings(replace(runs, L=L), "noisy seeds")


def test_seeds_that_differ_by_percents_are_doubtful(family):
    noisy = family(budgets=BUDGETS, noise=0.04, seed=2, seeds=3)

    (found,) = findings(noisy, "noisy seeds")

    assert found.grave
    assert not found.disqualifying


def test_settings_that_a_fit_compares_are_read_from_tables():
    """Two lists, as records may not import laws; a setting in one of them only would be averaged."""
    assert set(columns.RECIPE) <= set(column_names.RECIPE)
    assert meaning_of("config/warmup_steps").ours == "warmup"
