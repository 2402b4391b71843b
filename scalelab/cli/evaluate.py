"""`scalelab eval`: evaluate models as an evaluation file describes."""

import argparse

from scalelab.cli.arguments import (
    add_dry_run,
    add_file,
    add_json,
    add_out,
    add_set,
    examples,
    read_file_argument,
)
from scalelab.screen import echo

DESCRIPTION = (
    "Evaluate models as an evaluation file describes: loss on document sets, tasks, pairwise win rates, "
    "contamination, predictions of larger models. Measurements that are done are kept."
)
EXAMPLES = examples(
    "scalelab eval sweeps/eval/compared.yaml", "scalelab eval sweeps/eval/compared.yaml --dry-run"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add_file(parser, "evaluation")
    add_set(parser, "seed=1")
    add_dry_run(parser, "print every model and measurement")
    add_json(parser, "the measurements")
    add_out(parser, "the report", "reports/NAME")


def run(args: argparse.Namespace) -> int:
    """Run the measurements, print and write the report, and return the exit status."""
    path = read_file_argument(args)
    if path is None:
        return 0
    from pathlib import Path

    from scalelab.evals.evaluation_runner import evaluate
    from scalelab.evals.request import EvalRequest
    from scalelab.files import make_dir, runs_directory, write_json, write_text
    from scalelab.report.evaluation.document import plan_document, result_document
    from scalelab.report.render.markdown import render_markdown
    from scalelab.report.render.terminal import render_terminal
    from scalelab.tracking.mirror_warning import warn_if_not_mirrored
    from scalelab.tracking.report_mirror import log_evaluation

    root = runs_directory()
    request = EvalRequest.load(path, args.set, root, lambda text: echo(f"  measured: {text}", flush=True))
    file = request.file
    echo(render_terminal(plan_document(request.context()), title=True))
    if args.dry_run:
        return 0
    result = evaluate(request)
    document = result_document(result)
    folder = make_dir(args.out or Path("reports") / file.name)
    write_json(folder / "evals.json", result.to_json())
    if args.json is not None:
        write_json(args.json, result.to_json())
    write_text(folder / "README.md", render_markdown(document))
    echo("\n" + render_terminal(document))
    echo(f"\nreport: {folder / 'README.md'}")
    with warn_if_not_mirrored("the report"):
        key = f"eval:{file.digest}:{':'.join(result.digests.values())}"
        log_evaluation(root, file.name, folder, key, result.values, f"{len(result.rows)} measurements")
    return 0
