"""Jobs on a cluster of Ray, one task each: for labs whose GPUs stand behind Ray or KubeRay.

    job -> ray task (max_retries=0) -> scalelab.jobs.worker.run_here in a worker process of Ray

Ray places tasks and starts processes; retries, order and records are the driver's. A worker process without
a GPU is used for many jobs, so torch is imported once; one with a GPU ends with its job (Ray's own rule),
which frees the GPU's memory. `gpus: 0.5` runs two jobs on each GPU, each within half of its memory.

Tasks end with the command that submitted them: Ray ends the processes of a driver that is gone. A node that
is cut off from the cluster may finish its task late; the leases of the jobs' directories make that harmless.
Ray may never report the end of such a task, so a task that the driver has given up is forgotten after
GIVEN_UP_S seconds.

Source: Ray's documentation, "Task fault tolerance" and "Token authentication".
Not here: jobs of several processes (executor: slurm, or torchrun).
"""

import hashlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import chdir
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from scalelab.config import Count, Positive
from scalelab.errors import LaunchError
from scalelab.hardware.openmp import spin_briefly
from scalelab.hardware.sharing import MEMORY_FRACTION
from scalelab.jobs.base import (
    AvailableDevices,
    Capabilities,
    ExecutorConfig,
    Job,
    JobOutcome,
    ProcessReport,
    State,
)
from scalelab.jobs.executors.process_group import refuse_gang
from scalelab.jobs.record import path_of, write_record
from scalelab.leases import holder
from scalelab.train.run_directory import LEASE

GIVEN_UP_S = 30.0
"""Seconds after which a task that was to be killed counts as killed, whether Ray says so or not."""
ANSWER_S = 5.0
"""Seconds in which the port of a cluster has to accept a connection."""
ASK = (
    "import sys, ray; ray.init(sys.argv[1], log_to_driver=False, logging_level='error', namespace='scalelab')"
)
"""Program that connects to a cluster and ends."""
VISIBLE = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES")
"""Environment variables that say which GPUs a process sees."""
TOKEN_MODE, TOKEN_PATH = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH"


class RayConfig(ExecutorConfig):
    """Tasks of a Ray cluster."""

    kind: Literal["ray"] = "ray"
    address: str | None = None
    """Address of a cluster: host:port of its head, or auto for the one that this machine belongs to. None:
    start a cluster of this machine alone. Example: head.lab:6379."""
    gpus: float = Field(0.0, ge=0.0)
    """GPUs of each job; below 1 several jobs share a GPU. Jobs that compute on the CPU alone, such as the shards of
    a curation, reserve none. Example: 0.5."""
    cpus: Count = 1
    """CPU cores of each job, and without a GPU its threads."""
    slots: Count | None = None
    """Jobs that are submitted at a time. None: as many as the cluster's resources hold. Set it for a cluster
    that adds nodes on demand. Example: 64."""
    token_file: str | None = None
    """File with the cluster's authentication token. None: as Ray finds it (RAY_AUTH_TOKEN, or
    ~/.ray/auth_token)."""
    connect_s: Positive = 60.0
    """Longest time to connect to the cluster, seconds."""
    poll_s: Positive = 1.0
    """Seconds between two looks at the tasks."""

    def start(self, preload: Sequence[str] = (), home: Path | None = None) -> "RayExecutor":
        """Return the executor, connected.

        Raises:
            LaunchError: Ray is not installed, the cluster does not answer, or no node can run a job.
        """
        del home
        return RayExecutor(self, preload)


@dataclass
class _Submitted:
    """A task that has not ended."""

    job: Job
    task: Any
    """Reference to its result."""
    has_begun: bool = False
    killed_at: float | None = None


class RayExecutor:
    """Submits tasks, and reads how they ended."""

    def __init__(self, config: RayConfig, preload: Sequence[str] = ()):
        self.config, self._preload = config, tuple(preload)
        self.capabilities = Capabilities(gangs=False, timing=False, poll_s=config.poll_s)
        self._submitted: dict[str, _Submitted] = {}
        self._ray = _connect(config)
        self._counted, self._room, self._cpu_room = float("-inf"), 0, 0
        self._run = self._ray.remote(num_cpus=config.cpus, num_gpus=config.gpus, max_retries=0)(run_job)
        if config.slots is None:
            self._refuse_too_small()

    def _refuse_too_small(self) -> None:
        config, nodes = self.config, [n["Resources"] for n in self._ray.nodes() if n["Alive"]]
        fits = [n for n in nodes if n.get("CPU", 0) >= config.cpus and n.get("GPU", 0) >= config.gpus]
        if fits:
            return
        most = [max((n.get(kind, 0) for n in nodes), default=0) for kind in ("CPU", "GPU")]
        self.close()
        raise LaunchError(
            f"each job asks for {config.cpus} CPU cores and {config.gpus:g} GPUs; the largest of {len(nodes)} "
            f"nodes has {most[0]:g} cores, and at most {most[1]:g} GPUs",
            where=f"Ray cluster {config.address or 'of this machine'}",
            fix="ask for less (executor.cpus, executor.gpus), or set executor.slots if the cluster adds nodes",
        )

    def _slots(self, *, cpu_only: bool) -> int:
        """Jobs that the cluster holds at a time; counted anew every few polls, since nodes come and go."""
        if self.config.slots is not None:
            return self.config.slots
        if time.monotonic() - self._counted >= 5 * self.config.poll_s:
            self._counted = time.monotonic()
            there = self._ray.cluster_resources()
            self._room = self._cpu_room = int(there.get("CPU", 0) // self.config.cpus)
            if self.config.gpus:
                self._room = min(self._room, int(there.get("GPU", 0) / self.config.gpus + 1e-6))
        return self._cpu_room if cpu_only else self._room

    @property
    def devices(self) -> AvailableDevices:
        """Jobs that may run at a time."""
        n, on_cpu = (max(1, self._slots(cpu_only=which)) for which in (False, True))
        kind = f"{self.config.gpus:g} GPU" if self.config.gpus else f"{self.config.cpus} CPU"
        name = f"task of {kind} in a Ray cluster"
        return AvailableDevices(n, name, n, is_gpu=self.config.gpus > 0, n_cpu_jobs=on_cpu)

    def call(self, function: str, *arguments: Any, limit_s: float | None = None) -> None:
        """None: no device is idle here."""
        del function, arguments, limit_s

    def check(self, job: Job) -> None:
        """Refuse a job of several processes."""
        refuse_gang(job, "ray")

    def has_room(self, job: Job) -> bool:
        """True while the cluster holds more jobs than were submitted."""
        return len(self._submitted) < self._slots(cpu_only=job.resources.cpu_only)

    def submit(self, job: Job) -> None:
        """Submit a task, without a GPU if the job computes on the CPU alone."""
        gpus = 0 if job.resources.cpu_only else self.config.gpus
        threads = job.resources.threads or (None if gpus else self.config.cpus)
        write_record(job, threads)
        share = {MEMORY_FRACTION: f"{gpus:.4f}"} if 0 < gpus < 1 else {}
        if not gpus:
            share = dict.fromkeys(VISIBLE, "")
        place = path_of(job.dir)
        digest = hashlib.sha256(place.read_bytes()).hexdigest()
        path = os.path.abspath(job.dir.path)
        run = self._run.options(num_gpus=gpus)
        task = run.remote(path, digest, threads, share, self._preload, os.getcwd())
        self._submitted[job.id] = _Submitted(job, task)

    def poll(self) -> dict[str, State]:
        """Return the state of each job: from Ray whether it has ended, from its lease whether it has begun."""
        if not self._submitted:
            return {}
        tasks = [each.task for each in self._submitted.values()]
        ended, _ = self._ray.wait(tasks, num_returns=len(tasks), timeout=0, fetch_local=False)
        over, states = set(ended), dict[str, State]()
        for name, each in list(self._submitted.items()):
            states[name] = self._outcome(each) if each.task in over else self._state(each)
            if isinstance(states[name], JobOutcome):
                del self._submitted[name]
        return states

    def _state(self, each: _Submitted) -> State:
        if each.killed_at is not None and time.monotonic() - each.killed_at > GIVEN_UP_S:
            return JobOutcome(each.job, "killed", "its node does not answer")
        each.has_begun = each.has_begun or holder(each.job.dir.path, LEASE) is not None
        return "running" if each.has_begun else "queued"

    def _outcome(self, each: _Submitted) -> JobOutcome:
        from ray import exceptions

        job = each.job
        try:
            report = ProcessReport(**self._ray.get(each.task, timeout=self.config.connect_s))
            return JobOutcome(job, report.outcome, report.reason, report.where, report.fix)
        except exceptions.TaskCancelledError:
            return JobOutcome(job, "killed" if each.killed_at is not None else "interrupted")
        except exceptions.OutOfMemoryError as error:
            return JobOutcome(job, "out_of_memory", _first_line(error))
        except exceptions.RayTaskError as error:
            return JobOutcome(
                job,
                "refused",
                f"its process could not start: {_first_line(error.cause or error)}",
                f"a node of the Ray cluster {self.config.address or 'of this machine'}",
                "install this version of scalelab, with the same Python, on every node",
            )
        except exceptions.RayError as error:
            return JobOutcome(job, "killed", f"Ray: {_first_line(error)}")

    def cancel(self, ids: Iterable[str], *, now: bool) -> None:
        """Interrupt tasks, which save and stop; or kill their processes."""
        for name in ids:
            each = self._submitted.get(name)
            if each is None:
                continue
            if now and each.killed_at is None:
                each.killed_at = time.monotonic()
            self._ray.cancel(each.task, force=now, recursive=False)

    def find(self, jobs: Sequence[Job]) -> tuple[str, ...]:
        """None: Ray ends the tasks of a command that is gone."""
        del jobs
        return ()

    def close(self) -> None:
        """Kill what is left and leave the cluster; one that was started here ends."""
        self.cancel(list(self._submitted), now=True)
        self._submitted = {}
        self._ray.shutdown()


def run_job(
    path: str,
    digest: str,
    threads: int | None,
    environ: dict[str, str],
    preload: tuple[str, ...],
    directory: str = "",
) -> dict[str, Any]:
    """Run a job in this worker process of Ray, and return its ProcessReport as JSON types.

    Args:
        path: The job's directory.
        digest: SHA-256 of its job.json, which shows whether this node sees the same directory.
        threads: CPU threads; None keeps the library's default.
        environ: The job's share of its GPU as environment variables, or those that show it no GPU: Ray lets a task
            that asked for none see all of its node.
        preload: Modules that the job needs.
        directory: Working directory of the command, at which relative paths of a job start. A node without it
            runs the job where it is.
    """
    from importlib import import_module

    record = Path(path) / "job.json"
    try:
        is_same = hashlib.sha256(record.read_bytes()).hexdigest() == digest
        problem = "is another one"
    except FileNotFoundError:
        is_same, problem = False, "does not exist"
    except OSError as error:
        is_same, problem = False, f"cannot be read ({error.strerror})"
    if not is_same:
        return asdict(
            ProcessReport(
                "refused",
                f"the directory of the job {problem} on the node {socket.gethostname()}",
                path,
                "put it on a file system that all nodes share: SCALELAB_RUNS is the directory of all runs, "
                "SCALELAB_CACHE that of curations",
            )
        )
    os.environ.update(
        {name: environ[name] for name in VISIBLE if name in environ}
    )  # Ray sets it where it gives GPUs
    spin_briefly()
    from scalelab.jobs.worker import run_here  # torch

    for module in preload:
        import_module(module)
    asked = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in asked}
    # Ray interrupts a task that is cancelled, and a node that is stopped terminates its workers.
    signal.signal(signal.SIGINT, lambda *_: signal.raise_signal(signal.SIGTERM))
    try:
        with chdir(directory if os.path.isdir(directory) else os.getcwd()):
            return asdict(run_here(path, threads, environ))
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _connect(config: RayConfig) -> Any:
    """Return the module ray, connected to the cluster. Raises LaunchError."""
    where = f"executor.address: {config.address}"
    if config.token_file is not None:
        if not Path(config.token_file).is_file():
            raise LaunchError(
                f"there is no token in {config.token_file}",
                where="executor.token_file",
                fix="copy the token of the cluster's head there: `ray get-auth-token` on the head shows it",
            )
        os.environ |= {TOKEN_MODE: "token", TOKEN_PATH: os.path.abspath(config.token_file)}
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # its default, stated against a warning
    try:
        import ray
    except ImportError:
        raise LaunchError(
            "the executor 'ray' needs Ray, which is not installed",
            where="executor: ray",
            fix="pip install 'scalelab[ray]'",
        ) from None
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "error", "namespace": "scalelab"}
    if config.address is None:
        ray.init(include_dashboard=False, **quiet)
        return ray
    _refuse_silence(config, where)
    try:
        ray.init(config.address, **quiet)
    except Exception as error:
        raise LaunchError(
            f"the Ray cluster cannot be used: {_first_line(error)}",
            where=where,
            fix="use the same versions of Python and Ray as the cluster, and its token (executor.token_file)",
        ) from error
    return ray


def _refuse_silence(config: RayConfig, where: str) -> None:
    """Refuse an address that does not answer, within a bounded time: ray.init itself may wait for minutes."""
    assert config.address is not None
    host, _, port = config.address.rpartition(":")
    if config.address != "auto":
        if not host or not port.isdecimal() or "/" in host:
            raise LaunchError(
                f"the address of the Ray cluster is {config.address!r}, not host:port or auto",
                where=where,
                fix="use the address that `ray start --head` printed, such as head.lab:6379",
            )
        try:
            socket.create_connection((host, int(port)), timeout=min(ANSWER_S, config.connect_s)).close()
        except (OSError, OverflowError) as error:
            raise LaunchError(
                f"no Ray cluster answers at {config.address}: {error}",
                where=where,
                fix="start it (`ray start --head` on the head), or correct the address; a firewall may be in "
                "the way",
            ) from None
    command = [sys.executable, "-c", ASK, config.address]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=config.connect_s, check=False)
    except subprocess.TimeoutExpired:
        raise LaunchError(
            f"the Ray cluster at {config.address} did not answer within {config.connect_s:g} s",
            where=where,
            fix="see whether `ray status` answers on its head, or raise executor.connect_s",
        ) from None
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise LaunchError(
            f"the Ray cluster at {config.address} refuses: {(lines or ['no reason'])[-1].strip()}",
            where=where,
            fix="use the same versions of Python and Ray as the cluster, and its token (executor.token_file)",
        )


def _first_line(error: BaseException) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
