"""Dated rates: what ships, a person's own file, what is unknown, what is refused."""

import pytest

from scalelab.accelerators import ACCELERATORS
from scalelab.errors import ConfigError, PlanError
from scalelab.plan.rates import Rates


def written(tmp_path, text):
    path = tmp_path / "rates.yaml"
    path.write_text(text)
    return path


def test_every_shipped_figure_has_a_source_and_a_day():
    rates = Rates.load()

    figures = [*rates.prices.values(), *rates.carbon.values(), rates.pue]
    assert all(f.source and f.as_of <= rates.as_of for f in figures)
    assert all(str(f.as_of) in str(f) and f.source in str(f) for f in figures)


def test_shipped_figures_are_of_the_right_size():
    rates = Rates.load()

    assert set(rates.prices) <= set(ACCELERATORS)
    assert all(
        (p.low or 0) < p.dollars_per_device_hour < (p.high or 1e9) for p in rates.prices.values()
    )
    assert all(0.01 < c.kg_per_kwh < 1.2 for c in rates.carbon.values())
    assert 1 <= rates.pue.value < 2


def test_a_price_that_nobody_says_is_unknown():
    assert Rates.load().price("b200") is None


def test_a_region_is_found_whatever_its_case():
    assert Rates.load().region(" France").kg_per_kwh == pytest.approx(0.056)


def test_a_region_of_ones_own_is_found_whatever_its_case(tmp_path):
    text = (
        "as_of: 2026-08-01\ncarbon:\n  Quebec: {kg_per_kwh: 0.02, source: us, as_of: 2026-08-01}\n"
    )

    rates = Rates.load(written(tmp_path, text))

    assert rates.region("quebec") == rates.region("Quebec") == rates.carbon["Quebec"]


def test_a_file_takes_the_place_of_the_shipped_one_whole(tmp_path):
    path = written(
        tmp_path,
        "as_of: 2026-08-01\nprices:\n  b200: {dollars_per_device_hour: 6, source: us, "
        "as_of: 2026-08-01}\n",
    )

    rates = Rates.load(path)

    assert rates.price("b200").dollars_per_device_hour == 6
    assert rates.price("h100") is None
    assert rates.pue is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("as_of: 2026-08-01\npuue: 1\n", r"rates\.yaml:2: puue: unknown key 'puue'"),
        (
            "as_of: 2026-08-01\nprices:\n  h100: {dollars: 2, source: us, as_of: 2026-08-01}\n",
            r"rates\.yaml:3: prices\.h100\.dollars: unknown key",
        ),
        (
            "as_of: 2026-08-01\ncarbon:\n  mars: {kg_per_kwh: -1, source: us, as_of: 2026-01-01}\n",
            r"rates\.yaml:3: carbon\.mars\.kg_per_kwh: input should be greater than 0",
        ),
        ("prices: {}\n", "'as_of' is missing"),
    ],
)
def test_mistakes_in_a_file_are_named_with_their_lines(tmp_path, text, said):
    with pytest.raises(ConfigError, match=said):
        Rates.load(written(tmp_path, text))


@pytest.mark.parametrize("said", ["h10O", "H100"])
def test_a_price_for_an_unknown_accelerator_is_refused(tmp_path, said):
    text = (
        f"as_of: 2026-08-01\nprices:\n  {said}: {{dollars_per_device_hour: 2, source: us, "
        "as_of: 2026-08-01}\n"
    )

    with pytest.raises(PlanError, match=rf"'{said}'; did you mean 'h100'\?\n  where: .*yaml:3"):
        Rates.load(written(tmp_path, text))


@pytest.mark.parametrize("price", [1.5, 4.5])
def test_a_price_outside_its_own_span_is_refused(tmp_path, price):
    text = (
        f"as_of: 2026-08-01\nprices:\n  h100: {{dollars_per_device_hour: {price}, low: 2, high: 4, "
        "source: us, as_of: 2026-08-01}\n"
    )

    with pytest.raises(PlanError, match=rf"\${price} .* outside its own span .* 2 to 4"):
        Rates.load(written(tmp_path, text))


def test_a_building_draws_no_less_than_its_devices(tmp_path):
    text = "as_of: 2026-08-01\npue: {value: 0.9, source: us, as_of: 2026-08-01}\n"

    with pytest.raises(PlanError, match=r"a PUE of 0\.9"):
        Rates.load(written(tmp_path, text))


def test_an_unknown_region_is_answered_with_the_nearest():
    with pytest.raises(PlanError, match="region 'Frankreich'; did you mean 'france'"):
        Rates.load().region("Frankreich")
