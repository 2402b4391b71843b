"""Checkpoints: write, find, go on. Nothing is ever half there.

    checkpoints/step-00001200/
      state.safetensors   weights by name (fp32) and the optimizer's state
      meta.json           sealed: the run, where it stands, and the SHA-256 of the file above

A checkpoint is written beside its place and renamed, so a killed save leaves the one before
it untouched. The newest two are kept. Every byte is verified before it is used: a checkpoint that
does not hold is passed over with a reason, for the one before it. One that belongs to another run
is an error, because directories have been mixed up. Checkpoints from before the seals are used as
they stand.

The tensors are written here and not by safetensors.torch.save_file, which copies them all, and
holds the interpreter's lock until they are written, so that nothing can be hashed meanwhile.
Source: the safetensors format, https://github.com/huggingface/safetensors#format.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from scalelab.errors import RunError
from scalelab.files import check_answered, matching, read_regular, sweep_partials, whole, whole_dir
from scalelab.sealed import Checksum, Damaged, Format, check_file, typed

KEEP = 2
_NAMED = re.compile(r"step-(\d+)")
_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""What safetensors calls them."""
_Record = TypeVar("_Record")


@dataclass
class BranchProgress:
    """Curves of one branch of a trunk so far, as the branch itself would have recorded them (trunk.py)."""

    loss_sum: float = 0.0
    """Training loss since the branch's last logged point, summed over steps."""
    loss_steps: int = 0
    curve: list[list[float]] = field(default_factory=list)
    train_curve: list[list[float]] = field(default_factory=list)
    eval_s: float = 0.0
    """Seconds of its validation losses."""


@dataclass
class Progress:
    """Where a run stands, apart from its weights."""

    step: int = 0
    """Optimizer steps done."""
    loss_sum: float = 0.0
    """Training loss since the last logged point, summed over steps."""
    loss_steps: int = 0
    curve: list[list[float]] = field(default_factory=list)
    train_curve: list[list[float]] = field(default_factory=list)
    train_s: float = 0.0
    eval_s: float = 0.0
    micro_rows: int = 0
    """Windows of a micro-batch."""
    n_resumes: int = 0
    steps_without_update: int = 0
    """Steps whose batch was skipped (stability.py)."""
    batches_passed: int = 0
    """Batches passed over when the run went back: step k trains on batch k + this."""
    rate: float = 1.0
    """Factor on every rate, below 1 once trouble has lowered it."""
    interventions: list[dict[str, Any]] = field(default_factory=list)
    """What was done about trouble, in order."""
    first_steps: int = 0
    """First steps of each attempt (step_clock.py), among `step`."""
    first_steps_s: float = 0.0
    """Seconds of these, among train_s."""
    trunk: str | None = None
    """Id of the run that trained the trunk that this run left; None: it has none, or trained all its steps itself."""
    trunk_steps: int = 0
    """Number of `step` that the trunk trained."""
    branches: dict[str, BranchProgress] = field(default_factory=dict)
    """Curves of the branches of a trunk, by run id; empty for a run."""


@dataclass(frozen=True)
class CheckpointMeta:
    """What stands in meta.json."""

    run: str
    """The run's id, or the stage's."""
    progress: Progress
    files: dict[str, str]
    """SHA-256 of every other file, by name."""


META = Format("checkpoint", CheckpointMeta, schema=2)
STATE = "state.safetensors"


def save(
    folder: Path,
    run: str,
    progress: Progress,
    tensors: dict[str, Tensor],
    guard: Callable[[], None] = lambda: None,
) -> Path:
    """Write one checkpoint and let go of the oldest. Returns its directory.

    Args:
        folder: Directory of checkpoints.
        run: Id of the run.
        progress: State of the run beside its weights.
        tensors: Tensors by name.
        guard: Called once all is written, before it gets its name, where what it raises leaves no checkpoint; and
            again before older ones are removed.
    """
    place = folder / f"step-{progress.step:08d}"
    sweep_partials(folder)
    with whole_dir(place) as partial:
        META.write(
            partial / "meta.json", CheckpointMeta(run, progress, {STATE: _write(tensors, partial / STATE)})
        )
        guard()
    guard()  # a process that was suspended right here must not remove what others wrote since
    # Later ones were passed over: this run has come from before them.
    before = [old for old in _all(folder) if _step_of(old) <= progress.step]
    for old in set(_all(folder)) - set(before[-KEEP:]):
        shutil.rmtree(old, ignore_errors=True)
    return place


def newest(folder: Path, run: str) -> tuple[Progress | None, dict[str, Tensor], list[str]]:
    """The newest checkpoint that holds, and why newer ones were passed over.

    Args:
        folder: Where the run's checkpoints lie.
        run: The run's id, or the stage's.

    Raises:
        RunError: A checkpoint belongs to another run.
    """
    passed_over = []
    for place in reversed(_all(folder)):
        try:
            meta = read_meta(place / "meta.json")
            if meta.run != run:
                raise foreign(place, meta.run, run)
            if STATE in meta.files:
                check_file(place / STATE, meta.files[STATE])
            tensors = _read(place / STATE)
        except Damaged as damage:
            passed_over.append(f"{place.name}: {damage}")
            continue
        return meta.progress, tensors, passed_over
    return None, {}, passed_over


def read_meta(path: Path) -> CheckpointMeta:
    """What meta.json says, sealed or from before the seals. Raises Damaged."""
    try:
        return parse_file(META, path)
    except Damaged:
        old = _unsealed(path)
        if old is None:
            raise
        return old


def parse_file(kind: Format[_Record], path: Path) -> _Record:
    """The record in a file of a checkpoint. Raises Damaged, which names the file, or NoAnswer."""
    try:
        return kind.parse(read_regular(path).decode("utf-8"))
    except FileNotFoundError:
        raise Damaged(f"{path.name} is missing") from None
    except UnicodeDecodeError:
        raise Damaged(f"{path.name} is not UTF-8 text") from None
    except OSError as error:
        check_answered(path, error)
        raise Damaged(f"{path.name} cannot be read: {error.strerror}") from None
    except Damaged as damage:
        raise Damaged(f"{path.name}: {damage}") from None


def foreign(place: Path, theirs: str, ours: str) -> RunError:
    """The error about a checkpoint that belongs to another run."""
    return RunError(
        f"the checkpoint belongs to run {theirs}, not to {ours}",
        where=str(place),
        fix="move the checkpoint back to its own run, or delete it to start afresh",
    )


def _unsealed(path: Path) -> CheckpointMeta | None:
    """What a meta.json from before the seals says; None where it is none."""
    try:
        record = json.loads(read_regular(path))
        if {"schema", "seal"} & set(record):
            return None
        return CheckpointMeta(record.pop("spec"), typed(Progress, record), {})
    except (OSError, ValueError, KeyError, TypeError, AttributeError, Damaged, RecursionError):
        return None


def _read(path: Path) -> dict[str, Tensor]:
    """Tensors of a file. Raises Damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, ValueError, SafetensorError) as error:
        check_answered(path, error)
        raise Damaged(f"{path.name} cannot be read: {error}") from None


def save_weights(path: Path, weights: dict[str, Tensor], guard: Callable[[], None] = lambda: None) -> str:
    """Write the final weights by name, fp32, whole or not at all. Returns their SHA-256.

    Args:
        path: The file.
        weights: Tensors by name.
        guard: Called once all is written, before the file gets its name; what it raises leaves it as it was.
    """
    with whole(path) as file:
        digest = _write(weights, Path(file.name), hashlib.sha256)
        guard()
        return digest


def _write(tensors: dict[str, Tensor], path: Path, digest_of: Callable[[bytes], Any] = Checksum) -> str:
    """Write a safetensors file and flush it to the disk. Returns its digest.

    The digest is taken of the same memory, by a thread beside the writing and the flushing.
    """
    # The format wants every tensor aligned to its own values: wide ones first.
    order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header, end = {}, 0
    for name in order:
        begin, end = end, end + tensors[name].nbytes
        header[name] = {
            "dtype": _DTYPES[tensors[name].dtype],
            "shape": list(tensors[name].shape),
            "data_offsets": [begin, end],
        }
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    head = len(head).to_bytes(8, "little") + head
    digest = digest_of(head)
    with ThreadPoolExecutor(1, "digest") as beside, open(path, "wb") as file:
        file.write(head)
        for name in order:
            data = _bytes_of(tensors[name])
            beside.submit(digest.update, data)
            file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()


def _bytes_of(tensor: Tensor) -> memoryview:
    """A tensor's values as they lie in the memory of the host, copied only where they must be."""
    flat = tensor.detach().to("cpu").contiguous().reshape(-1)
    return memoryview(flat.view(torch.uint8).numpy())


def clear(folder: Path) -> None:
    """Let go of every checkpoint: the run is done."""
    shutil.rmtree(folder, ignore_errors=True)


def _all(folder: Path) -> list[Path]:
    """Every checkpoint, oldest first. Those of a launched run have other names (sharded.py)."""
    found = [place for place in matching(folder, "step-*") if _NAMED.fullmatch(place.name)]
    return sorted(found, key=_step_of)


def _step_of(place: Path) -> int:
    return int(place.name.removeprefix("step-"))


SHARE = 0.05
"""Largest share of the time that training waits for saves, however slow the disk."""
FLOOR_S = 15.0
"""Least time between two saves, seconds."""
ASSUMED_BYTES_PER_S = 1e9
"""Bytes of a checkpoint for which training waits a second, assumed until the first save of an attempt."""


def seconds_until_next(save_s: float) -> float:
    """Return how long to train before the next save, seconds: often, unless training waits long for it.

    Every save is followed by 20 times its duration of training, so saves take less than 5% of the time
    for any duration. The floor is 15 s. Work lost to a kill comes second: it is at most this long, plus
    the time until the save after it is on the disk.

    Args:
        save_s: Seconds that training waited for the last save; before the first one, expected_save_s.
    """
    return max(FLOOR_S, save_s / SHARE)


SLOWEST_BYTES_PER_S = 2e7
"""Bytes a second that a disk still in use writes at least, assumed."""


def allowed_save_s(n_bytes: int) -> float:
    """Return how long a save of so many bytes may take before its process counts as hung, seconds."""
    return n_bytes / SLOWEST_BYTES_PER_S


def expected_save_s(n_bytes: int) -> float:
    """Return the seconds that training should wait for the first save of an attempt, of so many bytes."""
    return n_bytes / ASSUMED_BYTES_PER_S
