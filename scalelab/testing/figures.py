"""Conformance of figures: members of FIGURES, of any package."""

import io
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from scalelab.report.plots.figure_file import FIGURES


def check_figure(name: str, data: Any) -> Figure:
    """Check the contract of a figure, and return it.

    Args:
        name: Name in the table of figures.
        data: What it draws; it is pickled between processes elsewhere.

    Raises:
        AssertionError: It is no figure with named axes, changes the style of its caller, or draws other bytes
            the second time.
    """
    before = dict(matplotlib.rcParams)
    figure = FIGURES[name](data)
    assert isinstance(figure, Figure), f"{name} returns {type(figure).__name__}"
    assert dict(matplotlib.rcParams) == before, f"{name} changes the style of its caller"
    assert figure.axes, f"{name} has no axes"
    assert any(axes.get_xlabel() or axes.get_title() for axes in figure.axes), f"{name} names nothing"
    assert _png(figure) == _png(FIGURES[name](data)), f"{name} draws other bytes the second time"
    return figure


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
