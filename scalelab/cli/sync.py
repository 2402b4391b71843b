"""`scalelab sync`: copy new results from the run directories to MLflow."""

import argparse

from scalelab.cli.arguments import examples
from scalelab.files import runs_directory
from scalelab.screen import echo

DESCRIPTION = "Copy results that MLflow does not have yet from the run directories. Nothing is sent twice."
EXAMPLES = examples("scalelab sync", "scalelab sync isoflop")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument(
        "name", nargs="?", metavar="NAME", help="name of a sweep or post-training (default: all of them)"
    )


def run(args: argparse.Namespace) -> int:
    """Copy what the store does not have, print how many runs were copied, and return the exit status."""
    from scalelab.tracking.sync import sync

    echo(sync(runs_directory(), args.name))
    return 0
