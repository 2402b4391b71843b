"""Checkpoints of a launched run: written beside training, verified, readable by any layout.

    checkpoints/sharded-00001200-000003/   step and attempt (the number of the run's lease)
      *.distcp        weights and the optimizer's state, in chunks (shard_files.py)
      metadata.json   sealed: where each chunk of a tensor lies (likewise)
      meta.json       sealed: the run, where it stands, and the SHA-256 of every file above

A checkpoint is written into a new directory under another name and renamed into place last; the
newest `keep` stay. Training goes on meanwhile: the weights are copied to host memory first. On the
way back every digest is compared, each process taking its part of the files. A checkpoint that does
not hold in one process is passed over in all of them, with its reason, for the one before it.

Processes of an earlier attempt may still be writing when the next one begins: suspended, or on a node that
was cut off. Their lease is checked before a checkpoint gets its name. Should they be suspended right after that
check, names keep the attempts apart: an attempt writes under its own number, removes none with a larger one, and
a larger number comes first on reading, whatever the step.

Tensors are named so that no layout shows (Engine.state), and torch cuts them anew on reading: a
run goes on under another layout, or with more or fewer processes.

Checkpoints from before metadata.json are not read: their index is a pickle. They are passed over with a
reason. Where no other checkpoint is left, the run is refused instead of being trained again from the
beginning: the version of scalelab that began it can finish it.

Not here: the checkpoints of a sweep's runs, which one process writes at once (checkpoint.py).
"""

import copy
import os
import re
import shutil
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.tensor import DTensor

from scalelab.errors import RunError
from scalelab.files import NoAnswer, make_dir, matching, sync_dir, writing
from scalelab.hardware.device import OutOfMemory
from scalelab.sealed import Damaged, Format, check_file
from scalelab.train.checkpoints.saver import HostBuffers
from scalelab.train.checkpoints.shard_files import (
    INDEX,
    INDEX_FILE,
    ShardReader,
    ShardWriter,
    TensorIndex,
    TensorsOnly,
    check_fit,
    check_index,
    files_by_rank,
)
from scalelab.train.checkpoints.unsharded import Progress, foreign, parse_file
from scalelab.train.engines.base import Engine
from scalelab.train.process_timeouts import ProcessTimeouts

NAME = "sharded-"
KEEP = 2
_NAMED = re.compile(rf"{NAME}(\d+)(?:-(\d+))?")
_T = TypeVar("_T")


@dataclass(frozen=True)
class ShardedMeta:
    """What stands in meta.json."""

    run: str
    """The run's id."""
    updates: int
    """Updates made so far."""
    progress: Progress
    files: dict[str, str]
    """SHA-256 of every other file, by name."""


META = Format("sharded checkpoint", ShardedMeta, schema=2)


class _Pickled(Damaged):
    """A checkpoint from before metadata.json."""


class HostCopy:
    """Copies what is to be saved to host memory, so that training can change it meanwhile.

    torch's own copy takes the whole storage of every view, and ours are views. The state of a GPU is
    copied to buffers that are pinned where that is possible and used again for every save (saver.py);
    on a CPU each save has copies of its own, which are freed once they are written.
    """

    should_synchronize_after_execute = False

    def __init__(self) -> None:
        self._buffers = HostBuffers()

    def stage(self, state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return copies of the tensors under the same names; on a GPU they hold until the next call."""
        if any(tensor.device.type != "cpu" for tensor in state_dict.values()):
            return self._buffers.copy(state_dict)
        return {name: _copy(tensor) for name, tensor in state_dict.items()}

    def synchronize_staging(self) -> None:
        """Nothing to wait for: the copy was made at once."""

    def close(self) -> None:
        """The buffers stay for the next save."""


def _copy(tensor: Tensor) -> Tensor:
    if not isinstance(tensor, DTensor):
        return tensor.detach().clone()
    return DTensor.from_local(
        tensor.to_local().detach().clone(),
        tensor.device_mesh,
        tensor.placements,
        run_check=False,
        shape=tensor.shape,
        stride=tensor.stride(),
    )


class Saver:
    """Writes the checkpoints of one run, one at a time, while it trains; finds the newest.

    Args:
        folder: Where the run's checkpoints lie.
        run: The run's id.
        engine: Holds what is saved.
        keep: How many stay.
        timeout_s: How long a process waits for the others to verify, read or write their part, seconds.
        attempt: Number of the claim under which it writes; 0 without a lease.
        guard: Raises once another attempt has followed; called in the first process.
    """

    def __init__(
        self,
        folder: Path,
        run: str,
        engine: Engine,
        keep: int = KEEP,
        timeout_s: float = ProcessTimeouts().start_s,
        attempt: int = 0,
        guard: Callable[[], None] = lambda: None,
    ):
        self.folder, self.run, self.engine, self.keep = folder, run, engine, keep
        self.attempt, self.guard = attempt, guard
        if not dist.is_initialized():
            # One process is a group of one: torch's checkpoints ask for a group.
            dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        # Of its own: its operations wait for disks, and those of the training must not.
        self._group = dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout_s))
        self._finisher = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: Future[int] | None = None
        self._host_copy = HostCopy()
        if engine.is_first:
            for leftover in matching(folder, f".{NAME}*"):
                if attempt_of(leftover) <= attempt:
                    shutil.rmtree(leftover, ignore_errors=True)

    @property
    def is_busy(self) -> bool:
        """Whether one is still being written."""
        return self._writing is not None and not self._writing.done()

    def begin(self, progress: Progress) -> None:
        """Copy the state and start to write it. To be called when nothing is being written."""
        place = self.folder / f"{NAME}{progress.step:08d}{f'-{self.attempt:06d}' if self.attempt else ''}"
        partial = place.with_name(f".{place.name}")
        if self.engine.is_first:
            make_dir(self.folder)
            shutil.rmtree(partial, ignore_errors=True)
        dist.barrier(self._group)
        writer, progress = ShardWriter(partial), copy.deepcopy(progress)
        with writing(place):
            future = dcp.async_save(
                self.engine.state(),
                storage_writer=writer,
                process_group=self._group,
                async_stager=self._host_copy,
            )
        self._writing = self._finisher.submit(self._finish, future, writer, progress, place)

    def poll(self) -> int | None:
        """The step of a checkpoint that has just come to be whole; None while there is none.

        Raises:
            RunError: It could not be written.
        """
        done = self._writing is not None and self._writing.done()
        return self.wait() if done else None

    def wait(self) -> int | None:
        """Wait for the one that is being written. Raises RunError likewise."""
        if self._writing is None:
            return None
        writing_, self._writing = self._writing, None
        return writing_.result()

    def _finish(self, future: Future, writer: ShardWriter, progress: Progress, place: Path) -> int:
        """Once all of it is written: record the digests, give it its name, drop the oldest."""
        partial = Path(writer.path)
        try:
            with writing(place):
                _result(future)
                if self.engine.is_first:
                    updates = progress.step - progress.steps_without_update
                    meta = ShardedMeta(self.run, updates, progress, writer.files)
                    META.write(partial / "meta.json", meta)
                    self.guard()
                    shutil.rmtree(place, ignore_errors=True)
                    os.replace(partial, place)
                    sync_dir(self.folder)
                    self._drop_old(progress.step)
        except RunError:
            if self.engine.is_first:
                self.guard()  # an attempt that followed removes what this one was writing
            raise
        finally:
            if self.engine.is_first:
                shutil.rmtree(partial, ignore_errors=True)
        return progress.step

    def _drop_old(self, step: int) -> None:
        """Keep the newest that lead to a step. Later ones were passed over, or gone back from."""
        found = self._ours()
        before = [place for place in found if step_of(place) <= step]
        for place in set(found) - set(before[-self.keep :]):
            shutil.rmtree(place, ignore_errors=True)

    def drop_after(self, step: int) -> None:
        """Remove checkpoints of later steps. Raises as the guard."""
        if self.engine.is_first:
            self.guard()
            for place in self._ours():
                if step_of(place) > step:
                    shutil.rmtree(place, ignore_errors=True)

    def _ours(self) -> list[Path]:
        """Checkpoints that this attempt may remove, in the order of `saved`."""
        return [place for place in saved(self.folder) if attempt_of(place) <= self.attempt]

    def restore(self) -> tuple[Progress | None, list[str]]:
        """Fill the engine from the newest checkpoint that holds; why newer ones were passed over.

        Called by all processes; all use the same checkpoint.

        Raises:
            RunError: A checkpoint belongs to another run; or none holds, and to begin again would
                lose work that can be saved, or would begin from weights that were partly read.
        """
        passed_over: list[str] = []
        refusal: RunError | None = None
        for place in self._from_first(lambda: saved(self.folder)[::-1]):
            try:
                meta, index = self._verified(place)
            except Damaged as damage:
                passed_over.append(f"{place.name}: {damage}")
                if isinstance(damage, _Pickled):
                    refusal = refusal or _written_before(place, damage)
                continue
            try:
                self._fill(place, index)
            except Damaged as damage:
                passed_over.append(f"{place.name}: {damage}")
                refusal = _partly_read(place, damage)
                continue
            self.engine.restored(meta.updates)
            return meta.progress, passed_over
        if refusal is not None:
            raise refusal
        return None, passed_over

    def _verified(self, place: Path) -> tuple[ShardedMeta, TensorIndex]:
        """What a checkpoint says of itself, once every process has verified its part.

        Raises:
            Damaged: It does not hold; the same in every process.
            RunError: It belongs to another run, or the file system of a process does not say.
        """
        meta, index = self._from_first(lambda: _described(place, self.run))
        rank, n = dist.get_rank(self._group), dist.get_world_size(self._group)
        problem: Damaged | NoAnswer | None = None
        try:
            check_fit(index, self.engine.state())
            for name in files_by_rank(index, meta.files, n)[rank]:
                check_file(place / name, meta.files[name])
        except (Damaged, NoAnswer) as found:
            problem = found.with_traceback(None)
        problems: list[Damaged | NoAnswer | None] = [None] * n
        dist.all_gather_object(problems, problem, group=self._group)
        for problem in sorted(filter(None, problems), key=lambda each: isinstance(each, Damaged)):
            raise problem  # without an answer, nothing is known to be damaged
        return meta, index

    def _fill(self, place: Path, index: TensorIndex) -> None:
        """Read a verified checkpoint into the engine.

        Raises:
            Damaged: A file was written wrongly, though as its digest says; the same everywhere.
        """
        try:
            dcp.load(
                self.engine.state(),
                storage_reader=ShardReader(place, index),
                planner=TensorsOnly(),
                process_group=self._group,
            )
        except CheckpointException as error:
            cause = _cause(error)
            if isinstance(cause, MemoryError | OutOfMemory):
                raise cause from None
            raise Damaged(f"its tensors cannot be read: {cause}".splitlines()[0]) from None

    def _from_first(self, make: Callable[[], _T]) -> _T:
        """What the first process makes, in all of them; so is its Damaged or RunError."""
        said: list[_T | Damaged | RunError | None] = [None]
        if self.engine.is_first:
            try:
                said = [make()]
            except (Damaged, RunError) as problem:
                said = [problem]
        dist.broadcast_object_list(said, group=self._group)
        if isinstance(said[0], Damaged | RunError):
            raise said[0]
        return said[0]


def leave() -> None:
    """Leave the group of processes: one that just ends may be aborted by its own threads."""
    if dist.is_initialized():
        dist.destroy_process_group()


def saved(folder: Path) -> list[Path]:
    """Every checkpoint under its final name: those of earlier attempts first, of one attempt by step."""
    found = [place for place in matching(folder, f"{NAME}*") if _NAMED.fullmatch(place.name)]
    return sorted(found, key=lambda place: (attempt_of(place), step_of(place)))


def step_of(place: Path) -> int:
    """The step that a checkpoint is of."""
    return int(_NAMED.fullmatch(place.name)[1])


def attempt_of(place: Path) -> int:
    """Number of the attempt that wrote a checkpoint, finished or not; 0 where its name has none."""
    named = _NAMED.fullmatch(place.name.removeprefix("."))
    return int(named[2] or 0) if named else 0


def _described(place: Path, run: str) -> tuple[ShardedMeta, TensorIndex]:
    """The two records of a checkpoint, verified. Raises Damaged, or RunError: of another run."""
    if (place / ".metadata").exists() and not (place / INDEX_FILE).exists():
        raise _Pickled(
            "it was written by an older version of scalelab, its index is a pickle (.metadata), "
            "and nothing is unpickled"
        )
    meta = parse_file(META, place / "meta.json")
    if meta.run != run:
        raise foreign(place, meta.run, run)
    if INDEX_FILE not in meta.files:
        raise Damaged(f"meta.json has no digest of {INDEX_FILE}")
    check_file(place / INDEX_FILE, meta.files[INDEX_FILE])
    index = parse_file(INDEX, place / INDEX_FILE)
    check_index(index, meta.files)
    return meta, index


def _written_before(place: Path, damage: Damaged) -> RunError:
    return RunError(
        f"no checkpoint can be used: {damage}",
        where=str(place),
        fix="finish the run with the version of scalelab that began it, or delete the directory "
        f"{place.parent} to train from the beginning",
    )


def _partly_read(place: Path, damage: Damaged) -> RunError:
    return RunError(
        f"no checkpoint can be used: {damage}",
        where=str(place),
        fix="delete this checkpoint and run the same command again",
    )


def _result(future: Future) -> None:
    try:
        future.result()
    except CheckpointException as error:
        raise _cause(error) from None


def _cause(error: CheckpointException) -> BaseException:
    """What went wrong in the first process in which something did: torch wraps it for each."""
    return next(iter(error.failures.values()))[0]
