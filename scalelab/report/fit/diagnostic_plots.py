"""The figures that doubt the answer, drawn from diagnostics.py alone.

Not here: the figures that give the answer (plots.py), what all share (plot_style.py).
"""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from scalelab.laws.uncertainty.model_uncertainty import CandidateFit
from scalelab.report.fit.diagnostics import (
    BAND,
    ConventionExponents,
    HoldoutSummary,
    LawHoldout,
    LawResiduals,
    ModelChoice,
    Residuals,
)
from scalelab.report.fit.plot_data import percent
from scalelab.report.plots.plot_style import (
    BLUE,
    FAINT,
    GREY,
    INK,
    LETTER,
    SMALL,
    LineLabel,
    canvas,
    counts,
    heavy,
    law_style,
    log_limits,
    name_ends,
    room,
    signed_percent,
    styled,
)
from scalelab.units import multiple, sci, si

LONGEST = 18  # letters of a run id in a title
ROW = 0.185  # inches, one line of a dot plot
TOP = 5.0  # times the reach that the primary law needs: errors beyond are drawn at the edge
COLUMNS = (
    ("n_params", "N* (parameters)", True),
    ("tokens_per_param", "D*/N* (tokens per\nparameter)", True),
    ("loss", "L* (nats per token)", False),
    ("a", "exponent a\nof N* ~ C^a", False),
)


@styled
def draw_residuals(data: Residuals) -> Figure:
    """Residuals of every surface against size, tokens and compute; one row per law."""
    n = len(data.laws)
    figure, grid = canvas(
        (7.4, 0.95 + 1.55 * n),
        rows=n,
        columns=3,
        left=0.78,
        gap=0.3,
        row_gap=0.3,
        bottom=0.46,
        top=0.5,
        sharey="row",
        sharex="col",
    )
    for row, misses in zip(grid, data.laws, strict=True):
        _row_of_misses(row, misses, *law_style(data.order, misses.law))
    labels = ("parameters N", "tokens D", "training compute C (FLOPs)")
    for axes, label, write in zip(grid[-1], labels, (si, si, sci), strict=True):
        axes.set_xlabel(label)
        counts(axes.xaxis, write)
    _heading(figure, f"Predicted over {data.kind} loss, less one [fitted]")
    return figure


def _row_of_misses(row: np.ndarray, data: LawResiduals, colour: str, marker: str) -> None:
    ordinary = np.delete(np.abs(data.miss), list(data.worst))
    reach = 1.15 * max(1.5 * BAND, ordinary.max(initial=0.0))
    inside = np.clip(data.miss, -reach, reach)
    for axes, x in zip(row, (data.n_params, data.n_tokens, data.flops), strict=True):
        axes.set_xscale("log")
        axes.set_xlim(log_limits(x.min(), x.max(), left=0.05, right=0.05))
        axes.set_ylim(-reach * 1.05, reach * 1.05)
        axes.axhspan(-BAND, BAND, color="#ececec", lw=0, zorder=0)
        axes.axhline(0, color=GREY, lw=0.8, zorder=1)
        axes.plot(
            x,
            inside,
            marker,
            ms=1.4 if heavy(x) else 3.2,
            mfc=colour,
            mec="white",
            mew=0 if heavy(x) else 0.3,
            ls="",
            rasterized=heavy(x),
        )
        for i in data.worst:
            beyond = abs(data.miss[i]) > reach
            shape = ("^" if data.miss[i] > 0 else "v") if beyond else "o"
            axes.plot(x[i], inside[i], shape, ms=6.5, mfc="none", mec=INK, mew=1.1, ls="")
        axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10], symmetric=True))
        axes.yaxis.set_major_formatter(FuncFormatter(signed_percent))
    row[0].set_ylabel("share of the loss")
    row[0].set_title(_row_title(data), size=SMALL, color=colour)


def _row_title(data: LawResiduals) -> str:
    """Name the law, its median error, and the runs that stand out."""
    text = f"{data.law}: median error {percent(float(f'{data.typical:.2g}'))}"
    named = [
        f"{run if len(run) <= LONGEST else '...' + run[3 - LONGEST :]} {data.miss[i]:+.1%}"
        for i, run in data.worst.items()
    ]
    return f"{text}; ringed: {', '.join(named)}" if named else text


@styled
def draw_holdout(data: HoldoutSummary) -> Figure:
    """Draw the error of the loss against the reach of the forecast, by law, and its expected growth."""
    figure, ((axes,),) = canvas((5.8, 3.9))
    folds = np.concatenate([t.fold for t in data.laws])
    own = [t for t in data.laws if t.law == data.primary] or list(data.laws)
    at_target = min(own[0].growth * np.log(max(data.reach, 1)), TOP * data.tolerance)
    need = max(1.6 * data.tolerance, at_target, *(e for t in own for e in t.error))
    errors = np.concatenate([t.error for t in data.laws])
    top = 1.12 * min(max(need, errors.max()), TOP * need)
    far = max(1.1 * folds.max(), data.reach, *(t.trusted for t in own))
    axes.set_xscale("log")
    tolerance = f"tolerance {percent(data.tolerance)}"
    beside = room(axes, [tolerance, *(t.law for t in data.laws)], pad=30)
    axes.set_xlim(log_limits(1.0, far, left=0.0, right=beside))
    axes.set_ylim(0, top)
    axes.fill_between([1, far], 0, data.tolerance, color="#ececec", lw=0, zorder=0)
    axes.plot([1, far], [data.tolerance] * 2, "-", color=GREY, lw=0.8, zorder=1)
    ends = [LineLabel(far, data.tolerance, tolerance, GREY)]
    ends += [_draw_tested(axes, t, law_style(data.order, t.law), far, top) for t in data.laws]
    if data.reach > 1:
        axes.axvline(data.reach, color=INK, lw=0.8, ls=(0, (2, 2)), zorder=1)
        ends += _name_target(axes, data.reach, far, top)
    counts(axes.xaxis, multiple, last=far)
    axes.yaxis.set_major_formatter(FuncFormatter(percent))
    axes.set_xlabel("how far ahead: compute asked for over the most that was fitted")
    axes.set_ylabel("error of the loss (share of it)")
    axes.set_title(f"Fitted to less compute, asked for more [{data.kind} runs held out]")
    name_ends(axes, ends)
    return figure


def _draw_tested(axes: Axes, tested: LawHoldout, style: tuple[str, str], far: float, top: float) -> LineLabel:
    """Tests, the line c ln k, and where it leaves the tolerance; returns the line's name."""
    colour, marker = style
    for above in (False, True):
        here = (tested.error > top) == above
        axes.plot(
            tested.fold[here],
            np.minimum(tested.error[here], 0.985 * top),
            "^" if above else marker,
            ms=6 if above else 4.5,
            mfc="white" if above else colour,
            mec=colour if above else "white",
            mew=1.0 if above else 0.4,
            ls="",
            zorder=3,
            clip_on=False,
        )
    steps = np.geomspace(1, far, 60)
    line = tested.growth * np.log(steps)
    seen = line <= top
    axes.plot(steps[seen], line[seen], "-", color=colour, lw=1.3, zorder=2)
    if tested.trusted <= far:
        at = tested.growth * np.log(tested.trusted)
        axes.plot([tested.trusted] * 2, [0, at], "-", color=colour, lw=1.3, zorder=2)
        axes.plot(tested.trusted, 0, "^", ms=7, color=colour, clip_on=False, zorder=4)
    last = np.flatnonzero(seen)[-1]
    return LineLabel(steps[last], line[last], tested.law, colour)


def _name_target(axes: Axes, reach: float, far: float, top: float) -> list[LineLabel]:
    """How far the forecast reaches: named among the lines at the right end, else on the spot."""
    text = f"target {multiple(reach)}"
    if reach > far**0.8:
        return [LineLabel(reach, top, text, INK)]
    axes.annotate(
        text,
        (reach, top),
        xytext=(-2, -4),
        textcoords="offset points",
        ha="right",
        va="top",
        rotation=90,
        size=SMALL,
    )
    return []


@styled
def draw_choice(data: ModelChoice) -> Figure:
    """What every member says of the target; refuted ones hollow."""
    lines = [(law, m) for law, mine in data.groups.items() for m in mine]
    names = [m.name if m.name == law else m.name[len(law) + 2 :] for law, m in lines]
    left = 0.25 + max(len(name) + 2 for name in names) * LETTER / 72
    figure, (row,) = canvas(
        (left + 5.6, 1.0 + ROW * len(lines)),
        columns=len(COLUMNS),
        left=left,
        gap=0.16,
        bottom=0.62,
        top=0.36,
        sharey=True,
    )
    for axes, (key, label, is_log) in zip(row, COLUMNS, strict=True):
        _column(axes, data, lines, key, is_log)
        axes.set_xlabel(label)
        axes.set_ylim(len(lines) - 0.4, -0.6)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
    row[0].set_yticks(range(len(lines)), names)
    for text, (law, m) in zip(row[0].get_yticklabels(), lines, strict=True):
        text.set_color(law_style(data.order, law)[0] if m.refuted is None else GREY)
        text.set_weight("bold" if m.name == law else "normal")
    state = "extrapolated" if data.extrapolated else "fitted"
    _heading(figure, f"What the choice of law changes at {sci(data.flops)} FLOPs [{state}]")
    return figure


def _column(
    axes: Axes, data: ModelChoice, lines: list[tuple[str, CandidateFit]], key: str, is_log: bool
) -> None:
    """One quantity of every member; those refuted that lie far away stand at the edge."""
    noise = data.statistical.get(key)
    must = [m.values[key] for _, m in lines if m.refuted is None and key in m.values]
    must += [*(noise or ())] or [m.values[key] for _, m in lines if key in m.values]
    if is_log:
        axes.set_xscale("log")
        low, high = log_limits(min(must), max(must), left=0.12, right=0.12)
    else:
        pad = 0.16 * (max(must) - min(must)) or 0.05 * abs(must[0])
        low, high = min(must) - pad, max(must) + pad
    axes.set_xlim(low, high)
    for k, (law, m) in enumerate(lines):
        axes.axhline(k, color="#e4e4e4", lw=0.6, zorder=0)
        if key not in m.values:
            continue
        value, (colour, shape) = m.values[key], law_style(data.order, law)
        at = float(np.clip(value, low, high))
        speaks = m.name == data.primary
        marker = shape if low <= value <= high else "<" if value < low else ">"
        if speaks and noise:
            axes.plot(noise, [k, k], "-", color=colour, lw=4, alpha=0.45, solid_capstyle="butt")
        axes.plot(
            at,
            k,
            marker,
            ms=5,
            mfc="white" if m.refuted else colour,
            mec=GREY if m.refuted else colour,
            mew=1,
            clip_on=False,
            zorder=3,
        )
    if noise:
        axes.axvspan(*noise, color=BLUE, alpha=0.1, lw=0, zorder=0)
    if is_log:
        counts(axes.xaxis)
    else:
        axes.xaxis.set_major_locator(MaxNLocator(3))


@styled
def draw_conventions(data: ConventionExponents) -> Figure:
    """The exponent a by convention and law."""
    rows = data.rows
    names = [f"{r.law}: {r.param_count} N, {r.flop_count} C" for r in rows]
    left = 0.25 + max(map(len, names)) * LETTER / 72
    figure, ((axes,),) = canvas((left + 3.6, 0.85 + ROW * len(rows)), left=left, bottom=0.46, top=0.3)
    ends = [end for r in rows if r.refused is None for end in (r.a, *(r.interval or ()))]
    ends = ends or [r.a for r in rows if r.a is not None]
    pad = 0.08 * (max(ends) - min(ends)) or 0.05
    low, high = min(ends) - pad, max(ends) + pad
    axes.set_xlim(low, high)
    for k, r in enumerate(rows):
        axes.axhline(k, color="#e4e4e4", lw=0.6, zorder=0)
        if r.a is None:
            axes.text(low, k, "refused", va="center", size=SMALL, color=GREY)
            continue
        colour = law_style(data.order, r.law)[0]
        if r.interval:
            axes.plot(r.interval, [k, k], "-", color=colour, lw=2, solid_capstyle="butt")
        marker = "o" if low <= r.a <= high else "<" if r.a < low else ">"
        fill = "white" if r.refused else colour
        at = float(np.clip(r.a, low, high))
        axes.plot(at, k, marker, ms=5.5, mfc=fill, mec=colour, mew=1, clip_on=False, zorder=3)
    axes.set_yticks(range(len(rows)), names)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.axvline(0.5, color=FAINT, lw=0.8, zorder=0)
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.set_xlabel("exponent a of N* ~ C^a")
    _heading(figure, f"How the count moves the exponent [fitted to {data.kind} runs]")
    return figure


def _heading(figure: Figure, text: str) -> None:
    """A title over all panels."""
    width, height = figure.get_size_inches()
    figure.text(0.1 / width, 1 - 0.08 / height, text, ha="left", va="top", size=9)
