"""The page of a curation: what it says of stages, clusters, samples, licences, and of hostile text."""

from dataclasses import replace

import pytest
from curation import english, page

from scalelab.data.curate.base import excerpt
from scalelab.data.curate.file import CurationFile
from scalelab.data.curate.pipeline import curate
from scalelab.report.curation.document import curation_document, joined_names, retention_table
from scalelab.report.curation.page import curation_json, write_curation
from scalelab.report.curation.plots import retention_plot
from scalelab.report.document import plain
from scalelab.report.render.markdown import render_markdown
from scalelab.report.render.terminal import render_terminal
from scalelab.testing.figures import check_figure

HOSTILE = "<script>alert(1)</script> | **bold** \x1b[31m [x](javascript:y)"


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    folder = tmp_path_factory.mktemp("curation")
    (folder / "site").mkdir()
    for i in range(12):
        text = "too short" if i < 2 else english(12, seed=min(i, 8))
        (folder / "site" / f"{i:02d}.txt").write_text(f"{text} {HOSTILE if i == 3 else ''}")
    (folder / "site/99.html").write_text(page(english(9)))
    stages = [
        {"kind": "extract", "extractor": "own"},
        {"kind": "near_duplicates"},
        {"kind": "heuristics", "use": ["gopher"]},
        {"kind": "pii"},
    ]
    source = {"kind": "files", "paths": [str(folder / "site")]}
    file = CurationFile.model_validate({"name": "small", "source": source, "stages": stages})
    return curate(file, cache=folder / "cache", processes=1)


def cells(table):
    return [[plain(cell) for cell in row] for row in table.rows]


def test_the_table_accounts_for_every_stage(result):
    rows = cells(retention_table(result.reports, [1000.0, None, 500.0, 500.0]))

    assert [row[0] for row in rows] == ["pages read", "extract", "near_duplicates", "heuristics", "pii"]
    assert [row[1] for row in rows] == ["13", "11", "8", "8", "8"]  # two too short, four copies of one text
    assert rows[2][2] == f"{8 / 11:.1%}"
    assert [row[5] for row in rows] == ["-", "1k", "-", "500", "500"]
    raw, final = result.reports[0].bytes_in, result.reports[-1].bytes_out
    assert rows[-1][4] == f"{1000 * final / raw:,.0f}"


def test_the_page_has_clusters_samples_and_reasons_and_hostile_text_stays_text(result, tmp_path):
    path = write_curation(result, tmp_path, [None] * 4)
    text = path.read_text()

    for words in (
        "Largest clusters of copies",
        "near copy of another document",
        "little or no text",
        "Domains",
        "Kept",
    ):
        assert words in text
    assert "<script>" not in text
    assert "\x1b" not in text + render_terminal(curation_document(result))
    assert (tmp_path / "retention.png").exists()
    assert (tmp_path / "stages.json").exists()


def test_licences_stand_on_the_page(result):
    about = {
        "package": "a-doc",
        "version": "1",
        "origin": "",
        "licences": ["MIT"],
        "n_pages": 3,
        "n_bytes": 9,
    }
    unknown = about | {"package": "b-doc", "licences": []}
    result.source_facts["packages"] = [about, unknown]

    text = render_markdown(curation_document(result))

    del result.source_facts["packages"]
    assert "| a-doc | 1 | 3 |" in text
    assert "MIT" in text
    assert "not stated" in text


def test_the_figure_conforms(result):
    check_figure("curation_retention", retention_plot(result))


def test_the_numbers_for_programs_are_those_of_the_reports(result):
    found = curation_json(result, [1.0, 2.0, None, 4.0])
    assert [stage["n_out"] for stage in found["stages"]] == [report.n_out for report in result.reports]
    assert [stage["tokens_estimated"] for stage in found["stages"]] == [1.0, 2.0, None, 4.0]


@pytest.mark.parametrize(
    ("names", "joined"),
    [
        (["m/de/a.html", "m/en/a.html"], "m/{de, en}/a.html"),
        (["m/a.html", "m/b.html"], "m/{a.html, b.html}"),
        (["x/1/a/z", "x/2/z"], "x/{1/a, 2}/z"),
        (["a", "b"], "a; b"),
        (["a/b"], "a/b"),
    ],
)
def test_names_of_copies_that_begin_and_end_alike_are_shown_as_one(names, joined):
    assert joined_names(names) == joined


def test_domains_that_a_stage_renames_are_counted_before_and_classes_behind_it(result):
    """Sites lose their documents to classes: their own table ends with the stage before."""
    site, class_ = {"a.org": (9, 900)}, {"code": (6, 600)}
    stages = [
        replace(result.reports[0], domains=site),
        replace(result.reports[1], kind="heuristics", domains={"a.org": (7, 700)}),
        replace(result.reports[2], kind="domains", domains={"code": (7, 700)}),
        replace(result.reports[3], domains=class_),
    ]
    blocks = curation_document(replace(result, reports=stages)).blocks
    tables = [cells(block) for block in blocks if getattr(block, "columns", [""])[0] == "domain"]

    assert [[row[0], row[1], row[3], row[5]] for table in tables for row in table] == [
        ["a.org", "9", "7", "100.0%"],
        ["code", "7", "6", "100.0%"],
    ]


def test_what_is_cut_off_ends_with_dots_behind_a_whole_word():
    text = "one two three four five"
    assert [excerpt(text, length=n) for n in (9, 7, 100)] == ["one two ...", "one two ...", text]
    assert excerpt("x" * 50, length=10) == "x" * 10 + " ..."


def test_a_table_without_estimated_tokens_has_no_column_of_them(result):
    table, whole = retention_table(result.reports, None), retention_table(result.reports, [1000.0] * 4)

    assert "tokens" not in table.columns
    assert len(table.columns) == len(whole.columns) - 1
    assert {len(row) for row in table.rows} == {len(table.columns)}
    assert "tokens" not in table.caption
