"""`scalelab runs`: list sweeps, runs and their states, or all forecasts."""

import argparse
import sys
from pathlib import Path

from scalelab.cli.arguments import examples
from scalelab.files import runs_directory
from scalelab.screen import echo

DESCRIPTION = (
    "List every sweep and post-training with the state of its runs: planned, running, interrupted, finished, "
    "diverged or failed."
)
EXAMPLES = examples(
    "scalelab runs",
    "scalelab runs isoflop --out runs.csv",
    "scalelab runs --all",
    "scalelab runs --forecasts",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument(
        "name", nargs="?", metavar="NAME", help="name of a sweep or post-training (default: all of them)"
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="also write the run table to FILE, .csv or .parquet (default: not written)",
    )
    other = parser.add_mutually_exclusive_group()
    other.add_argument(
        "--all",
        action="store_true",
        help="list every run directory instead, also those that no file names any more, with what differs "
        "(default: off)",
    )
    other.add_argument(
        "--forecasts",
        action="store_true",
        help="list every frozen forecast with its outcome instead (default: off)",
    )


def run(args: argparse.Namespace) -> int:
    """Print the listing and return the exit status."""
    if args.forecasts:
        return _forecasts()
    if args.all:
        return _directories(args.name)
    from scalelab.records.external_table import write_table
    from scalelab.records.run_table import every_run
    from scalelab.report.listing.runs import listing_document
    from scalelab.report.render.terminal import render_terminal

    echo(render_terminal(listing_document(runs_directory(), args.name)))
    if args.out is not None:
        write_table(every_run(runs_directory(), args.name), args.out)
    return 0


def _directories(name: str | None) -> int:
    """Print every run directory and what differs in those that nothing names now."""
    from scalelab.plan.forecast.ledger import forecast_runs
    from scalelab.records.run_directories import run_directories
    from scalelab.report.listing.directories import directories_document
    from scalelab.report.render.terminal import render_terminal

    found = run_directories(runs_directory(), forecast_runs(runs_directory()))
    echo(render_terminal(directories_document(runs_directory(), found, name)))
    return 0


def _forecasts() -> int:
    """Print the ledger. What cannot be read is reported on stderr, and the exit status is then 2."""
    from scalelab.report.listing.forecasts import forecasts_document, read_ledger
    from scalelab.report.render.terminal import render_terminal

    every, begun, problems = read_ledger(runs_directory())
    echo(render_terminal(forecasts_document(runs_directory(), every, begun)), flush=True)
    for problem in problems:
        echo(f"error: {problem}", file=sys.stderr)
    return 2 if problems else 0
