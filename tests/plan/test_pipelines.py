"""The old way beside the new: closed forms, and refusals."""

import pytest

from scalelab.errors import PlanError
from scalelab.plan.cost.pipelines import pipelines


def test_what_each_way_leaves():
    found = pipelines(3e20, sweep_flops=1e20, trials=10, trial_share=0.05)

    assert found.old_final_flops == pytest.approx(2e20)
    assert found.new_final_flops == pytest.approx(2e20)
    assert found.ratio == pytest.approx(1)


@pytest.mark.parametrize(("trials", "share"), [(1, 0.1), (12, 0.05), (100, 1.0)])
def test_nothing_of_the_total_is_lost(trials, share):
    found = pipelines(1e21, sweep_flops=1e19, trials=trials, trial_share=share)

    tuned = trials * share * found.old_final_flops
    assert found.old_tuning_flops == pytest.approx(tuned)
    assert tuned + found.old_final_flops == pytest.approx(1e21)
    assert found.new_final_flops + found.sweep_flops == pytest.approx(1e21)


def test_without_trials_and_sweep_both_spend_all_of_it():
    found = pipelines(1e21, sweep_flops=0, trials=0, trial_share=0.1)

    assert (found.old_final_flops, found.new_final_flops) == (1e21, 1e21)


def test_it_says_that_it_is_assumed():
    found = pipelines(1e21, sweep_flops=1e20, trials=10, trial_share=0.1)

    assert found.words == (
        "of 1e21 FLOPs in total, tuning the large model with 10 trials of 10% of its length leaves "
        "5e20 for the final run and the sweep of 1e20 leaves 9e20, 1.8x as much [assumed]"
    )
    assert found.to_json()["status"] == "assumed"


@pytest.mark.parametrize(
    "settings",
    [
        {"total_flops": 0},
        {"sweep_flops": -1},
        {"trials": -1},
        {"trials": 2.5},
        {"trial_share": 0},
        {"trial_share": 1.5},
    ],
)
def test_refuses_what_cannot_be(settings):
    name, value = next(iter(settings.items()))
    said = {"total_flops": 1e21, "sweep_flops": 1e19, "trials": 5, "trial_share": 0.1} | settings

    with pytest.raises(PlanError, match=f"{name} is {value}"):
        pipelines(**said)


def test_refuses_a_sweep_that_takes_everything():
    with pytest.raises(PlanError, match="nothing is left for a final run"):
        pipelines(1e20, sweep_flops=1e20, trials=5, trial_share=0.1)
