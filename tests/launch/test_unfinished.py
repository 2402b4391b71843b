"""A sweep whose runs diverged is no success, whether all of them did or most."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from scalelab.config import parse_yaml
from scalelab.errors import LaunchError
from scalelab.jobs.driver import JobOutcomes
from scalelab.launch.sweep import SweepResult, refuse_unfinished
from scalelab.posttrain.run import PosttrainRun
from scalelab.report.render.terminal import render_terminal
from scalelab.report.sweep.document import result_document
from scalelab.sweep.file import SweepFile

SWEEP = """
name: t
question: q
prediction: p
recipe:
  data: {source: pycode, tokenizer: {vocab_size: 1024}}
  seq_len: 64
  model: {kind: transformer, n_layers: 2, head_size: 8}
  optimizer: {lr: LR}
design: {kind: isoflop, budgets: [1e12], sizes_per_budget: 4, span: 4}
"""


def result(*statuses, lr="0.03"):
    """A sweep of four runs that ended so."""
    file = SweepFile.parse(parse_yaml(SWEEP.replace("LR", lr), "t.yaml"))
    work = []
    for i, status in enumerate(statuses):
        ended = status and SimpleNamespace(
            status=status,
            reason=f"reason {i}",
            flops=1.0,
            flops_per_token=1.0,
            train_s=1.0,
            eval_s=0.0,
            n_tokens=1,
            n_tokens_trunk=0,
            trunk=None,
        )
        place = SimpleNamespace(run=f"run{i}", path=Path(f"runs/t/run{i}"), result=lambda ended=ended: ended)
        proposal = SimpleNamespace(flops=1.0, validates=None, spec=SimpleNamespace(trunk_id=None))
        work.append(SimpleNamespace(run_dir=place, proposal=proposal))
    return SweepResult(file, work, JobOutcomes({}, {}, False), None)


@pytest.mark.parametrize("finished", [0, 1])
def test_a_sweep_that_mostly_diverged_is_refused_with_a_rate_to_try(finished):
    ended = result(*["finished"] * finished, *["diverged"] * (4 - finished))

    with pytest.raises(LaunchError) as refused:
        refuse_unfinished(ended)

    assert f"{finished} of 4" in refused.value.problem or "no run of t" in refused.value.problem
    assert refused.value.where == f"runs/t/run{finished}"
    assert "--set recipe.optimizer.lr=0.0075" in refused.value.fix
    assert "Next:" not in render_terminal(result_document(ended))


def test_a_rule_of_the_rate_is_named_without_a_number():
    ended = result(*["diverged"] * 4, lr="{kind: power, coefficient: 1, n_params: -0.5}")

    with pytest.raises(LaunchError) as refused:
        refuse_unfinished(ended)
    assert refused.value.fix.endswith("--set recipe.optimizer.lr")


def test_runs_that_failed_are_tried_again():
    with pytest.raises(LaunchError, match="run the same command"):
        refuse_unfinished(result("finished", "failed", "failed", None))


@pytest.mark.parametrize("statuses", [["finished"] * 4, ["finished", "finished", "diverged", "diverged"]])
def test_a_sweep_of_which_half_finished_goes_on_to_the_fit(statuses):
    ended = result(*statuses)

    refuse_unfinished(ended)
    assert "Next: scalelab fit t" in render_terminal(result_document(ended))


def test_a_stage_that_diverged_is_known_to_the_command():
    stages = [
        SimpleNamespace(name=name, dir=SimpleNamespace(result=lambda found=found: found))
        for name, found in (
            ("sft", SimpleNamespace(status="finished", reason=None)),
            ("dpo", SimpleNamespace(status="diverged", reason="loss nan at step 3")),
            ("ppo", None),
        )
    ]
    run = PosttrainRun(SimpleNamespace(stages=stages), JobOutcomes({}, {}, False), None)

    assert run.diverged == {"dpo": "loss nan at step 3"}
    assert run.failed == []
