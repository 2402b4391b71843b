"""The run directory, which is the truth about one run.

    runs/<sweep>/<run id>/
      spec.yaml      the whole input; `scalelab run <dir>/spec.yaml` repeats the run
      lease-000001.json  which process may write here (leases.py); the number counts the attempts
      log.jsonl      one event a line, append-only, each with its time fixed as it is written
      checkpoints/   the newest two, while it runs
      model.safetensors  the final weights, fp32; their digest stands in result.json
      job.json       settings of its processes: their number, checkpoints, limits
      result.json    written last, and once: it exists, so the run is done

All of it is sealed (sealed.py) and verified when it is read. Directories from before the seals are
read too.

Events of the log, each {"t": milliseconds since 1970, "event": ..., ...}:

    start        attempt, pid, host, device, precision, threads, n_steps, batch_tokens, ...
    resume       step: what follows continues from there; later points before it are void
    step         step, n_tokens, loss, lr, grad_norm, tokens_per_s, mfu; of a mixture of experts also
                 expert_load_max, expert_load_min, expert_load_entropy (model/moe/network.py)
    eval         step, n_tokens, loss, bpb
    checkpoint   step
    branched     step, run: a trunk left the branch's checkpoint in the directory of that run
    out_of_memory  micro_batch_tokens: what it was halved to
    checkpoint_passed_over  reason: a newer checkpoint that did not hold
    lines_skipped  file, n: lines of a growing file that did not hold; their work is done again
    batch_skipped  step, loss, grad_norm: a batch that gave no number, and no update
    went_back    step, to, rate: trouble, and the step that it was left for
    straggler    step, rank, times_slower: a process that holds the others up
    forecast     step, expected, low, high: what the forecast says of the loss at this step
    alarm        step, loss, low, high: the loss has left the forecast's band
    saving       step, allow_s: asked to stop; its save may take so long, seconds
    interrupted  step: stopped on request, to go on later
    lost         reason: the process ended without a word (written by whoever watched it)
    end          status, reason

A last line without its newline was cut off by a crash and does not count. A line whose checksum
does not match, or that is no event, is skipped and counted.
"""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from scalelab.config import parse_yaml
from scalelab.errors import ConfigError, RunError
from scalelab.files import (
    NoAnswer,
    append,
    exists,
    is_dir,
    machine,
    make_dir,
    matching,
    names_in,
    read_regular,
    refuse_link,
    refuse_links_in,
    write_new,
    write_text,
)
from scalelab.leases import Lease, hold, holder
from scalelab.sealed import Damaged, Format, check_file, line, read_lines, seal_text, unseal_text
from scalelab.system import system
from scalelab.train.spec import RunResult, RunSpec

RESULT = Format("run result", RunResult, schema=2, unsealed=1)
LEASE = "lease"
"""Name of the lease of a run's directory, and of a stage's."""
AT_A_STEP = {
    "step",
    "eval",
    "checkpoint",
    "saving",
    "branched",
    "resume",
    "interrupted",
    "batch_skipped",
    "went_back",
    "straggler",
    "forecast",
    "alarm",
}
"""Events that have a step."""
NUMBERS = (
    *("loss", "bpb", "lr", "grad_norm", "tokens_per_s", "mfu", "expected", "low", "high"),
    *("expert_load_max", "expert_load_min", "expert_load_entropy"),
)
"""Fields of events that are numbers, or None."""


def _nothing() -> None:
    """No lease is held, so there is none to check."""


@dataclass(frozen=True)
class RunDir:
    """One object that knows every path of a run."""

    path: Path
    guard: Callable[[], None] = field(default=_nothing, compare=False, repr=False)
    """Called before every write; raises leases.LeaseTaken once another process has taken over."""
    attempt: int = field(default=0, compare=False, repr=False)
    """Number of the claim under which it is written; 0 without a lease."""
    publish: Callable[[Path, str], bool] = field(default=write_new, compare=False, repr=False)
    """Writes a file once: Lease.publish under a lease. False: the file is there."""

    @classmethod
    def of(cls, spec: RunSpec, root: Path, sweep: str) -> "RunDir":
        """A spec's directory in a sweep: the one that is there under an older id, or its own."""
        own, *older = (cls(root / sweep / run) for run in spec.ids)
        return next((d for d in older if is_dir(d.path) and not is_dir(own.path)), own)

    @property
    def run(self) -> str:
        """The run's id."""
        return self.path.name

    @property
    def spec_path(self) -> Path:
        """The whole input of the run."""
        return self.path / "spec.yaml"

    @property
    def log_path(self) -> Path:
        """The journal."""
        return self.path / "log.jsonl"

    @property
    def checkpoints(self) -> Path:
        """Where the run can go on from."""
        return self.path / "checkpoints"

    @property
    def last_checkpoint(self) -> int:
        """Step of the newest checkpoint of a run in one process, by its name alone; -1 without one.

        Raises:
            NoAnswer: The file system does not say.
        """
        steps = (
            name.removeprefix("step-") for name in names_in(self.checkpoints) if name.startswith("step-")
        )
        return max((int(step) for step in steps if step.isdecimal()), default=-1)

    @property
    def weights_path(self) -> Path:
        """The final weights by name, fp32."""
        return self.path / "model.safetensors"

    @property
    def result_path(self) -> Path:
        """The done-marker and the result in one."""
        return self.path / "result.json"

    @property
    def is_done(self) -> bool:
        """Whether the run has come to its result.

        Raises:
            NoAnswer: The file system does not say.
        """
        return exists(self.result_path)

    @property
    def is_begun(self) -> bool:
        """Whether a process has written to its journal.

        Raises:
            NoAnswer: The file system does not say.
        """
        return exists(self.log_path)

    @contextmanager
    def claimed(self, noun: str = "run", wait_s: float = 0.0) -> Iterator[tuple["RunDir", Lease]]:
        """This directory as ours to write in, with the lease that says so.

        Args:
            noun: What it is the directory of, for messages.
            wait_s: How long to wait where another process holds it.

        Raises:
            LeaseTaken: Another process holds it.
            RunError: It cannot be written, or is or holds a symbolic link.
        """
        refuse_link(self.path.parent)
        refuse_links_in(self.path)
        problem = f"{noun} {self.run} is being worked on by another process"
        fix = "wait for it to end, or stop it"
        with hold(self.path / LEASE, problem, fix, wait_s=wait_s) as lease:
            ours = replace(self, guard=lease.check, publish=lease.publish, attempt=lease.held.attempt)
            yield ours, lease

    def create(self, spec: RunSpec) -> None:
        """Write the spec, unless it stands there already.

        Raises:
            RunError: The directory is named after another spec than this one.
        """
        if self.run not in spec.ids:
            raise RunError(
                f"the run directory is named {self.run}, its spec is {spec.id}",
                where=str(self.path),
                fix="leave run directories under the names that they were given",
            )
        refuse_link(self.path.parent)
        refuse_links_in(self.path)
        if not exists(self.spec_path):
            make_dir(self.path)
            write_text(self.spec_path, seal_text(spec.to_yaml()))

    def spec(self) -> RunSpec:
        """The spec, checked against its seal and the directory's name.

        Raises:
            ConfigError: The file is missing or not a spec.
            RunError: It was changed after the run was named.
        """
        spec = RunSpec.parse(parse_yaml(read_sealed_yaml(self.spec_path), str(self.spec_path)))
        if self.run not in spec.ids:
            raise RunError(
                f"spec.yaml has been changed: it now describes run {spec.id}, not {self.run}",
                where=str(self.spec_path),
                fix="put the file back, or copy it elsewhere and run that with `scalelab run`",
            )
        return spec

    def append(self, event: str, **values: Any) -> None:
        """Add one event to the log."""
        self.guard()
        append(self.log_path, line({"t": int(system().time() * 1000), "event": event, **values}))

    def events(self) -> Iterator[dict[str, Any]]:
        """Every event of the log that holds."""
        yield from read_events(self.log_path).events

    def write_result(self, result: RunResult) -> RunResult:
        """Write the done-marker: the last thing that a run does, and only once.

        Returns: The result that stands, which is the other one where there was one already.
        """
        self.guard()
        return result if self.publish(self.result_path, RESULT.text(result)) else self.result()

    def result(self) -> RunResult | None:
        """What the run came to; None while it has not.

        Raises:
            NoAnswer: The file system does not say.
            RunError: The file is there and is not this run's result.
        """
        try:
            result = RESULT.read(self.result_path)
        except FileNotFoundError:
            return None
        except NoAnswer:
            raise
        except RunError as error:
            raise RunError(error.problem, where=error.where, fix=self.how_to_redo()) from None
        if any(len(point) != 3 for point in [*result.curve, *result.train_curve]):
            raise RESULT.refusal(self.result_path, "a point of its curves is not three numbers")
        if result.run != self.run:
            raise RunError(
                f"result.json is that of run {result.run}, not of {self.run}",
                where=str(self.result_path),
                fix=self.how_to_redo(),
            )
        return result

    def refresh(self) -> None:
        """Make this machine see the directory as it is now.

        The client of a network file system may show old names until it notices a change, and it notices
        its own (network_files.py).
        """
        probe = self.path / f".look.{machine()}.{system().pid()}.partial"
        with suppress(OSError):  # it cannot be written: old names may be all there is to see
            system().touch(probe)
            system().unlink(probe)

    def tidy(self) -> None:
        """Remove the checkpoints of a run that has its result: a kill may have come in between."""
        if self.is_done:
            self.clear_checkpoints()
            for draft in matching(self.path, ".*.draft"):
                draft.unlink(missing_ok=True)

    def clear_checkpoints(self) -> None:
        """Remove the checkpoints that no process is writing and that nothing resumes from."""
        if is_dir(self.checkpoints) and holder(self.path, LEASE) is None:
            shutil.rmtree(self.checkpoints, ignore_errors=True)

    def how_to_redo(self, command: str = "") -> str:
        """What to do about a result that cannot be believed.

        Args:
            command: What does the work again; empty for `scalelab run` on this directory.
        """
        command = command or f"scalelab run {self.path}"
        from_where = (
            "resumes from its newest checkpoint"
            if names_in(self.checkpoints)
            else "starts again: its checkpoints were removed when it ended"
        )
        return f"restore the file from a copy, or delete it and run `{command}` first: the work " + from_where

    def check_file(self, name: str, digests: dict[str, str], command: str = "") -> None:
        """Refuse a file that the run left and that is not as it was written.

        Args:
            name: In this directory.
            digests: Of the result. A file that it does not name is from before the seals.
            command: As in how_to_redo.

        Raises:
            RunError: The file is missing or was altered.
        """
        if name not in digests:
            return
        try:
            check_file(self.path / name, digests[name])
        except Damaged as damage:
            raise RunError(
                f"{name} cannot be used: {damage}",
                where=str(self.path / name),
                fix="restore the file from a copy, or delete result.json beside it and run "
                f"`{command or f'scalelab run {self.path}'}` first: the work is then done anew",
            ) from None


class EventLog(NamedTuple):
    """Events of a log, from some place on."""

    events: list[dict[str, Any]]
    offset: int
    """Where to go on from, bytes."""
    n_bad: int
    """Lines that were skipped: torn, damaged, or no events."""


def read_events(path: Path, offset: int = 0) -> EventLog:
    """Complete events of a log from byte `offset` on.

    Raises:
        RunError: The file is there and cannot be read.
    """
    lines = read_lines(path, offset)
    events = [record for record in lines.records if is_event(record)]
    return EventLog(events, lines.offset, lines.n_bad + len(lines.records) - len(events))


def is_event(record: dict[str, Any]) -> bool:
    """Whether a record has what readers of events rely on."""
    event = record.get("event")
    if not isinstance(event, str) or not _is_int(record.get("t")):
        return False
    if event in AT_A_STEP and not _is_int(record.get("step")):
        return False
    if event == "lost" and not isinstance(record.get("reason"), str | None):
        return False
    numbers = (record.get(name) for name in NUMBERS)
    return all(n is None or _is_int(n) or isinstance(n, float) for n in numbers)


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


LARGEST_SPEC = 16 << 20
"""Largest spec.yaml that is read, bytes. They have a few kilobytes."""


def read_sealed_yaml(path: Path) -> str:
    """The text of a sealed YAML file.

    Raises:
        ConfigError: It is missing or no text.
        RunError: It was changed after it was written.
    """
    try:
        return unseal_text(read_regular(path, LARGEST_SPEC).decode("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        problem = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise ConfigError(
            f"{path.name} cannot be read: {problem}",
            where=str(path),
            fix="delete it and run the command that made it again: it writes the file anew",
        ) from None
    except Damaged as damage:
        raise RunError(
            f"{path.name} has been changed: {damage}",
            where=str(path),
            fix="put the file back, or delete it and run the command that made it again; to run "
            "something else, edit a copy outside of the directory",
        ) from None
