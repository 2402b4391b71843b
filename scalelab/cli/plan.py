"""`scalelab plan`: choose the model to train for a budget, with its cost and a frozen forecast."""

import argparse
from pathlib import Path

from scalelab.cli.arguments import add_fit_source, add_json, add_out, add_override, add_replicates, examples

DESCRIPTION = (
    "Choose the model to train for a budget, from the laws fitted to a sweep or a table: its size, tokens, "
    "layout, time and cost, with a frozen forecast. With --params and --tokens and no SOURCE, only their cost "
    "and memory are computed."
)
EXAMPLES = examples(
    "scalelab plan isoflop --budget 6.4e12",
    "scalelab plan --params 7e9 --tokens 1.4e11 --gpu h100 --gpus 64 --mfu 0.4",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add_fit_source(parser)
    group = parser.add_argument_group("budget (exactly one)")
    group.add_argument(
        "--budget", metavar="C", help='training compute in FLOPs: 1e21, or "300 PF-days" (default: none)'
    )
    group.add_argument(
        "--days",
        type=float,
        metavar="DAYS",
        help="days on --gpus devices of type --gpu, restarts and lost time included (default: none)",
    )
    group.add_argument(
        "--dollars",
        type=float,
        metavar="USD",
        help="US dollars for devices of type --gpu, restarts and lost time included, people not (default: none)",
    )
    group.add_argument(
        "--loss", type=float, metavar="L", help="loss to reach, in nats per token (default: none)"
    )
    group = parser.add_argument_group("constraints (at most one, or --params with --tokens)")
    group.add_argument(
        "--params", type=float, metavar="N", help="number of parameters (default: the optimum)"
    )
    group.add_argument(
        "--tokens", type=float, metavar="D", help="number of training tokens (default: the optimum)"
    )
    group.add_argument(
        "--max-params", type=float, metavar="N", help="largest number of parameters (default: no limit)"
    )
    group.add_argument(
        "--unique-tokens",
        type=float,
        metavar="U",
        help="size of the deduplicated corpus in tokens; a longer run repeats it (default: no limit)",
    )
    group.add_argument(
        "--tokens-available",
        type=float,
        metavar="T",
        help="training tokens of the recipe's corpus where it is not prepared on this machine, such as 300e9; "
        "requires --recipe (default: counted in the prepared corpus)",
    )
    group = parser.add_argument_group("data price and use")
    group.add_argument(
        "--token-price",
        type=float,
        metavar="USD",
        help="US dollars for one more unique token; requires --unique-tokens (default: unknown)",
    )
    group.add_argument(
        "--demand",
        type=float,
        metavar="T",
        help="tokens that the model reads and writes in its life; adds the cheapest model to train and use "
        "(default: not considered)",
    )
    group = parser.add_argument_group("hardware")
    group.add_argument(
        "--gpu",
        metavar="TYPE",
        help="type of device: h100, gb200, mi355x, tpu-v7, trn2, rtx4090, ..., or one described in --rates (default: "
        "the device of the sweep)",
    )
    group.add_argument(
        "--gpus", type=int, metavar="COUNT", help="number of devices (default: the fewest that hold the run)"
    )
    group.add_argument(
        "--mfu",
        type=float,
        metavar="SHARE",
        help="model FLOPs utilisation in training, end to end, 0 to 1, such as 0.4: bubbles, recomputation and "
        "waiting are inside it; requires --gpu (default: measured on the sweep, or estimated for the layout)",
    )
    group.add_argument(
        "--mfu-inference",
        type=float,
        metavar="SHARE",
        help="model FLOPs utilisation in use, 0 to 1; prices --demand in dollars (default: not priced)",
    )
    group.add_argument(
        "--region",
        metavar="NAME",
        help="electricity grid for the carbon estimate: us, france, world, ... (default: carbon unknown)",
    )
    group.add_argument(
        "--rates",
        type=Path,
        metavar="FILE",
        help="YAML file of prices, carbon intensities and further accelerators, in place of the shipped "
        "rates.yaml (default: the shipped one)",
    )
    group.add_argument(
        "--layout",
        default="",
        metavar="AXIS=COUNT,...",
        help="processes along each axis, such as shard=8,tensor=2 (default: the cheapest that fits)",
    )
    group = parser.add_argument_group("money, lost time and people")
    group.add_argument(
        "--price",
        metavar="USD",
        help="US dollars per device and hour, or a range: 2.5 or 2-3.5; requires --gpu (default: that of --rates)",
    )
    group.add_argument(
        "--goodput",
        type=float,
        metavar="SHARE",
        help="share of the occupied time in which devices train, 0 to 1, such as 0.9 (default: 1)",
    )
    group.add_argument(
        "--restart-reserve",
        type=float,
        metavar="SHARE",
        help="share of the training that is repeated after failures, 0 to 1, such as 0.05 (default: 0)",
    )
    group.add_argument(
        "--staff",
        type=float,
        metavar="COUNT",
        help="people who work on the run, full-time equivalents; requires --salary (default: not counted)",
    )
    group.add_argument(
        "--salary",
        type=float,
        metavar="USD",
        help="US dollars for one of them and year, such as 500e3 (default: none)",
    )
    group.add_argument(
        "--staff-months",
        type=float,
        metavar="MONTHS",
        help="months of their work (default: the time in which the devices are occupied)",
    )
    group = parser.add_argument_group("plan")
    add_override(group)
    group.add_argument(
        "--recipe",
        type=Path,
        metavar="SWEEP.yaml",
        help="sweep file with the recipe of a table's models; without its corpus, --tokens-available "
        "(default: no concrete model)",
    )
    group.add_argument(
        "--seed", type=int, default=0, metavar="SEED", help="seed of the final run (default: 0)"
    )
    group.add_argument(
        "--trials",
        type=int,
        metavar="COUNT",
        help="tuning trials assumed for the baseline cost comparison (default: 10)",
    )
    add_replicates(group)
    add_json(group, "the plan")
    add_out(group, "the plan", "plans/NAME-C")


def run(args: argparse.Namespace) -> int:
    """Plan, print, write, and return the exit status."""
    from scalelab.cli.work.plan import run

    return run(args)
