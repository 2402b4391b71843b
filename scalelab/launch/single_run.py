"""One run, trained in this process, and models that are exported.

Not here: texts and flags (cli/run.py, cli/export.py).
"""

import signal
import threading
from pathlib import Path

from scalelab.errors import RunError
from scalelab.file_kinds import refuse_other_path
from scalelab.train.run_directory import RunDir
from scalelab.train.spec import RunResult, RunSpec, is_id


def run_one(path: Path, root: Path) -> tuple[RunDir, RunResult | None]:
    """Train the run of one spec file, in its own run directory or in root/single/<run id>.

    Args:
        path: A spec.yaml, or the directory of one.
        root: Directory of all runs.

    Returns: The run directory and the result; None in place of the result if SIGINT or SIGTERM stopped it.

    Raises:
        RunError: The spec in a run's own directory was edited, or another process trains the run.
    """
    if path.is_dir():
        refuse_other_path(path, "run directory", "model", "run")
        path = path / "spec.yaml"
    own = RunDir(path.parent)
    if path == own.spec_path and is_id(own.run):
        spec, run_dir = own.spec(), own  # refused if it was changed
    else:
        spec = RunSpec.load(path)
        run_dir = RunDir.of(spec, root, "single")
    stop = threading.Event()
    from scalelab.train.loop import train  # torch: only this command trains in this process

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    run_dir.create(spec)
    with run_dir.claimed() as (ours, _):
        return run_dir, train(ours, stop.is_set)


def refuse_unfinished(run_dir: RunDir) -> None:
    """Refuse a run that has no final weights.

    Raises:
        RunError: The run has not finished.
    """
    result = run_dir.result()
    if result is None or result.status != "finished":
        raise RunError(
            "the run has not finished, so it has no final weights",
            where=str(run_dir.path),
            fix=f"finish it: scalelab run {run_dir.path}",
        )


def export_token_model(path: Path, out: Path) -> None:
    """Write a run on a corpus of tokens, which has no tokenizer, as a Hugging Face checkpoint.

    Args:
        path: Run directory.
        out: Directory of the checkpoint.
    """
    from scalelab.model.huggingface import to_hugging_face

    run_dir = RunDir(path)
    refuse_unfinished(run_dir)
    spec = run_dir.spec()
    to_hugging_face(spec.model, run_dir.weights_path, out, seq_len=spec.seq_len)
