"""The ledger: every forecast stays, judged once, misses among them."""

import json
from dataclasses import replace

import pytest

from scalelab.errors import PlanError
from scalelab.plan.frozen import freeze
from scalelab.plan.ledger import close, enter, entries, forecast_path, listing, outcome_path


@pytest.fixture
def frozen(slices):
    return named(slices, "first")


def named(slices, name, created="2026-01-01T00:00:00+00:00"):
    values = slices.forecast.values
    return freeze(
        slices,
        name=name,
        n_params=values["n_params"],
        n_tokens=values["n_tokens"],
        flops=3e20,
        code={"scalelab": "0.1.0", "commit": "abc"},
        data_digest=None,
        created=created,
    )


def ended(root, frozen, loss, status="finished", **settings):
    return close(
        root,
        frozen,
        **{
            "run": "abc123",
            "status": status,
            "reason": None,
            "n_params": 1.5e9,
            "n_tokens": 3.2e10,
            "flops": 3e20,
            "loss": loss,
            "seconds": 3600.0,
            "ended": "2026-01-02T00:00:00+00:00",
            **settings,
        },
    )


def test_a_forecast_is_entered_under_its_digest(frozen, tmp_path):
    path = enter(tmp_path, frozen)

    assert path == tmp_path / "forecasts" / f"{frozen.digest[:12]}.json"
    assert enter(tmp_path, frozen) == path
    assert entries(tmp_path) == [(frozen, None)]


@pytest.mark.parametrize(
    ("shift", "state", "held"),
    [(0.0, "held", True), (+0.5, "missed", False), (-0.5, "missed", False)],
)
def test_an_outcome_says_whether_the_interval_held(frozen, tmp_path, shift, state, held):
    outcome = ended(tmp_path, frozen, frozen.loss + shift)

    assert (outcome.state, outcome.held, outcome.held_statistical) == (state, held, held)
    assert outcome.error == pytest.approx(shift / frozen.loss)
    assert entries(tmp_path) == [(frozen, outcome)]


@pytest.mark.parametrize(
    ("status", "loss"), [("diverged", None), ("failed", None), ("diverged", 9.0)]
)
def test_a_run_without_a_result_has_failed(frozen, tmp_path, status, loss):
    outcome = ended(tmp_path, frozen, loss, status, reason="loss is not finite")

    assert (outcome.state, outcome.held, outcome.error) == ("failed", None, None)


def test_a_forecast_without_interval_is_not_judged(frozen, slices, tmp_path):
    bare = replace(frozen, quoted=None, statistical=None)

    assert ended(tmp_path, bare, 2.4).state == "unjudged"


def test_an_outcome_is_written_once(frozen, tmp_path):
    first = ended(tmp_path, frozen, 2.9)

    assert ended(tmp_path, frozen, 2.9, ended="2027-01-01T00:00:00+00:00") == first
    with pytest.raises(PlanError, match="has come to its outcome already: run abc123") as refused:
        ended(tmp_path, frozen, frozen.loss)
    assert "judged once" in refused.value.fix
    assert entries(tmp_path)[0][1] == first


def test_the_listing_keeps_the_misses(slices, tmp_path):
    each = [
        named(slices, name, f"2026-01-0{day}T00:00:00+00:00")
        for day, name in enumerate(("planned", "begun", "good", "bad", "broken"), start=1)
    ]
    for frozen in each:
        enter(tmp_path, frozen)
    _, begun, good, bad, broken = each
    ended(tmp_path, good, good.loss)
    ended(tmp_path, bad, bad.loss * 1.1)
    ended(tmp_path, broken, None, "diverged", reason="loss is not finite\nat step 3")

    text = listing(tmp_path, launched={begun.digest})

    rows = [line.split() for line in text.splitlines()[1:6]]
    assert [(row[3], row[1]) for row in rows] == [
        ("planned", "planned"),
        ("begun", "launched"),
        ("good", "held"),
        ("bad", "missed"),
        ("broken", "failed"),
    ]
    assert "+10.00%" in text
    assert "loss is not finite" in text
    assert "at step 3" not in text
    assert "1 of 2 intervals held" in text
    assert "80%" in text


def test_an_empty_ledger_says_how_to_begin(tmp_path):
    assert "scalelab plan" in listing(tmp_path)


def test_a_changed_forecast_stops_the_listing(frozen, tmp_path):
    path = enter(tmp_path, frozen)
    path.write_text(path.read_text().replace('"first"', '"second"'))

    with pytest.raises(PlanError, match="has been changed after it was frozen"):
        listing(tmp_path)


def test_an_outcome_of_another_forecast_is_refused(frozen, slices, tmp_path):
    other = named(slices, "other")
    ended(tmp_path, other, other.loss)
    enter(tmp_path, frozen)
    outcome_path(tmp_path, other.digest).rename(outcome_path(tmp_path, frozen.digest))

    with pytest.raises(PlanError, match="is the outcome of the forecast"):
        listing(tmp_path)


def test_an_outcome_that_cannot_be_read_is_refused(frozen, tmp_path):
    enter(tmp_path, frozen)
    outcome_path(tmp_path, frozen.digest).write_text(json.dumps({"schema": 1}))

    with pytest.raises(PlanError, match="cannot be read as an outcome"):
        listing(tmp_path)


def test_refuses_a_status_that_no_run_has(frozen, tmp_path):
    with pytest.raises(PlanError, match="unknown status 'done'"):
        ended(tmp_path, frozen, 2.4, "done")
    assert not forecast_path(tmp_path, frozen.digest).exists()
