"""A tuning on an executor whose queue belongs to one command at a time."""

from typing import ClassVar

import pytest

from scalelab.errors import LaunchError
from scalelab.jobs import EXECUTORS
from scalelab.jobs.executors.inline import InlineConfig
from scalelab.launch.sweep_run import sweep_lock
from scalelab.launch.tune import run_tune
from scalelab.leases import holder
from scalelab.sweep.tune_file import TuneFile

SWEEP = """
name: s
question: q
prediction: p
recipe:
  data: {source: {kind: text, paths: ["FOLDER/*.txt"]}, tokenizer: {kind: bytes}, validation: 0.2, epochs: 50}
  seq_len: 32
  model: {kind: transformer, n_layers: 1, head_size: 8}
  optimizer: {lr: 3e-3}
  batch: {min_tokens: 256, max_tokens: 1024}
  min_steps: 10
  evaluation: {tokens: 4096, curve_tokens: 1024}
design: {kind: isoflop, budgets: [1e10], sizes_per_budget: 3, span: 3, tokens_per_param: 14}
"""
TUNING = """
name: tuned
question: q
prediction: p
extends: s.yaml
fields: {optimizer.lr: {low: 3e-4, high: 1e-1}}
sizes: [5e3, 1.2e4]
tokens: [1.2e4, 2.4e4]
trials: 9
"""


class Stops(InlineConfig):
    """An executor that does not start, and notes whether the directory was locked."""

    def start(self, preload=(), home=None):
        self.held.append(holder(home, "lock") is not None)
        raise LaunchError("far enough", where="here", fix="none")


class Alone(Stops):
    exclusive: ClassVar[bool] = True


@pytest.fixture
def run(tmp_path, tiny_text, cache, monkeypatch):
    """A function that begins the tuning on an executor, and returns whether its directory was locked."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s.yaml").write_text(SWEEP.replace("FOLDER", str(tiny_text)))
    (tmp_path / "t.yaml").write_text(TUNING)

    def run(config):
        file = TuneFile.load(tmp_path / "t.yaml")
        config.__dict__["held"] = held = []
        with pytest.raises(LaunchError, match="far enough"):
            run_tune(
                file.model_copy(update={"launch": file.launch.model_copy(update={"executor": config})}),
                tmp_path / "runs",
            )
        return held

    return run


def test_one_command_at_a_time_drives_an_exclusive_executor(run, tmp_path):
    assert run(Stops()) == [False]  # several may
    assert run(Alone()) == [True]
    with sweep_lock(tmp_path / "runs", "tuned"), pytest.raises(LaunchError, match="run by another process"):
        run_tune(TuneFile.load(tmp_path / "t.yaml"), tmp_path / "runs")


def test_executors_with_a_queue_are_exclusive():
    assert {name for name in EXECUTORS if EXECUTORS[name].exclusive} == {"slurm", "workers"}
