"""One run over many processes: data, sharded, tensor and pipeline parallel, and their products.

    mesh    (pipeline, replicate, shard, tensor), processes of one machine nearest in `tensor`
    batch   cut over replicate x shard; every process reads its own windows of the same batch
    width   every matrix is sharded along the width (FSDP2), cut along another dimension
            (the architecture's sharding.py), so the two never meet in one dimension
    layers  split evenly over pipeline stages, 1F1B

All of it is torch's: DeviceMesh, fully_shard, DTensor, pipelining. The same global batch in the
same order and fp32 sums of gradients make every layout give the same losses but for rounding.

Out of memory. Where gradients are held (gradient_sums.py) and matrices are not cut, no process waits for
another between the gathering of the weights and the sum of the gradients. In the first steps of each
micro-batch size the processes agree there whether memory was enough, and all halve the micro-batch if one
lacked it. In a later step, inside a collective operation and in the update the error ends the process,
and the others end when its connections close; the run is tried again from its newest checkpoint.

Not here: the loop (loop.py), checkpoints (sharded.py), which layout to choose (the plan package).
"""

import math
import socket
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from datetime import timedelta

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.distributed_c10d import _set_pg_timeout as set_group_timeout
from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, OffloadPolicy, fully_shard
from torch.distributed.pipelining import PipelineStage, Schedule1F1B
from torch.distributed.tensor import DTensor, Shard
from torch.distributed.tensor.parallel import loss_parallel

from scalelab.errors import LaunchError, RunError
from scalelab.hardware.device import Device, OutOfMemory, free_cached_memory, reason_of
from scalelab.hardware.layout import Layout
from scalelab.hardware.local_gpu import own_gpu, refuse_shared
from scalelab.model.kernels import cross_entropy
from scalelab.model.sharding import NetworkStage
from scalelab.train.engines import probe
from scalelab.train.engines.base import Agreed
from scalelab.train.engines.compilation import compile_function, compile_network, usable_mode, validation_rows
from scalelab.train.engines.gradient_sums import GradientSums
from scalelab.train.engines.layout_checks import refuse_layout
from scalelab.train.engines.settings import configure_network
from scalelab.train.engines.starting_weights import fill_shards
from scalelab.train.evaluate import mean_losses, summary, window_losses
from scalelab.train.optimizers.per_weight import PerWeightOptimizer
from scalelab.train.spec import RunSpec
from scalelab.train.step_clock import FIRST_STEPS

DIMENSIONS = ("pipeline", "replicate", "shard", "tensor")


def join(timeout_s: float, device: Device) -> None:
    """Join the processes that the environment names (RANK, WORLD_SIZE, MASTER_ADDR, ...).

    Args:
        timeout_s: How long processes wait for one another, seconds, until the engine changes it.
        device: Of this process.

    Raises:
        LaunchError: Two processes have the same GPU.
    """
    backend = "gloo" if device.kind == "cpu" else "cpu:gloo,cuda:nccl"
    dist.init_process_group(backend, timeout=timedelta(seconds=timeout_s))
    if device.kind == "cuda":
        owners: list[tuple[str, str]] = [("", "")] * dist.get_world_size()
        dist.all_gather_object(owners, (socket.gethostname(), own_gpu()))
        refuse_shared(owners)


def agree(number: int | None) -> int:
    """A whole number of the first process, in every process."""
    shared = torch.tensor([0 if number is None else number])
    dist.broadcast(shared, src=0)
    return int(shared)


class ParallelEngine:
    """The engine of one process among many. All of them make the same calls in the same order.

    Args:
        spec: Of the run.
        layout: How it is spread; its devices are as many as there are processes.
        device: Of this process.
        precision: fp32 or bf16, of the working weights.
        hold_gradients: Whether gradients are summed over processes once a step (gradient_sums.py);
            only if every process says so.
        halved: Called in the first process with the new micro-batch, in tokens, when memory forced a
            smaller one.
    """

    def __init__(
        self,
        spec: RunSpec,
        layout: Layout,
        device: Device,
        precision: str,
        hold_gradients: bool = True,
        halved: Callable[[int], None] = lambda tokens: None,
    ):
        refuse_layout(layout, spec)
        if dist.get_world_size() != layout.devices:
            raise LaunchError(
                f"{dist.get_world_size()} processes were started, the layout asks for {layout.devices}",
                where=f"layout {layout}",
                fix="start as many processes as replicate x shard x tensor x pipeline",
            )
        self.spec, self.layout, self.device, self.precision = spec, layout, device, precision
        self._halved = halved
        sizes = tuple(getattr(layout, name) for name in DIMENSIONS)
        self.mesh = init_device_mesh(device.kind, sizes, mesh_dim_names=DIMENSIONS)
        self.stage = self.mesh.get_local_rank("pipeline")
        depth = spec.model.depth()
        cuts = [depth * i // layout.pipeline for i in range(layout.pipeline + 1)]
        self.layers = [range(cuts[i], cuts[i + 1]) for i in range(layout.pipeline)]
        self.sharding = spec.model.sharding()
        self.network = self._build()
        rows = spec.batch_tokens // spec.seq_len
        self._micro_rows = rows // (self.share[1] * layout.micro_batches)
        self._loss_rows = configure_network(self.network, spec, device, precision, self._micro_rows)
        mode = usable_mode(device, spec.compile)
        compile_network(self.network, mode)  # without CUDA graphs: gathered weights have no fixed place
        self._losses = compile_function(mean_losses, mode)
        self._steps = self.network.sign_steps()
        self.optimizer = PerWeightOptimizer(
            dict(self.network.named_parameters()), self.network.kinds(), spec.optimizer, self._steps
        )
        self._schedule = self._pipeline() if layout.pipeline > 1 else None
        held = not self._anyone(not hold_gradients)
        self._sums = GradientSums(self.network, held and self._schedule is None)
        self._tries = FIRST_STEPS
        self._share_exact()

    def _build(self) -> NetworkStage:
        layout, sharding, tensor = self.layout, self.sharding, self.mesh["tensor"]
        network = sharding.stage(self.layers[self.stage], tensor)
        network.recompute = layout.recompute
        dims = {name: sharding.width_dim(name) for name, _ in network.named_parameters()}
        by_id = {id(p): dims[name] for name, p in network.named_parameters()}
        working = torch.bfloat16 if self.precision == "bf16" else None
        options = {
            "mesh": self.mesh["replicate", "shard"],
            "mp_policy": MixedPrecisionPolicy(param_dtype=working, reduce_dtype=torch.float32),
            "offload_policy": CPUOffloadPolicy() if layout.offload else OffloadPolicy(),
            "shard_placement_fn": lambda p: Shard(by_id[id(p)]),
        }
        for block in network.blocks.values():
            fully_shard(block, **options)
        fully_shard(network, **options)
        network.to_empty(device="cpu" if layout.offload else self.device.torch)
        for buffer in network.buffers():  # where it computes, also with the weights elsewhere
            buffer.data = torch.zeros_like(buffer, device=self.device.torch)
        fill_shards(
            dict(network.named_parameters()),
            sharding.starting_pieces(self.spec.seed, tensor.get_local_rank(), tensor.size()),
            dims,
            self.mesh.get_local_rank("shard"),
            layout.shard,
        )
        return network

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

    @property
    def _is_tried(self) -> bool:
        """Whether the processes agree on a step before they sum its gradients."""
        return self._sums.is_held and self.layout.tensor == 1 and self._tries > 0

    def gradient(self, batch: Tensor) -> Tensor:
        """Gradient of this process's part of the batch; its mean loss, 0 before the last stage.

        Raises:
            RunError: Not even one window fits into memory; in every process.
        """
        if self._schedule is not None:
            return self._through_pipeline(batch)
        while self._is_tried:
            self._sums.gather()
            total, reason = None, ""
            try:
                total = self._gradient(batch, sums_last=False)
            except OutOfMemory as error:
                reason = reason_of(error)
            # Here the error is gone, and with it the frames that held the activations.
            if not self._anyone(total is None):
                self._sums.sum_held()
                self._tries -= 1
                return total
            del total
            self._halve(reason or "another process ran out of memory")
        return self._gradient(batch, sums_last=True)

    def _gradient(self, batch: Tensor, sums_last: bool) -> Tensor:
        total = torch.zeros((), dtype=torch.float64, device=batch.device)
        for start in range(0, len(batch), self._micro_rows):
            micro = batch[start : start + self._micro_rows]
            self._sums.expect(sums=sums_last and start + len(micro) == len(batch))
            loss = self.network(micro[:, :-1], micro[:, 1:]) * (len(micro) / len(batch))
            with self._backward():
                loss.backward()
            total += loss.detach()
        return total

    def _anyone(self, flag: bool) -> bool:
        """Whether any process raises a flag, by way of host memory: no device is waited for."""
        raised = torch.tensor(float(flag))
        dist.all_reduce(raised)
        return bool(raised.numpy() > 0)

    def _halve(self, reason: str) -> None:
        """Go on with half the micro-batch in every process: the same batch, the same mathematics."""
        if self._micro_rows == 1:
            raise RunError(
                f"one window of {self.spec.seq_len} tokens does not fit in the device's memory",
                where=f"{self.device.name}: {reason}",
                fix="use a layout that shares the model among more devices, or devices with more memory",
            )
        self._micro_rows = -(-self._micro_rows // 2)
        self._tries = FIRST_STEPS
        self._sums.discard()
        free_cached_memory(self.device)
        if self.is_first:
            self._halved(self._micro_rows * self.spec.seq_len)

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
        """Norm of the gradient of all that is trained, over every process."""
        gradients = [p.grad for name, p in self.network.named_parameters() if name not in self._steps]
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
        self._share_exact()
        self.zero_grad()

    def _share_exact(self) -> None:
        """Give the network the fp32 values of what it does not compute with in bf16 (Network.exact_names)."""
        if self.precision != "bf16" or not (names := self.network.exact_names()):
            return
        own = dict(self.network.named_parameters())
        whole = {name: own[name].detach().full_tensor() for name in names}
        self.network.keep_exact({name: value.to(self.device.torch) for name, value in whole.items()})

    def zero_grad(self) -> None:
        """Clear every gradient."""
        self.network.zero_grad()

    def agree(self, loss: Tensor, norm: Tensor, *flags: bool, own_seconds: float = 0.0) -> Agreed:
        """See Engine."""
        rank, n = dist.get_rank(), dist.get_world_size()
        host = torch.zeros(2 + len(flags) + n, dtype=torch.float64)
        host[2 : 2 + len(flags)] = torch.tensor(flags, dtype=torch.float64)
        host[2 + len(flags) + rank] = own_seconds
        if self.device.kind == "cuda":  # from memory that is not pinned the copy would wait for the device
            host = host.pin_memory()
        said = host.to(self.device.torch, non_blocking=True)
        if self.network.is_last:
            said[0] = loss.detach() / (self.share[1] * self.layout.tensor)
        if self.is_first:
            said[1] = norm
        dist.all_reduce(said)
        loss_, norm_, *rest = said.tolist()
        raised = tuple(value > 0 for value in rest[: len(flags)])
        return Agreed(loss_, norm_, raised, rest[len(flags) :])

    def observed(self) -> dict[str, float]:
        """See Engine."""
        return self.network.observed()

    def own_seconds(self) -> float:
        """See Engine."""
        return probe.own_seconds(self.device)

    def set_timeout(self, seconds: float) -> None:
        """Let every collective operation of the engine wait so long from now on.

        All processes first arrive here under the timeout from before: one that went ahead under a
        shorter one would give up on those that are still busy.
        """
        self.device.synchronize()
        dist.all_reduce(torch.zeros(1))  # in host memory, so that a GPU's queue plays no part
        for group in (None, *self.mesh.get_all_groups()):
            set_group_timeout(timedelta(seconds=seconds), group)

    def validate(self, windows: np.ndarray) -> tuple[float, float]:
        """Validation loss and its standard error over windows, the same in every process.

        On a CPU it is taken from the fp32 weights, gathered, as one process does it.
        """
        if self.device.kind == "cpu":
            whole = self.spec.model.network()
            whole.load_state_dict(self._gathered(everywhere=True))
            rank, n = dist.get_rank(), dist.get_world_size()
            mine = window_losses(whole, windows[rank::n], self.device.torch, self.spec.model.vocab_size)
            means = torch.zeros(len(windows), dtype=torch.float64)
            means[rank::n] = mine
            dist.all_reduce(means)
            return summary(means)
        return self.validate_in_place(windows)

    def validate_in_place(self, windows: np.ndarray) -> tuple[float, float]:
        """Return the validation loss with the working weights in place."""
        rank, n = self.share
        mine = np.array_split(np.arange(len(windows)), n)
        longest = max(len(part) for part in mine)
        rows = np.resize(mine[rank], longest)  # every process makes as many forward passes
        means = torch.zeros(len(windows), dtype=torch.float64, device=self.device.torch)
        counted = window_losses(
            self._whole_forward,
            windows[rows],
            self.device.torch,
            self.spec.model.vocab_size,
            self._validation_rows(),
            self._losses if self.network.is_last else _no_losses,
        )
        self._sums.scatter()
        if self.network.is_last and self.mesh.get_local_rank("tensor") == 0:
            means[rows] = counted.to(means.device)
        dist.all_reduce(means)
        return summary(means.cpu())

    def _validation_rows(self) -> int | None:
        number_bytes, tensor = 2 if self.precision == "bf16" else 4, self.layout.tensor
        n = self.share[1]
        return validation_rows(
            self.spec, self.device, self.micro_rows, number_bytes, self._loss_rows, n, tensor
        )

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
        self._share_exact()

    @property
    def updates(self) -> int:
        """Updates made so far."""
        return self.optimizer.updates

    def weights(self) -> dict[str, Tensor]:
        """See Engine: on the CPU. The other processes hold one weight at a time."""
        return self._gathered(everywhere=False)

    def _gathered(self, everywhere: bool) -> dict[str, Tensor]:
        """The whole model's fp32 weights by name, on the CPU, in the first process or in all."""
        found: dict[str, Tensor] = {}
        own = {name: weight.detach() for name, weight in self.network.named_parameters()}
        keeps, group = everywhere or self.is_first, self.mesh.get_group("pipeline")
        for stage in range(self.layout.pipeline):
            shapes = [{name: tuple(weight.shape) for name, weight in own.items()}]
            if self.layout.pipeline > 1:
                dist.broadcast_object_list(shapes, group=group, group_src=stage)
            for name, shape in shapes[0].items():
                if stage == self.stage:
                    parts = self._parts_of(name, own[name])
                    whole = torch.cat([part.full_tensor() for _, part in parts]).cpu()
                else:
                    whole = torch.empty(shape)
                if self.layout.pipeline > 1:
                    dist.broadcast(whole, group=group, group_src=stage)
                if keeps:
                    found[name] = whole
        return found

    def _parts_of(self, name: str, tensor: DTensor) -> Iterator[tuple[str, DTensor]]:
        """The named parts of a weight or of its state, as DTensors over the same memory."""
        rows = self.spec.model.joined(name)
        if len(rows) == 1:
            yield next(iter(rows)), tensor
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
        return self._micro_rows


def _where(parameter: Tensor) -> torch.device:
    return parameter.to_local().device if isinstance(parameter, DTensor) else parameter.device


def _no_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """Zeros in the place of losses, on a stage that has no logits; without memory for any."""
    del logits
    return torch.zeros(len(targets), dtype=torch.float64, device=targets.device)


def _loss_of_logits(logits: Tensor, targets: Tensor) -> Tensor:
    return cross_entropy(logits.flatten(0, 1), targets.reshape(-1))
