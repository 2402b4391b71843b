"""Limits of runs that share a GPU: memory of each, multiprocessors of each under MPS."""

import contextlib
import os
from types import SimpleNamespace

import pytest
import torch
from pretended_gpus import H100, MI300X, MIG, T4, PretendedGpu, pretend, pretend_to_start

from scalelab.hardware import sharing
from scalelab.hardware.checks.sharing import check_sharing
from scalelab.hardware.machine import Machine
from scalelab.hardware.sharing import (
    CONTEXT_BYTES,
    MEMORY_FRACTION,
    THREAD_PERCENTAGE,
    limit_memory,
    mps_runs,
)
from scalelab.jobs import worker
from scalelab.jobs.base import Job, JobResources
from scalelab.jobs.executors.local import LocalConfig
from scalelab.train.run_directory import RunDir

GIB = 2**30
TOOL = "nvidia-cuda-mps-control"


@pytest.fixture
def no_mps(tmp_path, monkeypatch):
    """A machine without the daemon of MPS."""
    monkeypatch.setenv("CUDA_MPS_PIPE_DIRECTORY", str(tmp_path / "pipes"))
    monkeypatch.delenv(THREAD_PERCENTAGE, raising=False)
    return tmp_path


@pytest.fixture
def mps(no_mps, monkeypatch):
    """A function that puts a pipe and a control program there, which answers by a script."""

    def make(script):
        (no_mps / "pipes").mkdir()
        (no_mps / "pipes" / "control").touch()
        (no_mps / TOOL).write_text(f"#!/bin/sh\n{script}\n")
        (no_mps / TOOL).chmod(0o755)
        monkeypatch.setenv("PATH", str(no_mps), prepend=os.pathsep)

    return make


RUNS, ABSENT = "cat >/dev/null", "cat >/dev/null; echo 'Cannot find MPS control daemon process'"


def start(executor, folder, *needs, processes=1):
    """Start jobs with estimates of their memory as long as there is room; return how many were."""
    for i, need in enumerate(needs):
        estimate = None if need is None else lambda *_, need=need: need
        resources = JobResources(processes, memory=estimate)
        job = Job(f"j{i}", RunDir(folder / f"j{i}"), "run", resources=resources)
        if not executor.has_room(job):
            return i
        executor.submit(job)
    return len(needs)


def fractions(started):
    return [float(process.environ[MEMORY_FRACTION]) for process in started]


@pytest.mark.parametrize("gpu", [H100, T4, MIG, MI300X], ids=lambda gpu: gpu.name)
@pytest.mark.parametrize("most", [2, 4, 7])
def test_the_limits_of_all_runs_and_their_contexts_fit_together(monkeypatch, no_mps, gpu, most):
    started = pretend_to_start(monkeypatch, gpu)

    n = start(LocalConfig(max_runs_per_gpu=most).start(), no_mps, *[GIB // 4] * 9)

    assert n == most
    assert len(set(fractions(started))) == 1
    taken = sum(fractions(started)) * gpu.total_memory + most * CONTEXT_BYTES
    assert 0.99 * gpu.total_memory < taken < 1.001 * gpu.total_memory


def test_a_run_that_needs_more_than_its_share_may_take_it_and_leaves_less_room(monkeypatch, no_mps):
    started = pretend_to_start(monkeypatch, H100)

    assert start(LocalConfig().start(), no_mps, 40 * GIB, GIB, GIB) == 2
    # 78 of 80 GiB are usable by four: 78 x 40 / (0.8 x 80), and a quarter of 78.
    assert fractions(started) == pytest.approx([78 * 40 / 64 / 80, 78 / 4 / 80], abs=1e-4)


def test_a_run_may_take_more_than_its_estimate(monkeypatch, no_mps):
    started = pretend_to_start(monkeypatch, H100)
    start(LocalConfig().start(), no_mps, 30 * GIB)

    assert 1.2 * 30 / 80 < fractions(started)[0] < 1.25 * 30 / 80


@pytest.mark.parametrize("memory", [4 * GIB, 6 * GIB, 8 * GIB, 80 * GIB])
def test_no_run_is_limited_to_less_than_its_estimate(monkeypatch, no_mps, memory):
    """On a small GPU the contexts of four processes take more than the fifth that no plan uses."""
    usable = memory - 4 * CONTEXT_BYTES
    for need in (usable // 8, usable // 2, usable):
        started = pretend_to_start(monkeypatch, PretendedGpu("NVIDIA X", 8, 0, memory))

        assert start(LocalConfig().start(), no_mps, need) == 1
        for process in started:  # without a limit where the estimate fills the GPU
            limit = float(process.environ.get(MEMORY_FRACTION, "1")) * memory
            assert need - 0.0001 * memory < limit
            assert limit == memory or limit < usable + 0.0001 * memory
    started = pretend_to_start(monkeypatch, PretendedGpu("NVIDIA X", 8, 0, memory))
    assert start(LocalConfig().start(), no_mps, usable + 2**20) == 1
    assert MEMORY_FRACTION not in started[0].environ


@pytest.mark.parametrize(
    ("settings", "needs", "processes"),
    [({"max_runs_per_gpu": 1}, [GIB], 1), ({}, [None], 1), ({}, [70 * GIB], 1), ({}, [GIB], 2)],
    ids=["one a GPU", "no estimate", "too large to share", "several processes"],
)
def test_a_run_with_a_gpu_to_itself_has_no_limit(monkeypatch, mps, no_mps, settings, needs, processes):
    mps(RUNS)
    started = pretend_to_start(monkeypatch, H100, H100)

    assert start(LocalConfig(**settings).start(), no_mps, *needs, processes=processes) == 1
    for process in started:
        assert not {MEMORY_FRACTION, THREAD_PERCENTAGE} & set(process.environ)


def test_on_a_cpu_there_are_no_limits(monkeypatch, mps, no_mps):
    mps(RUNS)
    started = pretend_to_start(monkeypatch)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})

    assert start(LocalConfig().start(), no_mps, GIB // 8, GIB // 8, GIB // 8) == 2
    assert [process.environ for process in started] == [{}, {}]


def test_contexts_may_fill_half_of_a_gpu_at_most(monkeypatch, no_mps):
    started = pretend_to_start(monkeypatch, PretendedGpu("NVIDIA X", 8, 0, 4 * GIB))

    assert start(LocalConfig(max_runs_per_gpu=50).start(), no_mps, *[2**20] * 9) == 4
    assert fractions(started) == [0.125] * 4


@pytest.mark.parametrize(
    ("gpu", "script", "most", "percentage"),
    [
        (H100, RUNS, 4, "50"),
        (H100, RUNS, 2, "100"),
        (H100, RUNS, 6, "33"),
        (H100, ABSENT, 4, None),
        (H100, "exit 1", 4, None),
        (MI300X, RUNS, 4, None),
    ],
)
def test_the_share_of_multiprocessors_is_passed_only_where_mps_runs(
    monkeypatch, mps, no_mps, gpu, script, most, percentage
):
    mps(script)
    started = pretend_to_start(monkeypatch, gpu)
    start(LocalConfig(max_runs_per_gpu=most).start(), no_mps, GIB)

    assert started[0].environ.get(THREAD_PERCENTAGE) == percentage


def test_a_share_that_a_person_has_set_stays(monkeypatch, mps, no_mps):
    mps(RUNS)
    monkeypatch.setenv(THREAD_PERCENTAGE, "70")
    started = pretend_to_start(monkeypatch, H100)
    start(LocalConfig().start(), no_mps, GIB)

    assert THREAD_PERCENTAGE not in started[0].environ


@pytest.mark.parametrize(
    ("script", "runs", "status", "words"),
    [
        (RUNS, True, "ok", "MPS runs"),
        (ABSENT, False, "ok", "take turns"),
        (None, False, "ok", "take turns"),
        ("exec sleep 30", None, "warning", "does not answer"),
    ],
)
def test_doctor_says_whether_mps_runs(monkeypatch, mps, no_mps, script, runs, status, words):
    pretend(monkeypatch, H100)
    monkeypatch.setattr(sharing, "LIMIT_S", 0.3 if script and "sleep" in script else 20.0)
    if script:
        mps(script)
    found = check_sharing(Machine(no_mps))

    assert mps_runs() is runs
    assert found.status == status
    assert words in found.value


@pytest.mark.parametrize("gpus", [(), (MI300X,)], ids=["none", "AMD"])
def test_doctor_is_silent_without_an_nvidia_gpu(monkeypatch, no_mps, gpus):
    pretend(monkeypatch, *gpus)

    assert check_sharing(Machine(no_mps)) is None


@pytest.fixture
def worked(monkeypatch, tmp_path):
    """A function that lets a worker do a job by a function, and returns its report."""

    def work(environ, job):
        sent = []
        for name in ("leave_with_parent", "be_first_to_die"):
            monkeypatch.setattr(worker, name, lambda: None)
        monkeypatch.setattr(worker, "use_threads", lambda threads: None)
        monkeypatch.setattr(worker.signal, "signal", lambda *_: None)
        monkeypatch.setattr(
            worker, "read_record", lambda _: SimpleNamespace(processes=1, settings={}, threads=1)
        )
        monkeypatch.setattr(worker, "run_kind", job)
        monkeypatch.delenv(MEMORY_FRACTION, raising=False)
        before = dict(os.environ)
        try:
            with contextlib.suppress(SystemExit):  # of a bug
                worker.work(str(tmp_path), environ, 1, SimpleNamespace(send=sent.append, close=lambda: None))
        finally:
            os.environ.clear()
            os.environ.update(before)
        return sent[0]

    return work


@pytest.mark.parametrize(
    ("gpus", "environ", "limits"),
    [
        ((H100,), {MEMORY_FRACTION: "0.2438"}, [(0.2438, 0)]),
        ((H100,), {}, []),
        ((), {MEMORY_FRACTION: "0.2438"}, []),
    ],
    ids=["shared", "alone", "no GPU"],
)
def test_a_process_limits_its_memory_before_it_does_its_job(worked, monkeypatch, gpus, environ, limits):
    pretend(monkeypatch, *gpus)
    asked, done = [], []
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda *given: asked.append(given))
    reported = worked(environ, lambda *_: done.append(list(asked)) or "done")

    assert done == [limits]
    assert reported.outcome == "done"


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (torch.cuda.OutOfMemoryError("CUDA out of memory"), "out_of_memory"),
        (RuntimeError("CUDA error: no device"), "error"),
    ],
)
def test_a_gpu_that_does_not_start_is_reported(worked, monkeypatch, tmp_path, error, outcome):
    def broken(*_):
        raise error

    pretend(monkeypatch, H100)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", broken)
    reported = worked({MEMORY_FRACTION: "0.25"}, lambda *_: pytest.fail("the job began"))

    assert reported.outcome == outcome
    assert str(error) in reported.reason
    assert (tmp_path / "traceback.txt").exists() is (outcome == "error")


def test_a_limit_of_another_process_is_not_taken_over(monkeypatch):
    pretend(monkeypatch, H100)
    monkeypatch.setenv(MEMORY_FRACTION, "0.1")
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda *_: pytest.fail("limited"))

    limit_memory({})
