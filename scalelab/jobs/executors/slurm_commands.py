"""Slurm's own commands: submit a script, list our jobs, cancel them, describe one.

    sbatch   submits, and returns the job's number
    squeue   lists all our jobs of a name in one call
    scancel  cancels or signals
    scontrol describes one job: exit status, nodes, reason

Accounting (sacct) is not used: many clusters do not have it. A controller that does not answer is
SlurmUnavailable, which passes; so are a command that was killed and any failure of squeue. What sbatch rejects
is a LaunchError in Slurm's own words.
"""

import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from scalelab.errors import LaunchError

TIMEOUT_S = 60.0
"""Longest time of one command, seconds; a busy controller answers late."""
AWAY = re.compile(
    r"unable to contact slurm controller|socket timed out|connection refused|connection timed out|"
    r"communication (?:connection )?failure|zero bytes were transmitted|temporarily unable|try again later|"
    r"controller.*not responding|slurm backup controller",
    re.IGNORECASE,
)
"""What Slurm's commands write when the controller is down or busy."""
LIVE = frozenset(
    [
        "PENDING",
        "CONFIGURING",
        "RUNNING",
        "COMPLETING",
        "SUSPENDED",
        "REQUEUED",
        "REQUEUE_HOLD",
        "REQUEUE_FED",
        "RESIZING",
        "SIGNALING",
        "STAGE_OUT",
        "STOPPED",
        "SPECIAL_EXIT",
        "RESV_DEL_HOLD",
    ]
)
"""States of jobs that run or will run; all others have ended."""
NODE_LIMIT = "PartitionNodeLimit"
"""Too many nodes for the partition, or, by Slurm's documentation, nodes of it that are down or drained."""
NEVER = frozenset(
    ["PartitionConfig", "PartitionTimeLimit", NODE_LIMIT, "BadConstraints", "InvalidAccount", "InvalidQOS"]
)
"""Reasons for which a job waits until somebody changes it or the cluster. Source: Slurm, job_reason_codes."""
UP = frozenset(["idle", "mixed", "allocated", "completing", "planned", "reserved"])
"""States of nodes that can run jobs, now or when other jobs have ended (sinfo, "NODE STATE CODES")."""
SETTINGS_FIX = (
    "change the settings of the executor (partition, account, qos, minutes, gpus, flags) to what the cluster "
    "allows: sinfo lists partitions, sacctmgr show assoc user=$USER accounts"
)
NEEDED = ("sbatch", "squeue", "scancel", "scontrol")


class SlurmUnavailable(Exception):
    """The controller does not answer at this moment; the next poll asks again."""


@dataclass(frozen=True)
class SlurmTask:
    """One job, or one task of an array, as squeue lists it."""

    id: str
    """JOB, or JOB_TASK."""
    state: str
    name: str
    reason: str = ""

    @property
    def job(self) -> str:
        """Number of the whole job."""
        return self.id.partition("_")[0]

    @property
    def is_live(self) -> bool:
        """Whether it runs, or will."""
        return self.state in LIVE

    @property
    def has_begun(self) -> bool:
        """Whether it has processes now."""
        return self.is_live and self.state not in {"PENDING", "REQUEUED", "REQUEUE_HOLD", "SPECIAL_EXIT"}

    @property
    def never_starts(self) -> bool:
        """Whether it waits for something that no other job's end brings about."""
        return self.state == "PENDING" and self.reason in NEVER

    def waits_after_requeue(self, flags: Sequence[str]) -> bool:
        """True for what Slurm has requeued: it lets that wait for minutes, and a new submission starts at once.

        Args:
            flags: Options of sbatch; with one that delays the start, False.
        """
        has_begin = any(flag.startswith(("--begin", "-b")) for flag in flags)
        return self.state == "PENDING" and self.reason == "BeginTime" and not has_begin


def refuse_missing_commands() -> None:
    """Refuse a machine without Slurm's commands.

    Raises:
        LaunchError: One of them is not there.
    """
    missing = [name for name in NEEDED if shutil.which(name) is None]
    if missing:
        raise LaunchError(
            f"the command {missing[0]} is not here, so nothing can be submitted to Slurm",
            where="the directories of PATH",
            fix="run scalelab on a login node of the cluster, load its Slurm module, or use another executor "
            "(executor: local)",
        )


def refuse_unknown_partition(partition: str | None) -> None:
    """Refuse a partition that the cluster does not have.

    Raises:
        LaunchError: There is no such partition.
    """
    if partition is None:
        return
    try:
        known = {name.rstrip("*") for name in _run(["sinfo", "-h", "-a", "-o", "%P"]).split()}
    except (SlurmUnavailable, LaunchError):
        return  # sbatch will find out
    wrong = [name for name in partition.split(",") if name not in known]
    if known and wrong:
        raise LaunchError(
            f"there is no partition {wrong[0]!r}; Slurm has: {', '.join(sorted(known))}",
            where="executor.partition",
            fix="name one of these, or leave it out for the default one",
        )


def submit(script: str, arguments: Sequence[str] = ()) -> str:
    """Submit a batch script and return the number of its job.

    Raises:
        SlurmUnavailable: The controller does not answer. The job may have been submitted all the same.
        LaunchError: Slurm rejects it; the message has its own words.
    """
    written = _run(["sbatch", "--parsable", *arguments], script)
    number = written.strip().splitlines()[-1].partition(";")[0] if written.strip() else ""
    if not number.isdecimal():
        raise SlurmUnavailable(f"sbatch returned {written!r:.80} in place of a number")
    return number


def tasks_named(names: Sequence[str]) -> list[SlurmTask]:
    """Return our jobs of some names, arrays by task, those that have just ended included.

    Raises:
        SlurmUnavailable: The controller does not answer.
    """
    wanted = ",".join(names)
    form = "%i|%T|%j|%r"
    lines = _run(
        ["squeue", "-h", "-r", "-a", "--me", "-t", "all", f"--name={wanted}", "-o", form]
    ).splitlines()
    parts = [line.split("|", 3) for line in lines if line.count("|") >= 3]
    return [SlurmTask(id, state, name, reason) for id, state, name, reason in parts]


def cancel(ids: Sequence[str], *arguments: str) -> None:
    """Cancel jobs or signal them. Jobs that have ended are no error.

    Raises:
        SlurmUnavailable: The controller does not answer.
    """
    if ids:
        done = _call(["scancel", *arguments, *ids], None)
        if done.returncode != 0 and AWAY.search(done.stderr):
            raise SlurmUnavailable(_first_line(done.stderr))


def all_stuck(tasks: Sequence[SlurmTask]) -> bool:
    """Return whether jobs are there, and by Slurm's answer none of them runs or will ever start."""
    live = [task for task in tasks if task.is_live]
    return bool(live) and all(task.never_starts for task in live)


def withdraw_stuck(tasks: Sequence[SlurmTask]) -> LaunchError | None:
    """Cancel what Slurm accepted and will never start, and return the error about it; None without any.

    Other tasks of the same array go on. What waits for nodes that are down or drained is left to wait.
    """
    stuck = [task for task in tasks if task.never_starts]
    first = next((task for task in stuck if task.reason == NODE_LIMIT), None)
    if first is not None and not _nodes_are_up(first):
        stuck = [task for task in stuck if task.reason != NODE_LIMIT]
    if not stuck:
        return None
    with suppress(SlurmUnavailable):
        cancel(sorted(task.id for task in stuck))
    return LaunchError(
        f"Slurm accepted the job {stuck[0].job} and will not start it: {stuck[0].reason}",
        where=f"squeue --jobs={stuck[0].job}",
        fix=SETTINGS_FIX,
    )


def _nodes_are_up(task: SlurmTask) -> bool:
    """Return whether every node of a job's partition can run jobs; False where Slurm does not say."""
    partition = describe(task.id).get("Partition")
    if not partition:
        return False
    try:
        states = _run(["sinfo", "-h", "-a", "-p", partition, "-o", "%T"]).split()
    except (SlurmUnavailable, LaunchError):
        return False
    # "+" shared, "-" planned, "~#!%" powered down or on the way: nodes that run jobs; "*$@^" do not.
    return bool(states) and all(state.rstrip("+-~#!%") in UP for state in states)


def describe(id: str) -> Mapping[str, str]:
    """Return what Slurm knows of a job: ExitCode, NodeList, Reason and others; empty if it has forgotten it."""
    try:
        line = _run(["scontrol", "-o", "show", "job", id])
    except (SlurmUnavailable, LaunchError):
        return {}
    return dict(re.findall(r"(\w+)=(\S*)", line))


def _run(command: Sequence[str], given: str | None = None) -> str:
    done = _call(command, given)
    if done.returncode == 0:
        return done.stdout
    if AWAY.search(done.stderr) or done.returncode < 0 or command[0] == "squeue":
        raise SlurmUnavailable(_first_line(done.stderr) or f"exit status {done.returncode}")
    raise LaunchError(
        f"{command[0]} refuses: {_first_line(done.stderr) or f'exit status {done.returncode}'}",
        where=" ".join(command[:6]),
        fix=SETTINGS_FIX,
    )


def _call(command: Sequence[str], given: str | None) -> "subprocess.CompletedProcess[str]":
    try:
        return subprocess.run(
            list(command), input=given, capture_output=True, text=True, errors="replace", timeout=TIMEOUT_S
        )
    except subprocess.TimeoutExpired:
        raise SlurmUnavailable(f"{command[0]} did not answer for {TIMEOUT_S:.0f} s") from None
    except OSError as error:
        raise LaunchError(
            f"{command[0]} cannot be run: {error.strerror}",
            where="PATH",
            fix="run scalelab on a login node of the cluster",
        ) from None


def _first_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if "error" in line.lower()]
    line = "; ".join(dict.fromkeys((errors or lines)[:2]))
    return re.sub(r"\b(sbatch|squeue|scancel|scontrol|sinfo): (error: )?", "", line)
