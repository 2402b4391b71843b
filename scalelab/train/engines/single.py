"""One run in one process: the network, its flat optimizer, and micro-batches that fit.

Not here: many processes (parallel.py), the loop (loop.py).
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from scalelab.errors import RunError
from scalelab.hardware.device import Device, OutOfMemory, free_cached_memory, reason_of
from scalelab.train.engines.base import Agreed
from scalelab.train.engines.compilation import compile_function, compile_network, usable_mode, validation_rows
from scalelab.train.engines.settings import configure_network, uses_cuda_graphs
from scalelab.train.evaluate import mean_losses, validation_loss
from scalelab.train.optimizers.flat import FlatOptimizer
from scalelab.train.spec import RunSpec


class SingleEngine:
    """The engine of a process that holds the whole model.

    Args:
        spec: Of the run.
        device: Of this process.
        precision: fp32 or bf16, of the working weights.
        micro_rows: Windows to work on at once.
        halved: Called with the new micro-batch, in tokens, when memory forced a smaller one.
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
        loss_rows = configure_network(self.network, spec, device, precision, micro_rows)
        mode = usable_mode(device, spec.compile)
        self.cuda_graphs = uses_cuda_graphs(spec, device, mode, micro_rows)
        """Whether the network is replayed as CUDA graphs."""
        compile_network(self.network, mode, self.cuda_graphs)
        self._losses = compile_function(mean_losses, mode)
        self._validation_rows = validation_rows(spec, device, micro_rows, working.itemsize, loss_rows)

    share = (0, 1)
    is_first = True

    def gradient(self, batch: Tensor) -> Tensor:
        """Gradient of the batch, in as many micro-batches as memory asks for; its mean loss."""
        while True:
            try:
                return self._gradient(batch)
            except OutOfMemory as error:
                reason = reason_of(error)
            # Here the error is gone, and with it the frames that held the activations.
            self._halve(reason)

    def _gradient(self, batch: Tensor) -> Tensor:
        total = torch.zeros((), dtype=torch.float64, device=self.device.torch)
        for start in range(0, len(batch), self.micro_rows):
            micro = batch[start : start + self.micro_rows]
            self._begin_pass()
            loss = self.network(micro[:, :-1], micro[:, 1:]) * (len(micro) / len(batch))
            loss.backward()
            self.optimizer.gather()
            total += loss.detach()
        return total

    def _begin_pass(self) -> None:
        """Let CUDA graphs overwrite what the last pass gave; by now its gradient is added up."""
        if self.cuda_graphs:
            torch.compiler.cudagraph_mark_step_begin()

    def drop_graphs(self) -> None:
        """Free CUDA graphs of another shape, with the memory in which they were recorded."""
        if self.cuda_graphs:
            torch.compiler.reset()

    def _forward(self, tokens: Tensor) -> Tensor:
        """Logits of a pass of its own, shape (B, T, V)."""
        self._begin_pass()
        return self.network(tokens)

    def _halve(self, reason: str) -> None:
        """Go on with half the micro-batch: the same batch, the same mathematics."""
        if self.micro_rows == 1:
            raise self._too_large(reason)
        self.micro_rows = -(-self.micro_rows // 2)
        self.optimizer.zero_grad()
        self.drop_graphs()
        free_cached_memory(self.device)
        self._halved(self.micro_rows * self.spec.seq_len)

    def _too_large(self, reason: str) -> RunError:
        return RunError(
            f"one window of {self.spec.seq_len} tokens does not fit in the device's memory",
            where=f"{self.device.name}: {reason}",
            fix="train a smaller model, or use a device with more memory",
        )

    def norm(self) -> Tensor:
        """Norm of the gradient."""
        return self.optimizer.norm()

    def update(self, factor: float, norm: Tensor) -> None:
        """One update at `factor` of the peak rates, the gradient clipped, then cleared."""
        self.optimizer.update(factor, norm)

    def zero_grad(self) -> None:
        """Clear every gradient."""
        self.optimizer.zero_grad()

    def agree(self, loss: Tensor, norm: Tensor, *flags: bool, own_seconds: float = 0.0) -> Agreed:
        """See Engine. There is no other process, and the device is waited for once."""
        loss_, norm_ = torch.stack((loss.detach().double(), norm.double())).tolist()
        return Agreed(loss_, norm_, flags, [own_seconds])

    def observed(self) -> dict[str, float]:
        """See Engine."""
        return self.network.observed()

    def own_seconds(self) -> float:
        """See Engine. No other process waits for this one, so nothing is measured."""
        return 0.0

    def set_timeout(self, seconds: float) -> None:
        """Nobody waits for this process."""

    def validate(self, windows: np.ndarray) -> tuple[float, float]:
        """Validation loss; on a CPU with the fp32 master weights, on a GPU with the working.

        Raises:
            RunError: Not even one window fits into memory.
        """
        while True:
            try:
                if self.device.kind == "cuda":
                    return self._validate(windows)
                with self.optimizer.full_precision():
                    return self._validate(windows)
            except OutOfMemory as error:
                reason = reason_of(error)
            rows = self._validation_rows or len(windows)
            if rows == 1:
                raise self._too_large(reason)
            self._validation_rows = -(-rows // 2)
            self.drop_graphs()
            free_cached_memory(self.device)

    def _validate(self, windows: np.ndarray) -> tuple[float, float]:
        where, vocab_size = self.device.torch, self.spec.model.vocab_size
        return validation_loss(self._forward, windows, where, vocab_size, self._validation_rows, self._losses)

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
