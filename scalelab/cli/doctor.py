"""`scalelab doctor`: check this machine for training."""

import argparse
from pathlib import Path

from scalelab.cli.arguments import examples
from scalelab.files import runs_directory
from scalelab.screen import echo

DESCRIPTION = (
    "Check this machine for training: versions, disk, memory, GPUs, precision, compiler, attention kernel, "
    "communication. Each line is ok, a warning or a problem, with its fix. Takes a few seconds and leaves no "
    "files. Exit status: 0 without problems, 1 with a problem, 2 for wrong usage."
)
EXAMPLES = examples("scalelab doctor", "scalelab doctor --json machine.json")
SCHEMA = 1
"""Version of the JSON record."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument(
        "--json",
        type=Path,
        metavar="FILE",
        help="also write the findings to FILE as JSON, such as machine.json (default: not written)",
    )


def run(args: argparse.Namespace) -> int:
    """Print the findings and return the exit status."""
    from scalelab import __version__
    from scalelab.files import write_json
    from scalelab.hardware.doctor import run_checks
    from scalelab.hardware.machine import Machine
    from scalelab.report.doctor.document import doctor_document
    from scalelab.report.render.terminal import render_terminal

    results = list(run_checks(Machine(runs_directory())))
    echo(render_terminal(doctor_document(results)))
    if args.json is not None:
        findings = [result.to_json() for result in results]
        write_json(args.json, {"schema": SCHEMA, "scalelab": __version__, "checks": findings})
    return 1 if any(result.finding.status == "problem" for result in results) else 0
