"""Checks of the rules of a recipe: do they belong together, where were they fitted, what was checked.

    mismatches(recipe)          why rules do not hold in this recipe: refused without a reason
    range_warnings(recipe, s)   rules that are asked outside the range they were fitted on
    provenance(recipe)          source, formula and unchecked constants of every published rule

Not here: the rules, and their constants.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from scalelab.config import Config
from scalelab.errors import ConfigError
from scalelab.train import OPTIMIZERS
from scalelab.train.rules.base import Rule, Scale
from scalelab.units import sci

RATES = ("lr", "embedding_lr", "head_lr", "vector_lr")
"""Fields of an optimizer's recipe that are rates, or multiples of one."""
_SCALES = tuple(
    Scale(
        n_params=n,
        n_tokens=20 * n,
        width=width,
        depth=depth,
        flops=120 * n * n,
        batch=2**14,
        body_params=0.8 * n,
        body_flops=96 * n * n,
        rate=1e-3,
    )
    for n, width, depth in ((1e5, 64, 2), (1e7, 256, 8), (1e9, 2048, 24))
)
"""Scales at which a rule is asked whether it follows the width."""


def rules_of(recipe: Any) -> dict[str, Rule]:
    """Return the rules of a recipe by place: batch, optimizer.NAME, schedule.NAME."""
    found = {"batch": recipe.batch}
    for part in ("optimizer", "schedule"):
        config: Config = getattr(recipe, part)
        for name in type(config).model_fields:
            found[f"{part}.{name}"] = getattr(config, name)
    return {place: rule for place, rule in found.items() if isinstance(rule, Rule)}


def mismatches(recipe: Any) -> list[str]:
    """Return, in a phrase each, why rules do not hold in the recipe that they stand in."""
    return [phrase for _, phrase in mismatches_by_place(recipe)]


def mismatches_by_place(recipe: Any) -> list[tuple[str, str]]:
    """Return the place of a rule, as in rules_of, and why it does not hold in its recipe."""
    found, rules = [], rules_of(recipe)
    for place, rule in rules.items():
        said = f"{place} is by {rule.kind}"
        found += [(place, f"{said}, {reason}") for reason in _published_mismatches(rule, recipe, rules)]
        if (reason := rule.mismatch(recipe)) is not None:
            found.append((place, f"{said}, and {reason}"))
        if (reason := _scaled_twice(place, rule, getattr(recipe, "param", "standard"))) is not None:
            found.append((place, f"{said}, {reason}"))
    return found


def _scaled_twice(place: str, rule: Rule, param: str) -> str | None:
    """Return why a parametrization would scale a number of the optimizer a second time; None where it would not."""
    part, _, name = place.partition(".")
    if param == "standard" or part != "optimizer":
        return None
    if name in RATES and rule.published is not None and rule.published.is_whole_rate:
        return f"which is the whole rate at every size, and param {param} multiplies it by its own factors"
    if name in RATES and any(_differs(rule, scale, _grown(scale)) for scale in _SCALES):
        return f"which changes with the size of the model, and param {param} does so too"
    for quantity in ("width", "depth"):
        if any(
            _differs(rule, scale, replace(scale, **{quantity: 4 * getattr(scale, quantity)}))
            for scale in _SCALES
        ):
            return f"which changes with the {quantity}, and param {param} does so too"
    return None


def _grown(scale: Scale) -> Scale:
    """The scale of a model 4 times as wide, at equal tokens and batch."""
    return replace(
        scale,
        n_params=16 * scale.n_params,
        width=4 * scale.width,
        flops=16 * scale.flops,
        body_params=16 * scale.body_params,
        body_flops=16 * scale.body_flops,
    )


def _differs(rule: Rule, scale: Scale, other: Scale) -> bool:
    return rule.at(scale) != rule.at(other)


def _published_mismatches(rule: Rule, recipe: Any, rules: Mapping[str, Rule]) -> Iterable[str]:
    fit, optimizer = rule.published, recipe.optimizer
    if fit is None:
        return
    if fit.optimizers and optimizer.kind not in fit.optimizers:
        names, absent = " or ".join(fit.optimizers), ""
        if not any(name in [*OPTIMIZERS] for name in fit.optimizers):
            absent = " (not included: only `override`, or a package with it, allows the rule)"
        yield f"which was fitted with {names}{absent}, and the optimizer is {optimizer.kind}"
    for place, kind in fit.partners.items():
        has = rules[place].kind if place in rules else "none"
        if has != kind:
            yield f"which was fitted together with {kind} for {place}, and the recipe has {has}"
    if fit.is_whole_rate:
        member = getattr(optimizer, "decides", type(optimizer))
        for name in getattr(member, "rate_exponents", ()):
            if (exponent := getattr(optimizer, name)) != 0:
                words = exponent.kind if isinstance(exponent, Rule) else f"{exponent:g}"
                yield f"which is the whole rate, and {name} {words} of the optimizer multiplies it"


def range_warnings(recipe: Any, scales: Iterable[Scale]) -> list[str]:
    """Return a sentence for each rule and quantity of which a scale lies outside the fitted range.

    Args:
        recipe: Its parts as attributes.
        scales: The runs, batches settled.
    """
    found, scales = [], list(scales)
    for place, rule in rules_of(recipe).items():
        for fitted in rule.fitted_ranges():
            try:
                values = [getattr(scale, fitted.quantity) for scale in scales]
            except ConfigError:  # not known of a scale that was made by hand
                continue
            outside = [v for v in values if not fitted.low <= v <= fitted.high]
            if outside:
                of = (
                    sci(min(outside))
                    if len(set(outside)) == 1
                    else f"{sci(min(outside))} to {sci(max(outside))}"
                )
                found.append(
                    f"{place} by {rule.kind} is extrapolated: fitted on {fitted.ends()}, asked at {of}."
                )
    return found


def provenance(recipe: Any) -> dict[str, str]:
    """Return, by place, the formula and source of each published rule, and what of it was not checked."""
    found = {}
    for place, rule in rules_of(recipe).items():
        if (fit := rule.published) is None:
            continue
        words = f"{fit.formula} ({fit.source}; literature"
        words += f", fitted with {' or '.join(fit.optimizers)})" if fit.optimizers else ")"
        if fit.co_scales:
            words += f"; with it: {fit.co_scales}"
        if unchecked := fit.unchecked():
            words += f"; not checked against the source: {', '.join(unchecked)}"
        found[place] = words + (f". {fit.caution}" if fit.caution else ".")
    return found
