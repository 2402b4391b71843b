"""Runs on Slurm's own daemons, whatever is killed: each trained once, with the losses of this machine.

Longer campaigns of faults: analysis/slurm_faults.py, analysis/slurm_gangs.py.
"""

from contextlib import closing, suppress

import pytest

from scalelab.errors import ScalelabError
from scalelab.hardware.layout import Layout
from scalelab.jobs.base import Job, JobResources
from scalelab.jobs.driver import JobList, drive
from scalelab.jobs.executors.slurm import SlurmConfig
from scalelab.jobs.limits import Limits
from scalelab.jobs.settings import LaunchConfig
from scalelab.jobs.view import JobLabels, LiveView
from scalelab.launch.job_settings import FinalSettings
from scalelab.train.loop import train

SETTINGS = {"gpus": 0, "cpus": 2, "slots": 2, "workers": 1, "minutes": 30, "poll_s": 0.5}
STEPS, GANG_STEPS = 30, 300


class Disturbed(LiveView):
    """A live view that calls a function of the test's at every turn of the driver, until that returns True."""

    def __init__(self, disturb):
        super().__init__(JobLabels())
        self.disturb, self.is_done = disturb, False

    def tick(self):
        super().tick()
        self.is_done = self.is_done or bool(self.disturb())


def n_events(run_dir, kind):
    return sum(event["event"] == kind for event in run_dir.events())


@pytest.fixture
def home(tmp_path):
    return tmp_path / "runs" / "sweep"


def start(home, **changes):
    return SlurmConfig(**SETTINGS | changes).start(("scalelab.launch.training",), home)


def test_runs_survive_their_driver_the_controller_and_a_node(slurm_cluster, home, tmp_path, tiny_run):
    dirs = [tiny_run(home, seed=seed, n_steps=STEPS) for seed in range(4)]
    jobs = [Job(each.run, each, "run") for each in dirs]
    first = start(home)
    for each in jobs:
        first.submit(each)
    first.poll()  # submits a worker; then this driver is gone, and the controller too
    slurm_cluster.kill_ctld()
    slurm_cluster.start_ctld()
    killed = []

    def kill_the_nodes():
        if not any(n_events(each, "start") for each in dirs):
            return False
        killed.append(sum(slurm_cluster.kill_node(node, steps=True) for node in ("n1", "n2")))
        for node in ("n1", "n2"):
            slurm_cluster.start_node(node)
        return True

    with closing(start(home)) as executor, Disturbed(kill_the_nodes) as view:
        outcomes = drive(JobList(jobs), executor, view, Limits())

    assert killed[0] > 1, "a step daemon and a worker"
    assert [outcomes.ended[each.run].outcome for each in dirs] == ["done"] * 4
    assert [n_events(each, "end") for each in dirs] == [1] * 4
    for each in dirs:
        alone = train(tiny_run(tmp_path / "alone", seed=each.spec().seed, n_steps=STEPS))
        result = each.result()
        assert (result.loss, result.curve, result.train_curve) == (alone.loss, alone.curve, alone.train_curve)


def test_a_run_of_two_nodes_is_preempted_and_ends_with_the_same_loss(slurm_cluster, home, tmp_path, tiny_run):
    run_dir, layout = tiny_run(home, n_steps=GANG_STEPS), Layout(shard=2)
    settings = FinalSettings.of(layout, LaunchConfig(checkpoint_s=1.0)).to_json()
    job = Job(run_dir.run, run_dir, "final", resources=JobResources(2, 1), settings=settings)

    def preempt():
        if not n_events(run_dir, "checkpoint"):
            return False
        slurm_cluster.preempt()
        return True

    with closing(start(home, processes_per_node=1, poll_s=0.1)) as executor, Disturbed(preempt) as view:
        outcomes = drive(JobList([job]), executor, view, Limits())

    assert outcomes.ended[job.id].outcome == "done", outcomes.ended
    assert outcomes.tries[job.id] == 1, "a preemption is no try"
    assert [n_events(run_dir, kind) for kind in ("start", "resume", "interrupted", "end")] == [2, 1, 1, 1]
    alone, result = train(tiny_run(tmp_path / "alone", n_steps=GANG_STEPS)), run_dir.result()
    assert [p[:2] for p in result.train_curve] == [p[:2] for p in alone.train_curve]
    assert result.loss == pytest.approx(alone.loss, rel=2e-4)


def test_a_full_disk_ends_the_command_with_its_fix_and_the_same_jobs_go_on_after_it(
    slurm_cluster, small_disk, tiny_run
):
    home, ballast = small_disk / "runs" / "sweep", small_disk / "ballast"
    dirs = [tiny_run(home, seed=seed, n_steps=4 * STEPS) for seed in range(4)]
    jobs = [Job(each.run, each, "run") for each in dirs]

    def fill():
        if any(n_events(each, "start") for each in dirs):
            with suppress(OSError), open(ballast, "wb", 0) as file:
                while True:
                    file.write(bytes(4096))
        return ballast.exists()

    with (
        pytest.raises(ScalelabError, match="No space left on device") as error,
        closing(start(home, poll_s=0.1)) as executor,
        Disturbed(fill) as view,
    ):
        drive(JobList(jobs), executor, view, Limits())
    assert "free some space, then run the same command to resume" in error.value.fix
    assert str(small_disk) in error.value.where
    assert not all(each.is_done for each in dirs)

    ballast.unlink()
    with closing(start(home)) as executor, LiveView(JobLabels()) as view:
        outcomes = drive(JobList(jobs), executor, view, Limits())
    assert [outcomes.ended[each.run].outcome for each in dirs] == ["done"] * 4
    assert [n_events(each, "end") for each in dirs] == [1] * 4
    for each in dirs:
        each.check_file("model.safetensors", each.result().files)
