"""The run directory, which is the truth about one run.

    runs/<sweep>/<run id>/
      spec.yaml      the whole input; `scalelab run <dir>/spec.yaml` repeats the run
      log.jsonl      one event a line, append-only, each with its time fixed as it is written
      checkpoints/   the newest two, while it runs
      model.safetensors  the final weights, fp32
      launch.json    of a launched run: how it is spread over processes, and looked after
      result.json    written last and renamed into place: it exists, so the run is done

Events of the log, each {"t": milliseconds since 1970, "event": ..., ...}:

    start        attempt, pid, host, device, precision, threads, n_steps, batch_tokens, ...
    resume       step: what follows continues from there; later points before it are void
    step         step, n_tokens, loss, lr, grad_norm, tokens_per_s, mfu
    eval         step, n_tokens, loss, bpb
    checkpoint   step
    out_of_memory  micro_batch_tokens: what it was halved to
    checkpoint_passed_over  reason: a newer checkpoint that was not whole
    batch_skipped  step, loss, grad_norm: a batch that gave no number, and no update
    went_back    step, to, rate: trouble, and the step that it was left for
    straggler    step, rank, times_slower: a process that holds the others up
    forecast     step, expected, low, high: what the forecast says of the loss at this step
    alarm        step, loss, low, high: the loss has left the forecast's band
    interrupted  step: stopped on request, to go on later
    lost         reason: the process ended without a word (written by whoever watched it)
    end          status, reason

A last line without its newline was cut off by a crash and does not count.
"""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scalelab.errors import RunError
from scalelab.files import append, make_dir, write_json, write_text
from scalelab.train.spec import RunResult, RunSpec


@dataclass(frozen=True)
class RunDir:
    """One object that knows every path of a run."""

    path: Path

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
    def weights_path(self) -> Path:
        """The final weights by name, fp32."""
        return self.path / "model.safetensors"

    @property
    def result_path(self) -> Path:
        """The done-marker and the result in one."""
        return self.path / "result.json"

    @property
    def launch_path(self) -> Path:
        """How a launched run is spread and looked after; runs of a sweep have none."""
        return self.path / "launch.json"

    @property
    def lock_path(self) -> Path:
        """Held by the one process that trains this run."""
        return self.path / "lock"

    @property
    def is_done(self) -> bool:
        """Whether the run has come to its result."""
        return self.result_path.exists()

    def create(self, spec: RunSpec) -> None:
        """Write the spec, unless it stands there already.

        Raises:
            RunError: The directory is named after another spec than this one.
        """
        if self.run != spec.digest:
            raise RunError(
                f"the run directory is named {self.run}, its spec is {spec.digest}",
                where=str(self.path),
                fix="leave run directories under the names that they were given",
            )
        if not self.spec_path.exists():
            make_dir(self.path)
            write_text(self.spec_path, spec.to_yaml())

    def spec(self) -> RunSpec:
        """The spec, checked against the directory's name.

        Raises:
            ConfigError: The file is missing or not a spec.
            RunError: Somebody changed it after the run was named.
        """
        spec = RunSpec.load(self.spec_path)
        if spec.digest != self.run:
            raise RunError(
                f"spec.yaml has been changed: it now describes run {spec.digest}, not {self.run}",
                where=str(self.spec_path),
                fix="put the file back, or copy it elsewhere and run that with `scalelab run`",
            )
        return spec

    def append(self, event: str, **values: Any) -> None:
        """Add one event to the log."""
        line = json.dumps({"t": time.time_ns() // 1_000_000, "event": event, **values}) + "\n"
        append(self.log_path, line)

    def events(self) -> Iterator[dict[str, Any]]:
        """Every complete line of the log."""
        yield from read_events(self.log_path, 0)[0]

    def write_result(self, result: RunResult) -> None:
        """Write the done-marker: the last thing that a run does."""
        write_json(self.result_path, result.to_dict())

    def result(self) -> RunResult | None:
        """What the run came to; None while it has not.

        Raises:
            RunError: The file is there and is not a result.
        """
        try:
            record = json.loads(self.result_path.read_text(encoding="utf-8"))
            return RunResult.from_dict(record)
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise RunError(
                f"result.json cannot be read: {error}",
                where=str(self.result_path),
                fix="delete it and run the same command again: the run goes on from its checkpoint",
            ) from None


def read_events(path: Path, offset: int) -> tuple[list[dict[str, Any]], int]:
    """Complete events of a log from byte `offset` on, and the offset to go on from.

    A torn last line waits until it is ended. One that a crash tore is passed over: its event was
    never acknowledged.
    """
    try:
        with open(path, "rb") as file:
            file.seek(offset)
            data = file.read()
    except FileNotFoundError:
        return [], offset
    end = data.rfind(b"\n") + 1
    events = []
    for line in data[:end].splitlines():
        try:
            events.append(json.loads(line))
        except ValueError:
            continue
    return events, offset + end
