"""`scalelab launch`: the final run of a plan, and what came true of its forecast.

    plan directory -> checks, gate -> training (launch room) -> ledger -> report -> MLflow

Not here: processes and devices (the launch room), the report's words and figures (outcome.py).
"""

import argparse
from pathlib import Path

from scalelab.config import parse_yaml
from scalelab.launch.base import LaunchConfig
from scalelab.launch.final import FinalRun, describe, launch, prepare, ready
from scalelab.plan.ledger import Outcome, close
from scalelab.report.mirrored import or_later
from scalelab.report.outcome import outcome_text, write_outcome
from scalelab.track.mirror import log_outcome


def launch_plan(args: argparse.Namespace, root: Path) -> int:
    """Launch, or go on with, the plan in a directory. Returns the exit code."""
    config = _config(args.set)
    final = ready(args.plan, root, args.layout, args.override)
    print(describe(final))
    if args.dry_run:
        return 0
    if args.prepare:
        print("\nready for torchrun, on machines that share this directory:")
        print("  " + prepare(final, root, config))
        return 0
    was_done = final.result is not None
    final = launch(final, root, config)
    if final.behind is not None:
        print(final.behind)
    if final.result is None:
        return _not_done(final)
    if was_done:
        print(f"trained already: {final.run_dir.path}")
    return _conclude(final, root, args.out)


def _config(overrides: list[str]) -> LaunchConfig:
    document = parse_yaml("{}", "--set")
    for override in overrides:
        document.override(override)
    return LaunchConfig.parse(document)


def _not_done(final: FinalRun) -> int:
    ended = final.ended
    if ended is not None and ended.outcome == "interrupted":
        print("stopped; the same command goes on from here")
        return 130
    reason = "no word of why" if ended is None else f"{ended.outcome}: {ended.reason}"
    print(f"the run did not come to its end ({reason}); see {final.run_dir.log_path}")
    for trace in sorted(final.run_dir.path.glob("traceback*.txt")):
        print(f"  {trace}")
    print("the same command tries again from the newest checkpoint")
    return 1


def _conclude(final: FinalRun, root: Path, out: Path | None) -> int:
    """Hold the forecast against what came true: in the ledger, in a report, in MLflow."""
    result, frozen = final.result, final.frozen
    size = final.plan.spec.model.size(final.plan.spec.seq_len)
    flops = result.flops
    if frozen.flop_count == "6ND":
        flops = 6.0 * size.count(frozen.param_count) * result.n_tokens
    outcome = close(
        root,
        frozen,
        run=frozen.run or result.run,  # a run from before may lie under its older id
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
    words = outcome_text(final.plan, frozen, result, outcome)
    print("\n" + words)
    print(f"\nreport: {page}")
    with or_later("the outcome"):
        log_outcome(root, final.plan.name, folder, frozen.digest, _values(final, outcome), words)
    return 0 if result.status == "finished" else 1


def _values(final: FinalRun, outcome: Outcome) -> dict[str, float | None]:
    """Predicted and actual as metrics."""
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
