"""Cells with enough learning rates and batches are fitted at the lowest point of their surface."""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from scalelab.laws.observations import Observations
from scalelab.study.quality.control import quality_control
from scalelab.study.quality.tuning import tuned_cells
from scalelab.study.study import study

SHARED = Path(__file__).parents[2].parent / "shared" / "data"
BUDGETS = (1e18, 1e19, 1e20, 1e21)


def swept(runs, rates, batches=(1.0,), centre=1.0, noise=0.0, seed=0):
    """Every run at rates x batches around 1e-3 and 64; a factor e beside the best costs 1%."""
    lr, batch = (v.ravel() for v in np.meshgrid(rates, batches))
    k, n = len(lr), len(runs)
    cost = 0.01 * np.log(lr / centre) ** 2 + 0.01 * np.log(batch) ** 2
    L = np.repeat(runs.L, k) * np.exp(
        np.tile(cost, n) + noise * np.random.default_rng(seed).standard_normal(k * n)
    )
    again = {key: np.repeat(getattr(runs, key), k) for key in ("N", "D", "flops_planned")}
    recipe = {"learning_rate": 1e-3 * np.tile(lr, n), "batch_size": 64 * np.tile(batch, n)}
    return replace(
        Observations.of(again["N"], again["D"], L, flops_planned=again["flops_planned"]), recipe=recipe
    )


def of_code(found, code):
    return [f for f in found if f.code == code]


def test_the_lowest_point_is_fitted_even_between_the_rates_tried(family):
    tuned = family(budgets=BUDGETS)
    runs = swept(tuned, np.geomspace(0.2, 6, 9), centre=1.13)

    kept, found = quality_control(runs)

    (finding,) = of_code(found, "response")
    np.testing.assert_allclose(kept.L, tuned.L, rtol=1e-6)
    assert finding.excluded
    assert len(finding.runs) == len(runs) - len(tuned)
    assert (
        "28 of 28 sizes and tokens is the lowest point of a surface fitted over learning_rate (9 to 9 runs"
        in finding.reason
    )
    assert not of_code(found, "recipe")


def test_the_loss_of_a_cell_does_not_depend_on_how_many_settings_were_tried(family):
    tuned = family(budgets=BUDGETS)

    for rates, batches in ((6, 6), (12, 10)):
        settings = np.geomspace(0.15, 5, rates), np.geomspace(0.2, 6, batches)
        kept = [tuned_cells(swept(tuned, *settings, noise=0.002, seed=seed))[0] for seed in range(3)]
        assert abs(np.mean([np.log(each.L / tuned.L) for each in kept])) < 6e-4


def test_few_settings_keep_the_best_run_as_before(family):
    tuned = family(budgets=BUDGETS)
    runs = swept(tuned, (0.3, 1.0, 3.0))

    kept, found = quality_control(runs)

    assert not of_code(found, "response")
    assert of_code(found, "recipe")
    np.testing.assert_allclose(kept.L, tuned.L)


def test_cells_with_and_without_a_surface_are_both_counted(family):
    tuned = family(budgets=BUDGETS)
    runs = swept(tuned, np.geomspace(0.2, 6, 9))
    thin = (runs.flops_planned == BUDGETS[0]) & (np.arange(len(runs)) % 3 > 0)

    kept, found = quality_control(runs.take(~thin))

    (surface,), (recipe,) = of_code(found, "response"), of_code(found, "recipe")
    assert len(kept) == len(tuned)
    assert "21 of 28 sizes" in surface.reason
    assert "the other 7 keep their best run" in surface.reason
    assert "7 of 7 tried up to 3 recipes" in recipe.reason


def test_best_rates_at_an_end_keep_the_best_run_and_are_reported(family):
    runs = swept(family(budgets=BUDGETS), np.geomspace(0.2, 6, 9), centre=20.0)

    _, found = quality_control(runs)

    assert not of_code(found, "response")
    assert of_code(found, "recipe at an end")


def test_another_setting_that_differs_within_a_cell_makes_no_surface(family):
    runs = swept(family(budgets=BUDGETS), np.geomspace(0.2, 6, 9))
    words = np.where(np.arange(len(runs)) % 2, "cosine", "linear")

    _, found, tuned = tuned_cells(replace(runs, recipe=dict(runs.recipe) | {"schedule": words}))

    assert found == ()
    assert not tuned.any()


def test_a_study_of_a_sweep_of_rates_forecasts_as_one_of_tuned_runs(family):
    tuned = family(budgets=BUDGETS, noise=0.001, seed=1)
    settings = {"target_flops": 1e22, "param_count": "total", "replicates": 0}

    seen = study(swept(tuned, np.geomspace(0.2, 6, 9)), **settings)

    alone = study(tuned, **settings)
    assert seen.forecast.values["loss"] == pytest.approx(alone.forecast.values["loss"], rel=1e-4)


def test_the_public_cells_all_have_a_surface():
    """Li et al. 2025: 42 pairs of N and D with 34 to 120 runs each."""
    path = SHARED / "steplaw2025_lr_batch.csv"
    if not path.exists():
        pytest.skip("the public points are not beside the repository")
    with open(path, encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    N, D, L, lr, batch = (
        np.array([float(row[k]) for row in rows])
        for k in ("n_params", "n_tokens", "loss", "lr", "batch_sequences")
    )
    runs = replace(Observations.of(N, D, L), recipe={"learning_rate": lr, "batch_size": batch})

    kept, found = quality_control(runs)

    (finding,) = of_code(found, "response")
    assert len(kept) == 42
    assert "42 of 42 sizes and tokens" in finding.reason
    assert "34 to 120 runs each" in finding.reason
