"""A cluster of Slurm on this machine: munged, slurmctld and two slurmd, all in one directory.

The daemons are Debian's (apt-get install slurmctld slurmd munge slurm-client), started as root without systemd,
each node with CPUs that need not exist. Where they are missing and can be installed, they are; a machine that
cannot install them has no such cluster, and `unavailable` says why.

    slurmctld   port + 0        state in spool/ctld
    slurmd      n1: port + 1, n2: port + 2 ...; each in a process group of its own, with its steps
"""

import fcntl
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path

PACKAGES = ("slurmctld", "slurmd", "munge", "slurm-client")
DAEMONS = ("munged", "slurmctld", "slurmd", "sbatch")
PATIENCE_S = 120.0
CONF = """
ClusterName=test
FirstJobId={first_job}
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={home}/run/munge.socket
CryptoType=crypto/munge
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=0
ReturnToService=2
SlurmctldTimeout=10
SlurmdTimeout=15
KillWait=10
MinJobAge={min_job_age}
StateSaveLocation={home}/spool/ctld
SlurmdSpoolDir={home}/spool/%n
SlurmctldPidFile={home}/run/slurmctld.pid
SlurmdPidFile={home}/run/%n.pid
SlurmctldLogFile={home}/log/slurmctld.log
SlurmdLogFile={home}/log/%n.log
SlurmdParameters=config_overrides
JobRequeue=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName={nodes} NodeHostname={host} NodeAddr=127.0.0.1 Port={ports} CPUs=16 RealMemory=8000 State=UNKNOWN
PartitionName=main Nodes={nodes} Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=60
PartitionName=high Nodes={nodes} MaxTime=INFINITE State=UP PriorityTier=10
"""


def unavailable() -> str | None:
    """Return why there can be no cluster here; None where there can be. Installs the packages if it may."""
    missing = [name for name in DAEMONS if _program(name) is None]
    if not missing:
        return None if os.geteuid() == 0 else "its daemons need root"
    if os.geteuid() != 0:
        return f"{missing[0]} is not installed, and only root can install it"
    if shutil.which("apt-get") is None:
        return f"{missing[0]} is not installed, and there is no apt-get to install it"
    environ = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    with open(Path(tempfile.gettempdir()) / "scalelab-slurm.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several processes of pytest may come here at once
        for command in (["update", "-qq"], ["install", "-y", "-qq", "--no-install-recommends", *PACKAGES]):
            line = ["apt-get", *command]
            done = subprocess.run(line, env=environ, capture_output=True, text=True, timeout=600)
    if done.returncode != 0:
        return f"its packages cannot be installed: {(done.stderr.strip().splitlines() or ['?'])[-1]}"
    return None


def _program(name: str) -> str | None:
    return shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")


def _free_ports(n: int) -> int:
    """The first of n free ports in a row."""
    for first in range(17000 + os.getpid() % 2000, 20000, 10):
        with suppress(OSError):
            sockets = [socket.create_server(("127.0.0.1", first + i)) for i in range(n)]
            for each in sockets:
                each.close()
            return first
    raise OSError("no free ports")


class SlurmCluster:
    """A running cluster.

    Args:
        home: Empty directory of its own.
        min_job_age: Seconds for which ended jobs are listed.
        n_nodes: Number of nodes.
    """

    def __init__(self, home: Path, min_job_age: int = 300, n_nodes: int = 2):
        self.home, self.names = home, [f"n{i + 1}" for i in range(n_nodes)]
        for part in ("run", "log", "spool/ctld", *(f"spool/{name}" for name in self.names)):
            (home / part).mkdir(parents=True)
        port = _free_ports(1 + n_nodes)
        self.conf = home / "slurm.conf"
        self.conf.write_text(
            CONF.format(
                home=home,
                host=socket.gethostname().split(".")[0],
                port=port,
                first_job=1 + os.getpid() % 1000 * 19,  # gangs of two clusters use other ports
                nodes=f"n[1-{n_nodes}]",
                ports=f"[{port + 1}-{port + n_nodes}]",
                min_job_age=min_job_age,
            )
        )
        key = home / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        self.environ = os.environ | {"SLURM_CONF": str(self.conf)}
        self._munged = self._daemon(
            *("munged", "--foreground", "--force", f"--key-file={key}", f"--socket={home}/run/munge.socket"),
            *(f"--pid-file={home}/run/munged.pid", f"--log-file={home}/log/munged.log"),
            f"--seed-file={home}/run/munged.seed",
        )
        _until(lambda: (home / "run" / "munge.socket").exists(), "munged")
        self.ctld: subprocess.Popen | None = None
        self.nodes: dict[str, subprocess.Popen] = {}
        self.start_ctld()
        for name in self.names:
            self.start_node(name)
        _until(
            lambda: self("sinfo", "-h", "-N", "-p", "main", "-o", "%T").split() == ["idle"] * n_nodes,
            "the nodes",
        )

    def __call__(self, *command: str) -> str:
        """Run one of Slurm's commands and return its output, also where it fails."""
        done = subprocess.run(command, env=self.environ, capture_output=True, text=True, timeout=60)
        return done.stdout

    def start_ctld(self) -> None:
        """Start the controller, from the state that it saved where there is one."""
        self.ctld = self._daemon("slurmctld", "-D", "-i", "-f", str(self.conf))

    def start_node(self, name: str) -> None:
        """Start the daemon of a node.

        Of one that was killed the controller is told before, as by a site's health check: by itself it notices
        after 20 to 100 seconds.
        """
        if name in self.nodes:
            self.report_down(name)
        self.nodes[name] = self._daemon("slurmd", "-D", "-N", name, "-f", str(self.conf))

    def report_down(self, name: str) -> None:
        """Tell the controller that a node is lost, so that its jobs are requeued."""
        self("scontrol", "update", f"NodeName={name}", "State=DOWN", "Reason=lost")

    def cut_off(self, name: str) -> list[int]:
        """Suspend the daemon of a node, its step daemons and the processes of its jobs, and return their ids."""
        pids = [self.nodes[name].pid, *self.daemons(name), *self.tasks(name)]
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
        return pids

    def kill_ctld(self) -> None:
        """Kill -9 of the controller."""
        self.ctld.kill()
        self.ctld.wait()

    def kill_node(self, name: str, *, steps: bool) -> int:
        """Kill -9 of a node's daemon and of its step daemons; `steps` also of the processes of its jobs.

        Returns: The number of processes that were killed beside the daemon.
        """
        victims = self.daemons(name)
        if steps:
            victims += [each for pid in self.tasks(name) for each in (pid, *_descendants(pid))]
        for pid in [self.nodes[name].pid, *victims]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.nodes[name].wait()
        return len(set(victims))

    def tasks(self, name: str) -> list[int]:
        """Process ids of what runs in jobs on a node."""
        mine = {f"SLURM_CONF={self.conf}".encode(), f"SLURMD_NODENAME={name}".encode()}
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if mine <= {*path.joinpath("environ").read_bytes().split(b"\0")}:
                    found.append(int(path.name))
        return found

    def daemons(self, name: str) -> list[int]:
        """Process ids of the step daemons of a node."""
        return [*{_parent(pid) for pid in self.workers(name)}]

    def workers(self, name: str) -> list[int]:
        """Process ids of the first processes of the jobs on a node: workers, scripts."""
        return [pid for pid in self.tasks(name) if _name(_parent(pid)) == "slurmstepd"]

    def rank(self, n: int) -> int | None:
        """Process id of a rank of a gang; None where none runs."""
        for pid in [pid for name in self.names for pid in self.tasks(name)]:
            with suppress(OSError):
                if f"RANK={n}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                    return pid
        return None

    def preempt(self) -> None:
        """Submit a job of higher priority that needs all nodes as a whole, for a moment."""
        size = (f"--nodes={len(self.names)}", "--ntasks-per-node=16")
        self("sbatch", "--partition=high", *size, "--output=/dev/null", "--wrap=true")

    def close(self) -> None:
        """Cancel all jobs and end the daemons."""
        self("scancel", "--user=root")
        with suppress(AssertionError):
            _until(lambda: not self("squeue", "-h"), "the last jobs", 15.0)
        for process in (*self.nodes.values(), self.ctld, self._munged):
            process.terminate()
        for process in (*self.nodes.values(), self.ctld, self._munged):
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _daemon(self, name: str, *arguments: str) -> subprocess.Popen:
        log = open(self.home / "log" / f"{name}.out", "ab")  # noqa: SIM115  (the daemon's, as long as it lives)
        with log:
            return subprocess.Popen(
                [_program(name), *arguments],
                env=self.environ,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, IndexError):
        return 0


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def _descendants(pid: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        if _parent(int(path.name)) == pid:
            found += [int(path.name), *_descendants(int(path.name))]
    return found


def _until(condition, what: str, patience_s: float = PATIENCE_S) -> None:
    deadline = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < deadline, f"{what}: nothing in {patience_s:.0f} s"
        time.sleep(0.05)
