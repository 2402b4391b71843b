"""`scalelab compare`: compare recipes by their compute multipliers, with a verdict as exit status."""

import argparse

from scalelab.cli.arguments import add_json, add_out, examples
from scalelab.screen import echo

DESCRIPTION = (
    "Compare recipes with a baseline: how much compute each is worth at every rung, with intervals, its trend, "
    "where it crosses the baseline, and a verdict. Exit status: 0 promote, 3 tie, 4 reject, 2 an error."
)
EXAMPLES = examples(
    "scalelab compare baseline variant --tuning per-arm",
    "scalelab compare --baseline ladder.csv rung.csv --noise 0.004 --min-gain 1.05",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument(
        "sources",
        nargs="+",
        metavar="SOURCE",
        help="sweeps or tables of runs, as `scalelab fit` reads them; the first is the baseline, unless --baseline "
        "names one",
    )
    parser.add_argument(
        "--baseline",
        metavar="LADDER",
        help="sweep or table with which all others are compared; they may then be single rungs (default: the first "
        "source)",
    )
    parser.add_argument(
        "--metric",
        choices=("loss", "bpb"),
        default="loss",
        help="quantity that is compared: loss in nats per token, or bpb, bits per byte, where tokenizers differ "
        "(default: loss)",
    )
    parser.add_argument(
        "--noise",
        type=float,
        metavar="SD",
        help="standard deviation of the loss between seeds, in nats per token (bits per byte with --metric bpb), "
        "assumed; needed where no size was trained with several seeds (default: as measured)",
    )
    parser.add_argument(
        "--min-gain",
        type=float,
        default=1.0,
        metavar="FACTOR",
        help="compute multiplier that has to be exceeded (default: 1)",
    )
    parser.add_argument(
        "--alpha",
        type=float,
        default=0.025,
        metavar="LEVEL",
        help="probability of promoting a recipe that does not exceed it, over all challengers and looks (default: "
        "0.025)",
    )
    parser.add_argument(
        "--look",
        metavar="K/M",
        help="this is look K of M planned ones at growing data: early looks ask for more evidence (O'Brien-Fleming) "
        "(default: 1/1)",
    )
    parser.add_argument(
        "--constant",
        action="store_true",
        help="assume that the multiplier does not change with compute (default: fit a trend)",
    )
    parser.add_argument(
        "--reach",
        type=float,
        default=10.0,
        metavar="FACTOR",
        help="look for a crossing up to this many times the largest shared compute (default: 10)",
    )
    parser.add_argument(
        "--tuning",
        choices=("small-rate", "per-arm"),
        help="state that the runs used a small learning rate, or a rate tuned for each recipe (default: not "
        "stated, which is a warning)",
    )
    parser.add_argument(
        "--law",
        default="chinchilla",
        metavar="NAME",
        help="law that is also fitted to each recipe by itself (default: chinchilla)",
    )
    parser.add_argument(
        "--replicates",
        type=int,
        default=2000,
        metavar="COUNT",
        help="redrawn fits for the probability of a crossing; 0 for none, else at least 100 (default: 2000)",
    )
    parser.add_argument(
        "--param-count",
        choices=("total", "non_embedding", "matmul", "active"),
        metavar="COUNT",
        help="which count of parameters is N: total, non_embedding, matmul or active (default: that of the "
        "sources)",
    )
    parser.add_argument(
        "--columns",
        default="",
        metavar="n_params=N,...",
        help="names of columns in tables, as for `scalelab fit` (default: our names)",
    )
    parser.add_argument(
        "--units",
        default="",
        metavar="COLUMN=UNIT,...",
        help="units of columns in tables, as for `scalelab fit` (default: parameters, tokens, FLOPs, nats)",
    )
    parser.add_argument(
        "--decimal",
        choices=("point", "comma"),
        help="decimal sign of numbers in tables (default: as the cells show)",
    )
    add_json(parser, "the comparison")
    add_out(parser, "the report", "reports/compare-NAMES")


def run(args: argparse.Namespace) -> int:
    """Compare, print the verdicts, write the report, and return the exit status."""
    from scalelab.api.comparisons import compare
    from scalelab.comparison.verdict import CompareRequest
    from scalelab.files import write_json
    from scalelab.records.external_table import parse_columns
    from scalelab.report.plots.render_workers import RenderWorkers

    look, looks = _planned_looks(args.look)
    request = CompareRequest.of(
        metric=args.metric,
        noise=args.noise,
        min_gain=args.min_gain,
        alpha=args.alpha,
        look=look,
        looks=looks,
        constant=args.constant,
        reach=args.reach,
        tuning=args.tuning,
        law=args.law,
        replicates=args.replicates,
    )
    sources = args.sources if args.baseline is None else [args.baseline, *args.sources]
    with RenderWorkers() as workers:
        found = compare(
            *sources,
            request=request,
            columns=parse_columns(args.columns),
            param_count=args.param_count,
            units=args.units or None,
            decimal=args.decimal,
        )
        echo(str(found))
        page = found.write_report(args.out, workers=workers)
    if args.json is not None:
        write_json(args.json, found.comparison.to_json())
    echo(f"\nreport: {page}")
    return found.exit_status


def _planned_looks(text: str | None) -> tuple[int, int]:
    """Number of this look and of all planned ones."""
    from scalelab.errors import ConfigError

    parts = ("1/1" if text is None else text).split("/")
    if len(parts) != 2 or not all(part.isdecimal() for part in parts):
        raise ConfigError(f"--look {text}", where="--look", fix="write it as K/M, such as 2/4")
    return int(parts[0]), int(parts[1])
