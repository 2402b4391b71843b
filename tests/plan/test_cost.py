"""The cost chain: a published one, what is unknown, what cannot be."""

from dataclasses import replace

import pytest
from cost_chain import cost

from scalelab.errors import PlanError
from scalelab.hardware.accelerators import peak_flops_per_s
from scalelab.plan.cost.price import QUANTITIES, CostPart, ProjectCost, of_hours, reporting

H100 = peak_flops_per_s("NVIDIA H100 80GB HBM3")


def test_the_chain_of_llama_3_405b():
    """Derived in the literature from 405e9 parameters, 15.6e12 tokens and 400 TFLOP/s a GPU."""
    days, found = cost(
        6 * 405e9 * 15.6e12,
        devices=16_000,
        peak_flops_per_s=H100,
        mfu=400e12 / H100,
        dollars_per_device_hour=2.0,
        device_kw=0.7,
        co2_kg_per_kwh=0.24,
    )

    assert found.flops == pytest.approx(3.791e25, rel=0.002)
    assert found.device_hours == pytest.approx(26.32e6, rel=0.002)
    assert days == pytest.approx(68.6, rel=0.002)
    assert found.dollars == pytest.approx(52.6e6, rel=0.002)
    assert found.co2_kg == pytest.approx(4_423e3, rel=0.002)


def test_one_petaflop_day():
    days, found = cost(8.64e19, devices=1, peak_flops_per_s=1e15, mfu=1.0)

    assert (found.pf_days, days) == pytest.approx((1, 1))


def test_what_is_not_known_stays_unknown():
    _, found = cost(1e21, devices=8, peak_flops_per_s=H100, mfu=0.4, device_kw=0.7)

    assert found.dollars is None
    assert found.co2_kg is None
    assert found.kwh == pytest.approx(found.device_hours * 0.7)


@pytest.mark.parametrize(
    "settings",
    [
        {"mfu": 1.4},
        {"mfu": 0},
        {"pue": 0.9},
        {"dollars_per_device_hour": -1},
        {"device_kw": float("nan")},
        {"co2_kg_per_kwh": -0.1},
    ],
)
def test_refuses_what_cannot_be(settings):
    with pytest.raises(PlanError, match=f"(?i){next(iter(settings))}"):
        cost(**{"flops": 1e21, "devices": 8, "peak_flops_per_s": H100, "mfu": 0.4} | settings)


def parts(**unknown):
    known = {"device_hours": 10.0, "dollars": 20.0, "kwh": 7.0, "co2_kg": 3.0}
    return (
        CostPart("sweep", "spent", "measured", 1e18, **(known | unknown)),
        CostPart("failed runs", "spent", "measured", 2e17, **known),
        replace(
            cost(
                1e20,
                devices=8,
                peak_flops_per_s=H100,
                mfu=0.4,
                dollars_per_device_hour=2.0,
                device_kw=0.7,
                co2_kg_per_kwh=0.5,
            )[1],
            status="assumed",
        ),
    )


@pytest.mark.parametrize("quantity", QUANTITIES)
def test_a_project_is_the_sum_of_its_parts(quantity):
    project = ProjectCost(parts())

    whole = sum(getattr(p, quantity) for p in project.parts)
    assert project.total(quantity) == pytest.approx(whole)
    spent, planned = project.total(quantity, "spent"), project.total(quantity, "planned")
    assert spent + planned == pytest.approx(whole)


def test_failed_runs_are_in_the_total():
    assert ProjectCost(parts()).total("flops", "spent") == pytest.approx(1.2e18)


def test_one_unknown_part_makes_the_total_unknown():
    project = ProjectCost(parts(dollars=None))

    assert project.total("dollars") is None
    assert project.known("dollars") == pytest.approx(20.0 + project.parts[2].dollars)
    assert project.unknown("dollars") == ("sweep",)
    assert project.total("dollars", "planned") == project.parts[2].dollars
    assert project.to_json()["unknown"] == {"dollars": ["sweep"]}


@pytest.mark.parametrize("settings", [{"device_hours": -1}, {"dollars_per_device_hour": -1}, {"pue": 0.5}])
def test_refuses_measured_hours_and_rates_that_cannot_be(settings):
    with pytest.raises(PlanError, match=next(iter(settings))):
        of_hours("sweep", "spent", **{"flops": 1e18, "device_hours": 1} | settings)


def test_hours_that_nobody_measured_stay_unknown():
    part = of_hours("sweep", "spent", flops=1e18, device_hours=None, dollars_per_device_hour=2.0)

    assert part.device_hours is None
    assert part.dollars is None


def test_a_building_draws_more_than_its_devices():
    bare, whole = (
        cost(1e21, devices=8, peak_flops_per_s=H100, mfu=0.4, device_kw=0.7, pue=pue)[1]
        for pue in (1.0, 1.25)
    )

    assert whole.kwh == pytest.approx(1.25 * bare.kwh)


def test_an_unknown_overhead_leaves_energy_unknown():
    _, found = cost(1e21, devices=8, peak_flops_per_s=H100, mfu=0.4, device_kw=0.7, pue=None)

    assert found.kwh is None


@pytest.mark.parametrize(("flops", "n"), [(1e25, 0), (1.1e25, 1), (1e26, 1), (1.1e26, 2)])
def test_public_thresholds_are_passed_above_them(flops, n):
    assert len(reporting(flops)) == n


def test_a_threshold_names_who_asks_and_whether_it_stands():
    eu, us = reporting(2e26)

    assert eu.startswith("2e26 FLOPs is above 1e25: the EU")
    assert "article 51" in eu
    assert "Executive Order 14110" in us
    assert "rescinded" in us
