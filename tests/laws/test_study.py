"""A study says what it knows, labels it, and says no when it must."""

import json

import numpy as np
import pytest

from scalelab.errors import ConfigError, DataError, FitError
from scalelab.laws.isoflop.law import IsoFlopLaw
from scalelab.laws.observations import Observations
from scalelab.records.runs import read_external
from scalelab.report.fit.document import fit_document
from scalelab.report.render.terminal import render_terminal
from scalelab.study.holdout import HoldOut, hold_out
from scalelab.study.request import FitRequest, fit_evidence
from scalelab.study.study import study


def summary(study, columns=110):
    """What the terminal shows of a study."""
    return render_terminal(fit_document(study, "t"), columns)


def look(runs, **settings):
    common = {"target_flops": None, "param_count": "total", "replicates": 400}
    return study(runs, **{**common, **settings})


@pytest.fixture(scope="module")
def clean(family):
    """Five budgets, three seeds a size, .2% noise: nothing to complain of."""
    runs = family(noise=0.002, seeds=3, seed=5)
    return look(runs, target_flops=3e20, excluded=[("r9", "diverged: loss is not finite")])


@pytest.fixture(scope="module")
def small(measured):
    return look(measured, param_count="matmul", replicates=4000)


def with_losses(runs, L):
    return Observations.of(runs.N, runs.D, L, C=runs.C, flops_planned=runs.flops_planned)


def test_a_clean_family_is_sound(clean):
    assert clean.verdict.grade == "sound", clean.verdict
    assert "nothing in the evidence contradicts it" in summary(clean)


def test_the_forecast_and_its_intervals_hold_the_truth(clean):
    N = (0.35 * 480 / (0.37 * 2100)) ** (1 / 0.72) * (3e20 / 6) ** (0.37 / 0.72)
    D = 3e20 / 6 / N
    true = {"n_params": N, "n_tokens": D, "loss": 1.8 + 480 / N**0.35 + 2100 / D**0.37}
    true["tokens_per_param"] = D / N

    for key, value in true.items():
        low, high = clean.forecast.intervals[key]
        assert low <= value <= high, key
        assert clean.forecast.values[key] == pytest.approx(value, rel=0.06)


def test_the_default_target_is_10x_the_largest_budget(small):
    assert small.forecast.flops == pytest.approx(4e13)
    assert small.forecast.reach == pytest.approx(10, rel=1e-3)


def test_json_follows_schema_1(small):
    told = small.to_json()

    assert told["schema"] == 1
    assert told["level"] == 0.9
    assert told["n_runs"] == 24
    assert told["excluded"] == []
    assert told["param_count"] == "matmul"
    surface = told["laws"]["chinchilla"]
    assert set(surface["params"]) == {"E", "A", "B", "alpha", "beta"}
    assert set(surface["solver"]) == {"starts", "agreement", "gradient_norm", "at_bound", "converged"}
    assert surface["solver"]["converged"] is True
    assert {*surface["params"], "a", "b"} == set(surface["intervals"])
    assert set(surface["standard_errors"]) == set(surface["intervals"])
    assert surface["bootstrap"] == {
        "replicates": 4000,
        "failed": surface["bootstrap"]["failed"],
        "edge": surface["bootstrap"]["edge"],
        "unit": "run within budget",
    }
    minima = told["laws"]["isoflop"]["minima"]
    assert [m["flops"] for m in minima] == [1.5e11, 4.5e11, 1.4e12, 4e12]
    assert all({"n_params", "n_tokens", "loss", "at_edge"} <= set(m) for m in minima)
    assert set(told["laws"]["isoflop"]["exponents"]) == {"a", "b"}
    assert {"a", "b"} <= set(told["laws"]["isoflop"]["intervals"])
    assert {"train", "test", "mean_abs_rel_error"} <= set(told["holdout"])
    assert set(told["holdout"]["mean_abs_rel_error"]) == {"averaged", "isoflop", "chinchilla", "kaplan"}
    forecast = told["forecast"]
    assert {"flops", "n_params", "n_tokens", "loss", "reach", "verdict"} <= set(forecast)
    quantities = {"n_params", "n_tokens", "loss", "tokens_per_param", "a", "b"}
    assert set(forecast["intervals"]) == set(forecast["statistical"]) == quantities
    assert isinstance(forecast["verdict"], str)


def test_json_is_strict_and_full(small):
    told = small.to_json()

    assert json.loads(json.dumps(told, allow_nan=False)) == told
    assert told["forecast"]["n_params"] == small.forecast.values["n_params"]


def test_intervals_enclose_their_estimates(small):
    for law in small.to_json()["laws"].values():
        for key, value in {**law["params"], **law["exponents"]}.items():
            if law["intervals"].get(key):
                low, high = law["intervals"][key]
                assert low <= value <= high, key


def test_the_held_out_budget_is_forecast(small):
    """Fitted to the three smaller budgets, the fourth minimum is 3.35 nats per token."""
    test = small.holdout

    isoflop = test.last["isoflop"]
    assert (isoflop.n_train, isoflop.n_test) == (18, 6)
    assert isoflop.fold == pytest.approx(4 / 1.4)
    assert isoflop.loss == pytest.approx(3.397 / 3.351 - 1, abs=0.002)
    assert 0.01 < test.last["chinchilla"].error < 0.05


def test_the_hold_out_sees_nothing_of_what_it_foretells(measured):
    ruined = with_losses(measured, np.where(measured.flops_planned == 4e12, 9, measured.L))
    laws = {"isoflop": IsoFlopLaw()}

    honest, spoiled = hold_out(measured, laws), hold_out(ruined, laws)

    assert isinstance(honest, HoldOut)
    assert isinstance(spoiled, str)  # the slice held out has no minimum any more


def test_the_report_names_what_was_simplified_and_what_the_verdict_goes_by(family):
    runs = family(noise=0.002)
    seen = look(runs, replicates=0)
    told = " ".join(summary(seen).split())
    alone = " ".join(summary(look(runs, replicates=0, laws=["chinchilla"])).split())

    simpler = "Fitted to parts of the runs, averaged has a simpler form: all settings count the same."
    error = f"by its calibrated error, about {seen.forecast.expected_error:.2%} of the loss at the target"
    assert told.count(simpler) == 2  # under the hold-out and under the choice of law
    assert f"The verdict on averaged does not go by this reach but {error}." in told
    assert "Reach to trust" in alone
    assert "simpler form" not in alone
    assert "does not go by this reach" not in alone


def test_too_few_budgets_leave_no_hold_out(family):
    seen = look(family(budgets=(1e18, 1e19), noise=0.002))

    assert seen.to_json()["holdout"] is None
    assert "2 budget(s)" in seen.to_json()["holdout_absent"]
    assert seen.verdict.grade == "do not rely"
    assert "0 tests inside the evidence show too little" in str(seen.verdict)
    assert "two minima: a power law fits them exactly" in str(look(seen.runs, laws=["isoflop"]).verdict)
    assert "no hold-out" in str(seen.verdict)
    assert "Hold-out: none" in summary(seen)


def test_the_costliest_published_runs_are_held_out_without_budgets(hoffmann):
    seen = look(hoffmann, replicates=250)

    assert set(seen.fits) == {"averaged", "chinchilla", "kaplan"}
    assert "no run says which isoFLOP budget" in seen.refused["isoflop"]
    last = seen.holdout.last["chinchilla"]
    assert last.n_test == 24
    assert last.error < 0.02


def test_an_extrapolation_that_misled_others_is_held_and_flagged(olmo):
    """A surface fits the 16 small runs of the published ladder to .25% and misses the 13B model by 3.8%."""
    small, large = olmo.take(np.arange(16)), olmo.take(np.array([17]))

    seen = look(small, target_flops=float(large.C[0]), replicates=300)

    surface = seen.fits["chinchilla"]
    in_sample = np.mean(np.abs(surface.expected(small) / small.L - 1))
    assert in_sample == pytest.approx(0.0025, abs=5e-5)
    assert surface.expected(large)[0] == pytest.approx(2.34439, abs=2e-5)
    assert surface.expected(large)[0] / large.L[0] - 1 == pytest.approx(-0.0383, abs=1e-4)
    model = {"N": float(large.N[0]), "D": float(large.D[0])}
    error = abs(float(seen.fits["averaged"].loss_at(**model)) / large.L[0] - 1)
    assert error < 1.5 * seen.forecast.expected_error
    low, high = seen.forecast.intervals["loss"]
    assert np.log(high / low) / 2 > error
    assert seen.verdict.grade == "with caution"
    assert "the target asks" in str(seen.verdict)
    assert "with caution" in summary(seen)


def test_runs_too_few_for_any_law_are_refused_with_every_reason(family):
    runs = family(budgets=(1e18, 3e18), sizes=5).take(np.array([1, 2, 3, 7, 8]))

    with pytest.raises(FitError, match="no law can be fitted to these 5 runs") as caught:
        look(runs, laws=["isoflop", "chinchilla"])

    assert "5 runs cannot pin down 5 constants" in str(caught.value)
    assert "a parabola needs 3" in str(caught.value)


def test_a_refused_surface_is_recorded_beside_the_minima(family):
    runs = family(budgets=(1e18, 1.1e18), sizes=3, factor=1.3)

    seen = look(runs)

    assert set(seen.fits) == {"isoflop"}
    assert "N spans only" in seen.to_json()["refused"]["chinchilla"]
    assert "chinchilla refused" in str(seen.verdict)
    assert "Refused\n  - averaged" in summary(seen)
    assert "  - chinchilla: N spans only" in summary(seen)


def test_exact_fits_give_no_interval_and_no_trust(family):
    seen = look(family(budgets=(1e18, 1e19, 1e20), sizes=3, factor=2), laws=["isoflop"])

    assert seen.forecast.intervals == dict.fromkeys(seen.forecast.intervals)
    assert seen.verdict.grade == "do not rely"
    assert "no interval" in summary(seen)
    json.dumps(seen.to_json(), allow_nan=False)


def test_a_slice_at_its_edge_is_told_everywhere(family):
    runs = family(noise=0.001)
    N_low = runs.N[runs.flops_planned == 1e20].min()
    cut = runs.take(~((runs.flops_planned == 1e20) & (3.9 * N_low > runs.N)))

    seen = look(cut, laws=["isoflop", "chinchilla", "kaplan"])

    last = seen.to_json()["laws"]["isoflop"]["minima"][-1]
    assert last["at_edge"] is True
    assert last["n_params"] is None
    assert "refused: the lowest loss is at the smallest size" in summary(seen)
    assert "add sizes below" in summary(seen)
    assert "1 of 5 budgets refused" in str(seen.verdict)
    assert seen.forecast.reach == pytest.approx(1e21 / 3e19)  # beyond the last good minimum


def test_a_missed_hold_out_forbids_reliance(family):
    runs = family(noise=0.001)
    worse = with_losses(runs, np.where(runs.flops_planned == 1e20, 1.08 * runs.L, runs.L))

    seen = look(worse)

    assert seen.verdict.grade == "do not rely"
    assert "missed the held-out loss by" in str(seen.verdict)


def test_without_replicates_there_is_no_interval_and_the_verdict_says_so(family):
    seen = look(family(noise=0.002), replicates=0)

    assert set(seen.forecast.intervals.values()) == {None}
    assert "no bootstrap replicate was asked for" in str(seen.verdict)
    assert seen.to_json()["laws"]["chinchilla"]["bootstrap"] is None
    assert list(seen.draws()) == []


def test_without_a_calibrated_interval_noise_and_choice_of_law_are_quoted(measured):
    forecast = look(measured, replicates=400, laws=["isoflop", "chinchilla", "kaplan"]).forecast

    assert forecast.calibrated == {}
    for key, (low, high) in forecast.intervals.items():
        for other in (forecast.statistical[key], forecast.structural[key]):
            assert low <= other[0] <= other[1] <= high
    assert forecast.dominates["loss"] == "choice of law"


def test_a_calibrated_interval_is_quoted_and_never_narrower_than_the_noise(family):
    forecast = look(family(noise=0.002), replicates=400).forecast

    assert forecast.law == "averaged"
    assert forecast.stands_alone
    for key in ("loss", "n_params", "n_tokens", "tokens_per_param"):
        low, high = forecast.intervals[key]
        noise, calibrated = forecast.statistical[key], forecast.calibrated[key]
        assert [low, high] == [min(noise[0], calibrated[0]), max(noise[1], calibrated[1])]
        assert calibrated[0] < forecast.values[key] < calibrated[1]
    assert forecast.intervals["a"][0] <= forecast.structural["a"][0]  # nothing is calibrated of an exponent


def test_constants_that_move_together_are_named(small):
    pairs = small.correlations("chinchilla")

    assert abs(pairs["beta", "B"]) > 0.95
    assert "not to be read one by one" in summary(small)
    assert small.to_json()["laws"]["chinchilla"]["correlations"]["beta,B"] == pairs["beta", "B"]


def test_draws_are_tidy_and_complete(small):
    rows = [row for row in small.draws() if row[0] == "chinchilla" and row[2] == "alpha"]

    values = np.array([row[3] for row in rows])
    low, high = small.intervals("chinchilla")["alpha"]
    assert len(rows) == 4000 - small.replicates["chinchilla"].failed
    assert np.mean((values >= low) & (values <= high)) == pytest.approx(0.9, abs=0.01)


def test_profiles_are_made_when_asked_for(family):
    seen = look(family(noise=0.002), replicates=250, with_profiles=True)

    low, high = seen.to_json()["laws"]["chinchilla"]["profiles"]["alpha"]
    assert low < seen.fits["chinchilla"].params["alpha"] < high
    assert "by profile likelihood" in summary(seen)


def test_a_run_written_twice_is_left_out_and_listed(family):
    runs = family(noise=0.002)
    twice = np.append(np.arange(len(runs)), 3)
    copied = Observations.of(
        runs.N[twice], runs.D[twice], runs.L[twice], flops_planned=runs.flops_planned[twice]
    )

    seen = look(copied, replicates=250)

    assert len(seen.runs) == 35
    assert seen.to_json()["excluded"][0]["run"] == "row 35"
    assert "Left out: 1 run." in summary(seen)


def test_simulated_evidence_says_so(family):
    seen = look(family(noise=0.002), replicates=250, kind="simulated")

    assert "Evidence (simulated)" in summary(seen)
    assert "measured" not in summary(seen)
    assert seen.to_json()["kind"] == "simulated"


@pytest.mark.parametrize(("reach", "grade"), [(200, "with caution"), (2000, "do not rely")])
def test_reach_lowers_the_grade(family, reach, grade):
    seen = look(family(noise=0.002, seeds=3, seed=5), target_flops=reach * 1e20)

    assert seen.verdict.grade == grade
    assert f"the target is {reach:,}x the largest compute" in str(seen.verdict)
    assert f"the target asks {reach:,}x" in str(seen.verdict)
    assert "e+0" not in str(seen.verdict)


def test_the_summary_labels_and_bounds_every_claim(small, clean):
    for words in ("(measured)", "(fitted", "(extrapolated)", "(literature)", "10x the evidence"):
        assert words in summary(small)
    assert "r9: diverged: loss is not finite" in summary(clean)
    assert "between seeds (70 spare runs)" in summary(clean)
    assert "nan" not in summary(small).lower().split()
    assert max(map(len, summary(small).splitlines())) <= 110
    assert max(map(len, summary(small, 80).splitlines())) <= 80


def test_a_target_inside_the_evidence_is_not_called_extrapolated(family):
    seen = look(family(noise=0.002), target_flops=5e19)
    below = look(seen.runs, target_flops=5e18)

    assert seen.to_json()["forecast"]["status"] == "fitted"
    assert "fitted, inside the evidence" in summary(seen)
    assert below.to_json()["forecast"]["status"] == "extrapolated"
    assert "below the runs that count" in summary(below)
    assert below.forecast.width is None  # nothing was tested there
    assert below.forecast.intervals["loss"][0] <= below.forecast.structural["loss"][0]


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"param_count": "some"}, "unknown parameter count 'some'"),
        ({"level": 1.0}, "not between 0 and 1"),
        ({"replicates": -1}, "-1 replicates"),
        ({"flop_count": "all"}, "unknown FLOP count 'all'"),
        ({"kind": "guessed"}, "unknown kind of evidence 'guessed'"),
        ({"target_flops": -1.0}, "target_flops is -1"),
        ({"target_flops": np.nan}, "target_flops is nan"),
        ({"laws": []}, r"laws are \[\]"),
    ],
)
def test_refuses_settings_that_mean_nothing(family, settings, problem):
    with pytest.raises(DataError, match=problem):
        look(family(), **settings)


def test_an_unknown_law_gets_a_hint(family):
    with pytest.raises(ConfigError, match="did you mean 'chinchilla'"):
        look(family(), laws=["chinchila"])


def test_where_the_runs_speak_against_every_law_nothing_is_relied_on():
    """Losses that hang on size alone, so that no price of tokens can be found."""
    N, D = (a.ravel() for a in np.meshgrid(np.geomspace(1e7, 1e9, 5), np.geomspace(1e9, 1e11, 5)))

    seen = look(Observations.of(N, D, 0.01 + 40 / N**0.15), laws=["chinchilla"], replicates=0)

    assert seen.forecast.structural == {}
    assert seen.verdict.grade == "do not rely"
    assert "the runs speak against every law that was fitted" in str(seen.verdict)
    assert json.dumps(seen.to_json(), allow_nan=False)
    assert "Forecast" in summary(seen)


def test_laws_that_allot_nothing_cannot_forecast_alone(family):
    with pytest.raises(FitError, match="kaplan_n allots no compute to N and D") as caught:
        look(family(noise=0.002), laws=["kaplan_n"], replicates=0)

    assert "--law averaged, isoflop, chinchilla" in caught.value.fix
    beside = look(family(noise=0.002), laws=["kaplan_n", "chinchilla"], replicates=0)
    assert beside.forecast.law == "chinchilla"


def test_a_refusal_of_a_fit_names_the_table(tmp_path):
    path = tmp_path / "three.csv"
    path.write_text("n_params,n_tokens,loss\n1e8,2e9,3.5\n2e8,4e9,3.3\n4e8,8e9,3.1\n")
    runs = read_external(path, {}, (), None)

    with pytest.raises(FitError) as error:
        fit_evidence(runs.evidence, FitRequest.of("chinchilla", replicates=0))

    assert error.value.where.startswith(f"{path}: chinchilla: ")
    assert f"where: {path}: " in str(error.value)
