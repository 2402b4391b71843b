"""`scalelab ui`: show the runs in MLflow's web page."""

import argparse

from scalelab.cli.arguments import examples
from scalelab.files import runs_directory

DESCRIPTION = "Serve MLflow's web page over the runs of this directory until interrupted."
EXAMPLES = examples("scalelab ui", "scalelab ui --port 5001")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument(
        "--port",
        type=int,
        default=5000,
        metavar="PORT",
        help="port on this machine; 0 takes a free one and prints it (default: 5000)",
    )


def run(args: argparse.Namespace) -> int:
    """Serve the page and return the exit status."""
    from scalelab.tracking.ui import ui

    ui(runs_directory(), args.port)
    return 0
