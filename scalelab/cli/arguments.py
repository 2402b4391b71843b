"""Arguments that several commands share, and the format of every help text."""

import argparse
import shutil
import sys
from pathlib import Path
from typing import TextIO

from scalelab.example_files import given_file, missing_examples, write_example
from scalelab.screen import echo

WIDEST = 100


def is_table(source: str) -> bool:
    """Return whether a source is a table: by its ending, or because a file but no sweep has that name."""
    if Path(source).suffix.lower() in {".yaml", ".yml"}:
        from scalelab.file_kinds import refuse_other_path

        refuse_other_path(Path(source), "table")
    from scalelab.files import runs_directory
    from scalelab.records.table_bytes import has_table_ending

    if has_table_ending(source):
        return True
    return not (runs_directory() / source).is_dir() and Path(source).exists()


class CommandParser(argparse.ArgumentParser):
    """A parser whose messages repeat arguments with control characters replaced."""

    def _print_message(self, message: str, file: TextIO | None = None) -> None:
        if message:
            echo(message, end="", file=file or sys.stderr)


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Wraps to the terminal and keeps the lines of the examples."""

    def __init__(self, prog: str):
        columns = shutil.get_terminal_size((80, 24)).columns
        super().__init__(prog, max_help_position=26, width=max(40, min(columns, WIDEST)) - 1)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        if text.startswith(("examples:", "first steps")):
            return super()._fill_text(text, width, indent)
        return argparse.HelpFormatter._fill_text(self, text, width, indent)


def examples(*lines: str) -> str:
    """Return the end of a help text: commands that run as they stand.

    Where one names an example file that is not here, the command that writes it comes first.
    """
    command = lines[0].split()[1]
    first = [f"scalelab {command} --example"] if missing_examples("\n".join(lines)) else []
    return "examples:\n" + "\n".join(f"  {line}" for line in (*first, *lines))


def add_file(parser: argparse._ActionsContainer, what: str) -> None:
    """Add the YAML file of a command, and --example, which writes one.

    Args:
        parser: Parser of the command.
        what: Kind of file: "sweep".
    """
    parser.add_argument("file", type=Path, nargs="?", metavar="FILE.yaml", help=f"the {what} file (YAML)")
    parser.add_argument(
        "--example",
        action="store_true",
        help=f"write an example of a {what} file below sweeps/, print its path, then exit (default: off)",
    )


def read_file_argument(args: argparse.Namespace) -> Path | None:
    """Return the YAML file of a command; None where --example asked for one, which is then written.

    Raises:
        ConfigError: No file was given, or it is not there, or another file is in the place of the example.
    """
    if not args.example:
        return given_file(args.file, args.command)
    path = write_example(args.command)
    echo(f"example: {path}\nnext: scalelab {args.command} {path}")
    return None


def add_set(parser: argparse.ArgumentParser, example: str, what: str = "the file") -> None:
    """Add --set.

    Args:
        parser: Parser of the command.
        example: One assignment: "recipe.seq_len=256".
        what: Owner of the values that are replaced.
    """
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help=f"replace one value of {what}, such as {example}; can be repeated (default: no change)",
    )


def add_dry_run(parser: argparse._ActionsContainer, what: str) -> None:
    """Add --dry-run.

    Args:
        parser: Parser of the command.
        what: Result of a dry run: "print every run and its cost".
    """
    parser.add_argument("--dry-run", action="store_true", help=f"{what}, then exit (default: off)")


def add_json(parser: argparse._ActionsContainer, what: str) -> None:
    """Add --json.

    Args:
        parser: Parser of the command.
        what: Content of the file: "the plan".
    """
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help=f"also write {what} to FILE as JSON (default: not written)"
    )


def add_out(parser: argparse._ActionsContainer, what: str, default: str) -> None:
    """Add --out.

    Args:
        parser: Parser of the command.
        what: Content of the directory: "the report".
        default: Directory without the flag: "reports/NAME".
    """
    parser.add_argument("--out", type=Path, metavar="DIR", help=f"directory for {what} (default: {default})")


def add_fit_source(parser: argparse.ArgumentParser) -> None:
    """Add the runs that laws are fitted to, and how a table is read."""
    parser.add_argument(
        "source",
        nargs="?",
        metavar="SOURCE",
        help="name of a sweep, or a table of runs: CSV (also with semicolons or tabs), Excel, JSON, JSONL, "
        "parquet or feather, also compressed, with parameters, tokens and validation loss in nats per token "
        "(default: the only sweep in runs/)",
    )
    parser.add_argument(
        "--law",
        action="append",
        metavar="NAME",
        help="fit only this law; can be repeated (default: averaged, isoflop, chinchilla and "
        "kaplan where they apply; mixture for a table of shares and losses of domains)",
    )
    parser.add_argument(
        "--param-count",
        choices=("total", "non_embedding", "matmul", "active"),
        metavar="COUNT",
        help="which count of parameters is N: total, non_embedding, matmul or active (default: that of the "
        "sweep or of column n_params)",
    )
    parser.add_argument(
        "--columns",
        default="",
        metavar="n_params=N,...",
        help="names of columns in an external table: ours=theirs, separated by commas, or a file with one pair a "
        "line; flops=none for a column that it does not have (default: our names, and names of one clear "
        "meaning such as train_tokens, which are printed)",
    )
    parser.add_argument(
        "--decimal",
        choices=("point", "comma"),
        help="decimal sign of numbers in an external table: comma reads 1,234 as 1.234, point as 1234 "
        "(default: as the other cells show)",
    )

    parser.add_argument(
        "--units",
        default="",
        metavar="COLUMN=UNIT,...",
        help="units of an external table: n_params and n_tokens in k, M, B or T; flops in GFLOPs, PF-days, "
        "MACs, forward (pass alone) or per-token; loss in bits or perplexity; or a number to multiply by, such "
        "as n_params=1e6 (default: parameters, tokens, FLOPs of the training, nats per token)",
    )


def add_replicates(parser: argparse._ActionsContainer) -> None:
    """Add --replicates."""
    parser.add_argument(
        "--replicates",
        type=int,
        default=4000,
        metavar="COUNT",
        help="bootstrap replicates for intervals, of a mixture at most 400; 0 for none (default: 4000)",
    )


def add_mixture(parser: argparse._ActionsContainer) -> None:
    """Add what a mixture of domains is chosen for."""
    parser.add_argument(
        "--natural",
        default="",
        metavar="DOMAIN=SHARE,...",
        help="with --law mixture: shares of the domains that the gain is measured from (default: mean of the trained "
        "mixtures)",
    )
    parser.add_argument(
        "--unique-tokens",
        default="",
        metavar="DOMAIN=TOKENS,...",
        help="with --law mixture: deduplicated tokens of domains, which cap their repetition (default: no cap)",
    )
    parser.add_argument(
        "--train-tokens",
        type=float,
        metavar="TOKENS",
        help="with --law mixture: training tokens of the run that the mixture is for (default: those of the table)",
    )


def add_override(parser: argparse._ActionsContainer) -> None:
    """Add --override."""
    parser.add_argument(
        "--override",
        metavar="REASON",
        help='freeze or launch a forecast that the gate refuses, such as one with the verdict "do not rely", and '
        "record REASON in the ledger (default: show it, and neither freeze nor launch it)",
    )
