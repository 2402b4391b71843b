"""What a person who runs a sweep on Slurm can get wrong, asked of the command line and Slurm's own daemons."""

import pytest
from in_process import in_process

SLURM = "launch.executor={{kind: slurm, gpus: 0, poll_s: 0.1, {}}}"


@pytest.fixture
def refused(worlds, request, slurm_cluster):
    """A function that runs a sweep with settings of Slurm, expects it to be refused, and returns what was said."""
    world = worlds(request.node.name[:40], mlflow=False)

    def ask(settings, **environ):
        world.environ |= {"SLURM_CONF": str(slurm_cluster.conf)} | environ
        done = in_process(world, "sweep", "journey.yaml", "--no-timing", "--set", SLURM.format(settings))
        assert done.returncode == 2, done.stdout + done.stderr
        assert not list(world.runs.glob("*/*/result.json"))
        shown = done.stderr[done.stderr.index("error: ") :]
        assert (shown.count("\n  where: "), shown.count("\n  fix:   ")) == (1, 1)
        return shown

    return ask


def test_a_partition_that_there_is_not(refused):
    shown = refused("partition: gpu")

    assert "there is no partition 'gpu'; Slurm has: high, main" in shown


def test_a_machine_without_slurm(refused, tmp_path):
    shown = refused("", PATH=str(tmp_path))

    assert "sbatch is not here" in shown
    assert "executor: local" in shown


def test_a_job_that_slurm_rejects(refused):
    shown = refused("flags: [--gres=gpu:8]")

    assert "Invalid generic resource (gres) specification" in shown


def test_a_job_that_slurm_accepts_and_will_never_start(refused, slurm_cluster):
    shown = refused("cpus: 64")

    assert "will not start it: PartitionConfig" in shown
    assert slurm_cluster("squeue", "-h") == ""
