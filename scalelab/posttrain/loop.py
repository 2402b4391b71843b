"""One stage from wherever it stands to its result. The only loop of post-training.

    work + newest checkpoint -> steps -> result.json, written last

It can be stopped or killed at any moment and called again: step k depends on the seed and k,
and all else is in the checkpoint, so on the same CPU the result is the same to the last bit.
What it sees it appends to the stage's journal. Wall time that a killed process spent since its
last checkpoint is not in `seconds`.

Not here: what a step is (the stages), processes (flow.py).
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
from scalelab.posttrain.base import (
    Finished,
    Given,
    StageDir,
    StageResult,
    Status,
    Step,
    Stopped,
    Work,
)
from scalelab.train import checkpoint
from scalelab.train.checkpoint import Progress
from scalelab.train.device import find_device

COUNT, COUNT_BY, LOOK = "count.", "count.flops.", "look."
"""Before the names of sums, of FLOPs by what they were spent on, and of the last look's numbers, in
a checkpoint."""
LOOKED_AT = "at step"
SUMMED = ("flops", "tokens")
POINTS = 100
"""About how many steps of a stage are logged."""


def do(stage_dir: StageDir, given: Given, stop: Callable[[], bool]) -> StageResult | None:
    """Do one stage to its end, from its newest checkpoint if it has one.

    Args:
        stage_dir: Receives journal, checkpoints, outputs and result.
        given: What the stage is given.
        stop: Asked before every step; True does that step, saves and returns.

    Returns: The result, also when it diverged; None when it was stopped.

    Raises:
        DataError, RunError: A person has to mend something first.
    """
    if (done := stage_dir.result()) is not None:
        return done
    return _Doing(stage_dir, given, given.stage.work(given)).to_the_end(stop)


class _Doing:
    def __init__(self, stage_dir: StageDir, given: Given, work: Work):
        self.dir, self.given, self.work = stage_dir, given, work
        self.id = stage_dir.id
        self.progress, tensors, passed_over = checkpoint.newest(
            stage_dir.run_dir.checkpoints, self.id
        )
        self.sums: Counter[str] = Counter()
        self.flops_by: Counter[str] = Counter()
        self.looked: dict[str, float] = {}
        resumed = self.progress is not None
        if resumed:
            self.flops_by.update(_named(tensors, COUNT_BY))
            summed = [name for name in SUMMED if COUNT + name in tensors]
            self.sums.update({name: float(tensors[COUNT + name]) for name in summed})
            self.looked = _named(tensors, LOOK)
            ours = (COUNT, LOOK)
            work.restore({k: v for k, v in tensors.items() if not k.startswith(ours)})
        self.progress = self.progress or Progress()
        self.progress.n_resumes += resumed
        self._tell(
            "start",
            pid=os.getpid(),
            device=find_device().name,
            n_steps=work.n_steps * work.updates_within,
            threads=torch.get_num_threads(),
        )
        for reason in passed_over:
            self._tell("checkpoint_passed_over", reason=reason)
        if resumed:
            self._tell("resume", step=self._at())

    def _at(self) -> int:
        """Updates made so far, as the journal counts them."""
        return self.progress.step * self.work.updates_within

    def _tell(self, event: str, **values: object) -> None:
        self.dir.run_dir.append(event, **values)

    def to_the_end(self, stop: Callable[[], bool]) -> StageResult | None:
        work, progress = self.work, self.progress
        make_dir(self.dir.run_dir.checkpoints)
        every = max(1, work.n_steps // POINTS)
        clock = saved = time.monotonic()
        wait = checkpoint.seconds_until_next(0)
        while progress.step < work.n_steps:
            stopping = stop()
            try:
                step = work.step(progress.step)
            except Stopped:
                self._spent(clock)
                self._save()
                self._tell("interrupted", step=self._at())
                return None
            progress.step += 1
            self._sum(step)
            if not math.isfinite(step.numbers.get("loss", 0.0)):
                self._spent(clock)
                reason = f"loss {step.numbers['loss']} at step {progress.step} of {work.n_steps}"
                return self._conclude("diverged", reason, Finished({}))
            told = progress.step % every == 0 or progress.step == work.n_steps
            if told and work.updates_within == 1:
                n_tokens = int(self.sums["tokens"])
                self._tell("step", step=self._at(), n_tokens=n_tokens, **step.numbers)
            if work.eval_every and progress.step % work.eval_every == 0:
                self._look()
            clock = self._spent(clock)
            if stopping or time.monotonic() - saved > wait:
                wait = self._save()
                clock = saved = time.monotonic()
            if stopping:
                self._tell("interrupted", step=self._at())
                return None
        if self.looked.get(LOOKED_AT) != progress.step:
            self._look()
        self.dir.run_dir.guard()
        finished = work.finish(self.dir.path)
        looked = {name: value for name, value in self.looked.items() if name != LOOKED_AT}
        self._spent(clock)
        return self._conclude(
            "finished", None, replace(finished, metrics=looked | dict(finished.metrics))
        )

    def _look(self) -> None:
        """Take numbers on held-out prompts, into the journal and with their cost into the sums."""
        look = self.work.evaluate()
        self._sum(replace(look, flops_by={"looks": look.flops} if look.flops else {}))
        if look.numbers:
            self._tell("eval", step=self._at(), **look.numbers)
        self.looked = dict(look.numbers) | {LOOKED_AT: float(self.progress.step)}

    def _sum(self, step: Step) -> None:
        for name in SUMMED:
            self.sums[name] += getattr(step, name)
        for name, spent in step.flops_by.items():
            self.flops_by[name] += spent

    def _spent(self, clock: float) -> float:
        now = time.monotonic()
        self.progress.train_s += now - clock
        return now

    def _save(self) -> float:
        """Write a checkpoint; how long to wait for the next."""
        began = time.monotonic()
        counts = {
            prefix + name: torch.tensor(value, dtype=torch.float64)
            for prefix, numbers in (
                (COUNT, self.sums),
                (COUNT_BY, self.flops_by),
                (LOOK, self.looked),
            )
            for name, value in numbers.items()
        }
        tensors: dict[str, Tensor] = self.work.tensors() | counts
        self.dir.run_dir.guard()
        checkpoint.save(self.dir.run_dir.checkpoints, self.id, self.progress, tensors)
        self._tell("checkpoint", step=self._at())
        return checkpoint.seconds_until_next(time.monotonic() - began)

    def _conclude(self, status: Status, reason: str | None, finished: Finished) -> StageResult:
        stage = self.given.stage
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
        self._tell("end", status=status, reason=reason)
        checkpoint.clear(self.dir.run_dir.checkpoints)
        return result


def _named(tensors: dict[str, Tensor], prefix: str) -> dict[str, float]:
    """Numbers that a checkpoint holds under a prefix."""
    return {k.removeprefix(prefix): float(v) for k, v in tensors.items() if k.startswith(prefix)}
