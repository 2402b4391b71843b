"""Reading on with a transformer: keys and values of earlier positions are kept.

A new token costs one position and not the whole text again. Prompts of a batch are padded on the
left, so that they end at the same place; what pads them is seen by nobody, rotary positions are
relative and learned ones are counted from the row's first token, so a row's tokens do not depend on
its neighbours.

A row may be read beyond the last learned position because another row has room left; it is then read at
the last one, and `write` returns none of the tokens that follow.

Shapes: B rows, T new positions, V vocabulary, H heads, K key-value heads, E head size.
Not here: which token is written (model/generate.py), training (network.py).
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import embedding, linear, scaled_dot_product_attention

from scalelab.model.kernels import rms_norm, rotary, rotary_tables
from scalelab.model.transformer.network import AttentionBlock, TransformerNet, refuse_too_long


class KeyValueCache:
    """Keys and values of all positions so far. See decode.Reader."""

    def __init__(self, network: TransformerNet, prompts: Sequence[Sequence[int]], n_new: int):
        config, weight = network.config, next(network.parameters())
        batch, longest = len(prompts), max(map(len, prompts))
        length = longest + n_new
        refuse_too_long(config, longest)
        self.tokens = torch.zeros((batch, longest), dtype=torch.long)
        seen = torch.zeros((batch, length), dtype=torch.bool)
        for row, prompt in enumerate(prompts):
            self.tokens[row, longest - len(prompt) :] = torch.tensor(prompt)
            seen[row, longest - len(prompt) :] = True
        shape = (config.n_layers, 2, batch, config.n_kv_heads, length, config.head_size)
        self.network, self.seen, self.at = network, seen.to(weight.device), 0
        self.padding_B1 = longest - torch.tensor([[len(p)] for p in prompts], device=weight.device)
        self.kept = torch.zeros(shape, dtype=weight.dtype, device=weight.device)
        if config.positions == "rotary":
            tables = rotary_tables(length, config.head_size, config.rope_theta)
            self.cos, self.sin = (t.to(weight.device, weight.dtype) for t in tables)

    def first(self) -> Tensor:
        """Logits after the prompts, shape (B, V)."""
        return self._read(self.tokens)

    def next(self, tokens_B: Tensor) -> Tensor:
        """Logits after one more token of each row, shape (B, V)."""
        return self._read(tokens_B[:, None])

    def _read(self, tokens_BT: Tensor) -> Tensor:
        """Logits after the last of some more positions, shape (B, V)."""
        net, tokens_BT = self.network, tokens_BT.to(self.kept.device)
        batch, n = tokens_BT.shape
        start, self.at = self.at, self.at + n
        place = torch.arange(self.at, device=tokens_BT.device)
        earlier = place[None, :] <= place[start:, None]
        mask = earlier & self.seen[:, None, None, : self.at]
        mask |= torch.eye(self.at, dtype=torch.bool, device=mask.device)[start:]  # padding: itself
        x = embedding(tokens_BT.reshape(-1), net.cut.weight(net.embedding))
        if (limit := net.config.context_limit()) is not None:
            own_place = (place[start:] - self.padding_B1).clamp(0, limit - 1)
            x = x + net.cut.weight(net.positions)[own_place.reshape(-1)]
        for i, block in enumerate(net.blocks.values()):
            x = self._through(block, self.kept[i], x, mask, start)
        x = net.normed(x.view(batch, n, -1)[:, -1])
        return linear(x, net.cut.weight(net.embedding if net.config.tied else net.head))

    def _through(self, block: AttentionBlock, kept: Tensor, x: Tensor, mask: Tensor, start: int) -> Tensor:
        c, cut = block.config, block.cut
        H, K, E = c.n_heads, c.n_kv_heads, c.head_size
        qkv = linear(block.norm(x, block.norm_attention), cut.weight(block.qkv))
        heads = qkv.view(mask.shape[0], -1, H + 2 * K, E).transpose(1, 2)
        q, k, v = heads.split((H, K, K), dim=1)
        if c.qk_norm:
            q = rms_norm(q, block.norm_q, c.norm_eps)
            k = rms_norm(k, block.norm_k, c.norm_eps)
        if c.positions == "rotary":
            cos, sin = self.cos[start : self.at], self.sin[start : self.at]
            q, k = rotary(q, cos, sin), rotary(k, cos, sin)
        kept[0, :, :, start : self.at] = k
        kept[1, :, :, start : self.at] = v
        keys, values = kept[:, :, :, : self.at]
        if K != H:
            keys, values = (t.repeat_interleave(H // K, dim=1) for t in (keys, values))
        mixed = scaled_dot_product_attention(q, keys, values, attn_mask=mask)
        x = x + block.branch(linear(mixed.transpose(1, 2).reshape(len(x), H * E), cut.weight(block.out)))
        return x + block.branch(block.feed_forward(block.norm(x, block.norm_mlp), mask.shape[0])[0])
