"""Multipliers beyond the compute of the baseline's runs are bounds, wherever they are shown."""

import json
import math

import numpy as np
import pytest

from scalelab.api.comparisons import ComparisonResult
from scalelab.comparison.bounded import BoundedMultiplier, limits
from scalelab.comparison.verdict import CompareRequest, compare_arms
from scalelab.report.comparison.document import comparison_document
from scalelab.report.comparison.multipliers import multiplier_text, multiplier_with_interval
from scalelab.report.comparison.page import write_comparison
from scalelab.report.comparison.plot_data import multiplier_curve
from scalelab.report.render.terminal import render_terminal

RUNS = (1e18, 1e20)
"""Least and largest compute of the baseline's runs."""


@pytest.mark.parametrize(
    ("value", "interval", "text"),
    [
        (1.23, (1.01, 1.49), "1.23x [1.01x, 1.49x]"),
        (9.9, (8.0, 12.0), "9.9x [8x, open]"),
        (8103.0, (18.2, 3.6e6), "beyond the runs: more than 10x"),
        (12.0, (6.0, 20.0), "beyond the runs: more than 6x"),
        (12.0, (0.5, 300.0), "beyond the runs: more than 0.5x"),
        (12.0, (1e-5, 1e7), "beyond the runs"),
        (1e-4, (1e-9, 0.002), "beyond the runs: less than 0.002x"),
        (1e-4, (1e-9, 1e-5), "beyond the runs: less than 0.001x"),
        (1e-4, (1e-9, 100.0), "beyond the runs"),
        (math.inf, (2.0, math.inf), "beyond the runs: more than 2x"),
    ],
)
def test_a_multiplier_in_words(value, interval, text):
    assert multiplier_with_interval(BoundedMultiplier.of(value, interval, 1e20, RUNS, 10.0)) == text


@pytest.mark.parametrize("reach", [1.0, 10.0, 1000.0])
@pytest.mark.parametrize("C", [1e17, 1e18, 3e19, 1e20, 7e20])
def test_a_number_is_one_whose_loss_the_baseline_has_within_reach_of_its_runs(C, reach):
    rng = np.random.default_rng(1)
    least, most = limits(C, RUNS, reach)
    assert least <= 1 <= most, "equal compute is always shown"
    for _ in range(200):
        low, value, high = np.exp(np.sort(rng.normal(0, 8, 3)))
        found = BoundedMultiplier.of(value, (low, high), C, RUNS, reach)
        worth = value * C
        inside = min(C, RUNS[0]) / reach <= worth <= reach * max(C, RUNS[1])
        assert (found.value == value) if inside else (found.value is None)
        if found.above is not None:
            assert value > most
            assert found.above <= min(low, most)
        if found.below is not None:
            assert value < least
            assert found.below >= max(high, least)
        for end, shown in ((low, found.low), (high, found.high)):
            assert shown is None or shown == end
        json.dumps(found.to_json(), allow_nan=False)


def test_what_needs_far_more_compute_than_was_run_is_a_bound_everywhere(simulated, tmp_path):
    arms = simulated(m=300.0, seed=1)
    found = compare_arms(arms[0], arms[1:], CompareRequest(noise=0.01, replicates=0))
    (judged,) = found.pairs
    fitted = judged.pair.multiplier
    assert fitted > 100
    assert judged.verdict == "promote"

    record = found.to_json()["challengers"][0]
    assert record["multiplier"] is None
    assert 1 < record["multiplier_above"] <= 10 * judged.pair.baseline.most_flops / judged.pair.C_0
    assert record["multiplier_below"] is None
    assert record["trend"]["per_decade"] is record["trend"]["interval"] is None
    assert record["rungs"][-1]["multiplier"] is record["rungs"][-1]["measured_multiplier"] is None

    text = render_terminal(comparison_document(found))
    bound = multiplier_text(judged.pair.bounded(judged.pair.C_0))
    assert f"beyond the runs: {bound}" in text
    assert "with less than 10% of the compute" in text
    assert "has a bound and no number" in text
    write_comparison(found, tmp_path / "page")
    for shown in (text, *(path.read_text() for path in (tmp_path / "page").glob("*.md"))):
        assert f"{fitted:.3g}x" not in shown

    frame = ComparisonResult((), found).to_frame()
    assert math.isnan(frame["multiplier"].iloc[-1])
    assert frame["multiplier_above"].iloc[-1] == pytest.approx(record["multiplier_above"])

    curve = multiplier_curve(found, judged)
    assert np.isnan(curve.multiplier).any()
    assert np.isfinite(curve.low).all()
    assert curve.high.max() <= 10 * judged.pair.baseline.most_flops / curve.flops[0]


def test_a_larger_reach_shows_the_number(simulated):
    arms = simulated(m=300.0, seed=1)
    found = compare_arms(
        arms[0], arms[1:], CompareRequest(noise=0.01, replicates=0, reach=1000.0), separate=False
    )
    pair = found.pairs[0].pair
    assert pair.bounded(pair.C_0).value == pair.multiplier


def test_what_is_within_reach_keeps_number_trend_and_interval(simulated):
    arms = simulated(m=1.3, s=0.05, seed=1)
    found = compare_arms(arms[0], arms[1:], CompareRequest(noise=0.01, replicates=0), separate=False)
    record, pair = found.to_json()["challengers"][0], found.pairs[0].pair
    assert record["multiplier"] == pair.multiplier
    assert record["interval"] == pair.multiplier_interval(pair.C_0)
    assert record["multiplier_above"] is record["multiplier_below"] is None
    assert record["trend"]["per_decade"] == pair.trend
