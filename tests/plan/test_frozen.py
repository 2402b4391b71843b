"""A frozen forecast: what it holds, that it cannot be changed unseen, when it is refused."""

import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest

from scalelab.errors import PlanError
from scalelab.laws.observations import Observations
from scalelab.plan.forecast.band import RunCurve
from scalelab.plan.forecast.frozen import FrozenForecast, freeze, runs_digest
from scalelab.plan.forecast.gate import gate
from scalelab.plan.forecast.same import same_forecast
from scalelab.study.study import study


def curves():
    points = [[s * 100, s, 2.5 + 0.3 * (1 / s - 1)] for s in (0.25, 0.5, 0.75)]
    return [RunCurve(f"r{i}", 1e9, 2e10, 100, 2.5 + 0.01 * i, points) for i in range(4)]


def frozen_of(slices, **settings):
    N = slices.forecast.values["n_params"] * 1.02
    return freeze(
        slices,
        **{
            "name": "demo",
            "n_params": N,
            "n_tokens": 2.97e20 / 6 / N,
            "flops": 2.97e20,
            "code": {"scalelab": "0.1.0", "commit": "abc"},
            "data_digest": "d1",
            "curves": curves(),
            "created": "2026-01-01T00:00:00+00:00",
            **settings,
        },
    )


@pytest.fixture(scope="module")
def frozen(slices):
    return frozen_of(slices)


def test_it_foretells_the_model_to_be_launched_and_not_the_optimum(frozen, slices):
    assert frozen.planned["loss"] == slices.forecast.values["loss"]
    assert frozen.loss > frozen.planned["loss"]  # a little less compute
    assert frozen.actual["flops"] == 2.97e20
    assert frozen.actual["tokens_per_param"] == pytest.approx(
        frozen.actual["n_tokens"] / frozen.actual["n_params"]
    )
    low, high = frozen.quoted
    assert low < frozen.loss < high
    assert frozen.quoted[0] <= frozen.statistical[0]
    assert frozen.quoted[1] >= frozen.statistical[1]


def test_the_band_ends_in_the_quoted_interval_and_not_in_the_noise_alone(hoffmann):
    values = hoffmann.forecast.values
    model = {"n_params": values["n_params"], "n_tokens": values["n_tokens"], "flops": 5.76e23}

    found = frozen_of(hoffmann, **model, train_curves=curves(), override="the band is what is tested")

    assert found.quoted[0] < found.statistical[0]
    for end in (found.stop_band.at(1.0), found.stop_train_band.at(1.0)):
        assert end == pytest.approx((found.quoted[0], found.loss, found.quoted[1]))


def test_it_says_from_what_it_was_made(frozen, slices):
    assert frozen.evidence["n_runs"] == 105
    assert frozen.evidence["flops"] == pytest.approx([1e18, 1e20])
    assert frozen.evidence["digest"] == runs_digest(slices.runs)
    assert frozen.reach == pytest.approx(2.97)
    assert frozen.holdout["passed"] is True
    assert frozen.grade == slices.verdict.grade
    assert frozen.param_count == "total"
    assert set(frozen.laws) == {"isoflop", "chinchilla", "kaplan"}
    assert frozen.stop_band.at(1.0)[1] == pytest.approx(frozen.loss)
    assert frozen.stop_train_band is None


def test_the_file_holds_it_whole(frozen, tmp_path):
    path = tmp_path / "plan" / "forecast.json"

    frozen.write(path)
    loaded = FrozenForecast.load(path)

    assert loaded == frozen
    assert loaded.digest == frozen.digest == json.loads(path.read_text())["digest"]
    assert len(frozen.digest) == 64
    assert [p.name for p in path.parent.iterdir()] == ["forecast.json"]


@pytest.mark.parametrize(
    "change",
    [
        lambda r: r.update(loss=r["loss"] + 1e-12),
        lambda r: r["quoted"].__setitem__(1, 9.0),
        lambda r: r["evidence"].update(n_runs=3),
        lambda r: r["band"]["high"].__setitem__(0, 99.0),
        lambda r: r.update(override="meant well"),
        lambda r: r.update(extra=1),
        lambda r: r.pop("verdict"),
        lambda r: r.update(digest="0" * 64),
    ],
)
def test_a_change_after_freezing_is_seen(frozen, tmp_path, change):
    path = tmp_path / "forecast.json"
    frozen.write(path)
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))

    with pytest.raises(PlanError, match="has been changed after it was frozen") as refused:
        FrozenForecast.load(path)
    assert refused.value.where == str(path)
    assert "restore the file" in refused.value.fix


def test_another_set_of_fields_is_no_forecast_whatever_its_digest(frozen, tmp_path):
    record = frozen.to_json()
    del record["verdict"], record["digest"]
    text = json.dumps(record, sort_keys=True, separators=(",", ":"))
    record["digest"] = hashlib.sha256(text.encode()).hexdigest()
    path = tmp_path / "forecast.json"
    path.write_text(json.dumps(record))

    with pytest.raises(PlanError, match="has been changed"):
        FrozenForecast.load(path)


def test_layout_of_the_file_is_no_change(frozen, tmp_path):
    path = tmp_path / "forecast.json"
    path.write_text(json.dumps(frozen.to_json(), sort_keys=True))

    assert FrozenForecast.load(path) == frozen


def test_another_forecast_is_never_replaced(frozen, slices, tmp_path):
    path = tmp_path / "forecast.json"
    frozen.write(path)
    before = path.read_bytes()

    frozen.write(path)  # the same again
    with pytest.raises(PlanError, match="the file has another forecast"):
        frozen_of(slices, name="other").write(path)

    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "cannot be read as a forecast"),
        ("[1]", "holds no forecast"),
        ('{"schema": 1}', "is not a frozen forecast of schema 2"),
        ('{"schema": 7, "digest": "x"}', "is not a frozen forecast of schema 2"),
    ],
)
def test_refuses_a_file_that_is_no_forecast(tmp_path, text, said):
    path = tmp_path / "forecast.json"
    path.write_text(text)

    with pytest.raises(PlanError, match=said):
        FrozenForecast.load(path)


def test_refuses_a_file_that_is_not_there(tmp_path):
    with pytest.raises(PlanError, match="cannot be read as a forecast"):
        FrozenForecast.load(tmp_path / "forecast.json")


def test_intervals_hold_their_own_ends_and_not_beyond(frozen):
    low, high = frozen.quoted

    assert frozen.held(low)["quoted"] is True
    assert frozen.held(high)["quoted"] is True
    assert frozen.held(np.nextafter(high, 9))["quoted"] is False
    assert frozen.held(np.nextafter(low, 0))["quoted"] is False
    assert frozen.held(np.nextafter(frozen.statistical[1], 9))["statistical"] is False


# --- the gate ---


def test_within_bounds_nothing_is_said():
    assert gate(99.0, "sound", False, None) == ()
    assert gate(99.0, "with caution", False, None) == ()


@pytest.mark.parametrize(
    ("case", "said"),
    [
        ((101.0, "sound", False, None), "reaches 101x beyond the evidence"),
        ((2.0, "sound", True, None), "the error of the hold-out loss exceeds 1%"),
        ((2.0, "sound", None, None), "there is no hold-out"),
        ((2.0, "do not rely", False, "to see"), "do not rely on it; overridden: to see"),
    ],
)
def test_doubts_are_told_before_a_launch(case, said):
    warnings = gate(*case)

    assert len(warnings) == 1
    assert said in warnings[0]


def test_refuses_past_a_thousandfold_reach_without_a_reason():
    with pytest.raises(PlanError, match="reaches 1,001x beyond") as refused:
        gate(1001.0, "sound", False, None)
    assert '--override "REASON"' in refused.value.fix
    assert "overridden: the boss wants it" in gate(1001.0, "sound", False, "the boss wants it")[0]


def test_refuses_what_is_not_to_be_relied_on_without_a_reason():
    with pytest.raises(PlanError, match="do not rely on it"):
        gate(2.0, "do not rely", False, None)


def test_refuses_an_override_without_a_reason():
    with pytest.raises(PlanError, match="an override without a reason"):
        gate(2.0, "sound", False, "  ")


def test_nothing_is_frozen_beyond_the_gate_but_with_the_reason_in_it(slices):
    far = study(
        slices.runs, target_flops=2e23, param_count="total", level=0.8, replicates=50, laws=("isoflop",)
    )
    N = far.forecast.values["n_params"]
    model = {"n_params": N, "n_tokens": 2e23 / 6 / N, "flops": 2e23}

    with pytest.raises(PlanError, match="reaches 2,000x beyond"):
        frozen_of(far, **model)
    allowed = frozen_of(far, **model, override="a test of the far end")

    assert allowed.override == "a test of the far end"
    assert "overridden: a test of the far end" in allowed.warnings[0]
    assert allowed.band is None
    assert allowed.band_absent == "the forecast has no interval"


# --- digests ---


def test_the_runs_have_one_digest_in_any_order(slices):
    runs = slices.runs
    order = np.random.default_rng(0).permutation(len(runs))

    assert runs_digest(runs.take(order)) == runs_digest(runs)


def test_recorded_columns_count_as_they_always_did_and_others_beside_them():
    N, D, L = np.array([1e6, 2e6]), np.array([1e7, 2e7]), np.array([3.0, 2.9])
    recorded = {"n_tokens_unique": D / 2, "n_steps": D / 1e3, "batch_tokens": np.full(2, 1e3)}
    own = {**recorded, "learning_rate": np.array([1e-3, 2e-3])}

    # Digests that stand in frozen forecasts.
    bare, full = (runs_digest(Observations.of(N, D, L, columns=c)) for c in ({}, recorded))
    assert bare == "59fe326f5fa40387413b8b7bb42297254d8ed145ec37a378c48521ec5c215b42"
    assert full == "d6bcf7eff6871f10e0cd0ced3a962f99e718ffa8f219b20d67f30237d3a717cd"
    assert runs_digest(Observations.of(N, D, L, columns=own)) not in (bare, full)


def test_another_loss_of_one_run_is_another_digest():
    N, D = np.array([1e6, 2e6]), np.array([1e7, 1e7])

    one = Observations.of(N, D, np.array([3.0, 2.9]))
    other = Observations.of(N, D, np.array([3.0, 2.9 + 1e-12]))

    assert runs_digest(one) != runs_digest(other)


@pytest.mark.parametrize(
    ("change", "same"),
    [
        (
            lambda f: replace(f, loss=f.loss * (1 + 1e-12), quoted=(f.quoted[0] * (1 - 1e-9), f.quoted[1])),
            True,
        ),
        (lambda f: replace(f, created="2027-01-01T00:00:00+00:00", code={}, verdict="In other words."), True),
        (lambda f: replace(f, override="because"), True),
        (lambda f: replace(f, loss=f.loss * 1.0001), False),
        (lambda f: replace(f, quoted=(f.quoted[0], f.quoted[1] * 1.0001)), False),
        (lambda f: replace(f, evidence={**f.evidence, "digest": "of other runs"}), False),
        (lambda f: replace(f, evidence={**f.evidence, "n_runs": f.evidence["n_runs"] + 1}), False),
        (lambda f: replace(f, run="another"), False),
        (lambda f: replace(f, grade="do not rely"), False),
        (lambda f: replace(f, wasted=None), False),
    ],
    ids=[
        "last digits",
        "wording",
        "reason",
        "loss",
        "interval",
        "evidence",
        "runs",
        "run",
        "grade",
        "absent",
    ],
)
def test_a_forecast_made_again_is_the_same_up_to_the_last_digits_of_a_fit(frozen, change, same):
    assert same_forecast(change(frozen), frozen) is same
