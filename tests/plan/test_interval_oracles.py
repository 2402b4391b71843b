"""What is quoted of a final run, whether it held, and the band around its curve: by hand."""

from dataclasses import replace

import numpy as np
import pytest

from scalelab.laws.observations import Observations
from scalelab.laws.uncertainty.model_uncertainty import CandidateFit
from scalelab.plan.choose.allocate import expected
from scalelab.plan.forecast.band import RunCurve, band
from scalelab.plan.forecast.frozen import freeze, runs_digest
from scalelab.plan.forecast.ledger import close


@pytest.fixture(scope="module")
def frozen(slices):
    """A forecast of 2.5, quoted as 2 to 3, of which noise alone makes 2.2 to 2.8."""
    values = slices.forecast.values
    made = freeze(
        slices,
        name="t",
        n_params=values["n_params"],
        n_tokens=values["n_tokens"],
        flops=3e20,
        code={"scalelab": "0.1.0", "commit": "abc"},
        data_digest=None,
    )
    return replace(made, loss=2.5, quoted=[2.0, 3.0], statistical=[2.2, 2.8])


@pytest.mark.parametrize(
    ("loss", "quoted", "statistical"),
    [
        (1.999, False, False),
        (2.0, True, False),
        (2.1, True, False),
        (2.2, True, True),
        (2.5, True, True),
        (2.9, True, False),
        (3.0, True, False),
        (3.001, False, False),
    ],
)
def test_an_interval_holds_what_lies_between_its_ends(frozen, loss, quoted, statistical):
    assert frozen.held(loss) == {"quoted": quoted, "statistical": statistical}


@pytest.mark.parametrize(
    ("loss", "state", "error"),
    [(2.75, "held", 0.1), (2.25, "held", -0.1), (3.25, "missed", 0.3), (1.5, "missed", -0.4)],
)
def test_an_error_is_what_was_measured_over_the_forecast_less_one(frozen, tmp_path, loss, state, error):
    outcome = close(
        tmp_path,
        frozen,
        run="r",
        status="finished",
        reason=None,
        n_params=1e9,
        n_tokens=2e10,
        flops=3e20,
        loss=loss,
        seconds=1.0,
    )

    assert (outcome.state, outcome.error) == (state, pytest.approx(error))


def test_a_run_that_diverged_is_no_miss_whatever_its_last_loss(frozen, tmp_path):
    outcome = close(
        tmp_path,
        frozen,
        run="r",
        status="diverged",
        reason="x",
        n_params=1e9,
        n_tokens=2e10,
        flops=3e20,
        loss=2.5,
        seconds=1.0,
    )

    assert (outcome.state, outcome.held, outcome.held_statistical) == ("failed", None, None)


def test_the_reach_is_over_the_largest_compute_in_evidence(slices):
    """The largest of the five budgets is 1e20 FLOPs; 3e20 are planned."""
    values = slices.forecast.values
    made = freeze(
        slices,
        name="t",
        n_params=values["n_params"],
        n_tokens=values["n_tokens"],
        flops=3e20,
        code={},
        data_digest=None,
    )

    assert slices.runs.C.max() == pytest.approx(1e20)
    assert made.reach == pytest.approx(3, rel=1e-6)


def test_what_is_quoted_of_an_unusual_size_is_moved_along_with_its_loss(slices):
    """Laws say 3% less and 5% more at N*, far beyond the noise. A model of 1.5 N* loses more, and
    what laws say of it is taken to grow by the same share.
    """
    forecast = slices.forecast
    N, D, loss = (forecast.values[key] for key in ("n_params", "n_tokens", "loss"))
    told = [CandidateFit(str(k), "law", {"loss": k * loss}, None) for k in (0.97, 1.05)]
    doubted = replace(slices, forecast=replace(forecast, members=(*forecast.members, *told)))

    found = expected(doubted, n_params=1.5 * N, n_tokens=D / 1.5, flops=3e20)

    assert found.loss > 1.001 * loss
    assert found.quoted == pytest.approx([0.97 * found.loss, 1.05 * found.loss])
    assert found.statistical[0] > found.quoted[0]
    assert found.statistical[1] < found.quoted[1]


def curve(name, excess):
    return RunCurve(name, 1e6, 1e7, 100, 3.0, [[50, 1e6, 3.0 + excess], [100, 2e6, 3.0]])


def test_a_band_is_the_mean_curve_with_the_forecasts_ends_and_a_new_runs_scatter():
    """Excess .4, .5, .6 at half of the steps: mean .5, standard deviation .1, two degrees of
    freedom, where Student's quantile at 99% is 9.9248; a fourth run scatters sqrt(1 + 1/3) of it.
    """
    curves = [curve(str(i), excess) for i, excess in enumerate((0.4, 0.5, 0.6))]

    found = band(curves, n_params=1e6, n_tokens=1e7, loss=2.0, interval=[1.9, 2.3])

    spread = 9.9248 * 0.1 * (4 / 3) ** 0.5
    assert found.at(0.5) == pytest.approx((2.5 - 0.1 - spread, 2.5, 2.5 + 0.3 + spread), abs=1e-4)
    assert found.at(1.0) == pytest.approx((1.9, 2.0, 2.3))


def runs_of(L, order=slice(None)):
    N = np.array([1e6, 2e6, 4e6])
    names = np.array(["a", "b", "c"])
    return Observations.of(N[order], 20 * N[order], np.array(L)[order], run=names[order])


def test_the_evidence_is_named_by_its_contents_and_not_by_its_order():
    digest = runs_digest(runs_of([3.0, 2.9, 2.8]))

    assert runs_digest(runs_of([3.0, 2.9, 2.8], [2, 0, 1])) == digest
    assert runs_digest(runs_of([3.0, 2.9, 2.8000001])) != digest
