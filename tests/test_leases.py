"""One process at a time may write in a directory, on whatever machine, whatever became of it."""

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from scalelab import leases
from scalelab.errors import LaunchError, RunError
from scalelab.leases import CLAIM, LeaseTaken, claim, follows, hold, holder, numbered
from scalelab.train.run_directory import RunDir

HOLD = """
import sys, time
from pathlib import Path
from scalelab.leases import claim
claim(Path(sys.argv[1]), ttl_s=float(sys.argv[2]))
print("held", flush=True)
time.sleep(600)
"""


@pytest.fixture
def elsewhere(tmp_path):
    """A function that leaves a claim of another machine, its heartbeat so many seconds ago."""

    def leave(age_s, attempt=1, **changes):
        path = numbered(tmp_path, "lease", attempt)
        ours = leases.Claim(attempt, "ab" * 8, "far", "00000000", os.getpid(), 1, 60.0)
        CLAIM.write(path, replace(ours, **changes))
        os.utime(path, (time.time() - age_s,) * 2)
        return path

    return leave


def test_a_held_directory_is_not_claimed_again_and_a_released_one_is(tmp_path):
    first = claim(tmp_path)

    assert first.held.attempt == 1
    assert claim(tmp_path) is None
    assert holder(tmp_path).pid == os.getpid()
    first.release()
    assert holder(tmp_path) is None
    assert claim(tmp_path).held.attempt == 2
    assert len(list(tmp_path.iterdir())) == 1


def test_of_many_claimants_one_succeeds(tmp_path):
    for i in range(20):
        at_once, won = threading.Barrier(12), []

        def try_it(i=i, at_once=at_once, won=won):
            at_once.wait()
            if (lease := claim(tmp_path / str(i))) is not None:
                won.append(lease)

        threads = [threading.Thread(target=try_it) for _ in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert len(won) == 1


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_process_that_is_gone_or_silent_is_followed(tmp_path, number):
    """Killed: at once, since its process is looked for. Suspended: once its heartbeat is old."""
    other = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path), "0.4"], stdout=subprocess.PIPE)
    other.stdout.readline()
    assert claim(tmp_path) is None

    other.send_signal(number)
    if number == signal.SIGKILL:
        other.wait()
    else:
        time.sleep(0.8)
    ours = claim(tmp_path)

    assert ours.held.attempt == 2
    other.kill()
    other.communicate()


def test_a_heartbeat_keeps_a_lease(tmp_path):
    ours = claim(tmp_path, ttl_s=0.4)
    before = ours.path.stat().st_mtime_ns
    time.sleep(0.7)

    assert claim(tmp_path) is None
    assert ours.path.stat().st_mtime_ns > before
    ours.release()


def test_another_machine_s_holder_counts_until_its_heartbeat_is_old(tmp_path, elsewhere):
    elsewhere(age_s=30)
    assert claim(tmp_path) is None
    assert holder(tmp_path).host == "far"

    elsewhere(age_s=61)
    assert claim(tmp_path).held.attempt == 2


@pytest.mark.parametrize("skew_s", [-86_400, 86_400])
def test_the_clock_is_that_of_the_file_system(tmp_path, elsewhere, monkeypatch, skew_s):
    elsewhere(age_s=1)
    real = time.time
    monkeypatch.setattr(leases.time, "time", lambda: real() + skew_s)

    assert claim(tmp_path) is None


def test_a_number_of_an_earlier_process_is_no_sign_of_life(tmp_path, elsewhere):
    """Process ids are used again: the time at which a process began tells them apart."""
    elsewhere(age_s=1, machine=leases.machine(), started=1)

    assert claim(tmp_path).held.attempt == 2


def test_a_holder_that_was_followed_stops_before_its_next_write(tmp_path):
    directory = tmp_path / "run"
    directory.mkdir()
    with hold(directory / "lease", "taken", "wait") as lease:
        run_dir = RunDir(directory, lease.check)
        run_dir.append("step", step=1)
        after = replace(lease.held, attempt=2, nonce="x" * 16)
        CLAIM.write(numbered(directory, "lease", 2), after)
        with pytest.raises(LeaseTaken, match="taken over by another process"):
            run_dir.append("step", step=2)

    assert [event["step"] for event in run_dir.events()] == [1]
    assert holder(directory) == after  # and lets the other's claim alone


def test_a_child_writes_under_its_parent_s_claim(tmp_path):
    lease = claim(tmp_path)
    check = follows(tmp_path, "lease", lease.held.attempt)

    check()
    lease.release()
    claim(tmp_path)
    with pytest.raises(LeaseTaken):
        check()


def test_a_slow_claimant_does_not_take_a_number_that_was_passed(tmp_path, monkeypatch):
    """It looked while the first claim was free; two others have followed one another since."""
    real, calls = leases._read_newest, []

    def late(directory, name):
        calls.append(1)
        return (0, None, False) if len(calls) == 1 else real(directory, name)

    claim(tmp_path).release()
    claim(tmp_path)  # sweeps the first one's file away
    monkeypatch.setattr(leases, "_read_newest", late)

    assert claim(tmp_path) is None
    assert [p.name for p in tmp_path.iterdir()] == ["lease-000002.json"]


@pytest.mark.parametrize("content", [b"", b"null", b"{", b'{"schema": 1}', b"\xff\xfe"])
@pytest.mark.parametrize("age_s", [1, 90])
def test_a_damaged_lease_still_has_a_heartbeat(tmp_path, content, age_s):
    path = numbered(tmp_path, "lease", 1)
    path.write_bytes(content)
    os.utime(path, (time.time() - age_s,) * 2)

    assert (claim(tmp_path) is None) == (age_s < 60)


def test_file_systems_without_hard_links_work_too(tmp_path, monkeypatch):
    def refuses(*_):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuses)

    assert claim(tmp_path).held.attempt == 1
    assert claim(tmp_path) is None


def test_who_holds_it_is_said(tmp_path):
    claim(tmp_path, "lock")

    with (
        pytest.raises(LaunchError, match="the sweep is being run") as refused,
        hold(tmp_path / "lock", "the sweep is being run", "wait"),
    ):
        pass
    assert f"held by process {os.getpid()} on {os.uname().nodename}" in refused.value.where


def test_waiting_ends_when_it_is_let_go(tmp_path):
    lease = claim(tmp_path)
    threading.Timer(0.2, lease.release).start()

    with hold(tmp_path / "lease", "taken", "wait", wait_s=10) as ours:
        assert ours.held.attempt == 2


def test_what_is_published_is_written_once_and_by_the_holder(tmp_path):
    lease = claim(tmp_path)
    check = follows(tmp_path, "lease", lease.held.attempt)

    assert lease.publish(tmp_path / "result.json", "one")
    assert not lease.publish(tmp_path / "result.json", "two")
    assert (tmp_path / "result.json").read_text() == "one"
    lease.check()
    check()  # its children's, who know the number before
    assert claim(tmp_path) is None
    lease.release()
    assert claim(tmp_path).held.attempt == 3
    assert sorted(p.name for p in tmp_path.iterdir()) == ["lease-000003.json", "result.json"]


def test_a_holder_that_was_followed_publishes_nothing(tmp_path, monkeypatch):
    """It was suspended after its last check."""
    lease = claim(tmp_path)
    monkeypatch.setattr(lease, "check", lambda: None)
    after = replace(lease.held, attempt=2, nonce="x" * 16)
    CLAIM.write(numbered(tmp_path, "lease", 2), after)

    with pytest.raises(LeaseTaken):
        lease.publish(tmp_path / "result.json", "late")
    assert not (tmp_path / "result.json").exists()
    assert holder(tmp_path) == after


def test_the_next_claim_completes_what_a_killed_holder_published(tmp_path, elsewhere):
    (tmp_path / ".result.json.lease-000001.draft").write_text("done")
    elsewhere(age_s=61, attempt=2, publishes="result.json")

    lease = claim(tmp_path)

    assert lease.held.attempt == 3
    assert (tmp_path / "result.json").read_text() == "done"
    assert len(list(tmp_path.iterdir())) == 2


def test_a_result_that_a_person_removed_is_not_brought_back(tmp_path):
    lease = claim(tmp_path)
    lease.publish(tmp_path / "result.json", "wrong")
    lease.release()
    (tmp_path / "result.json").unlink()

    assert claim(tmp_path).held.attempt == 3
    assert not (tmp_path / "result.json").exists()


def test_a_claim_whose_answer_was_lost_is_ours(tmp_path, monkeypatch):
    """The client of a network file system asks once more, and finds its own link."""
    real = os.link

    def twice(*names):
        real(*names)
        real(*names)

    monkeypatch.setattr(os, "link", twice)
    assert claim(tmp_path).held.attempt == 1


def test_a_file_system_that_does_not_answer_is_no_traceback(tmp_path, monkeypatch):
    """As a network file system whose server was restarted: Stale file handle."""
    lease = claim(tmp_path)

    def stale(*_, **__):
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    for name, call in (("listdir", lambda: claim(tmp_path)), ("stat", lease.check)):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, stale)
            with pytest.raises(RunError, match="cannot be read: Stale file handle"):
                call()
    lease.check()


def test_a_claimant_that_slept_does_not_take_an_old_heartbeat_for_the_newest(
    tmp_path, elsewhere, monkeypatch
):
    """It read the time of the last heartbeat, slept, and asked for the present time."""
    path, real = elsewhere(age_s=30), Path.touch

    def slept(probe, *arguments, **options):
        real(probe, *arguments, **options)
        os.utime(probe, (time.time() + 100,) * 2)
        os.utime(path, (time.time() + 95,) * 2)  # the holder went on meanwhile

    monkeypatch.setattr(Path, "touch", slept)
    assert claim(tmp_path) is None


def test_an_observer_with_a_longer_cache_waits_longer(tmp_path, elsewhere, monkeypatch):
    """The holder's mount keeps times for a second, ours for a minute."""
    elsewhere(age_s=120)
    monkeypatch.setattr(leases, "attribute_cache_s", lambda directory: 60.0)

    assert claim(tmp_path) is None


def test_a_clock_that_cannot_be_asked_frees_no_lease(tmp_path, elsewhere, monkeypatch):
    """The disk is full at the moment, and this machine's own clock is ahead."""
    path = elsewhere(age_s=10)
    os.utime(path, (time.time() - 600,) * 2)

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "touch", full)
    assert claim(tmp_path) is None


@pytest.mark.parametrize("link", ["log.jsonl", "lease-000001.json", "checkpoints", None])
def test_nothing_is_written_through_a_symbolic_link(tmp_path, link):
    outside, directory = tmp_path / "outside", tmp_path / "sweep" / "run"
    outside.mkdir()
    if link is None:
        directory.parent.mkdir()
        directory.symlink_to(outside)
    else:
        directory.mkdir(parents=True)
        (directory / link).symlink_to(outside / "target")

    with pytest.raises(RunError, match="symbolic link"), RunDir(directory).claimed():
        pass
    assert not list(outside.iterdir())


def test_a_lease_that_is_a_link_to_nothing_is_refused_at_once(tmp_path):
    numbered(tmp_path, "lease", 1).symlink_to(tmp_path / "nothing")

    for ask in (claim, holder):
        with pytest.raises(RunError, match="symbolic link"):
            ask(tmp_path)


def test_the_log_s_own_link_is_refused_while_a_run_goes_on(tmp_path):
    (tmp_path / "log.jsonl").symlink_to(tmp_path / "elsewhere")

    with pytest.raises(RunError, match=r"cannot write log\.jsonl"):
        RunDir(tmp_path).append("start")
    assert not (tmp_path / "elsewhere").exists()


def test_no_file_asks_for_flock():
    """Some network file systems have none, or one that holds on a single machine only."""
    import scalelab

    house = Path(scalelab.__file__).parent
    users = [p.name for p in house.rglob("*.py") if "fcntl" in p.read_text()]

    assert users == []
