"""Rankings: closed forms, a reference implementation, coverage, and what cannot be ranked."""

import time
from dataclasses import replace

import numpy as np
import pytest

from scalelab.errors import ConfigError, DataError
from scalelab.evals.preference.elo import elo
from scalelab.evals.preference.matches import Matches
from scalelab.evals.preference.ranking import bradley_terry

TRUE = np.linspace(-1, 1, 8)  # logits, mean 0


def simulated(n=4000, strength=TRUE, ties=0.1, seed=0):
    """Matches of random pairs that Bradley-Terry made; ties fall on all pairs alike."""
    rng = np.random.default_rng(seed)
    k = len(strength)
    first = rng.integers(k, size=n)
    second = (first + rng.integers(1, k, size=n)) % k
    chance = 1 / (1 + np.exp(strength[second] - strength[first]))
    outcome = (rng.random(n) < chance).astype(float)
    outcome[rng.random(n) < ties] = 0.5
    return Matches(tuple(f"m{i}" for i in range(k)), first, second, outcome)


def of(*records):
    """Matches from (winner, loser, how often), ties as a fourth entry of .5."""
    return Matches.of(
        (one, other, outcome[0] if outcome else 1.0) for one, other, n, *outcome in records for _ in range(n)
    )


def ratings(ranking):
    return dict(zip(ranking.names, ranking.rating.tolist(), strict=True))


def test_two_models_differ_by_the_logit_of_the_share():
    ranking = bradley_terry(of(("a", "b", 70), ("b", "a", 20), ("a", "b", 10, 0.5)), replicates=0)

    difference, _ = ranking.difference("a", "b")

    assert difference == pytest.approx(400 * np.log10(75 / 25), rel=1e-9)
    assert ranking.win_probability("a", "b") == pytest.approx(0.75, rel=1e-9)
    assert ranking.rating.mean() == pytest.approx(1000)
    assert ranking.is_finite
    assert np.isnan(ranking.interval).all()


def test_a_chain_of_pairs_adds_up():
    """On a tree of pairs every pair is fitted exactly, so logits add along the path."""
    ranking = bradley_terry(of(("a", "b", 3), ("b", "a", 1), ("b", "c", 4), ("c", "b", 2)))

    difference, _ = ranking.difference("a", "c")

    assert difference == pytest.approx(400 * np.log10(3 * 2), rel=1e-9)


def lopsided():
    """Five models whose wins span four decades: full steps of Newton from zero run away here."""
    wins = np.array(
        [[0, 528, 0, 428, 0], [0, 0, 0, 0, 2], [0, 0, 0, 48, 12], [0, 0, 3354, 0, 1], [4, 5616, 2, 0, 0]]
    )
    winner, loser = (np.repeat(each.ravel(), wins.ravel()) for each in np.indices(wins.shape))
    return Matches(("a", "b", "c", "d", "e"), winner, loser, np.ones(len(winner)))


@pytest.mark.parametrize("matches", [simulated(), lopsided()], ids=["even", "lopsided"])
def test_expected_wins_equal_the_wins_that_were_seen(matches):
    """The condition that defines the estimate, model by model."""
    ranking = bradley_terry(matches, replicates=0)
    names = matches.names
    chance = np.array(
        [
            ranking.win_probability(names[i], names[j])
            for i, j in zip(matches.first, matches.second, strict=True)
        ]
    )

    left = matches.outcome - chance
    surplus = np.bincount(matches.first, left) - np.bincount(matches.second, left)

    assert surplus == pytest.approx(np.zeros(len(names)), abs=1e-6)


def test_agrees_with_evalica():
    evalica = pytest.importorskip("evalica")
    matches = simulated()
    winner = {1.0: evalica.Winner.X, 0.0: evalica.Winner.Y, 0.5: evalica.Winner.Draw}
    names = np.array(matches.names)
    theirs = evalica.bradley_terry(
        names[matches.first].tolist(),
        names[matches.second].tolist(),
        [winner[each] for each in matches.outcome.tolist()],
        tolerance=1e-12,
        limit=10000,
    ).scores
    logits = np.log(theirs.reindex(list(matches.names)).to_numpy())

    ours = bradley_terry(matches, replicates=0).rating

    assert ours == pytest.approx(1000 + 400 / np.log(10) * (logits - logits.mean()), abs=1e-6)


def test_recovers_the_strengths_that_made_the_battles():
    ranking = bradley_terry(simulated(n=40000, ties=0.0))

    # 10000 matches a model: the standard error of a rating is near 4 points.
    assert ranking.rating == pytest.approx(1000 + 400 / np.log(10) * TRUE, abs=16)
    assert ranking.rank.tolist() == [8, 7, 6, 5, 4, 3, 2, 1]


def test_names_in_another_order_change_nothing():
    matches = simulated()
    order = np.random.default_rng(1).permutation(8)
    place = np.argsort(order)
    shuffled = Matches(
        tuple(np.array(matches.names)[order].tolist()),
        place[matches.first],
        place[matches.second],
        matches.outcome,
    )

    one, other = (bradley_terry(each, replicates=0) for each in (matches, shuffled))

    assert ratings(other) == pytest.approx(ratings(one), abs=1e-6)


def test_sides_swapped_change_nothing():
    matches = simulated()
    swapped = Matches(matches.names, matches.second, matches.first, 1 - matches.outcome)

    one, other = (bradley_terry(each, replicates=400) for each in (matches, swapped))

    assert other.rating == pytest.approx(one.rating, abs=1e-6)
    assert other.interval == pytest.approx(one.interval, abs=1e-6)


def test_outcomes_reversed_flip_the_scale():
    matches = simulated()

    one, other = (
        bradley_terry(each, replicates=0) for each in (matches, replace(matches, outcome=1 - matches.outcome))
    )

    assert other.rating - 1000 == pytest.approx(1000 - one.rating, abs=1e-6)


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    """100 sets, 4 models. The binomial spread of a mean over sets is near 2 points."""
    strength = np.array([-0.8, -0.2, 0.3, 0.7])
    true = 1000 + 400 / np.log(10) * strength
    hits = []
    for seed in range(100):
        matches = simulated(n=300, strength=strength, ties=0.0, seed=seed)
        low, high = bradley_terry(matches, level=0.9, replicates=250, seed=seed).interval.T
        hits.append((low <= true) & (true <= high))

    assert 0.83 <= np.mean(hits) <= 0.96


def test_a_difference_is_tighter_than_two_ratings_suggest():
    """Where two models fight each other alone, their ratings are mirror images."""
    ranking = bradley_terry(of(("a", "b", 60), ("b", "a", 40)))

    value, (low, high) = ranking.difference("a", "b")

    assert low < value < high
    assert high - low == pytest.approx(2 * np.ptp(ranking.interval[0]), rel=1e-6)


def test_a_thousand_replicates_of_eight_models_take_well_under_a_second():
    """Of processor time; .04 s when alone on one core."""
    matches = simulated()
    start = time.process_time()

    bradley_terry(matches, replicates=1000)

    assert time.process_time() - start < 1.0


def test_the_same_seed_gives_the_same_interval():
    matches = simulated(n=500)

    one, same, other = (bradley_terry(matches, seed=seed).interval for seed in (3, 3, 4))

    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)


MIDDLE = (("b", "c", 30), ("c", "b", 10), ("c", "d", 25), ("d", "c", 15), ("b", "d", 9))


def test_a_model_that_won_everything_needs_a_prior_and_gets_no_interval():
    ranking = bradley_terry(of(("a", "b", 10), ("a", "c", 10), *MIDDLE))

    assert not ranking.is_finite
    assert ranking.rests_on_prior == ("a",)
    assert np.isnan(ranking.interval[0]).all()
    assert not np.isnan(ranking.interval[1:]).any()
    assert ranking.rank.tolist() == [1, 2, 3, 4]
    assert ranking.difference("a", "b")[1] is None
    assert ranking.replicates_with_prior == 0  # the others are finite in every replicate
    assert "Depend on the prior, so no interval: a." in ranking.summary()
    assert "Added: 0.5 of a tied match" in ranking.summary()


def test_a_model_that_won_everything_does_not_shift_the_others():
    """Its matches carry no news about them, and the prior is half a match of 109."""
    alone = ratings(bradley_terry(of(*MIDDLE), replicates=0))
    joined = ratings(bradley_terry(of(("a", "b", 10), ("a", "c", 10), *MIDDLE), replicates=0))

    assert {name: joined[name] for name in "bcd"} == pytest.approx(alone, abs=2.0)


def test_an_even_prior_has_a_closed_form_for_two_models():
    """All 10 won: the pair gets a quarter of a win for each side."""
    ranking = bradley_terry(of(("a", "b", 10)))

    assert ranking.difference("a", "b")[0] == pytest.approx(400 * np.log10(10.25 / 0.25), rel=1e-9)
    assert ranking.rests_on_prior == ("a", "b")


def test_a_group_that_lost_every_battle_with_another_is_not_finite():
    """Nobody won all or lost all, yet no point went from {c, d} to {a, b} (Ford 1957)."""
    ranking = bradley_terry(of(("a", "b", 5), ("b", "a", 4), ("c", "d", 3), ("d", "c", 3), ("b", "c", 2)))

    assert not ranking.is_finite
    assert ranking.rests_on_prior == ("c", "d")


def test_replicates_that_needed_the_prior_are_counted():
    """One win of 6 is b's; a replicate misses it with probability (5/6)^6 = .33."""
    ranking = bradley_terry(of(("a", "b", 5), ("b", "a", 1)))

    assert ranking.is_finite
    assert ranking.replicates_with_prior / 1000 == pytest.approx((5 / 6) ** 6, abs=0.06)
    assert f"{ranking.replicates_with_prior} of 1000 replicates were not" in ranking.summary()


def test_groups_that_never_met_are_ranked_apart():
    ranking = bradley_terry(
        of(("a", "b", 7), ("b", "a", 3), ("c", "d", 6), ("d", "c", 4), ("e", "d", 2), ("d", "e", 1))
    )

    assert ranking.component.tolist() == [0, 0, 1, 1, 1]
    assert sorted(ranking.rank[:2].tolist()) == [1, 2]
    assert sorted(ranking.rank[2:].tolist()) == [1, 2, 3]
    for group in (0, 1):
        assert ranking.rating[ranking.component == group].mean() == pytest.approx(1000)
    assert "group 1 of 2, ranked on its own" in ranking.summary()
    assert "ratings of different groups are not comparable" in ranking.summary()


def test_groups_are_fitted_as_if_alone():
    one, other = (("a", "b", 7), ("b", "a", 3)), (("c", "d", 6), ("d", "c", 4))

    both = ratings(bradley_terry(of(*one, *other), replicates=0))

    apart = [ratings(bradley_terry(of(*each), replicates=0)) for each in (one, other)]
    assert both == pytest.approx(apart[0] | apart[1], abs=1e-6)


def test_models_of_two_groups_are_not_compared():
    ranking = bradley_terry(of(("a", "b", 7), ("b", "a", 3), ("c", "d", 6), ("d", "c", 4)))

    with pytest.raises(DataError) as caught:
        ranking.win_probability("a", "d")

    assert "'a' and 'd' are not comparable" in caught.value.problem
    assert "{a, b} and {c, d}" in caught.value.where
    assert "across the two groups" in caught.value.fix


def test_an_unknown_model_is_answered_with_the_known_ones():
    ranking = bradley_terry(of(("a", "b", 7), ("b", "a", 3)), replicates=0)

    with pytest.raises(DataError) as caught:
        ranking.difference("a", "z")

    assert "no model 'z'" in caught.value.problem
    assert "to compare" in caught.value.where
    assert "a, b" in caught.value.fix


def test_models_with_equal_records_share_a_rank():
    ranking = bradley_terry(of(("a", "c", 3), ("c", "a", 1), ("b", "c", 3), ("c", "b", 1)))

    assert ranking.rank.tolist() == [1, 3, 1]  # names as they appear: a, c, b


def test_the_summary_has_a_line_per_model_best_first():
    lines = bradley_terry(simulated()).summary().splitlines()

    assert lines[0].startswith("Bradley-Terry, 4000 matches (10.2% ties")
    assert [line.split()[1] for line in lines[2:]] == [f"m{i}" for i in range(7, -1, -1)]


def test_elo_of_one_battle_is_the_formula():
    """From 1000 each the expected share is a half: the winner takes k / 2."""
    ranking = elo(of(("a", "b", 1)), k=8)

    assert ranking.rating.tolist() == [1004.0, 996.0]
    assert ranking.spread.tolist() == [0.0, 0.0]


def test_elo_in_the_order_given_is_a_plain_loop():
    matches = simulated(n=200)
    expected = np.full(8, 1000.0)
    for i, j, s in zip(matches.first, matches.second, matches.outcome, strict=True):
        moved = 4 * (s - 1 / (1 + 10 ** ((expected[j] - expected[i]) / 400)))
        expected[i], expected[j] = expected[i] + moved, expected[j] - moved

    assert elo(matches).as_given == pytest.approx(expected, abs=1e-8)


def test_elo_lands_on_bradley_terry_and_depends_on_order():
    matches = simulated(n=8000, ties=0.0)
    fitted = bradley_terry(matches, replicates=0).rating

    ranking = elo(matches, seed=1)

    # The mean of 100 orders has a standard error near 1.5; the last matches weigh more than the
    # first, so a single order strays by its spread.
    assert ranking.rating == pytest.approx(fitted, abs=8)
    assert np.all(ranking.spread > 5)
    assert ranking.rating.mean() == pytest.approx(1000)
    assert "sd over orders" in ranking.summary()


def test_the_order_given_is_not_among_the_orders_averaged():
    """Of 2000 won, then 2000 lost, the losses count: a drops by 250 points. Shuffled it stays."""
    ranking = elo(of(("a", "b", 2000), ("b", "a", 2000)), orders=4)

    assert ranking.as_given[0] < 750
    assert ranking.rating[0] == pytest.approx(1000, abs=30)  # a mean of four strays by 7


def test_elo_orders_are_shuffled_by_the_seed():
    matches = simulated(n=300)

    one, same, other = (elo(matches, seed=seed).rating for seed in (1, 1, 2))

    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)


TWO = {
    "names": ("a", "b"),
    "first": np.array([0, 1]),
    "second": np.array([1, 0]),
    "outcome": np.array([1.0, 0.0]),
}


@pytest.mark.parametrize(
    ("change", "problem", "fix"),
    [
        ({"names": ("a",)}, "1 model(s); a ranking needs two", "second model"),
        ({"names": ("a", "a")}, "'a' occurs twice", "one name"),
        (
            {"outcome": np.array([1.0, np.nan])},
            "1 outcome(s) not between 0 and 1; row 1 has nan",
            "leave out pairs without a verdict",
        ),
        ({"outcome": np.array([2.0, 0.0])}, "row 0 has 2.0", ".5: a tie"),
        ({"second": np.array([1, 1])}, "'b' plays against itself in 1 match(es)", "row 1"),
        (
            {key: TWO[key][:0] for key in ("first", "second", "outcome")},
            "there are no matches",
            "judge some pairs",
        ),
        ({"outcome": np.array([1.0])}, "shapes [(1,), (2,)]", "one length"),
        ({"first": np.array([0, 2])}, "range from 0 to 2", "use indices into the 2 names"),
        ({"first": np.array([0.0, 1.0])}, "of float64", "use indices into the 2 names"),
        ({"names": ("a", "b", "c")}, "'c' has no matches", "drop its name"),
    ],
)
def test_battles_that_cannot_be_ranked_are_refused(change, problem, fix):
    with pytest.raises(DataError) as caught:
        Matches(**TWO | change)

    assert problem in caught.value.problem
    assert caught.value.where == "the matches to rank"
    assert fix in caught.value.fix


def test_no_rows_are_refused():
    with pytest.raises(DataError, match="0 model"):
        Matches.of([])


@pytest.mark.parametrize(
    ("settings", "problem", "fix"),
    [
        ({"level": 95}, "level 95 is not a share", ".95"),
        ({"replicates": 100}, "100 replicates leave 2.5 beyond each end", "at least 400"),
    ],
)
def test_intervals_that_would_be_a_whim_are_refused(settings, problem, fix):
    with pytest.raises(ConfigError) as caught:
        bradley_terry(Matches(**TWO), **settings)

    assert problem in caught.value.problem
    assert "bootstrap" in caught.value.where
    assert fix in caught.value.fix


@pytest.mark.parametrize("settings", [{"k": 0.0}, {"k": np.inf}, {"orders": 1}])
def test_elo_refuses_a_stake_or_orders_that_say_nothing(settings):
    with pytest.raises(ConfigError) as caught:
        elo(Matches(**TWO), **settings)

    assert f"{next(iter(settings))} = {next(iter(settings.values()))}" in caught.value.problem
    assert "online Elo" in caught.value.where
    assert "at least two orders" in caught.value.fix
