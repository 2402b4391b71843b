"""The envelope of training curves: the allocation that made them, and what is dropped."""

import json
from dataclasses import replace

import numpy as np
import pytest

from scalelab.errors import FitError
from scalelab.laws.isoflop.envelope import Envelope
from scalelab.laws.observations import Observations


def optimal_size(C):
    """Hoffmann et al. 2022, eq. 4."""
    return (0.35 * 480 / (0.37 * 2100)) ** (1 / 0.72) * (C / 6) ** (0.37 / 0.72)


def curves(sizes=12, rows=4, span=16.0, noise=0.0, low=1e18, high=1e21):
    """One curve per size, `rows` measurements around its own optimal D, `span` from end to end."""
    C = np.repeat(np.geomspace(low, high, sizes), rows)
    N = optimal_size(C)
    D = C / 6 / N * np.tile(np.geomspace(span**-0.5, span**0.5, rows), sizes)
    L = 1.8 + 480 / N**0.35 + 2100 / D**0.37
    L = L * np.exp(noise * np.random.default_rng(0).standard_normal(L.size))
    return Observations.of(N, D, L, group=np.repeat([f"curve {i}" for i in range(sizes)], rows))


@pytest.mark.parametrize(("rows", "span"), [(4, 16), (4, 100), (30, 16)])
def test_recovers_the_exponent_from_four_lengths_per_size(rows, span):
    fit = Envelope().fit(curves(rows=rows, span=span))

    assert fit.exponents["a"] == pytest.approx(0.37 / 0.72, rel=0.03)
    assert fit.exponents["b"] == pytest.approx(0.35 / 0.72, rel=0.03)


def test_finds_the_allocation_and_the_loss_within_the_steps_of_its_sizes():
    fit = Envelope().fit(curves(sizes=20, rows=10))
    C = 1e22
    N = optimal_size(C)

    best = fit.optimum(C)

    assert float(best.N[0]) == pytest.approx(N, rel=0.05)
    assert float(best.D[0]) == pytest.approx(C / 6 / N, rel=0.05)
    assert float(best.L[0]) == pytest.approx(1.8 + 480 / N**0.35 + 2100 / (C / 6 / N) ** 0.37, 1e-3)


def test_the_order_of_rows_does_not_matter():
    runs = curves()

    mixed = runs.take(np.random.default_rng(0).permutation(len(runs)))

    assert Envelope().fit(mixed).params == pytest.approx(Envelope().fit(runs).params, rel=1e-12)


def test_ends_of_the_grid_and_lonely_curves_are_dropped_and_counted():
    fit = Envelope().fit(curves())
    kept, alone, edge = (fit.counts[k] for k in ("kept", "alone", "edge"))
    smallest, largest = fit.runs.N.min(), fit.runs.N.max()

    assert kept + alone + edge == 1500
    assert smallest < fit.best_sizes.min() < fit.best_sizes.max() < largest
    assert f"{alone} of 1500 points of the envelope dropped: one curve alone" in fit.warnings[1]
    assert f"{edge} of 1500" in fit.warnings[2]
    # Two curves overlap from the second curve's first row to the last but one's last.
    C = fit.runs.C.reshape(12, 4)
    assert alone == pytest.approx(
        1500 * np.log((C[1, 0] / C[0, 0]) * (C[-1, -1] / C[-2, -1])) / np.log(C.max() / C.min()), abs=2
    )


def test_always_warns_of_losses_before_the_cooldown():
    assert "losses before the cooldown" in Envelope().fit(curves()).warnings[0]


def test_replicates_draw_whole_curves():
    fit = Envelope().fit(curves(sizes=20))

    drawn, again = fit.replicates(300, 0), fit.replicates(100, 0)

    assert drawn.unit == "training curve"
    assert drawn.failed == 0
    low, high = np.quantile(drawn.values["a"], [0.02, 0.98])
    assert low < fit.exponents["a"] < high < low + 0.2
    assert drawn.optimum(1e22).N.shape == (300,)
    np.testing.assert_allclose(drawn.values["a"][:100], again.values["a"], rtol=1e-12)


def test_several_curves_per_size_are_one_choice_more():
    runs, worse = curves(), curves()
    worse = replace(
        worse,
        L=worse.L * 1.05,
        run=np.char.add("again ", worse.run),
        group=np.char.add("again ", worse.group),
    )
    fields = [name for name in vars(runs) if name not in ("columns", "recipe")]
    both = Observations(
        **{k: np.concatenate([getattr(runs, k), getattr(worse, k)]) for k in fields},
        columns={k: np.concatenate([value, worse.columns[k]]) for k, value in runs.columns.items()},
    )

    fit = Envelope().fit(both)

    assert fit.to_json()["n_curves"] == 24
    assert fit.exponents["a"] == pytest.approx(Envelope().fit(runs).exponents["a"], abs=0.01)
    assert Envelope().fit(runs).replicates(20, 0).notes
    assert not fit.replicates(20, 0).notes


def test_a_run_that_is_no_curve_is_not_used_and_told():
    runs = curves()
    group = runs.group.copy()
    group[:4] = ["w", "x", "y", "z"]

    fit = Envelope().fit(replace(runs, group=group))

    assert "4 runs are no part of any curve and were not used" in fit.warnings


def test_its_part_of_the_json_is_json():
    told = Envelope().fit(curves(noise=0.001)).to_json()

    assert json.loads(json.dumps(told, allow_nan=False)) == told


def test_refuses_runs_without_curves(family):
    with pytest.raises(FitError, match="no training curve: every group has one row") as caught:
        Envelope().fit(family())

    assert "every row of one training curve the same group" in caught.value.fix


def test_refuses_two_sizes():
    with pytest.raises(FitError, match="curves of 2 sizes"):
        Envelope().fit(curves(sizes=2))


def test_refuses_a_group_of_two_sizes_and_rows_at_one_compute():
    runs = curves()
    group = np.where(runs.group == "curve 1", "curve 0", runs.group)
    C = runs.C.copy()
    C[1] = C[0]

    with pytest.raises(FitError, match="group curve 0 holds runs of 2 sizes"):
        Envelope().fit(replace(runs, group=group))
    with pytest.raises(FitError, match="curve 0 has two losses at the same FLOPs"):
        Envelope().fit(replace(runs, C=C))


def test_refuses_curves_that_never_meet():
    with pytest.raises(FitError, match="0 of 1500 points of the envelope are usable"):
        Envelope().fit(curves(sizes=4, span=2.0))
