"""How an architecture is spread over processes: what train/engines/parallel.py asks of it.

    width   every matrix is sharded along the width, and cut along another dimension
    layers  split evenly over pipeline stages

Not here: the processes, the optimizer and the exchanges between them (train/engines/parallel.py).
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator

from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from scalelab.model.base import Architecture
from scalelab.model.network import Network


class NetworkStage(Network):
    """A network, or one stage of a pipeline: then x and the result may be of shape (B, T, C)."""

    is_first: bool
    """Whether it reads tokens."""
    is_last: bool
    """Whether it gives logits, or a loss."""
    recompute: bool
    """Whether activations inside a block are forgotten and computed again on the way back."""
    blocks: nn.ModuleDict
    """The blocks that are here, each of which is gathered on its own."""


class Sharding(ABC):
    """The cuts of one model."""

    def __init__(self, config: Architecture):
        self.config = config

    @abstractmethod
    def stage(self, layers: range, mesh: DeviceMesh) -> NetworkStage:
        """A stage on the meta device, so without values, its weights cut over `mesh` as DTensors.

        Args:
            layers: The blocks of this stage.
            mesh: One dimension; of size 1 it leaves the weights whole, and plain tensors.
        """

    @abstractmethod
    def starting_pieces(self, seed: int, rank: int, degree: int) -> Iterator[tuple[str, Tensor]]:
        """Starting values of the whole model by name, cut as `stage` cuts: one weight at a time, on the CPU.

        Put together, the pieces are what Network.reset sets for the same seed, to the last bit.

        Args:
            seed: Decides the values.
            rank: Number of the process in the mesh of `stage`, from 0.
            degree: Size of this mesh.
        """

    @abstractmethod
    def width_dim(self, name: str) -> int:
        """Along which dimension a weight is sharded: the width, which `stage` never cuts."""

    @abstractmethod
    def cut_dim(self, name: str) -> int | None:
        """Along which dimension a weight is cut by `stage`; None where it is not."""
