"""What came true: the sentence, the comparison, the page and its figure, for every way to end."""

import json
from dataclasses import replace

import pytest

from scalelab.hardware.layout import Layout
from scalelab.plan.forecast.frozen import FrozenForecast
from scalelab.plan.forecast.ledger import Outcome
from scalelab.plan.plan import Plan
from scalelab.report.outcome.comparison import sentence
from scalelab.report.outcome.document import outcome_document
from scalelab.report.outcome.page import write_outcome
from scalelab.report.render.terminal import render_terminal
from scalelab.train.spec import RunResult

BAND = {
    "level": 0.99,
    "runs": ["a", "b", "c"],
    "share": [0.1, 0.5, 1.0],
    "low": [3.6, 3.2, 2.95],
    "expected": [3.8, 3.3, 3.04],
    "high": [4.0, 3.4, 3.13],
}


@pytest.fixture
def plan():
    return Plan(
        name="fam-6e12",
        target={"flops": 6.4e12, "words": "6.4e12 FLOPs"},
        n_params=2.5e5,
        n_tokens=3.9e6,
        param_count="matmul",
        flop_count="exact",
        cost={"days": 100 / 86400, "dollars": 1.0, "dollars_per_device_hour": 36.0},
        layout=Layout(replicate=2),
        sweep="fam",
        status={"cost": "measured"},
    )


@pytest.fixture
def frozen():
    return FrozenForecast(
        schema=1,
        name="fam-6e12",
        created="2026-01-02T03:04:05+00:00",
        target_flops=6.4e12,
        planned={"n_params": 2.5e5, "n_tokens": 3.9e6, "loss": 3.039, "tokens_per_param": 15.6},
        actual={"n_params": 250_000.0, "n_tokens": 4e6, "flops": 6.4e12, "tokens_per_param": 16.0},
        loss=3.04,
        quoted=[3.01, 3.18],
        statistical=[3.03, 3.05],
        level=0.8,
        law="isoflop",
        laws={"isoflop": {"loss": 3.04}},
        wasted=0.0,
        evidence={"digest": "e" * 64, "n_runs": 24, "kind": "measured"},
        param_count="matmul",
        flop_count="exact",
        reach=4.0,
        holdout=None,
        holdout_absent="too few budgets",
        grade="with caution",
        verdict="with caution: one reason",
        warnings=(),
        override=None,
        code={"scalelab": "0", "commit": "c"},
        data_digest="d1",
        band=BAND,
        band_absent=None,
        train_band=None,
    )


@pytest.fixture
def ended():
    """A function: what a run came to and what the ledger says of it, by its loss."""

    def end(frozen, loss, status="finished", reason=None, curve=((60, 2.4e6, 3.31),)):
        result = RunResult(
            run="f" * 12,
            status=status,
            reason=reason,
            seed=0,
            n_params_total=300_000,
            n_params_non_embedding=200_000,
            n_params_matmul=250_000,
            n_params_active=300_000,
            flops_per_token=1.6e6,
            flops=6.4e12,
            flops_6nd=7.2e12,
            n_tokens=4_000_000,
            n_tokens_planned=4_000_000,
            n_tokens_unique=4_000_000,
            n_steps=100,
            batch_tokens=40_000,
            micro_batch_tokens=40_000,
            seq_len=64,
            loss=loss,
            loss_se=0.01,
            bpb=None,
            curve=[list(p) for p in curve],
            train_curve=[[50, 2e6, 3.4], [100, 4e6, 3.05]],
            tokens_per_s=32_000.0,
            mfu=None,
            train_s=125.0,
            eval_s=5.0,
            device="cpu",
            precision="fp32",
            threads=2,
            n_resumes=0,
            tokenizer="bytes",
            data_digest="d1",
            versions={},
            finished_ms=0,
        )
        judged = loss if status == "finished" else None
        held = {"quoted": None, "statistical": None} if judged is None else frozen.held(judged)
        outcome = Outcome(
            frozen.digest,
            result.run,
            status,
            reason,
            250_000.0,
            4e6,
            6.4e12,
            loss,
            125.0,
            held["quoted"],
            held["statistical"],
            None if judged is None else judged / frozen.loss - 1,
            "2026-01-03T00:00:00+00:00",
        )
        return result, outcome

    return end


@pytest.mark.parametrize(
    ("loss", "word", "noise"),
    [(3.045, "held", "inside"), (3.17, "held", "outside"), (3.3, "did not hold", "outside")],
)
def test_the_sentence_says_whether_the_interval_held(plan, frozen, ended, loss, word, noise):
    result, outcome = ended(frozen, loss)

    said = render_terminal(outcome_document(plan, frozen, result, outcome), 100)

    assert said.startswith(f"The forecast {word}: the measured loss is {loss:.4f}")
    assert f"[3.0300, 3.0500] (measured loss: {noise})" in said
    assert f"{loss / 3.04 - 1:+.2%}" in said


def test_a_forecast_that_did_not_hold_has_its_distance(frozen, ended):
    _, outcome = ended(frozen, 3.30)

    assert "outside the 80% interval [3.0100, 3.1800] by 0.1200" in sentence(frozen, outcome)


def test_better_than_forecast_is_outside_too(frozen, ended):
    _, outcome = ended(frozen, 2.9)

    said = sentence(frozen, outcome)
    assert "did not hold" in said
    assert "4.61% better" in said


def test_a_run_without_a_loss_judges_nothing(plan, frozen, ended):
    result, outcome = ended(frozen, None, "diverged", "loss is nan at step 3")

    said = render_terminal(outcome_document(plan, frozen, result, outcome), 100)

    assert "(diverged: loss is nan at step 3)" in said
    assert "neither confirmed nor refuted" in said
    assert "The forecast" not in said


def test_a_forecast_without_interval_is_not_judged(frozen, ended):
    bare = replace(frozen, quoted=None, statistical=None)
    _, outcome = ended(bare, 3.04)

    assert "has no interval to compare with" in sentence(bare, outcome)


def test_every_number_says_what_it_is(plan, frozen, ended, tmp_path):
    result, outcome = ended(frozen, 3.06)

    page = write_outcome(plan, frozen, result, outcome, [], tmp_path)

    record = json.loads((tmp_path / "outcome.json").read_text())
    assert record["compared"]["loss"] == {
        "predicted": 3.04,
        "predicted_is": "extrapolated",
        "actual": 3.06,
        "actual_is": "measured",
        "error": 3.06 / 3.04 - 1,
    }
    assert record["compared"]["seconds"]["predicted"] == pytest.approx(100)
    assert record["compared"]["seconds"]["error"] == pytest.approx(0.25)
    # Two devices for 125 s at 36 dollars an hour.
    assert record["compared"]["dollars"]["actual"] == pytest.approx(2.5)
    assert (record["held"], record["state"]) == (True, "held")
    text = page.read_text()
    assert "| loss | 3.0400 | extrapolated | 3.0600 | +0.66% | nats per token |" in text
    assert frozen.digest in text
    assert (tmp_path / "course.svg").stat().st_size > 1000


def test_what_is_not_known_stays_unknown(plan, frozen, ended, tmp_path):
    result, outcome = ended(frozen, 3.06)
    unpriced = replace(plan, cost={"days": None, "dollars": None})

    write_outcome(unpriced, frozen, result, outcome, [], tmp_path)

    record = json.loads((tmp_path / "outcome.json").read_text())
    assert record["compared"]["dollars"]["actual"] is None
    assert record["compared"]["seconds"]["predicted"] is None
    assert "| unknown |" in (tmp_path / "README.md").read_text()


def test_points_outside_the_band_are_counted(plan, frozen, ended, tmp_path):
    """At step 50 the band goes from 3.2 to 3.4."""
    result, outcome = ended(frozen, 3.06, curve=((10, 4e5, 3.7), (50, 2e6, 3.5)))
    alarm = {
        "event": "alarm",
        "step": 50,
        "what": "validation",
        "side": "above",
        "loss": 3.5,
        "low": 3.2,
        "high": 3.4,
    }

    write_outcome(plan, frozen, result, outcome, [alarm, {"event": "step"}], tmp_path)

    record = json.loads((tmp_path / "outcome.json").read_text())
    assert record["left_band"] == [{"step": 50, "loss": 3.5, "side": "above"}]
    assert record["events"]["alarm"] == 1
    page = (tmp_path / "README.md").read_text()
    assert r"alarm at step 50: validation loss 3.5000 above the band \[3.2000, 3.4000\]" in page
    assert "outside the band at 1 of 2 points" in page


def test_an_outcome_without_curve_or_band_has_no_figure(plan, frozen, ended, tmp_path):
    result, outcome = ended(frozen, 3.06, curve=())
    (tmp_path / "course.png").write_bytes(b"of an earlier outcome")
    bare = replace(frozen, band=None, band_absent="no curves")

    page = write_outcome(plan, bare, result, outcome, [], tmp_path).read_text()

    assert not (tmp_path / "course.png").exists()
    assert "No figure" in page
    assert "There was no band to compare" in page
