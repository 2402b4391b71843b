"""What stands under every figure: what is seen, of which kind it is, and how to read it.

Each function takes the numbers that the figure shows; `absent` says why there is no figure.
"""

from scalelab.report.fit.diagnostics import BAND, ConventionExponents, HoldoutSummary, ModelChoice, Residuals
from scalelab.report.fit.notes import simplified, what_counts, windowed
from scalelab.report.fit.plot_data import (
    AllocationCurves,
    FrontierCurves,
    SurfaceMap,
    TargetValue,
    ValleysPlot,
    percent,
)
from scalelab.study.forecast import CALIBRATED, CHOICE
from scalelab.study.study import Study
from scalelab.units import multiple, sci, si

ABSENT = {
    "surface": "no law of N and D was fitted",
    "residuals": "no law that expects a loss of every run was fitted",
    "conventions": "no conventions were compared",
}


def absent(study: Study, title: str) -> str:
    """Why a figure could not be drawn."""
    if title == "holdout":
        return str(study.holdout)
    laws = {"valleys": ("isoflop",), "conventions": ()}.get(title, ("chinchilla", "kaplan"))
    refused = [study.refused[law] for law in laws if law in study.refused]
    if title == "valleys" and not refused:
        return "the law isoflop was not asked for"
    return "; ".join([*ABSENT.get(title, "").splitlines(), *refused])


def valleys(study: Study, data: ValleysPlot) -> str:
    """Under the isoFLOP slices."""
    found = data.valleys
    parts = [
        f"Loss against size at equal compute, one shade and marker per budget [{data.kind}]. "
        "Within a budget a larger model sees fewer tokens. The cross is the minimum N* of the "
        f"parabola, the bar its {study.level:.0%} interval [fitted]."
    ]
    if any(v.others for v in found):
        parts.append(
            "A diamond is the minimum by a cubic, a triangle by Akima's curve, drawn where they "
            "differ visibly."
        )
    if any((~v.used & ~v.ruined).any() for v in found):
        parts.append(
            "Open marks are runs that the parabola does not use: too far from the minimum, or of "
            "a refused budget."
        )
    if any(v.ruined.any() for v in found):
        parts.append("Crossed-out runs lie in no valley of the others; they shape nothing.")
    return _joined(parts, data.hidden)


def allocation(study: Study, data: AllocationCurves) -> str:
    """Under N* and D* over compute."""
    parts = ["The best size and token count against compute [fitted; dashed: extrapolated]."]
    if data.minima_n_params.flops.size:
        parts.append(f"Points are the minima of the budgets, from {data.kind} losses.")
    curve = data.n_params[data.primary]
    band = f", its band the {data.level:.0%} interval of the noise" if curve.low is not None else ""
    parts.append(f"Solid: {data.primary}{band}; dotted: what another law says of the same runs.")
    parts.append(
        f"At the target, {sci(data.target_n_params.flops)} FLOPs, the diamond is the forecast and "
        "the ticks are all members that count."
    )
    parts.append(_quoted(study, "n_params", "N*", data.target_n_params, si))
    parts.append(_quoted(study, "n_tokens", "D*", data.target_n_tokens, si))
    return _joined(parts)


def frontier(study: Study, data: FrontierCurves) -> str:
    """Under L* over compute."""
    parts = [
        f"The lowest loss against compute. Grey dots are runs [{data.kind}]; those far above the "
        "frontier are outside the picture. Lines are laws and forms [fitted; dashed: "
        "extrapolated]; beyond the evidence they differ by more than the noise.",
        "The diamond is the forecast, the ticks are all members that count.",
        _quoted(study, "loss", "L*", data.target, lambda v: f"{v:.3f}"),
    ]
    return _joined(parts, data.hidden)


def surface(study: Study, data: SurfaceMap) -> str:
    """Under the map of the loss."""
    worst = float(abs(data.miss).max())
    which = "all" if data.n_fitted == data.n_runs else f"{data.n_fitted:,} of the {data.n_runs:,}"
    hollow = "" if data.fitted.all() else " Hollow: runs that it was not fitted to."
    text = (
        f"The formula of {data.law}, fitted to {which} runs, in nats per token. Triangles are "
        f"runs [{data.kind}], pointing up where the formula predicts more than was {data.kind}, "
        f"larger where the error is larger, at most by {worst:.1%}.{hollow} The line is the best use of "
        "compute, dashed beyond the evidence [extrapolated]."
    )
    also = f"The law reads {', '.join(data.columns)} too; the map has what a plan would take."
    return _joined([text, also] if data.columns else [text], data.hidden)


def residuals(study: Study, data: Residuals) -> str:
    """Return the caption of the residuals."""
    worst = [
        f"{m.law}: " + ", ".join(f"`{run}` {m.miss[i]:+.1%}" for i, run in m.worst.items())
        for m in data.laws
        if m.worst
    ]
    text = (
        f"Predicted over {data.kind} loss, less one, of every run that a law was fitted to. The "
        f"grey band is {percent(BAND)} either way. A slope or a bend means that the formula is "
        "not the one that made the runs."
    )
    ringed = f"Ringed runs stand out ({'; '.join(worst)})." if worst else "No run stands out."
    return _joined([text, ringed], data.hidden)


def holdout(study: Study, data: HoldoutSummary) -> str:
    """Under the hold-outs."""
    trusted = ", ".join(f"{t.law} {multiple(t.trusted)}" for t in data.laws)
    untested = [f"{law} could not be tested: {why}." for law, why in data.refused.items()]
    text = (
        "Every law fitted to the runs up to some compute and asked for more [extrapolated, then "
        f"{data.kind}]: error of the loss against how far ahead. Lines are c ln k, the growth "
        "that an error of an exponent has. The triangle on the axis is how far ahead a law may be "
        f"trusted to stay within {percent(data.tolerance)} of the loss, never past the square of "
        f"what was tested: {trusted}. The forecast reaches {multiple(data.reach)}, by {data.primary}."
    )
    notes = [what_counts(study), simplified(study, [t.law for t in data.laws])]
    return _joined([text, *(note for note in notes if note), *untested])


def choice(study: Study, data: ModelChoice) -> str:
    """Under the members."""
    hollow = any(m.refuted for mine in data.groups.values() for m in mine)
    parts = [
        "Every way to have fitted the same runs, and what it says of the target "
        f"[{'extrapolated' if data.extrapolated else 'fitted'}]: laws in bold, below each its "
        "forms, settings and parts of the evidence."
    ]
    if hollow:
        parts.append("Hollow: refuted by the runs themselves, so it does not count.")
    if any(data.statistical.values()):
        parts.append(
            f"Shaded: the {data.level:.0%} interval of the noise of {data.primary}, the primary law. "
            "What lies outside it is uncertainty that no bootstrap of one law shows."
        )
    if note := windowed(study):
        parts.append(note)
    return _joined(parts)


def conventions(study: Study, data: ConventionExponents) -> str:
    """Under the exponents by convention."""
    return (
        "The exponent a of N* ~ C^a by law and by what is counted as N and C "
        f"[fitted to {data.kind} runs]; bars are {data.level:.0%} intervals of the noise. Hollow: "
        "the fit is broken; see the table. The thin line is 0.5 [literature: Hoffmann et al. 2022]."
    )


def _quoted(study: Study, key: str, symbol: str, target: TargetValue, write) -> str:
    """The interval that is quoted and which doubt is the larger one."""
    if target.quoted is None:
        return f"No interval of {symbol} is quoted: the noise is unknown."
    low, high = (write(end) for end in target.quoted)
    larger = study.forecast.dominates.get(key)
    which = {CHOICE: "the choice of law", CALIBRATED: "the calibrated width"}.get(larger, "noise")
    return f"The bar is the quoted interval of {symbol}, {low} to {high}; {which} dominates it."


def _joined(parts: list[str], hidden: int = 0) -> str:
    if hidden:
        parts = [*parts, f"{hidden:,} runs more are used but not drawn: evenly thinned."]
    return " ".join(parts)
