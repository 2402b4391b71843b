"""Writing with a model: one token after the other, with what came before remembered.

    prompts, left-padded to one length P  ->  up to n_new tokens after each

Keys and values of earlier positions are kept, so a new token costs one position and not the
whole text again. Prompts of a batch end at the same place; what pads them on the left is seen
by nobody, and rotary positions are relative, so a row's tokens do not depend on its neighbours.

Shapes: B rows, T new positions, P prompt length, H heads, K key-value heads, E head size.
Source: top-p, Holtzman et al. 2020, arXiv:1904.09751.
Not here: text (evals/checkpoint.py), training (transformer_net.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import embedding, linear, scaled_dot_product_attention

from scalelab.model.kernels import rms_norm, rotary, rotary_tables, swiglu
from scalelab.model.transformer_net import Block, TransformerNet


@dataclass(frozen=True, eq=False)
class Written:
    """What a batch of prompts was continued with."""

    tokens: list[list[int]]
    """The new tokens of each row, the end token included where it was written."""
    ended: list[bool]
    """Whether the row wrote the end token, or was cut off."""


@torch.no_grad()
def write(
    network: TransformerNet,
    prompts: Sequence[Sequence[int]],
    *,
    n_new: int,
    end: int,
    temperature: float = 0.0,
    top_p: float = 1.0,
    generator: torch.Generator | None = None,
    never: Sequence[int] = (),
    longest_row: int | None = None,
) -> Written:
    """Continue prompts, all in one batch.

    Args:
        network: Whole, on its device.
        prompts: Tokens of each row, at least one.
        n_new: Most new tokens of a row.
        end: The token after which a row is done.
        temperature: 0 takes the likeliest token; otherwise tokens are drawn.
        top_p: Draw only from the likeliest tokens that together have this probability.
        generator: Decides the draws; on the CPU, whatever the device.
        never: Tokens that are not written, such as padding.
        longest_row: Most tokens of a prompt and what follows it; None: no limit but n_new.
    """
    device = next(network.parameters()).device
    longest = max(map(len, prompts))
    tokens = torch.zeros((len(prompts), longest), dtype=torch.long)
    seen = torch.zeros((len(prompts), longest + n_new), dtype=torch.bool)
    for row, prompt in enumerate(prompts):
        tokens[row, longest - len(prompt) :] = torch.tensor(prompt)
        seen[row, longest - len(prompt) :] = True
    cache = _Cache(network, seen.to(device))
    logits = cache.read(tokens.to(device))
    done, new = torch.zeros(len(prompts), dtype=torch.bool), []
    for i in range(n_new):
        if len(never):
            logits[:, list(never)] = -torch.inf
        chosen = _choose(logits.float().cpu(), temperature, top_p, generator)
        new.append(torch.where(done, end, chosen))
        done |= chosen == end
        if bool(done.all()) or i + 1 == n_new:
            break
        logits = cache.read(new[-1][:, None].to(device))
    rows = torch.stack(new, dim=1).tolist() if new else [[] for _ in prompts]
    cut = [row[: row.index(end) + 1] if end in row else row for row in rows]
    if longest_row is not None:
        # A short prompt beside a long one has more room, and none is written beyond its own.
        cut = [row[: longest_row - len(p)] for row, p in zip(cut, prompts, strict=True)]
    return Written(cut, [row[-1:] == [end] for row in cut])


def _choose(
    logits_BV: Tensor, temperature: float, top_p: float, generator: torch.Generator | None
) -> Tensor:
    """The next token of each row, shape (B,)."""
    if temperature == 0:
        return logits_BV.argmax(-1)
    share = torch.softmax(logits_BV / temperature, dim=-1)
    if top_p < 1:
        ordered, place = share.sort(dim=-1, descending=True)
        ordered[ordered.cumsum(-1) - ordered >= top_p] = 0.0  # the likeliest always stays
        share = torch.zeros_like(share).scatter(-1, place, ordered)
    return torch.multinomial(share, 1, generator=generator)[:, 0]


class _Cache:
    """Keys and values of all positions so far, and how to add some more."""

    def __init__(self, network: TransformerNet, seen_BS: Tensor):
        config, weight = network.config, next(network.parameters())
        batch, length = seen_BS.shape
        shape = (config.n_layers, 2, batch, config.n_kv_heads, length, config.head_size)
        self.network, self.seen, self.at = network, seen_BS, 0
        self.kept = torch.zeros(shape, dtype=weight.dtype, device=weight.device)
        tables = rotary_tables(length, config.head_size, config.rope_theta)
        self.cos, self.sin = (t.to(weight.device, weight.dtype) for t in tables)

    def read(self, tokens_BT: Tensor) -> Tensor:
        """Logits after the last of some more positions, shape (B, V)."""
        net = self.network
        batch, n = tokens_BT.shape
        start, self.at = self.at, self.at + n
        place = torch.arange(self.at, device=tokens_BT.device)
        earlier = place[None, :] <= place[start:, None]
        mask = earlier & self.seen[:, None, None, : self.at]
        mask |= torch.eye(self.at, dtype=torch.bool, device=mask.device)[start:]  # padding: itself
        x = embedding(tokens_BT.reshape(-1), net.cut.weight(net.embedding))
        for i, block in enumerate(net.blocks.values()):
            x = self._through(block, self.kept[i], x, mask, start)
        x = rms_norm(x.view(batch, n, -1)[:, -1], net.norm, net.config.norm_eps)
        return linear(x, net.cut.weight(net.embedding if net.config.tied else net.head))

    def _through(self, block: Block, kept: Tensor, x: Tensor, mask: Tensor, start: int) -> Tensor:
        c, cut = block.config, block.cut
        H, K, E = c.n_heads, c.n_kv_heads, c.head_size
        qkv = linear(rms_norm(x, block.norm_attention, c.norm_eps), cut.weight(block.qkv))
        heads = qkv.view(mask.shape[0], -1, H + 2 * K, E).transpose(1, 2)
        q, k, v = heads.split((H, K, K), dim=1)
        if c.qk_norm:
            q = rms_norm(q, block.norm_q, c.norm_eps)
            k = rms_norm(k, block.norm_k, c.norm_eps)
        cos, sin = self.cos[start : self.at], self.sin[start : self.at]
        kept[0, :, :, start : self.at] = rotary(k, cos, sin)
        kept[1, :, :, start : self.at] = v
        keys, values = kept[:, :, :, : self.at]
        if K != H:
            keys, values = (t.repeat_interleave(H // K, dim=1) for t in (keys, values))
        mixed = scaled_dot_product_attention(rotary(q, cos, sin), keys, values, attn_mask=mask)
        x = x + linear(mixed.transpose(1, 2).reshape(len(x), H * E), cut.weight(block.out))
        hidden = linear(rms_norm(x, block.norm_mlp, c.norm_eps), cut.weight(block.gate_up))
        return x + linear(swiglu(hidden), cut.weight(block.down))
