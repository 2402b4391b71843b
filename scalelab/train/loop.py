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
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch

import scalelab
from scalelab.data.corpus.mixture import domain_windows, n_tokens_unique, stream_of
from scalelab.data.corpus.shards import Corpus, open_corpus
from scalelab.data.corpus.stream import validation_windows
from scalelab.errors import DataError, RunError
from scalelab.files import make_dir
from scalelab.hardware.device import Device, find_device
from scalelab.hardware.layout import Layout
from scalelab.train.checkpoints import unsharded
from scalelab.train.checkpoints.saver import UnshardedSaver
from scalelab.train.checkpoints.unsharded import Progress
from scalelab.train.curve_points import evaluation_steps, log_interval
from scalelab.train.engines.base import Engine
from scalelab.train.engines.compilation import compile_note, share_compile_cache, usable_mode
from scalelab.train.engines.settings import graphs_note, precision_words
from scalelab.train.engines.single import SingleEngine
from scalelab.train.memory import first_micro_rows
from scalelab.train.process_timeouts import ProcessTimeouts
from scalelab.train.run_directory import RunDir
from scalelab.train.spec import RunResult, RunSpec
from scalelab.train.stability import Stability, StabilityMonitor, StragglerMonitor
from scalelab.train.step_clock import StepClock, steady_steps_per_s
from scalelab.train.trunk import Branches

WORSE_THAN_UNTRAINED = 1.0
"""Nats above ln(vocabulary) at which a run counts as diverged."""


def saves_in_background(device: Device) -> bool:
    """Whether a run in one process trains on while its checkpoint is written."""
    return device.kind != "cpu"


class Diverged(Exception):
    """The loss is no number any more, or worse than that of an untrained model."""


@dataclass(frozen=True)
class LaunchOptions:
    """How a launched run is trained, beyond its spec. Nothing here decides what it comes to."""

    layout: Layout = field(default_factory=Layout)
    stability: Stability = field(default_factory=Stability)
    checkpoint_s: float | None = None
    """Seconds between checkpoints; None: as often as saving takes less than 5% of the time."""
    heartbeat: Callable[[float], None] = lambda at_least_s: None
    """Called after every step, so that a watchdog knows, with the least time until the next call, seconds."""
    timeouts: ProcessTimeouts = field(default_factory=ProcessTimeouts)
    """How long its processes wait for one another."""
    hold_gradients: bool = True
    """Whether several processes sum gradients once a step, if all say so (engines/gradient_sums.py)."""


def train(
    run_dir: RunDir, stop: Callable[[], bool] = lambda: False, launched: LaunchOptions | None = None
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
    return _Run(run_dir, launched).run_all(stop)


def train_trunk(
    run_dir: RunDir, branches: Sequence[RunDir], stop: Callable[[], bool] = lambda: False
) -> bool:
    """Train a trunk and save a checkpoint for each branch that has none.

    Args:
        run_dir: Of the trunk; holds the spec of its longest branch's part of it.
        branches: Directories of runs, which hold their specs.
        stop: Asked after every step; True saves and returns, to go on another time.

    Returns: Whether it is done; also where it diverged, which its result says: then its other branches train by
        themselves. False when it was stopped.

    Raises:
        RunError: A directory cannot be written, or a run is not a branch of the trunk.
        DataError: The corpus is gone or damaged.
    """
    if run_dir.result() is not None:
        return True
    found = Branches(run_dir, branches)
    if found.is_served:
        unsharded.clear(run_dir.checkpoints)
        return True
    return _Run(run_dir, None, found).run_all(stop) is not None or found.is_at_end


class _Run:
    """The state of one run, or of one trunk, in one process."""

    def __init__(self, run_dir: RunDir, launched: LaunchOptions | None, branches: Branches | None = None):
        self.dir, self.launched, self.branches = run_dir, launched, branches
        self.spec: RunSpec = run_dir.spec()
        spec = self.spec
        self.device: Device = find_device()
        self.precision = self.device.precision(spec.precision)
        if usable_mode(self.device, spec.compile) != "off":
            share_compile_cache(run_dir.path.parent.parent)
        self.corpus: Corpus = open_corpus(spec.data_digest)
        self.stream = stream_of(self.corpus, spec.data, spec.seq_len, spec.seed, spec.stable_tokens)
        self.rows = spec.batch_tokens // spec.seq_len
        self.size = spec.model.size(spec.seq_len)
        self.watch = StabilityMonitor(launched.stability) if launched else None
        self.stragglers = StragglerMonitor()
        self.engine: Engine
        self.engine, self.progress, self.saver = self._begin()
        self.windows = {
            n: self._fixed_windows(n) for n in (spec.evaluation.tokens, spec.evaluation.curve_tokens)
        }
        self.domain_windows = domain_windows(self.corpus, spec.seq_len, spec.evaluation.tokens)
        self.log_every = log_interval(spec.n_steps)
        self.last_step = spec.n_steps if branches is None else branches.last_step
        self.eval_at = evaluation_steps(spec) if branches is None else branches.eval_at

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
        if self.launched is None:
            progress, tensors, passed_over = unsharded.newest(self.dir.checkpoints, self.dir.run)
            if progress is not None and self.branches is not None and not self.branches.can_resume(progress):
                passed_over = [
                    *passed_over,
                    f"step {progress.step}: branches that it cannot serve are missing",
                ]
                progress = None
            engine = self._single((progress and progress.micro_rows) or rows)
            if progress is not None:
                self._restore(engine, tensors)
            optimizer = engine.optimizer
            saver = UnshardedSaver(
                self.dir.checkpoints,
                self.dir.run,
                lambda: {**optimizer.weights(), **optimizer.state()},
                self.dir.guard,
                background=saves_in_background(device),
            )
        else:
            from scalelab.train.checkpoints import sharded

            engine = self._spread(rows)
            timeout_s = self.launched.timeouts.start_s
            saver = sharded.Saver(
                self.dir.checkpoints,
                self.dir.run,
                engine,
                timeout_s=timeout_s,
                attempt=self.dir.attempt,
                guard=self.dir.guard,
            )
            progress, passed_over = saver.restore()
        resumed = progress is not None
        progress = progress or Progress()
        progress.n_resumes += resumed
        progress.micro_rows = engine.micro_rows
        if self.branches is not None:
            self.branches.begin(progress)
        if engine.is_first:
            self._say_begun(passed_over, progress.step if resumed else None)
        return engine, progress, saver

    def _restore(self, engine: SingleEngine, tensors: dict[str, torch.Tensor]) -> None:
        """Fill the engine. Raises RunError where the tensors are not those of its network."""
        try:
            engine.optimizer.restore(tensors, tensors)
        except (KeyError, RuntimeError) as error:  # only a checkpoint from before the seals
            raise RunError(
                f"the checkpoint does not fit the run's network: {error}",
                where=str(self.dir.checkpoints),
                fix="delete the newest checkpoint in it and run the same command again",
            ) from error

    def _single(self, rows: int) -> SingleEngine:
        return SingleEngine(self.spec, self.device, self.precision, rows, self._note_halved)

    def _note_halved(self, tokens: int) -> None:
        self.dir.append("out_of_memory", micro_batch_tokens=tokens)

    def _spread(self, rows: int) -> Engine:
        """The engine of a launched run."""
        layout = self.launched.layout
        if layout.devices == 1:
            return self._single(min(rows, -(-self.rows // layout.micro_batches)))
        from scalelab.train.engines.parallel import ParallelEngine  # likewise

        return ParallelEngine(
            self.spec, layout, self.device, self.precision, self.launched.hold_gradients, self._note_halved
        )

    def _say_begun(self, passed_over: list[str], resumed_at: int | None) -> None:
        self.dir.append(
            "start",
            pid=os.getpid(),
            host=socket.gethostname(),
            device=self.device.name,
            precision=precision_words(self.spec, self.precision),
            threads=torch.get_num_threads(),
            n_steps=self.spec.n_steps,
            batch_tokens=self.spec.batch_tokens,
            n_params_total=self.size.n_params_total,
            **({"layout": self.launched.layout.to_json()} if self.launched else {}),
        )
        spec, device = self.spec, self.device
        for sentence in (
            device.precision_note(spec.precision),
            compile_note(device, spec.compile),
            graphs_note(spec, device),
        ):
            if sentence:
                self.dir.append("note", text=sentence)
        for reason in passed_over:
            self.dir.append("checkpoint_passed_over", reason=reason)
        if resumed_at is not None:
            self.dir.append("resume", step=resumed_at)

    def run_all(self, stop: Callable[[], bool]) -> RunResult | None:
        progress, spec = self.progress, self.spec
        make_dir(self.dir.checkpoints)
        wait = self._until_next_save(unsharded.expected_save_s(self._state_bytes()))
        if self.launched is not None and progress.step == 0:
            wait = self._save()  # so that there is always somewhere to go back to
        self._set_timeout("first_step_s")
        self._leave()  # whatever was not left when the attempt before ended
        clock, saved = StepClock(progress, self.device), time.monotonic()
        loss_sum = torch.zeros((), dtype=torch.float64, device=self.device.torch)
        norm, agreed = loss_sum, None
        try:
            while progress.step < self.last_step:
                stopping = stop()
                saving = time.monotonic() - saved > wait and not self.saver.is_busy
                loss, norm = self._gradient()
                logging = self._logs_at(progress.step + 1)
                if self.launched is not None:
                    own_s = self.engine.own_seconds() if logging else 0.0
                    agreed = self.engine.agree(loss, norm, stopping, saving, own_seconds=own_s)
                    loss, (stopping, saving) = agreed.loss, agreed.flags
                    if not self._is_sound(loss, agreed.norm):
                        if self._go_back():
                            progress = self.progress
                            loss_sum.zero_()
                            clock.restart(progress)
                            continue
                        loss = None
                if loss is not None:
                    self.engine.update(self._factor(progress.step), norm)
                    loss_sum += loss
                    progress.loss_steps += 1
                progress.step += 1
                evaluating = progress.step in self.eval_at
                saving = saving or (self.branches is not None and self.branches.leaves_at(progress.step))
                was_steady = clock.is_steady
                clock.count_step(progress, wait=logging or evaluating or saving or stopping)
                if logging:
                    self._count_loss(loss_sum)
                    self._log(
                        float(norm) if agreed is None else agreed.norm,
                        clock.steps_per_s(progress) * spec.batch_tokens,
                        [] if agreed is None else agreed.own_seconds,
                    )
                if evaluating:
                    self._evaluate_on_the_way()
                    clock.restart(progress)
                if self.launched is not None:
                    self.launched.heartbeat(0.0)
                if clock.is_steady and not was_steady:
                    self._set_timeout("step_s")
                self._poll_saver()
                if stopping or saving:
                    self._count_loss(loss_sum)
                    if stopping:
                        allow_s = unsharded.allowed_save_s(self._state_bytes(all_processes=True))
                        self._tell("saving", step=progress.step, allow_s=allow_s)
                    wait = self._save()
                    self._leave()
                    clock.restart(progress)
                    saved = time.monotonic()
                if stopping:
                    self._poll_saver(wait=True)
                    if self.branches is not None and progress.step >= self.last_step:
                        break
                    self._tell("interrupted", step=progress.step)
                    return None
            return self._finish() if self.branches is None else self._finish_trunk()
        except Diverged as reason:
            return self._conclude("diverged", str(reason), None, None)
        finally:
            if isinstance(self.saver, UnshardedSaver):
                self.saver.close()

    def _logs_at(self, step: int) -> bool:
        """Whether the training loss is logged after this step."""
        if self.branches is not None and self.branches.logs_at(step):
            return True
        return step % self.log_every == 0 or step == self.last_step

    def _count_loss(self, loss_sum: torch.Tensor) -> None:
        """Move the sum of the losses since the last call from the device to where the run stands."""
        value = float(loss_sum)
        loss_sum.zero_()
        self.progress.loss_sum += value
        if self.branches is not None:
            self.branches.count(self.progress, value)

    def _leave(self) -> None:
        """Write the checkpoints of branches that leave the trunk here."""
        if self.branches is None or not self.branches.leaves_at(self.progress.step):
            return
        self._poll_saver(wait=True)
        optimizer, step = self.engine.optimizer, self.progress.step
        for run in self.branches.leave(self.progress, lambda: {**optimizer.weights(), **optimizer.state()}):
            self._tell("branched", step=step, run=run)

    def _set_timeout(self, name: str) -> None:
        """Let the processes of a launched run, and the watchdog, wait so long from now on."""
        if self.launched is not None:
            seconds = getattr(self.launched.timeouts, name)
            self.launched.heartbeat(seconds)
            self.engine.set_timeout(seconds)

    @contextmanager
    def _compiling(self) -> Iterator[None]:
        """An evaluation, which compiles the model in its own way."""
        self._set_timeout("first_step_s")
        yield
        self._set_timeout("step_s")

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
        self.engine.zero_grad()
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
        before, bad = self.progress, self.watch.bad_steps
        self._poll_saver(wait=True)
        self.saver.drop_after(before.step - bad + 1)
        progress, passed_over = self.saver.restore()
        returns = [i for i in before.interventions if i["what"] == "went_back"]
        if progress is None or len(returns) >= rules.most_returns:
            raise Diverged(
                f"trouble at step {before.step} ({self._trouble}) after going back {len(returns)} times"
            )
        again = any(progress.step <= i["step"] for i in returns)
        progress.rate = before.rate * (rules.lower_rate if again else 1.0)
        progress.interventions = before.interventions
        progress.batches_passed = before.batches_passed + before.step + 1 - progress.step
        progress.n_resumes = before.n_resumes
        self.progress, self.watch = progress, StabilityMonitor(rules)
        self._intervene("went_back", step=before.step, to=progress.step, rate=progress.rate, **self._trouble)
        for reason in passed_over:
            self._tell("checkpoint_passed_over", reason=reason)
        self._tell("resume", step=progress.step)
        return True

    def _intervene(self, what: str, **values: object) -> None:
        self.progress.interventions.append({"what": what, **values})
        self._tell(what, **values)

    def _log(self, norm: float, tokens_per_s: float, own_seconds: list[float]) -> None:
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
        if self.branches is not None:
            self.branches.log(progress, n_tokens)
        if self.launched is not None and self.launched.layout.devices > 1:
            for rank, times in self.stragglers.observe(own_seconds).items():
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
            **self.engine.observed(),
        )

    def _mfu(self, tokens_per_s: float | None) -> float | None:
        """Share of the dense bf16 peak; None where it is unknown, and in fp8, whose products have another peak."""
        peak = self.device.peak_flops_per_s
        if peak is None or tokens_per_s is None or self.spec.matmul == "fp8":
            return None
        devices = self.launched.layout.devices if self.launched else 1
        return tokens_per_s * self.size.flops_per_token / (peak * devices)

    def _evaluate_on_the_way(self) -> None:
        progress, begun = self.progress, time.monotonic()
        n_tokens = progress.step * self.spec.batch_tokens
        with self._compiling():
            loss, _ = self.engine.validate(self.windows[self.spec.evaluation.curve_tokens])
        seconds = time.monotonic() - begun
        progress.eval_s += seconds
        if not math.isfinite(loss):
            raise Diverged(f"validation loss {loss} at step {progress.step}")
        progress.curve.append([progress.step, n_tokens, loss])
        if self.branches is not None:
            self.branches.evaluate(progress, n_tokens, loss, seconds)
        self._tell("eval", step=progress.step, n_tokens=n_tokens, loss=loss)

    def _save(self) -> float:
        """Save, or begin to, and return the seconds to train before the next save."""
        begun, progress = time.monotonic(), self.progress
        if not math.isfinite(progress.loss_sum):
            raise Diverged(f"loss {progress.loss_sum} by step {progress.step}")
        self._poll_saver(wait=True)
        if self.engine.is_first:
            self.dir.guard()
        self.saver.begin(progress)
        self._poll_saver()
        return self._until_next_save(time.monotonic() - begun)

    def _until_next_save(self, last_save_s: float) -> float:
        asked = self.launched and self.launched.checkpoint_s
        return asked or unsharded.seconds_until_next(last_save_s)

    def _state_bytes(self, all_processes: bool = False) -> int:
        """Bytes that one process saves, or all together: weights and the optimizer's state."""
        n = self.size.n_params_total
        devices = self.launched.layout.devices if self.launched and not all_processes else 1
        return (4 * n + self.spec.optimizer.state_bytes(n)) // devices

    def _poll_saver(self, wait: bool = False) -> None:
        """Note a checkpoint that has come to be whole."""
        if wait and self.launched is not None:
            self.launched.heartbeat(self.launched.timeouts.start_s)
        step = self.saver.wait() if wait else self.saver.poll()
        if step is not None:
            self._tell("checkpoint", step=step)

    def _finish_trunk(self) -> None:
        """Let go of the trunk's own checkpoints: its branches have theirs."""
        self._tell("end", status="finished", reason=None)
        unsharded.clear(self.dir.checkpoints)
        self.branches.is_at_end = True

    def _finish(self) -> RunResult:
        begun = time.monotonic()
        with self._compiling():
            loss, error = self.engine.validate(self.windows[self.spec.evaluation.tokens])
            domains = {
                name: self.engine.validate(windows)[0] for name, windows in self.domain_windows.items()
            }
        self.progress.eval_s += time.monotonic() - begun
        untrained = math.log(self.spec.model.vocab_size)
        if not math.isfinite(loss) or loss > untrained + WORSE_THAN_UNTRAINED:
            raise Diverged(f"final validation loss {loss}, an untrained model's is {untrained:.2f}")
        weights = self.engine.weights()
        files: dict[str, str] = {}
        if self.engine.is_first:
            self.dir.guard()
            path = self.dir.weights_path
            files[path.name] = unsharded.save_weights(path, weights, self.dir.guard)
        return self._conclude("finished", None, loss, error, files, domains or None)

    def _conclude(
        self,
        status: str,
        reason: str | None,
        loss: float | None,
        error: float | None,
        files: dict[str, str] | None = None,
        domain_losses: dict[str, float] | None = None,
    ) -> RunResult:
        """Write down what the run came to: log first, result last."""
        spec, size, progress = self.spec, self.size, self.progress
        n_tokens = progress.step * spec.batch_tokens
        pace = n_tokens / progress.train_s if progress.train_s > 0 else None
        steady = steady_steps_per_s(progress)
        steady = None if steady is None else steady * spec.batch_tokens
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
            flops_6nd=6.0 * size.n_params_active * n_tokens,
            n_tokens=n_tokens,
            n_tokens_planned=spec.n_tokens,
            n_tokens_unique=n_tokens_unique(
                self.corpus, spec.data, spec.seq_len, n_tokens, spec.stable_tokens
            ),
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
            precision=precision_words(spec, self.precision),
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
            first_steps_s=progress.first_steps_s,
            steady_tokens_per_s=steady,
            steady_mfu=self._mfu(steady),
            trunk=None if progress.trunk is None else spec.trunk_id,
            n_tokens_trunk=progress.trunk_steps * spec.batch_tokens,
            trunk_run=progress.trunk,
            domain_losses=domain_losses,
        )
        if self.engine.is_first:
            result = self.dir.write_result(result)
            unsharded.clear(self.dir.checkpoints)
        return result


def _finite(value: float) -> float | None:
    """A number for the log; None where it is none."""
    return value if math.isfinite(value) else None
