"""The executor of Ray: its promises on a real cluster, and what it refuses before it has one."""

import hashlib
import os
import socket
import sys
import time
from dataclasses import replace
from importlib.util import find_spec

import pytest

from scalelab.errors import LaunchError
from scalelab.hardware.sharing import MEMORY_FRACTION
from scalelab.jobs.base import JobResources, ProcessReport
from scalelab.jobs.executors.ray import VISIBLE, RayConfig, run_job
from scalelab.jobs.record import path_of, write_record
from scalelab.testing.executors import check_executor, job

with_ray = pytest.mark.skipif(
    find_spec("ray") is None, reason="Ray is not installed: pip install 'scalelab[ray]'"
)


def refused(**settings):
    with pytest.raises(LaunchError) as error:
        RayConfig.model_validate({"kind": "ray", **settings}).start()
    assert len(str(error.value).splitlines()) == 3
    return error.value


@pytest.fixture
def installed(monkeypatch):
    """A module ray that can be imported, where none is needed."""
    monkeypatch.setitem(sys.modules, "ray", sys)


def test_without_ray_it_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert "pip install 'scalelab[ray]'" in refused().fix


@pytest.mark.parametrize("address", ["head", "ray://head:10001", "head:port", ":6379"])
def test_an_address_that_is_none_is_refused(installed, address):
    assert "not host:port or auto" in refused(address=address).problem


def test_a_cluster_that_is_not_there_is_refused(installed):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    error = refused(address=address)
    assert f"no Ray cluster answers at {address}" in error.problem
    assert "ray start --head" in error.fix


def test_a_port_that_never_answers_is_refused_in_time(installed):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        began = time.monotonic()
        error = refused(address=f"127.0.0.1:{silent.getsockname()[1]}", connect_s=0.5)
        assert time.monotonic() - began < 60
    assert "did not answer within 0.5 s" in error.problem or "refuses" in error.problem


def test_a_token_file_that_is_missing_is_refused(installed, tmp_path):
    error = refused(address="127.0.0.1:1", token_file=str(tmp_path / "token"))
    assert error.where == "executor.token_file"


def test_a_node_that_sees_another_directory_refuses_the_job(tmp_path):
    each = job(tmp_path, "a")
    missing = run_job(str(each.dir.path), "00" * 32, 1, {}, ())
    (each.dir.path / "job.json").write_text("{}")
    other = run_job(str(each.dir.path), "00" * 32, 1, {}, ())

    assert (missing["outcome"], other["outcome"]) == ("refused", "refused")
    assert "does not exist on the node" in missing["reason"]
    assert "is another one on the node" in other["reason"]
    assert "share" in other["fix"]


def test_a_job_that_asked_for_no_gpu_sees_none(tmp_path, monkeypatch):
    """Ray leaves such a task all GPUs of its node."""
    for name in VISIBLE:
        monkeypatch.setenv(name, "0,1")
    each, seen = job(tmp_path, "a"), []
    write_record(each, 1)
    digest = hashlib.sha256(path_of(each.dir).read_bytes()).hexdigest()

    def run_here(*_):
        seen.append([os.environ[name] for name in VISIBLE])
        return ProcessReport("done")

    monkeypatch.setattr("scalelab.jobs.worker.run_here", run_here)
    run_job(str(each.dir.path), digest, 1, {}, ())
    run_job(str(each.dir.path), digest, 1, dict.fromkeys(VISIBLE, ""), ())

    assert seen == [["0,1", "0,1"], ["", ""]]


class PretendedRay:
    """The module ray, with a cluster of 8 cores and 2 GPUs that runs nothing."""

    def __init__(self):
        self.reserved = []

    def remote(self, **options):
        return lambda function: self

    def options(self, num_gpus):
        self.reserved.append(num_gpus)
        return self

    def cluster_resources(self):
        return {"CPU": 8.0, "GPU": 2.0}

    def nodes(self):
        return [{"Alive": True, "Resources": self.cluster_resources()}]


def test_jobs_that_compute_on_the_cpu_reserve_no_gpu(tmp_path, monkeypatch):
    pretended, given = PretendedRay(), []
    monkeypatch.setattr("scalelab.jobs.executors.ray._connect", lambda config: pretended)
    executor = RayConfig(gpus=0.5, cpus=1).start()
    pretended.remote = lambda *args, **options: given.append(args)
    assert (executor.devices.n_parallel, executor.devices.n_parallel_on_cpu) == (4, 8)
    each = job(tmp_path, "on-gpu")
    on_cpu = [
        replace(job(tmp_path, f"c{i}"), resources=JobResources(threads=1, cpu_only=True)) for i in range(7)
    ]
    for one in (each, *on_cpu):
        assert executor.has_room(one)
        executor.submit(one)

    assert not executor.has_room(on_cpu[0])
    assert pretended.reserved == [0.5] + [0] * 7
    assert [args[3] for args in given] == [{MEMORY_FRACTION: "0.5000"}] + [dict.fromkeys(VISIBLE, "")] * 7


@with_ray
@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_it_conforms(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    (tmp_path / "token").write_text("5f" * 32)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    settings = {"address": cluster.address, "poll_s": 0.1, "connect_s": 300.0}
    try:
        check_executor("ray", tmp_path / "jobs", settings)
        error = refused(address=cluster.address, connect_s=300.0, gpus=4.0)
        assert "each job asks for 1 CPU cores and 4 GPUs" in error.problem
    finally:
        cluster.shutdown()
