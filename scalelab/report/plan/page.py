"""The page of a plan and its figure, written.

    OUT/README.md  regret.png  regret.svg

Not here: what the page says (document.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scalelab.files import write_text
from scalelab.laws.description import Interval
from scalelab.laws.observations import Array
from scalelab.plan.choose.allocate import Allocation
from scalelab.plan.planner import PlanResult
from scalelab.report.document import Figure
from scalelab.report.plan.document import plan_document
from scalelab.report.plots.render_workers import draw_figures
from scalelab.report.render.markdown import render_markdown
from scalelab.units import si

POINTS = 161
SPAN = 6.0  # multiples of the best size, to either side
WORST = 0.6  # share of the compute at which the curves are cut off; larger waste is of no interest


@dataclass(frozen=True, eq=False)
class RegretPlot:
    """Compute wasted by sizes beside the optimum: the data of a figure."""

    flops: float
    reach: float
    level: float
    primary: str
    """Law that makes the forecast."""
    quoted_law: str | None
    """Law whose curve the plan quotes."""
    laws: tuple[str, ...]
    n_params: Array
    wasted: dict[str, Array]
    """By law, share of the compute; the quoted curve around the plan's N*, others around their
    own."""
    optima: tuple[tuple[str, float, Interval, bool], ...]
    """Law, its N*, its interval, and whether it is counted."""
    quoted: Interval
    """Quoted interval of N*."""
    best: float
    near: Sequence[float] | None
    bound: float
    chosen: float | None
    """N of the model to be trained, where it is not the best one."""
    kind: str


def regret(best: Allocation, chosen: float | None) -> RegretPlot | None:
    """Return the data of the figure; None where no law gives the cost of a wrong size.

    Args:
        best: The optimum and the valleys of the laws.
        chosen: Parameters of the model to be trained; None where there is none.
    """
    if not best.valleys:
        return None
    sizes = best.n_params * np.exp(np.linspace(-np.log(SPAN), np.log(SPAN), POINTS))
    own = {row.law: row.n_params for row in best.laws}
    quoted_law = best.valley and best.valley.law
    optima = tuple(
        (row.law, row.n_params, row.intervals.get("n_params"), row.refuted is None)
        for row in best.laws
        if row.n_params is not None
    )
    return RegretPlot(
        flops=best.flops,
        reach=best.reach,
        level=best.level,
        primary=best.law,
        quoted_law=quoted_law,
        laws=tuple(row.law for row in best.laws),
        n_params=sizes,
        wasted={
            v.law: v.wasted(sizes / (best.n_params if v.law == quoted_law else own[v.law]))
            for v in best.valleys
            if own.get(v.law)
        },
        optima=optima,
        quoted=best.intervals["n_params"],
        best=best.n_params,
        near=best.near_optimal["n_params"] if best.near_optimal else None,
        bound=best.near_bound,
        chosen=None if chosen is None or abs(np.log(chosen / best.n_params)) < 0.02 else chosen,
        kind=best.kind,
    )


def write_page(planned: PlanResult, out: Path) -> Path:
    """Write the page and its figure into a directory and return the path of the page."""
    chosen = None if planned.forecast is None else planned.forecast.actual["n_params"]
    data = regret(planned.best, chosen)
    draw_figures(out, {"regret": data})
    figures = [] if data is None else [Figure("regret", caption(data))]
    document = plan_document(planned, figures=figures, verdict_first=True)
    write_text(out / "README.md", render_markdown(document))
    return out / "README.md"


def caption(data: RegretPlot) -> str:
    """Return the caption of the figure."""
    sentences = [f"Share of the compute that a model of another size wastes ({data.kind}), by law."]
    if data.quoted_law is not None:
        around = "" if data.quoted_law == data.primary else f", centred on the N* of {data.primary}"
        sentences.append(f"Solid: {data.quoted_law}, which the plan quotes{around}; dotted: other laws.")
    if data.near:
        low, high = data.near
        sentences.append(f"Shaded: {si(low)} to {si(high)} waste at most {data.bound:.0%}.")
    sentences.append(
        f"Below: N* by law with its own {data.level:.0%} interval of noise; the wide bar is the "
        f"interval quoted for {data.primary}."
    )
    return " ".join(sentences)
