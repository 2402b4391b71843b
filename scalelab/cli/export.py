"""`scalelab export`: write a model as a Hugging Face checkpoint."""

import argparse
from pathlib import Path

from scalelab.cli.arguments import examples

DESCRIPTION = (
    "Write a model as a Hugging Face checkpoint with its tokenizer and chat template: a finished run, a stage "
    "of a post-training, or an exported checkpoint."
)
EXAMPLES = examples(
    "scalelab export runs/isoflop/RUN-ID exported/base",
    "scalelab export runs/assistant/STAGE-ID exported/assistant",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument(
        "model",
        type=Path,
        metavar="MODEL",
        help="directory of the model: runs/SWEEP/RUN-ID or runs/NAME/STAGE-ID",
    )
    parser.add_argument("out", type=Path, metavar="DIR", help="new or empty directory for the checkpoint")


def run(args: argparse.Namespace) -> int:
    """Write the checkpoint and return the exit status."""
    from scalelab.cli.work.export import run

    return run(args)
