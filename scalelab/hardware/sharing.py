"""Several processes on one GPU: how much memory each may take, and whether their kernels run at once.

    limit     max(U / k, need, U need / (S M)), for at most k processes with estimates `need`
    U         M - k CONTEXT_BYTES, of a device with M bytes; S M of it is planned with (train/memory.py)

A process that reaches its limit is out of memory by itself, and halves its micro-batch; without a limit
the one that asks next would be, whichever that is. The limit covers torch's allocator, not the context.

NVIDIA's Multi-Process Service (MPS), where its daemon runs, lets kernels of several processes run at the
same time; otherwise they take turns. A process may then use 2/k of the multiprocessors at most: half of k
at a time fill the GPU, and the rest is left to the balance of the load.

Source: torch.cuda.set_per_process_memory_fraction; NVIDIA, Multi-Process Service, execution resource
provisioning (100% / 0.5 n for n clients) and nvidia-cuda-mps-control.
Not here: which job goes to which GPU (jobs/executors/local_devices.py).
"""

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

CONTEXT_BYTES = 2**29
"""Memory of a process on a GPU beside torch's allocator: context and kernels. Assumed; 0.3 to 0.6 GB are usual."""
MEMORY_FRACTION = "SCALELAB_GPU_MEMORY_FRACTION"
"""Environment variable: share of its GPU's memory that a process of a job may allocate."""
THREAD_PERCENTAGE = "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"
"""Environment variable that MPS reads when a process first uses a GPU."""
PIPES, DEFAULT_PIPES = "CUDA_MPS_PIPE_DIRECTORY", Path("/tmp/nvidia-mps")
LIMIT_S = 3.0
"""Seconds to wait for the daemon's answer."""


def most_sharing(memory_bytes: int | None, most: int) -> int:
    """Return how many processes may share a GPU: `most`, fewer where contexts would fill half of it.

    Args:
        memory_bytes: Memory of the GPU; None: unknown.
        most: Upper limit.
    """
    if memory_bytes is None:
        return most
    return max(1, min(most, memory_bytes // (2 * CONTEXT_BYTES)))


def usable_bytes(memory_bytes: int, most: int) -> int:
    """Return the memory of a GPU without the contexts of its processes, bytes."""
    return memory_bytes - most * CONTEXT_BYTES


def limit_bytes(memory_bytes: int, most: int, need: int, planned_share: float) -> int:
    """Return how much memory a process may allocate on a GPU that it shares, bytes: never less than `need`.

    More than usable_bytes where it needs more, and then it cannot share the GPU.

    Args:
        memory_bytes: Memory of the GPU.
        most: Number of processes that may share it.
        need: Estimate of what the process needs, bytes.
        planned_share: Share of the memory that estimates may add up to.
    """
    usable = usable_bytes(memory_bytes, most)
    return max(usable // most, need, int(usable * need / (planned_share * memory_bytes)))


def limit_memory(environ: Mapping[str, str]) -> None:
    """Let torch allocate no more of this process's GPU than MEMORY_FRACTION says; nothing without it.

    Args:
        environ: Environment variables that the process was given.
    """
    fraction = environ.get(MEMORY_FRACTION)
    if fraction is None:
        return
    import torch

    if torch.cuda.is_available():
        torch.cuda.set_per_process_memory_fraction(float(fraction), 0)


def thread_percentage(most: int) -> str:
    """Return the share of a GPU's multiprocessors for each of at most `most` processes, percent."""
    return str(min(100, round(200 / most)))


def mps_runs() -> bool | None:
    """Return whether the daemon of MPS runs; None if it left its pipe and does not answer."""
    pipes = Path(os.environ.get(PIPES) or DEFAULT_PIPES)
    if not (pipes / "control").exists():
        return False
    try:
        done = subprocess.run(
            ["nvidia-cuda-mps-control"],
            input="get_server_list\n",
            capture_output=True,
            text=True,
            errors="replace",
            timeout=LIMIT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.returncode == 0 and "Cannot find MPS" not in done.stdout + done.stderr
