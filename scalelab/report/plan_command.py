"""`scalelab plan`: what to train with a budget, what it takes, how sure that is.

    evidence (plan_source.py) + budget -> laws at that compute -> N and D -> the concrete model
    -> memory, layout, time, money (plan_costs.py) -> a frozen forecast -> a page

    OUT/
      plan.json       schema 2, sealed, for programs and for `scalelab launch`
      forecast.json   frozen: never written over
      README.md       the page
      regret.png .svg

Nothing is trained. With --params and --tokens and no source there is nothing to fit either: what
they cost and whether they fit is told, and that is all.

Not here: the words (plan_text.py), the page (plan_page.py).
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from scalelab.errors import ConfigError, PlanError
from scalelab.files import make_dir
from scalelab.plan.budget import needed
from scalelab.plan.final import FORECAST_FILE, PLAN_FILE
from scalelab.plan.frozen import WITHOUT_RUN, FrozenForecast
from scalelab.plan.ledger import enter
from scalelab.report.plan_costs import Means
from scalelab.report.plan_page import write_page
from scalelab.report.plan_source import from_sweep, from_table
from scalelab.report.plan_text import text
from scalelab.report.planned import Planned, make_plan, plan_name, price
from scalelab.track.manifest import list_sweeps

PLANS = Path("plans")
CHOOSERS = ("params", "tokens", "max_params", "unique_tokens")


def run_plan(args: argparse.Namespace, root: Path, *, is_table: bool) -> int:
    """Plan, print, write. Returns the exit code."""
    refuse_contradictions(args)
    means = Means.of(args)
    if args.source is None and args.params is not None and args.tokens is not None:
        return _priced(args, means)
    if is_table:
        source = from_table(
            Path(args.source), args.columns, args.param_count, args.recipe, args.law or ()
        )
    else:
        _refuse_second_recipe(args)
        source = from_sweep(root, args.source or _only_sweep(root), args.param_count)
    means = means.on(source)
    _refuse_unused(args, means)
    if args.out is not None:  # told before the laws are fitted
        refuse_taken(root, args.out)
    planned = make_plan(args, source, means)
    out = args.out or PLANS / planned.plan.name
    refuse_taken(root, out)
    planned = write_plan(planned, out)
    if planned.plan.spec is not None:
        enter(root, planned.frozen)
    print(text(planned))
    if args.json is not None:
        planned.plan.write_file(args.json)
    print(f"\nplan: {out / 'README.md'}")
    if planned.plan.spec is not None:
        print(f"next: scalelab launch {out}")
    for warning in planned.frozen.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    return 0


def write_plan(planned: Planned, out: Path) -> Planned:
    """Write the plan's directory; a forecast that stands there and says the same is kept.

    Raises:
        PlanError: Another forecast stands there.
    """
    make_dir(out)
    path = out / FORECAST_FILE
    frozen = planned.frozen
    if path.exists():
        there = FrozenForecast.load(path)
        if _is_the_same(there, frozen):
            frozen = there  # planned again from the same runs: what was frozen first stands
    frozen.write(path)
    plan = replace(planned.plan, forecast={"digest": frozen.digest, "file": FORECAST_FILE})
    planned = replace(planned, frozen=frozen, plan=plan)
    plan.write(out)
    write_page(planned, out)
    return planned


def _is_the_same(there: FrozenForecast, frozen: FrozenForecast) -> bool:
    """Whether two forecasts differ in no more than when and by what version they were frozen."""
    there = replace(there, created=frozen.created, code=frozen.code)
    if there.schema == WITHOUT_RUN:  # the run's size is in its other fields
        there = replace(there, schema=frozen.schema, run=frozen.run)
    return there.digest == frozen.digest


def refuse_contradictions(args: argparse.Namespace) -> None:
    """Refuse flags that say two things, or half of one.

    Raises:
        PlanError: Naming both, and what to leave out.
    """
    both = args.params is not None and args.tokens is not None
    ways = {
        "--budget": args.budget is not None,
        "--gpus with --days": args.days is not None,
        "--dollars": args.dollars is not None,
        "--loss": args.loss is not None,
        "--params with --tokens": both,
    }
    given = [way for way, is_given in ways.items() if is_given]
    if len(given) > 1:
        raise PlanError(
            f"the budget is said in {len(given)} ways: {' and '.join(given)}",
            where="the flags of the plan",
            fix="keep one of them: the others follow from it",
        )
    if not given:
        raise PlanError(
            "no budget is said",
            where="the flags of the plan",
            fix='--budget 1e21, --budget "300 PF-days", --gpus 1000 --gpu h100 --days 30 --mfu '
            "0.4, --dollars 1e6 --gpu h100 --mfu 0.4, --loss 2.5, or --params N --tokens D",
        )
    choosers = [name for name in CHOOSERS if getattr(args, name) is not None]
    if len(choosers) > 1 and not (both and len(choosers) == 2):
        flags = " and ".join("--" + name.replace("_", "-") for name in choosers)
        raise PlanError(
            f"{flags} each decide the model",
            where="the flags of the plan",
            fix="keep one of them, or --params with --tokens",
        )
    for name, needs in (
        ("days", "gpus"),
        ("token_price", "unique_tokens"),
        ("mfu_inference", "demand"),
    ):
        if getattr(args, name) is not None and getattr(args, needs) is None:
            flag, other = (f"--{word.replace('_', '-')}" for word in (name, needs))
            raise PlanError(
                f"{flag} says nothing without {other}",
                where="the flags of the plan",
                fix=f"add {other}, or leave {flag} out",
            )
    for name in (
        "params", "tokens", "max_params", "unique_tokens", "loss", "days", "dollars", "gpus",
    ):  # fmt: skip
        value = getattr(args, name)
        if value is not None and not 0 < value < float("inf"):
            raise PlanError(
                f"--{name.replace('_', '-')} is {value:g}",
                where="the flags of the plan",
                fix="name a positive, finite figure",
            )


def _priced(args: argparse.Namespace, means: Means) -> int:
    """Without evidence: what a model costs and whether it fits.

    Raises:
        PlanError: Something is asked that only runs can answer.
    """
    _refuse_unused(args, means)
    for flag in ("demand", "law", "recipe", "override"):
        if getattr(args, flag) is not None:
            raise PlanError(
                f"--{flag} needs evidence, and none is named",
                where="the flags of the plan",
                fix=f"name a sweep or a table: scalelab plan NAME ..., or leave --{flag} out",
            )
    planned = price(args, means)
    print(text(planned))
    if args.out is not None:
        print(f"\nplan: {planned.plan.write(make_dir(args.out))}")
    if args.json is not None:
        planned.plan.write_file(args.json)
    return 0


def _refuse_unused(args: argparse.Namespace, means: Means) -> None:
    """Refuse a device without its MFU, and what says nothing because no device is known.

    Raises:
        PlanError: Naming what is missing, or the flag.
    """
    if means.accelerator is not None:
        needed(means.mfu)
        return
    for name in ("mfu", "mfu_inference", "region"):
        if getattr(args, name) is not None:
            flag = f"--{name.replace('_', '-')}"
            raise PlanError(
                f"{flag} of which device?",
                where="the flags of the plan",
                fix=f"name it, such as --gpu h100, or leave {flag} out",
            )
    if args.gpus is not None:
        raise PlanError(
            f"{args.gpus:,} devices of which kind?",
            where="the flags of the plan",
            fix="name it, such as --gpu h100; for processes on this machine: --layout replicate=2",
        )


def _refuse_second_recipe(args: argparse.Namespace) -> None:
    if args.recipe is not None:
        raise PlanError(
            f"--recipe {args.recipe}, and a sweep, which has its own",
            where="the flags of the plan",
            fix="leave --recipe out: it is for tables",
        )


def _only_sweep(root: Path) -> str:
    names = list_sweeps(root)
    if len(names) != 1:
        raise ConfigError(
            "which runs should the plan rest on?",
            where=f"{root} holds these sweeps: {', '.join(names) or 'none'}",
            fix="scalelab plan NAME, or scalelab plan TABLE.csv; or, without evidence, --params N "
            "with --tokens D",
        )
    return names[0]


def refuse_taken(root: Path, out: Path) -> None:
    """Refuse a place whose forecast was altered, and a name that is a sweep's.

    A plan is launched under the name of its directory.

    Raises:
        PlanError: Saying which, or that the directory's name cannot be that of a plan.
    """
    name = plan_name(out)
    if (out / FORECAST_FILE).exists():
        FrozenForecast.load(out / FORECAST_FILE)
    if name in list_sweeps(root) and not (out / PLAN_FILE).exists():
        raise PlanError(
            f"{name!r} is the name of a sweep already",
            where=f"{root / name}",
            fix="write the plan elsewhere: --out plans/ANOTHER-NAME",
        )
