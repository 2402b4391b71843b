"""One training run, from wherever it stands to its result. The only loop there is.

    spec + corpus  ->  steps (checkpointed by the clock)  ->  result.json, written last

Every run, from the smallest of a sweep to the final one, comes through `train`. It can be
stopped at any moment and called again: batch k depends on the seed and k alone, and all
else that matters is in the checkpoint, so on the same CPU the result is the same to the
last bit. What the loop sees on its way it appends to the run's log.

Numbers:  loss in nats per token; n_tokens tokens; rates per second of wall time.
Not here: which runs there are (sweep), who calls and watches (launch), mirrors (track).
"""

import math
import os
import platform
import socket
import time
from collections.abc import Callable

import numpy as np
import torch

import scalelab
from scalelab.data.shards import Corpus, open_corpus
from scalelab.data.stream import Stream, n_tokens_unique, validation_windows
from scalelab.errors import DataError, RunError
from scalelab.files import make_dir
from scalelab.model import NETWORKS
from scalelab.train import checkpoint
from scalelab.train.checkpoint import Progress
from scalelab.train.device import Device, OutOfMemory, find_device
from scalelab.train.evaluate import validation_loss
from scalelab.train.memory import first_micro_rows
from scalelab.train.optim import FlatAdamW
from scalelab.train.rundir import RunDir
from scalelab.train.spec import RunResult, RunSpec

WORSE_THAN_UNTRAINED = 1.0
"""Nats above ln(vocabulary) at which a run counts as diverged."""


class Diverged(Exception):
    """The loss is no number any more, or worse than that of an untrained model."""


def train(run_dir: RunDir, stop: Callable[[], bool] = lambda: False) -> RunResult | None:
    """Train one run to its end, from its newest checkpoint if it has one.

    Args:
        run_dir: Holds the spec; receives log, checkpoints and result.
        stop: Asked after every step; True saves and returns, to go on another time.

    Returns: The result, also when the run diverged; None when it was stopped.

    Raises:
        RunError: The directory cannot be written, or belongs to another spec.
        DataError: The corpus is gone or damaged.
    """
    if (done := run_dir.result()) is not None:
        return done
    return _Run(run_dir).to_the_end(stop)


class _Run:
    """The state of one run in one process."""

    def __init__(self, run_dir: RunDir):
        self.dir = run_dir
        self.spec: RunSpec = run_dir.spec()
        spec = self.spec
        self.device: Device = find_device()
        self.precision = self.device.precision(spec.precision)
        self.corpus: Corpus = open_corpus(spec.data_digest)
        self.stream = Stream(self.corpus.tokens("train"), spec.seq_len, spec.seed)
        self.rows = spec.batch_tokens // spec.seq_len
        self.size = spec.model.size(spec.seq_len)
        self.network = self._build()
        working = torch.bfloat16 if self.precision == "bf16" else torch.float32
        self.optimizer = FlatAdamW(self.network, self.network.kinds(), spec.optimizer, working)
        self.forward = torch.compile(self.network) if self.device.kind == "cuda" else self.network
        self.progress = self._resume()
        self.windows = {
            n: self._fixed_windows(n)
            for n in (spec.evaluation.tokens, spec.evaluation.curve_tokens)
        }
        # Every run logs about a hundred points, on fixed steps, so that logs are comparable.
        self.log_every = max(1, min(50, spec.n_steps // 100))
        points = spec.evaluation.curve_points
        self.eval_at = {spec.n_steps * i // (points + 1) for i in range(1, points + 1)} - {0}

    def _fixed_windows(self, n_tokens: int) -> np.ndarray:
        """The validation windows of a loss. Raises DataError where there are too few."""
        windows = validation_windows(self.corpus, self.spec.seq_len, n_tokens)
        if len(windows) < n_tokens // self.spec.seq_len:
            raise DataError(
                f"{n_tokens} validation tokens are asked for, and "
                f"{len(windows) * self.spec.seq_len} are there",
                where=f"evaluation of {self.dir.spec_path}",
                fix="ask for fewer evaluation tokens, or hold out more text",
            )
        return windows

    def _build(self) -> torch.nn.Module:
        network = NETWORKS[self.spec.model.kind](self.spec.model)
        network.reset(self.spec.seed)
        return network.to(self.device.torch)

    def _resume(self) -> Progress:
        spec = self.spec
        progress, tensors, passed_over = checkpoint.newest(self.dir.checkpoints, spec.digest)
        fresh = progress is None
        if progress is None:
            device = self.device
            rows = first_micro_rows(spec, device.kind, device.memory_bytes, self.precision)
            progress = Progress(micro_rows=rows)
        else:
            self.optimizer.restore(tensors, tensors)
            progress.n_resumes += 1
        self.dir.append(
            "start",
            pid=os.getpid(),
            host=socket.gethostname(),
            device=self.device.name,
            precision=self.precision,
            threads=torch.get_num_threads(),
            n_steps=spec.n_steps,
            batch_tokens=spec.batch_tokens,
            n_params_total=self.size.n_params_total,
        )
        for reason in passed_over:
            self.dir.append("checkpoint_passed_over", reason=reason)
        if not fresh:
            self.dir.append("resume", step=progress.step)
        return progress

    def to_the_end(self, stop: Callable[[], bool]) -> RunResult | None:
        progress, spec = self.progress, self.spec
        make_dir(self.dir.checkpoints)
        clock = saved = time.monotonic()
        wait, since_log, logged_step = checkpoint.seconds_until_next(0), clock, progress.step
        loss_sum = torch.zeros((), dtype=torch.float64, device=self.device.torch)
        norm = loss_sum
        try:
            while progress.step < spec.n_steps:
                loss, norm = self._step()
                loss_sum += loss
                progress.loss_steps += 1
                progress.step += 1
                now = time.monotonic()
                if progress.step % self.log_every == 0 or progress.step == spec.n_steps:
                    progress.loss_sum += float(loss_sum)
                    loss_sum.zero_()
                    now = time.monotonic()  # reading the loss waited for the device
                    pace = (progress.step - logged_step) / max(now - since_log, 1e-9)
                    self._log(float(norm), pace * spec.batch_tokens)
                    since_log, logged_step = now, progress.step
                progress.train_s += now - clock
                clock = now
                if progress.step in self.eval_at:
                    self._evaluate_on_the_way()
                    clock = since_log = time.monotonic()
                    logged_step = progress.step
                stopping = stop()
                if stopping or now - saved > wait:
                    progress.loss_sum += float(loss_sum)
                    loss_sum.zero_()
                    wait = self._save()
                    clock = saved = since_log = time.monotonic()
                    logged_step = progress.step
                if stopping:
                    self.dir.append("interrupted", step=progress.step)
                    return None
            return self._finish()
        except Diverged as reason:
            return self._conclude("diverged", str(reason), None, None)

    def _step(self) -> tuple[torch.Tensor, torch.Tensor]:
        """One optimizer step, its batch in as many micro-batches as memory asks for."""
        spec, step = self.spec, self.progress.step
        batch = torch.from_numpy(self.stream.batch(step, self.rows))
        if self.device.kind == "cuda":
            batch = batch.pin_memory().to(self.device.torch, non_blocking=True)
        while True:
            try:
                loss = self._gradient(batch)
                break
            except OutOfMemory as error:
                self._halve(error)
        norm = self.optimizer.step(spec.schedule.factor(step, spec.n_steps))
        return loss, norm

    def _gradient(self, batch: torch.Tensor) -> torch.Tensor:
        """Mean loss of the batch; its gradient is left in the optimizer."""
        rows = self.progress.micro_rows
        total = torch.zeros((), dtype=torch.float64, device=self.device.torch)
        for start in range(0, self.rows, rows):
            micro = batch[start : start + rows]
            loss = self.forward(micro[:, :-1], micro[:, 1:]) * (len(micro) / self.rows)
            loss.backward()
            self.optimizer.gather()
            total += loss.detach()
        return total

    def _halve(self, error: OutOfMemory) -> None:
        """Go on with half the micro-batch: the same batch, the same mathematics."""
        progress = self.progress
        if progress.micro_rows == 1:
            raise RunError(
                f"one window of {self.spec.seq_len} tokens does not fit in the device's memory",
                where=f"{self.dir.path}, on {self.device.name}: {str(error).splitlines()[0]}",
                fix="train a smaller model, or use a device with more memory",
            ) from error
        progress.micro_rows = -(-progress.micro_rows // 2)
        self.optimizer.forget_gradient()
        if self.device.kind == "cuda":
            torch.cuda.empty_cache()
        micro_tokens = progress.micro_rows * self.spec.seq_len
        self.dir.append("out_of_memory", micro_batch_tokens=micro_tokens)

    def _log(self, norm: float, tokens_per_s: float) -> None:
        progress, spec = self.progress, self.spec
        loss = progress.loss_sum / progress.loss_steps
        progress.loss_sum, progress.loss_steps = 0.0, 0
        n_tokens = progress.step * spec.batch_tokens
        step, n_steps = progress.step, spec.n_steps
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise Diverged(f"loss {loss}, gradient norm {norm} by step {step} of {n_steps}")
        limit = math.log(spec.model.vocab_size) + WORSE_THAN_UNTRAINED
        if loss > limit:
            raise Diverged(
                f"training loss {loss:.2f} by step {step} of {n_steps}, "
                f"over {limit:.2f}: more than an untrained model's"
            )
        progress.train_curve.append([step, n_tokens, loss])
        self.dir.append(
            "step",
            step=step,
            n_tokens=n_tokens,
            loss=loss,
            lr=spec.optimizer.lr_matrix * spec.schedule.factor(step - 1, n_steps),
            grad_norm=norm,
            tokens_per_s=tokens_per_s,
            mfu=self._mfu(tokens_per_s),
        )

    def _mfu(self, tokens_per_s: float | None) -> float | None:
        peak = self.device.peak_flops_per_s
        if peak is None or tokens_per_s is None:
            return None
        return tokens_per_s * self.size.flops_per_token / peak

    def _validate(self, windows: np.ndarray) -> tuple[float, float]:
        """Validation loss; on a CPU with the fp32 master weights, on a GPU with the working."""
        arguments = (windows, self.device.torch, self.spec.model.vocab_size)
        if self.device.kind == "cuda":
            return validation_loss(self.network, *arguments)
        with self.optimizer.full_precision():
            return validation_loss(self.network, *arguments)

    def _evaluate_on_the_way(self) -> None:
        progress, begun = self.progress, time.monotonic()
        n_tokens = progress.step * self.spec.batch_tokens
        loss, _ = self._validate(self.windows[self.spec.evaluation.curve_tokens])
        progress.eval_s += time.monotonic() - begun
        if not math.isfinite(loss):
            raise Diverged(f"validation loss {loss} at step {progress.step}")
        progress.curve.append([progress.step, n_tokens, loss])
        self.dir.append("eval", step=progress.step, n_tokens=n_tokens, loss=loss)

    def _save(self) -> float:
        """Save, and say how long to train before the next save."""
        begun = time.monotonic()
        tensors = {**self.optimizer.weights(), **self.optimizer.moments()}
        checkpoint.save(self.dir.checkpoints, self.spec.digest, self.progress, tensors)
        self.dir.append("checkpoint", step=self.progress.step)
        return checkpoint.seconds_until_next(time.monotonic() - begun)

    def _finish(self) -> RunResult:
        begun = time.monotonic()
        loss, error = self._validate(self.windows[self.spec.evaluation.tokens])
        self.progress.eval_s += time.monotonic() - begun
        untrained = math.log(self.spec.model.vocab_size)
        if not math.isfinite(loss) or loss > untrained + WORSE_THAN_UNTRAINED:
            raise Diverged(f"final validation loss {loss}, an untrained model's is {untrained:.2f}")
        checkpoint.save_weights(self.dir.weights_path, self.optimizer.weights())
        return self._conclude("finished", None, loss, error)

    def _conclude(
        self, status: str, reason: str | None, loss: float | None, error: float | None
    ) -> RunResult:
        """Write down what the run came to: log first, result last."""
        spec, size, progress = self.spec, self.size, self.progress
        n_tokens = progress.step * spec.batch_tokens
        pace = n_tokens / progress.train_s if progress.train_s > 0 else None
        bpb = None if loss is None else self.corpus.bpb(loss)
        self.dir.append("eval", step=progress.step, n_tokens=n_tokens, loss=loss, bpb=bpb)
        self.dir.append("end", status=status, reason=reason)
        result = RunResult(
            run=self.dir.run,
            status=status,
            reason=reason,
            seed=spec.seed,
            n_params_total=size.n_params_total,
            n_params_non_embedding=size.n_params_non_embedding,
            n_params_matmul=size.n_params_matmul,
            n_params_active=size.n_params_active,
            flops_per_token=size.flops_per_token,
            flops=size.flops_per_token * n_tokens,
            flops_6nd=6.0 * size.n_params_total * n_tokens,
            n_tokens=n_tokens,
            n_tokens_planned=spec.n_tokens,
            n_tokens_unique=n_tokens_unique(self.corpus, spec.seq_len, n_tokens),
            n_steps=progress.step,
            batch_tokens=spec.batch_tokens,
            micro_batch_tokens=progress.micro_rows * spec.seq_len,
            seq_len=spec.seq_len,
            loss=loss,
            loss_se=error,
            bpb=bpb,
            curve=progress.curve,
            train_curve=progress.train_curve,
            tokens_per_s=pace,
            mfu=self._mfu(pace),
            train_s=progress.train_s,
            eval_s=progress.eval_s,
            device=self.device.name,
            precision=self.precision,
            threads=torch.get_num_threads(),
            n_resumes=progress.n_resumes,
            tokenizer=self.corpus.tokenizer,
            data_digest=spec.data_digest,
            versions={
                "scalelab": scalelab.__version__,
                "torch": torch.__version__,
                "python": platform.python_version(),
            },
            finished_ms=time.time_ns() // 1_000_000,
        )
        self.dir.write_result(result)
        checkpoint.clear(self.dir.checkpoints)
        return result
