"""The report of a backtest, written: page, figures, numbers.

    OUT/
      README.md          the page
      backtest.json      schema 1
      backtest_error.*   error against reach
      backtest_coverage.*   nominal against actual coverage

Not here: the answers of the methods beside them (backtest/runner.py), what the page says (document.py).
"""

from pathlib import Path

from scalelab.backtest.board import Board
from scalelab.files import make_dir, write_json, write_text
from scalelab.records.provenance import code_version
from scalelab.report.backtest.document import backtest_document
from scalelab.report.backtest.plot_data import coverage_by_level, errors_by_reach
from scalelab.report.document import Figure
from scalelab.report.plots.render_workers import draw_figures
from scalelab.report.render.markdown import render_markdown

CAPTIONS = {
    "backtest_error": "Mean error of the loss by reach, every family of tables weighing the same [extrapolated].",
    "backtest_coverage": "Share of actual losses inside intervals of each level, up to a reach of 150 "
    "[extrapolated]. Dashed: constants made without the family of each case. Grey: where exact intervals would lie on "
    "95% of boards, were cases independent.",
}


def write_backtest(board: Board, out: Path) -> Path:
    """Write the page, the figures and backtest.json; return the path of the page.

    Args:
        board: The scores.
        out: The directory; made if it does not exist.

    Raises:
        RunError: A file cannot be written.
    """
    make_dir(out)
    data = {"backtest_error": errors_by_reach(board), "backtest_coverage": coverage_by_level(board)}
    drawn = draw_figures(out, data)
    write_json(out / "backtest.json", board.to_json())
    figures = [Figure(name, CAPTIONS[name]) for name in drawn]
    document = backtest_document(board, figures=figures, provenance=code_version())
    write_text(out / "README.md", render_markdown(document))
    return out / "README.md"
