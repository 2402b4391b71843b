"""Checkpoints: seconds that training waits for one, seconds until it is on the disk, and the share of a run.

    stall    seconds that the loop is held: on a GPU the copy to host memory, on a CPU the whole save
    slower   time of the steps beside the writing, over that of steps without it
    share    stall / (stall + interval), with the interval that the loop chooses after such a stall

The directory is the temporary one of the command, so its disk is measured, not that of the runs, unless
TMPDIR says so.
"""

import time
from collections.abc import Iterator

from scalelab.bench.attempt import attempt_steps
from scalelab.bench.base import BenchColumn, Benchmark, BenchRow
from scalelab.bench.steps import TrainingSteps
from scalelab.bench.workbench import SizedSpec, Workbench
from scalelab.train.checkpoints import unsharded
from scalelab.train.checkpoints.saver import UnshardedSaver
from scalelab.train.checkpoints.unsharded import Progress
from scalelab.train.loop import saves_in_background

WARM_STEPS = 3
MOST_BESIDE = 50
"""Most steps that are timed while a checkpoint is written."""


class CheckpointBenchmark(Benchmark):
    """Saving the reference and the middle model."""

    title = "Checkpoints"
    seconds = 25.0
    columns = (
        BenchColumn("bytes", "size", "bytes", "computed"),
        BenchColumn("stall_s", "stall", "seconds"),
        BenchColumn("written_s", "written in", "seconds"),
        BenchColumn("bytes_per_s", "writes", "bytes/s"),
        BenchColumn("slowdown", "steps beside", "ratio"),
        BenchColumn("share", "share", "share", "computed"),
    )
    note = (
        "Stall: seconds that training waits. Share: of a run's time, at the interval that the loop chooses."
    )

    def rows(self, bench: Workbench, ends: float) -> Iterator[BenchRow]:
        """See Benchmark."""
        for size in (bench.workload.reference, bench.workload.middle):
            yield attempt_steps(bench, bench.spec_at(size), ends, _row)


def _row(bench: Workbench, sized: SizedSpec, ends: float) -> BenchRow:
    steps = TrainingSteps(sized.spec, bench.device)
    optimizer = steps.engine.optimizer

    def state():
        return {**optimizer.weights(), **optimizer.state()}

    folder = bench.directory / f"checkpoints-{sized.name}"
    folder.mkdir()
    background = saves_in_background(bench.device)
    saver = UnshardedSaver(folder, "bench", state, lambda: None, background=background)
    try:
        steps.seconds(WARM_STEPS)
        alone = steps.seconds(WARM_STEPS) / WARM_STEPS
        saver.begin(Progress(step=1))
        saver.wait()  # the first save also sets the buffers aside
        begun = time.perf_counter()
        saver.begin(Progress(step=2))
        stall, beside = time.perf_counter() - begun, list[float]()
        while saver.is_busy and len(beside) < MOST_BESIDE and time.monotonic() < ends:
            beside.append(steps.seconds(1))
        saver.wait()
        written = time.perf_counter() - begun
    finally:
        saver.close()
        size = sum(tensor.nbytes for tensor in state().values())
        steps.close()
    return BenchRow(
        sized.name,
        "measured",
        {
            "bytes": size,
            "stall_s": stall,
            "written_s": written,
            "bytes_per_s": size / written,
            "slowdown": sum(beside) / len(beside) / alone if beside else None,
            "share": stall / (stall + unsharded.seconds_until_next(stall)),
        },
    )
