"""One run in one process: the network, its flat optimizer, and micro-batches that fit.

Not here: many processes (parallel.py), the loop (loop.py).
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from scalelab.errors import RunError
from scalelab.train.device import Device, OutOfMemory
from scalelab.train.evaluate import validation_loss
from scalelab.train.optimizers.flat import FlatOptimizer
from scalelab.train.spec import RunSpec


class Single:
    """The engine of a process that holds the whole model.

    Args:
        spec: Of the run.
        device: Of this process.
        precision: fp32 or bf16, of the working weights.
        micro_rows: Windows to work on at once.
        halved: Told the new micro-batch, in tokens, when memory forced a smaller one.
    """

    def __init__(
        self,
        spec: RunSpec,
        device: Device,
        precision: str,
        micro_rows: int,
        halved: Callable[[int], None] = lambda tokens: None,
    ):
        self.spec, self.device, self.micro_rows, self._halved = spec, device, micro_rows, halved
        network = spec.model.network()
        network.reset(spec.seed)
        self.network = network.to(device.torch)
        working = torch.bfloat16 if precision == "bf16" else torch.float32
        self.optimizer = FlatOptimizer(self.network, self.network.kinds(), spec.optimizer, working)
        self.forward = torch.compile(self.network) if device.kind == "cuda" else self.network

    share = (0, 1)
    is_first = True

    def gradient(self, batch: Tensor) -> Tensor:
        """Gradient of the batch, in as many micro-batches as memory asks for; its mean loss."""
        while True:
            try:
                return self._gradient(batch)
            except OutOfMemory as error:
                self._halve(error)

    def _gradient(self, batch: Tensor) -> Tensor:
        total = torch.zeros((), dtype=torch.float64, device=self.device.torch)
        for start in range(0, len(batch), self.micro_rows):
            micro = batch[start : start + self.micro_rows]
            loss = self.forward(micro[:, :-1], micro[:, 1:]) * (len(micro) / len(batch))
            loss.backward()
            self.optimizer.gather()
            total += loss.detach()
        return total

    def _halve(self, error: OutOfMemory) -> None:
        """Go on with half the micro-batch: the same batch, the same mathematics."""
        if self.micro_rows == 1:
            raise RunError(
                f"one window of {self.spec.seq_len} tokens does not fit in the device's memory",
                where=f"{self.device.name}: {str(error).splitlines()[0]}",
                fix="train a smaller model, or use a device with more memory",
            ) from error
        self.micro_rows = -(-self.micro_rows // 2)
        self.optimizer.forget_gradient()
        if self.device.kind == "cuda":
            torch.cuda.empty_cache()
        self._halved(self.micro_rows * self.spec.seq_len)

    def norm(self) -> Tensor:
        """Norm of the gradient."""
        return self.optimizer.norm()

    def update(self, factor: float, norm: Tensor) -> None:
        """One update at `factor` of the peak rates, the gradient clipped, then cleared."""
        self.optimizer.update(factor, norm)

    def forget_gradient(self) -> None:
        """Clear every gradient."""
        self.optimizer.forget_gradient()

    def agree(self, loss: Tensor, *flags: bool) -> tuple[float, tuple[bool, ...]]:
        """The batch's loss and the flags: there is nobody else to ask."""
        return float(loss), flags

    def own_seconds(self) -> list[float]:
        """Nobody waits for this process."""
        return [1.0]

    def validate(self, windows: np.ndarray) -> tuple[float, float]:
        """Validation loss; on a CPU with the fp32 master weights, on a GPU with the working."""
        arguments = (windows, self.device.torch, self.spec.model.vocab_size)
        if self.device.kind == "cuda":
            return validation_loss(self.network, *arguments)
        with self.optimizer.full_precision():
            return validation_loss(self.network, *arguments)

    def state(self) -> dict[str, Tensor]:
        """Weights and the optimizer's state by names that no layout changes: views, to fill too."""
        found: dict[str, Tensor] = {}
        for what, tensors in self.optimizer.by_name().items():
            for name, tensor in tensors.items():
                rows = self.spec.model.joined(name)
                pieces = tensor.split(list(rows.values())) if len(rows) > 1 else (tensor,)
                for part, piece in zip(rows, pieces, strict=True):
                    found[f"{what}/{part}"] = piece
        return found

    def restored(self, updates: int) -> None:
        """To be called once state() has been filled: so many updates are made."""
        self.optimizer.restored(updates)

    @property
    def updates(self) -> int:
        """Updates made so far."""
        return self.optimizer.updates

    def weights(self) -> dict[str, Tensor]:
        """The whole model's fp32 weights by name, as views."""
        return self.optimizer.weights()
