"""A fit as one Document: question, evidence, each law, hold-out, choice of law, forecast, verdict, next.

Every number says its kind in its heading or beside it: measured on a run, simulated from a known
law, fitted inside the evidence, extrapolated beyond it, or from the literature. The terminal shows
the blocks that are no details and ends with the forecast; the page begins with it.

Not here: the numbers (study/), figures (plots.py) and what stands under them (captions.py).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from scalelab.laws.base import LawFit
from scalelab.laws.description import FitContext, Interval
from scalelab.laws.formula import CORRELATED
from scalelab.laws.uncertainty.conformal import LEVELS
from scalelab.report.document import (
    Block,
    Bullets,
    Code,
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
from scalelab.report.fit.notes import simplified, what_counts, windowed
from scalelab.report.table_reading import left_out_blocks, reading_facts
from scalelab.study.conventions import ConventionRow
from scalelab.study.holdout import TOLERANCE, HoldOut
from scalelab.study.study import Study
from scalelab.units import (
    FLOP_COUNTS,
    PARAM_COUNTS,
    NumberKind,
    decimals,
    digits,
    interval_text,
    multiple,
    sci,
    si,
)

NAMED = 6
"""Runs of one finding that are named; fit.json has all of them."""
LISTED, ROWS = 200, 40
"""Runs, and findings, that the page lists; fit.json has all of them."""
Write = Callable[[float], str]
QUANTITIES: tuple[tuple[str, str, Write, str], ...] = (
    ("n_params", "N*", si, "parameters"),
    ("n_tokens", "D*", si, "tokens"),
    ("tokens_per_param", "D*/N*", digits(3), "tokens per parameter"),
    ("loss", "L*", decimals(3), "nats per token"),
    ("a", "a", decimals(3), "exponent of N* ~ C^a"),
)


def fit_document(
    study: Study,
    name: str,
    *,
    conventions: Sequence[ConventionRow] = (),
    figures: Sequence[Figure] = (),
    absent: Sequence[str] = (),
    provenance: Mapping[str, Any] | None = None,
    draws: bool = False,
    forecast_first: bool = False,
) -> Document:
    """Return everything that a fit reports.

    Args:
        study: The fits, their tests and the forecast.
        name: Name of the sweep or table.
        conventions: The laws under other counts of parameters and FLOPs; empty if not compared.
        figures: Figures that were drawn, with captions.
        absent: One sentence for each figure that could not be drawn.
        provenance: What the numbers came from, such as the commit and digests.
        draws: Whether draws.csv was written.
        forecast_first: Whether the forecast and the figures come before the details, as on a page.
    """
    verdict, forecast = _verdict(study), _forecast(study)
    answer = [*verdict, *forecast] if forecast_first else [*forecast, *verdict]
    pictures: list[Block] = [*figures, *(Paragraph(text, detail=True) for text in absent)]
    middle = [*_question(study), *_evidence(study)]
    for law in study.fits:
        middle += _law(study, law)
    middle += [*_refused(study), *_holdout(study), *_members(study), *_conventions(study, conventions)]
    middle = [*middle, *answer] if not forecast_first else [*answer, *pictures, *middle]
    blocks = [*middle, *_next(study)]
    if provenance is not None:
        blocks += _provenance(study, provenance, draws)
    return Document(f"Scaling study: {name}", blocks)


def _question(study: Study) -> list[Block]:
    return [
        Heading("Question"),
        Paragraph(
            f"With {sci(study.forecast.flops)} training FLOPs, how many parameters (N), how many tokens (D), "
            "and what validation loss (L, nats per token)? N*, D* and L* are the best choice."
        ),
        Facts(
            [
                ("N", f"{study.param_count}: {PARAM_COUNTS[study.param_count]}"),
                ("C", f"{study.flop_count}: {FLOP_COUNTS[study.flop_count]}"),
            ]
        ),
    ]


def _evidence(study: Study) -> list[Block]:
    runs, budgets, noise = study.runs, study.runs.budgets, study.seed_noise
    slices = (
        f"{len(budgets)} budgets, {sci(budgets[0])} to {sci(budgets[-1])} FLOPs"
        if budgets.size
        else f"no isoFLOP budgets; {sci(runs.C.min())} to {sci(runs.C.max())} FLOPs"
    )
    spread = (
        f"{noise.sd:.4f} nats per token between seeds ({noise.dof} spare runs)"
        if noise
        else "unknown: no two runs differ in their seed alone"
    )
    blocks: list[Block] = [
        Heading(f"Evidence ({study.kind})"),
        Facts(
            [
                *reading_facts(study.reading),
                ("runs", f"{len(runs)} runs, {slices}"),
                ("N", f"{si(runs.N.min())} to {si(runs.N.max())} parameters"),
                ("D", f"{si(runs.D.min())} to {si(runs.D.max())} tokens"),
                ("seed noise", spread),
            ]
        ),
    ]
    blocks += left_out_blocks(study.excluded)
    kept = [finding for finding in study.findings if not finding.excluded]
    if kept:
        blocks.append(Paragraph("Kept, with findings of the quality control:"))
        blocks.append(Bullets([finding.reason + _named(finding.runs) for finding in kept]))
    return blocks


def _more(count: int) -> str:
    return f" and {count} more" if count > 0 else ""


def _named(runs: Sequence[str]) -> str:
    if not runs:
        return ""
    return f" ({', '.join(runs[:NAMED])}{_more(len(runs) - NAMED)})"


def _law(study: Study, name: str) -> list[Block]:
    fit = study.fits[name]
    context = FitContext(
        name,
        study.level,
        study.intervals(name),
        study.standard_errors(name),
        study.correlations(name),
        study.profiles.get(name, {}),
        study.minima_intervals(name),
    )
    blocks: list[Block] = [Heading(f"{name} (fitted): {fit.law.formula}")]
    if (ended := _search(fit)) is not None:
        blocks.append(Paragraph(ended))
    if fit.slices:
        blocks.append(_minima(fit, context))
    elif fit.shown_params is None or fit.shown_params:
        blocks.append(_constants(fit, context))
    facts = [(fact.label, f"{fact.value} ({fact.kind})") for fact in fit.facts(context)]
    if fit.exponents and not fit.slices:
        ends = f" {interval_text(context.intervals.get('a'), decimals(3))}" if context.intervals else ""
        by = context.profiles.get("a")
        profile = f"; by profile {interval_text(by, decimals(3))}" if by else ""
        facts.insert(0, ("N* ~ C^a, C = 6 N D", f"a = {fit.exponents['a']:.3f}{ends}{profile}"))
    if facts:
        blocks.append(Facts(facts))
    close = [
        f"{x} and {y} {value:+.3f}"
        for (x, y), value in context.correlations.items()
        if abs(value) >= CORRELATED
    ]
    if close:
        blocks.append(
            Paragraph(f"Correlated on a log scale, so not to be read one by one: {', '.join(close)}.")
        )
    return [*blocks, *_warnings(study, name)]


def _search(fit: LawFit) -> str | None:
    found = fit.convergence
    if found is None:
        return None
    ended = "Converged" if found.converged else "NOT CONVERGED"
    bound = f", at the edge: {', '.join(found.at_bound)}" if found.at_bound else ""
    text = (
        f"{ended}: {found.agreement:.0%} of {found.starts} starts agree, gradient "
        f"{found.gradient_norm:.0e}{bound}; {fit.objective_text}."
    )
    if fit.median_error is not None:
        text += f" Median error {fit.median_error:.2%} of the loss."
    return text + (f" FLOPs per token: {fit.cost}." if fit.cost is not None else "")


def _constants(fit: LawFit, context: FitContext) -> Table:
    columns = ["", "best", f"{context.level:.0%} interval", "standard error"]
    rows: list[list[Content]] = []
    shown = [*fit.params] if fit.shown_params is None else [*fit.shown_params]
    for key in shown:
        value = fit.params[key]
        error = context.standard_errors.get(key)
        rows.append(
            [
                key,
                Number(f"{value:.5g}", "fitted"),
                interval_text(context.intervals.get(key), digits(4)),
                "" if error is None else f"{error:.3g}",
            ]
        )
    if context.profiles:
        columns.append("by profile likelihood")
        for key, row in zip(shown, rows, strict=True):
            row.append(interval_text(context.profiles.get(key), digits(4), none=""))
    return Table(columns, rows)


def _minima(fit: LawFit, context: FitContext) -> Table:
    intervals = iter(context.minima)
    rows: list[list[Content]] = []
    refused = []
    for part in fit.slices:
        if part.refused is not None:
            refused.append(f"{sci(part.flops)} refused: {part.refused}")
            rows.append([sci(part.flops), *["-"] * 7])
            continue
        checks = part.to_json().get("cross_check") or {}
        others = [si(value) if (value := checks.get(key)) else "-" for key in ("cubic", "akima")]
        rows.append(
            [
                sci(part.flops),
                Number(si(part.N), "fitted"),
                interval_text(next(intervals)["n_params"], si),
                si(part.D),
                f"{part.D / part.N:.1f}",
                f"{part.L:.3f}",
                f"{part.sides[0]} + {part.sides[1]}",
                ", ".join(others),
            ]
        )
    return Table(
        ["budget", "N*", f"{context.level:.0%} interval", "D*", "D*/N*", "L*", "sizes", "cubic, Akima"],
        rows,
        align="rrlrrrll",
        caption="Minimum of a parabola of loss in ln N for each budget. Sizes: runs on each side of it. "
        "The last column has N* by a cubic and by Akima's curve." + "".join(f" {text}." for text in refused),
        optional=["cubic, Akima", "sizes", "D*/N*"],
    )


def _warnings(study: Study, name: str) -> list[Block]:
    fit, drawn = study.fits[name], study.replicates[name]
    found = [*fit.warnings, *(drawn.notes if drawn else ()), *study.influential(name)]
    if drawn is None:
        why = "nothing can be drawn again" if study.count else "no replicate was asked for"
        found.append(f"no intervals: {why}")
    blocks: list[Block] = [Bullets([f"warning: {text}" for text in found])] if found else []
    if drawn is not None:
        blocks.append(
            Paragraph(
                f"Intervals: {drawn.asked} replicates, {drawn.failed} failed, {drawn.edge} at an edge; "
                f"{drawn.unit}."
            )
        )
    return blocks


def _refused(study: Study) -> list[Block]:
    if not study.refused:
        return []
    return [Heading("Refused"), Bullets([f"{name}: {why}" for name, why in study.refused.items()])]


def _holdout(study: Study) -> list[Block]:
    test = study.holdout
    if not isinstance(test, HoldOut):
        return [Heading("Hold-out: none"), Paragraph(f"{test[0].upper()}{test[1:]}.")]
    laws = list(dict.fromkeys(trial.law for trial in test.tests))
    cells: dict[tuple[float, float], dict[str, str]] = {}
    counts = {}
    for t in test.tests:
        size = "" if t.n_params is None else f" ({t.n_params:+.0%})"
        cells.setdefault((t.origin, t.flops), {})[t.law] = f"{t.error:.2%}{size}"
        counts[t.origin, t.flops] = (t.n_train, t.fold)
    rows = [
        [sci(origin), f"{counts[origin, flops][0]}", sci(flops), multiple(counts[origin, flops][1])]
        + [by_law.get(name, "-") for name in laws]
        for (origin, flops), by_law in cells.items()
    ]
    folds = ", ".join(f"{name} {_fold(test.trusted_fold(name))}-fold" for name in laws)
    reach = f"Reach to trust: {folds} (loss within {TOLERANCE:.0%} by these errors)."
    return [
        Heading(f"Hold-out (extrapolated, then {study.kind})"),
        Paragraph("Laws fitted to the runs up to some compute, then asked for more."),
        Table(
            ["fitted up to", "runs", "asked for", "ahead", *laws],
            rows,
            align="r" * (4 + len(laws)),
            caption="Error of the loss of the runs held out; in brackets the error of N* at their minimum."
            + _after(simplified(study, laws)),
            optional=["runs"],
        ),
        Paragraph(reach + _after(what_counts(study))),
        *(
            [Bullets([f"{name} could not be tested: {why}" for name, why in test.refused.items()])]
            if test.refused
            else []
        ),
    ]


def _after(sentence: str) -> str:
    return f" {sentence}" if sentence else ""


def _fold(value: float) -> str:
    return f"{value:.2g}" if value < 10 else f"{value:,.0f}"


def _members(study: Study) -> list[Block]:
    forecast = study.forecast
    writes: dict[str, Write] = {
        "n_params": si,
        "tokens_per_param": decimals(1),
        "loss": decimals(3),
        "a": decimals(3),
    }
    rows = [
        [m.name + (" (refuted)" if m.refuted else "")]
        + [write(m.values[key]) if key in m.values else "" for key, write in writes.items()]
        for m in forecast.members
    ]
    why: dict[str, list[str]] = {}
    for m in forecast.members:
        if m.refuted:
            why.setdefault(m.refuted, []).append(m.name)
    return [
        Heading(f"Choice of law ({_kind(study)})"),
        Table(
            ["fit", "N*", "D*/N*", "L*", "a"],
            rows,
            caption="Every way to have fitted the same runs, at the target. Refuted fits do not count."
            + _after(windowed(study)),
        ),
        *(
            [Bullets([f"refuted: {'; '.join(names)}: {reason}" for reason, names in why.items()])]
            if why
            else []
        ),
    ]


def _conventions(study: Study, rows: Sequence[ConventionRow]) -> list[Block]:
    if not rows:
        return []
    number = lambda value: "-" if value is None else f"{value:.3f}"  # noqa: E731
    moved = [r.a for r in rows if r.a is not None and r.refused is None]
    refused = [f"{r.law}, N {r.param_count}, C {r.flop_count}: {r.refused}" for r in rows if r.refused]
    return [
        Heading("Conventions (fitted)"),
        Table(
            ["N is", "C is", "law", "a", f"{study.level:.0%} interval", "b"],
            [
                [
                    r.param_count,
                    r.flop_count,
                    r.law,
                    number(r.a),
                    interval_text(r.interval, decimals(3), none=""),
                    number(r.b),
                ]
                for r in rows
            ],
            align="lllrlr",
            caption="Exponents of N* ~ C^a and D* ~ C^b by what is counted as N and C.",
        ),
        *(
            [Paragraph(f"a lies between {min(moved):.3f} and {max(moved):.3f}: name the convention with it.")]
            if moved
            else []
        ),
        *([Bullets(refused)] if refused else []),
    ]


def _kind(study: Study) -> NumberKind:
    return "extrapolated" if study.forecast.is_extrapolated else "fitted"


def _forecast(study: Study) -> list[Block]:
    f = study.forecast
    kind = _kind(study)
    below = ", below the runs that count" if f.is_extrapolated else ", inside the evidence"
    inside = "" if f.reach > 1 else below
    rows: list[list[Content]] = []
    for key, symbol, write, unit in QUANTITIES:
        if key not in f.values:
            continue
        larger = f.dominates.get(key, "")
        ends: list[Interval] = [
            f.statistical[key],
            f.structural.get(key),
            f.calibrated.get(key),
            f.intervals[key],
        ]
        if not f.calibrated:
            ends.pop(2)
        rows.append(
            [
                symbol,
                Number(write(f.values[key]), kind),
                *(interval_text(interval, write) for interval in ends),
                larger,
                unit,
            ]
        )
    return [
        Heading(
            f"Forecast ({kind}{inside}) at {sci(f.flops)} FLOPs, {multiple(f.reach)} the evidence, by {f.law}"
        ),
        Table(
            [
                "",
                "best",
                f"{study.level:.0%} noise",
                "choice of law",
                *(["calibrated"] if f.calibrated else []),
                "quoted",
                "larger",
                "unit",
            ],
            rows,
            align="lrlllll" + ("l" if f.calibrated else ""),
            caption=_quoting(study),
            optional=["larger", "unit", "choice of law", *(["calibrated"] if f.calibrated else [])],
        ),
    ]


def _quoting(study: Study) -> str:
    """Which interval is quoted, and why."""
    f = study.forecast
    error = "" if f.expected_error is None else f" Expect an error of L* of about {f.expected_error:.2%}."
    if not f.dominates and f.calibrated:
        return (
            "Without the noise of these runs no interval is quoted: the calibrated one does not contain it. Draw "
            f"replicates (--replicates).{error}"
        )
    if not f.dominates and any(f.statistical.values()):
        return "Only the noise is quoted: the runs speak against every law, so the choice of law has no interval."
    if not f.dominates:
        return "The noise is unknown, so no interval can be quoted: the choice of law alone says too little."
    if f.width is None:
        low, high = LEVELS[0], LEVELS[-1]
        level = f" Calibrated intervals exist from {low:.0%} to {high:.0%} only." if error else ""
        return f"At each end, quote the farther of noise and choice of law, and plan with it.{level}{error}"
    if f.stands_alone:
        return (
            "Calibrated: by the errors of such forecasts on public tables and of tests inside the evidence. At "
            f"each end, quote the farther of it and the noise, and plan with it.{error}"
        )
    count = f.width.origins
    tests = f"with {count} {'test' if count == 1 else 'tests'} inside the evidence"
    why = "where runs bend away from the surfaces" if f.width.alone else tests
    return (
        f"Calibrated: by the errors of such forecasts on public tables; {why} it does not stand alone. "
        f"At each end, quote the farthest of all three, and plan with it.{error}"
    )


def _verdict(study: Study) -> list[Block]:
    reasons = study.verdict.reasons or ("nothing in the evidence contradicts it",)
    return [Paragraph(Strong(f"Verdict: {study.verdict.grade}")), Bullets(reasons)]


def _next(study: Study) -> list[Block]:
    """The cheapest things that would improve the forecast."""
    todo = []
    fit = None if study.sliced is None else study.fits[study.sliced]
    for s in (s for s in (fit.slices if fit else ()) if s.refused):
        if s.at_edge:
            lowest = s.runs.N[np.argmin(s.runs.L)]
            side = "below" if lowest == s.runs.N.min() else "above"
            todo.append(f"at {sci(s.flops)} FLOPs add sizes {side} {si(lowest)}")
        else:
            todo.append(f"at {sci(s.flops)} FLOPs add sizes and seeds: no minimum stands out")
    if fit is not None:
        thin = [s for s in fit.minima if min(s.sides) < 3]
        if thin:
            where = ", ".join(sci(s.flops) for s in thin)
            todo.append(f"add sizes until three lie on each side of the minimum, at {where} FLOPs")
    if study.seed_noise is None:
        todo.append("repeat one size near the minimum of two budgets with other seeds")
    if study.forecast.reach > 10 or (fit is not None and len(fit.minima) < 4):
        todo.append("add a larger budget: it shortens the extrapolation and tests the trend")
    if fit is None and not study.runs.budgets.size:
        todo.append("run isoFLOP slices (column flops_planned): they need no form of the surface")
    if not todo:
        todo.append("plan the target, freeze this forecast, and compare it with the outcome")
    return [Heading("Next"), Bullets(todo)]


def _provenance(study: Study, provenance: Mapping[str, Any], draws: bool) -> list[Block]:
    lines = []
    for finding in study.findings[:ROWS]:
        fate = "left out" if finding.excluded else "kept"
        lines.append(f"{finding.code}, {fate}: {finding.reason}{_named(finding.runs)}")
    more = len(study.findings) - ROWS
    lines += [f"and {more:,} more"] if more > 0 else []
    files = "Every number in full: fit.json." + (" Every bootstrap draw: draws.csv." if draws else "")
    blocks: list[Block] = [
        Heading("Provenance"),
        Facts([(key, str(value)) for key, value in provenance.items()])
        if provenance
        else Paragraph("Nothing was recorded."),
        Paragraph(
            f"Losses are {study.kind}. N is the {study.param_count} count, C the {study.flop_count} count. "
            f"Bootstrap seed {study.seed}, {study.count} replicates, intervals at {study.level:.0%}. {files}"
        ),
        Heading(f"Runs used ({len(study.runs):,})", 3),
        Paragraph(_codes(list(map(str, study.runs.run)))),
        Heading(f"Runs left out ({len(study.excluded):,})", 3),
        Bullets(
            [[Code(run), f": {why}"] for run, why in study.excluded[:LISTED]]
            + ([f"and {len(study.excluded) - LISTED:,} more"] if len(study.excluded) > LISTED else [])
            or ["None."]
        ),
        Heading(f"Quality control ({len(study.findings):,} findings)", 3),
        Bullets(lines or ["None."]),
    ]
    return [_as_detail(block) for block in blocks]


def _codes(runs: list[str]) -> Content:
    parts: list[Content] = []
    for i, run in enumerate(runs[:LISTED]):
        parts += [", ", Code(run)] if i else [Code(run)]
    more = len(runs) - LISTED
    return [*parts, f" and {more:,} more"] if more > 0 else parts


def _as_detail(block: Block) -> Block:
    return replace(block, detail=True)
