"""The estimate of a sweep's time and money, in round numbers."""

import pytest

from scalelab.config import parse_yaml
from scalelab.jobs.base import AvailableDevices
from scalelab.launch.sweep import SweepPlan
from scalelab.launch.sweep_plan import PlannedJob
from scalelab.report.render.terminal import render_terminal
from scalelab.report.sweep.document import plan_document
from scalelab.sweep.file import SweepFile

SWEEP = """
name: t
question: q
prediction: p
recipe:
  data: {source: pycode, tokenizer: {vocab_size: 1024}}
  seq_len: 64
  param_count: matmul
  model: {kind: transformer, n_layers: 2, head_size: 8}
  optimizer: {lr: 3e-3}
  batch: {min_tokens: 512, max_tokens: 4096}
design: {kind: isoflop, budgets: [1e12], sizes_per_budget: 3, span: 4, tokens_per_param: 14}
launch: {price_per_device_hour: 2.5}
"""


@pytest.fixture
def estimate():
    """A function: the last line of the plan of three runs that take so many seconds."""
    file = SweepFile.parse(parse_yaml(SWEEP, "t.yaml"))
    proposals = file.design.ask(file.recipe, vocab_size=1024, data_digest="d" * 12)

    def of(seconds, n, n_parallel):
        work = [PlannedJob(p, None, "planned", s) for p, s in zip(proposals, seconds, strict=True)]
        plan = SweepPlan(file, work, 10**9, AvailableDevices(n, "H100", n_parallel))
        return render_terminal(plan_document(plan), 400).splitlines()[-1]

    return of


def test_the_price_is_of_every_device_for_as_long_as_the_sweep_takes(estimate):
    """Three hours of work on 4 devices side by side two by two: 1.5 h x 4 x $2.5."""
    said = estimate((3600.0, 3600.0, 3600.0), n=4, n_parallel=2)

    assert "about 1 h 30 min" in said
    assert "cost about 15.00 at 2.5 per device and hour" in said


def test_a_sweep_takes_as_long_as_its_longest_run(estimate):
    """2 h + .5 h + .5 h three at once: 2 h x 4 x $2.5."""
    said = estimate((7200.0, 1800.0, 1800.0), n=4, n_parallel=3)

    assert "about 2 h 00 min" in said
    assert "cost about 20.00" in said


def test_one_device_at_a_time_costs_every_hour(estimate):
    """4 h x 1 x $2.5."""
    assert "cost about 10.00" in estimate((7200.0, 3600.0, 3600.0), n=1, n_parallel=1)
