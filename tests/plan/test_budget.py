"""Budgets in words: each way against its closed form, the chain told, refusals."""

import pytest
from cost_chain import cost

from scalelab.errors import PlanError
from scalelab.hardware.accelerators import accelerator
from scalelab.plan.cost.budget import Mfu, from_devices, from_dollars, from_pf_days, parse_amount

H100 = accelerator("h100")


@pytest.mark.parametrize(
    ("text", "flops"),
    [
        ("5.76e23", 5.76e23),
        (" 1e25 FLOPs ", 1e25),
        ("1e25flop", 1e25),
        ("300 PF-days", 300 * 8.64e19),
        ("1 pf-day", 8.64e19),
        ("2 PF days", 2 * 8.64e19),
        ("1,000 PFdays", 8.64e22),
        ("2.5 ZFLOPs", 2.5e21),
        ("6_400_000", 6.4e6),
    ],
)
def test_amounts_as_people_write_them(text, flops):
    assert parse_amount(text).flops == pytest.approx(flops)


@pytest.mark.parametrize("text", ["", "lots", "-1e20", "1e20 cows", "1..2", "1e", "e5", "PF-days"])
def test_refuses_what_is_no_amount(text):
    with pytest.raises(PlanError, match=r"cannot read .* as an amount of compute"):
        parse_amount(text)


@pytest.mark.parametrize("text", ["0", "1e999"])
def test_refuses_amounts_that_cannot_be(text):
    with pytest.raises(PlanError, match=r"flops is (0\.0|inf)"):
        parse_amount(text)


def test_ten_thousand_h100s_for_a_month():
    budget = from_devices(10_000, 30, H100, Mfu(0.4))

    assert budget.flops == pytest.approx(10_000 * 30 * 86_400 * 989e12 * 0.4)
    assert budget.words == ("10,000 x h100 x 30 days x 9.89e14 FLOP/s x MFU 0.4 (stated) = 1.03e25 FLOPs")
    assert budget.to_json() == {
        "flops": budget.flops,
        "words": budget.words,
        "gpus": 10_000,
        "days": 30,
        "accelerator": "h100",
        "mfu": 0.4,
        "mfu_origin": "stated",
    }


def test_cost_is_the_way_back():
    budget = from_devices(512, 12.5, H100, Mfu(0.37, "measured on a sweep"))

    days, _ = cost(budget.flops, devices=512, peak_flops_per_s=989e12, mfu=0.37)

    assert days == pytest.approx(12.5)
    assert "MFU 0.37 (measured on a sweep)" in str(budget)


def test_dollars_buy_what_they_cost():
    budget = from_dollars(1e6, 2.5, H100, Mfu(0.4))

    _, found = cost(budget.flops, devices=1, peak_flops_per_s=989e12, mfu=0.4, dollars_per_device_hour=2.5)
    assert found.dollars == pytest.approx(1e6)
    assert budget.words.startswith("$1,000,000 / $2.5 a device-hour = 400,000 h100-hours x ")


def test_pf_days_and_flops_are_the_same_budget():
    assert parse_amount("8.64e21").flops == pytest.approx(from_pf_days(100).flops)
    assert str(parse_amount("8.64e21")) == "8.64e21 FLOPs = 100 PF-days"


def test_an_unverified_peak_is_said_in_the_chain():
    said = str(from_devices(8, 1, accelerator("rtx3090"), Mfu(0.4)))

    assert "7.1e13 FLOP/s (unverified)" in said


def test_without_an_mfu_a_published_one_is_named():
    with pytest.raises(PlanError, match=r"(?s)no MFU is known.*0\.38 to 0\.43 \(Llama 3 405B"):
        from_devices(8, 1, H100, None)


@pytest.mark.parametrize("value", [0, -0.1, 1.01, 40, float("nan")])
def test_refuses_an_mfu_that_cannot_be(value):
    with pytest.raises(PlanError, match="an MFU of"):
        Mfu(value)


@pytest.mark.parametrize(
    ("devices", "days", "said"),
    [
        (0, 1, "0 devices"),
        (1.5, 1, r"1\.5 devices"),
        (float("nan"), 1, "nan devices"),
        (8, 0, "days is 0"),
        (8, float("inf"), "days is inf"),
    ],
)
def test_refuses_devices_and_days_that_cannot_be(devices, days, said):
    with pytest.raises(PlanError, match=said):
        from_devices(devices, days, H100, Mfu(0.4))


def test_refuses_dollars_without_a_price():
    with pytest.raises(PlanError, match=r"the price of b200 is unknown, so the hours for \$5,000,000"):
        from_dollars(5e6, None, accelerator("b200"), Mfu(0.4))


def test_refuses_dollars_that_cannot_be():
    with pytest.raises(PlanError, match="dollars is -5"):
        from_dollars(-5, 2.0, H100, Mfu(0.4))
