"""Branches beside their separate runs: differences in nats and in seed standard deviations."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from scalelab.jobs.driver import JobOutcomes
from scalelab.launch.sweep import SweepResult
from scalelab.launch.trunk_validation import seed_sd, validations
from scalelab.report.render.terminal import render_terminal
from scalelab.report.sweep.document import result_document
from scalelab.sweep.file import SweepFile

SWEEP = Path(__file__).parents[2] / "sweeps" / "isoflop.yaml"
REPLICATES = ("design.replicates=2", "design.replicate_at=centre")


def trained(*overrides, lost=(), noise=0.02):
    """A sweep whose seeds differ by `noise`, and whose separate runs are worse than their branches by .01."""
    file = SweepFile.load(SWEEP, (*REPLICATES, "design.validate_trunks=3", *overrides))
    work = []
    for i, p in enumerate(file.design.ask(file.recipe, vocab_size=1024, data_digest="d" * 12)):
        loss = 3.0 + noise * p.spec.seed + (0.01 if p.validates else 0)
        ended = SimpleNamespace(
            status="finished",
            reason=None,
            loss=loss,
            flops=1.0,
            flops_per_token=1.0,
            n_tokens=1,
            n_tokens_trunk=0,
            train_s=0.0,
            eval_s=0.0,
            trunk=None,
        )
        result = None if i in lost else ended
        place = SimpleNamespace(
            run=p.spec.id, path=Path(f"runs/t/{p.spec.id}"), result=lambda result=result: result
        )
        work.append(SimpleNamespace(run_dir=place, proposal=p))
    return SweepResult(file, work, JobOutcomes({}, {}, False), None)


def test_differences_and_the_noise_between_seeds():
    """Two cells with seeds 0, 1, 2: an sd of .02 each. The separate runs do not count as repeats."""
    done = trained()
    pairs = validations(done.work, done.results)

    assert [p.difference for p in pairs] == pytest.approx([-0.01] * 3)
    sd, dof = seed_sd(done.work, done.results)
    assert (sd, dof) == (pytest.approx(0.02), 4)
    text = render_terminal(result_document(done), 200)
    assert "-0.0100" in text
    assert "-0.50" in text
    assert "Seed standard deviation: 0.0200 nats, 4 degrees of freedom." in text


def test_without_replicates_there_are_nats_only():
    done = trained("design.replicates=0")

    assert seed_sd(done.work, done.results) is None
    assert "cannot be compared with seed noise" in render_terminal(result_document(done), 200)


def test_a_pair_of_which_one_is_lost_is_no_pair():
    done = trained()
    branch = next(
        i for i, w in enumerate(done.work) if w.proposal.spec.id == done.work[-1].proposal.validates
    )

    for lost in ((len(done.work) - 1,), (branch,)):
        ended = trained(lost=lost)
        assert len(validations(ended.work, ended.results)) == 2
