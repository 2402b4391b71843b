"""Dated rates: what ships, a person's own file, what is unknown, what is refused."""

import pytest

from scalelab.errors import ConfigError, PlanError
from scalelab.hardware.accelerators import ACCELERATORS
from scalelab.plan.cost.rates import Rates


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
    assert all((p.low or 0) < p.dollars_per_device_hour < (p.high or 1e9) for p in rates.prices.values())
    assert all(0.01 < c.kg_per_kwh < 1.2 for c in rates.carbon.values())
    assert 1 <= rates.pue.value < 2


def test_a_price_that_nobody_says_is_unknown():
    assert Rates.load().price("b200") is None


def test_a_region_is_found_whatever_its_case():
    assert Rates.load().region(" France").kg_per_kwh == pytest.approx(0.056)


def test_a_region_of_ones_own_is_found_whatever_its_case(tmp_path):
    text = "as_of: 2026-08-01\ncarbon:\n  Quebec: {kg_per_kwh: 0.02, source: us, as_of: 2026-08-01}\n"

    rates = Rates.load(written(tmp_path, text))

    assert rates.region("quebec") == rates.region("Quebec") == rates.carbon["Quebec"]


def test_a_file_takes_the_place_of_the_shipped_one_whole(tmp_path):
    path = written(
        tmp_path,
        "as_of: 2026-08-01\nprices:\n  b200: {dollars_per_device_hour: 6, source: us, as_of: 2026-08-01}\n",
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

    with pytest.raises(PlanError, match=rf"\${price} .* outside its own range .* 2 to 4"):
        Rates.load(written(tmp_path, text))


def test_a_building_draws_no_less_than_its_devices(tmp_path):
    text = "as_of: 2026-08-01\npue: {value: 0.9, source: us, as_of: 2026-08-01}\n"

    with pytest.raises(PlanError, match=r"a PUE of 0\.9"):
        Rates.load(written(tmp_path, text))


def test_an_unknown_region_is_answered_with_the_nearest():
    with pytest.raises(PlanError, match="region 'Frankreich'; did you mean 'france'"):
        Rates.load().region("Frankreich")


DESCRIBED = """as_of: 2026-08-01
accelerators:
  chip:
    peak_flops_per_s: 5e14
    memory_bytes: 128e9
    bandwidth_bytes_per_s: 4e12
    link_bytes_per_s: 3e11
    devices_per_node: 16
    source: our vendor
    as_of: 2026-07-01
prices:
  chip: {dollars_per_device_hour: 1.5, source: us, as_of: 2026-08-01}
"""


TWIN = (
    DESCRIBED.partition("accelerators:\n")[2].partition("prices:")[0].replace("chip:", "Ch-ip:") + "prices:"
)


def test_an_accelerator_of_ones_own_is_described_in_the_file(tmp_path):
    rates = Rates.load(written(tmp_path, DESCRIBED))

    chip = rates.accelerator("Chip")
    assert (chip.peak_flops_per_s, chip.memory_bytes, chip.devices_per_node) == (5e14, 128e9, 16)
    assert (chip.power_w, chip.source, chip.dated) == (None, "our vendor", "2026-07-01")
    assert rates.price("chip").dollars_per_device_hour == 1.5
    assert rates.accelerator("h100").name == "h100"
    with pytest.raises(PlanError, match=r"unknown accelerator 'chap'.*\n.*\n.*use one of: chip, gb300"):
        rates.accelerator("chap")


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("    memory_bytes: 128e9\n", "", r"'memory_bytes' is missing[\s\S]*rates\.yaml:3"),
        ("5e14", "500", r"'chip': peak_flops_per_s is 500, outside[\s\S]*rates\.yaml:4[\s\S]*989e12"),
        ("128e9", "128", r"memory_bytes is 128, outside[\s\S]*rates\.yaml:5[\s\S]*bytes, such as 80e9"),
        ("3e11", "9e12", r"link_bytes_per_s is 9e\+12, above the bandwidth[\s\S]*rates\.yaml:7"),
        ("devices_per_node: 16", "devices_per_node: 0", r"rates\.yaml:8[\s\S]*greater than 0"),
        ("  chip:\n", "  H-100:\n", r"'H-100' has the name of the shipped 'h100'[\s\S]*rates\.yaml:3"),
        (
            "  chip:\n",
            "  Ironwood:\n",
            r"'Ironwood' has the name of the shipped 'ironwood'[\s\S]*rates\.yaml:3",
        ),
        ("prices:", TWIN, r"'Ch-ip' has the name of the described 'chip'[\s\S]*rates\.yaml:11"),
    ],
)
def test_an_accelerator_that_cannot_be_is_refused_with_its_line(tmp_path, old, new, problem):
    with pytest.raises((ConfigError, PlanError), match=problem):
        Rates.load(written(tmp_path, DESCRIBED.replace(old, new, 1)))
