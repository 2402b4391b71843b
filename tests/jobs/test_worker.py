"""What a process of a job leaves in its directory."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from scalelab.jobs.worker import TORCHRUN, Assignment, stacks_of
from scalelab.train.run_directory import RunDir


def test_a_late_process_of_an_earlier_attempt_does_not_disturb_the_watchdog_of_the_next(tmp_path):
    assignment = Assignment(RunDir(tmp_path), {}, 0, 1, lambda: False)

    # The second one is the earlier attempt's: it ends first.
    with assignment.watchdog(900.0, 900.0), assignment.watchdog(900.0, 900.0):
        assert stacks_of(assignment.dir, 0).exists()

    assert list(tmp_path.iterdir()) == []


CHILD = """
import time
from scalelab.jobs.worker import leave_with_torchrun
leave_with_torchrun()
print("here", flush=True)
time.sleep(600)
"""
PARENT = f"""
import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", {CHILD!r}], start_new_session=True)
time.sleep(600)
"""


@pytest.mark.parametrize("is_of_torchrun", [True, False])
def test_a_process_leaves_with_the_torchrun_that_started_it(is_of_torchrun, monkeypatch):
    """One that something else started goes on: whoever started it may leave."""
    monkeypatch.setenv(TORCHRUN, "1") if is_of_torchrun else monkeypatch.delenv(TORCHRUN, raising=False)
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    with parent.stdout as output:
        assert output.readline() == "here\n"
    (child,) = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()

    parent.kill()
    parent.wait()

    place = Path(f"/proc/{child}")
    ends = time.monotonic() + (60 if is_of_torchrun else 2.5)
    while place.exists() and time.monotonic() < ends:
        time.sleep(0.05)
    try:
        assert place.exists() != is_of_torchrun
    finally:
        with suppress(ProcessLookupError):
            os.kill(int(child), signal.SIGKILL)
