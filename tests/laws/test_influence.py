"""Runs that a fit hangs on are named, also where they hide each other; clean families have none."""

import csv
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from scalelab.laws.description import Influence
from scalelab.laws.forms.chinchilla import Chinchilla
from scalelab.laws.forms.kaplan_single import KaplanN
from scalelab.laws.observations import Observations
from scalelab.laws.uncertainty import influence as module
from scalelab.laws.uncertainty.influence import influence, report_influence
from scalelab.study.simulate.designs import GaussianNoise, HeavyTailNoise, SimulatedIsoFlop
from scalelab.study.simulate.simulation import simulate

POINTS = Path(__file__).parents[3] / "shared" / "data" / "hoffmann2022_fig4_points.csv"


@pytest.fixture(scope="module")
def all_245():
    """The public points with the five highest losses still in: rows 0 to 4."""
    if not POINTS.exists():
        pytest.skip("the public points are not beside the repository")
    with open(POINTS, encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    N, C, L = (np.array([float(r[k]) for r in rows]) for k in ("Model Size", "Training FLOP", "loss"))
    order = np.argsort(-L)
    return Chinchilla().fit(Observations.of(*(v[order] for v in (N, C / (6 * N), L)), C=C[order]))


def spoiled(runs, rows, factor):
    L = runs.L.copy()
    L[rows] *= factor
    return replace(runs, L=L)


def test_the_five_points_that_were_left_out_by_hand_are_named_first(all_245):
    """Besiroglu et al. 2024 dropped the five highest losses: a from .565 to .514."""
    outliers = influence(all_245)[0]

    assert outliers.kind == "outliers"
    assert set(outliers.runs[:5]) == {f"row {i}" for i in range(5)}
    assert len(outliers.runs) <= 8
    assert outliers.course[4] == pytest.approx(0.5139, abs=2e-4)
    assert outliers.telling


def test_no_single_run_shows_what_the_five_do_together(all_245):
    outliers, *single = influence(all_245)

    assert max(abs(one.shifts["a"]) for one in single) < 0.5 * abs(outliers.shifts["a"])


def test_the_words_say_how_far_a_moves(all_245):
    line = report_influence(influence(all_245), all_245)[0]

    assert "7 run(s) are off the law by more than 8 robust standard deviations" in line
    assert "a moves from 0.565 to 0.508" in line
    assert "row 1 (+" in line


def test_a_shift_is_that_of_a_fit_without_the_run(family):
    runs = family(noise=0.004, seed=3)
    fit = Chinchilla().fit(runs)

    for one in influence(fit):
        without = Chinchilla().fit(runs.take(~np.isin(runs.run, one.runs)))
        for key, shift in one.shifts.items():
            here = {**fit.params, **fit.exponents}[key]
            there = {**without.params, **without.exponents}[key]
            assert there - here == pytest.approx(shift, rel=1e-3, abs=1e-6 * abs(here))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("factor", [0.95, 1.05, 1.3])
def test_three_runs_that_hide_each_other_are_named(family, seed, factor):
    """The largest size of three budgets; the run that moves a most alone is an innocent one."""
    bad = np.array([6, 13, 20])
    fit = Chinchilla().fit(spoiled(family(noise=0.003, seed=seed), bad, factor))

    assert set(influence(fit)[0].runs) == {f"row {i}" for i in bad}


@pytest.mark.parametrize(("noise", "outliers"), [(GaussianNoise(0.003), 0), (HeavyTailNoise(0.003), 2)])
def test_clean_families_have_no_outliers_and_hardly_a_telling_run(noise, outliers):
    """5% of 15 families are one; four are beyond its chance. Heavy tails have true outliers."""
    fits = [
        Chinchilla().fit(simulate("chinchilla", None, SimulatedIsoFlop(), noise, seed)) for seed in range(15)
    ]
    found = [influence(fit) for fit in fits]

    assert sum(one[0].kind == "outliers" for one in found) <= outliers
    assert sum(any(each.telling for each in one) for one in found) <= 3


def test_a_run_that_turns_the_fit_alone_is_told(family):
    """One run of weight 30, 1% too high, at an end of the design."""
    runs = spoiled(family(noise=0.001, seed=1), [6], 1.01)
    weight = np.ones(len(runs))
    weight[6] = 30
    fit = Chinchilla().fit(replace(runs, weight=weight))

    first = next(one for one in influence(fit) if one.kind == "run")

    assert first.runs == ("row 6",)
    assert first.telling
    assert "without row 6 alone a moves from" in report_influence((first,), fit)[0]


def test_runs_that_share_luck_are_left_out_together(family):
    runs = family(noise=0.003, seeds=2)
    group = np.repeat(np.arange(35), 2)

    found = influence(Chinchilla().fit(replace(runs, group=group)))

    assert {one.kind for one in found} == {"group"}
    assert {len(one.runs) for one in found} == {2}


def test_one_newton_step_stands_for_a_refit(monkeypatch):
    runs = simulate("chinchilla", None, SimulatedIsoFlop(sizes=60), GaussianNoise(0.003), 1)
    fit = Chinchilla().fit(runs)

    exact = {one.runs: one.shifts["a"] for one in influence(fit, len(runs))}
    monkeypatch.setattr(module, "EXACT", 10)
    steps = influence(fit, len(runs))

    assert not steps[0].exact
    pairs = np.array([(exact[one.runs], one.shifts["a"]) for one in steps])
    assert np.max(np.abs(pairs[:, 0] - pairs[:, 1])) < 0.2 * np.max(np.abs(pairs[:, 0]))


def test_many_runs_take_a_moment():
    runs = simulate("chinchilla", None, SimulatedIsoFlop(sizes=2000), GaussianNoise(0.003), 1)
    fit = Chinchilla().fit(runs)

    began = time.process_time()
    influence(fit)

    assert time.process_time() - began < 1


def test_a_law_that_allots_nothing_has_no_influence():
    N = np.geomspace(1e6, 1e9, 10)

    assert influence(KaplanN().fit(Observations.of(N, 1e4 * N, (8.8e13 / N) ** 0.076))) == ()


def test_a_perfect_fit_names_nobody(family):
    fit = Chinchilla().fit(family())

    assert report_influence(influence(fit), fit) == ()


def test_an_influence_is_json(all_245):
    told_json = influence(all_245)[0].to_json()

    assert told_json["runs"][0] == "row 1"
    assert told_json["telling"] is True


def test_a_shift_that_is_no_number_is_absent_from_the_record():
    """Without the runs a constant may not be determined; NaN would stop `fit --json`."""
    found = Influence(("a",), "run", {"a": float("nan"), "b": 0.5}, (), (), 0.0, False, True)

    assert found.to_json()["shifts"] == {"a": None, "b": 0.5}
