"""Further seeds and rungs: the number against brute force."""

from dataclasses import replace

import numpy as np
import pytest
from compare import DESIGNS, judged, simulated_pair
from scipy.special import stdtrit

from scalelab.comparison.further import further_runs, power

FEW = replace(DESIGNS[2], shared=0.5)


@pytest.fixture(scope="module")
def undecided():
    """A tie whose estimate is near its truth, found once."""
    found = judged(simulated_pair(FEW, np.random.default_rng(1), m=1.03)).pairs[0]
    assert found.verdict == "tie"
    return found


def promoted(seeds, m, count=60):
    """Share of experiments of so many seeds that promote a multiplier m, by simulation."""
    design = replace(FEW, seeds=seeds)
    verdicts = [
        judged(simulated_pair(design, np.random.default_rng((9, k)), m=m)).verdict for k in range(count)
    ]
    return np.mean([verdict == "promote" for verdict in verdicts])


def test_the_number_of_seeds_decides_as_often_as_it_says(undecided):
    (seeds,) = [each for each in undecided.further if each.kind == "seeds"]
    pair = undecided.pair
    # Brute force has the noise of the simulation, and the estimate its own: the multiplier of equal distance.
    noise = pair.noise_sd / np.mean(pair.fit.runs.L) / FEW.noise
    m = np.exp(abs(np.log(pair.multiplier)) / _error_ratio(pair))

    assert 0.5 < noise < 2
    assert promoted(FEW.seeds + seeds.count, m) == pytest.approx(0.8, abs=0.16)  # 3 standard errors of 60
    assert promoted(FEW.seeds + seeds.count // 4, m) < 0.75


def _error_ratio(pair):
    """Standard error of this experiment over the typical one of its design."""
    typical = [judged(simulated_pair(FEW, np.random.default_rng((8, k)))).pairs[0].pair.se for k in range(20)]
    return pair.se / np.sqrt(np.mean(np.square(typical)))


def test_one_seed_less_is_not_enough_and_the_price_is_that_of_the_runs(undecided):
    pair = undecided.pair
    points = len({*zip(pair.fit.runs.N, pair.fit.runs.D, pair.z, strict=True)})
    (seeds,) = [each for each in undecided.further if each.kind == "seeds"]

    assert seeds.runs == points * seeds.count
    assert seeds.flops == pytest.approx(pair.fit.runs.C.sum() / FEW.seeds * seeds.count)
    assert seeds.power >= 0.8
    assert [each.flops for each in undecided.further] == sorted(each.flops for each in undecided.further)


def test_seeds_narrow_the_interval_as_their_root(undecided):
    pair = undecided.pair
    (seeds,) = [each for each in undecided.further if each.kind == "seeds"]
    grown = 1 + seeds.count / FEW.seeds

    narrower = power(
        abs(np.log(pair.multiplier)),
        pair.se / np.sqrt(grown),
        pair.dof + pair.errors.units * (grown - 1),
        undecided.level,
    )

    assert seeds.count >= 4
    assert seeds.power == pytest.approx(narrower, abs=0.03)  # the priors do not narrow


def test_power_is_the_level_without_a_difference_and_that_of_the_normal_test():
    assert power(0.0, 1.0, 7, 0.025) == pytest.approx(0.025, abs=1e-6)
    assert power(2.8016, 1.0, np.inf, 0.025) == pytest.approx(0.8, abs=1e-3)
    assert power(2.8016, 1.0, 12, 0.025) < 0.78


@pytest.mark.parametrize("dof", [7, np.inf])
def test_power_with_a_floor_is_the_share_beyond_both(dof):
    rng = np.random.default_rng(0)
    se = np.sqrt(rng.chisquare(7, 200_000) / 7) if dof == 7 else np.ones(200_000)
    estimate = 2.5 + rng.standard_normal(200_000)
    limit = stdtrit(7, 0.975) if dof == 7 else 1.96

    found = power(2.5, 1.0, dof, 0.025, 2.2)

    assert found == pytest.approx(np.mean((estimate > limit * se) & (estimate > 2.2)), abs=0.005)
    assert found < power(2.5, 1.0, dof, 0.025)
    assert power(2.5, 1.0, dof, 0.025, 1e-9) == pytest.approx(power(2.5, 1.0, dof, 0.025), abs=2e-3)


def test_what_is_decided_needs_nothing_further(simulated):
    found = judged(simulated(m=1.5)).pairs[0]

    assert (found.verdict, found.further) == ("promote", ())


def test_no_difference_needs_more_than_anyone_trains(undecided):
    pair = undecided.pair

    assert further_runs(pair.errors, pair.z, pair.C_0, 0.0, 0.025) == ()
    assert further_runs(pair.errors, pair.z, pair.C_0, 1e-5, 0.025) == ()


def test_equal_losses_are_a_tie(simulated):
    arms = simulated(design=FEW, noise=0.004)

    found = judged([arms[0], replace(arms[1], runs=arms[0].runs)]).pairs[0]

    assert found.verdict == "tie"
    assert found.pair.multiplier == pytest.approx(1.0, abs=0.002)  # only the priors part them
