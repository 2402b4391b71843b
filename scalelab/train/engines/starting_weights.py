"""Starting values of a sharded network, filled in shard by shard.

    network on the meta device -> fully_shard -> memory for the shards alone -> one weight at a time

The values are those of the whole model: every process draws all weights in the same order, one at a
time in host memory, and keeps its part. The most that a process holds is its shards and one weight
with what it is made from.

Not here: the values (the architecture's sharding.py), checkpoints, which overwrite them.
"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor


def fill_shards(
    parameters: Mapping[str, DTensor],
    values: Iterable[tuple[str, Tensor]],
    dims: Mapping[str, int],
    rank: int,
    shards: int,
) -> None:
    """Fill the shards of one process.

    Args:
        parameters: Sharded weights of this process by name.
        values: Every weight of the model by name, as it is before it is sharded; others are passed over.
        dims: Dimension along which each weight is sharded.
        rank: Number of this process among those that share a weight, from 0.
        shards: Number of these processes.
    """
    missing = set(parameters)
    with torch.no_grad():
        for name, value in values:
            if name in parameters:
                mine = _shard(value, dims[name], rank, shards)
                parameters[name].to_local().copy_(mine)
                missing.discard(name)
    assert not missing, f"no starting values for {', '.join(sorted(missing))}"


def _shard(value: Tensor, dim: int, rank: int, shards: int) -> Tensor:
    """Return the part of a weight that FSDP gives to a process; the last ones may be short or empty."""
    parts = value.chunk(shards, dim)
    return parts[rank] if rank < len(parts) else value.narrow(dim, 0, 0)
