"""The queue of a shared directory, and its workers: each job once, whoever dies."""

from dataclasses import replace

import pytest
from scripted_executor import Scripted, done

from scalelab.errors import LaunchError, RunError
from scalelab.jobs import driver, queue_worker
from scalelab.jobs.base import JobOutcome
from scalelab.jobs.executors.inline import InlineExecutor
from scalelab.jobs.queue import JobQueue, note_abandoned
from scalelab.jobs.queue_records import JobEnd, QueueSettings
from scalelab.jobs.queue_worker import run_worker
from scalelab.jobs.view import JobLabels, LiveView
from scalelab.leases import CLAIM, claim
from scalelab.testing.executors import job
from scalelab.train.run_directory import LEASE


@pytest.fixture
def queue(tmp_path, monkeypatch):
    """A queue of a sweep's directory that has no driver."""
    monkeypatch.setattr(driver, "POLL_S", 0.001)
    monkeypatch.setattr(driver, "RECHECK_S", 0.001)
    monkeypatch.setattr(queue_worker, "WATCH_S", 0.0)
    monkeypatch.setattr(queue_worker, "LOOK_S", 0.001)
    queue = JobQueue(tmp_path / "runs" / "sweep")
    queue.open(settings())
    return queue


def settings(**changes):
    given = {"driven": False, "retries": 1, "heartbeat_timeout_s": 60.0, "idle_s": 0.01}
    return QueueSettings(**given | changes)


def work(queue, executor=None, **more):
    executor = executor or InlineExecutor()
    with LiveView(JobLabels()) as view:
        return run_worker(queue, executor, view, queue.join().worker, **more)


def vanish(each):
    """Leave a claim whose process is gone, as kill -9 does."""
    lease = claim(each.dir.path, LEASE)
    lease._ended.set()
    CLAIM.write(lease.path, replace(lease.held, pid=2**22 - 1, started=1))


def test_a_worker_runs_all_jobs_in_order_and_leaves(queue):
    jobs = [job(queue.home, n) for n in "cab"]
    assert queue.publish(jobs) == {"c": 1, "a": 1, "b": 1}
    result = work(queue)

    assert [*result.outcomes] == ["c", "a", "b"]
    assert (result.interrupted, result.n_open, result.lost) == (False, 0, [])
    assert [each.dir.result_path.read_text() for each in jobs] == ["3"] * 3
    (worker,) = queue.workers()
    assert {queue.end(t).worker for t in queue.tickets()} == {worker.worker}


def test_jobs_after_others_wait_for_their_end(queue):
    queue.publish([replace(job(queue.home, "branch"), after=("trunk",)), job(queue.home, "trunk")])
    assert [*work(queue).outcomes] == ["trunk", "branch"]


def test_what_has_ended_is_not_begun_again_until_it_is_published_again(queue):
    each = job(queue.home, "a", fail=True)
    queue.publish([each])
    assert [e.outcome for e in work(queue).lost] == ["error"]
    assert work(queue).outcomes == {}

    fine = job(queue.home, "a")
    assert queue.publish([fine]) == {"a": 2}
    assert queue.publish([fine]) == {"a": 2}, "an open job keeps its number"
    assert work(queue).outcomes["a"].outcome == "done"


def test_a_job_that_a_vanished_worker_left_is_resumed(queue):
    each = job(queue.home, "a")
    queue.publish([each])
    vanish(each)
    assert work(queue).outcomes["a"].outcome == "done"
    assert [e["attempt"] for e in each.dir.events() if e["event"] == "lost"] == [1]


def test_a_job_that_kills_its_workers_is_given_up(queue):
    """Each checkpoint gives it further tries, and so does publishing it again."""
    each = job(queue.home, "a")
    queue.publish([each])
    vanish(each)
    assert note_abandoned(each.dir) == note_abandoned(each.dir) == 1
    vanish(each)
    (lost,) = work(queue).lost
    assert (lost.outcome, each.dir.is_done) == ("killed", False)
    assert lost.reason.startswith("2 workers were killed")

    queue.publish([each])
    vanish(each)
    each.dir.append("checkpoint", step=0)
    vanish(each)
    assert work(queue).outcomes["a"].outcome == "done"


def test_a_checkpoint_that_was_there_before_gives_no_further_tries(queue):
    each = job(queue.home, "a")
    for n in (1, 2, 3):
        each.dir.append("checkpoint", step=4)
        vanish(each)
        assert note_abandoned(each.dir) == n
    each.dir.append("checkpoint", step=5)
    vanish(each)
    assert note_abandoned(each.dir) == 1


def test_of_a_worker_that_stopped_in_order_nothing_is_noted(queue):
    each = job(queue.home, "a")
    claim(each.dir.path, LEASE).release()
    assert note_abandoned(each.dir) == 0
    held = claim(each.dir.path, LEASE)
    assert note_abandoned(each.dir) == 0
    held.release()


def test_a_driven_worker_leaves_jobs_that_others_hold(queue):
    queue.open(settings(driven=True))
    mine, theirs = job(queue.home, "mine"), job(queue.home, "theirs")
    queue.publish([theirs, mine])
    held = claim(theirs.dir.path, LEASE)
    result = work(queue)
    held.release()

    assert [*result.outcomes] == ["mine"]
    assert result.n_open == 1


def test_a_driven_worker_records_a_refusal_for_its_driver(queue):
    queue.open(settings(driven=True))
    each = job(queue.home, "a", refuse=True)
    queue.publish([each])
    with pytest.raises(LaunchError, match="it is refused"):
        work(queue)
    (ticket,) = queue.tickets()
    end = queue.end(ticket)
    assert (end.outcome, end.where, end.fix) == ("refused", "the probe", "ask for something else")


def test_without_a_driver_a_refused_job_stays_for_other_machines(queue):
    queue.publish([job(queue.home, "a", refuse=True)])
    with pytest.raises(LaunchError, match="it is refused"):
        work(queue)
    assert len(queue.open_tickets()) == 1


def test_the_first_end_stands(queue):
    queue.publish([job(queue.home, "a")])
    (ticket,) = queue.tickets()
    assert queue.record_end("a", 1, JobEnd("done", worker="first"))
    assert not queue.record_end("a", 1, JobEnd("killed", worker="zombie"))
    assert queue.end(ticket).worker == "first"


@pytest.mark.parametrize(("wanted", "now"), [("stop", False), ("kill", True)])
def test_a_withdrawn_job_is_ended_by_its_worker(queue, wanted, now):
    queue.open(settings(driven=True))
    queue.publish([job(queue.home, "a")])

    def state(executor, each):
        queue.withdraw("a", wanted)
        return JobOutcome(each, "interrupted") if executor.cancelled else "running"

    executor = Scripted(state)
    work(queue, executor)

    assert executor.cancelled == [("a", now)]
    (ticket,) = queue.tickets()
    assert queue.end(ticket) is not None
    assert work(queue).outcomes == {}, "no worker begins it any more"


def test_a_job_that_is_withdrawn_before_its_turn_is_not_begun(queue):
    queue.open(settings(driven=True))
    queue.publish([job(queue.home, "a"), job(queue.home, "b")])

    def state(executor, each):
        queue.withdraw("b", "stop")
        return done(executor, each)

    executor = Scripted(state, slots=1)
    work(queue, executor)
    assert executor.submitted == ["a"]


def test_a_job_that_another_worker_is_about_to_begin_starts_no_process(queue):
    queue.open(settings(driven=True))
    queue.publish([job(queue.home, "a")])
    held = claim(queue.claims, "a")
    executor = Scripted(done)
    result = work(queue, executor)
    held.release()
    assert (executor.submitted, result.n_open) == ([], 1)
    assert [*work(queue, executor).outcomes] == ["a"]


def test_a_driven_worker_does_not_wait_for_a_job_that_another_was_faster_to_begin(queue):
    queue.open(settings(driven=True))
    queue.publish([job(queue.home, "a")])
    held = []

    class Impatient(Scripted):
        def poll(self):
            assert self.patience > 0, "it waits"
            self.patience -= 1
            return super().poll()

    def state(executor, each):
        held.append(claim(each.dir.path, LEASE))
        return JobOutcome(each, "elsewhere")

    executor = Impatient(state)
    executor.patience = 1000
    result = work(queue, executor)
    held[0].release()
    assert (executor.submitted, result.n_open) == (["a"], 1)


@pytest.mark.parametrize("first", ["elsewhere", "killed"])
def test_a_driven_worker_does_what_needs_a_job_that_went_wrong_here_and_went_on_elsewhere(queue, first):
    queue.open(settings(driven=True))
    needed, other = job(queue.home, "needed"), job(queue.home, "other")
    queue.publish([needed, other])
    held = []

    def state(executor, each):
        if each.id == "needed":
            if first == "elsewhere":
                held.append(claim(each.dir.path, LEASE))
            return JobOutcome(each, first)
        if each.id == "other" and executor.submitted[-1] == "other":
            for lease in held:
                lease.release()
            done(executor, needed)  # by another worker, perhaps in the next try
            queue.record_end("needed", 1, JobEnd("done", worker="another"))
            queue.publish([replace(job(queue.home, "next"), needs=("needed",))])
        return done(executor, each)

    executor = Scripted(state, slots=1)
    work(queue, executor)

    assert executor.submitted == ["needed", "other", "next"]
    assert queue.end(queue.ticket("next")).outcome == "done"


def test_a_worker_whose_time_is_over_saves_and_leaves_the_job_open(queue, monkeypatch):
    queue.publish([job(queue.home, "a")])

    def state(executor, each):
        return JobOutcome(each, "interrupted") if executor.cancelled else "running"

    executor = Scripted(state)
    result = work(queue, executor, minutes=1e-9)

    assert executor.cancelled in ([], [("a", False)])
    assert (result.interrupted, result.n_open) == (True, 1)
    assert work(queue, Scripted(done)).outcomes["a"].outcome == "done"


def test_only_the_directory_of_the_token_is_accepted(queue, tmp_path):
    token = queue.settings().token
    assert queue.open(settings(driven=True)).token == token, "a token is made once"
    queue.check_token(token)
    with pytest.raises(LaunchError, match="has the token") as error:
        queue.check_token("another")
    assert "share" in error.value.fix
    with pytest.raises(LaunchError, match="no jobs are queued") as error:
        JobQueue(tmp_path / "runs" / "nothing").settings()
    assert "--prepare" in error.value.fix


def test_a_damaged_ticket_counts_as_absent(queue, damages):
    queue.publish([job(queue.home, "a"), job(queue.home, "b")])
    path = queue.path / "jobs" / "a-000001.json"
    for text in damages(path.read_bytes(), 12):
        path.write_bytes(text)
        assert [t.job for t in queue.tickets()] == ["b"]


def test_a_ticket_leads_nowhere_outside_of_the_runs(queue, tmp_path):
    queue.publish([job(queue.home, "a")])
    (ticket,) = queue.tickets()
    with pytest.raises(RunError, match="not a path below"):
        queue.job_of(replace(ticket, dir="../../etc"), 1)


def test_jobs_that_are_queued_no_more_leave_no_ticket(queue):
    queue.publish([job(queue.home, "a"), job(queue.home, "b")])
    queue.record_end("a", 1, JobEnd("error"))
    queue.keep_only(["b"])
    assert [t.job for t in queue.tickets()] == ["b"]
    assert queue.ended_names() == set()


def test_the_listing_names_the_logs_and_what_was_lost(queue, tmp_path):
    from scalelab.report.document import Document
    from scalelab.report.listing.queue import queue_blocks
    from scalelab.report.render.terminal import render_terminal

    assert queue_blocks(tmp_path / "runs" / "nothing") == []
    queue.publish([job(queue.home, "a"), job(queue.home, "b")])
    worker = queue.join("7_0", str(queue.logs / "worker-7_0.log"))
    queue.record_end("a", 1, JobEnd("killed", "signal 9", worker=worker.worker))
    queue.record_end("b", 1, JobEnd("done", worker=worker.worker))
    text = render_terminal(Document("sweep", queue_blocks(queue.home)))
    flat = "".join(text.split())
    assert "a:killed,signal9;log:" in flat
    assert "worker-7_0.log" in flat
    assert "b:" not in flat
