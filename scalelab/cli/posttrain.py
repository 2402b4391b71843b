"""`scalelab posttrain`: post-train a base model in stages, grade every model and write the report."""

import argparse
import sys
from pathlib import Path

from scalelab.cli.arguments import (
    add_dry_run,
    add_file,
    add_json,
    add_out,
    add_set,
    examples,
    read_file_argument,
)
from scalelab.files import exists
from scalelab.screen import echo

DESCRIPTION = (
    "Post-train a base model as a post-training file describes: supervised fine-tuning, preferences, a reward "
    "model, DPO, PPO, grades. Stages that are done are kept; interrupted stages resume."
)
EXAMPLES = examples(
    "scalelab posttrain sweeps/posttrain/assistant.yaml",
    "scalelab posttrain sweeps/posttrain/assistant.yaml --dry-run",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add_file(parser, "post-training")
    add_set(parser, "seed=1")
    add_dry_run(parser, "print every stage and its greatest cost")
    add_json(parser, "the grades")
    add_out(parser, "the report", "reports/NAME")


def run(args: argparse.Namespace) -> int:
    """Print the plan, run the stages, print and write the report, and return the exit status."""
    path = read_file_argument(args)
    if path is None:
        return 0
    from scalelab.files import runs_directory, write_json
    from scalelab.jobs.base import JobOutcome
    from scalelab.posttrain.pipeline import PosttrainFile
    from scalelab.posttrain.run import plan_posttrain, run_posttrain
    from scalelab.report.posttrain.document import plan_document, result_document
    from scalelab.report.posttrain.mirror import mirror_report
    from scalelab.report.posttrain.page import write_page
    from scalelab.report.posttrain.results import collect_results, record
    from scalelab.report.render.terminal import render_terminal

    def report_failure(ended: JobOutcome) -> None:
        lines = [f"error: stage {ended.job.id} ({ended.outcome}): {ended.reason}"]
        if ended.outcome == "refused":
            lines += [f"  where: {ended.where}", f"  fix:   {ended.fix}"]
        trace = ended.job.dir.path / "traceback.txt"
        if ended.outcome == "error" and exists(trace):
            lines.append(f"  traceback: {trace}")
        echo("\n".join(lines), file=sys.stderr)

    plan = plan_posttrain(PosttrainFile.load(path, args.set), runs_directory())
    echo(render_terminal(plan_document(plan), title=True), flush=True)
    if args.dry_run:
        return 0
    finished = run_posttrain(plan)
    if finished.behind is not None:
        echo(finished.behind)
    if finished.interrupted:
        echo("Interrupted. Run the same command to resume.")
        return 130
    data = collect_results(plan, finished.reasons)
    folder = args.out or Path("reports") / plan.file.name
    page = write_page(data, folder)
    if args.json is not None:
        write_json(args.json, record(data))
    echo("\n" + render_terminal(result_document(data)))
    echo(f"\nreport: {page}")
    mirror_report(plan, data, folder)
    for ended in finished.failed:
        report_failure(ended)
    for name, reason in finished.diverged.items():
        lines = [
            f"error: stage {name} diverged: {reason}",
            f"  where: {args.file}, stage {name}",
            "  fix:   lower the learning rate of that stage, and run the command again",
        ]
        echo("\n".join(lines), file=sys.stderr)
    if not finished.failed:
        return 1 if finished.diverged else 0
    return 2 if all(ended.outcome == "refused" for ended in finished.failed) else 1
