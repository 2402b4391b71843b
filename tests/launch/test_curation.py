"""A curation on executors: the same bytes as in this command's own processes, whatever is killed."""

import json
import shlex
import subprocess
from pathlib import Path

import pytest
from curation import english, page
from scripted_executor import InProcess, Scripted, given, killed_after

from scalelab.cli.main import main
from scalelab.data.curate import shard_work
from scalelab.data.curate.pages.files import PageFiles
from scalelab.data.curate.pipeline import curate
from scalelab.data.curate.publish import NAME, publish
from scalelab.errors import DataError, LaunchError
from scalelab.jobs import driver
from scalelab.jobs.base import AvailableDevices, JobOutcome
from scalelab.jobs.executors.local import LocalConfig
from scalelab.jobs.lost import JobsLost
from scalelab.launch import curation
from scalelab.launch.curation import CurationRequest, run_curation

STAGES = [
    {"kind": "extract", "extractor": "own"},
    {"kind": "holdout", "sets": {"some": {"domains": ["part0"], "share": 0.3, "languages": []}}},
    {"kind": "near_duplicates"},
    {"kind": "pii"},
    {"kind": "decontaminate"},
]


@pytest.fixture
def source(tmp_path, monkeypatch):
    """24 pages in two directories, in shards of a few pages, and the working directory beside them."""
    whole = PageFiles.shards
    monkeypatch.setattr(PageFiles, "shards", lambda self, shard_bytes: whole(self, 9_000))
    monkeypatch.setattr(driver, "POLL_S", 0.002)
    monkeypatch.chdir(tmp_path)
    for i in range(24):
        path = tmp_path / "site" / f"part{i % 2}" / f"{i:02d}.html"
        path.parent.mkdir(parents=True, exist_ok=True)
        text = f"{english(12, seed=i if i % 8 else 0)}\n\nWrite to someone@example.org for help."
        path.write_text(page(text, title=f"Page {i}"))
    return {"kind": "files", "paths": ["site"]}


@pytest.fixture
def request_of(source):
    def make(executor=None, **changes):
        given = {"name": "small", "source": source, "stages": STAGES, "tokenizer": {"kind": "bytes"}}
        return CurationRequest.model_validate(given | {"executor": executor} | changes)

    return make


@pytest.fixture
def expected(request_of, tmp_path):
    """Files of the curation in one process, by name."""
    result = curate(request_of().curation, tmp_path / "expected", processes=1)
    return files_of(result, tmp_path / "expected-out")


def files_of(result, out):
    """Bytes of every file of documents, of each stage and as published."""
    publish(result, out)
    found = {
        f"{d.name}/{path.name}": path.read_bytes() for d in result.directories for path in d.glob("*.jsonl")
    }
    return found | {path.name: path.read_bytes() for path in out.iterdir()}


def test_in_this_process_it_gives_the_same_bytes_and_leaves_no_jobs(request_of, expected, tmp_path):
    result = run_curation(request_of("inline"), tmp_path / "cache")

    assert len(result.reports[0].shards) > 3
    assert files_of(result, tmp_path / "out") == expected
    assert "executor" not in json.loads((tmp_path / "out" / NAME).read_text())["config"]
    assert not any((tmp_path / "cache/curation/jobs").iterdir())


def test_an_executor_starts_only_for_shards_that_are_not_done(request_of, tmp_path):
    before = run_curation(request_of("inline"), tmp_path / "cache")
    for directory in before.directories:
        (directory / "stage.json").unlink()
    refuses = given(None)  # it has no attribute that a driver needs

    assert run_curation(request_of(refuses), tmp_path / "cache").reports == before.reports


@pytest.mark.parametrize("n_jobs", [1, 3, 100])
def test_groups_that_are_killed_and_preempted_give_the_same_bytes(
    n_jobs, request_of, expected, tmp_path, monkeypatch
):
    """A group goes on where it was."""
    monkeypatch.setattr(curation, "LEAST_JOBS", n_jobs)
    monkeypatch.setattr(curation, "JOBS_PER_PLACE", 0)
    done = []
    real = shard_work.run_job
    monkeypatch.setattr("scalelab.launch.shards.run_job", lambda job: (done.append(job), real(job)))
    executor = InProcess(kills=True)
    result = run_curation(request_of(given(executor)), tmp_path / "cache")

    assert files_of(result, tmp_path / "out") == expected
    n = len(result.reports[0].shards)
    assert len(done) == n * 7  # five stages, of which two look first: no shard is done twice
    assert len(set(executor.submitted)) == 7 * -(-n // -(-n // n_jobs))
    assert len(executor.submitted) > len(set(executor.submitted))


def test_groups_are_as_many_as_jobs_on_the_cpu_have_room_for(request_of, tmp_path, monkeypatch):
    monkeypatch.setattr(curation, "LEAST_JOBS", 1)
    monkeypatch.setattr(curation, "JOBS_PER_PLACE", 1)
    executor = InProcess()
    executor.devices = AvailableDevices(1, "a GPU", 1, is_gpu=True, n_cpu_jobs=100)
    result = run_curation(request_of(given(executor)), tmp_path / "cache")

    assert len(executor.submitted) == 7 * len(result.reports[0].shards)


def test_what_a_job_cannot_read_is_refused_as_the_stage_says(request_of, tmp_path, source):
    """A page that another machine, or a later moment, has otherwise."""

    class Changed(InProcess):
        def submit(self, each):
            path = Path("site/part1/05.html")
            path.write_text(path.read_text().replace("the", "The"))
            super().submit(each)

    with pytest.raises(LaunchError, match=r"05\.html is not the file that was there when") as refused:
        run_curation(request_of(given(Changed())), tmp_path / "cache")
    assert str(Path("site/part1/05.html").absolute()) in refused.value.where


def test_a_change_while_own_processes_read_is_refused_too(request_of, tmp_path, monkeypatch):
    real = PageFiles.shards

    def changed(self, shard_bytes):
        Path("site/part1/05.html").write_text(page("another one"))
        return real(self, shard_bytes)

    monkeypatch.setattr(PageFiles, "shards", changed)
    with pytest.raises(DataError, match="is not the file that was there when the curation began"):
        curate(request_of().curation, tmp_path / "cache", processes=1)


def test_jobs_that_stay_lost_end_the_curation(request_of, tmp_path):
    executor = Scripted(lambda executor, each: JobOutcome(each, "killed", "signal 9"))
    with pytest.raises(JobsLost, match=r"\(killed\): signal 9; no further after 2 more tries") as lost:
        run_curation(request_of(given(executor)), tmp_path / "cache")
    assert lost.value.where.endswith("log.jsonl")
    assert len(str(lost.value).splitlines()) == 3


def test_a_machine_without_the_working_directory_is_refused(request_of, tmp_path, monkeypatch):
    real, elsewhere = curation.settings_of, {"directory": str(tmp_path / "elsewhere")}
    monkeypatch.setattr(curation, "settings_of", lambda shards: real(shards) | elsewhere)
    with pytest.raises(LaunchError, match="the directory in which the curation was begun is not on"):
        run_curation(request_of(given(InProcess())), tmp_path / "cache")


def n_records(cache):
    return len(list(cache.glob("curation/*/shard-*.json")))


def test_the_command_killed_again_and_again_gives_the_same_bytes(request_of, expected, tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    for n_shards in (1, 6, 13):
        killed_after(n_shards, lambda: n_records(cache), lambda: run_curation(request_of("inline"), cache))
    assert 13 <= n_records(cache) < 5 * sum(name.startswith("extract") for name in expected)

    assert files_of(run_curation(request_of("inline"), cache), tmp_path / "out") == expected


def test_workers_of_this_machine_that_are_killed_give_the_same_bytes(
    request_of, expected, tmp_path, monkeypatch
):
    monkeypatch.setattr(curation, "LEAST_JOBS", 1)
    monkeypatch.setattr(curation, "JOBS_PER_PLACE", 1)
    started, victims = [], []

    def start(self, preload=(), home=None):
        executor = type(self).__base__.start(self, preload, home)
        started.append(executor)
        return executor

    class Local(LocalConfig):
        pass

    monkeypatch.setattr(Local, "start", start)
    tick = curation.LiveView.tick

    def kill_one(self):
        tick(self)
        for name, running in list(started[0]._running.items()):
            log = running.job.dir.log_path
            if len(victims) < 3 and name not in victims and log.exists() and "checkpoint" in log.read_text():
                running.processes[0].process.kill()
                victims.append(name)

    monkeypatch.setattr(curation.LiveView, "tick", kill_one)
    result = run_curation(request_of(Local(slots=2)), tmp_path / "cache")

    assert victims
    assert files_of(result, tmp_path / "out") == expected


SLURM = {"kind": "slurm", "gpus": 0, "cpus": 2, "workers": 1, "minutes": 30, "poll_s": 0.5}


def test_on_slurm_its_driver_killed_it_gives_the_same_bytes(slurm_cluster, request_of, expected, tmp_path):
    cache = tmp_path / "cache"
    killed_after(1, lambda: n_records(cache), lambda: run_curation(request_of(SLURM), cache))
    # Its worker goes on, and is found by the same command.

    result = run_curation(request_of(SLURM), cache)

    assert files_of(result, tmp_path / "out") == expected


def test_nodes_that_do_not_share_the_cache_are_refused(slurm_cluster, request_of, tmp_path):
    """Each worker has another directory in the place of the cache."""
    cache = tmp_path / "cache"
    alone = ["unshare", "-m", "sh", "-c", f'mount -t tmpfs none {cache} && exec "$0" "$@"']
    cache.mkdir()
    if subprocess.run([*alone, "true"], capture_output=True).returncode != 0:
        pytest.skip("mounting needs root")

    with pytest.raises(LaunchError, match="3 workers in a row ended before they could take a job") as refused:
        run_curation(request_of(SLURM | {"container": shlex.join(alone)}), cache)
    assert "no jobs are queued" in refused.value.problem
    assert not n_records(cache)


@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_on_ray_it_gives_the_same_bytes(ray_cluster, request_of, expected, tmp_path):
    executor = {"kind": "ray", "address": ray_cluster.address, "poll_s": 0.05, "connect_s": 300.0}
    result = run_curation(request_of(executor), tmp_path / "cache")
    assert files_of(result, tmp_path / "out") == expected


# The command


@pytest.fixture
def file(request_of, tmp_path, monkeypatch):
    monkeypatch.setenv("SCALELAB_CACHE", str(tmp_path / "cache"))
    Path("small.yaml").write_text(request_of().to_yaml())
    return "small.yaml"


def test_the_command_takes_an_executor(file, capsys):
    assert main(["data", file, "--set", "executor=inline"]) == 0
    assert "report: curated/small/README.md" in capsys.readouterr().out


def test_an_unknown_executor_is_refused_with_its_line(file, capsys):
    assert main(["data", file, "--set", "executor=slurms"]) == 2
    err = capsys.readouterr().err
    assert "unknown executor 'slurms'; did you mean 'slurm'" in err


def test_a_lost_job_ends_the_command_with_status_1(file, capsys, monkeypatch):
    monkeypatch.setattr(
        "scalelab.launch.shards.run_job", lambda job: (_ for _ in ()).throw(ValueError("a bug"))
    )
    assert main(["data", file, "--set", "executor=inline"]) == 1
    err = capsys.readouterr().err
    assert "(error): ValueError: a bug" in err
    assert "traceback.txt" in err
