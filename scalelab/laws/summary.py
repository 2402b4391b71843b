"""A study in words: what was asked, what was seen, what follows, how far to trust it.

Every line with a number says what kind it is: [measured] on a run, [simulated] from a known
law, [fitted] inside the evidence, [extrapolated] beyond it, [literature] from elsewhere.

Not here: the block of each law (lawtext.py).
"""

from typing import TYPE_CHECKING

import numpy as np

from scalelab.laws.forecast import CHOICE
from scalelab.laws.holdout import TOLERANCE, HoldOut
from scalelab.laws.lawtext import between, law_text, one, three, wrapped
from scalelab.units import FLOP_COUNTS, PARAM_COUNTS, sci, si

if TYPE_CHECKING:
    from scalelab.laws.study import Study

NAMED = 6  # runs of one finding that are named; the JSON has all of them


def summary(study: "Study") -> str:
    """The whole text."""
    parts = [_question(study), _evidence(study)]
    parts += [law_text(study, name) for name in study.fits]
    parts += [_refused(study)] if study.refused else []
    parts += [_holdout(study), _members(study), _forecast(study), _next(study)]
    return "\n\n".join(parts)


def _question(study: "Study") -> str:
    return (
        f"Question: with {sci(study.forecast.flops)} training FLOPs, how many parameters (N), "
        "how many tokens (D),\n"
        "  and what validation loss (L, nats per token)? N*, D*, L* are the best choice.\n"
        f"  N is the {study.param_count} count: {PARAM_COUNTS[study.param_count]}.\n"
        f"  C is the {study.flop_count} count: {FLOP_COUNTS[study.flop_count]}."
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
        f"Evidence [{study.kind}]",
        f"  {len(runs)} runs, {slices}",
        "  N {} parameters, D {} tokens".format(*spans),
        f"  seed noise: {spread}",
    ]
    if study.excluded:
        lines.append(f"  left out: {len(study.excluded)} runs")
        lines += [wrapped(f"{run}: {why}", "    ", "      ") for run, why in study.excluded]
    told = [f for f in study.findings if not f.excluded]
    if told:
        lines.append("  looked at closely, and kept:")
    for finding in told:
        more = len(finding.runs) - NAMED
        named = ", ".join(finding.runs[:NAMED]) + (f" and {more} more" if more > 0 else "")
        about = f" ({named})" if named else ""
        lines.append(wrapped(f"{finding.reason}{about}", "    ", "      "))
    return "\n".join(lines)


def _refused(study: "Study") -> str:
    return "Refused\n" + "\n".join(wrapped(f"{name}: {why}") for name, why in study.refused.items())


def _holdout(study: "Study") -> str:
    test = study.holdout
    if not isinstance(test, HoldOut):
        return f"Hold-out: none. {test[0].upper()}{test[1:]}."
    laws = list(dict.fromkeys(t.law for t in test.tests))
    lines = [
        "Hold-out [extrapolated, then measured]: fitted up to C, asked for more.",
        "  Error of the loss of the runs held out, in brackets of N* at their minimum",
        f"  {'fitted up to':>12} {'runs':>5} {'asked for':>10} {'ahead':>6}  "
        + "  ".join(f"{name:>15}" for name in laws),
    ]
    rows: dict[tuple[float, float], dict[str, str]] = {}
    counts = {}
    for t in test.tests:
        size = "" if t.n_params is None else f" ({t.n_params:+.0%})"
        rows.setdefault((t.origin, t.flops), {})[t.law] = f"{t.error:.2%}{size}"
        counts[t.origin, t.flops] = (t.n_train, t.fold)
    for (origin, flops), cells in rows.items():
        n, fold = counts[origin, flops]
        lines.append(
            f"  {sci(origin):>12} {n:>5} {sci(flops):>10} {fold:>5.3g}x  "
            + "  ".join(f"{cells.get(name, '-'):>15}" for name in laws)
        )
    folds = [f"{name} {_fold(test.trusted_fold(name))}-fold" for name in laws]
    lines.append(
        wrapped(f"trust to about: {', '.join(folds)} (loss within {TOLERANCE:.0%} by these errors)")
    )
    lines += [wrapped(f"{name}: could not be tested: {why}") for name, why in test.refused.items()]
    return "\n".join(lines)


def _fold(value: float) -> str:
    return f"{value:.2g}" if value < 10 else f"{value:,.0f}"


def _members(study: "Study") -> str:
    f = study.forecast
    name_width = min(44, max(len(m.name) for m in f.members) + 1)
    lines = [
        "What the choice of law changes [extrapolated], by everything that could have been fitted",
        f"  {'':{name_width}} {'N*':>7} {'D*/N*':>7} {'L*':>7} {'a':>6}",
    ]
    for m in f.members:
        v = m.values
        cells = [
            f"{si(v['n_params']):>7}" if "n_params" in v else f"{'':7}",
            f"{v['tokens_per_param']:7.1f}" if "tokens_per_param" in v else f"{'':7}",
            f"{v['loss']:7.3f}" if "loss" in v else f"{'':7}",
            f"{v['a']:6.3f}" if "a" in v else f"{'':6}",
        ]
        mark = "  (1)" if m.refuted else ""
        lines.append(f"  {m.name:{name_width}} {' '.join(cells)}{mark}".rstrip())
    why: dict[str, list[str]] = {}
    for m in f.members:
        if m.refuted:
            why.setdefault(m.refuted, []).append(m.name)
    told = [f"{'; '.join(names)}: {reason}" for reason, names in why.items()]
    lines += [wrapped(f"(1) does not count. {line}") for line in told]
    return "\n".join(lines)


def _forecast(study: "Study") -> str:
    f = study.forecast
    kind = "EXTRAPOLATED" if f.reach > 1 else "fitted, inside the evidence"
    writes = {
        "n_params": ("N*", si, "parameters"),
        "n_tokens": ("D*", si, "tokens"),
        "tokens_per_param": ("D*/N*", one, "tokens per parameter"),
        "loss": ("L*", three, "nats per token"),
        "a": ("a", three, "exponent of N* ~ C^a"),
    }
    lines = [
        f"Forecast [{kind}] at {sci(f.flops)} FLOPs, {f.reach:.3g}x the evidence, by {f.law}",
        f"  {'':6} {'best':>7}  {f'{study.level:.0%} noise':18} {'choice of law':18}",
    ]
    for key, (name, write, unit) in writes.items():
        if key not in f.values:
            continue
        noise, choice = between(f.statistical[key], write), between(f.structural.get(key), write)
        larger = f.dominates.get(key)
        marks = (" ", "*") if larger == CHOICE else ("*" if larger else " ", " ")
        lines.append(
            f"  {name:6} {write(f.values[key]):>7}  {noise + marks[0]:18} {choice + marks[1]:18} "
            f"{unit}"
        )
    lines.append(
        "  * the larger of the two. Quote, at each end, the farther of both; plan with that."
        if f.dominates
        else "  No interval of the noise could be had: the choice of law alone says too little."
    )
    lines.append(f"Verdict: {study.verdict.grade}")
    reasons = study.verdict.reasons or ("nothing in the evidence speaks against it",)
    lines += [wrapped(reason, "  - ") for reason in reasons]
    return "\n".join(lines)


def _next(study: "Study") -> str:
    """The cheapest things that would make the forecast better."""
    todo = []
    fit = None if study.sliced is None else study.fits[study.sliced]
    for s in (s for s in (fit.slices if fit else ()) if s.refused):
        if s.at_edge:
            lowest = s.runs.N[np.argmin(s.runs.L)]
            side = "below" if lowest == s.runs.N.min() else "above"
            todo.append(f"at {sci(s.flops)} FLOPs add sizes {side} {si(lowest)}")
        else:
            todo.append(f"at {sci(s.flops)} FLOPs add sizes and seeds: no valley stands out")
    if fit is not None:
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
    return "Next\n" + "\n".join(wrapped(t, "  - ") for t in todo)
