"""`scalelab tune`: search numbers of a recipe at several sizes and token counts, and write the rule they follow."""

import argparse
from pathlib import Path

from scalelab.cli.arguments import (
    add_dry_run,
    add_file,
    add_json,
    add_out,
    add_set,
    examples,
    read_file_argument,
)
from scalelab.files import runs_directory
from scalelab.screen import echo

DESCRIPTION = (
    "Search numbers of a recipe, such as the learning rate, at several sizes and token counts, fit the rule that the "
    "best values follow, and write a sweep file with it. Trials that are trained already are kept; interrupted ones "
    "resume; several processes may run the same file."
)
EXAMPLES = examples(
    "scalelab tune sweeps/tune.yaml", "scalelab tune sweeps/tune.yaml --dry-run --set trials=20"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add_file(parser, "tuning")
    add_set(parser, "trials=20")
    add_dry_run(parser, "print every cell and its cost")
    add_json(parser, "the plan, or the result")
    add_out(parser, "the report and the tuned recipe", "reports/NAME")


def run(args: argparse.Namespace) -> int:
    """Print the plan, train the trials, write the report and the recipe, and return the exit status."""
    path = read_file_argument(args)
    if path is None:
        return 0
    from scalelab.files import write_json
    from scalelab.launch.tune import TunePlan, plan_tune, run_tune
    from scalelab.report.render.terminal import render_terminal
    from scalelab.report.tune.document import plan_document, result_document
    from scalelab.report.tune.page import record, write_tuning
    from scalelab.sweep.tune_file import TuneFile

    def show(plan: TunePlan) -> None:
        echo(render_terminal(plan_document(plan), title=True), flush=True)
        if args.json is not None:
            write_json(args.json, plan.to_json())

    file = TuneFile.load(path, args.set)
    if args.dry_run:
        show(plan_tune(file))
        return 0
    result = run_tune(file, runs_directory(), show)
    out = args.out or Path("reports") / file.name
    if not result.interrupted:
        write_tuning(result, out)
        if args.json is not None:
            write_json(args.json, record(result))
    echo(render_terminal(result_document(result, out)))
    if result.interrupted:
        return 130
    result.sweep_file()  # refused where no field has a rule
    return 1 if result.lost else 0
