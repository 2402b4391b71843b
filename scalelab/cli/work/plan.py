"""`scalelab plan`: choose the model to train for a budget, with its cost and a frozen forecast.

Not here: the plan (plan/planner.py), its document and directory (report/plan/).
"""

import argparse
from dataclasses import fields
from pathlib import Path

from scalelab.cli.arguments import is_table
from scalelab.errors import ConfigError, PlanError
from scalelab.files import runs_directory
from scalelab.plan.plan import PLAN_FILE
from scalelab.plan.planner import make_plan, price
from scalelab.plan.request import WHERE, PlanRequest
from scalelab.plan.run_settings import RUN_FILE
from scalelab.plan.source import PlanSource, from_sweep, from_table
from scalelab.records.runs import only_sweep, refuse_table_settings
from scalelab.report.plan.directory import refuse_taken, write_plan
from scalelab.report.plan.document import plan_document
from scalelab.report.render.terminal import render_terminal
from scalelab.screen import echo

FIELDS = tuple(field.name for field in fields(PlanRequest) if field.name != "name")


def run(args: argparse.Namespace) -> int:
    """Plan, print, write, and return the exit status."""
    request = PlanRequest.parse({name: getattr(args, name) for name in FIELDS})
    if args.source is None and request.fixes_model:
        return _priced(args, request)
    source = _source(args, request)
    if args.out is not None:  # refused before the laws are fitted
        refuse_taken(runs_directory(), args.out)
    planned, out = write_plan(make_plan(request, source), runs_directory(), args.out)
    echo(render_terminal(plan_document(planned)))
    if args.json is not None:
        planned.plan.write_file(args.json)
    echo(f"\nplan: {out / 'README.md'}")
    if planned.plan.spec is not None:
        echo(f"next: scalelab launch {out}")
    elif planned.final is not None and planned.source.data_digest is None:
        echo(
            f"next: scalelab data {out / RUN_FILE}, where the text is; then plan again without --tokens-available"
        )
    return 0


def _priced(args: argparse.Namespace, request: PlanRequest) -> int:
    """Print the cost and memory of a model without evidence, and return the exit status."""
    for name in ("recipe", "columns", "decimal", "units"):
        if getattr(args, name) not in (None, ""):
            raise PlanError(
                f"--{name} requires evidence, and no sweep or table is given",
                where=WHERE,
                fix=f"name a sweep or a table: scalelab plan NAME ..., or leave --{name} out",
            )
    planned = price(request)
    echo(render_terminal(plan_document(planned)))
    if args.out is not None:
        planned, out = write_plan(planned, runs_directory(), args.out)
        echo(f"\nplan: {out / PLAN_FILE}")
    if args.json is not None:
        planned.plan.write_file(args.json)
    return 0


def _source(args: argparse.Namespace, request: PlanRequest) -> PlanSource:
    """The evidence: a table with or without a recipe, a sweep by its name, or the only sweep."""
    if args.source and is_table(args.source):
        return from_table(
            Path(args.source),
            args.columns,
            args.param_count,
            args.recipe,
            request.law,
            args.decimal,
            args.units,
        )
    refuse_table_settings(units=args.units, columns=args.columns, decimal=args.decimal)
    if args.recipe is not None:
        raise PlanError(
            "--recipe cannot be combined with a sweep: the sweep already has a recipe",
            where=WHERE,
            fix="leave --recipe out",
        )
    return from_sweep(runs_directory(), args.source or _only_sweep(), args.param_count)


def _only_sweep() -> str:
    try:
        return only_sweep(runs_directory(), "plan")
    except ConfigError as error:
        fix = f"{error.fix}; or give --params and --tokens, which need no evidence"
        raise ConfigError(error.problem, where=error.where, fix=fix) from None
