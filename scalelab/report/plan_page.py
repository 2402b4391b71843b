"""The page of a plan: its words, its figure, everything that speaks against it.

    OUT/README.md  plan.json  forecast.json  regret.png  regret.svg

Not here: the words themselves (plan_text.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scalelab.files import write_text, writing
from scalelab.laws.interval import Interval
from scalelab.laws.observations import Array
from scalelab.plan.allocate import Allocation
from scalelab.report.painters import Painters
from scalelab.report.plan_text import text
from scalelab.report.planned import Planned
from scalelab.units import si

POINTS = 161
SPAN = 6.0  # times the best size, either way
WORST = 0.6  # share of the compute at which the curves are cut off: nobody would train beyond


@dataclass(frozen=True, eq=False)
class Regret:
    """What wrong sizes waste, as numbers."""

    flops: float
    reach: float
    level: float
    speaker: str
    told: str | None
    """Whose curve the plan quotes."""
    laws: tuple[str, ...]
    n_params: Array
    wasted: dict[str, Array]
    """By law, share of the compute; the quoted curve around the plan's N*, others around their
    own."""
    optima: tuple[tuple[str, float, Interval, bool], ...]
    """Law, its N*, its interval, whether it counts."""
    quoted: Interval
    """Of N*."""
    best: float
    near: Sequence[float] | None
    bound: float
    chosen: float | None
    """N of the model to be trained, where it is not the best one."""
    kind: str


def regret(best: Allocation, chosen: float | None) -> Regret | None:
    """The numbers of the figure; None where no law knows what a wrong size wastes."""
    if not best.valleys:
        return None
    sizes = best.n_params * np.exp(np.linspace(-np.log(SPAN), np.log(SPAN), POINTS))
    own = {row.law: row.n_params for row in best.laws}
    told = best.valley and best.valley.law
    optima = tuple(
        (row.law, row.n_params, row.intervals.get("n_params"), row.refuted is None)
        for row in best.laws
        if row.n_params is not None
    )
    return Regret(
        flops=best.flops,
        reach=best.reach,
        level=best.level,
        speaker=best.law,
        told=told,
        laws=tuple(row.law for row in best.laws),
        n_params=sizes,
        wasted={
            v.law: v.wasted(sizes / (best.n_params if v.law == told else own[v.law]))
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


def write_page(planned: Planned, out: Path) -> Path:
    """Write the page and its figure into a directory; the page's path."""
    chosen = None if planned.frozen is None else planned.frozen.actual["n_params"]
    data = regret(planned.best, chosen)
    paths = [out / "regret.png", out / "regret.svg"]
    if data is None:
        for path in paths:  # of an earlier plan
            with writing(path):
                path.unlink(missing_ok=True)
    else:
        Painters().draw([("regret", data, paths)])
    write_text(out / "README.md", page(planned, data))
    return out / "README.md"


def page(planned: Planned, data: Regret | None) -> str:
    """The page as Markdown."""
    figure = f"No figure: {planned.best.valley_absent}."
    if data is not None:
        figure = f"![regret](regret.png)\n\n{caption(data)} ([regret.svg](regret.svg))"
    frozen = planned.frozen
    reasons = [f"- {reason}" for reason in planned.reasons] or ["- nothing in the evidence"]
    reasons += [f"- {warning}" for warning in frozen.warnings]
    rows = [
        ("evidence", f"{planned.source.where}, runs digest `{frozen.evidence['digest'][:12]}`"),
        ("forecast", f"`{frozen.digest}`, frozen {frozen.created}"),
        ("corpus", f"`{frozen.data_digest}`" if frozen.data_digest else "unknown"),
        ("run", f"`{planned.plan.spec.id}`" if planned.plan.spec else "none: no recipe"),
        *frozen.code.items(),
    ]
    parts = [
        f"# Plan: {planned.plan.name}",
        f"**Verdict: {planned.best.grade}.**",
        figure,
        f"```text\n{text(planned)}\n```",
        "## What speaks against it",
        "\n".join(reasons),
        "## Where this comes from",
        "\n".join(["| what | value |", "|---|---|", *(f"| {k} | {v} |" for k, v in rows)]),
        "Every number in full: [plan.json](plan.json). The forecast as it was frozen: "
        "[forecast.json](forecast.json); `scalelab launch` refuses it once a byte of it has "
        "changed.",
    ]
    return "\n\n".join(parts) + "\n"


def caption(data: Regret) -> str:
    """Under the figure: what is seen, of which kind, and how to read it."""
    said = [
        f"Share of the compute that a model of another size wastes [{data.kind}], by every law "
        "that can say."
    ]
    if data.told is not None:
        around = "" if data.told == data.speaker else f", laid around the N* of {data.speaker}"
        said.append(f"Solid: {data.told}, which the plan quotes{around}; dotted: other laws.")
    if data.near:
        low, high = data.near
        said.append(f"Shaded: {si(low)} to {si(high)} waste at most {data.bound:.0%}.")
    said.append(
        f"Below: N* by law with its own {data.level:.0%} interval of noise; the wide bar is the "
        f"interval quoted for {data.speaker}."
    )
    return " ".join(said)
