"""Planning: from evidence and a budget to a model, its costs and a frozen forecast.

    1) the budget in FLOPs           as requested, or computed from a loss or from N and D
    2) the laws at that compute      refused where no law has an optimum there
    3) N and D                       the optimum, or what a constraint leaves
    4) the concrete model            if there is a recipe and the corpus is long enough
    5) the forecast of that model, with the loss raised where tokens repeat, and whether it is frozen
    6) memory and layout, time and cost

Nothing is written or printed.

Not here: the request (request.py), the evidence (source.py), reasons against freezing a forecast
(freezing.py), the report (report/plan/).
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import takewhile
from pathlib import Path
from typing import Any

from scalelab.data.vocabulary import UNPREPARED
from scalelab.errors import ConfigError, PlanError
from scalelab.files import RESERVED, is_component
from scalelab.laws.token_cost import TokenCost
from scalelab.laws.uncertainty.model_uncertainty import QUANTITIES
from scalelab.model.base import Architecture
from scalelab.model.sizing import members
from scalelab.plan.choose import variants
from scalelab.plan.choose.allocate import Allocation, allocate
from scalelab.plan.choose.constrained_optimum import ConstrainedOptimum
from scalelab.plan.cost.placement import Placement, place_run
from scalelab.plan.cost.plan_cost import PlanCosts, StatedBudget, costs_of, refuse_unused, stated_budget
from scalelab.plan.cost.resources import Resources
from scalelab.plan.forecast.band import LossBand, band
from scalelab.plan.forecast.frozen import FrozenForecast, predict
from scalelab.plan.forecast.gate import refuse_empty_override
from scalelab.plan.freezing import FreezeRefusal, evidence_refusals, no_such_model, short_corpus
from scalelab.plan.plan import FORECAST_FILE, FinalModel, Plan, RunShape, assumed_shape, final_model
from scalelab.plan.request import WHERE, PlanRequest, flag
from scalelab.plan.source import PlanSource
from scalelab.records.provenance import code_version
from scalelab.study.study import Study
from scalelab.train.rules.family_checks import range_warnings
from scalelab.units import sci, si

OPTIMUM = "optimum"
UNIQUE = "unique tokens"
LONGEST = 100  # characters of the source's name that are kept in the name of a plan
CLOSE = 0.01  # largest difference from the budget, as a share, before the laws are evaluated again


@dataclass(frozen=True, eq=False)
class PlanResult:
    """A plan with everything that led to it, as numbers; report/plan/ turns it into a document."""

    plan: Plan
    budget: StatedBudget
    costs: PlanCosts
    placement: Placement
    source: PlanSource | None = None
    best: Allocation | None = None
    choices: Mapping[str, ConstrainedOptimum] = field(default_factory=dict)
    chosen: str = OPTIMUM
    """Key of `choices` that is to be trained, or OPTIMUM."""
    final: FinalModel | None = None
    shape: RunShape | None = None
    forecast: FrozenForecast | None = None
    """The forecast; it is frozen where `not_frozen` is empty."""
    not_frozen: tuple[FreezeRefusal, ...] = ()
    """Reasons for which the forecast is not frozen. The plan then has no run."""
    reasons: tuple[str, ...] = ()
    """Reasons of the verdict, gravest first."""

    @property
    def is_doubtful(self) -> bool:
        """Whether the numbers are not to be relied on."""
        return any(refusal.is_doubt for refusal in self.not_frozen)

    def freeze(self, forecast: FrozenForecast) -> "PlanResult":
        """Return the plan with its run and a frozen forecast of it."""
        record = {"digest": forecast.digest, "file": FORECAST_FILE}
        refusals = {str(refusal) for refusal in self.not_frozen}
        notes = tuple(note for note in self.plan.notes if note not in refusals)
        has_run = self.final is not None and self.source.data_digest is not None
        plan = replace(self.plan, forecast=record, spec=self.final.spec if has_run else None, notes=notes)
        return replace(self, plan=plan, forecast=forecast, not_frozen=())


def make_plan(request: PlanRequest, source: PlanSource) -> PlanResult:
    """Return the plan for a request on some evidence. Nothing is written.

    Raises:
        PlanError: A constraint cannot be met, the run does not fit, or no law has an optimum.
    """
    refuse_empty_override(request.override)
    source = source.with_tokens_available(request.tokens_available)
    resources = Resources.of(request).on(source)
    refuse_unused(request, resources)
    budget, study = _budget(request, source, resources)
    best = _allocated(study)
    choices, chosen = _choices(request, study, best, source, budget.flops, resources)
    wanted = choices.get(chosen)
    point = wanted or best
    n_params, n_tokens = point.n_params, point.n_tokens
    final, obstacles = _built(request, source, chosen, n_params, n_tokens, budget.flops)
    if final is not None and abs(final.flops / budget.flops - 1) > CLOSE:
        # D is given and sizes are discrete: evaluate the laws at the actual compute of the run.
        study = source.study(final.flops, request)
        best = _allocated(study)
    actual = (
        {"n_params": n_params, "n_tokens": n_tokens, "flops": budget.flops}
        if final is None
        else {"n_params": final.n_params, "n_tokens": final.n_tokens, "flops": final.flops}
    )
    forecast = predict(
        study,
        name=_name(request, source, budget.flops),
        **{key: float(value) for key, value in actual.items()},
        code=code_version(),
        data_digest=source.data_digest,
        curves=source.curves,
        train_curves=source.train_curves,
        override=request.override,
        run=final.spec.id if final is not None and source.data_digest is not None else None,
    )
    if chosen == UNIQUE and wanted.figures["epochs"] > 1:
        forecast = _repeating(forecast, study, wanted, source)
    if final is not None and source.recipe is not None:
        beyond = range_warnings(
            source.recipe, [source.recipe.scale(final.spec.model, final.requested_tokens)]
        )
        forecast = replace(forecast, warnings=(*forecast.warnings, *beyond))
    obstacles += evidence_refusals(study, source, forecast, wanted if chosen == UNIQUE else None)
    if request.override is not None:
        if not any(each.overridable for each in obstacles):
            forecast = replace(forecast, override=None)  # there is nothing to override
        obstacles = [each for each in obstacles if not each.overridable]
    shape = final.shape if final else assumed_shape(n_params, study.param_count)
    placement = place_run(request.layout, resources, shape, final)
    flop_count = study.flop_count if final is None else final.flop_count
    costs = costs_of(
        request.trials,
        resources,
        source,
        actual["flops"],
        placement.layout.devices,
        n_steps=placement.n_steps(actual["n_tokens"]),
        layout_mfu=placement.mfu(resources, study.param_count, flop_count),
    )
    plan = Plan(
        name=forecast.name,
        target=budget.to_json(),
        n_params=n_params,
        n_tokens=n_tokens,
        param_count=study.param_count,
        flop_count=study.flop_count,
        cost=costs.to_json(),
        layout=placement.layout,
        loss=best.loss if wanted is None else forecast.loss,
        intervals=_intervals(best, forecast, wanted),
        statistical=dict(best.statistical) if wanted is None else {"loss": forecast.statistical},
        level=best.level,
        regret={f"{m.k:g}": m.wasted for m in best.regret},
        near_optimal=best.near_optimal,
        reach=forecast.reach,
        memory=placement.memory_json(),
        verdict=best.verdict,
        model=final and final.to_json(),
        recipe_yaml=source.recipe_yaml,
        sweep=source.name,
        data_digest=source.data_digest,
        accelerator=resources.accelerator and resources.accelerator.name,
        laws=tuple(row.to_json() for row in best.laws),
        choices={name: choice.to_json() for name, choice in choices.items()},
        layouts=placement.layouts_json(),
        old_pipeline=costs.compared and costs.compared.to_json(),
        notes=(*_notes(source, choices, final), *costs.notes, *map(str, obstacles)),
        status=_status(best.kind, costs),
    )
    planned = PlanResult(
        plan,
        budget,
        costs,
        placement,
        source,
        best,
        choices,
        chosen,
        final,
        placement.shape,
        forecast,
        tuple(obstacles),
        tuple(study.verdict.reasons),
    )
    return planned if obstacles else planned.freeze(forecast)


def price(request: PlanRequest) -> PlanResult:
    """Return the cost and memory of given N and D, without evidence and so without a forecast.

    Raises:
        PlanError: A device is given without its MFU, or nothing fits.
    """
    _refuse_evidence_settings(request)
    resources = Resources.of(request)
    refuse_unused(request, resources)
    n_params, n_tokens = request.params, request.tokens
    flops = 6.0 * n_params * n_tokens
    budget = StatedBudget(
        flops, f"6 x {si(n_params)} parameters x {si(n_tokens)} tokens = {sci(flops)} FLOPs"
    )
    count = request.param_count or "total"
    shape = assumed_shape(n_params, count)
    placement = place_run(request.layout, resources, shape, None)
    costs = costs_of(
        request.trials,
        resources,
        None,
        flops,
        placement.layout.devices,
        n_steps=placement.n_steps(n_tokens),
        layout_mfu=placement.mfu(resources, count, "6ND"),
    )
    plan = Plan(
        name=f"{si(n_params)}-{si(n_tokens)}",
        target=budget.to_json(),
        n_params=n_params,
        n_tokens=n_tokens,
        param_count=count,
        flop_count="6ND",
        cost=costs.to_json(),
        layout=placement.layout,
        memory=placement.memory_json(),
        accelerator=resources.accelerator and resources.accelerator.name,
        layouts=placement.layouts_json(),
        notes=costs.notes,
        status=_status("given", costs),
    )
    return PlanResult(plan, budget, costs, placement, shape=placement.shape)


def _allocated(study: Study) -> Allocation:
    """The optimal allocation of the target compute.

    Raises:
        PlanError: The primary law has no finite optimum there.
    """
    best = allocate(study)
    values = {key: getattr(best, key) for key in QUANTITIES}
    if not all(math.isfinite(value) and value > 0 for value in values.values()):
        raise PlanError(
            f"the {best.law} fit, which this plan would use, has no finite optimum at {sci(best.flops)} FLOPs",
            where="; ".join(best.broken) or f"its optimum: {values}",
            fix="add runs that constrain it, or choose another law: --law NAME",
        )
    return best


def _budget(request: PlanRequest, source: PlanSource, resources: Resources) -> tuple[StatedBudget, Study]:
    """The budget in FLOPs, and the laws at that compute."""
    if request.loss is not None:
        asked = variants.for_loss(source.study(None, request), loss=request.loss)
        ends = asked.intervals.get("flops")
        within = "" if ends is None else f" (80% by noise: {sci(ends[0])} to {sci(ends[1])})"
        floor = asked.figures["floor"]
        least = (
            f"no floor of {asked.law} shows in these runs" if floor is None else f"its floor is {floor:.4g}"
        )
        words = (
            f"a loss of {request.loss:g} nats per token takes {sci(asked.flops)} FLOPs{within} by {asked.law}; "
            f"{least}"
        )
        budget = StatedBudget(asked.flops, words, {"loss": request.loss}, asked)
    elif request.params is not None and request.tokens is not None:
        flops = _flops_of(request, source)
        words = f"{si(request.params)} parameters on {si(request.tokens)} tokens take {sci(flops)} FLOPs"
        budget = StatedBudget(flops, words)
    else:
        budget = stated_budget(request, resources)
    return budget, source.study(budget.flops, request)


def _flops_of(request: PlanRequest, source: PlanSource) -> float:
    """Training FLOPs of --params on --tokens: of the model as built, or at the runs' FLOPs per token."""
    if source.recipe is not None:
        model = source.recipe.model_at(request.params, source.vocab_size)
        per_token = model.size(source.recipe.seq_len).flops_per_token
    else:
        per_token = float(TokenCost.of(source.observations)(request.params))
    return per_token * request.tokens


def _choices(
    request: PlanRequest,
    study: Study,
    best: Allocation,
    source: PlanSource,
    flops: float,
    resources: Resources,
) -> tuple[dict[str, ConstrainedOptimum], str]:
    """The requested variants, and the name of the one to be trained.

    A limit that the optimum meets does not change the optimum.
    """
    choices, chosen = {}, OPTIMUM
    if request.params is not None and request.tokens is not None:
        chosen = "params and tokens"
        choices[chosen] = variants.evaluate(study, n_params=request.params, n_tokens=request.tokens)
    elif request.params is not None:
        chosen = "params"
        choices[chosen] = variants.fixed_params(study, n_params=request.params, flops=flops)
    elif request.tokens is not None:
        chosen = "tokens"
        choices[chosen] = variants.fixed_tokens(study, n_tokens=request.tokens, flops=flops)
    elif request.max_params is not None:
        limit = variants.size_limit(study, largest=request.max_params, flops=flops)
        choices["max params"] = limit
        chosen = OPTIMUM if best.n_params <= request.max_params else "max params"
    elif request.unique_tokens is not None:
        choices[UNIQUE] = variants.limited_data(
            study,
            unique_tokens=request.unique_tokens,
            flops=flops,
            dollars_per_flop=resources.dollars_per_flop,
            dollars_per_token=request.token_price,
        )
        chosen = OPTIMUM if best.n_tokens <= request.unique_tokens else UNIQUE
    if request.demand is not None:
        choices["demand, FLOPs"] = variants.inference_optimal(study, demand=request.demand, flops=flops)
        if (prices := resources.prices(request.mfu_inference)) is not None:
            choices["demand, dollars"] = variants.inference_optimal(
                study, demand=request.demand, flops=flops, prices=prices
            )
    return choices, chosen


def _built(
    request: PlanRequest, source: PlanSource, chosen: str, n_params: float, n_tokens: float, flops: float
) -> tuple[FinalModel | None, list[FreezeRefusal]]:
    """The model of the recipe at a point, None where there is none, and why its run cannot be made.

    Args:
        request: Limits and the seed.
        source: The recipe and its corpus.
        chosen: Which variant the point is.
        n_params: Planned parameters, in the recipe's count.
        n_tokens: Planned training tokens.
        flops: The budget.
    """
    recipe = source.recipe
    if recipe is None:
        return None, []
    size = n_params if request.max_params is None else _at_most(source, n_params, request.max_params)
    try:
        final = final_model(
            recipe,
            n_params=size,
            vocab_size=source.vocab_size,
            data_digest=source.data_digest or UNPREPARED,
            seed=request.seed,
            **({"flops": flops} if request.tokens is None else {"n_tokens": n_tokens}),
        )
    except ConfigError as error:
        if chosen not in (OPTIMUM, UNIQUE):  # the size or the tokens were given
            raise
        return None, [no_such_model(error)]
    spec, available = final.spec, source.unique_tokens
    if chosen == UNIQUE and available is not None:
        # The request allows repeats: the run may make as many passes as it needs.
        needed = math.ceil(100 * final.n_tokens / available) / 100
        data = spec.data.model_copy(update={"epochs": max(spec.data.epochs, needed)})
        spec = spec.model_copy(update={"data": data})
    # Planned tokens are those of the choice; the model as built spends the same budget.
    planned = {"n_params": n_params, "n_tokens": n_tokens, "flops": flops}
    final = replace(final, spec=spec, planned=planned)
    short = short_corpus(source, final)
    return final, [] if short is None else [short]


def _at_most(source: PlanSource, n_params: float, largest: float) -> float:
    """The size to request from the family so that the model it builds is within a limit.

    Raises:
        PlanError: The smallest member of the family is larger.
    """
    recipe = source.recipe

    def count(model: Architecture) -> int:
        return model.size(recipe.seq_len).count(recipe.param_count)

    if count(recipe.model_at(n_params, source.vocab_size)) <= largest:
        return n_params
    found = members(recipe.model, source.vocab_size)
    below = list(takewhile(lambda n: n <= largest, map(count, found)))
    if not below:
        raise PlanError(
            f"the family has no model of at most {si(largest)} parameters ({recipe.param_count})",
            where=f"recipe.model of {source.where}",
            fix="raise --max-params",
        )
    return float(below[-1])


def _repeating(
    forecast: FrozenForecast, study: Study, choice: ConstrainedOptimum, source: PlanSource
) -> FrozenForecast:
    """The forecast of a run that repeats its text, with the loss raised by the cost of repeats."""
    new = float(study.fits[choice.law].loss_at(choice.n_params, choice.n_tokens))
    ratio = choice.loss / new
    loss = forecast.loss * ratio
    quoted, statistical = (
        None if ends is None else [end * ratio for end in ends]
        for ends in (forecast.quoted, forecast.statistical)
    )
    final = {key: forecast.actual[key] for key in ("n_params", "n_tokens")}
    on_the_way = band(source.curves, **final, loss=loss, interval=quoted)
    training = band(source.train_curves, **final, loss=loss, interval=quoted)
    epochs = choice.figures["epochs"]
    warning = (
        f"{epochs:.2f} epochs: the loss is raised by {ratio - 1:.2%} for what repeated tokens "
        f"lose, by {choice.law}"
    )
    return replace(
        forecast,
        loss=loss,
        quoted=quoted,
        statistical=statistical,
        warnings=(*forecast.warnings, warning),
        band=on_the_way.to_json() if isinstance(on_the_way, LossBand) else None,
        band_absent=on_the_way if isinstance(on_the_way, str) else None,
        train_band=training.to_json() if isinstance(training, LossBand) else None,
    )


def _intervals(
    best: Allocation, forecast: FrozenForecast, wanted: ConstrainedOptimum | None
) -> dict[str, Any]:
    """Quoted intervals of the model to be trained; a given quantity has none."""
    if wanted is None:
        return {key: best.intervals[key] for key in QUANTITIES}
    return {**wanted.intervals, "loss": forecast.quoted}


def _notes(
    source: PlanSource, choices: Mapping[str, ConstrainedOptimum], final: FinalModel | None
) -> list[str]:
    """Remarks for the reader of a plan."""
    notes = [f"{name}: {w}" for name, choice in choices.items() for w in choice.warnings]
    if source.recipe is None:
        notes.append(
            "there is no recipe, so there is no concrete model to launch; give one with --recipe SWEEP.yaml"
        )
    if source.recipe is not None and source.data_digest is None:
        notes.append(
            "the corpus of the recipe is not prepared, so there is no run to launch; its size of "
            f"{si(source.unique_tokens)} training tokens is stated (--tokens-available)"
        )
    elif source.recipe is not None and source.unique_tokens is None:
        notes.append(
            f"corpus {source.data_digest} is not prepared on this machine, so its length was not checked"
        )
    unique, available = choices.get(UNIQUE), source.unique_tokens
    if unique is not None and available is not None:
        asked = unique.figures["unique_tokens"]
        if abs(asked / available - 1) > 0.05:
            notes.append(
                f"the plan assumes {si(asked)} unique tokens and the corpus has {si(available)}: the run "
                "reads the corpus"
            )
    if final is not None and abs(final.flops / final.planned["flops"] - 1) > CLOSE:
        notes.append(
            f"D is given and sizes are discrete, so the run differs from the budget by "
            f"{final.flops / final.planned['flops'] - 1:+.1%}; all numbers are for the actual run"
        )
    again = available is not None and final is not None and final.n_tokens > available
    if again and UNIQUE not in choices and short_corpus(source, final) is None:
        notes.append(
            f"the run reads its {si(available)} tokens {final.n_tokens / available:.3g} times, which the "
            "recipe allows; the laws treat every token as new; use --unique-tokens to plan with repeats"
        )
    if final is not None and source.recipe is not None:
        cap = source.recipe.batch.max_tokens
        if (
            final.spec.batch_tokens >= cap
            and source.recipe.batch.coefficient * (final.n_tokens**source.recipe.batch.exponent) > 1.42 * cap
        ):
            notes.append(
                f"the batch is at the recipe's maximum of {cap:,} tokens (batch.max_tokens); its rule "
                "gives a larger one"
            )
    return notes


def _status(kind: str, costs: PlanCosts) -> dict[str, str]:
    """Kind of the numbers in each part of the plan."""
    return {
        **dict.fromkeys((*QUANTITIES, "regret", "intervals"), kind),
        "cost": costs.status,
        "memory": "computed",
        "layouts": "estimated",
        "model": "planned",
        "old_pipeline": "assumed",
    }


def _name(request: PlanRequest, source: PlanSource, flops: float) -> str:
    """Name of the plan, for plans/NAME and later runs/NAME."""
    if request.name is not None:
        return request.name
    name = f"{source.name[:LONGEST]}-{sci(flops)}"
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-._")


def _refuse_evidence_settings(request: PlanRequest) -> None:
    """Refuse settings that require evidence, if there is none."""
    for name in ("demand", "law", "override", "tokens_available"):
        if getattr(request, name) not in (None, ()):
            raise PlanError(
                f"{flag(name)} requires evidence, and no sweep or table is given",
                where=WHERE,
                fix=f"name a sweep or a table: scalelab plan NAME ..., or leave {flag(name)} out",
            )
    if not request.fixes_model:
        raise PlanError(
            "a plan without evidence requires the model",
            where=WHERE,
            fix="give --params and --tokens, or name a sweep or a table",
        )


def plan_name(out: Path) -> str:
    """Return the name of a plan that is written to a directory: the name of the directory.

    Raises:
        PlanError: It is not a plain name, or is reserved in the runs directory.
    """
    name = out.resolve().name
    if not is_component(name) or name in RESERVED:
        raise PlanError(
            f"{name!r} cannot be the name of a plan, which is launched as runs/NAME",
            where=f"--out {out}",
            fix="use a directory whose name has only letters, digits, dots, dashes and underscores, "
            f"and is none of {', '.join(RESERVED)}",
        )
    return name
