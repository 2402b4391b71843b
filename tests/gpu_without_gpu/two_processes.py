"""Two processes that run one function, forked from a server that has imported what takes long.

A new process loads torch, its compiler and the engine for seconds; a forked one has them.
"""

import socket

import torch.multiprocessing

from scalelab.jobs.executors.forkserver import fork_server

PROCESSES = 2
IMPORTED = (
    "scalelab.train.loop",
    "scalelab.train.engines.parallel",
    "torch._dynamo",
    "torch.distributed.fsdp",
)


def free_port():
    """Return a port of this machine that nobody listens on."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def run_both(body, *arguments):
    """Run body(rank, *arguments) in both processes, to their ends.

    A server that an earlier test has started stays as it is; the processes then import the rest themselves.
    """
    fork_server(IMPORTED)
    torch.multiprocessing.start_processes(body, arguments, nprocs=PROCESSES, start_method="forkserver")
