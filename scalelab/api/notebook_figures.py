"""Figures for notebooks: axes that show their figure when they are the last value of a cell.

Figures are drawn without pyplot, so that nothing of a person's own plots changes. A notebook
therefore does not know them; it asks a value for `_repr_png_`.
"""

import io
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DPI = 110
"""Dots per inch in a notebook."""


def draw(name: str, data: Any) -> "list[Axes]":
    """Return the axes of a figure.

    Args:
        name: Name in the table of figures.
        data: What the figure shows.
    """
    from scalelab.report.plots.figure_file import FIGURES

    figure = FIGURES[name](data)

    def png() -> bytes:
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=DPI)
        return buffer.getvalue()

    for shown in (figure, *figure.axes):
        shown._repr_png_ = png
    return list(figure.axes)
