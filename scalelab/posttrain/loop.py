"""The loop of post-training: run one stage from its newest checkpoint to its result.

    job + newest checkpoint -> steps -> result.json, written last

A stage can be stopped or killed at any moment and run again: step k depends on the seed and k,
and everything else is in the checkpoint, so the result on the same CPU is identical bit for bit.
Metrics are appended to the stage's journal. Time that a killed process spent after its last
checkpoint is not part of `seconds`.

Not here: what a step is (stages/, trl/), processes (worker.py, jobs.py).
"""

import math
import os
import platform
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

import scalelab
from scalelab.files import make_dir
from scalelab.hardware.device import find_device, tf32_products
from scalelab.posttrain.base import (
    FinishedStage,
    StageContext,
    StageDir,
    StageJob,
    StageResult,
    Status,
    StepResult,
    StopRequested,
)
from scalelab.train.checkpoints import unsharded
from scalelab.train.checkpoints.unsharded import Progress

COUNT, COUNT_BY, LAST_EVAL = "count.", "count.flops.", "look."
"""Prefixes in a checkpoint: of totals, of FLOPs by purpose, of the last evaluation's metrics."""
EVALUATED_AT = "at step"
SUMMED = ("flops", "tokens")
POINTS = 100
"""Approximate number of steps that a stage logs."""


def run(stage_dir: StageDir, context: StageContext, stop: Callable[[], bool]) -> StageResult | None:
    """Run one stage to its end, from its newest checkpoint if it has one.

    Args:
        stage_dir: Receives journal, checkpoints, outputs and result.
        context: Settings, inputs and output directory of the stage.
        stop: Called before every step; once it returns True, that step is the last one before the
            state is saved.

    Returns: The result, also of a stage that diverged; None if it was stopped.

    Raises:
        DataError: The conversations or pairs cannot be used for this stage.
        RunError: An input or a file of the stage is missing or damaged.
    """
    if (done := stage_dir.result()) is not None:
        return done
    return _StageLoop(stage_dir, context, context.stage.create_job(context)).run_all(stop)


class _StageLoop:
    def __init__(self, stage_dir: StageDir, context: StageContext, job: StageJob):
        self.dir, self.context, self.job = stage_dir, context, job
        self.id = stage_dir.id
        self.progress, tensors, skipped = unsharded.newest(stage_dir.run_dir.checkpoints, self.id)
        self.sums: Counter[str] = Counter()
        self.flops_by: Counter[str] = Counter()
        self.last_eval: dict[str, float] = {}
        resumed = self.progress is not None
        if resumed:
            self.flops_by.update(_named(tensors, COUNT_BY))
            summed = [name for name in SUMMED if COUNT + name in tensors]
            self.sums.update({name: float(tensors[COUNT + name]) for name in summed})
            self.last_eval = _named(tensors, LAST_EVAL)
            ours = (COUNT, LAST_EVAL)
            job.restore({k: v for k, v in tensors.items() if not k.startswith(ours)})
        self.progress = self.progress or Progress()
        self.progress.n_resumes += resumed
        self._log(
            "start",
            pid=os.getpid(),
            device=find_device().name,
            n_steps=job.n_steps * job.updates_within,
            threads=torch.get_num_threads(),
        )
        for reason in skipped:
            self._log("checkpoint_passed_over", reason=reason)
        if resumed:
            self._log("resume", step=self._at())

    def _at(self) -> int:
        """Return the number of updates made so far, as the journal counts them."""
        return self.progress.step * self.job.updates_within

    def _log(self, event: str, **values: object) -> None:
        self.dir.run_dir.append(event, **values)

    def run_all(self, stop: Callable[[], bool]) -> StageResult | None:
        with tf32_products():
            return self._run_all(stop)

    def _run_all(self, stop: Callable[[], bool]) -> StageResult | None:
        job, progress = self.job, self.progress
        make_dir(self.dir.run_dir.checkpoints)
        every = max(1, job.n_steps // POINTS)
        clock = saved = time.monotonic()
        wait = unsharded.seconds_until_next(0)
        while progress.step < job.n_steps:
            stopping = stop()
            try:
                step = job.step(progress.step)
            except StopRequested:
                self._add_time(clock)
                self._save()
                self._log("interrupted", step=self._at())
                return None
            progress.step += 1
            self._sum(step)
            if not math.isfinite(step.numbers.get("loss", 0.0)):
                self._add_time(clock)
                reason = f"loss {step.numbers['loss']} at step {progress.step} of {job.n_steps}"
                return self._conclude("diverged", reason, FinishedStage({}))
            is_logged = progress.step % every == 0 or progress.step == job.n_steps
            if is_logged and job.updates_within == 1:
                n_tokens = int(self.sums["tokens"])
                self._log("step", step=self._at(), n_tokens=n_tokens, **step.numbers)
            if job.eval_every and progress.step % job.eval_every == 0:
                self._evaluate()
            clock = self._add_time(clock)
            if stopping or time.monotonic() - saved > wait:
                wait = self._save()
                clock = saved = time.monotonic()
            if stopping:
                self._log("interrupted", step=self._at())
                return None
        if self.last_eval.get(EVALUATED_AT) != progress.step:
            self._evaluate()
        self.dir.run_dir.guard()
        finished = job.finish(self.dir.path)
        evaluated = {name: value for name, value in self.last_eval.items() if name != EVALUATED_AT}
        self._add_time(clock)
        return self._conclude("finished", None, replace(finished, metrics=evaluated | dict(finished.metrics)))

    def _evaluate(self) -> None:
        """Evaluate on held-out prompts; log the metrics and add their cost to the totals."""
        found = self.job.evaluate()
        self._sum(replace(found, flops_by={"looks": found.flops} if found.flops else {}))
        if found.numbers:
            self._log("eval", step=self._at(), **found.numbers)
        self.last_eval = dict(found.numbers) | {EVALUATED_AT: float(self.progress.step)}

    def _sum(self, step: StepResult) -> None:
        for name in SUMMED:
            self.sums[name] += getattr(step, name)
        for name, spent in step.flops_by.items():
            self.flops_by[name] += spent

    def _add_time(self, clock: float) -> float:
        now = time.monotonic()
        self.progress.train_s += now - clock
        return now

    def _save(self) -> float:
        """Write a checkpoint and return the seconds to wait before the next one."""
        began = time.monotonic()
        counts = {
            prefix + name: torch.tensor(value, dtype=torch.float64)
            for prefix, numbers in (
                (COUNT, self.sums),
                (COUNT_BY, self.flops_by),
                (LAST_EVAL, self.last_eval),
            )
            for name, value in numbers.items()
        }
        tensors: dict[str, Tensor] = self.job.tensors() | counts
        self.dir.run_dir.guard()
        unsharded.save(self.dir.run_dir.checkpoints, self.id, self.progress, tensors)
        self._log("checkpoint", step=self._at())
        return unsharded.seconds_until_next(time.monotonic() - began)

    def _conclude(self, status: Status, reason: str | None, finished: FinishedStage) -> StageResult:
        stage = self.context.stage
        result = StageResult(
            stage=stage.name,
            kind=stage.kind,
            id=self.id,
            status=status,
            reason=reason,
            metrics=dict(finished.metrics),
            flops=self.sums["flops"] + finished.flops,
            flops_by=dict(self.flops_by) | dict(finished.flops_by),
            n_tokens=int(self.sums["tokens"]),
            memory_bytes=dict(finished.memory_bytes),
            seconds=self.progress.train_s,
            device=find_device().name,
            n_resumes=self.progress.n_resumes,
            versions={
                "scalelab": scalelab.__version__,
                "torch": torch.__version__,
                "python": platform.python_version(),
                **finished.versions,
            },
            finished_ms=time.time_ns() // 1_000_000,
            tables=dict(finished.tables),
            files=dict(finished.files),
        )
        result = self.dir.write_result(result)
        self._log("end", status=status, reason=reason)
        unsharded.clear(self.dir.run_dir.checkpoints)
        return result


def _named(tensors: dict[str, Tensor], prefix: str) -> dict[str, float]:
    """Return the numbers that a checkpoint holds under a prefix."""
    return {k.removeprefix(prefix): float(v) for k, v in tensors.items() if k.startswith(prefix)}
