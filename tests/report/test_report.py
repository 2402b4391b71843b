"""A report shows what the study found, and says what it could not show."""

import json
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from scalelab.laws.base import Observations
from scalelab.laws.study import study
from scalelab.report import numbers
from scalelab.report.page import write_report

FIGURES = ("valleys", "allocation", "frontier", "surface")


def valley_runs(seeds=2):
    """Four isoFLOP slices of seven sizes on a known surface, .2% noise."""
    rng = np.random.default_rng(1)
    parts = []
    for C in (1e18, 3e18, 1e19, 3e19):
        best = (0.35 * 480 / (0.37 * 2100)) ** (1 / 0.72) * (C / 6) ** (0.37 / 0.72)
        N = np.repeat(best * np.geomspace(0.2, 6, 7), seeds)
        D = C / (6 * N)
        L = (1.8 + 480 / N**0.35 + 2100 / D**0.37) * np.exp(0.002 * rng.standard_normal(N.size))
        parts.append((N, D, L, np.full(N.size, C)))
    N, D, L, planned = map(np.concatenate, zip(*parts, strict=True))
    return Observations.of(N, D, L, flops_planned=planned)


def look(runs, **settings):
    settings = {"target_flops": None, "param_count": "total", "replicates": 300, **settings}
    return study(runs, **settings)


@pytest.fixture(scope="module")
def seen():
    return look(valley_runs(), excluded=[("r7", "diverged at step 12")])


@pytest.fixture(scope="module")
def report(seen, tmp_path_factory):
    out = tmp_path_factory.mktemp("a report") / "out"
    provenance = {"commit": "abc1234", "data_digest": "d1|d2"}
    return out, write_report(seen, out, name="first", provenance=provenance)


def test_valleys_pass_through_their_minima(seen):
    for valley in numbers.valleys(seen):
        n_params, loss = valley.minimum
        at = np.interp(np.log(n_params), np.log(valley.curve_n_params), valley.curve_loss)
        assert at == pytest.approx(loss, abs=1e-3)
        assert valley.curve_loss.min() == pytest.approx(loss, abs=1e-3)
        assert valley.interval[0] < n_params < valley.interval[1]
        assert len(valley.loss) == 14
        assert valley.used.sum() in (8, 10, 12)


def test_the_allocation_reaches_from_the_first_budget_to_the_forecast(seen):
    drawn = numbers.allocation(seen)

    curve = drawn.n_params["isoflop"]
    assert (curve.flops[0], curve.flops[-1]) == pytest.approx((1e18, 3e20))
    assert curve.value[-1] == pytest.approx(seen.forecast.values["n_params"])
    low, high = seen.forecast.intervals["n_params"]
    assert (curve.low[-1], curve.high[-1]) == pytest.approx((low, high))
    assert np.all((curve.low < curve.value) & (curve.value < curve.high))
    assert drawn.n_params["chinchilla"].low is None
    assert list(drawn.minima_n_tokens.flops) == [1e18, 3e18, 1e19, 3e19]


def test_the_frontier_holds_every_form(seen):
    drawn = numbers.frontier(seen)

    assert set(drawn.curves) == {"isoflop", "isoflop, power form", "chinchilla"}
    assert drawn.curves["isoflop"].value[-1] == pytest.approx(drawn.forecast)
    assert drawn.evidence_end == 3e19


def test_the_surface_is_the_laws_own(seen):
    drawn = numbers.surface(seen)

    assert drawn.loss.shape == (len(drawn.n_tokens), len(drawn.n_params))
    expected = seen.fits["chinchilla"].predict(N=drawn.n_params[3], D=drawn.n_tokens[70])
    assert drawn.loss[70, 3] == pytest.approx(expected)
    assert drawn.n_params[0] < drawn.runs_n_params.min()
    assert drawn.n_tokens[-1] > drawn.path_n_tokens[-1]


def test_the_report_is_complete(report):
    out, paths = report

    assert {p.name for p in paths} == {p.name for p in out.iterdir()}
    assert {f"{f}.{kind}" for f in FIGURES for kind in ("png", "svg")} < {p.name for p in paths}
    assert paths[0].name == "README.md"


def test_the_figures_are_pictures(report):
    out, _ = report

    for title in FIGURES:
        assert (out / f"{title}.png").read_bytes().startswith(b"\x89PNG")
        text = "".join(ElementTree.parse(out / f"{title}.svg").getroot().itertext())
        assert "parameters" in text or "nats per token" in text or "tokens" in text


def test_every_axis_has_its_unit(report):
    out, _ = report
    labels = {
        "valleys": ("parameters N", "validation loss (nats per token)"),
        "allocation": ("parameters N*", "tokens D*", "training compute C (FLOPs)"),
        "frontier": ("training compute C (FLOPs)", "(nats per token)", "extrapolated"),
        "surface": ("parameters N", "tokens D", "nats per token"),
    }

    for title, words in labels.items():
        text = "".join(ElementTree.parse(out / f"{title}.svg").getroot().itertext())
        assert all(word in text for word in words), title


def test_the_page_holds_verdict_words_and_provenance(report, seen):
    out, _ = report
    page = (out / "README.md").read_text()

    assert page.startswith("# Scaling study: first")
    assert str(seen.verdict) in page
    assert seen.summary() in page
    assert "| commit | abc1234 |" in page
    assert "d1\\|d2" in page
    assert "`r7`: diverged at step 12" in page
    assert all(f"({title}.png)" in page for title in FIGURES)
    assert all(f"`{run}`" in page for run in seen.runs.run)


def test_the_numbers_are_the_studys_own(report, seen):
    out, _ = report

    assert json.loads((out / "fit.json").read_text()) == seen.to_json()
    assert (out / "summary.txt").read_text() == seen.summary() + "\n"


def test_the_same_study_gives_the_same_bytes(report, seen, tmp_path):
    _, paths = report

    again = write_report(
        seen, tmp_path, name="first", provenance={"commit": "abc1234", "data_digest": "d1|d2"}
    )

    for path in paths:
        assert (tmp_path / path.name).read_bytes() == path.read_bytes(), path.name
    assert len(again) == len(paths)


def test_a_refused_law_leaves_no_figure_of_an_earlier_one(report, tmp_path):
    runs = valley_runs(seeds=1)
    bare = Observations.of(runs.N, runs.D, runs.L)
    (tmp_path / "valleys.png").write_bytes(b"of an earlier study")
    (tmp_path / "runs.csv").write_text("kept")

    write_report(look(bare), tmp_path, name="bare", provenance={})

    page = (tmp_path / "README.md").read_text()
    assert not (tmp_path / "valleys.png").exists()
    assert (tmp_path / "runs.csv").read_text() == "kept"
    assert "No valleys figure: no run says which isoFLOP budget" in page
    assert "Nothing was recorded." in page


def test_an_isoflop_study_alone_can_be_drawn(tmp_path):
    paths = write_report(
        look(valley_runs(), laws=["isoflop"]), tmp_path, name="local", provenance={}
    )

    assert "surface.png" not in {p.name for p in paths}
    assert "the law chinchilla was not asked for" in (tmp_path / "README.md").read_text()


def test_a_study_without_intervals_can_be_drawn(tmp_path):
    runs = valley_runs(seeds=1)
    three = np.tile([False, False, True, True, True, False, False], 4)

    seen = look(runs.take(three), laws=["isoflop"])

    assert seen.replicates["isoflop"] is None
    assert len(write_report(seen, tmp_path, name="exact", provenance={})) == 9
