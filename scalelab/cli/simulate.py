"""`scalelab simulate`: write a table of simulated runs whose law is known."""

import argparse
from pathlib import Path

from scalelab.cli.arguments import add_set, examples

DESCRIPTION = (
    "Write a table of simulated runs whose law is known, for `scalelab fit`, and print the true optimum that a "
    "fit should find."
)
EXAMPLES = examples(
    "scalelab simulate runs.csv --noise gaussian:0.003",
    "scalelab simulate kaplan.csv --law kaplan --design ladder --seed 1",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("out", metavar="TABLE", type=Path, help="file to write, .csv or .parquet")
    parser.add_argument(
        "--law", default="chinchilla", metavar="NAME", help="law that the losses follow (default: chinchilla)"
    )
    parser.add_argument(
        "--constants",
        default="",
        metavar="E=1.8,A=480",
        help="constants of the law, separated by commas (default: the published ones)",
    )
    parser.add_argument(
        "--design",
        choices=("isoflop", "ladder", "grid"),
        default="isoflop",
        help="which sizes and tokens are trained (default: isoflop)",
    )
    parser.add_argument(
        "--budgets",
        metavar="FIRST:LAST:COUNT",
        help="budgets in FLOPs, evenly in the logarithm, or a list with commas (default: those of the design)",
    )
    parser.add_argument(
        "--sizes", metavar="COUNT", help="sizes in each budget (default: those of the design)"
    )
    add_set(parser, "factor=4, offset=1.2 or seeds=2", "the design")
    parser.add_argument(
        "--noise",
        action="append",
        default=[],
        metavar="KIND:SIZE",
        help="noise of the losses: gaussian, seed, heavy, onesided, ruined or drift, such as gaussian:0.003; "
        "can be repeated (default: none)",
    )
    parser.add_argument(
        "--epochs",
        type=float,
        default=1.0,
        metavar="COUNT",
        help="times that each token is seen (default: 1)",
    )
    parser.add_argument(
        "--batch-tokens",
        type=float,
        metavar="TOKENS",
        help="tokens per optimizer step; laws of steps need it (default: none)",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="SEED", help="seed of the noise (default: 0)")


def run(args: argparse.Namespace) -> int:
    """Write the table, print the true optimum, and return the exit status."""
    from scalelab.cli.work.simulate import run

    return run(args)
