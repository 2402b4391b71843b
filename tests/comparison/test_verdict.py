"""Verdicts, refusals and warnings, and the short form of the calibration."""

from dataclasses import replace

import numpy as np
import pytest
from compare import DESIGNS, calibrated, judged, promoted

from scalelab.comparison.arms import refuse_incomparable, refuse_shared
from scalelab.comparison.verdict import EXIT_STATUS, CompareRequest, _decide, compare_arms
from scalelab.errors import ConfigError, DataError, FitError, ScalelabError
from scalelab.records.evaluation_text import EvaluationText

SHORT = 40
"""Pairs of the short calibration; a page of 300 is analysis/compare.md."""


@pytest.mark.parametrize(("m", "verdict"), [(1.3, "promote"), (1.0, "tie"), (0.75, "reject")])
def test_the_verdict_follows_the_multiplier(simulated, m, verdict):
    found = judged(simulated(m=m, seed=1))

    assert found.verdict == verdict
    assert found.exit_status == EXIT_STATUS[verdict]
    assert found.pairs[0].reason


def test_intervals_hold_the_truth_four_times_in_five():
    found = calibrated(DESIGNS[2], SHORT, 0)

    for hits in (found.multiplier, found.trend):
        assert 0.8 - 3.3 * np.sqrt(0.16 / SHORT) <= np.mean(hits) <= 0.99


def test_a_recipe_that_is_worth_nothing_is_hardly_promoted():
    up, down = promoted(DESIGNS[3], SHORT, 1)

    assert up <= 4  # of 40 at level .025: chance .003
    assert down <= 4


def test_the_least_gain_moves_both_sides(simulated):
    arms = simulated(m=1.2, seed=2)

    assert judged(arms, min_gain=1.1).verdict == "promote"
    assert judged(arms, min_gain=1.4).verdict == "reject"


@pytest.mark.parametrize("gain", [0.99, 1.0, 1.01])
def test_a_difference_below_the_noise_floor_is_a_tie_at_every_least_gain(simulated, gain):
    arms = simulated(m=1.06, seed=5, design=DESIGNS[2])
    found = judged(arms, alpha=0.4, min_gain=gain).pairs[0]
    pair = found.pair
    limit = pair.fit.frontier(pair.C_0, True).L[0] - pair.fit.frontier(gain * pair.C_0, False).L[0]
    loud = replace(pair)
    loud.__dict__["floor"] = 1.01 * abs(limit)

    assert pair.excess == pytest.approx(limit)
    assert found.verdict == "promote"
    assert _decide(loud, found.p_promote, found.p_reject, found.level)[0] == "tie"
    there = pair.fit.frontier(gain * np.exp(np.array([0, loud.floor_distance])) * pair.C_0, False).L
    assert there[0] - there[1] == pytest.approx(loud.floor, rel=0.03)


def test_a_multiplier_beyond_the_compute_of_the_baseline_is_extrapolated(simulated):
    small, large = (judged(simulated(m=m, seed=1)).pairs[0] for m in (1.02, 4.0))

    assert small.pair.multiplier_kind(small.pair.C_0) == "fitted"
    assert large.to_json()["kinds"]["multiplier"] == "extrapolated"
    assert large.pair.rungs[0].kind == "fitted"
    assert large.pair.rungs[-1].to_json()["multiplier_kind"] == "extrapolated"
    assert any("outside the compute of its own runs" in text for text in large.warnings)
    assert not any("outside the compute" in text for text in small.warnings)


def test_a_crossing_decides_by_the_largest_shared_compute(simulated):
    arms = simulated(m=0.8, s=-0.12, seed=1)  # ahead at the smallest budget, behind at the largest

    found = judged(arms, replicates=400).pairs[0]

    assert found.pair.rungs[0].multiplier.value > 1
    assert found.verdict == "reject"
    assert found.pair.crossing.before == "other"
    assert found.pair.crossing.none < 0.05


def test_several_challengers_share_the_level(simulated):
    baseline, variant = simulated(m=1.06, seed=5, design=DESIGNS[2])
    alone = judged([baseline, variant]).pairs[0]
    others = [replace(variant, name=f"v{k}") for k in range(3)]

    many = judged([baseline, *others])

    assert [each.p_promote for each in many.pairs] == pytest.approx([3 * alone.p_promote] * 3)
    assert many.pairs[0].detectable > alone.detectable
    assert {each.name for each in many.pairs} == {"v0", "v1", "v2"}


def test_several_challengers_need_more_further_seeds(simulated):
    baseline, variant = simulated(m=1.02, seed=5, design=DESIGNS[2])
    others = [replace(variant, name=f"v{k}") for k in range(3)]

    alone, many = (judged([baseline, *arms]).pairs[0] for arms in ([variant], others))
    seeds = [{each.kind: each.count for each in found.further}["seeds"] for found in (alone, many)]

    assert alone.verdict == many.verdict == "tie"
    assert seeds[1] > seeds[0] > 0


def test_an_early_look_asks_for_more(simulated):
    arms = simulated(m=1.06, seed=5, design=DESIGNS[2])
    p = judged(arms).pairs[0].p_promote
    alpha = min(0.4, 1.5 * p)

    assert judged(arms, alpha=alpha).verdict == "promote"
    assert judged(arms, alpha=alpha, look=1, looks=3).verdict == "tie"


def refused(arms, kind, match, noise=None):
    with pytest.raises(kind, match=match) as error:
        refuse_incomparable(*arms, noise)
    assert error.value.fix
    return error.value


def test_other_evaluation_tokens_are_refused_unless_in_bits_per_byte(simulated):
    baseline, variant = simulated()
    baseline = replace(baseline, text=EvaluationText(data_digest="d1", tokenizer="bytes", tokens=4096))
    for name, value in (("data_digest", "d2"), ("tokenizer", "bpe"), ("tokens", 8192)):
        other = replace(variant, text=replace(baseline.text, **{name: value}))
        error = refused((baseline, other), DataError, "evaluated on other tokens")
        assert "--metric bpb" in error.fix
        bits = [replace(arm, metric="bpb") for arm in (baseline, other)]
        if name == "data_digest":  # cut by the same tokenizer, so the text is another
            refused(bits, DataError, "evaluated on other texts")
            continue
        refuse_incomparable(*bits, None)
        assert any("bits per byte" in text for text in judged(bits, metric="bpb").pairs[0].warnings)


@pytest.mark.parametrize("name", ["data", "source"])
def test_other_texts_are_refused_in_bits_per_byte(simulated, name):
    baseline, variant = (
        replace(arm, metric="bpb", text=EvaluationText(**{name: text}))
        for arm, text in zip(simulated(), ("one", "two"), strict=True)
    )

    refused((baseline, variant), DataError, "evaluated on other texts")


def test_one_seed_and_no_noise_estimate_is_refused(simulated):
    arms = simulated(seeds=1)

    error = refused(arms, FitError, "no noise estimate")

    assert "--noise" in error.fix
    refuse_incomparable(*arms, 0.01)
    assert judged(arms, noise=0.01).pairs[0].to_json()["noise"]["kind"] == "assumed"


def test_one_trunk_is_refused_unless_its_noise_is_stated(simulated):
    baseline, variant = simulated()
    one = replace(variant, runs=replace(variant.runs, group=np.full(len(variant.runs), "t")), trunks=True)

    error = refused((baseline, one), FitError, "noise between trunks of variant cannot be measured")

    assert "second trunk" in error.fix
    refuse_incomparable(baseline, one, 0.01)


def test_seeds_of_equal_losses_show_no_noise(simulated):
    arms = simulated(noise=0.0)
    noisy, _ = simulated()

    refused(arms, FitError, "runs of different seeds of baseline have the same loss")
    refused((noisy, arms[1]), FitError, "runs of different seeds of variant have the same loss")
    refuse_incomparable(*arms, 0.01)


def test_runs_that_stand_in_both_recipes_are_refused(simulated):
    baseline, variant = simulated()
    L = variant.runs.L.copy()
    L[0] = baseline.runs.L[0]
    common = replace(variant, runs=replace(variant.runs, L=L))
    rounded = [replace(arm, runs=replace(arm.runs, L=arm.runs.L.round(2))) for arm in (baseline, variant)]

    refuse_shared((baseline, variant), (False, False))
    refuse_shared(rounded, (False, False))  # some agree by chance
    with pytest.raises(DataError, match="1 runs stand in both baseline and variant"):
        refuse_shared((baseline, common), (False, False))
    with pytest.raises(DataError, match="60 runs stand in both"):
        refuse_shared((baseline, replace(variant, runs=baseline.runs)), (True, True))


def test_ladders_that_share_no_compute_are_refused(simulated):
    baseline, _ = simulated()
    _, variant = simulated(budgets=(1e21, 1e22))

    refused((baseline, variant), FitError, "share no compute range")


def test_other_counts_and_kinds_are_refused(simulated):
    baseline, variant = simulated()
    for name, value, what in (
        ("param_count", "matmul", "counts of parameters"),
        ("flop_count", "exact", "counts of FLOPs"),
        ("kind", "measured", "kinds of runs"),
    ):
        refused((baseline, replace(variant, **{name: value})), DataError, what)


def test_what_is_not_stated_or_differs_is_a_warning(simulated):
    baseline, variant = simulated()
    other = replace(variant, schedule="cosine", text=EvaluationText(seq_len=64))
    baseline = replace(baseline, schedule="wsd", text=EvaluationText(seq_len=32))

    text = " ".join(judged([baseline, other]).pairs[0].warnings)

    assert "neither a small learning rate is stated" in text
    assert "schedules differ" in text
    assert "contexts differ (32 and 64 tokens)" in text
    assert "evaluation tokens are not recorded" in text
    stated = judged([baseline, other], tuning="per-arm").pairs[0].warnings
    assert not any("learning rates" in each for each in stated)


def test_a_run_far_off_is_named(simulated):
    baseline, variant = simulated()
    L = variant.runs.L.copy()
    L[3] *= 1.2
    spoiled = replace(variant, runs=replace(variant.runs, L=L))

    (text,) = [w for w in judged([baseline, spoiled]).pairs[0].warnings if "far from the joint law" in w]

    assert f"{variant.runs.run[3]} of variant" in text


@pytest.mark.parametrize(
    "settings",
    [
        {"noise": -1.0},
        {"noise": float("nan")},
        {"min_gain": 0.0},
        {"min_gain": float("nan")},
        {"reach": 0.5},
        {"level": 1.0},
        {"alpha": 0.7},
        {"tuning": "well"},
        {"metric": "accuracy"},
        {"replicates": -1},
        {"replicates": 50},
        {"replicates": 200.5},
        {"seed": -1},
        {"min_gain": "1.1"},
        {"look": 1.5, "looks": 2},
        {"alpha": 1e-10, "looks": 2},
        {"law": ["chinchilla"]},
        {"law": "none"},
        {"gain": 2},
    ],
)
def test_an_impossible_request_is_refused(settings):
    with pytest.raises(ScalelabError):
        CompareRequest.of(**settings)


def test_a_comparison_needs_two_different_recipes(simulated):
    baseline, variant = simulated()

    for others in ([], [replace(variant, name=baseline.name)]):
        with pytest.raises(ConfigError, match="two different recipes"):
            compare_arms(baseline, others, CompareRequest())


def test_each_recipe_by_itself_stands_beside_the_joint_law(simulated):
    arms = simulated(m=1.3, noise=1e-6)

    found = compare_arms(arms[0], arms[1:], CompareRequest(replicates=0)).pairs[0]

    one, two = found.separate
    assert one.multiplier is None
    assert two.multiplier == pytest.approx(1.3, rel=0.01)
    assert one.loss == pytest.approx(found.pair.fit.frontier(found.pair.C_0, False).L[0], rel=1e-3)


def test_a_recipe_that_no_law_can_be_fitted_to_says_why(simulated):
    ladder, _ = simulated(design=DESIGNS[3])
    _, rung = simulated(m=1.3, design=DESIGNS[3], budgets=(1e18,))

    found = compare_arms(ladder, [rung], CompareRequest(replicates=0)).pairs[0]

    assert found.verdict == "promote"
    assert found.pair.crossing is None
    assert found.separate[1].refused
    assert any("no crossing can be seen" in text for text in found.warnings)
