"""Inside the process of one stage: take its lock, do it, say how it ended."""

import os
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

from scalelab.files import locked
from scalelab.launch.base import Outcome
from scalelab.launch.worker import begin, end
from scalelab.posttrain.base import Given, StageDir
from scalelab.posttrain.flow import StageSpec
from scalelab.posttrain.loop import do
from scalelab.train.rundir import RunDir


def work(path: str, threads: int | None, report: Connection) -> None:
    """The body of a worker process: do the stage of a directory, report, exit."""
    stop = begin(threads)
    stage_dir = StageDir(RunDir(Path(path)))
    end(report, stage_dir.path, lambda: outcome_of(stage_dir, stop))


def outcome_of(stage_dir: StageDir, stop: Callable[[], bool]) -> Outcome:
    """Do a stage under its lock. Raises LaunchError where somebody else is doing it."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # one stage, one thread
    spec = StageSpec.load(stage_dir.run_dir.spec_path)
    problem = f"stage {spec.stage.name} is being done by another process"
    with locked(stage_dir.run_dir.lock_path, problem, "wait for it to end, or stop it"):
        given = Given(
            stage=spec.stage,
            conversations=spec.data,
            seed=spec.seed,
            paths={name: Path(source.path) for name, source in spec.given.items()},
            out=stage_dir.path,
            stop=stop,
            journal=stage_dir.run_dir.append,
        )
        return "interrupted" if do(stage_dir, given, stop) is None else "done"
