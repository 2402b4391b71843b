"""Trouble in a long run: batches without a number, spikes, and what was done about them."""

import math

import pytest

from scalelab.hardware.layout import Layout
from scalelab.train import loop
from scalelab.train.engines import single
from scalelab.train.loop import LaunchOptions, train
from scalelab.train.stability import ENOUGH, Stability, StabilityMonitor, StragglerMonitor

ONE = LaunchOptions(Layout(), Stability(), checkpoint_s=0.05)


@pytest.fixture
def run(tmp_path, tiny_run):
    return lambda where="runs", **changes: tiny_run(tmp_path / where, **changes)


def events(run_dir, kind):
    return [event for event in run_dir.events() if event["event"] == kind]


def quiet(watch, n=2 * ENOUGH):
    """Steps whose loss wavers by a little."""
    for i in range(n):
        assert watch.judge(3 + 0.05 * math.sin(i), 1.0) == "go"


def test_a_run_without_trouble_is_left_alone():
    quiet(StabilityMonitor(Stability()), 500)


@pytest.mark.parametrize(("loss", "norm"), [(math.nan, 1.0), (3.0, math.inf), (math.inf, math.nan)])
def test_a_batch_that_gives_no_number_is_skipped_and_three_of_them_go_back(loss, norm):
    watch = StabilityMonitor(Stability())
    quiet(watch)

    assert [watch.judge(loss, norm) for _ in range(3)] == ["skip", "skip", "back"]


def test_a_spike_of_three_steps_goes_back_and_one_high_batch_does_not():
    watch = StabilityMonitor(Stability())
    quiet(watch)
    assert watch.judge(4.5, 1.0) == "go"
    quiet(watch, 5)
    assert [watch.judge(4.5, 1.0) for _ in range(3)] == ["go", "go", "back"]


def test_what_is_high_is_measured_against_the_runs_own_noise():
    noisy = StabilityMonitor(Stability())
    for i in range(100):
        assert noisy.judge(3 + 0.5 * math.sin(i), 1.0) == "go"
    assert all(noisy.judge(4.5, 1.0) == "go" for _ in range(10))


def test_nothing_is_judged_before_there_is_enough_to_judge_by():
    watch = StabilityMonitor(Stability())
    assert all(watch.judge(9 - i, 1.0) == "go" for i in range(8))


class Troubled(single.SingleEngine):
    """An engine that gives no number, or a leap, at batches that it is told of."""

    trouble = {}
    seen = []

    def gradient(self, batch):
        loss = super().gradient(batch)
        key = hash(batch.numpy().tobytes())
        self.seen.append(key)
        return loss + self.trouble.get(key, 0.0)


@pytest.fixture
def troubled(monkeypatch):
    monkeypatch.setattr(loop, "SingleEngine", Troubled)
    monkeypatch.setattr(Troubled, "trouble", {})
    monkeypatch.setattr(Troubled, "seen", [])
    return Troubled


def test_a_launched_run_steps_over_one_bad_batch(run, troubled):
    keys = batches(run("probe"), troubled)
    troubled.trouble = {keys[20]: math.nan}
    run_dir = run("harmed")
    result = train(run_dir, launched=ONE)

    assert result.status == "finished"
    assert [e["step"] for e in events(run_dir, "batch_skipped")] == [20]
    assert [i["what"] for i in result.interventions] == ["batch_skipped"]
    assert result.n_steps == 60
    assert all(math.isfinite(point[2]) for point in result.train_curve)


def test_a_launched_run_goes_back_past_bad_batches_and_says_so(run, troubled):
    keys = batches(run("probe"), troubled)
    troubled.trouble = dict.fromkeys(keys[40:43], math.nan)
    run_dir = run("harmed")
    result = train(run_dir, launched=ONE)

    assert result.status == "finished"
    back = events(run_dir, "went_back")[0]
    assert back["step"] == 42
    assert back["to"] <= 40
    assert back["rate"] == 1.0
    assert not set(keys[40:43]) & set(troubled.seen[-(60 - back["to"]) :])
    assert [i["what"] for i in result.interventions] == ["batch_skipped", "batch_skipped", "went_back"]


def test_trouble_without_end_is_divergence_and_not_a_loop(run, troubled, monkeypatch):
    monkeypatch.setattr(
        troubled,
        "gradient",
        lambda self, batch: single.SingleEngine.gradient(self, batch) + after_half(self, math.nan),
    )
    result = train(run("harmed"), launched=ONE)

    assert result.status == "diverged"
    assert "going back" in result.reason
    rates = [i["rate"] for i in result.interventions if i["what"] == "went_back"]
    assert rates[0] == 1.0
    assert rates[-1] < 0.1


def after_half(engine, value):
    """The value once the engine has made thirty updates, zero before."""
    return value if engine.updates >= 30 else 0.0


def batches(run_dir, engine):
    """What identifies each batch of a run, in order."""
    train(run_dir, launched=ONE)
    keys = list(engine.seen)
    engine.seen.clear()
    assert len(set(keys)) == len(keys) == 60
    return keys


def test_a_process_that_is_slow_three_times_in_a_row_is_named_once():
    stragglers = StragglerMonitor()
    told = [stragglers.observe([1.0, 1.1, slow, 0.9]) for slow in (2, 2, 1, 2, 2, 2.4, 2)]

    assert [list(names) for names in told] == [[], [], [], [], [], [2], []]
    assert told[5][2] == pytest.approx(2.4 / 1.05)
