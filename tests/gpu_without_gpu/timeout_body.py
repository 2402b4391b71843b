"""What both processes of test_process_timeouts.py do. Importable, since they are new processes."""

import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from scalelab.hardware.device import find_device
from scalelab.hardware.layout import Layout
from scalelab.train.checkpoints import sharded
from scalelab.train.engines.parallel import ParallelEngine, join
from scalelab.train.loop import LaunchOptions, train
from scalelab.train.process_timeouts import ProcessTimeouts
from scalelab.train.run_directory import RunDir

TIMEOUTS = ProcessTimeouts(start_s=60, first_step_s=50, step_s=4.0)
SLOW_S = 4.6
"""Seconds that the second process keeps the first one waiting: longer than a step may take."""


def body(rank: int, ports: dict[str, int], paths: dict[str, str], answers: list) -> None:
    """Train runs of two shards, in each of which something is slow in the second process."""
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module")
    torch.set_num_threads(1)
    for case, path in paths.items():
        os.environ.update(RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1")
        os.environ["MASTER_PORT"] = str(ports[case])
        join(TIMEOUTS.start_s, find_device())
        with pytest.MonkeyPatch.context() as patch:
            if rank == 1 and case in SLOW:
                SLOW[case](patch, answers)
            answers.append((case, rank, *trained(RunDir(Path(path)), case)))
        if case == "hung":
            os._exit(0)  # threads of the broken group would keep it alive
        sharded.leave()


def trained(run_dir: RunDir, case: str) -> tuple[float | str | None, list[float]]:
    """The loss or the error, and the times that the watchdog was given, or the seconds until the error."""
    allowed: list[float] = []
    launched = LaunchOptions(Layout(shard=2), heartbeat=allowed.append, timeouts=TIMEOUTS)
    asked: list[bool] = []

    def stop() -> bool:
        asked.append(True)
        return case == "stopped" and len(asked) == 10

    begun = time.monotonic()
    try:
        result = train(run_dir, stop, launched)
    except RuntimeError as error:
        return f"{error}", [time.monotonic() - begun]
    return result and result.loss, allowed


def slow_hashing(patch: pytest.MonkeyPatch, answers: list) -> None:
    """A disk on which the first file is read slowly."""
    slow_at(patch, sharded, "check_file", 1)


def slow_compilation(patch: pytest.MonkeyPatch, answers: list) -> None:
    """A first step that takes long, and a first evaluation."""
    slow_at(patch, ParallelEngine, "gradient", 1)
    slow_at(patch, ParallelEngine, "validate", 1)


def slow_step(patch: pytest.MonkeyPatch, answers: list) -> None:
    """A later step that hangs until the first process has given up, or does not do so for a minute."""

    def hang() -> None:
        ends = time.monotonic() + 60
        while ("hung", 0) not in [answer[:2] for answer in answers] and time.monotonic() < ends:
            time.sleep(0.1)

    slow_at(patch, ParallelEngine, "gradient", 8, hang)


def slow_at(
    patch: pytest.MonkeyPatch,
    owner: object,
    name: str,
    call: int,
    wait: Callable[[], None] = lambda: time.sleep(SLOW_S),
) -> None:
    """Make one call of a function of a module, or of a method of a class, slow."""
    function, calls = getattr(owner, name), []

    def slowly(*arguments: object) -> object:
        calls.append(True)
        if len(calls) == call:
            wait()
        return function(*arguments)

    patch.setattr(owner, name, slowly)


SLOW = {"hashing": slow_hashing, "compilation": slow_compilation, "hung": slow_step}
