"""Free space and speed of the disk of the runs, measured by writing for at most about a second.

Files of growing size are written and flushed to the disk, each four times the one before, as long as
the next one should be done in time; the speed is that of the last one. They have no name, so nothing
is left behind.
"""

import os
import shutil
import tempfile
import time
from pathlib import Path

from scalelab.hardware.checks.run_directory import FIX, existing_part
from scalelab.hardware.finding import Finding, ok, problem, warning
from scalelab.hardware.machine import Machine
from scalelab.units import size_text

FIRST_BYTES, LAST_BYTES, GROWTH = 2**18, 2**28, 4
LIMIT_S = 0.8
LEAST_FREE, SOME_FREE = 1e9, 20e9
"""Bytes below which a run is sure to fail, and below which a family of models may."""
SLOW_CPU, SLOW_GPU = 20e6, 200e6
"""Bytes per second below which checkpoints take noticeable time, of small models and of those of a GPU."""
CHECKPOINT_BYTES = 12e9
"""Weights and two moments in fp32 of a model with 1e9 parameters."""


def check_disk(machine: Machine) -> Finding:
    """Check free space and speed of writing where runs are kept."""
    place = existing_part(machine.runs)
    free = shutil.disk_usage(place).free
    try:
        speed = write_speed(place)
    except OSError as error:
        return problem(f"cannot write to {place}: {error.strerror or error}", FIX)
    value = f"{size_text(free)} free, writes {size_text(speed)}/s (measured)"
    if machine.gpus:
        value += f"; a checkpoint of 1B parameters takes about {CHECKPOINT_BYTES / speed:.0f} s"
    if free < LEAST_FREE:
        return problem(value, "remove files, or set SCALELAB_RUNS to a disk with more space")
    if free < SOME_FREE:
        return warning(value, f"have {size_text(SOME_FREE)} free, or set SCALELAB_RUNS to another disk")
    if speed < (SLOW_GPU if machine.gpus else SLOW_CPU):
        return warning(
            value, "set SCALELAB_RUNS to a local disk: training waits while checkpoints are written"
        )
    return ok(value)


def write_speed(directory: Path) -> float:
    """Return the speed of writing with a flush to the disk, bytes per second.

    Raises:
        OSError: The directory cannot be written, or the disk is full.
    """
    begun, size = time.perf_counter(), FIRST_BYTES
    block = os.urandom(FIRST_BYTES)  # a file system may compress, or leave out zeros
    while True:
        with tempfile.TemporaryFile(dir=directory, buffering=0) as file:
            start = time.perf_counter()
            for _ in range(size // len(block)):
                file.write(block)
            os.fsync(file.fileno())
            seconds = max(time.perf_counter() - start, 1e-9)
        ends = time.perf_counter() - begun + GROWTH * seconds
        if size >= LAST_BYTES or ends > LIMIT_S:
            return size / seconds
        size *= GROWTH
