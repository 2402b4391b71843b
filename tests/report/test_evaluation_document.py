"""The document of an evaluation: values with their kinds, text that fits, names that stay text."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from scalelab.evals.evaluation_runner import AGGREGATE, EvalResult
from scalelab.evals.measurement import MeasurementRow, RowKind
from scalelab.report.document import Table
from scalelab.report.evaluation.document import result_document
from scalelab.report.render.markdown import render_markdown
from scalelab.report.render.terminal import render_terminal

LOSS = RowKind("loss", "Loss", "bits", "Bits per byte [measured]")
WINS = RowKind("wins", "Wins", value_kinds={"controlled": "fitted"})
RANKS = RowKind("ranks", "Ranks", value_kinds={"Bradley-Terry": "fitted"})
HIDDEN = RowKind("hidden", "Hidden", tabulated=False)


def result(*rows, kinds=(LOSS, WINS, RANKS, HIDDEN)):
    section = SimpleNamespace(kinds=kinds)
    file = SimpleNamespace(name="small", question="Which\nis better?", sections={"one": section})
    context = SimpleNamespace(file=file, models={"sft": Path("runs/sft")})
    return EvalResult(context, rows, {"sft": "abc123"})


def tables(*rows):
    blocks = result_document(result(*rows)).summary().blocks
    return [block for block in blocks if isinstance(block, Table)]


def test_an_interval_is_shown_with_its_value():
    values = {"bits": 1.23456, "bits_low": 1.0, "bits_high": 1.5, "n": 12345}
    (table,) = tables(MeasurementRow("loss", "held-out", "sft", values, "loss"))

    assert list(table.columns) == ["model", "name", "bits", "n"]
    (row,) = table.rows
    assert [row[2].text, row[3].text] == ["1.235 [1, 1.5]", "12,345"]
    assert table.caption == "All values are measured."


def test_a_column_names_the_kind_of_its_values():
    (table,) = tables(MeasurementRow("wins", "a over b", None, {"raw": 0.5, "controlled": 0.4}, "wins"))

    assert list(table.columns) == ["name", "raw (measured)", "controlled (fitted)"]
    assert [cell.kind for cell in table.rows[0][1:]] == ["measured", "fitted"]


def test_numbers_carry_their_kind_where_a_column_mixes_kinds():
    (table,) = tables(
        MeasurementRow("ranks", "Bradley-Terry", None, {"a": 1010.0, "b": 990.0}, "fit"),
        MeasurementRow("ranks", "Elo", None, {"a": 1005.0, "b": None}, "played"),
    )

    text = render_terminal(result_document(result(*_ranks())), 80)
    assert [row[1].kind for row in table.rows] == ["fitted", "measured"]
    assert table.rows[1][2].text == "-"
    assert "1010 (fitted)" in text
    assert "1005 (measured)" in text


def _ranks():
    return (
        MeasurementRow("ranks", "Bradley-Terry", None, {"a": 1010.0}, "fit"),
        MeasurementRow("ranks", "Elo", None, {"a": 1005.0}, "played"),
    )


@pytest.mark.parametrize("kind", [HIDDEN.name, AGGREGATE.name])
def test_a_kind_that_shows_its_values_itself_has_no_table(kind):
    assert not tables(MeasurementRow(kind, "mean", None, {"sft": 0.5}, "model  value\nsft    0.5"))


def test_a_row_without_values_is_shown_as_text():
    row = MeasurementRow("wins", "raw", None, {}, "raw is a base model and was skipped")

    assert not tables(row)
    assert row.text in render_terminal(result_document(result(row)), 80)


@pytest.mark.parametrize("columns", [40, 80])
def test_no_line_is_wider_than_the_terminal(columns):
    text = "choose: accuracy 0.500 of many rows\n  " + "a long condition of the task, " * 8
    document = result_document(result(MeasurementRow("loss", "choose", "sft", {"bits": 0.5}, text)))

    assert max(map(len, render_terminal(document, columns).split("\n"))) <= columns


def test_aligned_columns_keep_their_lines():
    row = MeasurementRow("hidden", "x", None, {}, "model   rating\nsft     1000")

    assert "sft     1000" in render_terminal(result_document(result(row)), 80)


def test_a_name_is_never_markup():
    page = render_markdown(
        result_document(result(MeasurementRow("loss", "<b>N*", "*sft*", {"bits": 1.0}, "x")))
    )

    assert "<b>" not in page
    assert r"\*sft\*" in page
