"""`scalelab clean`: remove run directories that no sweep or post-training names any more."""

import argparse

from scalelab.cli.arguments import examples
from scalelab.files import runs_directory

DESCRIPTION = (
    "Remove run directories that no sweep, post-training or forecast names any more, such as those of an "
    "earlier recipe. What runs or is in use is never removed. `scalelab runs --all` lists them."
)
EXAMPLES = examples("scalelab clean isoflop --dry-run", "scalelab clean isoflop/2486e0db7c21 --yes")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument(
        "names",
        nargs="+",
        metavar="NAME",
        help="name of a sweep or post-training, for each of its directories that nothing uses; or NAME/ID for "
        "one directory",
    )
    parser.add_argument("--yes", action="store_true", help="remove without asking (default: ask)")
    parser.add_argument(
        "--dry-run", action="store_true", help="list what would be removed, then exit (default: off)"
    )


def run(args: argparse.Namespace) -> int:
    """List the directories, ask, remove them, and return the exit status."""
    from scalelab.cli.work.clean import run

    return run(args.names, runs_directory(), is_agreed=args.yes, is_dry_run=args.dry_run)
