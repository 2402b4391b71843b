"""Measurements that are kept: read back as they were, and made again where they are damaged."""

import json

import pytest

from scalelab.evals.measurement import MeasurementContext, MeasurementRow, WorkItem
from scalelab.evals.stored_rows import read_stored_rows, rows_of_item

MADE = [
    MeasurementRow("task", "facts", "sft", {"accuracy": 0.5, "n": 3, "low": None}, "facts: 50%", 0.25),
    MeasurementRow("pairwise", "a over b", None, {}, "nothing"),
]


@pytest.fixture
def measure(tmp_path):
    """A function that measures once: what came of it, how often it was made, what was reported."""
    calls, told = [], []

    def make():
        calls.append(1)
        return MADE

    def run():
        context = MeasurementContext(None, {}, folder=tmp_path, report=told.append)
        rows = rows_of_item(context, WorkItem(["what"], make))
        return rows, len(calls), told

    run.path = lambda: next(tmp_path.glob("*.json"))
    return run


def test_a_measurement_is_made_once(measure):
    assert measure()[:2] == (MADE, 1)
    assert measure()[:2] == (MADE, 1)


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text.replace("0.5", "0.6", 1),
        lambda text: text.replace("50%", "60%", 1),
        lambda text: text.replace('"id": "', '"id": "0', 1),
        lambda text: text[: len(text) // 2],
        lambda text: "",
        lambda text: "null",
        lambda text: "[1]",
        lambda text: '[{"kind": "task"}]',
    ],
)
def test_a_damaged_measurement_is_made_again(measure, damage):
    measure()
    path = measure.path()
    path.write_text(damage(path.read_text()))

    assert measure()[:2] == (MADE, 2)

    assert measure()[:2] == (MADE, 2)
    assert any(f"{path.name} is measured again" in said for said in measure()[2])


def test_a_measurement_of_another_id_is_made_again(measure, tmp_path):
    measure()
    path = measure.path()
    other = path.with_name("0" * 16 + ".json")
    path.rename(other)

    rows, damage = read_stored_rows(other)

    assert rows is None
    assert damage == f"it holds measurement {path.stem}"


def test_measurements_from_before_the_seals_are_read(measure):
    measure()
    measure.path().write_text(json.dumps([vars(one) for one in MADE], indent=1))

    assert measure()[:2] == (MADE, 1)
