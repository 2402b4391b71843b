"""Checkpoints of a launched run: written beside training, checked, readable by any layout.

    checkpoints/sharded-00001200/
      *.distcp, .metadata   weights and moments (torch.distributed.checkpoint)
      meta.json             step, spec, progress, and the digest of every file above

A checkpoint is written into a new directory under another name, its files are digested, and it is
renamed into place last; the newest `keep` stay. Training goes on meanwhile: the weights are
copied to host memory first. On the way back every digest is compared, and one that was cut
short or altered is passed over, with its reason, for the one before it.

Tensors are named so that no layout shows (Engine.state), and torch cuts them anew on reading: a
run goes on under another layout, or with more or fewer processes.

Not here: the checkpoints of a sweep's runs, which one process writes at once (checkpoint.py).
"""

import hashlib
import json
import os
import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.tensor import DTensor

from scalelab.errors import RunError
from scalelab.files import make_dir, write_json, writing
from scalelab.train.checkpoint import Progress
from scalelab.train.engine import Engine

NAME = "sharded-"
KEEP = 2


class HostCopy:
    """Copies what is to be saved to host memory, so that training can change it meanwhile.

    torch's own copy takes the whole storage of every view, and ours are views.
    """

    should_synchronize_after_execute = False

    def stage(self, state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
        """The same names with tensors of their own."""
        return {name: _on_host(tensor) for name, tensor in state_dict.items()}

    def synchronize_staging(self) -> None:
        """Nothing to wait for: the copy was made at once."""

    def close(self) -> None:
        """Nothing is held."""


def _on_host(tensor: Tensor) -> Tensor:
    if not isinstance(tensor, DTensor):
        return tensor.detach().to("cpu", copy=True)
    if tensor.device.type != "cpu":
        return tensor.detach().to("cpu")
    return DTensor.from_local(
        tensor.to_local().detach().clone(),
        tensor.device_mesh,
        tensor.placements,
        run_check=False,
        shape=tensor.shape,
        stride=tensor.stride(),
    )


class Saver:
    """Writes the checkpoints of one run, one at a time, while it trains."""

    def __init__(self, folder: Path, spec_digest: str, engine: Engine, keep: int = KEEP):
        self.folder, self.spec_digest, self.engine, self.keep = folder, spec_digest, engine, keep
        alone = not dist.is_initialized()
        if alone:
            # One process is a group of one: torch's checkpoints ask for a group.
            dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        self._group = dist.new_group(backend="gloo")
        self._finisher = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: Future[int] | None = None
        if engine.is_first:
            for leftover in folder.glob(f".{NAME}*"):
                shutil.rmtree(leftover, ignore_errors=True)

    @property
    def is_busy(self) -> bool:
        """Whether one is still being written."""
        return self._writing is not None

    def begin(self, progress: Progress) -> None:
        """Copy the state and start to write it. To be called when nothing is being written."""
        place = self.folder / f"{NAME}{progress.step:08d}"
        partial = place.with_name(f".{place.name}")
        if self.engine.is_first:
            make_dir(self.folder)
            shutil.rmtree(partial, ignore_errors=True)
        dist.barrier(self._group)
        meta = Progress(**json.loads(json.dumps(vars(progress))))
        with writing(place):
            future = dcp.async_save(
                self.engine.state(),
                storage_writer=FileSystemWriter(partial, single_file_per_rank=True),
                process_group=self._group,
                async_stager=HostCopy(),
            )
        self._writing = self._finisher.submit(self._finish, future, meta, partial, place)

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

    def _finish(self, future: Future, progress: Progress, partial: Path, place: Path) -> int:
        """Once all of it is written: digest it, give it its name, let go of the oldest."""
        with writing(place):
            _result(future)
            if self.engine.is_first:
                updates = progress.step - progress.steps_without_update
                meta = {"spec": self.spec_digest, "updates": updates}
                meta |= {"progress": vars(progress), "files": digests(partial)}
                write_json(partial / "meta.json", meta)
                shutil.rmtree(place, ignore_errors=True)
                os.replace(partial, place)
                for old in saved(self.folder)[: -self.keep]:
                    shutil.rmtree(old, ignore_errors=True)
        return progress.step


def leave() -> None:
    """Leave the group of processes: one that just ends may be aborted by its own threads."""
    if dist.is_initialized():
        dist.destroy_process_group()


def restore(folder: Path, spec_digest: str, engine: Engine) -> tuple[Progress | None, list[str]]:
    """Fill the engine from the newest whole checkpoint; say why newer ones were passed over.

    Raises:
        RunError: A checkpoint belongs to another spec.
    """
    passed_over: list[str] = []
    found: tuple[str, dict[str, Any]] | None = None
    refusal: RunError | None = None
    if engine.is_first:
        for place in reversed(saved(folder)):
            meta, reason = _checked(place)
            if meta is None:
                passed_over.append(f"{place.name} {reason}")
            elif meta["spec"] != spec_digest:
                refusal = RunError(
                    f"the checkpoint belongs to run {meta['spec']}, not to {spec_digest}",
                    where=str(place),
                    fix="move the checkpoint back to its own run, or delete it to start afresh",
                )
                break
            else:
                found = (str(place), meta)
                break
    said = [found, passed_over, refusal]
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.broadcast_object_list(said)
    found, passed_over, refusal = said
    if refusal is not None:
        raise refusal
    if found is None:
        return None, passed_over
    path, meta = found
    dcp.load(
        engine.state(), storage_reader=FileSystemReader(path), no_dist=not dist.is_initialized()
    )
    engine.restored(meta["updates"])
    return Progress(**meta["progress"]), passed_over


def saved(folder: Path) -> list[Path]:
    """Every checkpoint under its final name, oldest first."""
    return sorted(folder.glob(f"{NAME}*"))


def step_of(place: Path) -> int:
    """The step that a checkpoint is of."""
    return int(place.name.removeprefix(NAME))


def let_go(place: Path) -> None:
    """Remove one checkpoint."""
    shutil.rmtree(place, ignore_errors=True)


def digests(place: Path) -> dict[str, str]:
    """BLAKE2b of every file of a checkpoint, by name."""
    found = {}
    for file in sorted(place.iterdir()):
        if file.name != "meta.json":
            with open(file, "rb") as opened:
                found[file.name] = hashlib.file_digest(opened, "blake2b").hexdigest()
                os.fsync(opened.fileno())
    return found


def _checked(place: Path) -> tuple[dict[str, Any] | None, str]:
    try:
        meta = json.loads((place / "meta.json").read_text(encoding="utf-8"))
        there = digests(place)
        for name, digest in meta["files"].items():
            if name not in there:
                return None, f"lacks {name}"
            if there[name] != digest:
                return None, f"was altered or cut short: {name} is not what was written"
        Progress(**meta["progress"])
        meta["spec"], meta["updates"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return None, f"cannot be read: {error}"
    return meta, ""


def _result(future: Future) -> None:
    try:
        future.result()
    except Exception as error:
        # torch wraps what the disk said once for each process: the first of them is the cause.
        causes = getattr(error, "failures", {})
        first = next(iter(causes.values()), (error,))[0]
        raise first if isinstance(first, OSError) else error from None
