"""Seconds of a run on a pretended device that queues its work and compiles in the first steps."""

from dataclasses import dataclass, field

import pytest

from scalelab.hardware.device import Device
from scalelab.tracking.payload import final_points
from scalelab.train import loop, step_clock
from scalelab.train.checkpoints import unsharded
from scalelab.train.checkpoints.unsharded import Progress
from scalelab.train.engines.single import SingleEngine
from scalelab.train.loop import train
from scalelab.train.step_clock import FIRST_STEPS, StepClock, steady_steps_per_s

PEAK = 1e9
STEP_S, COMPILE_S, EVAL_S = 2.0, 100.0, 0.5
"""Seconds of a step on the device, of compilation in the first step, and of an evaluation."""
N_STEPS = 60


@dataclass(frozen=True)
class QueueingDevice(Device):
    """A device whose calls return at once and whose work takes pretended time."""

    now: list[float] = field(default_factory=lambda: [0.0])
    queued: list[float] = field(default_factory=list)

    @property
    def peak_flops_per_s(self):
        return PEAK

    def monotonic(self):
        return self.now[0]

    def synchronize(self):
        self.now[0] += sum(self.queued)
        self.queued.clear()


@pytest.fixture
def device(monkeypatch):
    """The device, which the loop finds and whose time it reads."""
    device = QueueingDevice("cpu", "pretended", None)
    compiled = []
    gradient, validate, save = SingleEngine.gradient, SingleEngine.validate, unsharded.save

    def queued_gradient(engine, batch):
        if engine not in compiled:
            compiled.append(engine)
            device.now[0] += COMPILE_S
        device.queued.append(STEP_S)
        return gradient(engine, batch)

    def queued_validate(engine, windows):
        device.queued.append(EVAL_S)
        device.synchronize()  # the loss is read
        return validate(engine, windows)

    def queued_save(*arguments):
        device.synchronize()  # the weights are copied
        return save(*arguments)

    monkeypatch.setattr(SingleEngine, "gradient", queued_gradient)
    monkeypatch.setattr(SingleEngine, "validate", queued_validate)
    monkeypatch.setattr(unsharded, "save", queued_save)
    monkeypatch.setattr(loop, "find_device", lambda: device)
    for module in (loop, step_clock):
        monkeypatch.setattr(module.time, "monotonic", device.monotonic)
    return device


@pytest.fixture
def run_dir(tmp_path, tiny_run):
    return tiny_run(tmp_path, n_steps=N_STEPS)


def log_every(monkeypatch, steps):
    """Log so seldom that most evaluations come while steps are queued."""
    begin = loop._Run.__init__

    def begin_seldom(run, *arguments):
        begin(run, *arguments)
        run.log_every = steps

    monkeypatch.setattr(loop._Run, "__init__", begin_seldom)


def test_queued_steps_are_training_and_not_evaluation(device, run_dir, monkeypatch):
    log_every(monkeypatch, 50)

    result = train(run_dir)

    assert result.train_s == pytest.approx(COMPILE_S + N_STEPS * STEP_S)
    assert result.eval_s == pytest.approx(3 * EVAL_S)  # two on the way, and the last


def test_the_steady_rate_leaves_out_the_steps_that_compile(device, run_dir):
    result = train(run_dir)
    tokens = 256

    assert result.first_steps_s == pytest.approx(COMPILE_S + FIRST_STEPS * STEP_S)
    assert result.steady_tokens_per_s == pytest.approx(tokens / STEP_S)
    assert result.steady_mfu == pytest.approx(tokens / STEP_S * result.flops_per_token / PEAK)
    shown = {point.name: point.value for point in final_points(result, {})}
    assert shown["system/steady_mfu"] == result.steady_mfu
    # The older fields are still over all steps.
    assert result.tokens_per_s == pytest.approx(N_STEPS * tokens / (COMPILE_S + N_STEPS * STEP_S))
    assert result.mfu == pytest.approx(result.tokens_per_s * result.flops_per_token / PEAK)


def test_a_resumed_run_compiles_again_and_loses_no_queued_step(device, run_dir, monkeypatch):
    log_every(monkeypatch, 50)
    asked = []

    def stop():
        asked.append(True)
        return len(asked) == 27

    assert train(run_dir, stop) is None
    result = train(run_dir)

    assert result.n_resumes == 1
    assert result.train_s == pytest.approx(2 * COMPILE_S + N_STEPS * STEP_S)
    assert result.first_steps_s == pytest.approx(2 * (COMPILE_S + FIRST_STEPS * STEP_S))
    assert result.steady_tokens_per_s == pytest.approx(256 / STEP_S)


def test_a_new_micro_batch_is_compiled_and_not_steady(device):
    progress = Progress(micro_rows=8)
    clock = StepClock(progress, device)
    for step in range(10):
        progress.micro_rows = 8 if step < 6 else 4
        device.now[0] += COMPILE_S if step in (0, 6) else 0.0
        device.queued.append(STEP_S)
        progress.step += 1
        clock.count_step(progress, wait=step == 5)
    device.synchronize()

    assert progress.first_steps == 2 * FIRST_STEPS
    assert progress.first_steps_s == pytest.approx(2 * (COMPILE_S + FIRST_STEPS * STEP_S))


def test_a_run_without_a_steady_step_has_no_steady_rate():
    assert steady_steps_per_s(Progress(step=2, train_s=9.0, first_steps=2, first_steps_s=9.0)) is None
