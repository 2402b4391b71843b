"""`scalelab launch`: train the final run of a plan and compare it with its forecast."""

import argparse
from pathlib import Path

from scalelab.cli.arguments import add_dry_run, add_out, add_override, add_set, examples

DESCRIPTION = (
    "Train the final run of a plan, watched against its forecast, or resume it; then compare the measured loss "
    "with the forecast."
)
EXAMPLES = examples(
    "scalelab launch plans/isoflop-6.4e12",
    "scalelab launch plans/isoflop-6.4e12 --layout replicate=2 --dry-run",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument(
        "plan", type=Path, metavar="PLAN", help="directory of a plan, as written by `scalelab plan`"
    )
    parser.add_argument(
        "--layout",
        default="",
        metavar="AXIS=COUNT,...",
        help="processes along each axis: replicate, shard, tensor, pipeline; also micro_batches=COUNT, "
        "recompute, offload (default: the layout of the plan)",
    )
    add_override(parser)
    parser.add_argument(
        "--prepare",
        action="store_true",
        help="write everything that torchrun needs to start the run on several machines, print the command, "
        "then exit (default: off)",
    )
    add_set(parser, "retries=5, checkpoint_s=600 or stability.spike_nats=2", "the launch settings")
    add_dry_run(parser, "print the run, its forecast and its layout")
    add_out(parser, "the report", "reports/NAME")


def run(args: argparse.Namespace) -> int:
    """Train the run, print and write its outcome, and return the exit status."""
    from scalelab.cli.work.launch import run

    return run(args)
