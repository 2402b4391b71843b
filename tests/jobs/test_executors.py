"""Every registered executor keeps its promises."""

import shlex
import threading
from contextlib import closing, suppress

import pytest

from scalelab.errors import LaunchError
from scalelab.jobs import EXECUTORS, queue_worker
from scalelab.jobs.executors import forkserver
from scalelab.jobs.executors.local import LocalConfig
from scalelab.jobs.executors.workers import WorkersConfig
from scalelab.jobs.queue import JobQueue
from scalelab.jobs.view import JobLabels, LiveView
from scalelab.testing.executors import check_executor, job

CLUSTERS = {
    "slurm": {
        "gpus": 0,
        "cpus": 2,
        "slots": 2,
        "workers": 1,
        "minutes": 10,
        "poll_s": 0.3,
        "processes_per_node": 1,
    },
    "workers": {"idle_s": 0.1, "poll_s": 0.05},
}
"""Executors that need a fixture of their name, with their settings."""


@pytest.fixture
def workers_cluster(tmp_path, monkeypatch):
    """A worker that goes from queue to queue below the folder of the test, in a thread of this process."""
    for name in ("WATCH_S", "LOOK_S"):
        monkeypatch.setattr(queue_worker, name, 0.02)
    forkserver.fork_server(("scalelab.jobs.worker",))
    monkeypatch.setattr(forkserver, "_ensure_running", lambda: None)  # it runs; a thread cannot see to it
    over = threading.Event()

    def work():
        with closing(LocalConfig(slots=2).start()) as executor:
            while not over.wait(0.01):
                for path in tmp_path.glob("*/.queue/queue.json"):
                    with LiveView(JobLabels()) as view, suppress(LaunchError):  # a refusal ends a worker
                        queue_worker.run_worker(JobQueue(path.parents[1]), executor, view, "worker")

    thread = threading.Thread(target=work)
    thread.start()
    yield
    over.set()
    thread.join()


@pytest.mark.parametrize("name", sorted({*EXECUTORS} - {"ray"}))  # test_ray.py
def test_it_conforms(name, tmp_path, request):
    if name in CLUSTERS:
        request.getfixturevalue(f"{name}_cluster")
    check_executor(name, tmp_path, CLUSTERS.get(name))


def test_workers_are_told_where_to_start_and_find_jobs_of_a_driver_that_is_gone(tmp_path, capsys):
    jobs = [job(tmp_path / "sweep", name) for name in "abc"]
    first = WorkersConfig().start(("json",), tmp_path / "sweep")
    for each in jobs[:2]:
        first.submit(each)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "scalelab worker" in line]
    queue = JobQueue(tmp_path / "sweep")
    first = None  # killed

    again = WorkersConfig().start(("json",), tmp_path / "sweep")
    assert again.find(jobs[1:]) == ("b",)

    assert shlex.split(line)[3:] == [
        *("scalelab", "worker", str(tmp_path / "sweep"), "--token", queue.settings().token)
    ]
    assert [ticket.job for ticket in queue.tickets()] == ["b"]
    assert again.poll() == {"b": "queued"}
    again.cancel(["b"], now=False)
    assert [end.outcome for end in again.poll().values()] == ["interrupted"]
    assert queue.ticket("b").wanted == "stop"


def test_workers_need_the_directory_of_a_sweep():
    with pytest.raises(LaunchError, match="needs the directory of a sweep"):
        WorkersConfig().start().find([])
