"""One training run, from wherever it stands to its result. The only loop there is.

    spec + corpus  ->  steps (checkpointed by the clock)  ->  result.json, written last

Every run, from the smallest of a sweep to the final one, comes through `train`. It can be
stopped at any moment and called again: batch k depends on the seed and k alone, and all
else that matters is in the checkpoint, so on the same CPU the result is the same to the
last bit. What the loop sees on its way it appends to the run's log.

Numbers:  loss in nats per token; n_tokens tokens; rates per second of wall time.
A launched run comes through the same loop. It may be spread over processes (parallel.py), its
checkpoints are written beside the training (sharded.py), and trouble is met by rules
(stability.py), none of which a sweep's run knows.

Not here: which runs there are (sweep), who calls and watches (launch), mirrors (track).
"""

import math
import os
import platform
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch

import scalelab
from scalelab.data.shards import Corpus, open_corpus
from scalelab.data.stream import Stream, n_tokens_unique, validation_windows
from scalelab.errors import DataError, RunError
from scalelab.files import make_dir
from scalelab.train import checkpoint
from scalelab.train.checkpoint import Progress
from scalelab.train.device import Device, find_device
from scalelab.train.engine import Engine
from scalelab.train.layout import Layout
from scalelab.train.memory import first_micro_rows
from scalelab.train.rundir import RunDir
from scalelab.train.single import Single
from scalelab.train.spec import RunResult, RunSpec
from scalelab.train.stability import Stability, Stragglers, Watch

WORSE_THAN_UNTRAINED = 1.0
"""Nats above ln(vocabulary) at which a run counts as diverged."""


class Diverged(Exception):
    """The loss is no number any more, or worse than that of an untrained model."""


@dataclass(frozen=True)
class Launched:
    """How a launched run is trained, beyond its spec. Nothing here decides what it comes to."""

    layout: Layout = field(default_factory=Layout)
    stability: Stability = field(default_factory=Stability)
    checkpoint_s: float | None = None
    """Seconds between checkpoints; None: as often as saving costs little."""
    alive: Callable[[], None] = lambda: None
    """Called after every step, so that a watchdog knows."""


def train(
    run_dir: RunDir, stop: Callable[[], bool] = lambda: False, launched: Launched | None = None
) -> RunResult | None:
    """Train one run to its end, from its newest checkpoint if it has one.

    Args:
        run_dir: Holds the spec; receives log, checkpoints and result.
        stop: Asked after every step; True saves and returns, to go on another time.
        launched: For a launched run; then every process of its layout makes this call.

    Returns: The result, also when the run diverged; None when it was stopped.

    Raises:
        RunError: The directory cannot be written, or belongs to another spec.
        DataError: The corpus is gone or damaged.
        LaunchError: The layout cannot carry the run.
    """
    if (done := run_dir.result()) is not None:
        return done
    return _Run(run_dir, launched).to_the_end(stop)


class _Run:
    """The state of one run in one process."""

    def __init__(self, run_dir: RunDir, launched: Launched | None):
        self.dir, self.launched = run_dir, launched
        self.spec: RunSpec = run_dir.spec()
        spec = self.spec
        self.device: Device = find_device()
        self.precision = self.device.precision(spec.precision)
        self.corpus: Corpus = open_corpus(spec.data_digest)
        self.stream = Stream(self.corpus.tokens("train"), spec.seq_len, spec.seed)
        self.rows = spec.batch_tokens // spec.seq_len
        self.size = spec.model.size(spec.seq_len)
        self.watch = Watch(launched.stability) if launched else None
        self.stragglers = Stragglers()
        self.engine: Engine
        self.engine, self.progress, self.saver = self._begin()
        self.windows = {
            n: self._fixed_windows(n)
            for n in (spec.evaluation.tokens, spec.evaluation.curve_tokens)
        }
        # Every run logs about a hundred points, on fixed steps, so that logs are comparable.
        self.log_every = max(1, min(50, spec.n_steps // 100))
        points = spec.evaluation.curve_points
        self.eval_at = {spec.n_steps * i // (points + 1) for i in range(1, points + 1)} - {0}

    def _tell(self, event: str, **values: object) -> None:
        """Append to the log, in the one process that writes it."""
        if self.engine.is_first:
            self.dir.append(event, **values)

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

    def _begin(self):
        """The engine, where the run stands, and who saves it."""
        spec, device = self.spec, self.device
        rows = first_micro_rows(spec, device.kind, device.memory_bytes, self.precision)
        saver = None
        if self.launched is None:
            progress, tensors, passed_over = checkpoint.newest(self.dir.checkpoints, self.dir.run)
            engine = self._single((progress and progress.micro_rows) or rows)
            if progress is not None:
                self._restore(engine, tensors)
        else:
            from scalelab.train import sharded  # only launched runs wait for torch.distributed

            engine = self._spread(rows)
            saver = sharded.Saver(self.dir.checkpoints, self.dir.run, engine)
            progress, passed_over = saver.restore()
        resumed = progress is not None
        progress = progress or Progress()
        progress.n_resumes += resumed
        progress.micro_rows = engine.micro_rows
        if engine.is_first:
            self._say_begun(passed_over, progress.step if resumed else None)
        return engine, progress, saver

    def _restore(self, engine: Single, tensors: dict[str, torch.Tensor]) -> None:
        """Fill the engine. Raises RunError where the tensors are not those of its network."""
        try:
            engine.optimizer.restore(tensors, tensors)
        except (KeyError, RuntimeError) as error:  # only a checkpoint from before the seals
            raise RunError(
                f"the checkpoint does not fit the run's network: {error}",
                where=str(self.dir.checkpoints),
                fix="delete the newest checkpoint in it and run the same command again",
            ) from error

    def _single(self, rows: int) -> Single:
        def halved(tokens: int) -> None:
            self.dir.append("out_of_memory", micro_batch_tokens=tokens)

        return Single(self.spec, self.device, self.precision, rows, halved)

    def _spread(self, rows: int) -> Engine:
        """The engine of a launched run."""
        layout = self.launched.layout
        if layout.devices == 1:
            return self._single(min(rows, -(-self.rows // layout.micro_batches)))
        from scalelab.train.parallel import Parallel  # likewise

        return Parallel(self.spec, layout, self.device, self.precision)

    def _say_begun(self, passed_over: list[str], resumed_at: int | None) -> None:
        self.dir.append(
            "start",
            pid=os.getpid(),
            host=socket.gethostname(),
            device=self.device.name,
            precision=self.precision,
            threads=torch.get_num_threads(),
            n_steps=self.spec.n_steps,
            batch_tokens=self.spec.batch_tokens,
            n_params_total=self.size.n_params_total,
            **({"layout": self.launched.layout.to_json()} if self.launched else {}),
        )
        for reason in passed_over:
            self.dir.append("checkpoint_passed_over", reason=reason)
        if resumed_at is not None:
            self.dir.append("resume", step=resumed_at)

    def to_the_end(self, stop: Callable[[], bool]) -> RunResult | None:
        progress, spec = self.progress, self.spec
        make_dir(self.dir.checkpoints)
        if self.saver is not None and progress.step == 0:
            self._save()  # so that there is always somewhere to go back to
        clock = saved = time.monotonic()
        wait, since_log, logged_step = self._until_next_save(0), clock, progress.step
        loss_sum = torch.zeros((), dtype=torch.float64, device=self.device.torch)
        norm = loss_sum
        try:
            while progress.step < spec.n_steps:
                stopping, saving = stop(), time.monotonic() - saved > wait
                loss, norm = self._gradient()
                if self.launched is not None:
                    loss, (stopping, saving) = self.engine.agree(loss, stopping, saving)
                    if not self._is_sound(loss, float(norm)):
                        if self._go_back():
                            progress = self.progress
                            loss_sum.zero_()
                            clock = since_log = time.monotonic()
                            logged_step = progress.step
                            continue
                        loss = None
                if loss is not None:
                    self.engine.update(self._factor(progress.step), norm)
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
                if self.launched is not None:
                    self.launched.alive()
                    self._poll_saver()
                if stopping or saving:
                    progress.loss_sum += float(loss_sum)
                    loss_sum.zero_()
                    wait = self._save()
                    clock = saved = since_log = time.monotonic()
                    logged_step = progress.step
                if stopping:
                    self._poll_saver(wait=True)
                    self._tell("interrupted", step=progress.step)
                    return None
            return self._finish()
        except Diverged as reason:
            return self._conclude("diverged", str(reason), None, None)

    def _gradient(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Loss and gradient norm of the next batch; the gradient stays in the engine."""
        rank, n = self.engine.share
        k = self.progress.step + self.progress.batches_passed
        batch = torch.from_numpy(self.stream.batch(k * n + rank, self.rows // n))
        if self.device.kind == "cuda":
            batch = batch.pin_memory().to(self.device.torch, non_blocking=True)
        loss = self.engine.gradient(batch)
        self.progress.micro_rows = self.engine.micro_rows
        return loss, self.engine.norm()

    def _factor(self, step: int) -> float:
        """Factor on the peak rates at a step."""
        return self.spec.schedule.factor(step, self.spec.n_steps) * self.progress.rate

    def _is_sound(self, loss: float, norm: float) -> bool:
        """Whether this step may update the weights. What it did otherwise is recorded."""
        action, progress = self.watch.judge(loss, norm), self.progress
        if action == "go":
            return True
        self.engine.forget_gradient()
        values = {"loss": _finite(loss), "grad_norm": _finite(norm)}
        if action == "skip":
            progress.steps_without_update += 1
            self._intervene("batch_skipped", step=progress.step, **values)
        else:
            self._trouble = values
        return False

    def _go_back(self) -> bool:
        """Return to a checkpoint from before the trouble, when there has been enough of it."""
        rules = self.launched.stability
        if self.watch.bad_steps < rules.patience:
            return False
        from scalelab.train import sharded

        before, bad = self.progress, self.watch.bad_steps
        self._poll_saver(wait=True)
        began = before.step - bad + 1
        for place in sharded.saved(self.dir.checkpoints):
            if sharded.step_of(place) > began and self.engine.is_first:
                sharded.let_go(place)
        progress, passed_over = self.saver.restore()
        returns = [i for i in before.interventions if i["what"] == "went_back"]
        if progress is None or len(returns) >= rules.most_returns:
            raise Diverged(
                f"trouble at step {before.step} ({self._trouble}) after going back "
                f"{len(returns)} times"
            )
        again = any(progress.step <= i["step"] for i in returns)
        progress.rate = before.rate * (rules.lower_rate if again else 1.0)
        progress.interventions = before.interventions
        progress.batches_passed = before.batches_passed + before.step + 1 - progress.step
        progress.n_resumes = before.n_resumes
        self.progress, self.watch = progress, Watch(rules)
        self._intervene(
            "went_back", step=before.step, to=progress.step, rate=progress.rate, **self._trouble
        )
        for reason in passed_over:
            self._tell("checkpoint_passed_over", reason=reason)
        self._tell("resume", step=progress.step)
        return True

    def _intervene(self, what: str, **values: object) -> None:
        self.progress.interventions.append({"what": what, **values})
        self._tell(what, **values)

    def _log(self, norm: float, tokens_per_s: float) -> None:
        progress, spec = self.progress, self.spec
        if progress.loss_steps == 0:
            return  # every batch since the last point was skipped, and that is in the log
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
        if self.launched is not None and self.launched.layout.devices > 1:
            for rank, times in self.stragglers.told(self.engine.own_seconds()).items():
                self._tell("straggler", step=step, rank=rank, times_slower=round(times, 2))
        factor = self._factor(step - 1)
        self._tell(
            "step",
            step=step,
            n_tokens=n_tokens,
            loss=loss,
            **{name: peak * factor for name, peak in spec.optimizer.rates().items()},
            grad_norm=norm,
            tokens_per_s=tokens_per_s,
            mfu=self._mfu(tokens_per_s),
        )

    def _mfu(self, tokens_per_s: float | None) -> float | None:
        peak = self.device.peak_flops_per_s
        if peak is None or tokens_per_s is None:
            return None
        devices = self.launched.layout.devices if self.launched else 1
        return tokens_per_s * self.size.flops_per_token / (peak * devices)

    def _evaluate_on_the_way(self) -> None:
        progress, begun = self.progress, time.monotonic()
        n_tokens = progress.step * self.spec.batch_tokens
        loss, _ = self.engine.validate(self.windows[self.spec.evaluation.curve_tokens])
        progress.eval_s += time.monotonic() - begun
        if not math.isfinite(loss):
            raise Diverged(f"validation loss {loss} at step {progress.step}")
        progress.curve.append([progress.step, n_tokens, loss])
        self._tell("eval", step=progress.step, n_tokens=n_tokens, loss=loss)

    def _save(self) -> float:
        """Save, and say how long to train before the next save."""
        begun, progress = time.monotonic(), self.progress
        if not math.isfinite(progress.loss_sum):
            raise Diverged(f"loss {progress.loss_sum} by step {progress.step}")
        if self.saver is not None:
            self._poll_saver(wait=True)
            if self.engine.is_first:
                self.dir.guard()
            self.saver.begin(self.progress)
        else:
            optimizer = self.engine.optimizer
            tensors = {**optimizer.weights(), **optimizer.state()}
            self.dir.guard()
            checkpoint.save(self.dir.checkpoints, self.dir.run, self.progress, tensors)
            self.dir.append("checkpoint", step=self.progress.step)
        return self._until_next_save(time.monotonic() - begun)

    def _until_next_save(self, last_save_s: float) -> float:
        asked = self.launched and self.launched.checkpoint_s
        return asked or checkpoint.seconds_until_next(last_save_s)

    def _poll_saver(self, wait: bool = False) -> None:
        """Note a checkpoint that has come to be whole."""
        step = self.saver and (self.saver.wait() if wait else self.saver.poll())
        if step is not None:
            self._tell("checkpoint", step=step)

    def _finish(self) -> RunResult:
        begun = time.monotonic()
        loss, error = self.engine.validate(self.windows[self.spec.evaluation.tokens])
        self.progress.eval_s += time.monotonic() - begun
        untrained = math.log(self.spec.model.vocab_size)
        if not math.isfinite(loss) or loss > untrained + WORSE_THAN_UNTRAINED:
            raise Diverged(f"final validation loss {loss}, an untrained model's is {untrained:.2f}")
        weights = self.engine.weights()
        files: dict[str, str] = {}
        if self.engine.is_first:
            self.dir.guard()
            path = self.dir.weights_path
            files[path.name] = checkpoint.save_weights(path, weights)
        return self._conclude("finished", None, loss, error, files)

    def _conclude(
        self,
        status: str,
        reason: str | None,
        loss: float | None,
        error: float | None,
        files: dict[str, str] | None = None,
    ) -> RunResult:
        """Write down what the run came to: log first, result last."""
        spec, size, progress = self.spec, self.size, self.progress
        n_tokens = progress.step * spec.batch_tokens
        pace = n_tokens / progress.train_s if progress.train_s > 0 else None
        bpb = None if loss is None else self.corpus.bpb(loss)
        self._poll_saver(wait=True)
        self._tell("eval", step=progress.step, n_tokens=n_tokens, loss=loss, bpb=bpb)
        self._tell("end", status=status, reason=reason)
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
            layout=self.launched.layout.to_json() if self.launched else None,
            interventions=progress.interventions,
            files=files or {},
        )
        if self.engine.is_first:
            result = self.dir.write_result(result)
            checkpoint.clear(self.dir.checkpoints)
        return result


def _finite(value: float) -> float | None:
    """A number for the log; None where it is none."""
    return value if math.isfinite(value) else None
