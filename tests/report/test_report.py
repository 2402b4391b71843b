"""A report shows what the study found, and says what it could not show."""

import json
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.text import Text

from scalelab.laws.observations import Observations
from scalelab.markup import escape_markdown
from scalelab.report.fit import captions, diagnostics, page, plot_data
from scalelab.report.fit.document import fit_document
from scalelab.report.fit.page import FIGURES, figure_data, write_report
from scalelab.report.plots import figure_file
from scalelab.report.render.terminal import render_terminal
from scalelab.study.conventions import ConventionRow
from scalelab.study.study import study
from scalelab.testing.figures import check_figure

CONVENTIONS = (
    ConventionRow("total", "exact", "isoflop", 0.51, 0.49, [0.49, 0.53], None),
    ConventionRow("non_embedding", "exact", "isoflop", 0.61, 0.39, [0.58, 0.64], None),
    ConventionRow("total", "exact", "kaplan", 0.7, 0.3, None, "the search did not converge"),
    ConventionRow("non_embedding", "exact", "kaplan", None, None, None, "too few runs"),
)


def valley_runs(seeds=2, budgets=(1e18, 3e18, 1e19, 3e19), noise=0.002, spoil=None):
    """IsoFLOP slices of seven sizes on a known surface; `spoil` is the row of a ruined run."""
    rng = np.random.default_rng(1)
    parts = []
    for C in budgets:
        best = (0.35 * 480 / (0.37 * 2100)) ** (1 / 0.72) * (C / 6) ** (0.37 / 0.72)
        N = np.repeat(best * np.geomspace(0.2, 6, 7), seeds)
        D = C / (6 * N)
        L = (1.8 + 480 / N**0.35 + 2100 / D**0.37) * np.exp(noise * rng.standard_normal(N.size))
        parts.append((N, D, L, np.full(N.size, C), np.tile(np.arange(seeds), 7)))
    N, D, L, planned, seed = map(np.concatenate, zip(*parts, strict=True))
    if spoil is not None:
        L[spoil] *= 1.12
    return Observations.of(N, D, L, flops_planned=planned, seed=seed)


def look(runs, **settings):
    """A study in which isoFLOP forecasts, unless other laws are named."""
    laws = ("isoflop", "chinchilla", "kaplan")
    settings = {"target_flops": None, "param_count": "total", "replicates": 300, "laws": laws, **settings}
    return study(runs, **settings)


def words(path):
    """All text of an SVG."""
    return " ".join(ElementTree.parse(path).getroot().itertext())


@pytest.fixture(scope="module")
def seen():
    return look(valley_runs(), excluded=[("r7", "diverged at step 12")])


@pytest.fixture(scope="module")
def spoilt():
    return look(valley_runs(spoil=23), replicates=100, kind="simulated")


@pytest.fixture(scope="module")
def along(seen):
    return plot_data.along_compute(seen)


@pytest.fixture(scope="module")
def report(seen, tmp_path_factory):
    out = tmp_path_factory.mktemp("a report") / "out"
    return out, write(seen, out)


def write(found, out):
    provenance = {"commit": "abc1234", "data_digest": "d1|d2"}
    return write_report(found, out, name="first", provenance=provenance, conventions=CONVENTIONS, draws=True)


def test_valleys_pass_through_their_minima(seen):
    for valley in plot_data.valleys(seen).valleys:
        n_params, loss = valley.minimum
        at = np.interp(np.log(n_params), np.log(valley.curve_n_params), valley.curve_loss)
        assert at == pytest.approx(loss, abs=1e-3)
        assert valley.curve_loss.min() == pytest.approx(loss, abs=1e-3)
        assert valley.interval[0] < n_params < valley.interval[1]
        assert len(valley.loss) == 14
        assert valley.used.sum() in (8, 10, 12)


def test_valleys_carry_the_minima_by_other_shapes(seen):
    drawn = plot_data.valleys(seen).valleys

    for valley, s in zip(drawn, seen.fits["isoflop"].slices, strict=True):
        assert valley.others == {k: s.cross_check[k] for k in ("cubic", "akima")}


def test_a_ruined_run_is_crossed_out(spoilt, tmp_path):
    drawn = plot_data.valleys(spoilt)
    (valley,) = [v for v in drawn.valleys if v.ruined.any()]

    write_report(spoilt, tmp_path, name="spoilt", provenance={})

    assert valley.flops == 3e18
    assert not (valley.used & valley.ruined).any()
    assert 'id="ruined"' in (tmp_path / "valleys.svg").read_text()
    assert "Crossed-out" in captions.valleys(spoilt, drawn)


def test_a_study_without_ruined_runs_crosses_out_none(report, seen):
    assert 'id="ruined"' not in (report[0] / "valleys.svg").read_text()
    assert "Crossed-out" not in captions.valleys(seen, plot_data.valleys(seen))


def test_the_allocation_reaches_from_the_first_budget_to_the_forecast(seen, along):
    drawn = plot_data.allocation(seen, along)

    curve = drawn.n_params["isoflop"]
    assert (curve.flops[0], curve.flops[-1]) == pytest.approx((1e18, 3e20))
    assert curve.value[-1] == pytest.approx(seen.forecast.values["n_params"])
    low, high = seen.forecast.statistical["n_params"]
    assert (curve.low[-1], curve.high[-1]) == pytest.approx((low, high))
    assert np.all((curve.low < curve.value) & (curve.value < curve.high))
    assert drawn.n_params["chinchilla"].low is None
    assert list(drawn.minima_n_tokens.flops) == [1e18, 3e18, 1e19, 3e19]


def test_the_target_shows_what_is_quoted_and_every_member_that_counts(seen, along):
    target = plot_data.frontier(seen, along).target
    counting = [m.values["loss"] for m in seen.forecast.members if m.refuted is None and "loss" in m.values]

    assert target.value == seen.forecast.values["loss"]
    assert target.quoted == seen.forecast.intervals["loss"]
    assert list(target.members) == counting


def test_a_line_changes_its_dash_where_the_evidence_ends(seen, along):
    assert seen.fits["isoflop"].evidence_end in along.flops


def test_the_frontier_holds_every_form(seen, along):
    drawn = plot_data.frontier(seen, along)

    assert set(drawn.curves) == {"isoflop", "isoflop, power form", "chinchilla", "kaplan"}
    assert drawn.curves["isoflop"].value[-1] == pytest.approx(drawn.target.value)
    assert drawn.evidence_end == pytest.approx(3e19)


def test_what_the_runs_refute_is_marked(seen, along):
    drawn = plot_data.frontier(seen, along)
    refuted = {m.name for m in seen.forecast.members if m.refuted}

    assert {name for name, curve in drawn.curves.items() if not curve.counts} == refuted & set(drawn.curves)
    assert "isoflop, power form" in refuted


def test_the_surface_is_the_laws_own(seen, along):
    drawn = plot_data.surface(seen, along)

    assert drawn.law == "chinchilla"
    assert drawn.loss.shape == (len(drawn.n_tokens), len(drawn.n_params))
    expected = seen.fits["chinchilla"].predict(N=drawn.n_params[3], D=drawn.n_tokens[70])
    assert drawn.loss[70, 3] == pytest.approx(expected)
    assert drawn.n_params[0] < drawn.runs_n_params.min()
    assert drawn.n_tokens[-1] > drawn.path_n_tokens[-1]


def test_the_map_says_which_runs_its_law_was_fitted_to(seen, along):
    used = look(valley_runs(), laws=("averaged",), replicates=0)
    drawn = plot_data.surface(used, plot_data.along_compute(used))
    fit, whole = used.fits["averaged"], plot_data.surface(seen, along)

    assert (drawn.n_fitted, drawn.n_runs) == (len(fit.runs), len(used.runs))
    assert drawn.n_fitted < drawn.n_runs
    assert np.array_equal(drawn.fitted, fit.runs.C.min() <= used.runs.C)
    text = captions.surface(used, drawn)
    assert f"fitted to {drawn.n_fitted} of the {drawn.n_runs} runs" in text
    assert "Hollow: runs that it was not fitted to." in text
    check_figure("surface", drawn)
    assert "fitted to all runs" in captions.surface(seen, whole)
    assert "Hollow" not in captions.surface(seen, whole)


def test_far_multiples_of_compute_are_written_as_everywhere(seen):
    data = diagnostics.tests(seen)
    far = replace(data, laws=[replace(data.laws[0], trusted=5040.0)])

    assert "5,040x" in captions.holdout(seen, far)


def test_the_misses_are_the_laws_own(seen):
    (chinchilla, kaplan) = diagnostics.residuals(seen).laws

    expected = seen.fits["chinchilla"].expected(seen.runs) / seen.runs.L - 1
    assert np.array_equal(chinchilla.miss, expected)
    assert chinchilla.typical == pytest.approx(seen.fits["chinchilla"].miss)
    assert kaplan.law == "kaplan"


def test_a_run_that_stands_out_is_named(spoilt):
    chinchilla = diagnostics.residuals(spoilt).laws[0]

    assert next(iter(chinchilla.worst.values())) == spoilt.runs.run[23]
    assert f"`{spoilt.runs.run[23]}`" in captions.residuals(spoilt, diagnostics.residuals(spoilt))


def test_ordinary_noise_makes_no_run_stand_out(seen):
    assert not diagnostics.residuals(seen).laws[0].worst


def test_the_hold_outs_are_the_studys_own(seen):
    drawn = diagnostics.tests(seen)

    assert sum(len(t.error) for t in drawn.laws) == len(seen.holdout.tests)
    for tested in drawn.laws:
        assert tested.trusted == seen.holdout.trusted_fold(tested.law)
        expected = seen.holdout.expected_error(tested.law, 7.0)
        assert tested.growth * np.log(7.0) == pytest.approx(expected)


def test_the_choice_holds_every_member_under_its_law(seen):
    drawn = diagnostics.choice(seen)
    members = [m for mine in drawn.groups.values() for m in mine]

    assert sorted(m.name for m in members) == sorted(m.name for m in seen.forecast.members)
    assert [mine[0].name for mine in drawn.groups.values()] == list(drawn.groups)


@pytest.mark.parametrize("title", FIGURES)
def test_the_figures_are_pictures(report, title):
    out, _ = report

    assert (out / f"{title}.png").read_bytes().startswith(b"\x89PNG")
    assert len(words(out / f"{title}.svg")) > 100


UNITS = {
    "valleys": ("parameters N", "validation loss L (nats per token)"),
    "allocation": ("parameters N*", "tokens D*", "training compute C (FLOPs)"),
    "frontier": ("training compute C (FLOPs)", "(nats per token)"),
    "surface": ("parameters N", "tokens D", "nats per token"),
    "residuals": ("parameters N", "tokens D", "compute C (FLOPs)", "share of the loss"),
    "holdout": ("compute asked for over the most that was fitted", "error of the loss (share"),
    "choice": ("(parameters)", "(tokens per", "(nats per token)", "exponent a"),
    "conventions": ("exponent a of N* ~ C^a",),
}


@pytest.mark.parametrize("title", FIGURES)
def test_every_axis_has_its_unit(report, title):
    text = words(report[0] / f"{title}.svg")

    assert all(word in text for word in UNITS[title])


@pytest.mark.parametrize("title", FIGURES)
def test_every_figure_says_what_its_numbers_are(report, title):
    text = words(report[0] / f"{title}.svg")

    assert re.search(r"\[[^]]*(measured|fitted|extrapolated)[^]]*\]", text)


def test_simulated_losses_are_called_so_and_never_measured(spoilt, tmp_path):
    write(spoilt, tmp_path)

    text = (tmp_path / "README.md").read_text()
    assert "simulated" in text
    assert "measured" not in text
    for title in FIGURES:
        assert "measured" not in words(tmp_path / f"{title}.svg"), title


@pytest.mark.parametrize("title", FIGURES)
def test_no_text_is_smaller_than_eight_points(report, title):
    svg = (report[0] / f"{title}.svg").read_text()
    sizes = [float(size) for size in re.findall(r"font-size: ([\d.]+)px", svg)]

    assert sizes
    assert min(sizes) >= 8


@pytest.fixture
def placed(seen, monkeypatch):
    """A function that draws a figure and returns its size and where every text was put."""
    drawn = []

    def put(text, renderer):
        if text.get_text() and text.get_visible():
            drawn.append((text.get_text(), Text.get_window_extent(text, renderer)))

    def place(title, found=seen):
        figure = figure_file.FIGURES[title](page.figure_data(found, CONVENTIONS)[title])
        monkeypatch.setattr(Text, "draw", put)
        drawn.clear()
        figure.canvas.draw()
        return figure.canvas.get_width_height(), list(drawn)

    return place


@pytest.mark.parametrize("title", FIGURES)
def test_no_text_leaves_the_picture(placed, title):
    (width, height), texts = placed(title)

    assert len(texts) > 8
    for text, box in texts:
        inside = box.x0 > 0 and box.y0 > 0 and box.x1 < width and box.y1 < height
        assert inside, text


@pytest.mark.parametrize("title", FIGURES)
@pytest.mark.parametrize("which", ["seen", "spoilt"])
def test_no_two_texts_overlap(placed, title, which, request):
    _, texts = placed(title, request.getfixturevalue(which))

    boxes = [(text, box.padded(-1)) for text, box in texts]
    for k, (text, box) in enumerate(boxes):
        for other, there in boxes[:k]:
            assert not box.overlaps(there), (text, other)


def test_the_report_is_complete(report):
    out, paths = report

    assert {p.name for p in paths} == {p.name for p in out.iterdir()}
    assert {f"{f}.{kind}" for f in FIGURES for kind in ("png", "svg")} < {p.name for p in paths}
    assert paths[0].name == "README.md"


def test_the_page_holds_verdict_words_and_provenance(report, seen):
    out, _ = report
    text = (out / "README.md").read_text()

    assert text.startswith(f"# Scaling study: first\n\n**Verdict: {seen.verdict.grade}**")
    assert all(f"- {escape_markdown(reason)}\n" in text for reason in seen.verdict.reasons)
    assert "| commit | abc1234 |" in text
    assert "d1\\|d2" in text
    assert "- `r7`: diverged at step 12" in text
    assert all(f"({title}.png)" in text and f"({title}.svg)" in text for title in FIGURES)
    assert all(f"`{run}`" in text for run in seen.runs.run)
    assert all(escape_markdown(finding.reason) in text for finding in seen.findings)
    assert "Conventions (fitted)" in text


def test_the_page_quotes_the_interval_and_its_larger_doubt(report, seen):
    text = (report[0] / "README.md").read_text()
    low, high = seen.forecast.intervals["loss"]
    (row,) = [line for line in text.splitlines() if line.startswith(r"| L\* |")]

    assert rf"\[{low:.3f}, {high:.3f}\]" in row
    assert seen.forecast.dominates["loss"] in row


def test_the_numbers_are_the_studys_own(report, seen):
    out, _ = report

    assert json.loads((out / "fit.json").read_text()) == seen.to_json()
    assert (out / "summary.txt").read_text() == render_terminal(
        fit_document(seen, "first", conventions=CONVENTIONS), 100
    ) + "\n"


def test_the_draws_are_tidy(report, seen):
    header, *lines = (report[0] / "draws.csv").read_text().splitlines()

    assert header == "law,replicate,quantity,value"
    assert lines == [f"{law},{k},{key},{value!r}" for law, k, key, value in seen.draws()]


def test_the_same_study_gives_the_same_bytes(report, seen, tmp_path):
    _, paths = report

    again = write(seen, tmp_path)

    for path in paths:
        assert (tmp_path / path.name).read_bytes() == path.read_bytes(), path.name
    assert len(again) == len(paths)


def test_a_refused_law_leaves_no_figure_of_an_earlier_one(tmp_path):
    runs = valley_runs(seeds=1)
    unequal = runs.D * np.exp(0.1 * np.arange(len(runs)) % 0.7)
    bare = Observations.of(runs.N, unequal, runs.L)
    for stale in ("valleys.png", "conventions.svg", "draws.csv"):
        (tmp_path / stale).write_bytes(b"of an earlier study")
    (tmp_path / "runs.csv").write_text("kept")

    write_report(look(bare), tmp_path, name="bare", provenance={})

    text = (tmp_path / "README.md").read_text()
    left = {path.name for path in tmp_path.iterdir()}
    assert not left & {"valleys.png", "conventions.svg", "draws.csv"}
    assert (tmp_path / "runs.csv").read_text() == "kept"
    assert "No valleys figure: no run says which isoFLOP budget" in text
    assert "conventions figure" not in text
    assert "Nothing was recorded." in text


def test_an_isoflop_study_alone_can_be_drawn(tmp_path):
    found = look(valley_runs(), laws=["isoflop"])

    paths = write_report(found, tmp_path, name="local", provenance={})

    text = (tmp_path / "README.md").read_text()
    assert not {"surface.png", "residuals.png"} & {p.name for p in paths}
    assert "No surface figure: no law of N and D was fitted" in text


def test_a_study_without_intervals_can_be_drawn(tmp_path):
    runs = valley_runs(seeds=1)
    three = np.tile([False, False, True, True, True, False, False], 4)

    found = look(runs.take(three), laws=["isoflop"])
    paths = write_report(found, tmp_path, name="exact", provenance={})

    assert found.replicates["isoflop"] is None
    assert {"allocation.png", "frontier.png", "choice.png"} <= {p.name for p in paths}
    assert "the noise is unknown" in (tmp_path / "README.md").read_text()


def test_a_refused_slice_is_drawn_and_says_so(tmp_path):
    runs = valley_runs()
    cut = (runs.flops_planned == 3e19) & (runs.N > 5e8)

    found = look(runs.take(~cut), laws=["isoflop"])
    write_report(found, tmp_path, name="edge", provenance={})

    assert [v.refused is not None for v in plot_data.valleys(found).valleys][-1]
    assert "refused" in words(tmp_path / "valleys.svg")


def test_a_page_of_very_many_runs_names_the_first_of_them(tmp_path):
    found = look(valley_runs(seeds=8), replicates=0, laws=["isoflop"])

    write_report(found, tmp_path, name="many", provenance={})

    text = (tmp_path / "README.md").read_text().split("### Runs used (224)")[1]
    assert "`row 199` and 24 more" in text
    assert "`row 200`" not in text.split("### Runs left out")[0]


def test_thinning_keeps_what_it_must_and_says_how_many_it_hides():
    kept = plot_data.thinned(100_000, np.array([12_345]), most=1000)

    assert len(kept) == 1001
    assert 12_345 in kept
    assert (kept[0], kept[-1]) == (0, 99_999)
    assert np.array_equal(plot_data.thinned(10), np.arange(10))


def test_a_thinned_figure_says_so(seen, monkeypatch):
    monkeypatch.setattr(plot_data, "MOST", 40)
    drawn = plot_data.frontier(seen, plot_data.along_compute(seen))

    assert drawn.hidden == len(seen.runs) - 40
    assert "16 runs more are used but not drawn" in captions.frontier(seen, drawn)


def test_an_svg_of_many_marks_holds_them_as_a_picture(tmp_path):
    rng = np.random.default_rng(3)
    N, D = np.exp(rng.uniform([[16], [20]], [[20], [24]], size=(2, 2200)))
    L = (1.8 + 480 / N**0.35 + 2100 / D**0.37) * np.exp(0.002 * rng.standard_normal(2200))

    found = look(Observations.of(N, D, L), replicates=0, laws=["chinchilla"])
    write_report(found, tmp_path, name="cloud", provenance={})

    for title in ("frontier", "surface", "residuals"):
        svg = (tmp_path / f"{title}.svg").read_text()
        assert "<image" in svg, title
        assert len(svg) < 600_000, title


@pytest.mark.parametrize("title", FIGURES)
def test_a_figure_keeps_its_contract(title, seen):
    check_figure(title, figure_data(seen, CONVENTIONS)[title])


def test_the_usual_laws_report_the_calibrated_interval_beside_its_parts():
    usual = look(valley_runs(seeds=3), laws=("averaged", "isoflop", "chinchilla", "kaplan"), level=0.8)
    text = render_terminal(fit_document(usual, "usual"), 160)

    assert "by averaged" in text
    assert "calibrated" in text
    assert "Expect an error of L* of about" in text
    assert "weight" in text  # each setting with its weight
    assert "E_1" not in text  # the constants of the settings have no table


def test_a_level_that_was_not_calibrated_says_so():
    usual = look(valley_runs(seeds=3), laws=("averaged", "isoflop"), level=0.98, replicates=1000)
    text = render_terminal(fit_document(usual, "usual"), 160)

    assert usual.forecast.calibrated == {}
    assert "Calibrated intervals exist from 50% to 95% only" in " ".join(text.split())
