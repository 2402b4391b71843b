"""Each fitted law in words: its constants, how surely they are known, how they were found.

Not here: the rest of the summary (summary.py).
"""

from collections.abc import Callable
from textwrap import fill
from typing import TYPE_CHECKING

from scalelab.laws.base import LawFit
from scalelab.laws.formula import FormulaFit
from scalelab.laws.isoflop import IsoFlopFit
from scalelab.units import sci, si

if TYPE_CHECKING:
    from scalelab.laws.study import Study

WIDTH = 100
CORRELATED = 0.9  # beyond it two constants may not be read one by one


def law_text(study: "Study", name: str) -> str:
    """The block of one law."""
    fit = study.fits[name]
    if isinstance(fit, IsoFlopFit):
        return _isoflop(study, fit)
    if isinstance(fit, FormulaFit):
        return _formula(study, name, fit)
    return _other(study, name, fit)


def between(interval: list[float] | None, write: Callable[[float], str]) -> str:
    """An interval as text; it says when there is none."""
    return "[no interval]" if interval is None else f"[{write(interval[0])}, {write(interval[1])}]"


def one(value: float) -> str:
    """One decimal."""
    return f"{value:.1f}"


def three(value: float) -> str:
    """Three decimals."""
    return f"{value:.3f}"


def four_digits(value: float) -> str:
    """Four significant digits."""
    return f"{value:.4g}"


def _four(value: float) -> str:
    return f"{value:.4f}"


def wrapped(text: str, lead: str = "  ", more: str = "    ") -> str:
    """A sentence within the width of the summary."""
    return fill(text, WIDTH, initial_indent=lead, subsequent_indent=more)


def _isoflop(study: "Study", fit: IsoFlopFit) -> str:
    level, m = study.level, len(fit.minima)
    intervals = iter(study.minima_intervals())
    lines = [
        f"Best size per budget [fitted: parabola of loss in ln N; {level:.0%} intervals]",
        f"  {'budget':>8}  {'N*':>6} {'':17} {'D*':>6}  {'D*/N*':>5}  {'L*':>6}  sizes"
        f"    {'N* by cubic, Akima':>18}",
    ]
    for s in fit.slices:
        if s.refused is not None:
            lines.append(f"  {sci(s.flops):>8}  refused: {s.refused}")
            continue
        around = between(next(intervals)["n_params"], si)
        checks = s.to_json().get("cross_check") or {}
        others = [si(v) if (v := checks.get(k)) else "-" for k in ("cubic", "akima")]
        lines.append(
            f"  {sci(s.flops):>8}  {si(s.N):>6} {around:17} {si(s.D):>6}  {s.D / s.N:5.1f}"
            f"  {s.L:6.3f}  {s.sides[0]} + {s.sides[1]}    {', '.join(others):>18}"
        )
    found, known = fit.params, study.intervals("isoflop")
    lines += [
        f"How it grows [fitted through {m} minima]",
        f"  N* ~ C^{found['a']:.3f} {between(known.get('a'), three)}, "
        f"D* ~ C^{found['b']:.3f} {between(known.get('b'), three)}; "
        "Chinchilla: 0.50 and 0.50 [literature]",
        f"  L* ~ C^-{found['l']:.4f} {between(known.get('l'), _four)} as a pure power law",
    ]
    if "E" in found:
        exact = " (three points fit it exactly)" if m == 3 else ""
        uses = "form with a floor" if fit.form == "floor" else "pure power law"
        lines.append(
            f"  L* = {found['E']:.3f} + {found['K']:.3f} (C/{sci(found['C0'])})"
            f"^-{found['gamma']:.3f} nats per token{exact}; the forecast uses the {uses}"
        )
    return "\n".join(lines + _warned(study, "isoflop"))


def _formula(study: "Study", name: str, fit: FormulaFit) -> str:
    p, known, solver = fit.params, study.intervals(name), fit.solver
    errors = study.standard_errors(name)
    profiles = study.profiles.get(name, {})
    what = "sum of Huber penalties of ln L" if fit.surface.robust else "sum of squares"
    ended = "converged" if solver.converged else "NOT CONVERGED"
    bound = f", at the edge: {', '.join(solver.at_bound)}" if solver.at_bound else ""
    lines = [
        f"{name} [fitted]: {fit.law.formula}",
        f"  {ended}: {solver.agreement:.0%} of {solver.starts} starts agree, "
        f"gradient {solver.gradient_norm:.0e}{bound}; {what} {fit.objective:.6g}",
        f"  typical miss {fit.miss:.2%} of the loss"
        + (f"; FLOPs per token: {fit.cost}" if fit.cost is not None else ""),
    ]
    header = f"  {'':8} {'best':11} {f'{study.level:.0%} interval':22} {'standard error':>14}"
    lines.append(header + ("   by profile likelihood" if profiles else ""))
    for k in p:
        error = "" if errors.get(k) is None else f"{errors[k]:.3g}"
        row = f"  {k:8} {p[k]:<11.5g} {between(known.get(k), four_digits):22} {error:>14}"
        lines.append((row + "   " + _open(profiles.get(k), four_digits)).rstrip())
    if fit.exponents:
        ends = f" {between(known.get('a'), three)}" if known else ""
        more = f"; by profile {_open(profiles.get('a'), three)}" if profiles else ""
        lines.append(f"  N* ~ C^{fit.exponents['a']:.3f}{ends}{more} for C = 6 N D")
    close = [
        f"{x} and {y} {value:+.3f}"
        for (x, y), value in study.correlations(name).items()
        if abs(value) >= CORRELATED
    ]
    if close:
        lines.append(
            wrapped(f"correlated, so not to be read one by one: {', '.join(close)} (logarithms)")
        )
    return "\n".join(lines + _warned(study, name))


def _other(study: "Study", name: str, fit: LawFit) -> str:
    known = study.intervals(name)
    lines = [f"{name} [fitted]: {fit.law.formula}"]
    lines += [
        f"  {k:8} {v:<11.5g} {between(known.get(k), four_digits)}" for k, v in fit.params.items()
    ]
    return "\n".join(lines + _warned(study, name))


def _open(ends: list[float | None] | None, write: Callable[[float], str]) -> str:
    """A profile interval, whose ends may be open."""
    if ends is None:
        return ""
    low, high = (("open" if end is None else write(end)) for end in ends)
    return f"[{low}, {high}]"


def _warned(study: "Study", name: str) -> list[str]:
    fit, drawn = study.fits[name], study.replicates[name]
    said = [*fit.warnings, *(drawn.notes if drawn else ()), *study.influential(name)]
    if drawn is None:
        why = "nothing can be drawn again" if study.count else "no replicate was asked for"
        said.append(f"no intervals: {why}")
    lines = [wrapped(f"warning: {w}") for w in said]
    if drawn is not None:
        lines.append(
            f"  intervals: {drawn.asked} replicates, {drawn.failed} failed, "
            f"{drawn.edge} at an edge; {drawn.unit}"
        )
    return lines
