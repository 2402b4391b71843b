"""What every figure shares: one style, a canvas with fixed margins, axes, labels on lines.

Readable in grey and without colour vision: budgets differ by marker and by lightness, laws by
dash or marker, and lines carry their names. Solid is inside the evidence, dashed beyond it,
dotted what another law says. Margins are fixed in inches: a label knows where it will stand.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator
from scipy.optimize import isotonic_regression

from scalelab.laws.observations import Array
from scalelab.units import sci, si

STYLE = {
    "font.size": 9,
    "axes.labelsize": 9,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.titley": 1.0,  # not searched for at every drawing
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "svg.hashsalt": "scalelab",  # the same study gives the same file
    "svg.fonttype": "none",
    "text.parse_math": False,  # a dollar in a name is a dollar
}
SMALL = 8  # points; the smallest text
LINE = 10.5  # points from one line of small text to the next
ACROSS, ABOVE = 36.0, 20.0  # points between ticks, along x and along y
BESIDE, ASIDE = 9.0, 20.0  # points from a mark to its name, and to a name that was moved
LETTER = 4.6  # points, the width of a small letter on average
MARKERS = "osD^vPX*"
INK, GREY, FAINT = "#1b1b1b", "#6f6f6f", "#c8c8c8"
BLUE, RED = "#1f5a94", "#b3432b"
LAWS = (BLUE, RED, "#3f7d4e", "#7a4f9a", "#8a6a1f", INK)
DASHES = {"evidence": "-", "extrapolated": (0, (4, 2.5)), "other": (0, (1, 1.4))}
RASTER = 2000  # points of one mark beyond which an SVG holds them as a picture


@dataclass(frozen=True)
class LineLabel:
    """A name to be written at a point."""

    x: float
    y: float
    text: str
    colour: Any


def styled(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """The figure drawn under our style, whatever the caller's own is."""

    def drawn(*args: Any) -> Figure:
        with matplotlib.rc_context(STYLE):
            return draw(*args)

    drawn.__doc__ = draw.__doc__
    return drawn


def canvas(
    inches: tuple[float, float],
    *,
    rows: int = 1,
    columns: int = 1,
    left: float = 0.62,
    right: float = 0.12,
    bottom: float = 0.46,
    top: float = 0.3,
    gap: float = 0.75,
    row_gap: float = 0.12,
    **shared: Any,
) -> tuple[Figure, Array]:
    """A figure and its axes, shape (rows, columns); margins and gaps in inches.

    Args:
        inches: Width and height.
        rows: Rows of axes.
        columns: Columns of axes.
        left: Left margin, inches.
        right: Right margin, inches.
        bottom: Bottom margin, inches.
        top: Top margin, inches.
        gap: Gap between columns, inches.
        row_gap: Gap between rows, inches.
        **shared: Passed on to Figure.subplots, such as sharex.
    """
    width, height = inches
    figure = Figure(figsize=inches)
    FigureCanvasAgg(figure)
    wide = (width - left - right - gap * (columns - 1)) / columns
    high = (height - top - bottom - row_gap * (rows - 1)) / rows
    grid = {
        "left": left / width,
        "right": 1 - right / width,
        "bottom": bottom / height,
        "top": 1 - top / height,
        "wspace": gap / wide,
        "hspace": row_gap / high,
    }
    return figure, figure.subplots(rows, columns, squeeze=False, gridspec_kw=grid, **shared)


def room(axes: Axes, texts: Sequence[str], pad: float = 14) -> float:
    """The share of the axes' width that the longest of these texts takes, beside a point."""
    longest = max((len(line) for text in texts for line in text.split("\n")), default=0)
    box = axes.get_position()
    points = box.width * axes.figure.get_figwidth() * 72
    return min(0.6, (longest * LETTER + pad) / points)


def log_limits(low: float, high: float, *, left: float = 0.03, right: float = 0.03) -> tuple:
    """Limits of a log axis that leave these shares of it free on each side.

    Args:
        low: Smallest value shown.
        high: Largest value shown.
        left: Free share of the axis on the left.
        right: Free share of the axis on the right.
    """
    low, high = np.log(low), np.log(high)
    if high - low < 1e-6:
        low, high = low - 0.5, high + 0.5
    whole = (high - low) / (1 - left - right)
    return float(np.exp(low - left * whole)), float(np.exp(high + right * whole))


def name_ends(axes: Axes, ends: Sequence[LineLabel]) -> None:
    """Every name to the right of its point, one line apart where points meet.

    Call it when scales and limits are final: places are compared in points on the page.
    """
    seen = [e for e in ends if np.isfinite([e.x, e.y]).all()]
    if not seen:
        return
    per_point = axes.figure.dpi / 72
    at = axes.transData.transform([(e.x, e.y) for e in seen]) / per_point
    box = axes.get_window_extent()
    low, high = box.y0 / per_point, box.y1 / per_point
    at[:, 1] = np.clip(at[:, 1], low, high)
    across = np.argsort(at[:, 0], kind="stable")
    wide = LETTER * np.array([max(map(len, e.text.split("\n"))) for e in seen])
    reach = np.maximum.accumulate((at[:, 0] + wide + ASIDE)[across])
    apart = 1 + np.flatnonzero(at[across[1:], 0] > reach[:-1])
    for group in np.split(across, apart):
        _name_group(axes, [seen[k] for k in group], at[group], low, high)


def _name_group(axes: Axes, ends: list[LineLabel], at: Array, low: float, high: float) -> None:
    """Names beside points at (points on the page); in one column with lines where they meet."""
    order = np.argsort(at[:, 1], kind="stable")
    tall = LINE * np.array([1 + ends[k].text.count("\n") for k in order])
    steps = np.cumsum(tall) - tall / 2  # middles of the texts, were they stacked from 0
    middle = isotonic_regression(at[order, 1] - steps).x + steps
    middle = np.minimum(middle, high - (tall.sum() - steps))
    middle = np.maximum(middle, low + steps)
    moved = np.any(np.abs(middle - at[order, 1]) > 4)
    columns = np.full(len(at), at[:, 0].max() + ASIDE) if moved else at[:, 0] + BESIDE
    for k, height in zip(order, middle, strict=True):
        end = ends[k]
        line = {"arrowstyle": "-", "color": end.colour, "lw": 0.5, "shrinkA": 0, "shrinkB": 5}
        axes.annotate(
            end.text,
            tuple(at[k]),
            xycoords="figure points",
            xytext=(columns[k], height),
            textcoords="figure points",
            va="center",
            color=end.colour,
            size=SMALL,
            arrowprops=line if moved else None,
        )


def counts(axis: Any, write: Callable[[float], str] = si, last: float = np.inf) -> None:
    """A log axis with few ticks, none beyond `last`, written as people say them: 30k, 1M."""
    box, per_point = axis.axes.get_window_extent(), axis.axes.figure.dpi / 72
    across = axis.axis_name == "x"
    length = (box.width if across else box.height) / per_point
    ticks = log_ticks(*axis.get_view_interval(), apart=(ACROSS if across else ABOVE) / length)
    axis.set_major_locator(FixedLocator([t for t in ticks if t <= last * 1.02]))
    axis.set_major_formatter(FuncFormatter(lambda value, _: write(value)))
    axis.set_minor_locator(NullLocator())


def log_ticks(low: float, high: float, apart: float) -> list[float]:
    """Round numbers from low to high, each at least this share of the axis from the next."""
    first, last = int(np.floor(np.log10(low))), int(np.ceil(np.log10(high)))
    for subs in ((1, 1.5, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,)):
        ticks = [m * 10.0**e for e in range(first, last + 1) for m in subs]
        ticks = [t for t in ticks if low * (1 - 1e-9) <= t <= high * (1 + 1e-9)]
        if len(ticks) < 2:
            break  # too narrow for numbers as round as these
        nearest = np.diff(np.log(ticks)).min() / np.log(high / low)
        if nearest >= apart:
            return ticks
        if subs == (1,):
            return ticks[:: int(np.ceil(apart / nearest))]
    even = MaxNLocator(max(1, int(0.5 / apart))).tick_values(low, high)
    return [float(t) for t in even if low <= t <= high]


def compute_axis(axes: Axes, last: float) -> None:
    """The x axis of compute, on a log scale whose limits are final."""
    axes.set_xlabel("training compute C (FLOPs)")
    counts(axes.xaxis, sci, last)


def signed_percent(value: float, _: int = 0) -> str:
    """A signed share for an axis."""
    return f"{100 * value:+.3g}%" if value else "0%"


def law_style(laws: Sequence[str], name: str) -> tuple[str, str]:
    """Colour and marker of a law, or of the law of a form, by its place among all laws."""
    law = name.partition(",")[0]
    return style_at(laws.index(law) if law in laws else len(laws))


def style_at(place: int) -> tuple[str, str]:
    """Colour and marker of what stands at a place among those that a figure compares, from 0."""
    return LAWS[place % len(LAWS)], MARKERS[place % len(MARKERS)]


def shades(count: int) -> list[Any]:
    """Return colours from light to dark that differ in grey too."""
    return [matplotlib.colormaps["viridis"](x) for x in np.linspace(0.66, 0.02, max(count, 1))]


def heavy(points: Array) -> bool:
    """Whether marks are so many that an SVG should hold them as a picture."""
    return len(points) > RASTER
