"""`scalelab fit`: fit scaling laws to a sweep or a table and report the forecast."""

import argparse
from dataclasses import replace

from scalelab.cli.arguments import (
    add_fit_source,
    add_json,
    add_mixture,
    add_out,
    add_replicates,
    examples,
    is_table,
)
from scalelab.files import runs_directory
from scalelab.screen import echo

DESCRIPTION = (
    "Fit scaling laws to a sweep or a table of runs and report the forecast with intervals, a hold-out test "
    "and a verdict."
)
EXAMPLES = examples(
    "scalelab fit isoflop", "scalelab fit runs.csv --columns n_params=N,n_tokens=D --target 1e22"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add_fit_source(parser)
    parser.add_argument(
        "--target",
        type=float,
        metavar="FLOPS",
        help="training compute of the forecast, in FLOPs (default: that of the sweep file, or ten times the "
        "largest budget)",
    )
    parser.add_argument(
        "--flop-count",
        choices=("exact", "6ND"),
        default="exact",
        help="which count of training FLOPs is C: as recorded, or 6 N D (default: exact)",
    )
    parser.add_argument(
        "--compare-conventions",
        action="store_true",
        help="also fit under every count of parameters and FLOPs and show how the exponents move "
        "(default: off)",
    )
    parser.add_argument(
        "--profile",
        action="store_true",
        help="add intervals by profile likelihood, which takes seconds (default: off)",
    )
    add_replicates(parser)
    add_mixture(parser)
    parser.add_argument(
        "--draws",
        action="store_true",
        help="also write every bootstrap replicate to draws.csv of the report (default: off)",
    )
    add_json(parser, "the results")
    add_out(parser, "the report", "reports/NAME")


def run(args: argparse.Namespace) -> int:
    """Fit, print the summary, write the report, and return the exit status."""
    from scalelab.cli.work.fit_mixture import fit_mixture, is_mixture

    if is_mixture(args):
        return fit_mixture(args)
    import sys
    from pathlib import Path

    from scalelab.files import write_json
    from scalelab.records.external_table import parse_columns
    from scalelab.records.runs import read_external, read_sweep, refuse_table_settings
    from scalelab.records.table_units import TableUnits
    from scalelab.report.fit.directory import write_fit
    from scalelab.report.fit.document import fit_document
    from scalelab.report.plots.render_workers import RenderWorkers
    from scalelab.report.render.terminal import render_terminal
    from scalelab.study.from_table import columns_read
    from scalelab.study.request import FitRequest, compare_conventions, fit_evidence

    request = FitRequest.of(
        args.law, flop_count=args.flop_count, replicates=args.replicates, profile=args.profile
    )
    if args.source and is_table(args.source):
        columns = parse_columns(args.columns)
        units = TableUnits.parse(args.units)
        runs = read_external(
            Path(args.source), columns, columns_read(request.laws), args.param_count, args.decimal, units
        )
    else:
        refuse_table_settings(units=args.units, columns=args.columns, decimal=args.decimal)
        runs = read_sweep(runs_directory(), args.source, args.param_count)
    request = replace(request, target_flops=runs.target_flops if args.target is None else args.target)
    with RenderWorkers() as workers:
        study = fit_evidence(runs.evidence, request)
        rows = compare_conventions(runs.by_count(), request) if args.compare_conventions else ()
        echo(render_terminal(fit_document(study, runs.name, conventions=rows)))
        page = write_fit(
            study, runs, runs_directory(), args.out, conventions=rows, draws=args.draws, workers=workers
        )
    if args.json is not None:
        conventions = {"conventions": [row.to_json() for row in rows]} if rows else {}
        write_json(args.json, study.to_json() | conventions)
    echo(f"\nreport: {page}")
    for law, fit in study.fits.items():
        for why in fit.broken:
            echo(f"warning: the {law} fit is unreliable: {why}", file=sys.stderr)
    return 0
