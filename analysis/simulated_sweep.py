"""A sweep of three jobs on simulated machines, with a scheduler, drivers and a person, and what goes wrong.

    World       the sweep of one seed: machines, jobs, training, faults, the person who starts drivers
    Scheduler   what a driver sees of the cluster's scheduler: the executor of one driver

Production code runs unchanged: the driver, leases, run directories, sealed files. Simulated are the clock and
the file server (simulated.py), the scheduler and the training.

Units: seconds of virtual time. Not here: what counts as a problem (judge_faults.py), campaigns (faults.py).
"""

import json
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from simulated import Host, Process
from simulated_kernel import Kernel
from simulated_server import Server

from scalelab import leases
from scalelab.errors import ScalelabError
from scalelab.files import whole
from scalelab.jobs import driver
from scalelab.jobs.base import AvailableDevices, Capabilities, Job, JobOutcome, State
from scalelab.jobs.limits import Limits
from scalelab.leases import LeaseTaken, hold
from scalelab.system import clock, system
from scalelab.train.run_directory import RunDir

KINDS = (
    "clock_skew",  # clocks are off by up to ten minutes, the server's too
    "lost_renewals",  # heartbeats do not arrive for longer than the lease lasts
    "late_write",  # a request reaches the server minutes later, even if its process is gone
    "two_drivers",  # a second driver on another login node
    "stale_reads",  # names and times are seen up to a minute late
    "paused",  # a process sleeps for longer than its lease lasts, anywhere, and wakes
    "killed",  # signal 9 before or after any operation
    "full_disk",  # nothing can be written for minutes
    "submitted_twice",  # the scheduler starts a job on two nodes
    "lost_exit_record",  # the scheduler forgets how a job ended, or that it runs
    "reordered_listing",  # names of a directory in any order
    "partial_write",  # killed in the middle of a write
    "driver_restart",  # the driver is killed anywhere and started elsewhere
    "node_cut_off",  # a node is given up by the scheduler, its process goes on and finishes late
    "lost_reply",  # an operation has its effect, and an error is reported
    "requeue_storm",  # the scheduler asks jobs to stop again and again
)
ROOT = Path("/simulated/sweep")
N_STEPS = 6
FAULTS_END_S, LIMIT_S = 1800.0, 6 * 3600.0
AT_OPERATION = {
    "paused": ("pause",),
    "killed": ("kill", "kill_after"),
    "partial_write": ("tear",),
    "late_write": ("late",),
    "lost_reply": ("lost_reply",),
}


def advanced(state: int, step: int) -> int:
    """The state of a training after one more step, a function of all before it."""
    return zlib.crc32(f"{state} {step}".encode())


def loss_of(job: str) -> int:
    """What an undisturbed run of a job comes to."""
    state = zlib.crc32(job.encode())
    for step in range(1, N_STEPS + 1):
        state = advanced(state, step)
    return state


class Quiet:
    """A view that shows nothing."""

    def added(self, jobs: Sequence[Job]) -> None: ...
    def started(self, job: Job) -> None: ...
    def waits(self, job: Job, in_queue: bool) -> None: ...
    def elsewhere(self, job: Job) -> None: ...
    def ended(self, ended: JobOutcome, again: bool) -> None: ...
    def tick(self) -> None: ...


@dataclass
class Placed:
    """A job as the scheduler knows it."""

    job: Job
    process: Process | None = None
    starts: float = 0.0
    report: JobOutcome | None = None
    is_forgotten: bool = False


@dataclass
class World:
    """A sweep on simulated machines, and what goes wrong with them."""

    seed: int
    kinds: frozenset[str] = frozenset()
    """Kinds of fault; empty: drawn."""
    kernel: Kernel = field(init=False)
    server: Server = field(init=False)
    nodes: list[Host] = field(init=False)
    logins: list[Host] = field(init=False)
    jobs: list[Job] = field(init=False)
    placed: list[Placed] = field(default_factory=list)
    drivers: list[Process] = field(default_factory=list)
    processes: list[Process] = field(default_factory=list)
    began: list[tuple[str, int]] = field(default_factory=list)
    """Job and attempt of each try that came to a step."""
    happened: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    """What went wrong in a process; judge_faults.py finds what the files show."""

    def __post_init__(self) -> None:
        self.kernel = Kernel(self.seed)
        draw = self.draw = self.kernel.random
        self.server = Server(self.kernel)
        self.nodes = [Host(f"node{i}") for i in range(3)]
        self.logins = [Host(f"login{i}") for i in range(2)]
        dirs = {name: RunDir(ROOT / name) for name in "abc"}
        self.jobs = [Job(name, dirs[name], "run", needs=("a",) if name == "c" else ()) for name in dirs]
        own = KINDS[self.seed % len(KINDS)]
        others = [kind for kind in KINDS if kind != own]
        self.kinds = self.kinds or frozenset({own, *draw.sample(others, draw.randint(0, 3))})
        if "clock_skew" in self.kinds:
            for host in (*self.nodes, *self.logins):
                host.skew_s = draw.uniform(-600, 600)
            self.server.skew_s = draw.uniform(-600, 600)
            self.happened["clock_skew"] += 1
        if "stale_reads" in self.kinds:
            for host in (*self.nodes, *self.logins):
                host.stale_s = draw.choice((5.0, 20.0, 60.0))
            self.happened["stale_reads"] += 1
        if "reordered_listing" in self.kinds:
            for host in (*self.nodes, *self.logins):
                host.reorders = True
            self.happened["reordered_listing"] += 1
        if "full_disk" in self.kinds:
            begin = draw.uniform(0, 120)
            self.server.full.append((begin, begin + draw.uniform(5, 300)))
            self.happened["full_disk"] += 1
        if "node_cut_off" in self.kinds:
            self.kernel.at(draw.uniform(5, 90), self._cut_off)
        if "requeue_storm" in self.kinds:
            for i in range(draw.randint(2, 8)):
                self.kernel.at(10 + i * draw.uniform(5, 25), self._requeue)

    # What goes wrong at some time

    def _cut_off(self) -> None:
        node = self.draw.choice(self.nodes)
        self.happened["node_cut_off"] += 1
        if self.draw.random() < 0.6:
            node.offline.append((self.kernel.now, self.kernel.now + self.draw.uniform(10, 400)))
        for placed in self.placed:
            if placed.process is not None and placed.process.host is node and placed.report is None:
                placed.is_forgotten = True

    def _paused(self, process: Process) -> None:
        """A process that is silent is often taken for dead."""
        if self.draw.random() < 0.7:
            for placed in self.placed:
                placed.is_forgotten |= placed.process is process

    def _requeue(self) -> None:
        self.happened["requeue_storm"] += 1
        for placed in self.placed:
            if placed.process is not None:
                placed.process.asked_to_stop = True

    def process(self, host: Host, name: str, operations: int) -> Process:
        """A new process, with what is going to happen to it."""
        draw = self.draw
        process = Process(self.kernel, self.server, host, name)
        process.on_pause = self._paused
        self.processes.append(process)
        if self.kernel.now > FAULTS_END_S:
            return process
        for kind in sorted(self.kinds & AT_OPERATION.keys()):
            for _ in range(draw.choice((0, 1, 1, 2))):
                what = draw.choice(AT_OPERATION[kind])
                where, n = (process.final_faults, 16) if draw.random() < 0.3 else (process.faults, operations)
                where[draw.randint(1, n)] = (what, draw.uniform(20, 300))
        if "lost_renewals" in self.kinds and draw.random() < 0.7:
            first = draw.randint(1, 4)
            process.lost_renewals = (first, first + draw.randint(2, 20), draw.random() < 0.5)
        return process

    # Training

    def work(self, placed: Placed) -> None:
        """The body of a job's process, as launch.training and train.loop do it."""
        process, job = placed.process, placed.job
        assert process is not None
        try:
            with job.dir.claimed() as (ours, lease):
                outcome = "done" if ours.is_done else self._train(job, ours, lease, process)
        except LeaseTaken as error:
            placed.report = JobOutcome(job, "elsewhere", error.problem)
        except ScalelabError as error:
            placed.report = JobOutcome(job, "refused", error.problem, error.where, error.fix)
        else:
            placed.report = JobOutcome(job, outcome)
        process.kill()

    def _train(self, job: Job, ours: RunDir, lease: leases.Lease, process: Process) -> str:
        attempt, step, state = lease.held.attempt, *_newest(ours, job.id)
        ours.append("start", attempt=attempt)
        is_first = True
        while step < N_STEPS:
            if process.asked_to_stop:
                _save(ours, step, state)
                return "interrupted"
            clock.sleep(self.draw.uniform(5, 40))
            if is_first:
                self.began.append((job.id, attempt))
                is_first = False
            step += 1
            state = advanced(state, step)
            ours.append("step", step=step, loss=float(state))
            if step % 2 == 0:
                _save(ours, step, state)
        ours.guard()
        ours.publish(ours.result_path, json.dumps({"loss": state, "attempt": attempt}))
        return "done"

    # The scheduler

    def launch(self, job: Job) -> Placed:
        """Place a job on a node, after some time in the queue."""
        placed = Placed(job, starts=self.kernel.now + self.draw.choice((0.0, 0.0, 3.0, 30.0)))
        self.placed.append(placed)
        self.kernel.at(placed.starts, lambda: self._start(placed))
        return placed

    def _start(self, placed: Placed) -> None:
        if placed.is_forgotten:
            return
        placed.process = self.process(self.draw.choice(self.nodes), placed.job.id, 120)
        self.kernel.start(placed.process, lambda: self.work(placed))

    # Drivers and the person who starts them

    def drive(self, login: Host) -> None:
        """Start a driver on a login node."""
        process = self.process(login, "driver", 400)
        if "driver_restart" in self.kinds and self.kernel.now < FAULTS_END_S and self.draw.random() < 0.8:
            kind = self.draw.choice(("kill", "kill_after"))
            process.faults[self.draw.randint(1, 200)] = (kind, 0.0)
        self.drivers.append(process)

        def body() -> None:
            try:
                with hold(ROOT / "lock", "the sweep is being run", "wait"):
                    limits = Limits(retries=2, heartbeat_timeout_s=600.0)
                    outcomes = driver.drive(driver.JobList(self.jobs), Scheduler(self), Quiet(), limits)
                for ended in outcomes.of("error"):
                    self.problems.append(f"lost: {ended.job.id} ended as our own bug: {ended.reason}")
            except ScalelabError:
                pass  # another driver runs the sweep, or a person has to fix something: it is run again
            finally:
                process.kill()

        self.kernel.start(process, body)

    def is_done(self) -> bool:
        """True if every job has its result on the server."""
        return all(self.server.state(job.dir.result_path) is not None for job in self.jobs)

    def run(self) -> "World":
        """Run until every job is done and zombies have woken up."""
        person = Process(self.kernel, self.server, Host("desk"), "person")

        def supervise() -> None:
            self.drive(self.logins[0])
            if "two_drivers" in self.kinds:
                self.happened["two_drivers"] += 1
                clock.sleep(self.draw.choice((0.0, 0.0, 30.0, 90.0)))
                self.drive(self.logins[1])
            while not self.is_done() and self.kernel.now < LIMIT_S:
                clock.sleep(self.draw.uniform(5, 60))
                if all(process.is_dead for process in self.drivers) and not self.is_done():
                    self.drive(self.draw.choice(self.logins))
            clock.sleep(FAULTS_END_S)  # zombies wake up and write
            for process in self.processes:
                process.kill()
            person.kill()

        self.kernel.start(person, supervise)
        self.kernel.run()
        for process in self.processes:
            self.happened.update(process.happened)
        self.problems += [f"bug: {error!r}" for error in self.kernel.errors]
        return self


def _newest(ours: RunDir, job: str) -> tuple[int, int]:
    """The newest checkpoint that holds: step and state."""
    try:
        names = system().listdir(ours.checkpoints)
    except FileNotFoundError:
        names = []
    for name in sorted((n for n in names if n.startswith("step-")), reverse=True):
        try:
            with system().open_read(ours.checkpoints / name) as file:
                found = json.loads(file.read())
            return found["step"], found["state"]
        except (OSError, ValueError):
            continue
    return 0, zlib.crc32(job.encode())


def _save(ours: RunDir, step: int, state: int) -> None:
    with whole(ours.checkpoints / f"step-{step:08d}", "w") as file:
        file.write(json.dumps({"step": step, "state": state}))
        ours.guard()
    ours.append("checkpoint", step=step)


class Scheduler:
    """The executor of one driver, over the scheduler of the world."""

    capabilities = Capabilities(gangs=False, timing=False)
    devices = AvailableDevices(2, "simulated", 2)

    def __init__(self, world: World):
        self.world = world
        self.known: dict[str, Placed] = {}

    def call(self, function: str, *arguments: object, limit_s: float | None = None) -> None:
        """Nothing can be timed here."""

    def check(self, job: Job) -> None:
        """Every job can run."""

    def has_room(self, job: Job) -> bool:
        return len(self.known) < 2

    def submit(self, job: Job) -> None:
        clock.sleep(0.1)
        self.known[job.id] = self.world.launch(job)
        clock.sleep(0.1)
        if self._strikes("submitted_twice", 0.6):
            self.world.launch(job)

    def _strikes(self, kind: str, probability: float) -> bool:
        world = self.world
        is_now = kind in world.kinds and world.kernel.now < FAULTS_END_S and world.draw.random() < probability
        world.happened[kind] += is_now
        return is_now

    def poll(self) -> dict[str, State]:
        clock.sleep(0.05)
        states: dict[str, State] = {}
        for name, placed in list(self.known.items()):
            states[name] = self._state(placed)
            if isinstance(states[name], JobOutcome):
                del self.known[name]
        return states

    def _state(self, placed: Placed) -> State:
        gone = JobOutcome(placed.job, "killed", "its exit status is unknown")
        if not placed.is_forgotten and self._strikes("lost_exit_record", 0.02):
            placed.is_forgotten = True
        if placed.is_forgotten:
            return gone
        if placed.report is not None:
            return placed.report
        if placed.process is None:
            return "queued"
        if placed.process.is_dead:
            return JobOutcome(placed.job, "killed", "signal 9")
        return "unknown" if self.world.draw.random() < 0.02 else "running"

    def cancel(self, ids: object, *, now: bool) -> None:
        for name in ids:
            placed = self.known.get(name)
            if placed is not None and placed.process is not None:
                placed.process.asked_to_stop = True
                if now:
                    placed.process.kill()

    def find(self, jobs: Sequence[Job]) -> tuple[str, ...]:
        clock.sleep(0.05)
        for placed in self.world.placed:
            is_running = placed.report is None and (placed.process is None or not placed.process.is_dead)
            if is_running and not placed.is_forgotten and placed.job in jobs:
                self.known[placed.job.id] = placed
        return tuple(self.known)

    def close(self) -> None:
        """Nothing is held."""
