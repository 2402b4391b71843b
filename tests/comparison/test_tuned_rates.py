"""Whether a recipe's learning rate is tuned: what was tried for it, what that says, what compare warns of."""

import numpy as np
import pytest

from scalelab.comparison.arms import evaluation_differences, refuse_incomparable
from scalelab.comparison.tuned_rates import ArmTuning, arm_tuning
from scalelab.comparison.verdict import CompareRequest, compare_arms
from scalelab.errors import DataError
from scalelab.records.evaluation_text import EvaluationText
from scalelab.records.tried_rates import RateCell, _same, tried_rates


def cell(rates, best, own, curvature=0.05):
    losses = tuple(4 * np.exp(curvature * np.log(np.array(rates) / best) ** 2))
    return RateCell(10_000, 200_000, own, tuple(rates), losses, ("tuning",))


@pytest.mark.parametrize(
    ("best", "own", "status"),
    [
        (6e-3, 6e-3, "tuned"),
        (6e-3, 8.5e-3, "tuned"),
        (6e-3, 1.1e-2, "off"),
        (6e-3, 3.4e-3, "off"),
        (9e-2, 6e-3, "open"),
    ],
)
def test_three_rates_say_whether_a_fourth_is_near_the_best(best, own, status):
    found = arm_tuning([cell((2e-3, 6e-3, 1.8e-2), best, own)])

    assert found.status == status
    if status != "open":
        assert found.findings[0].best == pytest.approx(best, rel=1e-6)


def test_eight_rates_are_fitted_with_an_interval():
    rates = tuple(np.geomspace(1e-3, 3.6e-2, 8))
    found = arm_tuning([cell(rates, 6e-3, 6e-3)])

    assert found.status == "tuned"
    assert found.findings[0].best == pytest.approx(6e-3, rel=1e-3)


def test_one_cell_that_is_off_counts_and_nothing_tried_is_no_status():
    rates = (2e-3, 6e-3, 1.8e-2)

    assert arm_tuning([cell(rates, 6e-3, 6e-3), cell(rates, 6e-3, 2e-2)]).status == "off"
    assert arm_tuning([cell(rates[:2], 6e-3, 6e-3)]).status == "open"
    assert arm_tuning([]).status is None


def warnings(simulated, one, two, tuning=None):
    base, other = simulated(m=1.3, seed=1)
    object.__setattr__(base, "tuning", one)
    object.__setattr__(other, "tuning", two)
    found = compare_arms(base, [other], CompareRequest(replicates=0, tuning=tuning), separate=False)
    return [text for text in found.pairs[0].warnings if "rate" in text]


def test_compare_warns_where_neither_condition_holds(simulated):
    rates = (2e-3, 6e-3, 1.8e-2)
    tuned, off = arm_tuning([cell(rates, 6e-3, 6e-3)]), arm_tuning([cell(rates, 6e-3, 2e-2)])

    assert warnings(simulated, tuned, tuned) == []
    (text,) = warnings(simulated, tuned, off)
    assert "neither a small learning rate is stated" in text
    assert "the best rate is 0.006" in text
    (text,) = warnings(simulated, tuned, ArmTuning())
    assert "no other rate was tried" in text
    assert warnings(simulated, ArmTuning(), ArmTuning(), "per-arm") == []
    (text,) = warnings(simulated, tuned, off, "per-arm")
    assert "the rates tried say otherwise" in text
    (text,) = warnings(simulated, tuned, ArmTuning(), "small-rate")
    assert "the stated small rate is the best one" in text


def test_rates_are_found_among_all_runs_of_the_same_recipe(tmp_path, monkeypatch):
    """Two sweeps of one recipe at other rates, and one of another recipe, through the real launcher."""
    from scalelab.config import parse_yaml
    from scalelab.launch.sweep import run_sweep
    from scalelab.sweep.file import SweepFile

    monkeypatch.setenv("SCALELAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("scalelab.tracking.sync.has_mlflow", lambda: False)
    text = """
name: {name}
question: Which?
prediction: None.
recipe:
  data: {{source: {{kind: synthetic, vocab: 64, topics: 4, documents: 300, length: 33}}}}
  seq_len: 16
  model: {{kind: transformer, n_layers: {layers}, head_size: 4}}
  optimizer: {{lr: {lr}}}
  batch: {{coefficient: 64, exponent: 0, min_tokens: 64, max_tokens: 64}}
  min_steps: 2
  evaluation: {{tokens: 256, curve_points: 1, curve_tokens: 256}}
design: {{kind: ladder, sizes: [1040], tokens: [256]}}
launch: {{executor: inline}}
"""
    for name, lr, layers in (("a", 1e-3, 1), ("b", 3e-3, 1), ("c", 9e-3, 1), ("other", 2e-2, 2)):
        run_sweep(
            SweepFile.parse(parse_yaml(text.format(name=name, lr=lr, layers=layers), name)),
            tmp_path,
            limit_s=None,
        )

    (found,) = tried_rates(tmp_path, "a")

    assert np.array(found.rates) / found.own == pytest.approx([1, 3, 9])  # the batch scales all alike
    assert found.sources == ("a", "b", "c")
    assert tried_rates(tmp_path, "other") == ()


def test_equal_validation_digests_allow_other_corpora(simulated):
    one = EvaluationText(data_digest="d1", validation_digest="v", tokenizer="t")
    other = EvaluationText(data_digest="d2", validation_digest="v", tokenizer="t")

    assert evaluation_differences(one, other) == []
    assert evaluation_differences(one, EvaluationText(data_digest="d2", tokenizer="t"))
    base, variant = simulated(m=1.3, seed=1)
    object.__setattr__(base, "text", one)
    object.__setattr__(
        variant, "text", EvaluationText(data_digest="d1", validation_digest="w", tokenizer="t")
    )
    with pytest.raises(DataError, match="digests of validation tokens differ"):
        refuse_incomparable(base, variant, 0.01)


def test_a_field_that_came_later_makes_no_other_recipe():
    text = {"kind": "synthetic", "vocab": 64, "topics": 4, "documents": 300, "length": 33}
    recipe = {
        "data": {"source": text},
        "seq_len": 16,
        "model": {"kind": "transformer", "n_layers": 1, "head_size": 4},
        "optimizer": {"lr": 1e-3},
        "batch": {"coefficient": 64, "exponent": 0},
    }
    later = {
        **recipe,
        "data": {"source": text, "weights": None, "train_share": 1.0},
        "optimizer": {"lr": 2e-3},
    }
    other = {**recipe, "data": {"source": text, "train_share": 0.5}}

    assert _same(later) == _same(recipe) != _same(other)
