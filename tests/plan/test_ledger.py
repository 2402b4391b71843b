"""The ledger: every forecast stays, judged once, misses among them."""

import json
from dataclasses import asdict, replace

import pytest

from scalelab.errors import PlanError
from scalelab.plan.forecast.frozen import freeze
from scalelab.plan.forecast.ledger import close, enter, entries, forecast_path, outcome_path
from scalelab.report.listing.forecasts import forecasts_document
from scalelab.report.render.terminal import render_terminal


def listing(root, every, begun=()):
    """What `scalelab runs --forecasts` prints on a wide terminal."""
    return render_terminal(forecasts_document(root, every, begun), 200)


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
    assert entries(tmp_path) == [(path, frozen, None, None)]


@pytest.mark.parametrize(
    ("shift", "state", "held"), [(0.0, "held", True), (+0.5, "missed", False), (-0.5, "missed", False)]
)
def test_an_outcome_says_whether_the_interval_held(frozen, tmp_path, shift, state, held):
    outcome = ended(tmp_path, frozen, frozen.loss + shift)

    assert (outcome.state, outcome.held, outcome.held_statistical) == (state, held, held)
    assert outcome.error == pytest.approx(shift / frozen.loss)
    assert [entry[1:] for entry in entries(tmp_path)] == [(frozen, outcome, None)]


@pytest.mark.parametrize(("status", "loss"), [("diverged", None), ("failed", None), ("diverged", 9.0)])
def test_a_run_without_a_result_has_failed(frozen, tmp_path, status, loss):
    outcome = ended(tmp_path, frozen, loss, status, reason="loss is not finite")

    assert (outcome.state, outcome.held, outcome.error) == ("failed", None, None)


def test_a_forecast_without_interval_is_not_judged(frozen, slices, tmp_path):
    bare = replace(frozen, quoted=None, statistical=None)

    assert ended(tmp_path, bare, 2.4).state == "unjudged"


def test_an_outcome_is_written_once(frozen, tmp_path):
    first = ended(tmp_path, frozen, 2.9)

    assert ended(tmp_path, frozen, 2.9, ended="2027-01-01T00:00:00+00:00") == first
    with pytest.raises(PlanError, match="already has an outcome: run abc123") as refused:
        ended(tmp_path, frozen, frozen.loss)
    assert "compared once" in refused.value.fix
    assert entries(tmp_path)[0].outcome == first


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

    text = listing(tmp_path, entries(tmp_path), {begun.digest})

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
    assert "scalelab plan" in listing(tmp_path, entries(tmp_path))


def unreadable(root):
    """The problems of a ledger, each of which has a row with its file."""
    every = entries(root)
    text = listing(root, every)
    found = [entry for entry in every if entry.problem is not None]
    for entry in found:
        assert any("unreadable" in line for line in text.splitlines())
        assert len(str(entry.problem).splitlines()) == 3
    assert f"{len(found)} unreadable" in text
    return [entry.problem for entry in found]


def test_a_changed_forecast_is_shown_and_the_others_are_listed(frozen, slices, tmp_path):
    enter(tmp_path, named(slices, "other"))
    path = enter(tmp_path, frozen)
    path.write_text(path.read_text().replace('"first"', '"second"'))

    (problem,) = unreadable(tmp_path)
    assert "has been changed after it was frozen" in problem.problem
    assert problem.where == str(path)
    text = listing(tmp_path, entries(tmp_path))
    assert str(path) in text
    assert [line.split()[3] for line in text.splitlines() if " planned " in line] == ["other"]


def test_a_forecast_lies_under_its_own_digest(frozen, tmp_path):
    path = enter(tmp_path, frozen)
    path.rename(path.with_name("0123456789ab.json"))

    (problem,) = unreadable(tmp_path)
    assert "0123456789ab.json holds the forecast" in problem.problem
    assert f"rename it to {path.name}" in problem.fix


def test_an_outcome_of_another_forecast_is_refused(frozen, slices, tmp_path):
    other = named(slices, "other")
    ended(tmp_path, other, other.loss)
    enter(tmp_path, frozen)
    outcome_path(tmp_path, other.digest).rename(outcome_path(tmp_path, frozen.digest))

    (problem,) = unreadable(tmp_path)
    assert "it is the outcome of forecast" in problem.problem


def test_an_outcome_that_cannot_be_read_is_refused(frozen, tmp_path):
    enter(tmp_path, frozen)
    outcome_path(tmp_path, frozen.digest).write_text(json.dumps({"schema": 1}))

    (problem,) = unreadable(tmp_path)
    assert "cannot be read as a forecast outcome: it has no digest" in problem.problem
    with pytest.raises(PlanError, match="cannot be read as a forecast outcome"):
        ended(tmp_path, frozen, 2.4)


def test_a_miss_is_not_forgotten_with_its_forecast(frozen, tmp_path):
    ended(tmp_path, frozen, frozen.loss * 2)
    forecast_path(tmp_path, frozen.digest).unlink()

    (problem,) = unreadable(tmp_path)
    assert "its forecast is missing" in problem.problem
    assert problem.where == str(forecast_path(tmp_path, frozen.digest))


def test_the_run_of_a_forecast_alone_judges_it(frozen, tmp_path):
    named_run = replace(frozen, run="abc123")

    ended(tmp_path, named_run, 2.4)
    with pytest.raises(PlanError, match="is for run abc123, and f00 has ended"):
        ended(tmp_path, named_run, 2.4, run="f00")


def test_an_outcome_from_before_the_seals_has_to_follow_from_its_forecast(frozen, tmp_path):
    path = outcome_path(tmp_path, frozen.digest)
    outcome = ended(tmp_path, frozen, frozen.loss * 2)
    record = {"schema": 1, **asdict(outcome)}

    path.write_text(json.dumps(record))
    assert entries(tmp_path)[0].outcome == outcome

    for change in ({"held": True}, {"error": 0.0}, {"loss": frozen.loss}, {"loss": "2.4"}):
        path.write_text(json.dumps(record | change))
        assert len(unreadable(tmp_path)) == 1


def test_refuses_a_status_that_no_run_has(frozen, tmp_path):
    with pytest.raises(PlanError, match="unknown status 'done'"):
        ended(tmp_path, frozen, 2.4, "done")
    assert not forecast_path(tmp_path, frozen.digest).exists()
