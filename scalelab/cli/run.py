"""`scalelab run`: train one run from its spec.yaml, or resume it."""

import argparse
import sys
from pathlib import Path

from scalelab.cli.arguments import examples
from scalelab.files import runs_directory
from scalelab.screen import echo

DESCRIPTION = (
    "Train the one run that a spec.yaml describes, in this process, or resume it. A run directory is trained "
    "in place; any other spec.yaml in runs/single/RUN-ID."
)
EXAMPLES = examples("scalelab run spec.yaml", "scalelab run runs/isoflop/RUN-ID")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument(
        "spec", type=Path, metavar="SPEC", help="a spec.yaml, or the run directory that holds one"
    )


def run(args: argparse.Namespace) -> int:
    """Train the run, print its result as JSON, and return the exit status."""
    from scalelab.launch.single_run import run_one
    from scalelab.markup import printable
    from scalelab.train.run_directory import RESULT

    run_dir, result = run_one(args.spec, runs_directory())
    if result is None:
        echo(f"Interrupted. Resume: scalelab run {run_dir.path}", file=sys.stderr)
        return 130
    echo(RESULT.text(result), end="")
    if result.status != "finished":
        reason = f"{result.status}: {result.reason}"
        echo(f"error: the run {run_dir.run} {printable(reason)}", file=sys.stderr)
        echo(f"  where: {run_dir.path}", file=sys.stderr)
        echo(
            "  fix:   copy its spec.yaml, lower the learning rates in the copy, and run that", file=sys.stderr
        )
        return 1
    return 0
