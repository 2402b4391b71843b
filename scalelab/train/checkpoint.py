"""Checkpoints: write, find, go on. Nothing is ever half there.

    checkpoints/step-00001200/
      state.safetensors   weights by name (fp32) and AdamW's moments
      meta.json           step, the spec's digest, curves so far, seconds spent

A checkpoint is written beside its place and renamed, so a killed save leaves the one before
it untouched. The newest two are kept. One that cannot be read, or belongs to another spec,
is passed over with a reason; only where that reason is another spec is it an error, because
somebody has mixed up directories.
"""

import json
import os
import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from scalelab.errors import RunError
from scalelab.files import whole, whole_dir, write_json

KEEP = 2


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


def save(folder: Path, spec_digest: str, progress: Progress, tensors: dict[str, Tensor]) -> Path:
    """Write one checkpoint and let go of the oldest. Returns its directory."""
    place = folder / f"step-{progress.step:08d}"
    with whole_dir(place) as partial:
        write_json(partial / "meta.json", {"spec": spec_digest, **vars(progress)})
        host = {name: tensor.detach().to("cpu").contiguous() for name, tensor in tensors.items()}
        # Views of one buffer would be refused as shared memory: each gets its own.
        _write({k: v.clone() for k, v in host.items()}, partial / "state.safetensors")
    for old in _all(folder)[:-KEEP]:
        shutil.rmtree(old, ignore_errors=True)
    return place


def newest(folder: Path, spec_digest: str) -> tuple[Progress | None, dict[str, Tensor], list[str]]:
    """The newest readable checkpoint, and why newer ones were passed over.

    Raises:
        RunError: A checkpoint belongs to another spec.
    """
    passed_over = []
    for place in reversed(_all(folder)):
        try:
            meta: dict[str, Any] = json.loads((place / "meta.json").read_text(encoding="utf-8"))
            belongs = meta.pop("spec")
            progress = Progress(**meta)
            with safe_open(place / "state.safetensors", framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            passed_over.append(f"{place.name} cannot be read: {error}")
            continue
        if belongs != spec_digest:
            raise RunError(
                f"the checkpoint belongs to run {belongs}, not to {spec_digest}",
                where=str(place),
                fix="move the checkpoint back to its own run, or delete it to start afresh",
            )
        return progress, tensors, passed_over
    return None, {}, passed_over


def save_weights(path: Path, weights: dict[str, Tensor]) -> None:
    """Write the final weights by name, fp32, whole or not at all."""
    host = {name: tensor.detach().to("cpu").clone() for name, tensor in weights.items()}
    with whole(path) as file:
        _write(host, Path(file.name))


def _write(tensors: dict[str, Tensor], path: Path) -> None:
    """Tensors into a file. What the disk refuses is an OSError, as everywhere else."""
    try:
        save_file(tensors, path)
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1]))) from error


def clear(folder: Path) -> None:
    """Let go of every checkpoint: the run is done."""
    shutil.rmtree(folder, ignore_errors=True)


def _all(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*"))  # a launched run's have other names (sharded.py)


def seconds_until_next(last_save_s: float) -> float:
    """How long to train before the next save: often, unless saving is slow.

    A kill costs at most this plus a save. Saving may take up to 5% of the time, and the
    wait stays under a minute however slow the disk.
    """
    return min(50.0, max(15.0, 20 * last_save_s))
