"""A backtest as one Document: the tables, the board of the loss, intervals, best sizes, what was refused.

Errors are extrapolated against measured (or simulated) and are written in percent of the logarithm.
The terminal shows the boards; the page adds families, levels, runs held out by publications, and figures.

Not here: the scores (backtest/scores.py), the figures (plots.py), the files (page.py).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from scalelab.backtest import REFERENCE
from scalelab.backtest.board import LEFT_OUT, Board, MethodScore
from scalelab.backtest.scores import DRAWN_LEVEL, HONEST, LOSS_BANDS, SIZE_BANDS, SURE, BandScore, Coverage
from scalelab.report.document import Block, Bullets, Document, Facts, Figure, Heading, Paragraph, Table

VERSUS = ("near", "far")
"""Names of the bands in which methods are compared with the reference."""
NONE = "-"
"""A cell without a number: the method has none."""


def backtest_document(
    board: Board, *, figures: Sequence[Figure] = (), provenance: Mapping[str, Any] | None = None
) -> Document:
    """Return everything that is reported of a backtest.

    Args:
        board: The scores.
        figures: Figures that were drawn, with captions.
        provenance: What the numbers came from, such as the commit.
    """
    blocks: list[Block] = [
        *_tables(board),
        *_loss(board),
        *figures,
        *_sizes(board),
        *_published(board),
        *_families(board),
        *_levels(board),
        *_refused(board),
        *_cost(board),
    ]
    if provenance is not None:
        blocks += [
            Heading("Where it came from", detail=True),
            Facts([(key, str(value)) for key, value in provenance.items()], detail=True),
        ]
    return Document("Backtest of forecasting methods", blocks)


def _tables(board: Board) -> list[Block]:
    kinds = sorted({table.kind for table in board.tables.tables})
    families = list(dict.fromkeys(table.family for table in board.tables.tables))
    blocks: list[Block] = [
        Heading(f"Tables ({' and '.join(kinds)})"),
        Facts(
            [
                (
                    "used",
                    f"{len(board.tables.tables)} tables of {len(families)} families: {', '.join(families)}",
                ),
                (
                    "asked",
                    f"{board.n_asked} losses of larger runs in {board.n_cases} cases, "
                    f"{board.n_sizes} best sizes of budgets",
                ),
            ]
        ),
    ]
    if board.tables.left_out or board.thin:
        blocks.append(
            Bullets(
                [
                    *(f"left out: {each.name}: {each.reason}" for each in board.tables.left_out),
                    *(f"no case: {name}: {why}" for name, why in board.thin.items()),
                ]
            )
        )
    rows = [
        [
            table.name,
            table.family,
            str(len(table.runs)),
            table.config.licence if table.config else NONE,
            table.config.source if table.config else table.path,
        ]
        for table in board.tables.tables
    ]
    blocks.append(Table(["table", "family", "runs", "licence", "source"], rows, align="llrll", detail=True))
    caveats = [
        f"{t.name}: {'; '.join((*t.notes, *t.caveats))}" for t in board.tables.tables if t.notes or t.caveats
    ]
    if caveats:
        blocks.append(Bullets(caveats, detail=True))
    return blocks


def _loss(board: Board) -> list[Block]:
    blocks: list[Block] = [
        Heading("Loss (extrapolated against measured)"),
        Paragraph(
            f"error, bias: mean |ln error| and mean ln error, percent; of ref.: error as a multiple of that of "
            f"{REFERENCE} on the same runs, geometric mean over families; inside, of all, width, score: intervals of "
            f"{board.level:.0%}, balanced share inside, share of all runs inside, median full width and interval "
            f"score (lower is better), percent; honest: share of errors of at most {HONEST:g} times the expected "
            "one. In error, bias, of ref., inside and score every family of tables weighs the same; in of all, "
            "width and honest every run does."
        ),
    ]
    for name, band in zip(VERSUS, LOSS_BANDS, strict=False):
        scores = [(score, found) for score in board.methods if (found := _band(score.loss, band)) is not None]
        if not scores:
            continue
        rows, exact = [], None
        for score, found in scores:
            cover = _at(found, board.level)
            exact = exact or (cover and cover.exact)
            versus = score.versus.get(name)
            rows.append(
                [
                    _label(score),
                    _percent(found.error),
                    _signed(found.bias),
                    NONE if versus is None else f"{versus.ratio:.2f}",
                    _share(cover and cover.balanced),
                    _share(cover and cover.share),
                    _percent(cover and cover.median_width),
                    _percent(cover and cover.interval_score),
                    _share(found.honest),
                ]
            )
        most = max(found.n for _, found in scores)
        cases = max(found.n_cases for _, found in scores)
        text = f"Reach {_named(band)}: {most} runs of {cases} cases"
        if exact:
            text += (
                f"; were intervals exact and cases independent, {_range(exact)} of all inside on {SURE:.0%} "
                "of boards"
            )
        columns = ["method", "error", "bias", "of ref.", "inside", "of all", "width", "score", "honest"]
        blocks += [Paragraph(f"{text}."), Table(columns, rows)]
    short = [s for s in board.methods if s.answered < s.asked and s.constants != LEFT_OUT]
    if short:
        listed = ", ".join(f"{s.name} {s.answered_losses} of {board.n_asked} losses" for s in short)
        blocks.append(Paragraph(f"Not all was answered, so these are not means of the same runs: {listed}."))
    return blocks


def _sizes(board: Board) -> list[Block]:
    if not any(score.sizes for score in board.methods):
        return []
    columns = [
        "method",
        *(f"{_named(band)} {what}" for band in SIZE_BANDS for what in ("error", "inside", "wasted")),
    ]
    rows = []
    for score in board.methods:
        if not score.sizes:
            continue
        row = [_label(score)]
        for band in SIZE_BANDS:
            found = _band(score.sizes, band)
            cover = _at(found, board.level)
            row += [
                NONE if found is None else f"{found.error:.3f}",
                _share(cover and cover.balanced),
                NONE if found is None or found.wasted is None else f"{100 * found.wasted:.1f}%",
            ]
        rows.append(row)
    return [
        Heading("Best size N* (extrapolated against parabolas through measured runs)"),
        Paragraph(
            "Mean |ln error| of N*, share inside the interval, and mean share of the compute that a run of the "
            "forecast size wastes."
        ),
        Table(columns, rows),
    ]


def _published(board: Board) -> list[Block]:
    runs = next((s.published for s in board.methods if s.published), ())
    if not runs:
        return []
    tables = list(dict.fromkeys(run.table for run in runs))
    rows = []
    for score in board.methods:
        for table in tables:
            mine = [run for run in score.published if run.table == table]
            if not mine:
                continue
            judged = [run.inside for run in mine if run.inside is not None]
            rows.append(
                [
                    _label(score),
                    table,
                    ", ".join(f"{100 * run.error:+.2f}" for run in mine),
                    f"{sum(judged)} of {len(judged)}" if judged else NONE,
                ]
            )
    return [
        Heading("Runs that publications held out", detail=True),
        Paragraph(
            "Error of each forecast in percent of the loss, in the order of the table, and how many lie inside.",
            detail=True,
        ),
        Table(["method", "table", "errors", "inside"], rows, align="lllr", detail=True),
    ]


def _families(board: Board) -> list[Block]:
    blocks: list[Block] = [Heading("By table", detail=True)]
    for band in LOSS_BANDS:
        of_band = {_label(s): b for s in board.methods if (b := _band(s.loss, band)) is not None}
        names = sorted({name for b in of_band.values() for name in b.by_table})
        if not names:
            continue
        rows = [
            [
                label,
                *(_percent(b.by_table.get(name)) for name in names),
                _percent(b.median),
                _percent(b.p90),
                _range(b.error_range, 2),
            ]
            for label, b in of_band.items()
        ]
        blocks += [
            Paragraph(
                f"{_named(band)}: mean |ln error|, percent; median and 90% quantile over runs; range of the "
                f"balanced mean over redrawn families and cases, {DRAWN_LEVEL:.0%}.",
                detail=True,
            ),
            Table(["method", *names, "median", "p90", "range"], rows, detail=True),
        ]
    return blocks


def _levels(board: Board) -> list[Block]:
    rows = []
    for score in board.methods:
        for band in LOSS_BANDS[:2]:
            found = _band(score.loss, band)
            if found is None or not found.coverage:
                continue
            for cover in found.coverage:
                worst = min(cover.by_family, key=lambda name: cover.by_family[name])
                rows.append(
                    [
                        _label(score),
                        _named(band),
                        f"{cover.level:.0%}",
                        _share(cover.balanced),
                        _share(cover.share),
                        _range(cover.exact),
                        f"{worst} {_share(cover.by_family[worst])}",
                    ]
                )
    if not rows:
        return []
    return [
        Heading("Coverage by level", detail=True),
        Table(
            ["method", "reach", "nominal", "balanced", "of all", "if exact", "least family"],
            rows,
            align="llrrrrl",
            detail=True,
        ),
    ]


def _refused(board: Board) -> list[Block]:
    lines = [
        f"{score.name}: {count} cases: {why}"
        for score in board.methods
        if score.constants != LEFT_OUT
        for why, count in sorted(score.refused.items(), key=lambda item: -item[1])[:3]
    ]
    if not lines:
        return []
    return [Heading("Without a forecast", detail=True), Bullets(lines, detail=True)]


def _cost(board: Board) -> list[Block]:
    rows = [
        [score.name, f"{score.seconds_per_case:.2f}", f"{score.seconds:.0f}", score.summary]
        for score in board.methods
        if score.constants != LEFT_OUT
    ]
    return [
        Heading("CPU time (measured)", detail=True),
        Table(["method", "s per case", "s in all", "what it does"], rows, align="lrrl", detail=True),
    ]


def _label(score: MethodScore) -> str:
    return f"{score.name} ({score.constants})" if score.constants == LEFT_OUT else score.name


def _named(band: tuple[float, float]) -> str:
    low, high = band
    if low == 0:
        return f"<={high:g}x"
    return f">{low:g}x" if high == float("inf") else f"{low:g}-{high:g}x"


def _band(scores: Sequence[BandScore], band: tuple[float, float]) -> BandScore | None:
    return next((s for s in scores if (s.low, s.high) == band), None)


def _at(score: BandScore | None, level: float) -> Coverage | None:
    return next((c for c in score.coverage if c.level == level), None) if score else None


def _number(value: float | None, write: Callable[[float], str]) -> str:
    return NONE if value is None else write(value)


def _percent(value: float | None) -> str:
    return _number(value, lambda x: f"{100 * x:.2f}")


def _signed(value: float | None) -> str:
    return _number(value, lambda x: f"{100 * x:+.2f}")


def _share(value: float | None) -> str:
    return _number(value, lambda x: f"{x:.0%}")


def _range(ends: tuple[float, float], digits: int = 0) -> str:
    return f"{100 * ends[0]:.{digits}f}-{100 * ends[1]:.{digits}f}%"
