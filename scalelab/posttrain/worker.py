"""Inside the process of one stage: take its lock, do it, say how it ended."""

import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

from scalelab.errors import ScalelabError
from scalelab.files import locked, write_text
from scalelab.launch.base import Outcome
from scalelab.launch.worker import be_first_to_die, leave_with_parent
from scalelab.posttrain.base import Given, StageDir
from scalelab.posttrain.flow import StageSpec
from scalelab.posttrain.loop import do
from scalelab.train.device import OutOfMemory, use_threads
from scalelab.train.rundir import RunDir

Report = tuple[Outcome, str | None]


def work(path: str, threads: int | None, report: Connection) -> None:
    """The body of a worker process: do the stage of a directory, report, exit."""
    leave_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    asked_to_stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: asked_to_stop.set())
    be_first_to_die()
    use_threads(threads)
    stage_dir = StageDir(RunDir(Path(path)))
    try:
        report.send((outcome_of(stage_dir, asked_to_stop.is_set), None))
    except ScalelabError as error:
        report.send(("refused", str(error)))
    except (MemoryError, OutOfMemory) as error:
        report.send(("out_of_memory", f"{error}".splitlines()[0]))
    except BaseException:
        # Our own bug. The others go on, and the driver shows where this is written.
        text = traceback.format_exc()
        write_text(stage_dir.path / "traceback.txt", text)
        report.send(("error", text.strip().splitlines()[-1]))
        sys.exit(1)


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
