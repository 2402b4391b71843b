"""Every registered kind of job keeps its promises."""

import pytest

from scalelab.jobs import KINDS
from scalelab.jobs.base import Job, Resources
from scalelab.launch.base import LaunchConfig
from scalelab.launch.settings import FinalSettings
from scalelab.posttrain.jobs import jobs_of
from scalelab.testing.executors import job
from scalelab.testing.jobs import check_kind
from scalelab.testing.stages import planned_stages, tiny_base
from scalelab.train.layout import Layout
from scalelab.train.rundir import RunDir

SFT = {"kind": "sft", "name": "sft", "examples": 8, "batch": 4, "rates": {"lr": 1e-2}}


@pytest.fixture
def made(tmp_path, tiny_spec, tiny_corpus, monkeypatch):
    """How to make a job of each kind, and what it came to."""
    # A second launched process would wait for its lease as another machine's does.
    monkeypatch.setattr("scalelab.launch.training.CLAIM_S", 0.0)

    def run(kind, settings):
        def make(folder):
            spec = tiny_spec(n_steps=12)
            run_dir = RunDir(folder / spec.id)
            run_dir.create(spec)
            return Job(spec.id, run_dir, kind, resources=Resources(), settings=settings)

        return make, lambda done: done.dir.result().train_curve

    def stage(folder):
        base = tmp_path / "base"
        if not base.exists():
            tiny_base(base, tiny_corpus.digest)
        (only,) = jobs_of(planned_stages([SFT], base=base, root=folder))
        return only

    return {
        "run": run("run", {}),
        "final": run("final", FinalSettings.of(Layout(), LaunchConfig()).to_json()),
        "stage": (stage, lambda done: (done.dir.path / "model.safetensors").read_bytes()),
        "probe": (
            lambda folder: job(folder, "probe"),
            lambda done: done.dir.result_path.read_text(),
        ),
    }


@pytest.mark.parametrize("kind", [*KINDS])
def test_it_conforms(made, kind, tmp_path):
    make, result = made[kind]
    check_kind(make, tmp_path / kind, result)
