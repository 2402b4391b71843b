"""Figures of a backtest: one method has one colour and marker, in both."""

from types import SimpleNamespace

import numpy as np
from matplotlib.colors import to_hex

from scalelab.backtest.board import FROZEN, LEFT_OUT
from scalelab.backtest.scores import ErrorTable
from scalelab.report.backtest.plot_data import coverage_by_level, errors_by_reach
from scalelab.report.backtest.plots import draw_coverage, draw_errors


def rows(error, has_intervals=True):
    n = 4
    known = np.full((2, n), 0.1 if has_intervals else np.nan)
    names = np.full(n, "t", object)
    empty = np.full(n, np.nan)
    reach = np.array([2.0, 2.0, 10.0, 10.0])
    return ErrorTable(
        names, names, np.arange(n), reach, np.full(n, error), (0.5, 0.8), known, known, empty, empty, empty
    )


def board():
    """Errors whose order is not that of the methods, and one method without intervals."""
    errors = {
        ("first", FROZEN): rows(0.09),
        ("product", FROZEN): rows(0.05),
        ("product", LEFT_OUT): rows(0.06),
        ("points", FROZEN): rows(0.01, has_intervals=False),
    }
    tables = SimpleNamespace(tables=[SimpleNamespace(kind="simulated")])
    return SimpleNamespace(errors=errors, tables=tables)


def styles(figure, names):
    """Colour, marker and dashes of the lines that stand for methods, in their order."""
    lines = [line for line in figure.axes[0].lines if line.get_marker() not in ("None", "")]
    assert len(lines) == len(names)
    return {
        name: (to_hex(line.get_color()), line.get_marker(), line.get_linestyle() == "--")
        for name, line in zip(names, lines, strict=True)
    }


def test_a_method_has_one_colour_in_both_figures_and_with_its_constants_left_out():
    errors, coverage = errors_by_reach(board()), coverage_by_level(board())
    one = styles(draw_errors(errors), [each.name for each in errors.methods])
    two = styles(draw_coverage(coverage), [each.label for each in coverage.methods])

    assert [*one] == ["points", "product", "first"]
    assert [*two] == ["first", "product", "product (left out)"]
    assert one["product"] == two["product"]
    assert one["first"] == two["first"]
    assert two["product (left out)"][:2] == two["product"][:2]
    assert (two["product (left out)"][2], two["product"][2]) == (True, False)
    assert len({style[0] for style in one.values()}) == 3
