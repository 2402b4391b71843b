"""Every registered kind of job keeps its promises."""

import json
import os

import pytest

from scalelab.data.curate.shard_work import ShardJob
from scalelab.evals import jobs as evals_jobs
from scalelab.evals.file import file_type
from scalelab.evals.jobs import evaluation_jobs
from scalelab.evals.request import EvalRequest
from scalelab.hardware.layout import Layout
from scalelab.jobs import KINDS
from scalelab.jobs.base import Job, JobResources
from scalelab.jobs.queue import note_abandoned
from scalelab.jobs.record import read_record, write_record
from scalelab.jobs.settings import LaunchConfig
from scalelab.jobs.worker import Assignment, run_reported
from scalelab.launch import shards
from scalelab.launch.curation import ShardGroup
from scalelab.launch.job_settings import FinalSettings
from scalelab.launch.sweep_plan import PlannedJob
from scalelab.launch.trunk_jobs import trunks_of
from scalelab.posttrain.jobs import jobs_of
from scalelab.sweep.base import Proposal
from scalelab.testing.executors import job
from scalelab.testing.jobs import check_kind
from scalelab.testing.stages import planned_stages, tiny_base
from scalelab.train.run_directory import RunDir

SFT = {"kind": "sft", "name": "sft", "examples": 8, "batch": 4, "rates": {"lr": 1e-2}}


@pytest.fixture
def made(tmp_path, tiny_spec, tiny_corpus, tiny_text, monkeypatch):
    """How to make a job of each kind, and what it came to."""
    # A second launched process would wait for its lease as another machine's does.
    monkeypatch.setattr("scalelab.launch.training.CLAIM_WAIT", 0.0)

    def run(kind, settings):
        def make(folder):
            spec = tiny_spec(n_steps=12)
            run_dir = RunDir(folder / spec.id)
            run_dir.create(spec)
            return Job(spec.id, run_dir, kind, resources=JobResources(), settings=settings)

        return make, lambda done: done.dir.result().train_curve

    def trunk(folder):
        schedule = {"kind": "wsd", "trunk": True, "warmup_steps": 2, "cooldown": 0.3}
        work = []
        for n_steps in (12, 18):
            spec = tiny_spec(n_steps=n_steps, schedule=schedule)
            work.append(PlannedJob(Proposal(spec, None, 1e4, 1e4), RunDir(folder / "t" / spec.id), "planned"))
            work[-1].run_dir.create(spec)
        (found,) = trunks_of(work)
        found.run_dir.create(found.spec)
        return found.job()

    def left(done):
        checkpoints = sorted(done.dir.path.parent.glob("*/checkpoints/step-*/state.safetensors"))
        return [(place.relative_to(done.dir.path.parent), place.read_bytes()) for place in checkpoints]

    def stage(folder):
        base = tmp_path / "base"
        if not base.exists():
            tiny_base(base, tiny_corpus.digest)
        (only,) = jobs_of(planned_stages([SFT], base=base, root=folder))
        return only

    def evaluation(folder):
        if not (tmp_path / "base").exists():
            tiny_base(tmp_path / "base", tiny_corpus.digest)
        sets = [
            {"name": name, "source": {"kind": "text", "paths": [f"{tiny_text}/{name}.txt"]}}
            for name in ("00", "01")
        ]
        file = {"name": "e", "models": {"one": str(tmp_path / "base")}, "perplexity": sets}
        request = EvalRequest(file_type().model_validate(file), folder)
        (only,) = evaluation_jobs(request, request.context())
        return only

    def rows(done):
        found = sorted(done.dir.path.parents[1].glob("*.json"))
        return [(path.name, path.read_bytes()) for path in found]

    def group_of_shards(folder):
        places = []
        for name in "abc":
            (tmp_path / f"{name}.txt").write_text(f"The text of page {name}. " * 9)
            places.append(json.dumps([name, str(tmp_path / f"{name}.txt")]))
        source, directory = {"kind": "files", "paths": [str(tmp_path)]}, str(folder / "extract-0")
        group = [
            ShardJob("apply", {"kind": "extract"}, directory, i, source=source, places=(place,))
            for i, place in enumerate(places)
        ]
        return ShardGroup(group, folder / "jobs").job()

    def documents(done):
        found = sorted(done.dir.path.parents[1].glob("extract-0/documents-*.jsonl"))
        return [path.read_bytes() for path in found]

    return {
        "run": run("run", {}),
        "trunk": (trunk, left),
        "final": run("final", FinalSettings.of(Layout(), LaunchConfig()).to_json()),
        "stage": (stage, lambda done: (done.dir.path / "model.safetensors").read_bytes()),
        "evaluation": (evaluation, rows),
        "shards": (group_of_shards, documents),
        "probe": (lambda folder: job(folder, "probe"), lambda done: done.dir.result_path.read_text()),
    }


@pytest.mark.parametrize("kind", [*KINDS])
def test_it_conforms(made, kind, tmp_path):
    make, result = made[kind]
    check_kind(make, tmp_path / kind, result)


def in_child(run):
    """Run something in a process of its own, and return the exit status."""
    if (pid := os.fork()) == 0:
        try:
            run()
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.parametrize(
    ("kind", "work"),
    [("shards", (shards, "run_job")), ("evaluation", (evals_jobs, "rows_of_item"))],
    ids=["shards", "evaluation"],
)
def test_a_piece_that_kills_its_worker_is_given_up_behind_pieces_that_are_done(
    made, kind, work, tmp_path, monkeypatch
):
    each, real = made[kind][0](tmp_path / kind), getattr(*work)

    def kill_at_the_second(*args):
        if all(event["event"] != "checkpoint" for event in each.dir.events()):
            return real(*args)
        os._exit(9)

    monkeypatch.setattr(*work, kill_at_the_second)
    write_record(each)
    record, counts = read_record(each.dir), []
    assignment = Assignment(each.dir, record.settings, 0, 1, lambda: False)
    while len(counts) < 5 and (n := note_abandoned(each.dir)) <= 2:
        counts.append(n)
        assert in_child(lambda: run_reported(assignment, record)) == 9

    assert counts == [0, 1, 2]
