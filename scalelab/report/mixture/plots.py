"""Figure of a study of mixtures: the recommended share of each domain with its interval, and the natural one.

Not here: the words (document.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from scalelab.report.plots.plot_style import BLUE, GREY, INK, SMALL, canvas, styled
from scalelab.study.mixture import MixtureStudy

SHOWN = 24
"""Domains at most, the largest recommended shares first."""


@dataclass(frozen=True)
class SharesPlot:
    """Shares of domains, largest first."""

    size: str
    domains: Sequence[str]
    recommended: Sequence[float]
    intervals: Sequence[Sequence[float]] | None
    natural: Sequence[float]
    level: float
    """Level of the intervals."""
    n_domains: int
    """How many there are, shown or not."""


def shares_plot(study: MixtureStudy) -> SharesPlot:
    """Return what the figure of a study draws: the recommendation at the largest size."""
    found = study.recommendations[study.largest]
    order = sorted(range(len(found.domains)), key=lambda i: (-found.weights[i], found.domains[i]))[:SHOWN]
    return SharesPlot(
        study.largest,
        [found.domains[i] for i in order],
        [float(found.weights[i]) for i in order],
        None if found.intervals is None else found.intervals[order].tolist(),
        [float(found.natural[i]) for i in order],
        found.level,
        len(found.domains),
    )


@styled
def draw_shares(data: SharesPlot) -> Figure:
    """Draw one row a domain: the interval, the recommended share, the natural share."""
    n = len(data.domains)
    left = 0.25 + 0.072 * min(30, max(map(len, data.domains)))
    figure, ((axes,),) = canvas((5.8, 0.95 + 0.24 * n), left=left, top=0.3)
    places = list(range(n))
    if data.intervals is not None:
        axes.hlines(places, *zip(*data.intervals, strict=True), color=BLUE, lw=1.6)
    axes.plot(data.recommended, places, "o", ms=5, color=BLUE, label="recommended")
    axes.plot(data.natural, places, "|", ms=10, mew=1.6, color=GREY, label="natural")
    axes.set_yticks(places, [name if len(name) <= 30 else name[:28] + "..." for name in data.domains])
    axes.set_ylim(n - 0.5, -0.5)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.set_xlabel("share of the training text")
    more = "" if n == data.n_domains else f", {n} of {data.n_domains} domains"
    interval = "" if data.intervals is None else f", {data.level:.0%} intervals"
    axes.set_title(f"Shares at {data.size}{interval} [fitted]{more}")
    axes.legend(frameon=False, fontsize=SMALL, labelcolor=INK, loc="lower right", borderaxespad=0.1)
    return figure
