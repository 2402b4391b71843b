"""What the evidence gives away before a law sees it: each fault planted, each told with its run."""

import time
from dataclasses import replace

import numpy as np
import pytest

from scalelab.laws.observations import Observations
from scalelab.study.quality.control import inspect, quality_control
from scalelab.study.simulate.designs import GaussianNoise, SimulatedIsoFlop
from scalelab.study.simulate.simulation import simulate


@pytest.fixture
def clean(family):
    return family(noise=0.002, seeds=2, seed=5)


def found(runs, code):
    """The one finding of that kind."""
    (one,) = [f for f in quality_control(runs)[1] if f.code == code]
    return one


def codes(runs):
    return [f.code for f in quality_control(runs)[1]]


def twice(runs, rows, **changes):
    """The runs, and below them some rows again with changes and names of their own."""
    again = runs.take(np.asarray(rows))
    names = np.array([f"again {i}" for i in range(len(again))])
    again = replace(again, run=names, group=names, **changes)
    parts = {
        name: np.concatenate([getattr(runs, name), getattr(again, name)])
        for name in {*runs.__dataclass_fields__} - {"columns", "recipe"}
    }
    return Observations(**parts)


def test_a_clean_family_has_nothing_to_tell(clean):
    kept, findings = quality_control(clean)

    assert len(kept) == len(clean)
    assert findings == ()


def test_a_run_written_twice_counts_once(clean):
    kept, findings = quality_control(twice(clean, [3, 8]))

    assert len(kept) == len(clean)
    assert [f.runs for f in findings] == [("again 0",), ("again 1",)]
    assert all(f.excluded and f.code == "duplicate" for f in findings)
    assert "repeats row 3 in size, tokens" in findings[0].reason


def test_the_same_point_and_seed_with_another_loss_stays_and_is_told(clean):
    doubled = twice(clean, [3], L=clean.L[[3]] + 0.01)

    kept, _ = quality_control(doubled)
    told = found(doubled, "repeat")

    assert len(kept) == len(doubled)
    assert set(told.runs) == {"row 3", "again 0"}
    assert "by up to 0.01 nats" in told.reason


def test_runs_of_another_batch_are_no_copies_where_a_law_reads_the_batch(clean):
    again = twice(clean, [3, 8])
    batch = np.append(np.full(len(clean), 2**19), [2**20, 2**20])
    read = replace(again, columns={"batch_tokens": batch})
    recorded = replace(read, recipe={"batch_tokens": batch})

    assert list(read.own_columns) == ["batch_tokens"]
    assert list(recorded.own_columns) == []
    assert "duplicate" not in codes(read)
    assert "duplicate" not in codes(read)
    assert len(quality_control(read)[0]) == len(again)


def test_other_seeds_are_no_repeats(clean):
    assert codes(twice(clean, [3], L=clean.L[[3]] + 0.01, seed=np.array([7]))) == []


@pytest.mark.parametrize(("share", "left_out"), [(1.049, 0), (1.06, 1), (0.94, 1)])
def test_a_run_off_its_budget_is_left_out(clean, share, left_out):
    C = clean.C.copy()
    C[5] *= share

    kept, findings = quality_control(replace(clean, C=C))

    assert len(clean) - len(kept) == left_out
    assert [f.runs for f in findings if f.code == "spent"] == [("row 5",)] * left_out
    assert all("FLOPs, planned 1e18" in f.reason for f in findings)


def test_one_of_two_runs_off_its_budget_is_left_out():
    runs = Observations.of([1e6, 2e6], [1e8, 1e8], [3, 3], flops_planned=[6e14, 1e15])

    assert list(quality_control(runs)[0].run) == ["row 0"]


def test_another_way_of_counting_flops_leaves_out_nobody(clean):
    """A head that is counted: much in small models, little in large ones."""
    runs = replace(clean, C=clean.C * (1 + 2e7 / clean.N))

    kept, _ = quality_control(runs)

    assert len(kept) == len(runs)
    assert "counted otherwise than planned" in found(runs, "another count").reason


def test_counts_that_are_mixed_are_told_and_grave(clean):
    C = clean.C.copy()
    C[14] *= 1.2
    runs = replace(clean, C=C, flops_planned=np.full(len(clean), np.nan))

    told = found(runs, "mixed counts")

    assert told.grave
    assert {"row 14", "row 15"} <= set(told.runs)
    assert "is 1 and 1.2" in told.reason or "is 1.2 and 1" in told.reason


def test_smooth_flops_per_token_are_not_mixed(measured):
    assert "mixed counts" not in codes(measured)


def test_several_token_counts_of_one_trunk_are_told():
    N, D = np.repeat([1e7, 1e8], 3), np.tile([1e9, 2e9, 4e9], 2)
    L = 1.8 + 480 / N**0.35 + 2100 / D**0.37

    told = found(Observations.of(N, D, L, group=np.repeat(["a", "b"], 3)), "intermediate")

    assert len(told.runs) == 6
    assert codes(Observations.of(N, D, L)) == []


def test_a_group_that_names_the_whole_sweep_is_no_trunk(clean):
    assert codes(replace(clean, group=np.full(len(clean), "isoflop-sweep"))) == []


def test_loss_that_rises_with_tokens_is_told():
    N, D = np.repeat([1e7, 1e8], 4), np.tile([1e9, 2e9, 4e9, 8e9], 2)
    L = 1.8 + 480 / N**0.35 + 2100 / D**0.37
    L[6] *= 1.3

    told = found(Observations.of(N, D, L), "rising")

    assert told.runs == ("row 6",)
    assert told.grave


def test_the_public_points_are_not_said_to_rise(hoffmann):
    assert codes(hoffmann) == []


def test_a_budget_with_one_run_is_told(clean):
    lone = twice(clean, [0], flops_planned=np.array([7e20]), C=np.array([7e20]))

    told = found(lone, "few sizes")

    assert told.runs == ("again 0",)
    assert "7e20 FLOPs: one run" in told.reason


def test_edges_and_short_sides_name_the_lowest_run(family):
    runs = family()
    cut = runs.take(np.arange(2, len(runs)))
    edge = runs.take(~np.isin(runs.run, ["row 14", "row 15", "row 16"]))

    assert "1e19 FLOPs: the smallest" in found(edge, "edge").reason
    assert found(edge, "edge").runs == ("row 17",)
    assert "1e18 FLOPs" in found(cut, "few on a side").reason


def test_a_budget_off_its_centre_is_told(truth):
    beside = SimulatedIsoFlop(offset=2.6, sizes=9, factor=6)

    told = found(simulate("chinchilla", truth, beside), "off centre")

    assert len(told.runs) == 5
    assert "more than 2x from the middle" in told.reason


def test_a_hill_and_a_flat_are_told_apart():
    N = 1e8 * np.geomspace(1 / 4, 4, 7)
    w = np.log(N / 1e8)
    rng = np.random.default_rng(0)
    hill = np.array([3, 3.3, 3.3, 2.99, 3.3, 3.3, 3.0])
    flat = 3 + 0.002 * w**2 + 0.01 * rng.standard_normal(7)
    flat[3] = 2.98

    def of(L):
        return Observations.of(N, 1e18 / 6 / N, L, flops_planned=np.full(7, 1e18))

    assert "curvature -0." in found(of(hill), "hill").reason
    assert "curvature" in found(of(flat), "flat").reason


def test_a_ruined_run_is_named_with_its_miss(clean):
    L = clean.L.copy()
    L[20] *= 1.3

    told = found(replace(clean, L=L), "ruined")

    assert told.runs == ("row 20",)
    assert "+30" in told.reason or "+29" in told.reason
    assert not told.excluded


def test_ruined_runs_are_found_in_a_crowd():
    runs = simulate("chinchilla", None, SimulatedIsoFlop((1e18, 1e19), sizes=300), GaussianNoise(0.002))
    L = runs.L.copy()
    bad = np.array([7, 100, 101, 450])
    L[bad] *= 1.2

    assert set(found(replace(runs, L=L), "ruined").runs) == set(runs.run[bad])


def test_findings_are_json(clean):
    (one, *_) = inspect(replace(clean, L=np.where(np.arange(len(clean)) == 20, 9.0, clean.L)))

    assert set(one.to_json()) == {"code", "runs", "reason", "excluded", "grave", "disqualifying"}


def test_nothing_has_no_findings():
    assert inspect(Observations.of([], [], [])) == ()


def test_a_hundred_thousand_runs_take_seconds():
    design = SimulatedIsoFlop(tuple(np.geomspace(1e18, 1e21, 100)), sizes=1000)
    runs = simulate("chinchilla", None, design, GaussianNoise(0.002))

    began = time.process_time()
    kept, _ = quality_control(runs)

    assert len(kept) == 100_000
    assert time.process_time() - began < 6  # .5 s when nothing else runs
