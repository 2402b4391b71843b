"""The cost chain: a published one, what is unknown, what cannot be."""

import pytest

from scalelab.errors import PlanError
from scalelab.plan.cost import cost
from scalelab.units import peak_flops_per_s

H100 = peak_flops_per_s("NVIDIA H100 80GB HBM3")


def test_the_chain_of_llama_3_405b():
    """Derived in the literature from 405e9 parameters, 15.6e12 tokens and 400 TFLOP/s a GPU."""
    found = cost(
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
    assert found.days == pytest.approx(68.6, rel=0.002)
    assert found.dollars == pytest.approx(52.6e6, rel=0.002)
    assert found.co2_kg == pytest.approx(4_423e3, rel=0.002)


def test_one_petaflop_day():
    found = cost(8.64e19, devices=1, peak_flops_per_s=1e15, mfu=1.0)

    assert (found.pf_days, found.days) == pytest.approx((1, 1))


def test_what_is_not_known_stays_unknown():
    found = cost(1e21, devices=8, peak_flops_per_s=H100, mfu=0.4, device_kw=0.7)

    assert found.dollars is None
    assert found.co2_kg is None
    assert found.kwh == pytest.approx(found.device_hours * 0.7)


@pytest.mark.parametrize(
    "settings", [{"mfu": 1.4}, {"mfu": 0}, {"devices": 0}, {"pue": 0.9}, {"peak_flops_per_s": 0}]
)
def test_refuses_what_cannot_be(settings):
    with pytest.raises(PlanError, match=next(iter(settings))):
        cost(1e21, **{"devices": 8, "peak_flops_per_s": H100, "mfu": 0.4} | settings)
