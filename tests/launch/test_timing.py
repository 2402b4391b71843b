"""A sweep is planned at once; what takes time is measured afterwards, within a limit."""

import math
import time
from types import SimpleNamespace

import pytest

from scalelab.cli.main import main
from scalelab.config import parse_yaml
from scalelab.errors import ConfigError
from scalelab.jobs.base import AvailableDevices, Capabilities
from scalelab.jobs.executors.local import LocalConfig
from scalelab.launch import sweep
from scalelab.launch.sweep import SweepPlan, plan_sweep, refuse_too_many_runs, time_plan
from scalelab.launch.sweep_plan import PlannedJob
from scalelab.launch.sweep_timing import COMPILE_S, SweepTiming, TimedModel, estimate, time_runs
from scalelab.report.render.terminal import render_terminal
from scalelab.report.sweep.document import plan_document, timing_document
from scalelab.sweep.file import MOST_RUNS, SweepFile
from scalelab.train import throughput
from scalelab.train.throughput import seconds_per_token

SWEEP = """
name: t
question: q
prediction: p
recipe:
  data: {source: {kind: text, paths: ["*.txt"]}, tokenizer: {vocab_size: 1024}}
  seq_len: 64
  param_count: matmul
  model: {kind: transformer, n_layers: 1, head_size: 8}
  optimizer: {lr: 3e-3}
  batch: {min_tokens: 512, max_tokens: 4096}
design: {kind: isoflop, budgets: [3e11, 1e12], sizes_per_budget: 3, span: 4, tokens_per_param: 14}
launch: {executor: inline}
"""


@pytest.fixture
def file(tmp_path, monkeypatch):
    """A sweep on a corpus of its own that is not prepared."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("the model reads a token")
    (tmp_path / "t.yaml").write_text(SWEEP)
    return SweepFile.parse(parse_yaml(SWEEP, "t.yaml"))


class Answers:
    """An executor whose calls return given answers and take so long each."""

    def __init__(self, *answers, seconds=0.0, can_time=True, is_gpu=False):
        self.capabilities = Capabilities(gangs=False, timing=can_time)
        self.devices = AvailableDevices(1, "a device", 1, is_gpu)
        self.answers, self.seconds, self.limits = list(answers), seconds, []

    def call(self, function, text, left, *, limit_s=None):
        assert function == "scalelab.train.throughput:seconds_per_token"
        assert limit_s == left + (COMPILE_S if self.devices.is_gpu else 0)
        self.limits.append(left)
        time.sleep(self.seconds)
        return self.answers.pop(0)

    def close(self):
        """Nothing is held."""


@pytest.fixture
def work(file, tmp_path):
    return plan_sweep(file, tmp_path / "runs").work


def flops_per_token(each):
    return each.proposal.spec.model.size(64).flops_per_token


def test_a_plan_starts_nothing_and_times_nothing(file, tmp_path, monkeypatch):
    monkeypatch.setattr(sweep, "_executor", lambda file: pytest.fail("an executor was started"))

    plan = plan_sweep(file, tmp_path / "runs")

    assert len(plan.work) == 6
    assert plan.timing is None
    assert {w.seconds for w in plan.work} == {None}
    assert plan.to_json()["timing"] is None
    shown = render_terminal(plan_document(plan), 200)
    assert "time" not in shown.splitlines()[6]
    assert "Time:" not in shown
    assert not (tmp_path / "runs").exists()


def test_timing_gives_every_run_its_seconds(file, tmp_path):
    plan = time_plan(plan_sweep(file, tmp_path / "runs"), limit_s=60)

    assert all(w.seconds > 0 for w in plan.work)
    assert [m.reason for m in plan.timing.models] == ["", "", ""]
    assert "Time: about" in render_terminal(timing_document(plan), 200)
    assert "Time: about" in render_terminal(plan_document(plan), 200)


def test_times_are_interpolated_between_models_and_extrapolated_at_equal_flops(work):
    by_size = sorted(work, key=flops_per_token)
    least, most = flops_per_token(by_size[0]), flops_per_token(by_size[-1])
    first = TimedModel(by_size[0].proposal, 1e-6)
    last = TimedModel(by_size[-1].proposal, 4e-6)

    both = estimate(work, SweepTiming(10, [first, last]))
    alone = estimate(work, SweepTiming(10, [first, TimedModel(by_size[-1].proposal, None, "too large")]))

    for w in both:
        share = math.log(flops_per_token(w) / least) / math.log(most / least)
        assert w.seconds == pytest.approx(1e-6 * 4**share * w.proposal.spec.n_tokens)
    for w in alone:
        expected = 1e-6 * flops_per_token(w) / least * w.proposal.spec.n_tokens
        assert w.seconds == pytest.approx(expected)
    assert {w.seconds for w in estimate(work, None)} == {None}


def test_a_model_that_takes_too_long_ends_the_timing_and_is_listed(work, file):
    executor = Answers((1e-6, ""), (None, "two steps take at least 40 s"))

    timing = time_runs(work, executor, 5.0)

    assert [m.reason for m in timing.models] == [
        "",
        "two steps take at least 40 s",
        "a smaller model was not timed either",
    ]
    plan = SweepPlan(file, estimate(work, timing), None, executor.devices, timing)
    shown = " ".join(render_terminal(timing_document(plan), 200).split())
    assert "Time: about" in shown
    assert "Not timed, so its time is that of the largest that was, at equal FLOPs per second" in shown
    assert "parameters: two steps take at least 40 s" in shown
    assert plan.to_json()["timing"]["models"][1]["reason"] == "two steps take at least 40 s"


def test_the_limit_is_of_all_models_together(work):
    executor = Answers((1e-6, ""), (2e-6, ""), (3e-6, ""), seconds=0.3)

    timing = time_runs(work, executor, 0.5)

    assert [m.seconds_per_token for m in timing.models] == [1e-6, 2e-6, None]
    assert timing.models[-1].reason == "its steps take longer than the limit of 0.5 s"
    assert executor.limits[0] > executor.limits[1]


def test_the_limit_does_not_count_the_time_in_which_a_gpu_compiles(work):
    executor = Answers((1e-6, ""), (2e-6, ""), (3e-6, ""), seconds=0.3, is_gpu=True)

    timing = time_runs(work, executor, 0.2)

    assert [m.seconds_per_token for m in timing.models] == [1e-6, 2e-6, 3e-6]
    assert executor.limits == [0.2, 0.2, 0.2]


@pytest.mark.parametrize(
    ("executor", "reason"),
    [
        (Answers(None), "its process ended"),
        (Answers(None, seconds=0.3), "its steps take longer than the limit of 0.2 s"),
        (Answers(can_time=False), "this executor cannot time runs"),
    ],
)
def test_what_kept_a_model_from_being_timed_is_said(work, executor, reason):
    timing = time_runs(work, executor, 0.2)

    assert timing.models[0].reason == reason
    assert timing.known == []


def test_a_call_that_takes_too_long_is_ended():
    executor = LocalConfig().start()
    try:
        begun = time.monotonic()
        assert executor.call("time:sleep", 60, limit_s=0.5) is None
        assert time.monotonic() - begun < 20
        assert executor.call("scalelab.units:si", 1500, limit_s=60) == "1.5k"
    finally:
        executor.close()


def larger(spec, **changes):
    model = spec.model.model_copy(update=changes)
    return spec.model_copy(update={"model": model}).to_yaml()


def test_a_model_too_large_for_the_time_or_the_memory_is_not_built(work, monkeypatch):
    monkeypatch.setattr(throughput.FlatOptimizer, "__init__", lambda *_: pytest.fail("it was built"))
    spec = work[0].proposal.spec

    seconds, reason = seconds_per_token(larger(spec, n_layers=4, d_model=8192, d_ff=32768), 0.5)
    assert seconds is None
    assert reason.startswith(("two steps take at least", "it needs"))
    seconds, reason = seconds_per_token(larger(spec, n_layers=10**6, d_model=8192, d_ff=32768), 1e12)
    assert seconds is None
    assert "of memory, and" in reason


def test_fewer_windows_are_timed_where_all_do_not_fit_into_the_limit(work, monkeypatch):
    spec = max((w.proposal.spec for w in work), key=lambda spec: spec.batch_tokens)
    rows = []
    real = throughput.torch.randint
    monkeypatch.setattr(
        throughput.torch, "randint", lambda high, shape, **k: rows.append(shape[0]) or real(high, shape, **k)
    )
    monkeypatch.setattr(throughput, "_most_flops_per_s", lambda precision: 1e9)

    all_rows = seconds_per_token(spec.to_yaml(), 1e6)[0]
    fewer = seconds_per_token(spec.to_yaml(), 2 * 64 * spec.model.size(64).flops_per_token / 1e9 + 0.5)[0]

    assert rows[0] == spec.batch_tokens // 64 > rows[1] >= 1
    assert fewer > 0 < all_rows


def test_the_command_prints_the_plan_before_it_times_anything(file, capsys, monkeypatch):
    shown = []

    def timed(plan, limit_s):
        shown.append((capsys.readouterr().out, limit_s))
        return plan

    monkeypatch.setattr("scalelab.launch.sweep.time_plan", timed)

    assert main(["sweep", "t.yaml", "--dry-run"]) == 0
    assert "6 runs" in shown[0][0]
    assert shown[0][1] == 10
    assert main(["sweep", "t.yaml", "--dry-run", "--no-timing", "--json", "plan.json"]) == 0
    assert len(shown) == 1
    assert "Time:" not in capsys.readouterr().out


def test_a_design_that_asks_for_too_many_runs_at_once_is_refused():
    proposal = SimpleNamespace()

    refuse_too_many_runs([proposal] * MOST_RUNS)
    with pytest.raises(ConfigError, match="asks for 10,001 runs, more than 10,000"):
        refuse_too_many_runs([proposal] * (MOST_RUNS + 1))


def test_a_run_that_is_done_takes_no_time(work):
    done = [PlannedJob(w.proposal, w.run_dir, "done") for w in work]

    assert time_runs(done, Answers(), 1.0).models == []
    timing = SweepTiming(1.0, [TimedModel(work[0].proposal, 1e-6)])
    assert {w.seconds for w in estimate(done, timing)} == {0.0}
