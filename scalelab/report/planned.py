"""A plan from evidence and a budget: the laws, the choice, the model, what it takes, the forecast.

    1) the budget in FLOPs           as said, or what a loss or given N and D take
    2) the laws at that compute      refused inside the evidence, and where the speaker is broken
    3) N and D                       the optimum, or what a constraint leaves
    4) the concrete model            where there is a recipe, and a corpus long enough
    5) the forecast of that model, frozen; where tokens repeat, worse by what repeats lose
    6) memory and layout, hours and money

Nothing is written here.

Not here: flags (plan_command.py), words (plan_text.py).
"""

import argparse
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import takewhile
from pathlib import Path
from typing import Any

from scalelab.errors import PlanError
from scalelab.files import is_component
from scalelab.laws.structural import QUANTITIES
from scalelab.laws.study import Study
from scalelab.laws.tokencost import TokenCost
from scalelab.model.base import Architecture
from scalelab.plan import constrained
from scalelab.plan.allocate import Allocation, allocate
from scalelab.plan.band import Band, band
from scalelab.plan.choice import Choice
from scalelab.plan.final import (
    FORECAST_FILE,
    FinalModel,
    Plan,
    Shape,
    assumed_shape,
    final_model,
)
from scalelab.plan.frozen import FrozenForecast, freeze
from scalelab.plan.ledger import FORECASTS
from scalelab.report.answer import code
from scalelab.report.plan_costs import Costs, Means, Said, costs_of, said_budget
from scalelab.report.plan_fits import Fits, fits
from scalelab.report.plan_source import Source
from scalelab.units import sci, si

OPTIMUM = "optimum"
UNIQUE = "unique tokens"
LONGEST = 100  # characters of a source's name that a plan's name takes over
CLOSE = 0.01  # share of the budget that a model may miss before the laws are asked again


@dataclass(frozen=True, eq=False)
class Planned:
    """Everything that a plan says, before it is put into words."""

    plan: Plan
    said: Said
    """The budget."""
    costs: Costs
    fits: Fits
    source: Source | None = None
    best: Allocation | None = None
    choices: Mapping[str, Choice] = field(default_factory=dict)
    chosen: str = OPTIMUM
    """Which of them is to be trained."""
    final: FinalModel | None = None
    shape: Shape | None = None
    frozen: FrozenForecast | None = None
    reasons: tuple[str, ...] = ()
    """Of the verdict."""


def make_plan(args: argparse.Namespace, source: Source, means: Means) -> Planned:
    """The plan of a budget on some evidence; nothing is written.

    Raises:
        PlanError: A budget, a constraint, a layout or a fit that no plan can be made of.
    """
    said, found = _budget(args, source, means)
    best = _allocated(found)
    choices, chosen = _choices(args, found, best, source, said.flops, means)
    wanted = choices.get(chosen)
    point = wanted or best
    n_params, n_tokens = point.n_params, point.n_tokens
    final = _built(args, source, chosen, n_params, n_tokens, said.flops)
    if final is not None and abs(final.flops / said.flops - 1) > CLOSE:
        # D is given and sizes are discrete: the laws are asked at what the run really costs.
        refuse_small(source, final.flops)
        found = source.study(final.flops, args)
        best = _allocated(found)
    actual = (
        {"n_params": n_params, "n_tokens": n_tokens, "flops": said.flops}
        if final is None
        else {"n_params": final.n_params, "n_tokens": final.n_tokens, "flops": final.flops}
    )
    frozen = freeze(
        found,
        name=_name(args, source, said.flops),
        **{key: float(value) for key, value in actual.items()},
        code=code(),
        data_digest=source.data_digest,
        curves=source.curves,
        train_curves=source.train_curves,
        override=args.override,
        run=final and final.spec.id,
    )
    if final is not None:
        _refuse_short(source, final)
    if chosen == UNIQUE and wanted.figures["epochs"] > 1:
        frozen = _repeating(frozen, found, wanted, source)
    shape = final.shape if final else assumed_shape(n_params, found.param_count)
    fitted = fits(args.layout, means, shape, final)
    costs = costs_of(args.trials, means, source, actual["flops"], fitted.layout.devices)
    plan = Plan(
        name=frozen.name,
        target=said.to_json(),
        n_params=n_params,
        n_tokens=n_tokens,
        param_count=found.param_count,
        flop_count=found.flop_count,
        cost=costs.to_json(),
        layout=fitted.layout,
        loss=best.loss if wanted is None else frozen.loss,
        intervals=_intervals(best, frozen, wanted),
        statistical=dict(best.statistical) if wanted is None else {"loss": frozen.statistical},
        level=best.level,
        regret={f"{m.k:g}": m.wasted for m in best.regret},
        near_optimal=best.near_optimal,
        reach=frozen.reach,
        memory=fitted.memory_json(),
        verdict=best.verdict,
        spec=final and final.spec,
        model=final and final.to_json(),
        recipe_yaml=source.recipe_yaml,
        sweep=source.name,
        data_digest=source.data_digest,
        accelerator=means.accelerator and means.accelerator.name,
        forecast={"digest": frozen.digest, "file": FORECAST_FILE},
        laws=tuple(row.to_json() for row in best.laws),
        choices={name: choice.to_json() for name, choice in choices.items()},
        layouts=fitted.layouts_json(),
        old_pipeline=costs.compared and costs.compared.to_json(),
        notes=(*_notes(source, choices, final), *costs.notes),
        status=_status(best.kind, costs),
    )
    return Planned(
        plan, said, costs, fitted, source, best, choices, chosen, final, shape, frozen,
        tuple(found.verdict.reasons),
    )  # fmt: skip


def price(args: argparse.Namespace, means: Means) -> Planned:
    """N and D are given and there is no evidence: what they cost, and whether they fit.

    Raises:
        PlanError: A device is named and no MFU, or nothing fits.
    """
    n_params, n_tokens = args.params, args.tokens
    flops = 6.0 * n_params * n_tokens
    said = Said(
        flops, f"6 x {si(n_params)} parameters x {si(n_tokens)} tokens = {sci(flops)} FLOPs"
    )
    count = args.param_count or "total"
    shape = assumed_shape(n_params, count)
    fitted = fits(args.layout, means, shape, None)
    costs = costs_of(args.trials, means, None, flops, fitted.layout.devices)
    plan = Plan(
        name=f"{si(n_params)}-{si(n_tokens)}",
        target=said.to_json(),
        n_params=n_params,
        n_tokens=n_tokens,
        param_count=count,
        flop_count="6ND",
        cost=costs.to_json(),
        layout=fitted.layout,
        memory=fitted.memory_json(),
        accelerator=means.accelerator and means.accelerator.name,
        layouts=fitted.layouts_json(),
        notes=costs.notes,
        status=_status("given", costs),
    )
    return Planned(plan, said, costs, fitted, shape=shape)


def refuse_small(source: Source, flops: float) -> None:
    """Refuse a budget inside the evidence: there is nothing to plan from small to large.

    Raises:
        PlanError: Naming the largest budget in evidence.
    """
    largest = source.observations.largest_budget
    if flops <= largest:
        raise PlanError(
            f"a budget of {sci(flops)} FLOPs is no more than the largest in evidence, "
            f"{sci(largest)}: there is nothing to extrapolate",
            where=source.where,
            fix=f"name more than {sci(largest)} (--budget), or read what was measured: "
            f"scalelab fit {source.name}",
        )


def _allocated(found: Study) -> Allocation:
    """The best use of the target, unless the law that speaks is broken.

    Raises:
        PlanError: With what is wrong with its fit.
    """
    best = allocate(found)
    if best.broken:
        raise PlanError(
            f"{best.law}, which would speak for the plan, is not a fit to rely on",
            where="; ".join(best.broken),
            fix="add runs that pin it down, or let another law speak: --law NAME",
        )
    return best


def _budget(args: argparse.Namespace, source: Source, means: Means) -> tuple[Said, Study]:
    """The budget in FLOPs, and the laws at that compute."""
    if args.loss is not None:
        asked = constrained.for_loss(source.study(None, args), loss=args.loss)
        ends = asked.intervals.get("flops")
        within = "" if ends is None else f" (80% by noise: {sci(ends[0])} to {sci(ends[1])})"
        words = f"a loss of {args.loss:g} nats per token takes {sci(asked.flops)} FLOPs{within}"
        said = Said(asked.flops, words, {"loss": args.loss}, asked)
    elif args.params is not None and args.tokens is not None:
        flops = _flops_of(args, source)
        words = f"{si(args.params)} parameters on {si(args.tokens)} tokens take {sci(flops)} FLOPs"
        said = Said(flops, words)
    else:
        said = said_budget(args, means)
    refuse_small(source, said.flops)
    return said, source.study(said.flops, args)


def _flops_of(args: argparse.Namespace, source: Source) -> float:
    """What --params on --tokens cost: of the model as built, or as the runs' own tokens cost."""
    if source.recipe is not None:
        model = source.recipe.model_at(args.params, source.vocab_size)
        per_token = model.size(source.recipe.seq_len).flops_per_token
    else:
        per_token = float(TokenCost.of(source.observations)(args.params))
    return per_token * args.tokens


def _choices(
    args: argparse.Namespace,
    found: Study,
    best: Allocation,
    source: Source,
    flops: float,
    means: Means,
) -> tuple[dict[str, Choice], str]:
    """The variants that were asked for, and the name of the one to be trained.

    A limit that the optimum keeps leaves the optimum as it is.
    """
    choices, chosen = {}, OPTIMUM
    if args.params is not None and args.tokens is not None:
        chosen = "params and tokens"
        choices[chosen] = constrained.at(found, n_params=args.params, n_tokens=args.tokens)
    elif args.params is not None:
        chosen = "params"
        choices[chosen] = constrained.fixed_params(found, n_params=args.params, flops=flops)
    elif args.tokens is not None:
        chosen = "tokens"
        choices[chosen] = constrained.fixed_tokens(found, n_tokens=args.tokens, flops=flops)
    elif args.max_params is not None:
        limit = constrained.at_most(found, largest=args.max_params, flops=flops)
        choices["max params"] = limit
        chosen = OPTIMUM if best.n_params <= args.max_params else "max params"
    elif args.unique_tokens is not None:
        choices[UNIQUE] = constrained.limited_data(
            found,
            unique_tokens=args.unique_tokens,
            flops=flops,
            dollars_per_flop=means.dollars_per_flop,
            dollars_per_token=args.token_price,
        )
        chosen = OPTIMUM if best.n_tokens <= args.unique_tokens else UNIQUE
    if args.demand is not None:
        choices["demand, FLOPs"] = constrained.served(found, demand=args.demand, flops=flops)
        if (prices := means.prices(args.mfu_inference)) is not None:
            choices["demand, dollars"] = constrained.served(
                found, demand=args.demand, flops=flops, prices=prices
            )
    return choices, chosen


def _built(
    args: argparse.Namespace,
    source: Source,
    chosen: str,
    n_params: float,
    n_tokens: float,
    flops: float,
) -> FinalModel | None:
    """The recipe's own model at that point; None without a recipe."""
    recipe = source.recipe
    if recipe is None:
        return None
    size = n_params if args.max_params is None else _at_most(source, n_params, args.max_params)
    final = final_model(
        recipe,
        n_params=size,
        vocab_size=source.vocab_size,
        data_digest=source.data_digest,
        seed=args.seed,
        **({"flops": flops} if args.tokens is None else {"n_tokens": n_tokens}),
    )
    spec, there = final.spec, source.unique_tokens
    if chosen == UNIQUE and there is not None:
        # Repeats were asked for: the run may make as many passes as it needs.
        needed = math.ceil(100 * final.n_tokens / there) / 100
        data = spec.data.model_copy(update={"epochs": max(spec.data.epochs, needed)})
        spec = spec.model_copy(update={"data": data})
    # Planned tokens are those of the choice; the model as built makes good what its size missed.
    planned = {"n_params": n_params, "n_tokens": n_tokens, "flops": flops}
    return replace(final, spec=spec, planned=planned)


def _at_most(source: Source, n_params: float, largest: float) -> float:
    """The size to ask the family for, so that what it builds is no larger than may be.

    Raises:
        PlanError: Its smallest member is larger.
    """
    recipe = source.recipe

    def count(model: Architecture) -> int:
        return model.size(recipe.seq_len).count(recipe.param_count)

    if count(recipe.model_at(n_params, source.vocab_size)) <= largest:
        return n_params
    members = recipe.model.members(source.vocab_size)
    below = list(takewhile(lambda n: n <= largest, map(count, members)))
    if not below:
        raise PlanError(
            f"the family has no model of at most {si(largest)} parameters ({recipe.param_count})",
            where=f"recipe.model of {source.where}",
            fix="allow more (--max-params)",
        )
    return float(below[-1])


def _refuse_short(source: Source, final: FinalModel) -> None:
    """Refuse a run that reads its corpus more often than its recipe allows."""
    there, allowed = source.unique_tokens, final.spec.data.epochs
    if there is None or final.n_tokens <= there * allowed:
        return
    raise PlanError(
        f"the run needs {si(final.n_tokens)} training tokens, the corpus has {si(there)}: "
        f"{final.n_tokens / there:.3g} epochs, where the recipe allows {allowed:g}",
        where=f"corpus {source.data_digest} of {source.where}",
        fix=f"plan with repeats: --unique-tokens {there}; or give more text, or a smaller budget",
    )


def _repeating(
    frozen: FrozenForecast, found: Study, choice: Choice, source: Source
) -> FrozenForecast:
    """The forecast of a run that reads its text more than once: worse by what repeats lose."""
    new = float(found.fits[choice.law].loss_at(choice.n_params, choice.n_tokens))
    ratio = choice.loss / new
    loss = frozen.loss * ratio
    quoted, statistical = (
        None if ends is None else [end * ratio for end in ends]
        for ends in (frozen.quoted, frozen.statistical)
    )
    final = {key: frozen.actual[key] for key in ("n_params", "n_tokens")}
    on_the_way = band(source.curves, **final, loss=loss, interval=quoted)
    training = band(source.train_curves, **final, loss=loss, interval=quoted)
    epochs = choice.figures["epochs"]
    said = (
        f"{epochs:.2f} epochs: the loss is raised by {ratio - 1:.2%} for what repeated tokens "
        f"lose, by {choice.law}"
    )
    return replace(
        frozen,
        loss=loss,
        quoted=quoted,
        statistical=statistical,
        warnings=(*frozen.warnings, said),
        band=on_the_way.to_json() if isinstance(on_the_way, Band) else None,
        band_absent=on_the_way if isinstance(on_the_way, str) else None,
        train_band=training.to_json() if isinstance(training, Band) else None,
    )


def _intervals(best: Allocation, frozen: FrozenForecast, wanted: Choice | None) -> dict[str, Any]:
    """Quoted for what is to be trained; a quantity that is given has none."""
    if wanted is None:
        return {key: best.intervals[key] for key in QUANTITIES}
    return {**wanted.intervals, "loss": frozen.quoted}


def _notes(source: Source, choices: Mapping[str, Choice], final: FinalModel | None) -> list[str]:
    """What a reader must know that no other line says."""
    notes = [f"{name}: {w}" for name, choice in choices.items() for w in choice.warnings]
    if source.recipe is None:
        notes.append(
            "no recipe, so no concrete model and nothing to launch: --recipe SWEEP.yaml names one"
        )
    if source.recipe is not None and source.corpus is None:
        notes.append(
            f"corpus {source.data_digest} is not prepared on this machine, so nobody has checked "
            "that it is long enough"
        )
    unique, there = choices.get(UNIQUE), source.unique_tokens
    if unique is not None and there is not None:
        asked = unique.figures["unique_tokens"]
        if abs(asked / there - 1) > 0.05:
            notes.append(
                f"the plan is for {si(asked)} unique tokens, the corpus has {si(there)}: the run "
                "reads what the corpus has"
            )
    if final is not None and abs(final.flops / final.planned["flops"] - 1) > CLOSE:
        notes.append(
            f"with D given, sizes of whole heads miss the budget by "
            f"{final.flops / final.planned['flops'] - 1:+.1%}; all is for what the run really costs"
        )
    if final is not None and there is not None and UNIQUE not in choices and final.n_tokens > there:
        notes.append(
            f"the run reads its {si(there)} tokens {final.n_tokens / there:.3g} times, as it "
            "may; the laws take every token for new: --unique-tokens plans with repeats"
        )
    if final is not None and source.recipe is not None:
        cap = source.recipe.batch.max_tokens
        if (
            final.spec.batch_tokens >= cap
            and source.recipe.batch.coefficient * (final.n_tokens**source.recipe.batch.exponent)
            > 1.42 * cap
        ):
            notes.append(
                f"the batch stands at the recipe's cap of {cap:,} tokens (batch.max_tokens); its "
                "rule would ask for more"
            )
    return notes


def _status(kind: str, costs: Costs) -> dict[str, str]:
    """What kind of number each part of the plan is."""
    return {
        **dict.fromkeys((*QUANTITIES, "regret", "intervals"), kind),
        "cost": costs.status,
        "memory": "computed",
        "layouts": "estimated",
        "model": "planned",
        "old_pipeline": "assumed",
    }


def _name(args: argparse.Namespace, source: Source, flops: float) -> str:
    """plans/<this>, and later runs/<this>.

    Raises:
        PlanError: The directory of --out has no plain name.
    """
    if args.out is not None:
        return plan_name(args.out)
    name = f"{source.name[:LONGEST]}-{sci(flops)}"
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-._")


def plan_name(out: Path) -> str:
    """The name of a plan that is written into a directory: the directory's own.

    Raises:
        PlanError: It is not a plain name, or stands for something else below the runs.
    """
    name = out.resolve().name
    if not is_component(name) or name == FORECASTS:
        raise PlanError(
            f"{name!r} cannot be the name of a plan, which is launched as runs/NAME",
            where=f"--out {out}",
            fix="end the directory's path in a name of letters, digits, dots, dashes and "
            f"underscores, other than {FORECASTS!r}",
        )
    return name
