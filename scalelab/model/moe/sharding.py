"""How a mixture of experts is spread: copies, shards along the width, and pipeline stages.

Matrices are not cut, so there is no tensor-parallel layout, and experts are not spread over processes: each
process computes all experts on its own tokens. Where a block adds to the loss there are no pipeline stages
either, since a stage hands on the residual stream alone (config.py, `refused`).

Not here: the processes (train/engines/parallel.py).
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from scalelab.model.moe.config import Moe
from scalelab.model.moe.network import MoeNet
from scalelab.model.sharding import Sharding
from scalelab.model.transformer.network import starting_values

WIDTH_FIRST = {"out", "shared_out"}
"""Matrices whose first dimension is the width; of the others it is the last."""


class MoeSharding(Sharding):
    """Every matrix is sharded along the width, and none is cut."""

    config: Moe

    def stage(self, layers: range, mesh: DeviceMesh) -> MoeNet:
        """See Sharding. The mesh is of size 1."""
        assert mesh.size() == 1, "the architecture refuses tensor-parallel layouts"
        with torch.device("meta"):
            return MoeNet(self.config, layers)

    def starting_pieces(self, seed: int, rank: int, degree: int) -> Iterator[tuple[str, Tensor]]:
        """See Sharding."""
        del rank, degree
        yield from starting_values(self.config, seed, MoeNet)

    def width_dim(self, name: str) -> int:
        """See Sharding."""
        leaf = name.rsplit(".")[-1]
        return 0 if leaf in WIDTH_FIRST or leaf.startswith("norm") or leaf == "load_bias" else 1

    def cut_dim(self, name: str) -> int | None:
        """See Sharding."""
        del name
        return None
