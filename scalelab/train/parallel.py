"""One run over many processes: data, sharded, tensor and pipeline parallel, and their products.

    mesh    (pipeline, replicate, shard, tensor), processes of one machine nearest in `tensor`
    batch   cut over replicate x shard; every process reads its own windows of the same batch
    width   every matrix is sharded along the width (FSDP2), cut along another dimension
            (the architecture's sharding.py), so the two never meet in one dimension
    layers  split evenly over pipeline stages, 1F1B

All of it is torch's: DeviceMesh, fully_shard, DTensor, pipelining. The same global batch in the
same order and fp32 sums of gradients make every layout give the same losses but for rounding.

Not here: the loop (loop.py), checkpoints (sharded.py), which layout to choose (the plan room).
"""

import math
import time
from collections.abc import Iterator
from contextlib import nullcontext
from datetime import timedelta

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
)
from torch.distributed.pipelining import PipelineStage, Schedule1F1B
from torch.distributed.tensor import DTensor, Shard
from torch.distributed.tensor.parallel import loss_parallel

from scalelab.errors import LaunchError
from scalelab.model.kernels import cross_entropy
from scalelab.model.sharding import Stage
from scalelab.train.device import Device
from scalelab.train.divide import refuse_layout
from scalelab.train.evaluate import summary, window_losses
from scalelab.train.layout import Layout
from scalelab.train.optimizers.per_weight import PerWeight
from scalelab.train.spec import RunSpec

PROBE_WIDTH = 256
DIMENSIONS = ("pipeline", "replicate", "shard", "tensor")


def join(timeout_s: float, device: Device) -> None:
    """Join the processes that the environment names (RANK, WORLD_SIZE, MASTER_ADDR, ...)."""
    backend = "gloo" if device.kind == "cpu" else "cpu:gloo,cuda:nccl"
    dist.init_process_group(backend, timeout=timedelta(seconds=timeout_s))


def agree(number: int | None) -> int:
    """A whole number of the first process, in every process."""
    shared = torch.tensor([0 if number is None else number])
    dist.broadcast(shared, src=0)
    return int(shared)


class Parallel:
    """The engine of one process among many. All of them make the same calls in the same order.

    Args:
        spec: Of the run.
        layout: How it is spread; its devices are as many as there are processes.
        device: Of this process.
        precision: fp32 or bf16, of the working weights.
    """

    def __init__(self, spec: RunSpec, layout: Layout, device: Device, precision: str):
        refuse_layout(layout, spec)
        if dist.get_world_size() != layout.devices:
            raise LaunchError(
                f"{dist.get_world_size()} processes were started, the layout asks for "
                f"{layout.devices}",
                where=f"layout {layout}",
                fix="start as many processes as replicate x shard x tensor x pipeline",
            )
        self.spec, self.layout, self.device, self.precision = spec, layout, device, precision
        sizes = tuple(getattr(layout, name) for name in DIMENSIONS)
        self.mesh = init_device_mesh(device.kind, sizes, mesh_dim_names=DIMENSIONS)
        self.stage = self.mesh.get_local_rank("pipeline")
        depth = spec.model.depth()
        cuts = [depth * i // layout.pipeline for i in range(layout.pipeline + 1)]
        self.layers = [range(cuts[i], cuts[i + 1]) for i in range(layout.pipeline)]
        self.sharding = spec.model.sharding()
        self.network = self._build()
        self.optimizer = PerWeight(
            dict(self.network.named_parameters()), self.network.kinds(), spec.optimizer
        )
        self._schedule = self._pipeline() if layout.pipeline > 1 else None
        self.forward = self.network
        if device.kind == "cuda" and self._schedule is None:
            self.forward = torch.compile(self.network)

    def _build(self) -> Stage:
        layout, sharding, tensor = self.layout, self.sharding, self.mesh["tensor"]
        network = sharding.stage(self.layers[self.stage], self.spec.seed, tensor)
        network.recompute = layout.recompute
        widths = {id(p): sharding.width_dim(name) for name, p in network.named_parameters()}
        working = torch.bfloat16 if self.precision == "bf16" else None
        options = {
            "mesh": self.mesh["replicate", "shard"],
            "mp_policy": MixedPrecisionPolicy(param_dtype=working, reduce_dtype=torch.float32),
            "offload_policy": CPUOffloadPolicy() if layout.offload else OffloadPolicy(),
            "shard_placement_fn": lambda p: Shard(widths[id(p)]),
        }
        for block in network.blocks.values():
            fully_shard(block, **options)
        return fully_shard(network, **options)

    def _pipeline(self) -> Schedule1F1B:
        stage = PipelineStage(
            self.network,
            self.stage,
            self.layout.pipeline,
            self.device.torch,
            group=self.mesh.get_group("pipeline"),
        )
        return Schedule1F1B(stage, self.layout.micro_batches, loss_fn=_loss_of_logits)

    @property
    def share(self) -> tuple[int, int]:
        """Which part of every batch this process reads, and of how many."""
        rank = self.mesh.get_local_rank("replicate") * self.layout.shard
        return rank + self.mesh.get_local_rank("shard"), self.layout.replicate * self.layout.shard

    @property
    def is_first(self) -> bool:
        """Whether this process writes what is written once."""
        return dist.get_rank() == 0

    def gradient(self, batch: Tensor) -> Tensor:
        """Gradient of this process's part of the batch; its mean loss, 0 before the last stage."""
        if self._schedule is not None:
            return self._through_pipeline(batch)
        rows = len(batch) // self.layout.micro_batches
        total = torch.zeros((), dtype=torch.float64, device=batch.device)
        for start in range(0, len(batch), rows):
            micro = batch[start : start + rows]
            loss = self.forward(micro[:, :-1], micro[:, 1:]) * (len(micro) / len(batch))
            with self._backward():
                loss.backward()
            total += loss.detach()
        return total

    def _backward(self):
        return loss_parallel() if self.layout.tensor > 1 else nullcontext()

    def _through_pipeline(self, batch: Tensor) -> Tensor:
        tokens, targets, losses = batch[:, :-1], batch[:, 1:], []
        if self.network.is_first:
            self._schedule.step(tokens.contiguous(), return_outputs=False)
        elif self.network.is_last:
            self._schedule.step(target=targets.contiguous(), losses=losses, return_outputs=False)
        else:
            self._schedule.step(return_outputs=False)
        total = torch.zeros((), dtype=torch.float64, device=batch.device)
        return total + torch.stack(losses).mean() if losses else total

    def norm(self) -> Tensor:
        """Norm of the whole gradient, over every process."""
        gradients = [p.grad for p in self.network.parameters()]
        norm = nn.utils.get_total_norm(gradients)
        norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        if self.layout.pipeline > 1:
            square = norm.square()
            dist.all_reduce(square, group=self.mesh.get_group("pipeline"))
            norm = square.sqrt()
        return norm

    def update(self, factor: float, norm: Tensor) -> None:
        """One update at `factor` of the peak rates, the gradient clipped."""
        most = self.spec.optimizer.max_norm()
        if most is not None:
            share = (most / (norm + 1e-6)).clamp_(max=1.0)
            for parameter in self.network.parameters():
                parameter.grad.to_local().mul_(share.to(_where(parameter)))
        self.optimizer.set_factor(factor)
        self.optimizer.step()
        self.forget_gradient()

    def forget_gradient(self) -> None:
        """Clear every gradient."""
        self.network.zero_grad()

    def agree(self, loss: Tensor, *flags: bool) -> tuple[float, tuple[bool, ...]]:
        """The batch's loss, and whether any process raised each flag: the same everywhere."""
        said = torch.tensor([0.0, *map(float, flags)], dtype=torch.float64)
        copies = self.share[1] * self.layout.tensor
        if self.network.is_last:
            said[0] = float(loss.detach()) / copies
        said = said.to(self.device.torch)
        dist.all_reduce(said)
        loss_everywhere, *raised = said.tolist()
        return loss_everywhere, tuple(value > 0 for value in raised)

    def own_seconds(self) -> list[float]:
        """How long every process takes for the same small piece of work, by rank.

        The steps themselves do not tell: in them all wait for the slowest.
        """
        square = torch.ones(PROBE_WIDTH, PROBE_WIDTH, device=self.device.torch)
        taken = []
        for _ in range(3):
            begun = time.perf_counter()
            float((square @ square).sum())
            taken.append(time.perf_counter() - begun)
        every = torch.zeros(dist.get_world_size(), dtype=torch.float64, device=self.device.torch)
        every[dist.get_rank()] = min(taken)
        dist.all_reduce(every)
        return every.tolist()

    def validate(self, windows: np.ndarray) -> tuple[float, float]:
        """Validation loss and its standard error over windows, the same in every process.

        On a CPU it is taken from the fp32 weights, gathered, as one process does it.
        """
        if self.device.kind == "cpu":
            whole = self.spec.model.network()
            whole.load_state_dict(self.weights())
            rank, n = dist.get_rank(), dist.get_world_size()
            mine = window_losses(
                whole, windows[rank::n], self.device.torch, self.spec.model.vocab_size
            )
            means = torch.zeros(len(windows), dtype=torch.float64)
            means[rank::n] = mine
            dist.all_reduce(means)
            return summary(means)
        return self.validate_in_place(windows)

    def validate_in_place(self, windows: np.ndarray) -> tuple[float, float]:
        """The same with the working weights where they are."""
        rank, n = self.share
        mine = np.array_split(np.arange(len(windows)), n)
        longest = max(len(part) for part in mine)
        rows = np.resize(mine[rank], longest)  # every process makes as many forward passes
        means = torch.zeros(len(windows), dtype=torch.float64, device=self.device.torch)
        counted = window_losses(
            self._whole_forward, windows[rows], self.device.torch, self.spec.model.vocab_size
        )
        if self.network.is_last and self.mesh.get_local_rank("tensor") == 0:
            means[rows] = counted.to(means.device)
        dist.all_reduce(means)
        return summary(means.cpu())

    def _whole_forward(self, tokens: Tensor) -> Tensor:
        """Logits from one pass through all stages; zeros before the last."""
        if self.layout.pipeline == 1:
            return self.network(tokens)
        group = self.mesh.get_group("pipeline")
        x = tokens
        if not self.network.is_first:
            dtype = torch.bfloat16 if self.precision == "bf16" else torch.float32
            shape = (*tokens.shape, self.spec.model.width())
            x = torch.empty(shape, dtype=dtype, device=tokens.device)
            dist.recv(x, group=group, group_src=self.stage - 1)
        y = self.network(x)
        if self.network.is_last:
            return y
        dist.send(y.contiguous(), group=group, group_dst=self.stage + 1)
        vocab_size = self.spec.model.vocab_size
        return torch.zeros(1, device=tokens.device).expand(*tokens.shape, vocab_size)

    def state(self) -> dict[str, Tensor]:
        """Weights and the optimizer's state by names that no layout changes: views, to fill too."""
        found: dict[str, Tensor] = {}
        for name, parameter in self.network.named_parameters():
            tensors = {"weight": parameter.detach(), **self.optimizer.kept(parameter)}
            for what, tensor in tensors.items():
                for part, view in self._parts_of(name, tensor):
                    found[f"{what}/{part}"] = view
        return found

    def restored(self, updates: int) -> None:
        """To be called once state() has been filled: so many updates are made."""
        self.optimizer.restored(updates)

    @property
    def updates(self) -> int:
        """Updates made so far."""
        return self.optimizer.updates

    def weights(self) -> dict[str, Tensor]:
        """The whole model's fp32 weights by name, in every process, on the CPU."""
        mine: dict[str, Tensor] = {}
        for name, parameter in self.network.named_parameters():
            pieces = self._parts_of(name, parameter.detach())
            mine[name] = torch.cat([piece.full_tensor().cpu() for _, piece in pieces])
        if self.layout.pipeline == 1:
            return mine
        group, every = self.mesh.get_group("pipeline"), {}
        for stage in range(self.layout.pipeline):
            sent = [mine if stage == self.stage else None]
            dist.broadcast_object_list(sent, group=group, group_src=stage)
            every |= sent[0]
        return every

    def _parts_of(self, name: str, tensor: DTensor) -> Iterator[tuple[str, DTensor]]:
        """The named parts of a weight or of its state, as DTensors over the same memory."""
        rows = self.spec.model.joined(name)
        if len(rows) == 1:
            yield name, tensor
            return
        local, start = tensor.to_local(), 0
        degree = self.layout.tensor if self.sharding.cut_dim(name) == 0 else 1
        for part, count in rows.items():
            here = count // degree
            shape = torch.Size((count, *tensor.shape[1:]))
            yield (
                part,
                DTensor.from_local(
                    local[start : start + here],
                    tensor.device_mesh,
                    tensor.placements,
                    run_check=False,
                    shape=shape,
                    stride=(math.prod(shape[1:]), 1),
                ),
            )
            start += here

    @property
    def micro_rows(self) -> int:
        """Windows that a process works on at once."""
        rows = self.spec.batch_tokens // self.spec.seq_len
        return rows // (self.share[1] * self.layout.micro_batches)


def _where(parameter: Tensor) -> torch.device:
    return parameter.to_local().device if isinstance(parameter, DTensor) else parameter.device


def _loss_of_logits(logits: Tensor, targets: Tensor) -> Tensor:
    return cross_entropy(logits.flatten(0, 1), targets.reshape(-1))
