"""Jobs with several processes: how they find one another, and a refusal for executors that start one.

torchrun sets the same variables, so a process need not know who has started it.
"""

import socket

from scalelab.errors import LaunchError
from scalelab.jobs.base import Job

RANK, SIZE, LOCAL_RANK = "RANK", "WORLD_SIZE", "LOCAL_RANK"


def rendezvous(rank: int, n: int, port: int, address: str = "127.0.0.1") -> dict[str, str]:
    """Environment variables by which a process finds the others of its job.

    Args:
        rank: Number of this process, from 0.
        n: Number of processes of the job.
        port: TCP port of the process with rank 0.
        address: Host name or IP address of the process with rank 0.
    """
    return {
        RANK: str(rank),
        LOCAL_RANK: str(rank),
        SIZE: str(n),
        "MASTER_ADDR": address,
        "MASTER_PORT": str(port),
    }


def free_port() -> int:
    """A port of this machine that was free a moment ago."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def refuse_gang(job: Job, executor: str) -> None:
    """Refuse a job of several processes where an executor starts one. Raises LaunchError."""
    n = job.resources.processes
    if n > 1:
        raise LaunchError(
            f"the executor {executor!r} runs one process, and the job {job.id} needs {n}",
            where=f"{job.dir.path}",
            fix="choose an executor that starts several (executor: local), or another layout",
        )
