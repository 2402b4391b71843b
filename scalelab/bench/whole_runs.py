"""Short whole runs of the training loop, with a corpus, checkpoints and a result, in a directory of their own.

Not here: training steps without all that (steps.py).
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from scalelab.bench.workbench import Workbench
from scalelab.data.corpus.shards import prepare
from scalelab.train.loop import train
from scalelab.train.run_directory import RunDir
from scalelab.train.spec import RunResult, RunSpec

CACHE = "SCALELAB_CACHE"
EVALUATION = {"tokens": 2048, "curve_points": 2, "curve_tokens": 2048}


@contextmanager
def own_cache(directory: Path) -> Iterator[None]:
    """Let prepared corpora lie below a directory while the body runs."""
    before = os.environ.get(CACHE)
    os.environ[CACHE] = str(directory / "cache")
    try:
        yield
    finally:
        if before is None:
            del os.environ[CACHE]
        else:
            os.environ[CACHE] = before


def short_run(bench: Workbench, n_steps: int, batch_tokens: int) -> RunSpec:
    """Return a run of the smallest model on the synthetic language, its corpus prepared.

    Args:
        bench: Device and workload.
        n_steps: Steps.
        batch_tokens: Tokens of a step.
    """
    corpus = prepare(bench.workload.recipe.data)
    changes = {"data_digest": corpus.digest, "evaluation": EVALUATION}
    return bench.spec_at(bench.workload.reference, n_steps=n_steps, batch_tokens=batch_tokens, **changes).spec


def trained(spec: RunSpec, directory: Path, stops: tuple[int, ...] = ()) -> RunResult:
    """Train a run to its end and return its result.

    Args:
        spec: The run; its corpus is prepared.
        directory: Directory of runs.
        stops: Steps at which it is interrupted, each time to be resumed from its checkpoint.
    """
    run_dir = RunDir.of(spec, directory, "bench")
    run_dir.create(spec)
    for steps in stops:
        _train_steps(run_dir, steps)
    result = train(run_dir)
    assert result is not None, "nothing stops the last attempt"
    return result


def _train_steps(run_dir: RunDir, steps: int) -> None:
    """Train until the loop has asked so many times whether to stop."""
    asked = iter(range(steps))
    train(run_dir, stop=lambda: next(asked, None) is None)
