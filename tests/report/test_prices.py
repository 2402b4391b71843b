"""What a plan costs, in round numbers: devices, the sweep's own spend, its failed runs."""

import pytest

from scalelab.hardware.accelerators import accelerator
from scalelab.plan.cost.budget import Mfu
from scalelab.plan.cost.plan_cost import Resources, costs_of
from scalelab.plan.cost.rates import Rates
from scalelab.plan.source import PlanSource, SpentCompute

RATES = """
as_of: 2026-08-01
prices:
  h100: {dollars_per_device_hour: 3, source: us, as_of: 2026-08-01}
pue: {value: 1.2, source: us, as_of: 2026-08-01}
carbon:
  here: {kg_per_kwh: 0.25, source: us, as_of: 2026-08-01}
"""
HOUR = 989e12 * 0.5 * 3600
"""FLOPs of one H100 in an hour at half its peak."""


@pytest.fixture
def resources(tmp_path):
    """Four H100s at half their peak: $3, .7 kW, PUE 1.2, .25 kg a kWh."""
    (tmp_path / "rates.yaml").write_text(RATES)
    rates = Rates.load(tmp_path / "rates.yaml")
    return Resources(rates, accelerator("h100"), 4, Mfu(0.5), rates.region("here"))


@pytest.fixture
def source():
    """Ten hours of an H100, two of them in runs that failed, and a tenth of the FLOPs."""
    spent = SpentCompute(
        flops=5e18,
        lost_flops=5e17,
        runs=20,
        lost_runs=2,
        seconds=36_000,
        lost_seconds=7_200,
        device="NVIDIA H100 80GB HBM3",
    )
    return PlanSource("s", "the sweep s", "s", None, "exact", spent=spent)


def test_every_device_is_paid_and_draws_power(resources):
    found = costs_of(None, resources, None, 8 * HOUR, 4)

    assert found.final.device_hours == pytest.approx(8)
    assert found.days == pytest.approx(2 / 24)
    assert found.final.dollars == pytest.approx(24)
    assert found.final.kwh == pytest.approx(8 * 0.7 * 1.2)
    assert found.final.co2_kg == pytest.approx(8 * 0.7 * 1.2 * 0.25)


def test_a_flop_costs_an_hour_over_what_is_done_in_it(resources):
    assert resources.dollars_per_flop == pytest.approx(3 / HOUR, abs=0)


def test_the_sweep_and_its_failed_runs_are_counted_once_each(resources, source):
    found = costs_of(None, resources, source, 8 * HOUR, 4)

    sweep, failed, final = found.project.parts
    assert (sweep.name, sweep.flops) == ("sweep", pytest.approx(4.5e18))
    assert (failed.name, failed.flops) == ("failed runs", pytest.approx(5e17))
    assert (sweep.device_hours, failed.device_hours) == pytest.approx((8, 2))
    assert (sweep.dollars, failed.dollars, final.dollars) == pytest.approx((24, 6, 24))
    assert found.project.total("flops") == pytest.approx(5e18 + 8 * HOUR)
    assert found.project.total("dollars") == pytest.approx(54)
    assert found.project.total("kwh") == pytest.approx(18 * 0.7 * 1.2)


def test_prices_of_use_are_those_of_training_at_another_mfu(resources):
    """A tenth of the peak: five times the price."""
    prices = resources.prices(0.1)

    assert prices.training == pytest.approx(3 / HOUR, abs=0)
    assert prices.inference == pytest.approx(5 * 3 / HOUR, abs=0)
