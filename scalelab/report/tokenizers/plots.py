"""Figure of tokenizers side by side: bytes per token by domain.

Not here: the words (document.py).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from scalelab.data.tokenizers.comparison import TokenizerScore
from scalelab.report.plots.plot_style import FAINT, INK, SMALL, canvas, style_at, styled

SHOWN = 24
"""Domains at most, those with the most bytes."""


@dataclass(frozen=True)
class BytesPlot:
    """Bytes per token of tokenizers on the same text."""

    domains: Sequence[str]
    """Domains, those with the most bytes first; the last is all of them."""
    bytes_per_token: Mapping[str, Sequence[float]]
    """One number a domain, by tokenizer."""
    n_domains: int
    """How many domains there are, shown or not."""


def bytes_plot(scores: Mapping[str, TokenizerScore]) -> BytesPlot:
    """Return what the figure of a comparison draws."""
    domains = next(iter(scores.values())).domains
    shown = sorted(domains, key=lambda name: (-domains[name].n_bytes, name))[:SHOWN]
    return BytesPlot(
        [*shown, "all"],
        {
            name: [*(score.domains[d].bytes_per_token for d in shown), score.total.bytes_per_token]
            for name, score in scores.items()
        },
        len(domains),
    )


@styled
def draw_bytes_per_token(data: BytesPlot) -> Figure:
    """Draw one row a domain, and in it one mark a tokenizer."""
    n, names = len(data.domains), list(data.bytes_per_token)
    left = 0.25 + 0.072 * min(30, max(map(len, data.domains)))
    figure, ((axes,),) = canvas(
        (5.8, 0.72 + 0.24 * n + 0.17 * len(names)), left=left, top=0.14 + 0.17 * len(names)
    )
    places = list(range(n))
    columns = list(zip(*data.bytes_per_token.values(), strict=True))
    axes.hlines(places, [min(each) for each in columns], [max(each) for each in columns], color=FAINT, lw=1.2)
    for place, (name, values) in enumerate(data.bytes_per_token.items()):
        colour, marker = style_at(place)
        axes.plot(values, places, marker, ms=5, color=colour, label=name)
    axes.axhline(n - 1.5, color=FAINT, lw=0.7)
    axes.set_yticks(places, [name if len(name) <= 30 else name[:28] + "..." for name in data.domains])
    axes.set_ylim(n - 0.5, -0.5)
    axes.margins(x=0.08)
    more = "" if n - 1 == data.n_domains else f" ({n - 1} of {data.n_domains} domains)"
    axes.set_xlabel(f"bytes per token [measured]{more}")
    axes.legend(
        frameon=False,
        fontsize=SMALL,
        labelcolor=INK,
        loc="lower left",
        bbox_to_anchor=(0, 1),
        borderaxespad=0.2,
        labelspacing=0.2,
    )
    return figure
