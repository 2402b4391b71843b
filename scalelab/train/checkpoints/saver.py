"""Saves of a run in one process: at once, or from a copy in host memory while the run trains on.

A GPU's state has to be copied to host memory anyway. It is copied to buffers that are pinned where that
is possible and used again for every save; a thread writes them (unsharded.py: flushed, then renamed).
Training waits for the copy alone. The buffers take as much host memory as a checkpoint takes on disk.
On a CPU the state is in host memory already, and a thread would take the core that trains, so it is
written at once, without a copy.

At most one save is under way. What went wrong with it is raised by the next poll, which the loop makes
after every step.

Launched runs (sharded.py) use the same buffers.
Not here: the files (unsharded.py).
"""

import copy
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from scalelab.train.checkpoints import unsharded
from scalelab.train.checkpoints.unsharded import Progress


class HostBuffers:
    """Copies of tensors in host memory, in the same buffers each time."""

    def __init__(self) -> None:
        self._buffers: dict[str, Tensor] = {}

    def copy(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return copies under the same names; they hold until the next call."""
        for name, tensor in tensors.items():
            buffer = self._buffers.get(name)
            if buffer is None or (buffer.shape, buffer.dtype) != (tensor.shape, tensor.dtype):
                buffer = self._buffers[name] = _host_buffer(tensor)
            buffer.copy_(tensor.detach(), non_blocking=True)
        if any(tensor.device.type == "cuda" for tensor in tensors.values()):
            torch.cuda.synchronize()
        return {name: self._buffers[name] for name in tensors}


def _host_buffer(tensor: Tensor) -> Tensor:
    """Return an empty tensor in host memory; a part of a sharded one (DTensor) remains that part."""
    if tensor.device.type == "cuda":
        try:
            return torch.empty_like(tensor.detach(), device="cpu", pin_memory=True)
        except RuntimeError:  # the system limits pinned memory; the copy is slower and the same
            pass
    return torch.empty_like(tensor.detach(), device="cpu")


class UnshardedSaver:
    """Writes the checkpoints of one process, one at a time.

    Args:
        folder: Directory of the run's checkpoints.
        run: The run's id.
        state: Returns the tensors to save, by name.
        guard: Raises if another process has taken over the run; called before a checkpoint gets its name.
        background: Write from a copy, in a thread.
    """

    def __init__(
        self,
        folder: Path,
        run: str,
        state: Callable[[], dict[str, Tensor]],
        guard: Callable[[], None],
        *,
        background: bool,
    ):
        self._folder, self._run, self._state, self._guard = folder, run, state, guard
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint") if background else None
        self._buffers = HostBuffers()
        self._writing: Future[int] | None = None

    @property
    def is_busy(self) -> bool:
        """Whether a save is under way."""
        return self._writing is not None and not self._writing.done()

    def begin(self, progress: Progress) -> None:
        """Save, or copy the state and start to write it. To be called once the save before was polled.

        Raises:
            RunError: It could not be written at once.
        """
        assert self._writing is None, "one save at a time"
        if self._thread is None:
            self._writing = Future()
            self._writing.set_result(self._write(progress, self._state()))
        else:
            copied = self._buffers.copy(self._state())
            self._writing = self._thread.submit(self._write, copy.deepcopy(progress), copied)

    def _write(self, progress: Progress, tensors: dict[str, Tensor]) -> int:
        unsharded.save(self._folder, self._run, progress, tensors, self._guard)
        return progress.step

    def poll(self) -> int | None:
        """Return the step of a checkpoint that has just been completed; None without one.

        Raises:
            RunError: It could not be written.
        """
        return None if self.is_busy else self.wait()

    def wait(self) -> int | None:
        """Wait for the save that is under way. Raises and returns as poll."""
        if self._writing is None:
            return None
        writing, self._writing = self._writing, None
        return writing.result()

    def close(self) -> None:
        """Wait until nothing is written any more: the run's lease is given up next."""
        if self._thread is not None:
            self._thread.shutdown()
