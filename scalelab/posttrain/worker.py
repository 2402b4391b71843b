"""The process of one stage: take its lease, check its inputs, run it."""

import os
from collections.abc import Callable
from pathlib import Path

from scalelab.jobs.base import Outcome
from scalelab.jobs.worker import Assignment
from scalelab.posttrain.base import StageContext, StageDir
from scalelab.posttrain.loop import run
from scalelab.posttrain.pipeline import check_inputs, read_spec


def run_stage(assignment: Assignment) -> Outcome:
    """Run the stage of a job."""
    return run_claimed_stage(StageDir(assignment.dir), assignment.stop)


def run_claimed_stage(stage_dir: StageDir, stop: Callable[[], bool]) -> Outcome:
    """Run a stage under its lease, after its inputs have been verified.

    Raises:
        LeaseTaken: Another process is running it, or has taken it over.
        ConfigError, DataError, RunError: The stage cannot run until a user corrects its inputs.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # one stage, one thread
    with stage_dir.run_dir.claimed("stage") as (ours, _):
        stage_dir = StageDir(ours)
        spec = read_spec(stage_dir)
        if stage_dir.result() is None:
            check_inputs(spec)
        context = StageContext(
            stage=spec.stage,
            conversations=spec.data,
            seed=spec.seed,
            paths={name: Path(source.path) for name, source in spec.given.items()},
            out=stage_dir.path,
            stop=stop,
            journal=ours.append,
            guard=ours.guard,
        )
        return "interrupted" if run(stage_dir, context, stop) is None else "done"
