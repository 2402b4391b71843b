"""`scalelab launch`: train the final run of a plan and compare it with its forecast.

Not here: processes and devices (launch/), the document of the outcome (report/outcome/).
"""

import argparse
from pathlib import Path

from scalelab.config import parse_yaml
from scalelab.file_kinds import refuse_other_path
from scalelab.files import matching, runs_directory
from scalelab.jobs.settings import LaunchConfig
from scalelab.launch.final_run import FinalRun, launch, prepare, ready
from scalelab.plan.forecast.ledger import Outcome, close
from scalelab.report.launch.document import launch_document
from scalelab.report.outcome.document import outcome_document
from scalelab.report.outcome.page import write_outcome
from scalelab.report.render.markdown import render_markdown
from scalelab.report.render.terminal import render_terminal
from scalelab.screen import echo
from scalelab.tracking.mirror_warning import warn_if_not_mirrored
from scalelab.tracking.report_mirror import log_outcome


def run(args: argparse.Namespace) -> int:
    """Train the run, print and write its outcome, and return the exit status."""
    return launch_plan(args, runs_directory())


def launch_plan(args: argparse.Namespace, root: Path) -> int:
    """Launch the plan in a directory, or resume it, and return the exit status."""
    refuse_other_path(args.plan, "plan")
    config = _config(args.set)
    final = ready(args.plan, root, args.layout, args.override)
    echo(render_terminal(launch_document(final), title=True))
    if args.dry_run:
        return 0
    if args.prepare:
        echo("\nReady for torchrun on machines that share this directory:")
        echo("  " + prepare(final, root, config))
        return 0
    was_done = final.result is not None
    final = launch(final, root, config)
    if final.behind is not None:
        echo(final.behind)
    if final.result is None:
        return _not_done(final)
    if was_done:
        echo(f"Already trained: {final.run_dir.path}")
    return _conclude(final, root, args.out)


def _config(overrides: list[str]) -> LaunchConfig:
    document = parse_yaml("{}", "--set")
    for override in overrides:
        document.override(override)
    return LaunchConfig.parse(document)


def _not_done(final: FinalRun) -> int:
    ended = final.ended
    if ended is not None and ended.outcome == "interrupted":
        echo("Interrupted. Run the same command to resume.")
        return 130
    reason = "unknown reason" if ended is None else f"{ended.outcome}: {ended.reason}"
    echo(f"The run did not finish ({reason}); see {final.run_dir.log_path}")
    for trace in matching(final.run_dir.path, "traceback*.txt"):
        echo(f"  {trace}")
    echo("Run the same command to resume from the newest checkpoint.")
    return 1


def _conclude(final: FinalRun, root: Path, out: Path | None) -> int:
    """Compare the forecast with the result: in the ledger, in a report and in MLflow."""
    result, frozen = final.result, final.frozen
    size = final.plan.spec.model.size(final.plan.spec.seq_len)
    flops = result.flops
    if frozen.flop_count == "6ND":
        flops = 6.0 * size.count(frozen.param_count) * result.n_tokens
    outcome = close(
        root,
        frozen,
        run=frozen.run or result.run,  # an older run may have its older id
        status=result.status,
        reason=result.reason,
        n_params=size.count(frozen.param_count),
        n_tokens=result.n_tokens,
        flops=flops,
        loss=result.loss,
        seconds=result.train_s,
    )
    folder = out or Path("reports") / final.plan.name
    events = list(final.run_dir.events())
    page = write_outcome(final.plan, frozen, result, outcome, events, folder)
    document = outcome_document(final.plan, frozen, result, outcome)
    echo("\n" + render_terminal(document))
    echo(f"\nreport: {page}")
    with warn_if_not_mirrored("the outcome"):
        log_outcome(
            root,
            final.plan.name,
            folder,
            frozen.digest,
            _values(final, outcome),
            render_markdown(document, title=False, detail=False),
        )
    return 0 if result.status == "finished" else 1


def _values(final: FinalRun, outcome: Outcome) -> dict[str, float | None]:
    """Predicted and actual values, as metrics for MLflow."""
    frozen, result, cost = final.frozen, final.result, final.plan.cost
    days = cost.get("days")
    quoted = frozen.quoted or [None, None]
    return {
        "predicted.loss": frozen.loss,
        "predicted.loss_low": quoted[0],
        "predicted.loss_high": quoted[1],
        "predicted.seconds": None if days is None else 86400.0 * days,
        "predicted.flops": frozen.actual["flops"],
        "actual.loss": result.loss,
        "actual.seconds": result.train_s,
        "actual.flops": outcome.flops,
        "error": outcome.error,
        "held": None if outcome.held is None else float(outcome.held),
        "restarts": float(final.restarts),
        "interventions": float(len(result.interventions)),
    }
