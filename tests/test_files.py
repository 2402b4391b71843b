"""Lines that are added to a file are whole, whatever was killed before."""

import errno
import os

import pytest

from scalelab.errors import RunError
from scalelab.files import append
from scalelab.train.rundir import RunDir


def test_a_line_that_was_torn_does_not_swallow_the_next_one(tmp_path):
    run_dir = RunDir(tmp_path / "run")
    run_dir.path.mkdir()
    run_dir.append("step", step=1)
    with open(run_dir.log_path, "ab") as file:
        file.write(b'{"t": 5, "event": "st')  # killed here

    run_dir.append("lost", reason="signal 9")
    run_dir.append("start")

    assert [event["event"] for event in run_dir.events()] == ["step", "lost", "start"]


def test_nothing_is_added_between_whole_lines(tmp_path):
    append(tmp_path / "log", "one\n")
    append(tmp_path / "log", "two\nthree\n", flush=True)

    assert (tmp_path / "log").read_text() == "one\ntwo\nthree\n"


def test_a_line_that_found_no_room_is_no_success(tmp_path, monkeypatch):
    real = os.write
    monkeypatch.setattr(os, "write", lambda handle, data: real(handle, data[:3]))

    with pytest.raises(RunError, match=os.strerror(errno.ENOSPC)) as refused:
        append(tmp_path / "log", "a line\n")

    assert "fix:   free some space" in str(refused.value)
