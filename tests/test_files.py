"""Lines that are added to a file are whole, whatever was killed before."""

import errno
import os
import signal
import subprocess
import sys
import tracemalloc

import pytest

from scalelab.data.tokenizer import TextTokenizer
from scalelab.errors import RunError, ScalelabError
from scalelab.files import append, read_regular, write_text
from scalelab.model.huggingface import config_of
from scalelab.plan.forecast.frozen import FrozenForecast
from scalelab.plan.plan import Plan
from scalelab.sealed import Damaged, check_file, read_lines
from scalelab.sweep.file import SweepFile
from scalelab.train.checkpoints.unsharded import read_meta
from scalelab.train.run_directory import RunDir, read_sealed_yaml


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


def test_a_name_that_is_no_text_is_refused_and_nothing_is_left(tmp_path):
    with pytest.raises(RunError, match="a name in it is not UTF-8") as refused:
        write_text(tmp_path / "spec.yaml", "base: runs/caf\udce9/x\n")

    assert r"caf\udce9" in refused.value.problem
    assert list(tmp_path.iterdir()) == []


def test_what_the_terminal_cannot_show_ends_no_command(tmp_path):
    environ = os.environ | {"PYTHONIOENCODING": "ascii:strict", "PYTHONUTF8": "0"}
    out = os.fsencode(tmp_path) + b"/caf\xe9\xc3\xa9"  # half UTF-8, half not
    command = [
        sys.executable,
        "-m",
        "scalelab.cli",
        "plan",
        "--params",
        "1e9",
        "--tokens",
        "1e10",
        "--out",
        out,
    ]

    done = subprocess.run(command, capture_output=True, env=environ, check=False)

    assert done.returncode == 0, done.stderr
    assert b"plan: " in done.stdout
    assert os.path.isfile(out + b"/plan.json")


SPECIAL = {
    "a plan": lambda path: Plan.load(path),
    "a forecast": lambda path: FrozenForecast.load(path),
    "a journal": lambda path: read_lines(path),
    "a spec": lambda path: read_sealed_yaml(path),
    "a tokenizer": lambda path: TextTokenizer.load(path),
    "a checkpoint's config": lambda path: config_of(path.parent),
    "a sweep file": lambda path: SweepFile.load(path),
    "a checkpoint's meta.json": lambda path: read_meta(path),
    "a digest": lambda path: check_file(path, "0" * 64),
}


@pytest.mark.parametrize("reader", SPECIAL)
@pytest.mark.parametrize("device", ["pipe", "/dev/zero"])
def test_no_reader_waits_for_a_pipe_or_reads_a_device(tmp_path, reader, device):
    """Without the refusal these hang, or fill the memory: the alarm ends them."""
    path = tmp_path / "config.json"
    if device == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(device)

    def late(number, frame):
        raise AssertionError("it waits")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(5)
    try:
        with pytest.raises((ScalelabError, Damaged)) as refused:
            SPECIAL[reader](path)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    assert "not a regular file" in str(refused.value)


def test_a_small_file_takes_little_memory(tmp_path):
    (tmp_path / "small").write_bytes(b"x" * 1000)
    (tmp_path / "large").write_bytes(b"x" * 3_000_000)
    tracemalloc.start()
    try:
        assert read_regular(tmp_path / "small") == b"x" * 1000
        with pytest.raises(OSError, match="larger than 1,000 bytes"):
            read_regular(tmp_path / "large", 1000)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_a_config_of_a_checkpoint_that_is_deep_or_huge_is_refused(tmp_path):
    for text in ("[" * 100_000, '{"model_type": "llama", "hidden_size": 1e999}', "9" * 5000):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(RunError, match="the checkpoint cannot be read"):
            config_of(tmp_path)
