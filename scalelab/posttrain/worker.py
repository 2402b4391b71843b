"""What the process of one stage does: take its lease, check its inputs, do it."""

import os
from collections.abc import Callable
from pathlib import Path

from scalelab.jobs.base import Outcome
from scalelab.jobs.worker import Assignment
from scalelab.posttrain.base import Given, StageDir
from scalelab.posttrain.flow import check_inputs, read_spec
from scalelab.posttrain.loop import do


def do_stage(assignment: Assignment) -> Outcome:
    """Do the stage of a job."""
    return outcome_of(StageDir(assignment.dir), assignment.stop)


def outcome_of(stage_dir: StageDir, stop: Callable[[], bool]) -> Outcome:
    """Do a stage under its lease, once its inputs are verified.

    Raises:
        Taken: Another process is doing it, or has taken it over.
        ConfigError, DataError, RunError: A person has to fix something first.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # one stage, one thread
    with stage_dir.run_dir.claimed("stage") as (ours, _):
        stage_dir = StageDir(ours)
        spec = read_spec(stage_dir)
        if stage_dir.result() is None:
            check_inputs(spec)
        given = Given(
            stage=spec.stage,
            conversations=spec.data,
            seed=spec.seed,
            paths={name: Path(source.path) for name, source in spec.given.items()},
            out=stage_dir.path,
            stop=stop,
            journal=ours.append,
            guard=ours.guard,
        )
        return "interrupted" if do(stage_dir, given, stop) is None else "done"
