"""A file system that reports an error of its own: nothing is taken for absent, lost or damaged because of it."""

import errno
import io
import os
import re
from contextlib import contextmanager

import pytest
from scripted_executor import Scripted, done
from source_tree import FILES, PACKAGE

from scalelab import files, leases
from scalelab.cli.main import main
from scalelab.data.corpus.manifest import signatures
from scalelab.data.curate import pipeline
from scalelab.data.curate.base import WebDocument
from scalelab.data.curate.shard_work import ShardJob, decision_path, is_done, observed_path
from scalelab.data.curate.store import (
    CuratedShardWriter,
    find_outcome,
    read_arrays,
    read_documents,
    write_arrays,
)
from scalelab.data.files.listing import expand
from scalelab.evals.checkpoint import Checkpoint
from scalelab.evals.inputs import contents
from scalelab.evals.measurement import MeasurementContext, MeasurementRow, WorkItem
from scalelab.evals.models import find_base
from scalelab.evals.stored_rows import is_stored, rows_of_item
from scalelab.files import NoAnswer
from scalelab.jobs import driver, queue_worker
from scalelab.jobs.base import JobOutcome
from scalelab.jobs.driver import JobList, drive
from scalelab.jobs.limits import Limits
from scalelab.jobs.queue import JobQueue
from scalelab.jobs.queue_records import QueueSettings
from scalelab.jobs.tries import Try
from scalelab.jobs.view import JobLabels, LiveView
from scalelab.launch import shared_runs
from scalelab.plan.forecast.frozen import FrozenForecast
from scalelab.plan.forecast.ledger import entries
from scalelab.posttrain.trl.base import SEALED, newest_checkpoint
from scalelab.records.manifest_kinds import SWEEP
from scalelab.records.stage_manifest import stage_result
from scalelab.sealed import check_file, file_digest, read_lines
from scalelab.system import System, use
from scalelab.testing.executors import job
from scalelab.tracking.mlflow_store import make_store
from scalelab.tracking.payload import began_ms
from scalelab.tracking.store_errors import StoreDown
from scalelab.train.checkpoints import sharded, unsharded
from scalelab.train.checkpoints.unsharded import META, parse_file
from scalelab.train.run_directory import RunDir

OUTAGES = [errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN]


class Outage(System):
    """This machine, whose file system answers every look at some names with an error."""

    def __init__(self, name, number):
        self.name, self.number = name, number

    def _fail(self, path):
        if self.name in str(path):
            raise OSError(self.number, os.strerror(self.number), str(path))

    def _mode(self, path):
        self._fail(path)
        return super()._mode(path)

    def listdir(self, path):
        self._fail(path)
        return super().listdir(path)

    def size(self, path):
        self._fail(path)
        return super().size(path)

    def open_read(self, path) -> io.BufferedReader:
        self._fail(path)
        return super().open_read(path)


@contextmanager
def outage(name, number=errno.EIO):
    """Looks at every path with this name in it fail."""
    with use(Outage(name, number)):
        yield


@pytest.mark.parametrize("number", OUTAGES, ids=errno.errorcode.get)
def test_a_name_is_absent_only_where_the_file_system_says_so(tmp_path, number):
    here = tmp_path / "here"
    here.mkdir()
    with outage("here", number):
        for ask in (files.exists, files.is_dir, files.is_file, files.names_in, files.matching):
            with pytest.raises(NoAnswer, match=f"here cannot be read: {os.strerror(number)}") as refused:
                ask(here)
            assert refused.value.where == str(here)
            assert "see whether the file system is there" in refused.value.fix


@pytest.mark.parametrize("number", [errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG])
def test_what_the_file_system_says_is_absent_is_absent(tmp_path, monkeypatch, number):
    def gone(*_, **__):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", gone)
        assert not files.exists(tmp_path)
        assert not files.is_dir(tmp_path)
    assert not files.exists(tmp_path / ("n" * 300))
    assert not files.exists(tmp_path / "a\0b")
    assert files.names_in(tmp_path / "gone") == []
    assert files.matching(tmp_path / "gone") == []
    assert files.files_in(tmp_path / "gone") == []


def test_names_of_a_pattern_and_files_below(tmp_path):
    for name in ("b/two", "b/deep/one", "a-b", "shut/three", ".step-1", "step-2"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "around").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "link").symlink_to(tmp_path / "a-b")
    (tmp_path / "gone").symlink_to(tmp_path / "no such file")
    os.mkfifo(tmp_path / "pipe")

    found = [path.relative_to(tmp_path).as_posix() for path in files.files_in(tmp_path, without={"shut"})]
    assert found == [".step-1", "a-b", "b/deep/one", "b/two", "link", "step-2"]
    assert [path.name for path in files.matching(tmp_path, "*step-*")] == [".step-1", "step-2"]


def test_a_directory_below_that_cannot_be_read_is_not_empty(tmp_path, monkeypatch):
    (tmp_path / "below").mkdir()
    ask = os.scandir

    def scandir(path):
        if os.path.basename(path) == "below":
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)
        return ask(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(NoAnswer, match="below cannot be read: Input/output error"):
        files.files_in(tmp_path)


@pytest.mark.parametrize("number", OUTAGES, ids=errno.errorcode.get)
def test_a_command_says_which_file_system_does_not_answer(tmp_path, monkeypatch, capsys, number):
    def away(*_):
        raise OSError(number, os.strerror(number), str(tmp_path / "sweeps"))

    monkeypatch.setattr("scalelab.cli.runs.run", away)

    assert main(["runs"]) == NoAnswer.exit_status
    assert capsys.readouterr().err.splitlines() == [
        f"error: sweeps cannot be read: {os.strerror(number)}",
        f"  where: {tmp_path / 'sweeps'}",
        "  fix:   see whether the file system is there, then run the same command again: it resumes",
    ]


def test_an_error_that_is_not_of_a_file_system_is_ours(monkeypatch):
    def wrong(*_):
        raise FileNotFoundError(errno.ENOENT, "No such file", "record.json")

    monkeypatch.setattr("scalelab.cli.runs.run", wrong)
    with pytest.raises(FileNotFoundError):
        main(["runs"])


def test_a_machine_that_asks_the_operating_system_hears_its_errors(tmp_path, monkeypatch):
    """Its own module pathlib takes some of them, and since Python 3.14 all, for no file."""

    def broken(*_, **__):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "stat", broken)
    with pytest.raises(OSError, match="Input/output error"):
        System().exists(tmp_path)


def test_a_run_is_neither_done_nor_to_be_done(tmp_path):
    run_dir = RunDir(tmp_path / "0123456789ab")
    run_dir.path.mkdir()
    run_dir.result_path.write_text("{}")
    asked = [
        (lambda: run_dir.is_done, "result.json"),
        (run_dir.tidy, "result.json"),
        (run_dir.result, "result.json"),
        (lambda: stage_result(run_dir.path), "result.json"),
        (lambda: run_dir.is_begun, "log.jsonl"),
        (lambda: list(run_dir.events()), "log.jsonl"),
        (lambda: run_dir.last_checkpoint, "checkpoints"),
        (run_dir.clear_checkpoints, "checkpoints"),
        (lambda: leases.holder(run_dir.path), run_dir.run),
        (lambda: leases.numbers(run_dir.path, "lease"), run_dir.run),
    ]
    for ask, name in asked:
        with outage(name), pytest.raises(NoAnswer) as refused:
            ask()
        assert "delete" not in refused.value.fix, "the file may be whole"
    assert run_dir.result_path.exists()


def test_lines_that_cannot_be_read_are_not_skipped(tmp_path):
    (tmp_path / "log").write_text("")
    with outage("log"), pytest.raises(NoAnswer):
        read_lines(tmp_path / "log")


def test_a_run_of_another_sweep_is_looked_for_or_nothing_is_planned(tmp_path):
    class Spec:
        id = "0123456789ab"
        ids = (id,)

    (tmp_path / "theirs" / Spec.id).mkdir(parents=True)
    (tmp_path / "theirs" / Spec.id / "result.json").write_text("{}")
    assert shared_runs.find(Spec, tmp_path, "ours").path.parent.name == "theirs"
    with outage("theirs"), pytest.raises(NoAnswer):
        shared_runs.find(Spec, tmp_path, "ours")


def test_names_of_sweeps_leave_out_only_what_we_may_not_look_into(tmp_path):
    for name in ("fine", "lost+found"):
        (tmp_path / name).mkdir()
        (tmp_path / name / SWEEP.file).write_text("{}")
    with outage("lost+found", errno.EACCES):
        assert SWEEP.names(tmp_path) == ["fine"]
    with outage("lost+found", errno.EIO), pytest.raises(NoAnswer):
        SWEEP.names(tmp_path)


@pytest.fixture
def run(monkeypatch):
    """A function that drives jobs quickly."""
    monkeypatch.setattr(driver, "POLL_S", 0.0)

    def run(jobs, executor):
        with LiveView(JobLabels()) as view:
            return drive(JobList(jobs), executor, view, Limits())

    return run


def test_a_result_that_cannot_be_seen_is_not_trained_again(run, tmp_path):
    each = job(tmp_path, "a")
    each.dir.result_path.write_text("{}")
    executor = Scripted(done)
    with outage("result.json"), pytest.raises(NoAnswer):
        run([each], executor)

    assert executor.submitted == []


def test_a_job_whose_end_cannot_be_seen_is_neither_lost_nor_our_bug(run, tmp_path):
    each = job(tmp_path, "a")

    def end(executor, each):
        each.dir.result_path.write_text("{}")
        out.name = "result.json"
        return JobOutcome(each, "killed", "signal 9")

    out = Outage("nothing yet", errno.EIO)
    with use(out), pytest.raises(NoAnswer):
        run([each], Scripted(end))

    assert [event["event"] for event in each.dir.events()] == []
    assert run([each], Scripted(end)).ended["a"].outcome == "done"


def test_a_journal_that_cannot_be_seen_is_no_silence(tmp_path):
    executor = Scripted(done)
    each = Try(job(tmp_path, "a"), executor, Limits(heartbeat_timeout_s=10.0), began=0.0)
    with outage("log.jsonl"):
        each.check(100.0)
    each.check(105.0)
    assert executor.cancelled == []
    each.check(120.0)
    assert each.ended_by_us == ("stalled", "logged nothing for 15 s")


@pytest.fixture
def queue(tmp_path):
    """A queue with one job, and its ticket."""
    queue = JobQueue(tmp_path / "runs" / "sweep")
    queue.open(QueueSettings(driven=True, retries=1, heartbeat_timeout_s=60.0))
    queue.publish([job(queue.home, "a")])
    return queue


def test_a_ticket_that_cannot_be_read_was_not_withdrawn(queue):
    (ticket,) = queue.tickets()
    each = queue.job_of(ticket, retries=1)
    with outage("jobs/a-"), pytest.raises(NoAnswer):
        each.standing(each)
    with outage("/jobs"), pytest.raises(NoAnswer):
        queue.open_tickets()


def test_a_worker_ends_no_job_because_its_ticket_cannot_be_read(queue, monkeypatch):
    monkeypatch.setattr(queue_worker, "WATCH_S", -1.0)
    source = queue_worker._QueuedJobs(queue, queue.settings(), "worker")
    (each,) = source.ask()
    inner = Scripted(lambda executor, each: "running")
    watched = queue_worker._Watched(inner, queue, source)
    watched.submit(each)
    with outage("/jobs"):
        assert watched.poll() == {"a": "running"}
    assert inner.cancelled == []
    queue.withdraw("a", "stop")
    watched.poll()
    assert inner.cancelled == [("a", False)]


def test_a_queue_keeps_its_token_where_it_cannot_be_read(queue):
    before = queue.settings().token
    with outage("queue.json"):
        for ask in (lambda: queue.exists, lambda: queue.open(queue.settings())):
            with pytest.raises(NoAnswer):
                ask()
    assert queue.open(queue.settings()).token == before


def test_a_database_that_cannot_be_seen_is_not_made_anew(tmp_path):
    path = tmp_path / "mlflow.db"
    path.write_bytes(b"runs")
    with (
        outage("mlflow.db"),
        pytest.raises(StoreDown, match=r"mlflow\.db cannot be read: Input/output error"),
    ):
        make_store(f"sqlite:///{path}")
    assert path.read_bytes() == b"runs"


def refused(ask, name, number=errno.EIO):
    """Check that a look at an unanswered name is a NoAnswer that has nothing deleted."""
    with outage(name, number), pytest.raises(NoAnswer) as error:
        ask()
    assert "delete" not in error.value.fix, "the file may be whole"


@pytest.mark.parametrize("number", OUTAGES, ids=errno.errorcode.get)
def test_rows_that_cannot_be_read_are_not_measured_again(tmp_path, number):
    made = []

    def measure():
        made.append(1)
        return [MeasurementRow("loss", "set", None, {"loss": 1.0}, "hours of work")]

    context, item = MeasurementContext(None, {}, folder=tmp_path), WorkItem(["it"], measure)
    rows = rows_of_item(context, item)
    for ask in (lambda: is_stored(context, item), lambda: rows_of_item(context, item)):
        refused(ask, item.id, number)
    assert (rows_of_item(context, item), made) == (rows, [1])


@pytest.fixture
def shard(tmp_path):
    """A directory of a stage of curation with one shard, an observation and a decision."""
    with CuratedShardWriter(tmp_path, 0) as writer:
        writer.keep(WebDocument(name="a", text="words"))
    writer.outcome(1, 5, 0.0)
    write_arrays(observed_path(tmp_path, 0), {})
    write_arrays(decision_path(tmp_path), {})
    pipeline.DECISION.write(tmp_path / "decision.json", pipeline.Decision({}))
    return tmp_path


@pytest.mark.parametrize("number", OUTAGES, ids=errno.errorcode.get)
def test_a_curated_shard_is_neither_redone_nor_to_be_deleted(shard, number):
    for name in ("shard-00000.json", "documents-00000", "rejects-00000"):
        refused(lambda: find_outcome(shard, 0), name, number)
    refused(lambda: list(read_documents(shard / "documents-00000.jsonl")), "documents-00000", number)
    refused(lambda: read_arrays(decision_path(shard)), "decision.npz", number)
    for step, name in (("observe", "observed-00000"), ("apply", "shard-00000")):
        refused(lambda step=step: is_done(ShardJob(step, {}, str(shard), 0)), name, number)
    assert find_outcome(shard, 0).n_in == 1
    (shard / "documents-00000.jsonl").unlink()
    assert find_outcome(shard, 0) is None


def test_what_a_stage_decided_is_not_decided_again(shard):
    for name in ("decision.npz", "decision.json"):
        refused(lambda: pipeline._decide(None, shard, [], None, None), name)
    assert pipeline._decide(None, shard, [], None, None) == {}


def test_a_file_with_a_digest_is_not_damaged(tmp_path):
    (tmp_path / "part").write_text("whole")
    digest = file_digest(tmp_path / "part")
    refused(lambda: check_file(tmp_path / "part", digest), "part")
    check_file(tmp_path / "part", digest)


def test_a_corpus_whose_files_cannot_be_seen_is_not_damaged(tmp_path, monkeypatch):
    def stale(path):
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(path))

    monkeypatch.setattr(type(tmp_path), "lstat", stale)
    with pytest.raises(NoAnswer):
        signatures(tmp_path, {"train-00000.bin": None})


def test_a_glob_leaves_no_file_out(tmp_path, monkeypatch):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "text.txt").write_text("words")
    ask = os.stat

    def stat(path, *rest, **named):
        if os.path.basename(os.fspath(path)) == "b":
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)
        return ask(path, *rest, **named)

    for pattern in ("**/*.txt", "*/text.txt"):
        assert len(expand([str(tmp_path / pattern)])) == 2
        with monkeypatch.context() as patch:
            patch.setattr(os, "stat", stat)
            with pytest.raises(NoAnswer):
                expand([str(tmp_path / pattern)])


MAY_BE_SHORT = {
    "backtest/tables.py": "descriptions in the package",
    "backtest/runner.py": "files of the package",
    "hardware/machine.py": "files of the kernel",
    "jobs/tries.py": "whether a checkpoint still grows",
    "posttrain/trl/base.py": "symbolic links; the files are then listed by files_in",
    "testing/checks.py": "files of a test",
}


def test_directories_are_listed_by_what_reports_errors():
    listed = {
        path.relative_to(PACKAGE).as_posix()
        for path in FILES
        if re.search(r"\.r?glob\(|\bos\.walk\(|\biglob\(", path.read_text())
    }
    assert listed == set(MAY_BE_SHORT)


def test_a_model_is_not_taken_for_another_kind_or_for_absent(tmp_path):
    (tmp_path / "spec.yaml").write_text("")
    asked = [
        (Checkpoint.load, "model.json"),
        (Checkpoint.load, "spec.yaml"),
        (contents, tmp_path.name),
        (lambda path: find_base(str(path), tmp_path), "plan.json"),
        (lambda path: find_base(str(path), tmp_path), "spec.yaml"),
    ]
    for ask, name in asked:
        refused(lambda ask=ask: ask(tmp_path), name)


def test_checkpoints_that_cannot_be_read_are_not_passed_over(tmp_path):
    place = tmp_path / "checkpoint-5"
    place.mkdir()
    (place / SEALED).write_text("{}")
    refused(lambda: newest_checkpoint(tmp_path, "sft"), SEALED)
    refused(lambda: parse_file(META, place / SEALED), SEALED)


def test_a_directory_that_cannot_be_read_has_no_lack_of_checkpoints(tmp_path):
    """Path.glob finds nothing there from Python 3.12 on, and the run would begin again."""
    for ask in (unsharded._all, sharded.saved, lambda folder: newest_checkpoint(folder, "sft"), entries):
        refused(lambda ask=ask: ask(tmp_path), tmp_path.name)


def test_a_forecast_and_a_journal_are_not_to_be_restored_or_moved(tmp_path, monkeypatch):
    (tmp_path / "forecast.json").write_text("{}")
    refused(lambda: FrozenForecast.load(tmp_path / "forecast.json"), "forecast.json")

    def stale(*_, **__):
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    monkeypatch.setattr("builtins.open", stale)
    with pytest.raises(NoAnswer):
        began_ms(RunDir(tmp_path), None)
