"""Jobs at a time on a machine of several GPUs, which is pretended: `slots` counts the whole machine."""

import pytest
from pretended_gpus import A100, H100, MI300X, MIG, T4, V100, pretend_to_start

from scalelab.jobs.base import Job, JobResources
from scalelab.jobs.executors.local import LocalConfig
from scalelab.jobs.executors.slurm import SlurmConfig, SlurmExecutor
from scalelab.train.run_directory import RunDir

GIB = 2**30


@pytest.fixture
def started(monkeypatch):
    """The processes that were started on four GPUs of 80 GiB, which are not there."""
    return pretend_to_start(monkeypatch, *[H100] * 4)


def submit_all(executor, folder, n=40, processes=1, need=GIB):
    """Submit jobs of so many bytes for as long as there is room, and return how many were."""
    resources = JobResources(processes, memory=lambda kind, memory_bytes, precision: need)
    for i in range(n):
        job = Job(f"j{i}", RunDir(folder / f"j{i}"), "train", resources=resources)
        if not executor.has_room(job):
            return i
        executor.submit(job)
    return n


@pytest.mark.parametrize(
    ("settings", "jobs", "on_each"),
    [
        ({}, 16, 4),
        ({"slots": 8}, 8, 2),
        ({"slots": 8, "max_runs_per_gpu": 1}, 4, 1),
        ({"slots": 30, "max_runs_per_gpu": 5}, 20, 5),
    ],
    ids=str,
)
def test_slots_are_those_of_all_gpus_together(started, tmp_path, settings, jobs, on_each):
    executor = LocalConfig(**settings).start()

    assert submit_all(executor, tmp_path) == jobs
    used = [process.environ["CUDA_VISIBLE_DEVICES"] for process in started]
    assert sorted(used) == sorted("0123" * on_each)


def test_fewer_slots_than_gpus_leave_gpus_idle_and_the_estimate_says_so(started, tmp_path):
    executor = LocalConfig(slots=3).start()

    assert executor.devices.n_parallel == 3
    assert submit_all(executor, tmp_path) == 3
    assert len({process.environ["CUDA_VISIBLE_DEVICES"] for process in started}) == 3


def test_a_job_of_several_processes_takes_one_slot(started, tmp_path):
    executor = LocalConfig(slots=2).start()

    assert submit_all(executor, tmp_path, processes=2) == 2
    assert len(started) == 4


@pytest.mark.parametrize(
    ("gpus", "need", "on_each"),
    [
        ([V100], 5 * GIB, 4),
        ([T4], 5 * GIB, 2),
        ([A100, A100], 30 * GIB, 2),
        ([H100] * 8, 5 * GIB, 4),
        ([MIG], 5 * GIB, 1),
        ([MIG], 2 * GIB, 4),
        ([MI300X] * 2, 70 * GIB, 2),
    ],
    ids=lambda x: f"{len(x)}x{x[0].name}" if isinstance(x, list) else str(x),
)
def test_as_many_runs_share_a_gpu_as_its_memory_holds(monkeypatch, tmp_path, gpus, need, on_each):
    started = pretend_to_start(monkeypatch, *gpus)
    executor = LocalConfig().start()

    assert submit_all(executor, tmp_path, need=need) == on_each * len(gpus)
    used = [process.environ["CUDA_VISIBLE_DEVICES"] for process in started]
    assert sorted(used) == sorted("".join(map(str, range(len(gpus)))) * on_each)
    assert executor.devices.name == gpus[0].name


@pytest.mark.parametrize(
    ("gpu", "shown", "used"),
    [
        (H100, {}, {"CUDA_VISIBLE_DEVICES": ["0", "1"]}),
        (H100, {"CUDA_VISIBLE_DEVICES": "5,3"}, {"CUDA_VISIBLE_DEVICES": ["5", "3"]}),
        (MIG, {"CUDA_VISIBLE_DEVICES": "MIG-a,MIG-b"}, {"CUDA_VISIBLE_DEVICES": ["MIG-a", "MIG-b"]}),
        (H100, {"HIP_VISIBLE_DEVICES": "7"}, {"CUDA_VISIBLE_DEVICES": ["0", "1"]}),
        (MI300X, {}, {"CUDA_VISIBLE_DEVICES": ["0", "1"]}),
        (MI300X, {"HIP_VISIBLE_DEVICES": "6,7"}, {"HIP_VISIBLE_DEVICES": ["6", "7"]}),
    ],
    ids=str,
)
def test_each_process_sees_one_of_the_gpus_that_are_shown(monkeypatch, tmp_path, gpu, shown, used):
    started = pretend_to_start(monkeypatch, gpu, gpu)
    for name, value in shown.items():
        monkeypatch.setenv(name, value)
    submit_all(LocalConfig(max_runs_per_gpu=1).start(), tmp_path)

    (variable,) = used
    assert [process.environ[variable] for process in started] == used[variable]
    assert all(len({"CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"} & set(p.environ)) == 1 for p in started)


def test_jobs_that_compute_on_the_cpu_take_no_gpu(started, tmp_path, monkeypatch):
    """One for each core, beside those of the GPUs."""
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(6)))
    executor = LocalConfig().start()
    assert (executor.devices.n_parallel, executor.devices.n_parallel_on_cpu) == (4, 6)
    assert LocalConfig(slots=5).start().devices.n_parallel_on_cpu == 5
    resources = JobResources(threads=1, cpu_only=True)
    for i in range(6):
        job = Job(f"c{i}", RunDir(tmp_path / f"c{i}"), "shards", resources=resources)
        executor.check(job)
        assert executor.has_room(job)
        executor.submit(job)

    assert not executor.has_room(job)
    assert [process.environ for process in started] == [{}] * 6
    assert submit_all(executor, tmp_path) == 16


@pytest.mark.parametrize(("settings", "n"), [({}, 8 * 4), ({"slots": 3, "workers": 2}, 6)], ids=str)
def test_workers_of_slurm_run_one_job_on_each_cpu(settings, n):
    executor = SlurmExecutor(SlurmConfig.model_validate(settings), (), None)
    assert executor.devices.n_parallel_on_cpu == n
