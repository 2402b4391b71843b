"""Tensor parallelism: a transformer whose matrices are cut over processes.

Heads, the feed-forward width and the vocabulary are cut; the residual stream is not.

    qkv, gate_up, up   rows     x enters whole, each process computes its heads and columns
    out, down          columns  what the processes give is summed
    embedding, head    rows     the loss is computed over the cut vocabulary
    norms, positions   not at all

Joined matrices (qkv, gate_up) are cut part by part, so that every process has the queries, keys
and values of its own heads.

Every exchange is torch's own (DTensor, loss_parallel). The network itself stays as it is: it
asks its `cut` for weights and for the exchanges around them.

Source: Shoeybi et al. 2019 (Megatron-LM), arXiv:1909.08053.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard
from torch.distributed.tensor.parallel import loss_parallel
from torch.nn.functional import cross_entropy, embedding

from scalelab.model.sharding import Sharding
from scalelab.model.transformer.config import Transformer
from scalelab.model.transformer.network import TransformerNet, starting_values
from scalelab.model.transformer.unsharded import Unsharded

CUT_DIM = {"qkv": 0, "gate_up": 0, "up": 0, "out": 1, "down": 1, "embedding": 0, "head": 0}
"""Along which dimension a matrix is cut; others are not."""

WIDTH_DIM = {"qkv": 1, "gate_up": 1, "up": 1, "out": 0, "down": 0, "embedding": 1, "positions": 1, "head": 1}
"""Which dimension of a matrix is d_model: never the one that is cut."""


class TensorCut(Unsharded):
    """Matrices cut over the processes of `mesh`, which has one dimension."""

    has_whole_head = False
    compiles_loss = False  # cross-entropy of a DTensor inside loss_parallel fails while it is traced

    def __init__(self, mesh: DeviceMesh):
        self.mesh = mesh

    def weight(self, parameter: Tensor) -> Tensor:
        """The piece of a weight that is here."""
        return parameter.to_local()

    def gain_of_heads(self, parameter: Tensor) -> Tensor:
        """A gain of all heads: its gradient is the sum over the processes' heads."""
        return parameter.to_local(grad_placements=[Partial()])

    def enter(self, x: Tensor) -> Tensor:
        """What every process has; on the way back the pieces' gradients are summed."""
        whole = DTensor.from_local(x, self.mesh, [Replicate()], run_check=False)
        return whole.to_local(grad_placements=[Partial()])

    def leave(self, x: Tensor) -> Tensor:
        """What the pieces gave, summed over the processes."""
        pieces = DTensor.from_local(x, self.mesh, [Partial()], run_check=False)
        return pieces.redistribute(placements=[Replicate()]).to_local()

    def embed(self, tokens_R: Tensor, weight_VC: Tensor) -> Tensor:
        """The embedding of each token from whichever process holds it, shape (R, C)."""
        tokens = DTensor.from_local(tokens_R, self.mesh, [Replicate()], run_check=False)
        return embedding(tokens, weight_VC).redistribute(placements=[Replicate()]).to_local()

    def _over_vocabulary(self, logits_RV: Tensor, vocab_size: int) -> DTensor:
        shape = torch.Size((len(logits_RV), vocab_size))
        return DTensor.from_local(
            logits_RV, self.mesh, [Shard(1)], run_check=False, shape=shape, stride=(vocab_size, 1)
        )

    def loss(self, logits_RV: Tensor, targets_R: Tensor, vocab_size: int) -> Tensor:
        """Mean loss over the cut vocabulary, the same number in every process."""
        logits = self._over_vocabulary(logits_RV.float(), vocab_size)
        with loss_parallel():
            return cross_entropy(logits, targets_R).to_local()

    def whole_logits(self, logits_RV: Tensor, vocab_size: int) -> Tensor:
        """The logits of the whole vocabulary in every process, shape (R, V)."""
        return self._over_vocabulary(logits_RV, vocab_size).full_tensor()


class TransformerSharding(Sharding):
    """Heads, feed-forward width and vocabulary are cut, and d_model is sharded."""

    config: Transformer

    def stage(self, layers: range, mesh: DeviceMesh) -> TransformerNet:
        """See Sharding. Heads and d_ff must be divisible by the size of the mesh."""
        config, degree = self.config, mesh.size()
        here = config.model_copy(
            update={
                "n_heads": config.n_heads // degree,
                "n_kv_heads": config.n_kv_heads // degree,
                "d_ff": config.d_ff // degree,
            }
        )
        with torch.device("meta"):
            network = TransformerNet(here, layers)
            if degree == 1:
                return network
            whole = dict(TransformerNet(config, layers).named_parameters())
        for name, weight in whole.items():
            owner, _, leaf = name.rpartition(".")
            dim = self.cut_dim(name)
            piece = DTensor.from_local(
                cut_piece(config, name, weight.detach(), mesh.get_local_rank(), degree),
                mesh,
                [Replicate() if dim is None else Shard(dim)],
                run_check=False,
                shape=weight.shape,
                stride=weight.stride(),
            )
            setattr(network.get_submodule(owner), leaf, nn.Parameter(piece))
        for module in network.modules():
            if hasattr(module, "cut"):
                module.cut = TensorCut(mesh)
        return network

    def starting_pieces(self, seed: int, rank: int, degree: int) -> Iterator[tuple[str, Tensor]]:
        """See Sharding."""
        for name, whole in starting_values(self.config, seed):
            yield name, cut_piece(self.config, name, whole, rank, degree)

    def width_dim(self, name: str) -> int:
        """See Sharding."""
        return WIDTH_DIM.get(name.rsplit(".")[-1], 0)

    def cut_dim(self, name: str) -> int | None:
        """See Sharding."""
        return CUT_DIM.get(name.rsplit(".")[-1])


def cut_piece(config: Transformer, name: str, whole: Tensor, rank: int, degree: int) -> Tensor:
    """The piece of a whole weight that process `rank` of `degree` holds.

    Args:
        config: The model.
        name: Name of the weight.
        whole: The uncut weight, in the shape that the network has it.
        rank: Number of the process, from 0.
        degree: Number of processes that share the weight.
    """
    dim = CUT_DIM.get(name.rsplit(".")[-1])
    if dim is None or degree == 1:
        return whole
    rows = list(config.joined(name).values())
    joined = whole.split(rows) if rows != [-1] else (whole,)
    return torch.cat([_piece(part, dim, rank, degree) for part in joined])


def _piece(whole: Tensor, dim: int, rank: int, degree: int) -> Tensor:
    """As Shard cuts: equal pieces, the last of them short where it does not divide."""
    size, step = whole.shape[dim], -(-whole.shape[dim] // degree)
    start = min(rank * step, size)
    return whole.narrow(dim, start, min(step, size - start))
