"""A transformer with mixtures of experts: the torch module.

Notable:
- routing is computed in fp32 throughout. Where the working weights are bf16, router and bias are read from their fp32
  values (`keep_exact`): bf16 numbers near 0.3 are 0.002 apart, twice the default bias_step, so rounded ones would
  follow steps of the bias in jumps and give some tokens other experts;
- tokens are sorted by their expert; on a GPU in bf16 the experts are grouped matrix products
  (torch.nn.functional.grouped_mm), elsewhere a loop over the experts that have tokens;
- all experts of a block share a matrix on each side, the width last, so that it is sharded along the width;
- the bias that balances the load is a parameter whose "gradient" is load - mean load. It is summed over
  micro-batches and processes and saved in checkpoints as gradients and weights are; `sign_steps` says that no
  optimizer trains it;
- losses of the routing are added to the loss that is trained on with value zero: gradients change, the number
  that is reported does not.

The grouped products have been run on a CPU only, against the loop, and never on a GPU.

Shapes: B batch, T time, R = B*T rows, K top_k, N = R*K, E experts, F width of an expert, C width.
Not here: dimensions, formulas and sources (config.py), layouts (sharding.py).
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn.functional import grouped_mm
from torch.nn.functional import linear as torch_linear

from scalelab.model.kernels import feed_forward_activation
from scalelab.model.moe.config import Moe
from scalelab.model.products import linear
from scalelab.model.transformer.network import AttentionBlock, TransformerNet

ALIGNED_BYTES = 16
"""Rows of a matrix in a grouped product begin at multiples of this."""
LEAST_PRODUCT = 2**22
"""Multiplications into an expert below which a call of oneDNN costs more than it saves (model/products.py)."""


class _CountLoad(Function):
    """Weights unchanged; on the way back the excess load of each expert becomes the gradient of its bias."""

    @staticmethod
    def forward(ctx: Any, weights: Tensor, bias_E: Tensor, excess_E: Tensor) -> Tensor:
        ctx.save_for_backward(excess_E)
        ctx.dtype = bias_E.dtype
        return weights.view_as(weights)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        (excess_E,) = ctx.saved_tensors
        return grad, excess_E.to(ctx.dtype), None


class MoeBlock(AttentionBlock):
    """One layer: attention and a mixture of experts, each normed before and added after."""

    config: Moe
    written_by = ("out", "experts_out", "shared_out")

    def __init__(self, config: Moe):
        super().__init__(config)
        c, sides = config, 2 if config.activation == "swiglu" else 1
        self.router = nn.Parameter(torch.empty(c.n_experts, c.d_model))
        if c.balance == "bias":
            self.load_bias = nn.Parameter(torch.zeros(c.n_experts))
        self.experts_in = nn.Parameter(torch.empty(c.n_experts * sides * c.d_ff, c.d_model))
        self.experts_out = nn.Parameter(torch.empty(c.n_experts * c.d_ff, c.d_model))
        self._exact: dict[str, Tensor] = {}
        self.register_buffer("load_counts", torch.zeros(c.n_experts), persistent=False)
        if c.n_shared:
            self.shared_in = nn.Parameter(torch.empty(sides * c.n_shared * c.d_ff, c.d_model))
            self.shared_out = nn.Parameter(torch.empty(c.d_model, c.n_shared * c.d_ff))

    @staticmethod
    def fan_in(config: Moe, leaf: str, shape: torch.Size) -> int:
        """See AttentionBlock. experts_out lies with the width last."""
        return config.d_ff if leaf == "experts_out" else shape[1]

    def feed_forward(self, x: Tensor, batch: int) -> tuple[Tensor, Tensor | None]:
        """See AttentionBlock."""
        c, (logits_RE, scores_RE, chosen_RK) = self.config, self.routed(x)
        load_E = chosen_RK.new_zeros(c.n_experts, dtype=torch.float32)
        load_E.scatter_add_(
            0, chosen_RK.reshape(-1), torch.ones_like(chosen_RK.reshape(-1), dtype=torch.float32)
        )
        if torch.is_grad_enabled():
            self.load_counts.add_(load_E)
        weights_RK = scores_RE.gather(1, chosen_RK)
        if c.top_k > 1:
            weights_RK = weights_RK / weights_RK.sum(-1, keepdim=True)
        if c.balance == "bias":
            weights_RK = _CountLoad.apply(weights_RK, self.load_bias, load_E - load_E.mean())
        y_RC = self._mixed(x, chosen_RK, weights_RK.to(x.dtype), load_E)
        if c.n_shared:
            hidden = feed_forward_activation(linear(x, self.shared_in), c.activation)
            y_RC = y_RC + linear(hidden, self.shared_out)
        return y_RC, self._losses(logits_RE, scores_RE, chosen_RK, batch) if c.has_losses else None

    def routed(self, x_RC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits and scores of all experts, shape (R, E), and those that are chosen, shape (R, K)."""
        c, router_EC = self.config, self.router.float()
        if "router" in self._exact:  # the fp32 value, and the gradient of the working one
            router_EC = self._exact["router"] + (router_EC - router_EC.detach())
        logits_RE = torch_linear(x_RC.float(), router_EC)
        scores_RE = logits_RE.sigmoid() if c.scores == "sigmoid" else logits_RE.softmax(-1)
        preferred_RE = scores_RE.detach()
        if c.balance == "bias":
            preferred_RE = preferred_RE + self._exact.get("load_bias", self.load_bias.detach().float())
        return logits_RE, scores_RE, preferred_RE.topk(c.top_k, dim=-1).indices

    def keep_exact(self, leaf: str, value: Tensor) -> None:
        """Compute with an fp32 value of the router or the bias from now on. See Network."""
        if leaf in self._exact:
            self._exact[leaf].copy_(value)
        else:
            self._exact[leaf] = value

    def _losses(self, logits_RE: Tensor, scores_RE: Tensor, chosen_RK: Tensor, batch: int) -> Tensor:
        c, lost = self.config, logits_RE.new_zeros(())
        if c.balance == "loss":
            share_BE = (scores_RE / scores_RE.sum(-1, keepdim=True)).view(batch, -1, c.n_experts).mean(1)
            chosen_BN = chosen_RK.view(batch, -1)
            load_BE = torch.zeros_like(share_BE)
            load_BE = load_BE.scatter_add(1, chosen_BN, torch.ones_like(chosen_BN, dtype=load_BE.dtype))
            load_BE = load_BE * (c.n_experts / chosen_BN.shape[1])
            lost = lost + c.balance_weight * (load_BE * share_BE).sum(1).mean()
        if c.z_weight:
            lost = lost + c.z_weight * logits_RE.logsumexp(-1).square().mean()
        return lost

    def _mixed(self, x_RC: Tensor, chosen_RK: Tensor, weights_RK: Tensor, load_E: Tensor) -> Tensor:
        """What the chosen experts give, weighted and summed, shape (R, C)."""
        c, (R, K) = self.config, chosen_RK.shape
        order_N = chosen_RK.reshape(-1).argsort(stable=True)
        # Rows are repeated before they are sorted: on the way back each place is written once.
        sorted_NC = x_RC[:, None].expand(R, K, -1).reshape(R * K, -1)[order_N]
        inner_EDC = self.experts_in.view(c.n_experts, -1, c.d_model)
        outer_EFC = self.experts_out.view(c.n_experts, c.d_ff, c.d_model)
        compute = grouped_experts if uses_groups(x_RC, inner_EDC, c.d_ff) else looped_experts
        given_NC = compute(sorted_NC, inner_EDC, outer_EFC, load_E, c.activation)
        back_N = torch.empty_like(order_N)
        back_N[order_N] = torch.arange(R * K, device=order_N.device)
        return (given_NC[back_N].view(R, K, -1) * weights_RK[..., None]).sum(1)


def uses_groups(x_RC: Tensor, inner_EDC: Tensor, d_ff: int) -> bool:
    """Whether the experts are grouped products: in bf16 on a GPU, where rows are aligned."""
    bytes_of = x_RC.element_size()
    aligned = not any(n * bytes_of % ALIGNED_BYTES for n in (inner_EDC.shape[2], d_ff))
    return x_RC.device.type == "cuda" and x_RC.dtype == torch.bfloat16 and aligned


def grouped_experts(
    sorted_NC: Tensor, inner_EDC: Tensor, outer_EFC: Tensor, load_E: Tensor, activation: str
) -> Tensor:
    """What each expert gives for its tokens, shape (N, C), in two grouped products.

    Args:
        sorted_NC: Tokens, those of the first expert first.
        inner_EDC: Weights into the experts.
        outer_EFC: Weights out of them.
        load_E: Number of tokens of each expert.
        activation: Of the feed-forward.
    """
    ends_E = load_E.cumsum(0).to(torch.int32)
    hidden = grouped_mm(sorted_NC, inner_EDC.transpose(1, 2), offs=ends_E)
    return grouped_mm(feed_forward_activation(hidden, activation), outer_EFC, offs=ends_E)


@torch.compiler.disable  # the sizes of the parts are data
def looped_experts(
    sorted_NC: Tensor, inner_EDC: Tensor, outer_EFC: Tensor, load_E: Tensor, activation: str
) -> Tensor:
    """As grouped_experts, one expert after the other.

    Args:
        sorted_NC: Tokens, those of the first expert first.
        inner_EDC: Weights into the experts.
        outer_EFC: Weights out of them.
        load_E: Number of tokens of each expert.
        activation: Of the feed-forward.
    """
    parts = sorted_NC.split([int(n) for n in load_E.tolist()])
    found = [
        _expert(part, inner_DC, outer_FC, activation)
        for part, inner_DC, outer_FC in zip(parts, inner_EDC.unbind(), outer_EFC.unbind(), strict=True)
        if len(part)
    ]
    return torch.cat(found)


def _expert(part_NC: Tensor, inner_DC: Tensor, outer_FC: Tensor, activation: str) -> Tensor:
    if part_NC.numel() * len(inner_DC) < LEAST_PRODUCT:
        return feed_forward_activation(torch_linear(part_NC, inner_DC), activation) @ outer_FC
    return linear(feed_forward_activation(linear(part_NC, inner_DC), activation), outer_FC.t())


class MoeNet(TransformerNet):
    """The model, or one stage of it: tokens in, logits or loss out."""

    config: Moe
    block = MoeBlock

    @property
    def follows(self) -> frozenset[str]:
        """See Network. The products of experts have no fp8 kernel here."""
        return super().follows - {"matmul"}

    def sign_steps(self) -> dict[str, float]:
        """See Network: the bias of every block."""
        if self.config.balance != "bias":
            return {}
        return {f"blocks.{i}.load_bias": self.config.bias_step for i in self.blocks}

    def observed(self) -> dict[str, float]:
        """See Network: how the choices of a token spread over the experts.

        Returns:
            expert_load_max and expert_load_min, the largest and smallest share of a block's choices that fell on one
            expert, over all blocks; expert_load_entropy, over its largest value ln E and averaged over blocks, 1 where
            all experts are chosen as often. Empty before the first training pass.
        """
        counts = torch.stack([block.load_counts for block in self.blocks.values()]).double().cpu()
        for block in self.blocks.values():
            block.load_counts.zero_()
        if not bool((counts.sum(1) > 0).all()):
            return {}
        shares = counts / counts.sum(1, keepdim=True)
        entropy = torch.special.entr(shares).sum(1).mean() / math.log(max(2, shares.shape[1]))
        return {
            "expert_load_max": float(shares.max()),
            "expert_load_min": float(shares.min()),
            "expert_load_entropy": float(entropy),
        }

    def exact_names(self) -> tuple[str, ...]:
        """See Network: what decides the routing."""
        leaves = ("router", "load_bias") if self.config.balance == "bias" else ("router",)
        return tuple(f"blocks.{i}.{leaf}" for i in self.blocks for leaf in leaves)

    def keep_exact(self, values: Mapping[str, Tensor]) -> None:
        """See Network."""
        for name, value in values.items():
            _, i, leaf = name.split(".")
            self.blocks[i].keep_exact(leaf, value)

    @torch.no_grad()
    def expert_loads(self, tokens_BT: Tensor) -> Tensor:
        """Share of the choices that fall on each expert of each block on these tokens, shape (blocks, E)."""
        found, batch, tables = [], len(tokens_BT), self._tables_for(tokens_BT, None)
        x_RC = self._embedded(tokens_BT, tables[0])
        for block in self.blocks.values():
            x_RC = block.attended(x_RC, batch, tables)
            normed_RC = block.norm(x_RC, block.norm_mlp)
            chosen = block.routed(normed_RC)[2]
            found.append(torch.bincount(chosen.reshape(-1), minlength=self.config.n_experts) / chosen.numel())
            x_RC = x_RC + block.branch(block.feed_forward(normed_RC, batch)[0])
        return torch.stack(found)
