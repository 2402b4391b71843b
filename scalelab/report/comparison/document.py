"""A comparison of recipes as one Document: verdicts, rungs, frontiers, crossing, what would decide.

Multipliers, slopes and frontiers are fitted; differences at a rung are measured (or simulated); what lies beyond
the largest shared compute is extrapolated, and so is a multiplier whose loss the baseline has beyond its own runs;
one whose loss it has far beyond them is shown as a bound (comparison/bounded.py).
The page adds figures, fits of each recipe by itself and the errors.

Not here: the numbers (comparison/), the figures (plots.py), the files (page.py).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from scalelab.comparison.arms import UNITS
from scalelab.comparison.bounded import BoundedMultiplier
from scalelab.comparison.efficiency import PRIOR
from scalelab.comparison.further import POWER, FurtherRuns
from scalelab.comparison.pairwise import EfficiencyCrossing, PairComparison, RecipeFrontier
from scalelab.comparison.verdict import JudgedPair, RecipeComparison, SeparateFit
from scalelab.report.comparison.multipliers import (
    multiplier_interval_text,
    multiplier_text,
    multiplier_with_interval,
)
from scalelab.report.document import (
    Block,
    Bullets,
    Content,
    Document,
    Facts,
    Figure,
    Heading,
    Number,
    Paragraph,
    Strong,
    Table,
)
from scalelab.units import decimals, digits, interval_text, multiple, sci, si

NONE = "-"
"""A cell without a number."""
VERDICTS = {"promote": "Promote", "tie": "Tie", "reject": "Reject"}


def comparison_document(
    found: RecipeComparison, *, figures: Sequence[Figure] = (), provenance: Mapping[str, Any] | None = None
) -> Document:
    """Return everything that is reported of a comparison.

    Args:
        found: The comparison.
        figures: Figures that were drawn, with captions.
        provenance: What the numbers came from, such as the commit.
    """
    blocks: list[Block] = []
    for each in found.pairs:
        blocks += _challenger(found, each)
        blocks += [figure for figure in figures if figure.name.endswith(f".{figure_suffix(found, each)}")]
        blocks += _details(each)
    blocks += _asked(found)
    if provenance is not None:
        blocks += [
            Heading("Where it came from", detail=True),
            Facts([(key, str(value)) for key, value in provenance.items()], detail=True),
        ]
    names = ", ".join(each.name for each in found.pairs)
    return Document(f"{names} against {found.baseline.name}", blocks)


def figure_suffix(found: RecipeComparison, judged: JudgedPair) -> str:
    """Return what distinguishes the figures of one challenger: its place among them, from 1."""
    return str(found.pairs.index(judged) + 1)


def _challenger(found: RecipeComparison, judged: JudgedPair) -> list[Block]:
    pair, level = judged.pair, f"{found.request.level:.0%}"
    multiplier = pair.bounded(pair.C_0)
    rows: list[tuple[str, Content]] = [
        (
            "multiplier",
            [
                Number(multiplier_with_interval(multiplier), pair.multiplier_kind(pair.C_0), labelled=True),
                f" at {sci(pair.C_0)} FLOPs, {level} interval",
            ],
        ),
        ("trend", _trend(pair)),
        ("crossing", _crossing(pair.crossing, judged)),
        ("loss", _difference(found, pair)),
        ("noise", _noise(found, pair)),
        ("decided by", judged.reason),
    ]
    if judged.verdict == "tie":
        rows.append(("would decide", _further(judged)))
    blocks: list[Block] = [
        Heading(f"{judged.name} against {found.baseline.name}"),
        Paragraph([Strong(f"{VERDICTS[judged.verdict]}."), f" {_sentence(found, judged)}"]),
        Facts(rows),
        _rungs(found, judged),
        _frontiers(judged),
    ]
    if judged.warnings:
        blocks.append(Bullets([f"warning: {text}" for text in judged.warnings]))
    return blocks


def _sentence(found: RecipeComparison, judged: JudgedPair) -> str:
    pair = judged.pair
    if judged.verdict in {"promote", "reject"}:
        share = _share_of_compute(pair.bounded(pair.C_0), found.baseline.name)
        if judged.verdict == "promote":
            return f"{judged.name} reaches the loss of {found.baseline.name} with {share}."
        return f"{judged.name} needs {share}."
    request = found.request
    look = f" at look {request.look} of {request.looks}" if request.looks > 1 else ""
    if judged.detectable is None:
        return (
            f"These runs do not decide; they promote no multiplier within their reach with probability {POWER:.0%}"
            f"{look}."
        )
    return (
        f"These runs do not decide; they promote a multiplier of {multiple(judged.detectable)} or more with "
        f"probability {POWER:.0%}{look}."
    )


def _share_of_compute(multiplier: BoundedMultiplier, baseline: str) -> str:
    """The compute that a recipe needs for the loss of the baseline, in words."""
    if multiplier.value is not None:
        return f"{1 / multiplier.value:.0%} of the compute of {baseline}"
    if multiplier.above is not None:
        return f"less than {1 / multiplier.above:.0%} of the compute of {baseline}"
    if multiplier.below is not None:
        return f"more than {1 / multiplier.below:.0%} of the compute of {baseline}"
    return f"a share of the compute of {baseline} that lies beyond the runs"


def _trend(pair: PairComparison) -> Content:
    if pair.trend is None:
        return "none fitted"
    if not pair.supports_trend:
        return "none shown: a multiplier at one end of the shared compute lies beyond the runs"
    p = "" if pair.trend_p is None else f", p = {pair.trend_p:.2g} for none"
    text = _with_interval(pair.trend, pair.trend_interval, multiple)
    return [Number(text, "fitted", labelled=True), f" for ten times the compute{p}"]


def _crossing(crossing: EfficiencyCrossing | None, judged: JudgedPair) -> Content:
    if crossing is None:
        return "none can be seen without a trend"
    low, high = crossing.range
    where = f"between {sci(low)} and {sci(high)} FLOPs"
    none = "" if crossing.none is None else f"; probability of none {where} {crossing.none:.0%}"
    if crossing.excluded:
        return f"excluded {where}{none}"
    ends = interval_text([crossing.low, crossing.high], sci)
    ahead = judged.name if crossing.before == "other" else judged.pair.baseline.name
    if crossing.best is None:
        return f"none fitted {where}, interval {ends}{none}"
    kind = "extrapolated" if crossing.best > judged.pair.C_0 else "fitted"
    return [
        Number(f"{sci(crossing.best)} FLOPs {ends}", kind, labelled=True),
        f", {ahead} ahead below it{none}",
    ]


def _difference(found: RecipeComparison, pair: PairComparison) -> Content:
    unit = UNITS[found.request.metric]
    return [
        Number(f"{pair.difference:+.4f} {unit}", "fitted", labelled=True),
        f" at the optimum; seeds alone give {pair.floor:.4f} at the largest shared rung",
    ]


def _noise(found: RecipeComparison, pair: PairComparison) -> Content:
    unit = UNITS[found.request.metric]
    if pair.settings.noise is not None:
        return [Number(f"{pair.noise_sd:.4g} {unit} between seeds", "assumed", labelled=True)]
    dof = 0 if pair.noise is None else pair.noise.dof
    kind = "measured" if found.kind == "measured" else "simulated"
    paired = f", {pair.luck.pairs} pairs of one seed" if pair.luck.pairs else ""
    return [
        Number(f"{pair.noise_sd:.4g} {unit} between seeds", kind, labelled=True),
        f", {dof} spare runs{paired}",
    ]


def _further(judged: JudgedPair) -> str:
    if not judged.further:
        return "no number of further seeds up to 1,000, or of rungs up to 4, were the difference as estimated"
    return "; or ".join(_further_text(each) for each in judged.further)


def _further_text(each: FurtherRuns) -> str:
    s = "" if each.count == 1 else "s"
    what = {
        "seeds": f"{each.count} further seed{s} of every size and tokens",
        "top": f"{each.count} further seed{s} at the largest shared rung",
        "rungs": f"{each.count} further rung{s}",
    }[each.kind]
    return f"{what} ({each.runs} runs of both, {sci(each.flops)} FLOPs)"


def _rungs(found: RecipeComparison, judged: JudgedPair) -> Table:
    rows = []
    for rung in judged.pair.rungs:
        rows.append(
            [
                sci(rung.flops),
                f"{rung.runs[0]}, {rung.runs[1]}",
                multiplier_text(rung.multiplier),
                multiplier_interval_text(rung.multiplier) or NONE,
                NONE if rung.measured is None else multiplier_text(rung.measured),
                NONE if rung.difference is None else f"{rung.difference:+.4f}",
                NONE if rung.floor is None else f"{rung.floor:.4f}",
                rung.verdict,
            ]
        )
    kind = "measured" if found.kind == "measured" else "simulated"
    return Table(
        [
            "FLOPs",
            "runs",
            "multiplier",
            f"{found.request.level:.0%}",
            "rung alone",
            "difference",
            "floor",
            "",
        ],
        rows,
        align="rrrlrrrl",
        caption=f"Multiplier: fitted to all rungs; rung alone: to its own runs. Difference in loss {kind}, at equal "
        "size and compute; floor: its standard error from seeds. Better and worse by the interval of one rung.",
        optional=("rung alone", "floor"),
    )


def _frontiers(judged: JudgedPair) -> Table:
    pair = judged.pair
    rows = []
    for name, second in ((pair.baseline.name, False), (judged.name, True)):
        rows.append([name, *_frontier_cells(pair.frontier(second))])
    return Table(
        ["frontier", "slope", f"loss at {sci(pair.C_0)} FLOPs", "best size"],
        rows,
        caption=f"Fitted jointly, {pair.settings.level:.0%} intervals. Slope: exponent of the loss above the shared "
        "floor; intercept: loss of the optimum at the compute of the decision.",
        optional=("best size",),
    )


def _details(judged: JudgedPair) -> list[Block]:
    pair = judged.pair
    params = pair.fit.params
    blocks: list[Block] = [
        Facts(
            [
                (
                    "law",
                    "L = E + (P^(1/k) + Q^(1/k))^k m^-gamma, P = A (N/t)^-alpha, Q = B (t C/6N)^-beta, "
                    "ln m = mu + s ln(C/C0)",
                ),
                ("constants", ", ".join(f"{name} {digits(4)(value)}" for name, value in params.items())),
                ("fitted", ", ".join(pair.fit.names)),
                (
                    "priors (assumed)",
                    "; ".join(f"{name} {mean:.3g} sd {sd:.3g}" for name, (mean, sd) in PRIOR.items()),
                ),
                ("drawn again", f"{pair.errors.units} units: {_unit_name(pair)}"),
                (
                    "test",
                    f"t = {pair.statistic:.2f} with {_dof(pair)} degrees of freedom; adjusted p {judged.p_promote:.2g} "
                    f"to promote, {judged.p_reject:.2g} to reject",
                ),
                ("misfit", _misfit(pair)),
            ],
            detail=True,
        )
    ]
    if judged.separate is not None:
        blocks += _separate(pair, judged.separate)
    return blocks


def _frontier_cells(frontier: RecipeFrontier) -> list[str]:
    write = decimals(4)
    return [
        NONE if frontier.slope is None else _with_interval(frontier.slope, frontier.slope_interval, write),
        _with_interval(frontier.loss, frontier.loss_interval, write),
        NONE
        if frontier.n_params is None
        else _with_interval(frontier.n_params, frontier.n_params_interval, si),
    ]


def _separate(pair: PairComparison, fits: tuple[SeparateFit, SeparateFit]) -> list[Block]:
    rows, notes = [], []
    for name, fit in zip((pair.baseline.name, pair.other.name), fits, strict=True):
        if fit.refused is not None:
            notes.append(f"{name}: {fit.law} was not fitted: {fit.refused}")
            continue
        notes += [f"{name}: {fit.law} is unreliable: {why}" for why in fit.broken]
        cells = [(fit.floor, decimals(4)), (fit.slope, decimals(4)), (fit.loss, decimals(4))]
        rows.append(
            [
                name,
                *(NONE if value is None else write(value) for value, write in cells),
                NONE if fit.multiplier is None else multiple(fit.multiplier),
            ]
        )
    blocks: list[Block] = [Heading("Each recipe by itself (fitted)", level=3, detail=True)]
    if rows:
        blocks.append(
            Table(
                ["recipe", "floor E", "slope", f"loss at {sci(pair.C_0)}", "multiplier"],
                rows,
                caption=f"{fits[0].law} without shared constants. Floor and slope are poorly determined by one "
                "recipe, so the verdict does not use them.",
                detail=True,
            )
        )
    return [*blocks, *([Bullets(notes, detail=True)] if notes else [])]


def _asked(found: RecipeComparison) -> list[Block]:
    request = found.request
    looks = f", look {request.look} of {request.looks}" if request.looks > 1 else ""
    several = f", Holm over {len(found.pairs)} challengers" if len(found.pairs) > 1 else ""
    rows: list[tuple[str, Content]] = [
        (
            "promoted above",
            f"{multiple(request.min_gain)} at the largest shared compute, one-sided level "
            f"{request.alpha:g}{looks}{several}",
        ),
        ("learning rates", "not stated" if request.tuning is None else f"{request.tuning} (stated)"),
        *(
            (f"rate of {arm.name}", f"{arm.tuning.status}: {arm.tuning.words}")
            for arm in (found.baseline, *(each.pair.other for each in found.pairs))
            if arm.tuning.status is not None
        ),
    ]
    left_out = [
        f"{arm.name}: {run}: {reason}"
        for arm in (found.baseline, *(each.pair.other for each in found.pairs))
        for run, reason in arm.excluded
    ]
    blocks: list[Block] = [Heading("Asked"), Facts(rows)]
    if left_out:
        blocks.append(Paragraph(f"{len(left_out)} runs were left out; the page lists them."))
        blocks.append(Bullets([f"left out: {text}" for text in left_out], detail=True))
    return blocks


def _with_interval(value: float, interval: Sequence[float | None] | None, write: Any) -> str:
    return f"{write(value)} {interval_text(interval, write)}"


def _unit_name(pair: PairComparison) -> str:
    if pair.errors.stated:
        what = "single runs" if pair.errors.units == len(pair.errors.unit) else "trunks"
        return f"{what}, with the stated noise"
    return "whole design points" if pair.errors.whole_cells else f"{pair.luck.name}, else single runs"


def _dof(pair: PairComparison) -> str:
    return "infinite" if np.isinf(pair.dof) else f"{pair.dof:.1f}"


def _misfit(pair: PairComparison) -> str:
    p = pair.errors.misfit
    if p is None:
        return "not tested: too few repeated runs"
    return f"p = {p:.2g} that the law describes the means of the design points"
