"""Agreement: published worked examples, reference implementations, chance, and coverage."""

import numpy as np
import pytest

from scalelab.errors import ConfigError, DataError
from scalelab.evals.preference.agreement import cohen_kappa, fleiss_kappa, krippendorff_alpha, raw_agreement

MEASURES = (raw_agreement, cohen_kappa, fleiss_kappa, krippendorff_alpha)
NONE = np.nan

FOUR_OBSERVERS = np.array(
    [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, NONE, NONE, NONE],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, NONE, 3],
        [NONE, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, NONE],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, NONE],
    ]
).T
"""Krippendorff 2011, example C: 4 observers, 12 units, nominal alpha .743."""

FLEISS_1971 = np.array(
    [
        [0, 0, 0, 0, 14],
        [0, 2, 6, 4, 2],
        [0, 0, 3, 5, 6],
        [0, 3, 9, 2, 0],
        [2, 2, 8, 1, 1],
        [7, 7, 0, 0, 0],
        [3, 2, 6, 3, 0],
        [2, 5, 3, 2, 2],
        [6, 5, 2, 1, 0],
        [0, 2, 2, 3, 7],
    ]
)
"""Counts of 5 labels by 14 raters on 10 items, a common worked example: kappa .210."""


def copied(n=150, raters=2, faithful=0.7, labels=3, seed=0):
    """Ratings that are the item's label with probability `faithful`, else any label.

    Two raters agree beyond chance where both are faithful, so the truth is faithful^2.
    """
    rng = np.random.default_rng(seed)
    truth = rng.integers(labels, size=(n, 1))
    noise = rng.integers(labels, size=(n, raters))
    return np.where(rng.random((n, raters)) < faithful, truth, noise)


def test_krippendorffs_example_with_missing_ratings():
    alpha = krippendorff_alpha(FOUR_OBSERVERS)

    assert alpha.value == pytest.approx(0.743, abs=5e-4)
    assert (alpha.n_items, alpha.n_items_left_out, alpha.n_raters) == (11, 1, 4)
    assert "1 item(s) with fewer than two ratings left out" in alpha.summary()


def test_krippendorffs_example_of_two_observers():
    """Example A of the same paper: 10 units, binary, alpha .095."""
    ratings = np.array([[0, 1, 0, 0, 0, 0, 0, 0, 1, 0], [1, 1, 1, 0, 0, 1, 0, 0, 0, 0]]).T

    assert krippendorff_alpha(ratings).value == pytest.approx(0.095, abs=5e-4)


def test_cohen_by_hand():
    """20 and 15 agreed, 5 and 10 not: P_o = .7, P_e = .5 x .6 + .5 x .4 = .5."""
    ratings = np.repeat([["y", "y"], ["y", "n"], ["n", "y"], ["n", "n"]], [20, 5, 10, 15], axis=0)

    kappa = cohen_kappa(ratings)

    assert kappa.value == pytest.approx(0.4)
    assert kappa.labels == ("n", "y")
    assert "Cohen's kappa 0.400" in kappa.summary()


def test_fleiss_worked_example():
    ratings = np.array([np.repeat(np.arange(5), counts) for counts in FLEISS_1971])

    assert fleiss_kappa(ratings).value == pytest.approx(0.210, abs=5e-4)


def test_raw_agreement_by_hand():
    """Three raters: all agree 1, two agree 1/3, none 0."""
    assert raw_agreement(np.array([[1, 1, 1], [1, 1, 2], [1, 2, 3]])).value == pytest.approx(4 / 9)


def test_cohen_agrees_with_sklearn():
    metrics = pytest.importorskip("sklearn.metrics")
    one, other = copied().T

    assert cohen_kappa(np.stack([one, other], axis=1)).value == pytest.approx(
        metrics.cohen_kappa_score(one, other), abs=1e-12
    )


def test_fleiss_agrees_with_statsmodels():
    rater = pytest.importorskip("statsmodels.stats.inter_rater")
    ratings = copied(raters=4)

    assert fleiss_kappa(ratings).value == pytest.approx(
        rater.fleiss_kappa(rater.aggregate_raters(ratings)[0]), abs=1e-12
    )


def test_alpha_agrees_with_evalica():
    evalica = pytest.importorskip("evalica")
    pandas = pytest.importorskip("pandas")
    ratings = copied(raters=3).astype(float)
    ratings[np.random.default_rng(1).random(ratings.shape) < 0.3] = np.nan

    theirs = evalica.alpha(pandas.DataFrame(ratings.T), distance="nominal").alpha

    assert krippendorff_alpha(ratings).value == pytest.approx(theirs, abs=1e-12)


@pytest.mark.parametrize("measure", MEASURES)
def test_names_of_labels_and_order_of_items_do_not_matter(measure):
    ratings = copied()
    renamed = np.array(["worse", "better", "tie"])[ratings[::-1]]

    assert measure(renamed).value == pytest.approx(measure(ratings).value, abs=1e-12)


@pytest.mark.parametrize("measure", MEASURES)
def test_perfect_agreement_is_one_and_has_no_interval(measure):
    ratings = np.repeat(np.arange(30)[:, None] % 3, 2, axis=1)

    agreement = measure(ratings)

    assert agreement.value == pytest.approx(1)
    assert agreement.interval is None
    assert "no 95% interval" in agreement.summary()


@pytest.mark.parametrize("measure", MEASURES[1:])
def test_raters_who_guess_agree_by_chance_alone(measure):
    agreement = measure(copied(n=400, faithful=0.0))

    assert agreement.value == pytest.approx(0, abs=0.1)  # standard error near .035
    assert agreement.interval[0] < 0 < agreement.interval[1]


def test_missing_ratings_may_be_none_among_text():
    text = np.array([["a", "a", None], ["b", None, "b"], ["a", "b", "b"]], dtype=object)
    numbers = np.array([[1, 1, NONE], [2, NONE, 2], [1, 2, 2]])

    assert krippendorff_alpha(text).value == krippendorff_alpha(numbers).value


def test_a_label_of_a_lone_rating_does_not_enter():
    ratings = np.array([[1, 1], [2, 2], [1, 2], [9, NONE]])

    agreement = krippendorff_alpha(ratings)

    assert agreement.labels == ("1.0", "2.0")
    assert agreement.value == krippendorff_alpha(ratings[:3]).value


@pytest.mark.parametrize("measure", MEASURES[1:])
def test_intervals_cover_the_truth_about_as_often_as_they_say(measure):
    """100 sets of 150 items, truth .7^2. The binomial spread is 3 points."""
    hits = []
    for seed in range(100):
        low, high = measure(copied(seed=seed), level=0.9, replicates=200, seed=seed).interval
        hits.append(low <= 0.49 <= high)

    assert 0.82 <= np.mean(hits) <= 0.97


def test_replicates_of_one_label_are_undefined_and_counted():
    """One item of ten has another label; replicates miss it by chance .9^10 = .35: too many."""
    agreement = krippendorff_alpha(np.array([[1, 1]] * 9 + [[1, 2]]))

    assert agreement.value == pytest.approx(0)
    assert agreement.replicates_undefined / 1000 == pytest.approx(0.35, abs=0.06)
    assert agreement.interval is None
    assert f"undefined in {agreement.replicates_undefined} of 1000" in agreement.summary()


def test_a_few_undefined_replicates_leave_an_interval():
    """Two items of ten show the other label: missed with probability .8^10 = .11."""
    agreement = krippendorff_alpha(np.array([[1, 1]] * 8 + [[2, 2], [1, 2]]))

    assert 0 < agreement.replicates_undefined < 200
    assert agreement.interval[0] < agreement.value < agreement.interval[1] + 1e-9


@pytest.mark.parametrize("measure", MEASURES)
def test_no_replicates_no_interval(measure):
    assert measure(copied(), replicates=0).interval is None


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize(
    ("ratings", "problem", "fix"),
    [
        (np.array([[1], [2]]), "1 rater(s); agreement needs two", "one column per rater"),
        (np.array([1, 2, 3]), "ratings of shape (3,)", "(items, raters)"),
        (np.array([[1, 2]]), "1 item(s) of 1 with two ratings", "at least two items"),
        (np.array([[1, NONE], [NONE, 2], [1, 2]]), "1 item(s) of 3 with two ratings", "rated by two raters"),
        (np.zeros((0, 2)), "0 item(s) of 0", "at least two items"),
    ],
)
def test_too_few_raters_or_items_are_refused(measure, ratings, problem, fix):
    with pytest.raises(DataError) as caught:
        measure(ratings)

    assert problem in caught.value.problem
    assert caught.value.where == "the ratings, shape (items, raters)"
    assert fix in caught.value.fix


@pytest.mark.parametrize(
    ("measure", "ratings", "problem", "fix"),
    [
        (cohen_kappa, copied(raters=3), "3 raters; Cohen's kappa is of two", "two columns"),
        (
            cohen_kappa,
            np.array([[1, 1], [2, 2], [1, NONE]]),
            "1 item(s) with a missing rating",
            "krippendorff_alpha",
        ),
        (fleiss_kappa, np.array([[1, 1, 2], [2, 2, NONE]]), "items with 2 to 3 ratings", "unequal counts"),
        (fleiss_kappa, np.array([[1, 1], [2, 2], [1, NONE]]), "fewer than 2 to 2 ratings", "unequal counts"),
        *(
            (measure, np.ones((5, 2), int), "every rating is '1'", "raw agreement")
            for measure in MEASURES[1:]
        ),
    ],
)
def test_ratings_that_a_measure_cannot_take_are_refused(measure, ratings, problem, fix):
    with pytest.raises(DataError) as caught:
        measure(ratings)

    assert problem in caught.value.problem
    assert caught.value.where == "the ratings, shape (items, raters)"
    assert fix in caught.value.fix


def test_too_few_replicates_are_refused():
    with pytest.raises(ConfigError, match="50 replicates leave"):
        krippendorff_alpha(copied(), replicates=50)
