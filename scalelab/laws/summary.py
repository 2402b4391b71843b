"""A study in words: what was asked, what was seen, what follows, how far to trust it.

Every line with a number says what kind it is: [measured] on a run, [fitted] inside the
evidence, [extrapolated] beyond it, [literature] from elsewhere.
"""

from collections.abc import Callable
from textwrap import fill
from typing import TYPE_CHECKING

import numpy as np

from scalelab.laws.base import LawFit
from scalelab.laws.formula import FormulaFit
from scalelab.laws.holdout import HoldOut
from scalelab.laws.isoflop import IsoFlopFit
from scalelab.units import PARAM_COUNTS, sci, si

if TYPE_CHECKING:
    from scalelab.laws.study import Study

WIDTH = 100


def summary(study: "Study") -> str:
    """The whole text."""
    parts = [_question(study), _evidence(study)]
    parts += [_isoflop(study, fit) for fit in study.fits.values() if isinstance(fit, IsoFlopFit)]
    parts += [_surface(study, fit) for fit in study.fits.values() if isinstance(fit, FormulaFit)]
    parts += [_refused(study)] if study.refused else []
    return "\n\n".join([*parts, _holdout(study), _forecast(study), _next(study)])


def _question(study: "Study") -> str:
    return (
        f"Question: with {sci(study.forecast.flops)} training FLOPs, how many parameters (N), "
        "how many tokens (D),\n"
        "  and what validation loss (L, nats per token)? N*, D*, L* are the best choice.\n"
        f"  N is the {study.param_count} count: {PARAM_COUNTS[study.param_count]}."
    )


def _evidence(study: "Study") -> str:
    runs, budgets, noise = study.runs, study.runs.budgets, study.seed_noise
    spans = (f"{si(v.min())} to {si(v.max())}" for v in (runs.N, runs.D))
    slices = (
        f"{len(budgets)} budgets, {sci(budgets[0])} to {sci(budgets[-1])} FLOPs"
        if budgets.size
        else f"no isoFLOP budgets; {sci(runs.C.min())} to {sci(runs.C.max())} FLOPs"
    )
    spread = (
        f"{noise.sd:.4f} nats per token between seeds ({noise.dof} spare runs)"
        if noise
        else "unknown: no run was repeated with another seed"
    )
    lines = [
        "Evidence [measured]",
        f"  {len(runs)} runs, {slices}",
        "  N {} parameters, D {} tokens".format(*spans),
        f"  seed noise: {spread}",
    ]
    if study.excluded:
        lines.append(f"  left out: {len(study.excluded)} runs")
        lines += [f"    {run}: {reason}" for run, reason in study.excluded]
    return "\n".join(lines)


def _isoflop(study: "Study", fit: IsoFlopFit) -> str:
    level, m = study.level, len(fit.minima)
    intervals = iter(study.minima_intervals())
    lines = [
        f"Best size per budget [fitted: parabola of loss in ln N; {level:.0%} intervals]",
        f"  {'budget':>8}  {'N*':>6} {'':17} {'D*':>6}  {'D*/N*':>5}  {'L*':>6}",
    ]
    for s in fit.slices:
        if s.refused is not None:
            lines.append(f"  {sci(s.flops):>8}  refused: {s.refused}")
            continue
        around = _between(next(intervals)["n_params"], si)
        lines.append(
            f"  {sci(s.flops):>8}  {si(s.N):>6} {around:17} {si(s.D):>6}  {s.D / s.N:5.1f}"
            f"  {s.L:6.3f}  {s.sides[0]} sizes below, {s.sides[1]} above"
        )
    found, known = fit.params, study.intervals("isoflop")
    lines += [
        f"How it grows [fitted through {m} minima]",
        f"  N* ~ C^{found['a']:.3f} {_between(known.get('a'), _three)}, "
        f"D* ~ C^{found['b']:.3f} {_between(known.get('b'), _three)}; "
        "Chinchilla: 0.50 and 0.50 [literature]",
        f"  L* ~ C^-{found['l']:.4f} {_between(known.get('l'), _four)} as a pure power law",
    ]
    if "E" in found:
        exact = " (three points fit it exactly)" if m == 3 else ""
        uses = "form with a floor" if fit.form == "floor" else "pure power law"
        lines.append(
            f"  L* = {found['E']:.3f} + {found['K']:.3f} (C/{sci(found['C0'])})"
            f"^-{found['gamma']:.3f} nats per token{exact}; the forecast uses the {uses}"
        )
    return "\n".join(lines + _warned(study, "isoflop"))


def _surface(study: "Study", fit: FormulaFit) -> str:
    p, known, solver = fit.params, study.intervals("chinchilla"), fit.solver
    best = "converged" if solver.converged else "NOT CONVERGED"
    bound = f", at the edge: {', '.join(solver.at_bound)}" if solver.at_bound else ""
    lines = [
        f"One surface through all runs [fitted]: {fit.law.formula}",
        *(f"  {k:<5} {p[k]:<10.4g} {_between(known.get(k), _four_digits)}" for k in p),
        f"  N* ~ C^{fit.exponents['a']:.3f} {_between(known.get('a'), _three)} for C = 6 N D",
        f"  FLOPs per token: {fit.cost}",
        f"  typical miss {fit.miss:.2%} of the loss; {best}: {solver.agreement:.0%} of starts "
        f"agree, gradient {solver.gradient_norm:.0e}{bound}",
    ]
    return "\n".join(lines + _warned(study, "chinchilla"))


def _warned(study: "Study", name: str) -> list[str]:
    fit: LawFit = study.fits[name]
    drawn = study.replicates[name]
    said = list(fit.warnings) + list(drawn.notes if drawn else ())
    if drawn is None:
        said.append("no intervals: nothing can be drawn again")
    lines = [
        fill(f"warning: {w}", WIDTH, initial_indent="  ", subsequent_indent="    ") for w in said
    ]
    if drawn is not None:
        lines.append(f"  intervals: {drawn.asked} replicates, {drawn.failed} failed; {drawn.unit}")
    return lines


def _refused(study: "Study") -> str:
    return "Refused\n" + "\n".join(
        fill(f"{name}: {why}", WIDTH, initial_indent="  ", subsequent_indent="    ")
        for name, why in study.refused.items()
    )


def _holdout(study: "Study") -> str:
    test = study.holdout
    if not isinstance(test, HoldOut):
        return f"Hold-out: none. {test[0].upper()}{test[1:]}."
    lines = [
        f"Hold-out [extrapolated, then measured]: without {test.held_out},\n"
        f"  {test.reach:.3g}x beyond the {test.n_train} runs fitted"
    ]
    for name, error in test.mean_abs_rel_error.items():
        at = test.optimum.get(name)
        where = f"; at the best size L* {at['loss']:+.2%}, N* {at['n_params']:+.0%}" if at else ""
        lines.append(f"  {name}: loss missed by {error:.2%}{where}")
    lines += [f"  {name}: could not be tested: {why}" for name, why in test.refused.items()]
    return "\n".join(lines)


def _forecast(study: "Study") -> str:
    f = study.forecast
    kind = "EXTRAPOLATED" if f.reach > 1 else "fitted, inside the evidence"
    writes = {
        "n_params": ("N*", si, "parameters"),
        "n_tokens": ("D*", si, "tokens"),
        "tokens_per_param": ("D*/N*", _one, "tokens per parameter"),
        "loss": ("L*", _three, "nats per token"),
    }
    lines = [
        f"Forecast [{kind}] at {sci(f.flops)} FLOPs, {f.reach:.3g}x the evidence, by {f.law}",
        f"  {'':6} {'best':>7}  {f'{study.level:.0%} interval':18} {'all laws and forms':18}",
    ]
    for key, (name, write, unit) in writes.items():
        interval, spread = _between(f.intervals[key], write), _between(f.structural[key], write)
        lines.append(f"  {name:6} {write(f.values[key]):>7}  {interval:18} {spread:18} {unit}")
    lines += _which_dominates(study)
    lines.append(f"Verdict: {study.verdict.grade}")
    lines += [
        fill(reason, WIDTH, initial_indent="  - ", subsequent_indent="    ")
        for reason in study.verdict.reasons or ("nothing in the evidence speaks against it",)
    ]
    return "\n".join(lines)


def _which_dominates(study: "Study") -> list[str]:
    """Noise or choice of law: the larger of the two is what a plan must survive."""
    f = study.forecast
    if len(f.structural["loss"]) < 2 or any(f.intervals[k] is None for k in ("n_params", "loss")):
        return ["  The interval holds noise only, and none could be had for every quantity."]
    wider = [
        name
        for key, name in (("n_params", "N*"), ("loss", "L*"))
        if np.ptp(np.log(f.structural[key])) > np.ptp(np.log(f.intervals[key]))
    ]
    if not wider:
        return ["  The interval holds noise only; laws and forms differ by less."]
    return [
        f"  The interval holds noise only. For {' and '.join(wider)} the laws differ by more: "
        "plan with that spread."
    ]


def _next(study: "Study") -> str:
    """The cheapest things that would make the forecast better."""
    todo = []
    fit = study.fits.get("isoflop")
    refused = [s for s in fit.slices if s.refused] if isinstance(fit, IsoFlopFit) else []
    for s in refused:
        if s.at_edge:
            lowest = s.runs.N[np.argmin(s.runs.L)]
            side = "below" if lowest == s.runs.N.min() else "above"
            todo.append(f"at {sci(s.flops)} FLOPs add sizes {side} {si(lowest)}")
        else:
            todo.append(f"at {sci(s.flops)} FLOPs add sizes and seeds: no valley stands out")
    if isinstance(fit, IsoFlopFit):
        thin = [s for s in fit.minima if min(s.sides) < 3]
        if thin:
            where = ", ".join(sci(s.flops) for s in thin)
            todo.append(f"add sizes until three lie on each side of the minimum, at {where} FLOPs")
    if study.seed_noise is None:
        todo.append("repeat one size near the minimum of two budgets with other seeds")
    if study.forecast.reach > 10 or (fit is not None and len(fit.minima) < 4):
        todo.append("add a larger budget: it shortens the reach and tests the trend")
    if fit is None and not study.runs.budgets.size:
        todo.append("run isoFLOP slices (column flops_planned): they need no form of the surface")
    if not todo:
        todo.append("plan the target, freeze this forecast, and compare it with what comes true")
    return "Next\n" + "\n".join(
        fill(t, WIDTH, initial_indent="  - ", subsequent_indent="    ") for t in todo
    )


def _between(interval: list[float] | None, write: Callable[[float], str]) -> str:
    return "[no interval]" if interval is None else f"[{write(interval[0])}, {write(interval[1])}]"


def _one(value: float) -> str:
    return f"{value:.1f}"


def _three(value: float) -> str:
    return f"{value:.3f}"


def _four(value: float) -> str:
    return f"{value:.4f}"


def _four_digits(value: float) -> str:
    return f"{value:.4g}"
