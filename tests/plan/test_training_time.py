"""One time: that of a plan is steps x time of a step, and FLOPs over devices, peak and MFU."""

import itertools
from dataclasses import replace

import pytest

from scalelab.errors import PlanError
from scalelab.hardware.accelerators import accelerator
from scalelab.plan.cost.availability import Availability
from scalelab.plan.cost.budget import Mfu, from_devices, from_dollars
from scalelab.plan.cost.placement import place_run
from scalelab.plan.cost.plan_cost import costs_of
from scalelab.plan.cost.rates import Rates
from scalelab.plan.cost.resources import Resources
from scalelab.plan.cost.training_time import COMPUTE_SHARE, layout_mfu
from scalelab.plan.plan import assumed_shape
from scalelab.plan.planner import price
from scalelab.plan.request import PlanRequest
from scalelab.report.plan.document import plan_document
from scalelab.report.render.terminal import render_terminal

GRID = list(
    itertools.product(
        (1e9, 8e9),
        (2e11, 15e12),
        (None, 8, 64, 96),
        ("h100", "gb200", "mi300x", "trn2"),
        (None, 0.13, 0.4, 0.95),
    )
)


def planned(**request):
    return price(PlanRequest(**request))


@pytest.mark.parametrize(("n_params", "n_tokens", "gpus", "gpu", "mfu"), GRID[::11])
def test_the_three_ways_to_a_time_agree(n_params, n_tokens, gpus, gpu, mfu):
    found = planned(params=n_params, tokens=n_tokens, gpus=gpus, gpu=gpu, mfu=mfu)
    cost, devices = found.plan.cost, found.plan.layout.devices
    seconds = 86400 * cost["days"]

    assert seconds == pytest.approx(cost["n_steps"] * cost["step_s"], rel=1e-12)
    peak = accelerator(gpu).peak_flops_per_s
    assert seconds == pytest.approx(6 * n_params * n_tokens / (devices * peak * cost["mfu"]), rel=1e-12)
    assert cost["gpu_hours"] == pytest.approx(seconds * devices / 3600, rel=1e-12)
    assert cost["mfu"] == (mfu or cost["layout_mfu"])
    batch = found.plan.memory["batch_tokens"]
    assert abs(cost["n_steps"] * batch - n_tokens) <= batch / 2


def test_llama_3_405b_takes_68_days_and_no_other_time_is_printed():
    """6 N D over 16,384 H100s at an MFU of .4, and 930 thousand steps in that time."""
    found = planned(params=405e9, tokens=15.6e12, gpus=16_384, gpu="h100", mfu=0.4)
    said = render_terminal(plan_document(found), 200)

    assert found.plan.cost["days"] == pytest.approx(67.7, abs=0.05)
    assert found.plan.cost["step_s"] == pytest.approx(86400 * 67.7 / 930e3, rel=0.001)
    assert "929,832 of 6.29 s each" in said
    assert "11.3 s" not in said
    assert "MFU of the layout" in said
    assert "; the MFU above is 1.7x that" in said


def test_without_an_mfu_the_layout_gives_it():
    found = planned(params=8e9, tokens=2e11, gpus=64, gpu="h100")
    cost, estimate = found.plan.cost, found.placement.estimate
    size = found.shape.model.size(found.shape.seq_len)
    counted = 6 * size.n_params_total / size.flops_per_token

    assert cost["mfu"] == pytest.approx(COMPUTE_SHARE * estimate.shares["computing"] * counted)
    assert cost["hours_are"] == "assumed"
    assert "estimated for the layout: 0.55 of the peak while computing, assumed" in cost["mfu_origin"]
    assert "MFU of the layout" not in render_terminal(plan_document(found), 200)


def test_shares_of_a_step_sum_to_one_in_every_layout():
    for layout in planned(params=70e9, tokens=1e12, gpus=64, gpu="h100").plan.layouts:
        assert sum(layout["shares"].values()) == pytest.approx(1)
        assert not {"compute_s", "step_s", "lost_s"} & set(layout)


def test_attention_that_a_plan_does_not_count_lowers_its_mfu():
    assert layout_mfu(0.5, 0.9).value == pytest.approx(COMPUTE_SHARE * 0.45)
    assert "x 90%, the share of the FLOPs that the plan counts" in layout_mfu(0.5, 0.9).origin


@pytest.mark.parametrize(("n_params", "total"), [(70e9, "1.12 TB"), (8e9, "128 GB"), (405e9, "6.48 TB")])
def test_the_state_of_the_whole_model_is_16_bytes_a_parameter(n_params, total):
    found = planned(params=n_params, tokens=1e12)

    assert found.plan.memory["state_bytes"] == pytest.approx(16 * n_params)
    said = render_terminal(plan_document(found), 200)
    assert f"{total}: weights, gradients, optimizer; 16 bytes a parameter" in said


@pytest.mark.parametrize(("gpus", "copies"), [(1, True), (8, False)])
def test_what_one_device_stores_beside_the_state_is_named(gpus, copies):
    """A process alone has bf16 copies of weights and gradients: 20 bytes, where the state has 16."""
    found = planned(params=1e9, tokens=2e10, gpu="h100", gpus=gpus, mfu=0.4)

    held = found.placement.memory
    stored = held.weights_bytes + held.gradients_bytes + held.optimizer_bytes
    assert (stored > 1.2 * found.plan.memory["state_bytes"]) == copies
    said = render_terminal(plan_document(found), 300)
    assert ("16 bytes a parameter; 20 on one device, with bf16 copies" in said) == copies


@pytest.mark.parametrize("gpus", [3, 8, 14])
def test_the_batch_that_is_printed_is_the_one_that_is_used(gpus):
    found = planned(params=1e9, tokens=1e12, gpus=gpus, gpu="h100")
    layout, shape = found.plan.layout, found.shape

    parts = layout.replicate * layout.shard * layout.micro_batches
    assert shape.batch_tokens == parts * found.placement.rows * shape.seq_len
    assert shape.batch_tokens == found.plan.memory["batch_tokens"]
    assert shape.batch_tokens == pytest.approx(2**22, rel=0.25)


def test_devices_that_divide_badly_are_answered_with_the_nearest_that_do_not():
    found = planned(params=8e9, tokens=1e12, gpus=17, gpu="h100")
    good = planned(params=8e9, tokens=1e12, gpus=16, gpu="h100").placement

    below, above = found.placement.other_counts
    assert (below.count, above.count) == (16, 24)
    assert found.placement.estimate.shares["computing"] < above.computing < below.computing
    assert below.computing == pytest.approx(good.estimate.shares["computing"])
    assert good.other_counts == ()
    said = render_terminal(plan_document(found), 200)
    assert "17 devices divide badly: 50% of a step is computing" in said
    assert "16 devices 96% and 24 devices 83%" in said


@pytest.mark.parametrize(
    ("gpus", "gpu", "near"),
    [
        (16_383, "h100", r"use 12,288 or 16,384 devices \(--gpus\), the nearest numbers that work"),
        (3, "h100", r"use 8 devices \(--gpus\), the next power of two that works"),
    ],
)
def test_devices_that_nothing_fits_are_answered_with_the_nearest_that_work(gpus, gpu, near):
    with pytest.raises(PlanError, match=near):
        planned(params=70e9, tokens=1e12, gpus=gpus, gpu=gpu)


def test_a_round_number_that_works_as_well_as_its_neighbours_is_left_alone():
    """405B on 16,000 devices; on 12,288 nothing that could be launched divides."""
    found = planned(params=405e9, tokens=15.6e12, gpus=16_000, gpu="h100", mfu=0.4)

    assert found.plan.cost["days"] == pytest.approx(69.3, abs=0.1)
    assert found.placement.other_counts == ()


@pytest.fixture
def resources():
    """64 H100s whose MFU of .5 a sweep measured on one of them."""
    return Resources(Rates.load(), accelerator("h100"), 64, Mfu(0.5, "measured on a sweep", "measured"))


def test_an_mfu_measured_on_one_device_is_lowered_by_what_a_layout_loses(resources):
    placement = place_run("", resources, assumed_shape(8e9, "total"), None)
    layout = placement.mfu(resources, "total", "exact")
    found = costs_of(None, resources, None, 1e22, 64, layout_mfu=layout)

    assert layout.value == pytest.approx(0.5 * placement.estimate.shares["computing"])
    assert layout.value < 0.5
    assert found.time.mfu == layout
    assert "measured on a sweep, times the" in found.basis
    assert found.days == pytest.approx(1e22 / (64 * 989e12 * layout.value) / 86400)


def test_a_budget_in_days_takes_these_days(resources):
    """The FLOPs were computed from the measured MFU: another one for the time would contradict them."""
    lost = Availability(0.9, 0.05)
    resources = replace(resources, availability=lost, fixes_budget=True)
    budget = from_devices(64, 30, resources.accelerator, resources.mfu, lost)
    layout = Mfu(0.4, "estimated")

    found = costs_of(None, resources, None, budget.flops, 64, layout_mfu=layout)

    assert found.calendar_days == pytest.approx(30)
    assert found.time.mfu.value == 0.5
    assert budget.flops == pytest.approx(64 * 30 * 86400 * 989e12 * 0.5 * 0.9 / 1.05)
    assert "x goodput 0.9 / 1.05 of restarts" in budget.words


def test_dollars_buy_the_time_that_restarts_need_too(resources):
    lost = Availability(0.8)

    budget = from_dollars(1e6, 2.0, resources.accelerator, resources.mfu, lost)

    found = costs_of(None, replace(resources, availability=lost, fixes_budget=True), None, budget.flops, 64)
    assert 2.0 * found.project.total("device_hours") == pytest.approx(1e6)


@pytest.mark.parametrize(
    ("request_", "problem"),
    [
        ({"params": 1e300}, "--params is 1e\\+300, which is implausible"),
        ({"tokens": 1e25}, "--tokens is 1e\\+25"),
        ({"gpus": 2**40}, "--gpus is 1.09951e\\+12, which is implausible"),
        ({"mfu": 1e-300}, "an MFU of 1e-300"),
        ({"price": "1e308"}, "cannot read '1e308' as a price"),
        ({"staff": float("nan"), "salary": 1.0}, "--staff is nan"),
        ({"goodput": 1e-9}, "--goodput is 1e-09"),
    ],
)
def test_implausible_numbers_are_refused(request_, problem):
    with pytest.raises(PlanError, match=problem):
        planned(**{"params": 1e9, "tokens": 1e10, "gpu": "h100"} | request_)


@pytest.mark.parametrize("gpus", [99_991, 10**8])
def test_a_number_of_devices_that_nothing_divides_is_answered_at_once(gpus):
    with pytest.raises(PlanError, match=r"no layout of|does not fit"):
        planned(params=1e9, tokens=1e10, gpu="h100", gpus=gpus)
