"""`scalelab backtest`: score forecasting methods on measured tables, larger runs from smaller ones."""

import argparse
from pathlib import Path

from scalelab.cli.arguments import add_json, add_out, examples
from scalelab.screen import echo

DESCRIPTION = (
    "Forecast the larger runs of measured tables from the smaller ones, with scalelab's default and other "
    "methods, and score errors, intervals and best sizes."
)
EXAMPLES = examples(
    "scalelab backtest --tables data",
    "scalelab backtest --tables data --method default --method chinchilla --jobs 4",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument(
        "--tables",
        type=Path,
        default=Path("tables"),
        metavar="DIR",
        help="directory of tables: public ones that scalelab describes, your own with a description beside them "
        "(NAME.table.yaml), and any table that `scalelab fit` reads (default: tables)",
    )
    parser.add_argument(
        "--method",
        action="append",
        default=[],
        metavar="NAME",
        help="score only this method, and chinchilla beside it; can be repeated (default: all, which a wrong name "
        "lists)",
    )
    parser.add_argument(
        "--level",
        type=float,
        default=0.8,
        metavar="SHARE",
        help="level of the intervals that the board shows, 0 to 1 (default: 0.8)",
    )
    parser.add_argument(
        "--jobs", type=int, default=1, metavar="COUNT", help="processes that fit (default: 1)"
    )
    add_json(parser, "the board")
    add_out(parser, "the report and the answers, which are not made twice", "reports/backtest")


def run(args: argparse.Namespace) -> int:
    """Score, print the board, write the report, and return the exit status."""
    import sys

    from scalelab.backtest.board import BacktestRequest, backtest
    from scalelab.backtest.tables import read_tables
    from scalelab.files import write_json
    from scalelab.report.backtest.document import backtest_document
    from scalelab.report.backtest.page import write_backtest
    from scalelab.report.render.terminal import render_terminal

    request = BacktestRequest(methods=tuple(args.method), level=args.level, jobs=args.jobs)
    out = args.out or Path("reports") / "backtest"
    shown = 0

    def report(there: int, total: int) -> None:
        """Say how far it is, each tenth once."""
        nonlocal shown
        if (tenth := 10 * there // total) > shown:
            shown = tenth
            echo(f"{there} of {total} forecasts", file=sys.stderr, flush=True)

    board = backtest(read_tables(args.tables), request, out, report)
    echo(render_terminal(backtest_document(board)))
    page = write_backtest(board, out)
    if args.json is not None:
        write_json(args.json, board.to_json())
    echo(f"\nreport: {page}")
    return 0
