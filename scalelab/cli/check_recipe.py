"""`scalelab check-recipe`: check by short runs that a recipe scales with width and tokens."""

import argparse
from pathlib import Path

from scalelab.cli.arguments import add_file, add_json, add_out, add_set, examples, read_file_argument
from scalelab.files import runs_directory
from scalelab.screen import echo

DESCRIPTION = (
    "Check by short runs of small models whether the recipe of a sweep file scales: activations against width, the "
    "best rate at 4 times the width, the best rate on 8 times the tokens. Runs are kept below runs/.checks and never "
    "trained twice. Exit status 1 where a check fails."
)
EXAMPLES = examples(
    "scalelab check-recipe sweeps/isoflop.yaml",
    "scalelab check-recipe sweeps/isoflop.yaml --check coordinate",
    "scalelab check-recipe sweeps/isoflop.yaml --multipliers",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add_file(parser, "sweep")
    add_set(parser, "recipe.param=mup")
    parser.add_argument(
        "--check",
        action="append",
        default=[],
        metavar="NAME",
        help="run only this check: coordinate, transfer or horizon; can be repeated (default: all)",
    )
    parser.add_argument(
        "--flops",
        type=float,
        metavar="FLOPS",
        help="training FLOPs of one check, which decide its sizes and tokens (default: 6e11)",
    )
    parser.add_argument("--seeds", type=int, metavar="COUNT", help="seeds of each run, from 0 (default: 3)")
    parser.add_argument(
        "--multipliers",
        action="store_true",
        help="print the multipliers of recipe.param by group of weights, then exit (default: off)",
    )
    add_json(parser, "the findings")
    add_out(parser, "the report", "reports/NAME-recipe")


def run(args: argparse.Namespace) -> int:
    """Check, print the findings, write the report, and return the exit status."""
    path = read_file_argument(args)
    if path is None:
        return 0
    from scalelab.files import write_json
    from scalelab.recipe_check.runner import RecipeCheckRequest, check_recipe, multiplier_table
    from scalelab.report.recipe.document import multiplier_document, recipe_document
    from scalelab.report.recipe.page import write_recipe_report
    from scalelab.report.render.terminal import render_terminal
    from scalelab.sweep.file import SweepFile

    file = SweepFile.load(path, args.set)
    if args.multipliers:
        tables = multiplier_table(file.recipe)
        echo(render_terminal(multiplier_document(file.name, tables)))
        if args.json is not None:
            write_json(args.json, {"schema": 1, "sizes": [table.to_json() for table in tables]})
        return 0
    given = {"budget": args.flops, "seeds": args.seeds}
    request = RecipeCheckRequest(tuple(args.check), **{k: v for k, v in given.items() if v is not None})
    report = check_recipe(file, runs_directory(), request)
    echo(render_terminal(recipe_document(report)))
    page = write_recipe_report(report, args.out or Path("reports") / f"{file.name}-recipe")
    if args.json is not None:
        write_json(args.json, report.to_json())
    echo(f"\nreport: {page}")
    return 1 if report.verdict == "fails" else 0
