"""Batch scripts for Slurm, and their settings.

    workers  an array; each task is `scalelab worker`, which claims queued jobs until none is left
    gang     one job on several nodes: srun starts torchrun on each, torchrun the processes

Slurm sends SIGUSR1 to the script `save_s` before the wall time, and SIGTERM before it preempts the job. Both are
a request to save and stop: a worker gets it as the signal, the processes of a gang as a file ($SCALELAB_STOP),
because torchrun would end them 30 seconds after a signal. The script of a gang records its exit status, so that
it is known where Slurm keeps no accounts.
"""

import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from pydantic import field_validator, model_validator

from scalelab.config import Count, Positive, Whole
from scalelab.jobs.base import ExecutorConfig

FIRST_PORT, PORTS = 20000, 20000
"""TCP ports of gangs: FIRST_PORT + job number mod PORTS."""


class SlurmSettings(ExecutorConfig):
    """Settings of jobs that are submitted to Slurm."""

    kind: Literal["slurm"] = "slurm"
    partition: str | None = None
    """Partition. None: the cluster's default."""
    account: str | None = None
    """Account that is charged. None: the user's default."""
    qos: str | None = None
    """Quality of service. None: the default of account and partition."""
    workers: Count = 8
    """Most worker tasks that are submitted at a time, queued ones included."""
    slots: Count | None = None
    """Runs in parallel in each worker. None: one per CPU of the task, or on its GPU as many as fit."""
    minutes: Count = 240
    """Wall time of a worker and of a gang. Runs are saved before it ends, and go on in the next job."""
    save_s: Count = 120
    """Seconds before the wall time at which runs are asked to save and stop."""
    gpus: Whole = 1
    """GPUs of each worker, and of each process of a gang (0: it computes on the CPU)."""
    cpus: Count = 4
    """CPUs of each worker, and of each process of a gang."""
    memory: str | None = None
    """Main memory of a worker, and of each node of a gang, as sbatch takes it: 32G. None: the default."""
    processes_per_node: Count = 8
    """Processes of a gang on one node."""
    modules: list[str] = []
    """Environment modules that are loaded first. Example: [cuda/12.8]."""
    setup: list[str] = []
    """Shell commands that run after them, such as the activation of an environment."""
    container: str | None = None
    """Command that everything is run by, such as `apptainer exec --nv image.sif`. None: no container."""
    flags: list[str] = []
    """Further options of sbatch. Example: ["--constraint=h100", "--exclude=node7"]."""
    python: str | None = None
    """Python on the compute nodes. None: the one that runs this command."""
    poll_s: Positive = 15.0
    """Seconds between two calls of squeue, which asks for all jobs at once."""

    @field_validator(
        "partition", "account", "qos", "memory", "python", "container", "modules", "setup", "flags"
    )
    @classmethod
    def _has_one_line(cls, value: str | Sequence[str] | None) -> str | Sequence[str] | None:
        for text in [value] if isinstance(value, str) else value or ():
            if not text.strip() or "\n" in text or "\0" in text:
                raise ValueError(f"{text!r:.40} is not one line of text")
        return value

    @model_validator(mode="after")
    def _saves_within_its_time(self) -> Self:
        if self.save_s >= 60 * self.minutes:
            raise ValueError(
                f"save_s is {self.save_s}, and minutes {self.minutes} are {60 * self.minutes} seconds"
            )
        return self


@dataclass(frozen=True)
class BatchJob:
    """A job for sbatch."""

    options: tuple[str, ...]
    """Options of sbatch. They are arguments of the command, so that paths with any character can stand in them."""
    script: str


def worker_job(settings: SlurmSettings, home: Path, token: str, name: str) -> BatchJob:
    """Return an array of workers, without its size.

    Args:
        settings: Settings of the executor.
        home: Directory of the sweep, which the compute nodes share.
        token: Token of its queue.
        name: Name of the Slurm job.
    """
    log = home / ".queue" / "logs" / "worker-%A_%a.log"
    command = [
        *_python(settings, "scalelab", "worker", str(home), "--token", token),
        *("--minutes", str(settings.minutes)),
        *(("--slots", str(settings.slots)) if settings.slots is not None else ()),
    ]
    shown = '--task "${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}" --log "$log"'
    body = [
        f"log={shlex.quote(str(log.parent))}/worker-${{SLURM_ARRAY_JOB_ID}}_${{SLURM_ARRAY_TASK_ID}}.log",
        f"exec {shlex.join(command)} {shown}",  # so that the worker itself gets Slurm's signals
    ]
    options = {"ntasks": 1, "cpus-per-task": settings.cpus}
    if settings.gpus:
        options["gres"] = f"gpu:{settings.gpus}"
    return _batch_job(settings, name, log, options, body)


def gang_job(settings: SlurmSettings, run_dir: Path, base: Path, n: int, name: str) -> BatchJob:
    """Return a job of several processes.

    Args:
        settings: Settings of the executor.
        run_dir: Directory of the job, which the compute nodes share.
        base: Start of the paths of its reports, its stop request and its exit status.
        n: Number of processes.
        name: Name of the Slurm job.
    """
    per_node = min(n, settings.processes_per_node)
    nodes, cpus = -(-n // per_node), settings.cpus * per_node
    torchrun = [
        *_python(settings, "torch.distributed.run"),
        *("--nnodes", str(nodes), "--nproc-per-node", str(per_node), "--max-restarts", "0"),
        *("--rdzv-backend", "c10d"),
    ]
    # One shell on each node: the first node serves the rendezvous.
    on_node = (
        f'host=false; [ "$SLURM_NODEID" = 0 ] && host=true; exec {shlex.join(torchrun)} '
        '--rdzv-id "$SLURM_JOB_ID.${SLURM_RESTART_COUNT:-0}" --rdzv-endpoint "$head:$port" '
        '--rdzv-conf "is_host=$host,join_timeout=600" '
        f"-m scalelab.jobs.worker {shlex.quote(str(run_dir))}"
    )
    body = [
        'head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)',
        'addr=$(scontrol -o show node "$head" | sed -n "s/.*NodeAddr=\\([^ ]*\\).*/\\1/p")',
        'export head="${addr:-$head}"',
        f"export port=$(({FIRST_PORT} + SLURM_JOB_ID % {PORTS}))",
        f"base={shlex.quote(str(base))}.$SLURM_JOB_ID.${{SLURM_RESTART_COUNT:-0}}",
        'export SCALELAB_REPORT="$base" SCALELAB_STOP="$base.stop"',
        f"srun --nodes={nodes} --ntasks={nodes} --ntasks-per-node=1 --cpus-per-task={cpus} --cpu-bind=none "
        f"--kill-on-bad-exit=1 bash -c {shlex.quote(on_node)} &",
        "child=$!",
        "trap 'touch \"$base.stop\"' USR1 TERM",
        "while kill -0 $child 2>/dev/null; do wait $child; done",
        "wait $child; code=$?",
        'echo "$code" > "$base.exit.partial" && mv "$base.exit.partial" "$base.exit"',
        "exit $code",
    ]
    options = {"nodes": nodes, "ntasks": nodes, "ntasks-per-node": 1, "cpus-per-task": cpus}
    if settings.gpus:
        options["gres"] = f"gpu:{settings.gpus * per_node}"
    return _batch_job(settings, name, base.with_name(f"{base.name}.%j.log"), options, body)


def _batch_job(
    settings: SlurmSettings, name: str, log: Path, options: Mapping[str, object], body: Sequence[str]
) -> BatchJob:
    given = {
        "job-name": name,
        "output": str(log.parent).replace("%", "%%") + f"/{log.name}",
        "open-mode": "append",
        "partition": settings.partition,
        "account": settings.account,
        "qos": settings.qos,
        "time": settings.minutes,
        "mem": settings.memory,
        "signal": f"B:USR1@{settings.save_s}",
        **options,
    }
    modules = [f"module load {shlex.join(settings.modules)}"] if settings.modules else []
    return BatchJob(
        (
            *(f"--{key}={value}" for key, value in given.items() if value is not None),
            "--requeue",
            *settings.flags,
        ),
        "\n".join(["#!/bin/bash", *modules, *settings.setup, *body, ""]),
    )


def _python(settings: SlurmSettings, module: str, *arguments: str) -> list[str]:
    container = shlex.split(settings.container) if settings.container else []
    return [*container, settings.python or sys.executable, "-m", module, *arguments]
