"""The command `scalelab`: one subcommand a file.

Only the standard library is imported here, so `scalelab --help` answers at once. A command's file is
imported when it is called, and imports numpy, torch or MLflow when it runs.

Exit status: 0 done; 1 the work failed; 2 an error that a person can fix; 130 interrupted. `compare` also has
3 for a tie and 4 for a rejected recipe.
"""

import argparse
import importlib
import io
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from scalelab.cli.arguments import CommandParser, HelpFormatter
from scalelab.errors import ScalelabError
from scalelab.example_files import missing_examples
from scalelab.hardware.openmp import spin_briefly
from scalelab.network_files import is_outage
from scalelab.screen import echo

COMMANDS = {
    "sweep": ("sweep", "train the family of models of a sweep file"),
    "check-recipe": ("check_recipe", "check by short runs that a recipe scales with width and tokens"),
    "tune": ("tune", "search numbers of a recipe at several scales and write the rule they follow"),
    "worker": ("worker", "run queued runs of a sweep on this machine, beside other workers"),
    "run": ("run", "train one run from its spec.yaml, or resume it"),
    "runs": ("runs", "list sweeps, runs and their states, or all forecasts"),
    "clean": ("clean", "remove run directories that no sweep or post-training names any more"),
    "fit": ("fit", "fit scaling laws to a sweep or a table and report the forecast"),
    "plan": ("plan", "choose the model for a budget, with its cost and a frozen forecast"),
    "launch": ("launch", "train the final run of a plan and compare it with its forecast"),
    "posttrain": ("posttrain", "post-train a base model: SFT, preferences, reward, DPO, PPO, grades"),
    "eval": ("evaluate", "evaluate models: loss, tasks, win rates, contamination"),
    "compare": ("compare", "compare recipes with a baseline: compute multipliers, promote, tie or reject"),
    "backtest": ("backtest", "score forecasting methods on measured tables, larger runs from smaller ones"),
    "simulate": ("simulate", "write a table of simulated runs whose law is known"),
    "sync": ("sync", "copy new results from the run directories to MLflow"),
    "ui": ("ui", "show the runs in MLflow's web page"),
    "data": ("data", "prepare the corpus of a sweep file: tokenizer, shards, split"),
    "tokenizer-report": ("tokenizer_report", "compare tokenizers: bytes per token, splits, perplexity"),
    "doctor": ("doctor", "check this machine for training, with a fix for each problem"),
    "bench": ("bench", "measure this device: correctness, speed, memory, settings"),
    "export": ("export", "write a model as a Hugging Face checkpoint"),
}
"""Name of each command, its file in scalelab/cli, and its line in the help.

A file has `add_arguments(parser)`, `run(args) -> int`, DESCRIPTION and EXAMPLES.
"""


def _first_steps() -> list[str]:
    """The first commands of a new user; the one that writes the example only where it is not here."""
    lines = ["  scalelab sweep sweeps/isoflop.yaml", "  scalelab fit isoflop"]
    first = ["  scalelab sweep --example"] if missing_examples(lines[0]) else []
    return ["first steps, in minutes and without a GPU:", *first, *lines]


def parser(commands: Sequence[str] = ()) -> argparse.ArgumentParser:
    """Return the parser.

    Args:
        commands: Names of the commands whose arguments are added; the others have only their names.
    """
    root = CommandParser(
        prog="scalelab",
        description="Train small models, fit scaling laws, and plan, train and check the large run.",
        epilog="\n".join((*_first_steps(), "", "help on one command: scalelab COMMAND --help")),
        formatter_class=HelpFormatter,
    )
    root.add_argument("--version", action="store_true", help="print the version and exit")
    subparsers = root.add_subparsers(metavar="COMMAND", dest="command", title="commands")
    for name, (file, help_) in COMMANDS.items():
        if name in commands:
            module = importlib.import_module(f"scalelab.cli.{file}")
            sub = subparsers.add_parser(
                name,
                help=help_,
                description=module.DESCRIPTION,
                epilog=module.EXAMPLES,
                formatter_class=HelpFormatter,
            )
            module.add_arguments(sub)
            sub.set_defaults(run=module.run)
        else:
            subparsers.add_parser(name, help=help_, add_help=False)
    return root


def main(argv: list[str] | None = None) -> int:
    """Run one command and return the exit status.

    Args:
        argv: The arguments behind `scalelab`; None for those of this process.
    """
    spin_briefly()
    argv = sys.argv[1:] if argv is None else argv
    named = next((word for word in argv if not word.startswith("-")), None)
    try:
        if named is not None and named not in COMMANDS:
            _refuse_unknown(named)
        root = parser([named] if named in COMMANDS else [])
        args = root.parse_args(argv)
        if args.version:
            from scalelab import __version__

            echo(__version__)
            return 0
        if args.command is None:
            root.print_help()
            return 0
        return args.run(args)
    except ScalelabError as error:
        echo(f"error: {error}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        echo("Interrupted. Run the same command to resume.", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of our output has ended (`scalelab runs | head`), so there is no one to inform.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.filename is None or not is_outage(error):
            raise
        from pathlib import Path

        from scalelab.files import NoAnswer

        echo(f"error: {NoAnswer.of(Path(os.fsdecode(error.filename)), error)}", file=sys.stderr)
        return NoAnswer.exit_status


def _refuse_unknown(word: str) -> NoReturn:
    """Refuse a word that is no command, with the command that was probably meant."""
    from pathlib import Path

    from scalelab.errors import ConfigError
    from scalelab.registry import did_you_mean

    fix = "see all commands: scalelab --help"
    if os.path.exists(word):
        from scalelab.file_kinds import command_for

        fix = command_for(Path(word)) or fix
    hint = did_you_mean(word, COMMANDS)
    raise ConfigError(f"there is no command {word!r}{hint}", where=f"scalelab {word}", fix=fix)


def entry() -> None:
    """Run the console script.

    A character that the terminal or the locale cannot show, or a part of a file name that is not
    UTF-8, is written as an escape instead of ending the command.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    sys.exit(main())


if __name__ == "__main__":
    entry()
