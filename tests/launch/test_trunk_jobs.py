"""Trunks in a sweep: trained before their branches, once, counted once, resumed after any kill."""

import json
import os
import signal
from collections import Counter
from dataclasses import replace

import pytest

from scalelab.errors import LaunchError, RunError
from scalelab.jobs.base import Capabilities, JobOutcome
from scalelab.jobs.driver import JobList, drive
from scalelab.jobs.executors.inline import InlineExecutor
from scalelab.jobs.executors.local import LocalConfig
from scalelab.jobs.limits import Limits
from scalelab.jobs.view import JobLabels, LiveView
from scalelab.launch.sweep_plan import PlannedJob
from scalelab.launch.sweep_run import jobs_of, train_all, write_manifest
from scalelab.launch.training import train_shared
from scalelab.launch.trunk_jobs import flops_left, flops_planned, trunks_of
from scalelab.records.evidence import evidence
from scalelab.records.run_directories import remove, run_directories
from scalelab.records.run_table import run_table
from scalelab.records.sweep_manifest import SweepManifest
from scalelab.sweep.base import Proposal
from scalelab.sweep.file import SweepFile
from scalelab.train import loop
from scalelab.train.loop import train
from scalelab.train.run_directory import RunDir
from scalelab.train.spent import spent

SCHEDULE = {"kind": "wsd", "trunk": True, "warmup_steps": 4, "cooldown": 0.3, "shape": "sqrt"}
LENGTHS, LEAVES = (20, 30, 60), (14, 21, 42)
COOLDOWNS = sum(LENGTHS) - sum(LEAVES)
SWEEP = {
    "name": "t",
    "question": "?",
    "prediction": "!",
    "recipe": {
        "data": {"source": {"kind": "text", "paths": ["x"]}},
        "seq_len": 32,
        "model": {"kind": "transformer", "n_layers": 2, "head_size": 8},
        "optimizer": {"lr": 3e-3},
        "schedule": {"kind": "wsd", "trunk": True, "cooldown": 0.3, "shape": "sqrt"},
    },
    "design": {"kind": "isoflop", "budgets": [1e9]},
}
EVALUATION = {"tokens": 1024, "curve_points": 2, "curve_tokens": 512}


@pytest.fixture
def sweep():
    return SweepFile.model_validate(SWEEP)


@pytest.fixture
def plan(tmp_path, tiny_spec):
    """A function that places the branches of one trunk for each seed in the directory of all runs."""

    def make(seeds=(0,), lengths=LENGTHS):
        work = []
        for seed in seeds:
            for n_steps in lengths:
                spec = tiny_spec(n_steps=n_steps, schedule=SCHEDULE, seed=seed, evaluation=EVALUATION)
                run_dir = RunDir(tmp_path / "runs" / "t" / spec.id)
                state = "done" if run_dir.is_done else "planned"
                work.append(PlannedJob(Proposal(spec, 1e9, 1e4, 1e4), run_dir, state))
        return work

    return make


def run(sweep, work, executor, root):
    write_manifest(sweep, work, root)
    return train_all(sweep, work, executor)


@pytest.fixture
def steps(monkeypatch, tmp_path):
    """Count every step of every process; SIGKILL the process at chosen ones. Returns how often each was trained."""
    kills, file = [], tmp_path / "steps"
    gradient = loop._Run._gradient

    def counted(self):
        here = (self.dir.run, self.progress.step)
        if here in kills:
            os.kill(os.getpid(), signal.SIGKILL)
        with open(file, "a") as out:
            out.write(f"{json.dumps(here)}\n")
        return gradient(self)

    monkeypatch.setattr(loop._Run, "_gradient", counted)

    def trained(*at):
        kills[:] = at
        return (
            Counter(tuple(json.loads(line)) for line in file.read_text().splitlines())
            if file.exists()
            else {}
        )

    return trained


def in_a_process(body):
    """How a process that ran this ended, as os.wait reports it."""
    child = os.fork()
    if child == 0:
        try:
            body()
        except BaseException:
            os._exit(1)
        os._exit(0)
    return os.waitpid(child, 0)[1]


@pytest.mark.filterwarnings("ignore:This process")
def test_killed_in_the_trunk_between_and_in_a_branch_the_same_command_resumes(
    sweep, plan, steps, tmp_path, tiny_spec
):
    work, root = plan(), tmp_path / "runs"
    (trunk,) = trunks_of(work)
    name, (first, _, last) = trunk.run_dir.run, [w.run_dir.run for w in work]
    for at in ((name, 30), (last, 42), (last, 50), (first, 14)):
        steps(at)
        assert in_a_process(lambda: run(sweep, plan(), InlineExecutor(), root)) == signal.SIGKILL
    steps()
    assert not run(sweep, plan(), InlineExecutor(), root).of("error", "killed", "blocked", "refused")

    lost = Counter({(name, step): 1 for step in range(21, 30)})  # since the second branch left
    lost += Counter({(last, step): 1 for step in range(42, 50)})
    once = Counter({(name, step): 1 for step in range(42)})
    for w, leaves in zip(work, LEAVES, strict=True):
        once += Counter({(w.run_dir.run, step): 1 for step in range(leaves, w.proposal.spec.n_steps)})
    assert steps() == once + lost
    for w in work:
        alone = RunDir(tmp_path / "alone" / w.run_dir.run)
        alone.create(w.proposal.spec)
        separate, result = train(alone), w.run_dir.result()
        assert (result.loss, result.curve, result.files) == (separate.loss, separate.curve, separate.files)


def test_processes_train_trunks_before_their_branches_and_each_step_once(sweep, plan, tmp_path):
    work, root = plan(seeds=(0, 1)), tmp_path / "runs"
    planned, separate = flops_planned(work), sum(w.proposal.flops for w in work)
    assert planned / separate == pytest.approx((42 + COOLDOWNS) / sum(LENGTHS))
    assert flops_left(work) == pytest.approx(planned)
    executor = LocalConfig().start(("scalelab.launch.training",))
    try:
        outcomes = run(sweep, work, executor, root)
    finally:
        executor.close()

    assert len(outcomes.of("done")) == 8
    results = [w.run_dir.result() for w in work]
    assert spent(results).flops == pytest.approx(planned)
    assert flops_left([replace(w, state="done") for w in work]) == 0
    assert [r.flops for r in results] == [w.proposal.flops for w in work]
    assert not [t for t in trunks_of(work) if t.is_needed or t.run_dir.checkpoints.exists()]

    table = run_table(root, "t")
    assert [*table["group"]] == [*table["trunk"]] == [r.trunk for r in results]
    assert table["trunk"].nunique() == 2
    assert set(table["schedule"]) == {"wsd, cooldown 0.3, sqrt"}
    assert len(evidence(table).table) == 6

    trunks = [each for each in run_directories(root) if each.dir.split("/")[1] not in set(table["run"])]
    assert [each.users for each in trunks] == [(), ()]
    remove(root, [each.dir for each in trunks])


def test_a_trunk_whose_branches_are_not_done_is_in_use(sweep, plan, tmp_path):
    root, work = tmp_path / "runs", plan()
    write_manifest(sweep, work, root)
    (trunk,) = trunks_of(work)
    (dir,) = [each for each in run_directories(root) if each.dir.endswith(trunk.run_dir.run)]

    assert dir.users == ("branches of the sweep t that are not done",)
    with pytest.raises(RunError, match="is in use and was not removed"):
        remove(root, [dir.dir])
    assert trunk.run_dir.spec_path.exists()


def test_only_trunks_that_two_branches_need_are_trained(sweep, plan, tmp_path):
    work = plan()
    assert [job.kind for job in jobs_of(work)] == ["trunk", "run", "run", "run"]
    assert [job.after for job in jobs_of(work)] == [(), *[(trunks_of(work)[0].run_dir.run,)] * 3]
    assert [job.kind for job in jobs_of(plan(lengths=(60,)))] == ["run"]

    write_manifest(sweep, work, tmp_path / "runs")
    for w in work[:2]:
        train(w.run_dir)
    assert [job.kind for job in jobs_of(plan())] == ["run"]
    assert flops_left(plan()) == work[2].proposal.flops


def branch_off(run_dir, step=None):
    """What a trunk leaves a branch, as far as plans look."""
    step = run_dir.spec().branch_step if step is None else step
    (run_dir.checkpoints / f"step-{step:08d}").mkdir(parents=True)


def test_each_trunk_stands_right_before_the_branches_that_wait_for_it(sweep, plan, tmp_path):
    """The longest trunk first; a branch that has its checkpoint waits for nothing."""
    work = plan(seeds=(0,)) + plan(seeds=(1,), lengths=(20, 30, 40, 90))
    write_manifest(sweep, work, tmp_path / "runs")
    branch_off(work[1].run_dir)
    short, long = trunks_of(work)
    runs = [w.run_dir.run for w in work]

    assert [job.id for job in jobs_of(work)] == [
        *(long.run_dir.run, runs[6], runs[5], runs[4], runs[3]),
        *(short.run_dir.run, runs[2], runs[0]),
        runs[1],
    ]
    assert [job.after for job in jobs_of(work)] == [
        *((), *[(long.run_dir.run,)] * 4),
        *((), *[(short.run_dir.run,)] * 2),
        (),
    ]


class Ends:
    """An executor with two slots that ends a trunk in a given way and whose runs have their results."""

    capabilities = Capabilities(gangs=False, timing=False)

    def __init__(self, outcome, work):
        self.outcome, self.work, self.submitted, self.jobs = outcome, work, [], []

    def check(self, job):
        pass

    def find(self, jobs):
        return ()

    def has_room(self, job):
        return len(self.jobs) < 2

    def submit(self, job):
        self.submitted.append(job.id)
        self.jobs.append(job)

    def poll(self):
        jobs, self.jobs = self.jobs, []
        return {job.id: self.ended(job) for job in jobs}

    def ended(self, job):
        if job.kind == "trunk":
            return JobOutcome(job, self.outcome)
        job.dir.result_path.write_text("{}")
        return JobOutcome(job, "done")


@pytest.mark.parametrize("outcome", ["done", "error", "refused", "stalled"])
def test_branches_begin_once_their_trunk_has_ended_however_it_ended(sweep, plan, tmp_path, outcome):
    """Also one that reports done and has left out a branch that another process had taken meanwhile."""
    work = plan()
    write_manifest(sweep, work, tmp_path / "runs")
    branch_off(work[2].run_dir)
    (trunk,) = trunks_of(work)
    executor = Ends(outcome, work)
    with LiveView(JobLabels()) as view:
        limits = Limits(retries=0, stop_on_refusal=False)
        outcomes = drive(JobList(jobs_of(work)), executor, view, limits)

    first, rest = {*executor.submitted[:2]}, executor.submitted[2:]
    assert first == {trunk.run_dir.run, work[2].run_dir.run}
    assert rest == [work[1].run_dir.run, work[0].run_dir.run]
    assert outcomes.ended[trunk.run_dir.run].outcome == outcome
    assert len(outcomes.of("done")) == 3 + (outcome == "done")


def test_checkpoints_of_a_trunk_that_nobody_waits_for_are_removed(sweep, plan, tmp_path):
    work, root = plan(), tmp_path / "runs"
    write_manifest(sweep, work, root)
    (trunk,) = trunks_of(work)
    branch_off(trunk.run_dir, step=42)
    branch_off(work[0].run_dir)
    write_manifest(sweep, work, root)
    assert trunk.run_dir.checkpoints.exists()

    for w in work[1:]:
        branch_off(w.run_dir)
    write_manifest(sweep, work, root)
    assert not trunk.run_dir.checkpoints.exists()


RULE = {"kind": "power", "coefficient": 6.0, "n_steps": -1}


@pytest.mark.parametrize("trunk", [False, True])
def test_a_cooldown_by_a_rule_is_one_schedule_whatever_it_gives(tiny_spec, tmp_path, trunk):
    """6 / n_steps, of 20 and 30 steps; also in a manifest that holds the numbers, as older ones do."""
    recipe = SWEEP["recipe"] | {"schedule": {"kind": "wsd", "cooldown": RULE, "trunk": trunk}}
    sweep, root, work = SweepFile.model_validate(SWEEP | {"recipe": recipe}), tmp_path / "runs", []
    for n_steps in (20, 30):
        spec = tiny_spec(
            n_steps=n_steps, schedule=SCHEDULE | {"cooldown": 6 / n_steps}, evaluation=EVALUATION
        )
        work.append(PlannedJob(Proposal(spec, 1e9, 1e4, 1e4), RunDir(root / "t" / spec.id), "planned"))
    write_manifest(sweep, work, root)
    came_to = {"status": "finished", "n_params_total": 1e4, "n_tokens": [1e4, 2e4], "loss": [3.0, 2.0]}

    table = run_table(root, "t").assign(**came_to)
    assert set(table["schedule"]) == {"wsd, cooldown by power (coefficient 6.0, n_steps -1.0), linear"}
    assert len(evidence(table).table) == 2

    manifest = SweepManifest.load(root, "t")
    runs = (replace(run, schedule=f"wsd, cooldown {6 / run.n_steps:g}, linear") for run in manifest.runs)
    replace(manifest, runs=tuple(runs)).write(root)
    table = run_table(root, "t").assign(**came_to)
    assert table["schedule"].isna().all()
    assert len(evidence(table).table) == 2


@pytest.mark.parametrize("settings", [{}, {"branches": "x"}, {"branches": [1]}])
def test_a_trunk_without_branches_is_refused(plan, settings):
    from scalelab.jobs.worker import Assignment

    (trunk,) = trunks_of(plan())
    with pytest.raises(LaunchError, match="the trunk has no list of branches"):
        train_shared(Assignment(trunk.run_dir, settings, 0, 1, lambda: False))
