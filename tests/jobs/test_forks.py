"""Forked processes: nothing is imported twice, and the keyboard is not theirs to answer."""

import os
import signal
import subprocess
import sys
import time
from multiprocessing import forkserver

import pytest

from scalelab.hardware.openmp import SPIN_COUNT, WAIT_POLICY, spin_briefly
from scalelab.jobs.executors.forkserver import fork_server, start

WHAT_A_CHILD_FINDS = """
import os, signal, sys
from scalelab.jobs.executors.forkserver import devices_here, fork_server
from scalelab.launch.final_run import PARALLEL_TRAINING

def child(report):
    report.send((
        signal.getsignal(signal.SIGINT) == signal.SIG_IGN,
        [m for m in ("torch", "scalelab.train.engines.parallel",
                     "scalelab.train.checkpoints.sharded")
         if m not in sys.modules],
        os.environ.get("GOMP_SPINCOUNT"),
    ))

if __name__ == "__main__":
    context = fork_server(PARALLEL_TRAINING)
    assert "torch" not in sys.modules
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=child, args=(theirs,))
    process.start()
    print(*ours.recv(), signal.getsignal(signal.SIGINT) == signal.default_int_handler)
    print(devices_here(context)[0]["kind"], "torch" in sys.modules)
"""


def test_a_child_is_deaf_to_the_keyboard_and_has_all_that_it_needs(tmp_path):
    (tmp_path / "parent.py").write_text(WHAT_A_CHILD_FINDS)
    done = subprocess.run(
        [sys.executable, str(tmp_path / "parent.py")],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={name: value for name, value in os.environ.items() if name not in {WAIT_POLICY, SPIN_COUNT}}
        | {"OMP_NUM_THREADS": "1"},
        # A job in the background is started deaf to Ctrl-C, and hands that on.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "True [] 1000 True"
    assert done.stdout.splitlines()[1].endswith(" False")


@pytest.mark.parametrize("given", [{WAIT_POLICY: "ACTIVE"}, {SPIN_COUNT: "7"}])
def test_how_threads_wait_is_left_to_the_environment_where_it_says(monkeypatch, given):
    for name in (WAIT_POLICY, SPIN_COUNT):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)

    spin_briefly()

    assert {name: os.environ[name] for name in (WAIT_POLICY, SPIN_COUNT) if name in os.environ} == given


def test_a_server_that_was_killed_is_started_again():
    context = fork_server(())
    for _ in range(2):
        os.kill(forkserver._forkserver._forkserver_pid, signal.SIGKILL)
        process = context.Process(target=time.sleep, args=(0,))
        start(process)
        process.join()

        assert process.exitcode == 0
    forkserver._forkserver._stop()  # the next one imports what its jobs need, once
