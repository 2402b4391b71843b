"""Win rates: closed forms, planted length bias undone, coverage, and what separates."""

import time
from dataclasses import replace

import numpy as np
import pytest

from scalelab.errors import ConfigError, DataError
from scalelab.evals.preference.judgments import Judgments
from scalelab.evals.preference.pairwise import length_controlled, positions, verbosity, win_rate


def sigmoid(x):
    return np.exp(-np.logaddexp(0, -x))


def judged(n=805, theta=0.0, phi=1.2, longer=1.35, seed=0, soft=False, prompts=0):
    """Pairs whose verdict depends on theta and on length, as the model of the module says.

    Lengths are drawn for prompts first where `prompts` is given, so that seeds can share them.
    """
    rng = np.random.default_rng(seed)
    drawn = np.random.default_rng((prompts, 7)) if prompts else rng
    baseline_length = drawn.lognormal(6.7, 0.5, n)
    length = longer * drawn.lognormal(6.7, 0.5, n)
    difference = length - baseline_length
    chance = sigmoid(theta + phi * np.tanh(difference / difference.std(ddof=1)))
    verdict = (rng.random(n) < chance).astype(float)
    if soft:
        verdict = 0.9 * verdict + 0.05
    return Judgments("tuned", "base", np.arange(n), verdict, length, baseline_length)


def plain(verdict, prompt=None, **other):
    verdict = np.asarray(verdict, float)
    prompt = np.arange(len(verdict)) if prompt is None else np.asarray(prompt)
    return Judgments("m", "b", prompt, verdict, **other)


def test_ties_are_half_a_win():
    rate = win_rate(plain([1, 1, 0, 0.5, 0.5]))

    assert rate.share.value == pytest.approx(0.6)
    assert rate.tie_share == pytest.approx(0.4)
    assert "60.0%" in rate.summary()
    assert "5 pairs of 5 prompts, one order each, 40.0% ties" in rate.summary()


def test_a_prompt_counts_once_however_many_pairs_it_has():
    rate = win_rate(plain([1, 1, 1, 0], prompt=["p", "p", "p", "q"]))

    assert rate.share.value == pytest.approx(0.5)
    assert (rate.n_prompts, rate.n_pairs) == (2, 4)


def test_models_swapped_mirror_the_win_rate():
    pairs = judged()
    mirrored = replace(
        pairs, verdict=1 - pairs.verdict, length=pairs.baseline_length, baseline_length=pairs.length
    )

    for measure in (win_rate, length_controlled):
        one, other = (measure(each).share for each in (pairs, mirrored))
        assert one.value + other.value == pytest.approx(1, abs=1e-9)
        assert one.interval[0] + other.interval[1] == pytest.approx(1, abs=1e-9)


def test_the_interval_of_independent_verdicts_is_the_binomial_one():
    verdict = np.repeat([1.0, 0.0], [600, 400])

    low, high = win_rate(plain(verdict), replicates=4000).share.interval

    half = 1.96 * np.sqrt(0.6 * 0.4 / 1000)
    assert [low, high] == pytest.approx([0.6 - half, 0.6 + half], abs=0.004)


def test_pairs_of_one_prompt_share_its_luck():
    """Ten copies of every verdict are no news: the interval is that of the prompts."""
    verdict = (np.random.default_rng(0).random(100) < 0.6).astype(float)
    copies = plain(np.repeat(verdict, 10), prompt=np.repeat(np.arange(100), 10))

    one, ten = (win_rate(each, seed=1).share.interval for each in (plain(verdict), copies))

    assert ten == pytest.approx(one, abs=1e-9)


def test_every_prompt_won_has_the_exact_binomial_end():
    """Clopper & Pearson: 20 of 20 are won by chance .025 at a rate of .025^(1/20)."""
    won, lost = (win_rate(plain(np.full(20, share))).share for share in (1, 0))

    assert won.interval == pytest.approx([0.025 ** (1 / 20), 1])
    assert lost.interval == pytest.approx([0, 1 - 0.025 ** (1 / 20)])
    assert "exact binomial: every prompt is won" in str(won)


def test_ties_throughout_have_no_interval():
    share = win_rate(plain(np.full(20, 0.5))).share

    assert share.interval is None
    assert "no interval: every prompt has the same share" in str(share)


def test_no_replicates_no_interval():
    for measure in (win_rate, length_controlled):
        assert measure(judged(n=50), replicates=0).share.interval is None


def test_length_control_undoes_a_judge_that_looks_at_length_alone():
    fit = length_controlled(judged())

    assert fit.raw > 0.56
    assert fit.share.interval[0] < 0.5 < fit.share.interval[1]
    assert fit.phi == pytest.approx(1.2, abs=0.3)  # standard error near .12
    assert not fit.extrapolates
    assert fit.ridge is None


@pytest.mark.parametrize("theta", [-0.7, 0.4])
def test_length_control_finds_the_theta_that_made_the_verdicts(theta):
    fit = length_controlled(judged(n=20000, theta=theta), replicates=0)

    # standard error of theta near .017
    assert fit.theta == pytest.approx(theta, abs=0.06)
    assert fit.share.value == pytest.approx(sigmoid(fit.theta))


def test_two_lengths_have_a_closed_form():
    """With dlen = +-d the fit is exact: logits of the two win rates, .8 and .4, and their mean."""
    length = np.repeat([300.0, 100.0], 10)
    verdict = np.repeat([1.0, 0.0, 1.0, 0.0], [8, 2, 4, 6])

    fit = length_controlled(plain(verdict, length=length, baseline_length=np.full(20, 200.0)))

    logits = np.log([0.8 / 0.2, 0.4 / 0.6])
    z = np.tanh(100 / np.std(length - 200, ddof=1))
    assert fit.theta == pytest.approx(logits.mean(), rel=1e-6)
    assert fit.phi == pytest.approx(np.ptp(logits) / 2 / z, rel=1e-6)
    assert fit.mean_difference == 0


@pytest.mark.parametrize(
    ("length", "verdict", "times"),
    [
        ([102, 241, 225], [0.0, 0.99, 0.003], [8, 187, 2]),
        ([38, 280, 85, 46], [0.994, 0.0, 0.0, 0.488], [247, 4, 3, 2]),
    ],
)
def test_expected_wins_equal_the_wins_where_full_newton_steps_run_away(length, verdict, times):
    """The two conditions that define the fit: residuals sum to 0, alone and against z."""
    length, verdict = (np.repeat(np.array(each, float), times) for each in (length, verdict))
    difference = length - 150

    fit = length_controlled(
        plain(verdict, length=length, baseline_length=np.full(len(length), 150.0)), replicates=0
    )

    z = np.tanh(difference / difference.std(ddof=1))
    left = verdict - sigmoid(fit.theta + fit.phi * z)
    assert fit.ridge is None
    assert [left.sum(), left @ z] == pytest.approx([0, 0], abs=1e-5)


def test_agrees_with_a_binomial_glm():
    """Soft labels; HC1 is the sandwich that the bootstrap should come near."""
    glm = pytest.importorskip("statsmodels.api")
    pairs = judged(soft=True)
    difference = pairs.length - pairs.baseline_length
    design = np.column_stack([np.ones(805), np.tanh(difference / difference.std(ddof=1))])
    theirs = glm.GLM(pairs.verdict, design, family=glm.families.Binomial()).fit(cov_type="HC1")

    ours = length_controlled(pairs)

    assert [ours.theta, ours.phi] == pytest.approx(theirs.params, abs=1e-6)
    # Ends of 1000 replicates scatter by a tenth of the half width of .035.
    assert ours.share.interval == pytest.approx(sigmoid(theirs.conf_int()[0]), abs=0.008)


def test_the_interval_of_length_control_covers_the_truth():
    """100 sets of 200 pairs at theta = .3. The binomial spread is 3 points."""
    hits = []
    for seed in range(100):
        low, high = length_controlled(
            judged(n=200, theta=0.3, seed=seed), level=0.9, replicates=200, seed=seed
        ).share.interval
        hits.append(low <= sigmoid(0.3) <= high)

    assert 0.82 <= np.mean(hits) <= 0.97


def test_the_unit_of_length_does_not_matter():
    pairs = judged(n=200)
    words = replace(
        pairs, length=pairs.length / 5, baseline_length=pairs.baseline_length / 5, length_unit="words"
    )

    one, other = (length_controlled(each) for each in (pairs, words))

    assert other.share.interval == pytest.approx(one.share.interval, abs=1e-9)
    assert other.scale == pytest.approx(one.scale / 5)
    assert "words" in other.summary()


def test_lengths_of_unsigned_integers_may_be_shorter():
    pairs = judged(n=200)
    counted = [np.rint(each).astype(np.uint32) for each in (pairs.length, pairs.baseline_length)]

    fit = length_controlled(replace(pairs, length=counted[0], baseline_length=counted[1]))

    assert fit.phi == pytest.approx(length_controlled(pairs).phi, rel=0.01)


def test_a_thousand_replicates_of_805_pairs_are_quick():
    """Of processor time; .2 to .3 s when alone on one core."""
    pairs = judged()
    start = time.process_time()

    length_controlled(pairs, replicates=1000)

    assert time.process_time() - start < 2.0


@pytest.mark.parametrize("longer_wins", [True, False])
def test_verdicts_that_length_separates_take_the_ridge_and_say_so(longer_wins):
    length = np.arange(1.0, 21)
    verdict = ((length > 12) == longer_wins).astype(float)

    fit = length_controlled(plain(verdict, length=length, baseline_length=np.full(20, 10.0)))

    assert fit.ridge == 0.01
    assert fit.share.interval is None
    # At equal lengths, 10, all verdicts are those of the short answers.
    assert 0 < fit.share.value < 0.5 if longer_wins else 0.5 < fit.share.value < 1
    assert "length alone separates (almost) all verdicts" in fit.summary()
    assert "no interval: no finite fit" in fit.summary()


def test_verdicts_short_of_certain_are_not_separable():
    """A probability of .9 is a little of a loss too."""
    length = np.arange(1.0, 21)
    verdict = np.where(length > 12, 0.9, 0.1)

    fit = length_controlled(plain(verdict, length=length, baseline_length=np.full(20, 10.0)))

    assert fit.ridge is None
    assert fit.share.interval is not None


def test_one_verdict_out_of_order_needs_no_ridge():
    length = np.arange(1.0, 21)
    verdict = (length > 12).astype(float)
    verdict[5] = 1

    fit = length_controlled(plain(verdict, length=length, baseline_length=np.full(20, 10.0)))

    assert fit.ridge is None
    # A replicate without that pair is separable: at least (19/20)^20 = .36 of them.
    assert fit.replicates_with_ridge / fit.replicates == pytest.approx(0.36, abs=0.06)
    assert f"{fit.replicates_with_ridge} of 1000 replicates had no finite fit" in fit.summary()


def test_verdicts_that_rounding_makes_separable_take_the_ridge():
    """Ten s out, tanh differs in the tenth digit between lengths of 1000 and 1010."""
    difference = np.repeat([0.0, 1000.0, 1010.0], [396, 2, 2])
    verdict = np.repeat([0.0, 0.3, 0.7], [396, 2, 2])

    fit = length_controlled(
        plain(verdict, length=100 + difference, baseline_length=np.full(400, 100.0)), replicates=0
    )

    assert fit.ridge == 0.01
    left = verdict - sigmoid(fit.theta + fit.phi * np.tanh(difference / fit.scale))
    assert left.sum() == pytest.approx(0.01 * fit.theta, abs=1e-6)  # the pull of the ridge


def test_every_pair_won_takes_the_ridge():
    pairs = judged(n=30)

    fit = length_controlled(replace(pairs, verdict=np.ones(30)))

    assert fit.ridge == 0.01
    assert 0.95 < fit.share.value < 1


def test_equal_lengths_outside_the_pairs_are_called_extrapolated():
    fit = length_controlled(judged(n=300, longer=40.0, phi=0.5))

    assert fit.extrapolates
    assert "extrapolated: one side is longer in every pair" in fit.summary()


def answers(longer, seed):
    """Answers of one model to the same 805 prompts, judged for length alone."""
    return replace(judged(longer=longer, seed=seed, prompts=1), model=f"x{longer}")


def test_verbosity_shows_what_a_judge_gives_for_length():
    bias = verbosity(answers(1.0, 1), answers(2.0, 2))

    assert bias.raw_interval[0] > 0.05
    assert bias.lc_interval[0] < 0 < bias.lc_interval[1]
    assert bias.length_ratio == pytest.approx(2)
    assert bias.warnings == ()
    assert "from 2.00x longer answers, x2.0 minus x1.0, 805 prompts" in bias.summary()


def test_verbosity_is_the_difference_of_the_two_win_rates():
    concise, verbose = answers(1.0, 1), answers(2.0, 2)

    bias = verbosity(concise, verbose, replicates=0)

    raw = [win_rate(each, replicates=0).share.value for each in (concise, verbose)]
    lc = [length_controlled(each, replicates=0).share.value for each in (concise, verbose)]
    assert bias.raw_gain == pytest.approx(raw[1] - raw[0])
    assert bias.lc_gain == pytest.approx(lc[1] - lc[0])
    assert bias.raw_interval is bias.lc_interval is None


def test_verbosity_keeps_a_gain_that_length_does_not_explain():
    """The longer answers are better by theta = .8, which is +19 points at equal lengths."""
    better = judged(theta=0.8, longer=2.0, seed=2, prompts=1)

    bias = verbosity(answers(1.0, 1), better)

    assert 0 < bias.lc_interval[0] < bias.lc_gain < bias.lc_interval[1]
    assert bias.lc_interval[0] < 0.19 < bias.lc_interval[1]


def test_verbosity_finds_no_gain_with_a_fair_judge():
    bias = verbosity(judged(phi=0.0, longer=1.0, seed=1), judged(phi=0.0, longer=2.0, seed=2))

    assert bias.raw_interval[0] < 0 < bias.raw_interval[1]


def test_verbosity_pairs_the_prompts_in_whatever_order_they_come():
    """The same verdict on each prompt: the gain is 0 in every replicate, so has no interval."""
    concise = judged(n=100)
    back = slice(None, None, -1)
    verbose = replace(
        concise,
        prompt=concise.prompt[back],
        verdict=concise.verdict[back],
        length=concise.length[back] * 1.5,
        baseline_length=concise.baseline_length[back],
    )

    bias = verbosity(concise, verbose)

    assert bias.raw_gain == 0
    assert bias.raw_interval is None


def test_verbosity_hands_on_the_reservations_of_its_fits():
    concise = judged(n=100)
    won = replace(
        concise, model="long", verdict=np.ones(100), length=concise.baseline_length + concise.length
    )

    bias = verbosity(concise, won)

    assert bias.lc_interval is None
    assert bias.warnings == (
        "long: no finite fit; LC rests on a ridge of 0.01",
        "long: LC is extrapolated, no pair is of equal length",
    )


def test_verbosity_counts_the_replicates_without_a_finite_fit():
    length = np.arange(1.0, 21)
    verdict = (length > 12).astype(float)
    verdict[5] = 1  # without this pair, as in .36 of the replicates, length separates
    concise = plain(verdict, length=length, baseline_length=np.full(20, 10.0))
    verbose = replace(concise, model="long", verdict=np.arange(20) % 2, length=length + 1)

    (warning,) = verbosity(concise, verbose).warnings

    count = int(warning.removeprefix("m: ").split()[0])
    assert count / 1000 == pytest.approx(0.36, abs=0.06)
    assert warning.endswith("of 1000 replicates used the ridge")


@pytest.mark.parametrize(
    ("change", "problem", "where", "fix"),
    [
        ({"baseline": "other"}, "two baselines: base and other", "prompt by prompt", "the same"),
        (
            {"prompt": np.arange(1, 101)},
            "2 prompt(s) answered by one of the two only, such as 0",
            "prompt by prompt",
            "same prompts",
        ),
        (
            {"length_unit": "words"},
            "two units of length: characters and words",
            "prompt by prompt",
            "count both",
        ),
        ({}, "no longer than the concise ones", "tuned and tuned against base", "concise answers first"),
        (
            {"length": None, "baseline_length": None},
            "answer lengths are missing",
            "tuned against base",
            "`baseline_length`",
        ),
    ],
)
def test_verbosity_refuses_sets_that_do_not_pair(change, problem, where, fix):
    concise = judged(n=100)

    with pytest.raises(DataError) as caught:
        verbosity(concise, replace(concise, **change))

    assert problem in caught.value.problem
    assert where in caught.value.where
    assert fix in caught.value.fix


def test_positions_by_hand():
    verdict = np.array([1, 1, 0, 1, 0.5, 1, 0.5])
    swapped = np.array([1, 0, 1, 0, 0.5, 0.5, 0])  # again 1 for the model

    shares = positions(plain(verdict, swapped=swapped))

    assert shares.consistent == pytest.approx(2 / 7)
    assert shares.first_both == pytest.approx(2 / 7)
    assert shares.second_both == pytest.approx(1 / 7)
    assert shares.half_tied == pytest.approx(2 / 7)
    # First place took 1 0, 1 1, 0 0, 1 1, .5 .5, 1 .5, .5 1 of its two matches.
    assert shares.first_share.value == pytest.approx((1 + 2 + 0 + 2 + 1 + 1.5 + 1.5) / 14)
    assert "28.6% consistent" in shares.summary()


def test_a_judge_that_loves_first_place_is_seen_and_averaged_out():
    rng = np.random.default_rng(0)
    verdict, swapped = (sigmoid(sign * 1.5) > rng.random(600) for sign in (1, -1))
    pairs = plain(verdict, swapped=swapped.astype(float))

    shares, rate = positions(pairs), win_rate(pairs)

    # The truth is sigmoid(1.5) = .818; 1200 verdicts know it to .011.
    assert shares.first_share.value == pytest.approx(0.818, abs=0.035)
    assert shares.first_share.interval[0] > 0.5
    assert rate.share.interval[0] < 0.5 < rate.share.interval[1]
    assert rate.both_orders
    assert "both orders averaged" in rate.summary()


def test_positions_need_both_orders():
    with pytest.raises(DataError) as caught:
        positions(plain([1, 0]))

    assert "one order only" in caught.value.problem
    assert "m against b" in caught.value.where
    assert "`swapped`" in caught.value.fix


LENGTHS = {"length": np.array([5.0, 7.0]), "baseline_length": np.array([6.0, 6.0])}


@pytest.mark.parametrize(
    ("change", "problem", "fix"),
    [
        ({"prompt": np.zeros(2)}, "1 prompt(s)", "at least two prompts"),
        (
            {"verdict": np.array([1.0, np.nan])},
            "1 verdict(s) out of range; pair 1 has nan",
            "pairs without a verdict",
        ),
        ({"verdict": np.array([1.0, 2.0])}, "pair 1 has 2.0", "AlpacaEval's preference minus 1"),
        ({"swapped": np.array([-1.0, 0.0])}, "1 swapped(s) out of range; pair 0 has -1.0", "1: the model"),
        ({"verdict": np.array([1.0])}, "shapes [(1,), (2,)]", "one value per pair"),
        ({"length": None}, "lengths of one side only", "both lengths, or neither"),
        (
            {"length": np.array([5.0, -1.0])},
            "1 length(s) out of range; pair 1 has -1.0",
            "characters, 0 or more",
        ),
        ({"baseline_length": np.array([np.nan, 1.0])}, "pair 0 has nan", "characters, 0 or more"),
    ],
)
def test_pairs_that_cannot_be_read_are_refused(change, problem, fix):
    good = {"model": "m", "baseline": "b", "prompt": np.arange(2), "verdict": np.array([1.0, 0])}

    with pytest.raises(DataError) as caught:
        Judgments(**good | LENGTHS | change)

    assert problem in caught.value.problem
    assert caught.value.where == "the judged pairs of m against b"
    assert fix in caught.value.fix


@pytest.mark.parametrize(
    ("lengths", "problem", "fix"),
    [
        ({}, "answer lengths are missing", "in characters or words"),
        (LENGTHS | {"length": np.array([9.0, 9.0])}, "differ by 3 characters in every pair", "raw win rate"),
        (
            {"length": np.array([950.0, 1000.0]), "baseline_length": np.zeros(2)},
            "differ by 950 to 1000 characters: too similar",
            "baseline of a similar length",
        ),
    ],
)
def test_length_control_refuses_what_it_cannot_see(lengths, problem, fix):
    with pytest.raises(DataError) as caught:
        length_controlled(plain([1, 0], **lengths))

    assert problem in caught.value.problem
    assert caught.value.where == "the judged pairs of m against b"
    assert fix in caught.value.fix


@pytest.mark.parametrize("measure", [win_rate, length_controlled, positions])
def test_too_few_replicates_are_refused(measure):
    with pytest.raises(ConfigError, match="30 replicates leave"):
        measure(replace(judged(n=20), swapped=np.zeros(20)), replicates=30)
