"""`scalelab sweep`: train the family of models of a sweep file."""

import argparse

from scalelab.cli.arguments import add_dry_run, add_file, add_json, add_set, examples, read_file_argument
from scalelab.files import runs_directory
from scalelab.screen import echo

DESCRIPTION = (
    "Train the family of models that a sweep file describes. Runs that are trained already are kept; "
    "interrupted runs resume."
)
EXAMPLES = examples(
    "scalelab sweep sweeps/isoflop.yaml",
    "scalelab sweep sweeps/isoflop.yaml --dry-run --set recipe.seq_len=128",
    "scalelab sweep sweeps/isoflop.yaml --dry-run --no-timing",
    "scalelab sweep sweeps/isoflop.yaml --prepare",
)
PREPARED = ("workers", "kubernetes")
"""What runs can be prepared for, the default first."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add_file(parser, "sweep")
    add_set(parser, "recipe.seq_len=256")
    add_dry_run(parser, "print every run and its cost")
    parser.add_argument(
        "--no-timing",
        action="store_true",
        help="do not time a few steps of the models, so the time of the runs stays unknown "
        "(default: time them for 10 seconds at most)",
    )
    parser.add_argument(
        "--prepare",
        nargs="?",
        const="workers",
        choices=PREPARED,
        metavar="FOR",
        help="queue the runs instead of training them, and print what starts workers: workers (a command), "
        "kubernetes (the manifest of a Job, with launch.kubernetes of the sweep file) "
        "(default: train them)",
    )
    add_json(parser, "the plan")


def run(args: argparse.Namespace) -> int:
    """Print the plan, train the sweep, print what came of it, and return the exit status."""
    path = read_file_argument(args)
    if path is None:
        return 0
    from scalelab.files import write_json
    from scalelab.launch.sweep import SweepPlan, plan_sweep, refuse_unfinished, run_sweep, time_plan
    from scalelab.launch.sweep_timing import LIMIT_S
    from scalelab.report.render.terminal import render_terminal
    from scalelab.report.sweep.document import plan_document, result_document, timing_document
    from scalelab.sweep.file import SweepFile

    def show(plan: SweepPlan) -> None:
        echo(render_terminal(plan_document(plan), title=True), flush=True)
        if args.json is not None:
            write_json(args.json, plan.to_json())

    def show_time(plan: SweepPlan) -> None:
        if plan.timing is not None:
            echo("\n" + render_terminal(timing_document(plan)), flush=True)
            if args.json is not None:
                write_json(args.json, plan.to_json())

    file = SweepFile.load(path, args.set)
    limit_s = None if args.no_timing else LIMIT_S
    if args.dry_run:
        plan = plan_sweep(file, runs_directory())
        show(plan)
        if limit_s is not None:
            show_time(time_plan(plan, limit_s))
        return 0
    if args.prepare is not None:
        from scalelab.launch.sweep_queue import queue_sweep, refuse_unfit_pods

        if args.prepare == "kubernetes":
            refuse_unfit_pods(file, runs_directory())
        queued = queue_sweep(file, runs_directory(), show)
        if args.prepare == "kubernetes":
            place = queued.write_manifest()
            echo(f"\n{queued.n_jobs} jobs are queued. Start their workers with:\n  kubectl apply -f {place}")
            return 0
        echo(f"\n{queued.n_jobs} jobs are queued. Start workers where {queued.queue.home} is shared:")
        echo(f"  {queued.command}")
        return 0
    result = run_sweep(file, runs_directory(), show, show_time, limit_s)
    echo(render_terminal(result_document(result)))
    if result.interrupted:
        return 130
    if result.lost:
        return 1
    refuse_unfinished(result)
    return 0
