"""Inside the process of one stage: take its lease, do it, say how it ended."""

import os
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

from scalelab.launch.base import Outcome
from scalelab.launch.worker import begin, end
from scalelab.posttrain.base import Given, StageDir
from scalelab.posttrain.flow import check_inputs, read_spec
from scalelab.posttrain.loop import do
from scalelab.train.rundir import RunDir


def work(path: str, threads: int | None, report: Connection) -> None:
    """The body of a worker process: do the stage of a directory, report, exit."""
    stop = begin(threads)
    stage_dir = StageDir(RunDir(Path(path)))
    end(report, stage_dir.path, lambda: outcome_of(stage_dir, stop))


def outcome_of(stage_dir: StageDir, stop: Callable[[], bool]) -> Outcome:
    """Do a stage under its lease, once its inputs are verified.

    Raises:
        Taken: Another process is doing it, or has taken it over.
        ConfigError, DataError, RunError: A person has to fix something first.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # one stage, one thread
    # The worker of a command that was killed a moment ago takes a moment to leave.
    with stage_dir.run_dir.claimed("stage", wait_s=5.0) as (ours, _):
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
