"""Money, time, energy and carbon in round numbers, and the dated figures that they rest on."""

import pytest
from cost_chain import cost

from scalelab.hardware.accelerators import accelerator
from scalelab.plan.choose.inference_cost import InferencePrices, inference_optimal
from scalelab.plan.cost.budget import Mfu, from_devices, from_dollars
from scalelab.plan.cost.price import CostPart, ProjectCost, of_hours
from scalelab.plan.cost.rates import Rates


def test_a_chain_of_round_numbers():
    """8 hours of one device of 1e15 FLOP/s at half its peak are 1.44e19 FLOPs."""
    days, found = cost(
        1.44e19,
        devices=4,
        peak_flops_per_s=1e15,
        mfu=0.5,
        dollars_per_device_hour=3.0,
        device_kw=0.5,
        pue=1.2,
        co2_kg_per_kwh=0.25,
    )

    assert found.device_hours == pytest.approx(8)
    assert days == pytest.approx(2 / 24)  # four devices take two hours
    assert found.dollars == pytest.approx(24)  # 8 h x $3: all devices are paid
    assert found.kwh == pytest.approx(4.8)  # 8 h x .5 kW x 1.2
    assert found.co2_kg == pytest.approx(1.2)  # 4.8 kWh x .25
    assert found.pf_days == pytest.approx(1 / 6)  # 8 h of half a PFLOP/s


def test_more_devices_take_less_time_and_the_same_money():
    found = (
        cost(1.44e19, devices=n, peak_flops_per_s=1e15, mfu=0.5, dollars_per_device_hour=3.0) for n in (1, 16)
    )

    (slow, one), (fast, many) = found
    assert (slow, fast) == pytest.approx((8 / 24, 0.5 / 24))
    assert one.dollars == many.dollars == pytest.approx(24)


def test_the_hours_of_deepseek_v3_cost_what_was_published():
    """Table 1 of arXiv:2412.19437: 2.788M H800 hours at $2 are $5.576M."""
    parts = [
        of_hours(name, "spent", flops=1.0, device_hours=hours, dollars_per_device_hour=2.0)
        for name, hours in (("pretraining", 2.664e6), ("context", 0.119e6), ("post", 0.005e6))
    ]

    project = ProjectCost(tuple(parts))

    assert project.total("device_hours") == pytest.approx(2.788e6)
    assert project.total("dollars") == pytest.approx(5.576e6)


def test_a_project_with_an_unknown_part_has_no_total():
    parts = (
        CostPart("sweep", "spent", "measured", 1e18, 10.0, None),
        CostPart("final run", "planned", "assumed", 1e20, 30.0, 60.0),
    )

    project = ProjectCost(parts)

    assert project.total("dollars") is None
    assert project.known("dollars") == 60.0
    assert project.total("device_hours") == 40.0


def test_devices_times_days_times_peak_times_mfu():
    """2 H100s x 3 days x 86400 s x 989e12 FLOP/s x .5."""
    budget = from_devices(2, 3, accelerator("h100"), Mfu(0.5))

    assert budget.flops == pytest.approx(2 * 3 * 86400 * 989e12 * 0.5)


def test_dollars_over_price_are_hours():
    """$100 at $2.5 are 40 hours."""
    budget = from_dollars(100, 2.5, accelerator("h100"), Mfu(0.4))

    assert budget.flops == pytest.approx(40 * 3600 * 989e12 * 0.4)


def test_a_flop_of_use_costs_more_where_less_of_the_peak_is_reached():
    """$3.6 an hour is $.001 a second: over 5e14 FLOP/s 2e-18, over 1e14 1e-17 dollars a FLOP."""
    prices = InferencePrices.of(
        dollars_per_device_hour=3.6, peak_flops_per_s=1e15, mfu_training=0.5, mfu_inference=0.1
    )

    assert prices.training == pytest.approx(2e-18, abs=0)
    assert prices.inference == pytest.approx(1e-17, abs=0)


def test_use_may_have_devices_of_its_own():
    """$7.2 an hour over 2e15 x .1 FLOP/s."""
    prices = InferencePrices.of(
        dollars_per_device_hour=3.6,
        peak_flops_per_s=1e15,
        mfu_training=0.5,
        mfu_inference=0.1,
        inference_dollars_per_device_hour=7.2,
        inference_peak_flops_per_s=2e15,
    )

    assert prices.training == pytest.approx(2e-18, abs=0)
    assert prices.inference == pytest.approx(1e-17, abs=0)


def test_dear_use_asks_for_the_model_of_as_many_more_tokens(known):
    """A FLOP of use at five times the price weighs as five times the tokens of use do."""
    dear = inference_optimal(known, demand=1e12, flops=1e22, prices=InferencePrices(1e-18, 5e-18))
    many = inference_optimal(known, demand=5e12, flops=1e22)

    assert dear.n_params == pytest.approx(many.n_params, rel=1e-9)
    training = 6 * dear.n_params * dear.n_tokens
    use = 2 * dear.n_params * 1e12
    assert dear.figures["total_dollars"] == pytest.approx(1e-18 * training + 5e-18 * use, rel=1e-6)


@pytest.mark.parametrize(
    ("name", "tflops", "gigabytes", "terabytes_per_s", "watts"),
    [
        ("a100-40", 312, 40, 1.555, 400),
        ("a100-80", 312, 80, 2.039, 400),
        ("h100", 989, 80, 3.35, 700),  # 1979 with 2:4 sparsity
        ("h200", 989, 141, 4.8, 700),
        ("b200", 2250, 180, 7.7, 1000),
        ("mi300x", 1307, 192, 5.3, 750),
        ("l40s", 362, 48, 0.864, 350),
        ("v100", 15.7, 32, 0.9, 300),  # fp32: it has no bf16
    ],
)
def test_peaks_are_the_dense_ones_of_the_datasheets(name, tflops, gigabytes, terabytes_per_s, watts):
    found = accelerator(name)

    assert found.peak_flops_per_s == pytest.approx(tflops * 1e12)
    assert found.memory_bytes == pytest.approx(gigabytes * 1e9)
    assert found.bandwidth_bytes_per_s == pytest.approx(terabytes_per_s * 1e12)
    assert found.power_w == watts


def test_shipped_rates_are_the_ones_of_their_sources():
    """Medians and spans of May 2026; DeepSeek-V3's own price; PUE and grids by their sources."""
    rates = Rates.load()

    prices = {name: (p.dollars_per_device_hour, p.low, p.high) for name, p in rates.prices.items()}
    assert prices == {
        "h100": (2.95, 1.99, 5.00),
        "h200": (4.00, 2.50, 7.00),
        "a100-80": (1.30, 0.80, 3.00),
        "h800": (2.00, None, None),
    }
    assert rates.pue.value == 1.54
    grids = {name: rates.region(name).kg_per_kwh for name in ("world", "us", "france", "norway")}
    assert grids == {"world": 0.481, "us": 0.38, "france": 0.056, "norway": 0.03}
