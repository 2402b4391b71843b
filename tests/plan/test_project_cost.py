"""A project's money: a price with its range, restarts and lost time, people."""

from types import SimpleNamespace

import pytest

from scalelab.errors import PlanError
from scalelab.hardware.accelerators import accelerator
from scalelab.plan.cost.budget import Mfu, from_dollars
from scalelab.plan.cost.rates import stated_price
from scalelab.plan.planner import price
from scalelab.plan.request import PlanRequest
from scalelab.plan.source import _spent
from scalelab.report.plan.document import plan_document
from scalelab.report.render.terminal import render_terminal
from scalelab.units import sci

LLAMA = {"params": 405e9, "tokens": 15.6e12, "gpu": "h100", "gpus": 16_384}
SMALL = {"params": 1e9, "tokens": 2e10, "gpu": "h100", "gpus": 8, "mfu": 0.4}


def planned(**request):
    return price(PlanRequest(**request))


def parts(found):
    return {part.name: part for part in found.costs.project.parts}


def test_llama_3_405b_costs_75_million_dollars_with_its_people():
    """Stanford's CS229 lecture on building LLMs: 26M H100 hours at $2 are $52M, and 50 people at
    $500k a year are $25M: about $75M.
    """
    found = planned(**LLAMA, mfu=400e12 / 989e12, price=2, staff=50, salary=500e3, staff_months=12)

    assert found.costs.final.device_hours == pytest.approx(26.3e6, rel=0.002)
    assert parts(found)["final run"].dollars == pytest.approx(52.6e6, rel=0.002)
    assert parts(found)["people"].dollars == 25e6
    assert found.costs.project.total("dollars") == pytest.approx(75e6, rel=0.04)
    said = render_terminal(plan_document(found), 200)
    assert "50 people x $500,000 a year x 12 months (stated)" in said
    assert "$2 a device-hour [stated, --price]" in said


def test_the_hours_that_llama_3_405b_really_took_are_a_goodput_of_85_percent():
    """30.84M H100 hours by its model card, over 26.3M of training at 400 TFLOP/s."""
    found = planned(**LLAMA, mfu=400e12 / 989e12, goodput=26.33 / 30.84)

    assert found.costs.project.total("device_hours") == pytest.approx(30.84e6, rel=0.001)


def test_people_work_as_long_as_the_devices_are_occupied():
    found = planned(**SMALL, staff=3, salary=120e3, goodput=0.5)

    months = 2 * found.costs.days / (365.25 / 12)
    assert parts(found)["people"].dollars == pytest.approx(3 * 10e3 * months)
    assert "(the time of the run)" in render_terminal(plan_document(found), 200)


def test_a_range_of_prices_is_multiplied_out():
    found = planned(**SMALL, price="2-4", staff=1, salary=12e3, staff_months=1)
    hours = found.costs.final.device_hours

    assert found.costs.final.dollars == pytest.approx(3 * hours)
    assert found.costs.final.dollars_range == pytest.approx((2 * hours, 4 * hours))
    assert found.costs.project.dollars_range() == pytest.approx((2 * hours + 1e3, 4 * hours + 1e3))
    assert found.plan.cost["dollars_range"] == found.costs.final.dollars_range


def test_the_shipped_price_of_an_h100_has_its_range_source_and_day():
    found = planned(**SMALL)
    said = render_terminal(plan_document(found), 200)

    hours = found.costs.final.device_hours
    assert found.costs.final.dollars_range == pytest.approx((1.99 * hours, 5 * hours))
    assert "at $1.99 to $5 a device-hour" in said
    assert "[literature, 2026-05-20: median of 37 providers" in said


def test_an_unknown_price_has_no_range():
    found = planned(**SMALL | {"gpu": "trn2", "gpus": 16})

    assert found.costs.final.dollars is None
    assert found.costs.project.dollars_range() is None
    assert "price range" not in render_terminal(plan_document(found), 200)


def test_restarts_and_lost_time_are_a_part_of_their_own():
    found = planned(**SMALL, goodput=0.8, restart_reserve=0.1, price=2)
    final, lost = parts(found)["final run"], parts(found)["restarts and lost time"]

    assert final.device_hours == pytest.approx(6 * 1e9 * 2e10 / (0.4 * 989e12) / 3600)
    assert lost.device_hours == pytest.approx(final.device_hours * (1.1 / 0.8 - 1))
    assert lost.dollars == pytest.approx(2 * lost.device_hours)
    assert lost.flops == pytest.approx(0.1 * final.flops)
    assert found.costs.calendar_days == pytest.approx(found.costs.days * 1.1 / 0.8)
    said = render_terminal(plan_document(found), 200)
    assert "goodput 0.8, restart reserve 0.1 (stated)" in said


def test_without_them_nothing_is_added_and_that_is_said():
    found = planned(**SMALL)

    assert list(parts(found)) == ["final run"]
    assert found.costs.calendar_days == found.costs.days
    said = render_terminal(plan_document(found), 200)
    assert "goodput 1, restart reserve 0 (assumed)" in said


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"goodput": 0.9}, "goodput 0.9 (stated), restart reserve 0 (assumed)"),
        ({"restart_reserve": 0.1}, "goodput 1 (assumed), restart reserve 0.1 (stated)"),
    ],
)
def test_only_what_is_stated_is_called_stated(given, words):
    assert words in render_terminal(plan_document(planned(**SMALL, **given)), 200)


def test_a_stated_price_has_no_day():
    assert planned(**SMALL, price="2-3").costs.to_json()["price_as_of"] is None


@pytest.mark.parametrize(
    ("text", "middle", "span"),
    [
        ("2", 2, None),
        (2.5, 2.5, None),
        ("1.5-3.5", 2.5, (1.5, 3.5)),
        (" .5-1 ", 0.75, (0.5, 1)),
        ("2e0", 2, None),
    ],
)
def test_a_stated_price_is_a_number_or_a_range(text, middle, span):
    found = stated_price(text)

    assert (found.dollars_per_device_hour, found.span) == (middle, span)


@pytest.mark.parametrize("text", ["", "-2", "0", "3-2", "2-3-4", "$2", "inf", "nan", "1-nan", float("nan")])
def test_a_stated_price_that_cannot_be_is_refused(text):
    with pytest.raises(PlanError, match="as a price"):
        stated_price(text)


def test_a_budget_in_dollars_at_a_range_of_prices_is_a_range_of_flops():
    """$100 at $2 to $4, $3 in the middle, are 50 to 25 hours of an H100."""
    budget = from_dollars(100, 3, accelerator("h100"), Mfu(0.5), span=(2, 4))

    assert budget.flops == pytest.approx(100 / 3 * 3600 * 989e12 * 0.5)
    low, high = (sci(100 / price * 3600 * 989e12 * 0.5) for price in (4, 2))
    assert budget.words.endswith(f"FLOPs ({low} to {high} at $4 to $2)")


def test_a_trunk_is_spent_once_and_lost_only_with_all_its_branches():
    """10 FLOPs and 1 ms a token: cooldowns of 300 and 600 tokens, of which the second diverged, on a trunk of 1,400."""

    def ended(status, tokens, of_trunk):
        return SimpleNamespace(
            status=status,
            device="x86_64",
            n_tokens=tokens,
            n_tokens_trunk=of_trunk,
            flops_per_token=10.0,
            flops=10.0 * tokens,
            train_s=tokens / 1000,
            eval_s=0.0,
            trunk="trunk",
            trunk_run=None,
        )

    found = _spent([ended("finished", 1700, 1400), None, ended("diverged", 1300, 700)])

    assert (found.flops, found.lost_flops) == (10 * (300 + 600 + 1400), 10 * 600)
    assert (found.seconds, found.lost_seconds) == (pytest.approx(2.3), pytest.approx(0.6))
    assert (found.runs, found.lost_runs, found.device) == (2, 1, "x86_64")
    assert _spent([None]) is None
