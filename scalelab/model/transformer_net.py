"""The dense decoder in Llama's layout: the torch module.

Notable:
- query, key and value share one matrix, and so do gate and up: fewer, larger kernels;
- positions are rotary, norms are RMSNorm with a gain, there are no biases;
- matrices start at std 1/sqrt(fan_in), those that write into the residual stream smaller
  by 1/sqrt(2 n_layers); the embedding at 0.02; an untied head at zero, so that the loss of
  an untrained model is ln(vocabulary) exactly;
- `kinds()` says which weight is what, for learning rates and decay.

Shapes: B batch, T time, R = B*T rows, C width, H heads, K key-value heads, E head size,
V vocabulary.

Not here: dimensions and costs (transformer.py), the way out to other software (export.py).
"""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, linear

from scalelab.model.base import Kind
from scalelab.model.kernels import (
    CPU_ATTENTION_MAX_SEQ_LEN,
    attention,
    by_hand,
    cross_entropy,
    rms_norm,
    rotary,
    rotary_tables,
    short_attention,
    swiglu,
)
from scalelab.model.transformer import Transformer


class Block(nn.Module):
    """One layer: attention and SwiGLU, each normed before and added after."""

    def __init__(self, config: Transformer):
        super().__init__()
        c, e = config, config.head_size
        self.config = config
        self.norm_attention = nn.Parameter(torch.ones(c.d_model))
        self.qkv = nn.Parameter(torch.empty((c.n_heads + 2 * c.n_kv_heads) * e, c.d_model))
        self.out = nn.Parameter(torch.empty(c.d_model, c.n_heads * e))
        self.norm_mlp = nn.Parameter(torch.ones(c.d_model))
        self.gate_up = nn.Parameter(torch.empty(2 * c.d_ff, c.d_model))
        self.down = nn.Parameter(torch.empty(c.d_model, c.d_ff))
        if c.qk_norm:
            self.norm_q = nn.Parameter(torch.ones(e))
            self.norm_k = nn.Parameter(torch.ones(e))

    def forward(self, x_RC: Tensor, batch: int, tables: tuple[Tensor, ...]) -> Tensor:
        """The residual stream after this layer, shape (R, C)."""
        c = self.config
        mixed = self._attend(rms_norm(x_RC, self.norm_attention, c.norm_eps), batch, tables)
        x_RC = x_RC + linear(mixed, self.out)
        hidden = linear(rms_norm(x_RC, self.norm_mlp, c.norm_eps), self.gate_up)
        return x_RC + linear(swiglu(hidden), self.down)

    def _attend(self, x_RC: Tensor, batch: int, tables: tuple[Tensor, ...]) -> Tensor:
        c, (cos_TE, sin_TE, *mask) = self.config, tables
        H, K, E = c.n_heads, c.n_kv_heads, c.head_size
        qkv = linear(x_RC, self.qkv)
        if mask and H == K and not c.qk_norm:
            return short_attention(qkv, cos_TE, sin_TE, mask[0], batch)
        heads = qkv.view(batch, -1, H + 2 * K, E).transpose(1, 2)
        q, k, v = heads.split((H, K, K), dim=1)
        if c.qk_norm:
            q = rms_norm(q, self.norm_q, c.norm_eps)
            k = rms_norm(k, self.norm_k, c.norm_eps)
        q, k = rotary(q, cos_TE, sin_TE), rotary(k, cos_TE, sin_TE)
        if K != H:
            k, v = (t.repeat_interleave(H // K, dim=1) for t in (k, v))
        mixed = attention(q, k, v, mask[0] if mask else None)
        return mixed.transpose(1, 2).reshape(len(x_RC), H * E)


class TransformerNet(nn.Module):
    """The whole model: tokens in, logits or loss out."""

    def __init__(self, config: Transformer):
        super().__init__()
        self.config = config
        self.embedding = nn.Parameter(torch.empty(config.vocab_size, config.d_model))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layers))
        self.norm = nn.Parameter(torch.ones(config.d_model))
        if not config.tied:
            self.head = nn.Parameter(torch.empty(config.vocab_size, config.d_model))
        self._tables: dict[tuple[int, torch.device, torch.dtype], tuple[Tensor, ...]] = {}

    def reset(self, seed: int) -> None:
        """Starting values, decided by `seed` alone whatever the device."""
        generator = torch.Generator().manual_seed(seed)
        residual = 1 / math.sqrt(2 * self.config.n_layers)
        with torch.no_grad():
            for name, weight in self.named_parameters():
                kind, leaf = self._kind(name), name.rsplit(".")[-1]
                if kind == "vector":
                    weight.fill_(1.0)
                elif kind == "head":
                    weight.zero_()
                else:
                    std = 0.02 if kind == "embedding" else 1 / math.sqrt(weight.shape[1])
                    std *= residual if leaf in {"out", "down"} else 1.0
                    weight.copy_(torch.randn(weight.shape, generator=generator) * std)

    def kinds(self) -> dict[str, Kind]:
        """What each named parameter is."""
        return {name: self._kind(name) for name, _ in self.named_parameters()}

    def forward(self, tokens_BT: Tensor, targets_BT: Tensor | None = None) -> Tensor:
        """Logits of shape (B, T, V); with targets, their mean loss in nats per token."""
        B, T = tokens_BT.shape
        x = embedding(tokens_BT.reshape(-1), self.embedding)
        tables = self._tables_for(T, x)
        for block in self.blocks:
            x = block(x, B, tables)
        x = rms_norm(x, self.norm, self.config.norm_eps)
        logits = linear(x, self.embedding if self.config.tied else self.head)
        if targets_BT is None:
            return logits.view(B, T, -1)
        return cross_entropy(logits, targets_BT.reshape(-1))

    def _kind(self, name: str) -> Kind:
        leaf = name.rsplit(".")[-1]
        if leaf in {"embedding", "head"}:
            return leaf
        return "vector" if leaf.startswith("norm") else "matrix"

    def _tables_for(self, seq_len: int, x: Tensor) -> tuple[Tensor, ...]:
        """Cos and sin of shape (T, E), and on the CPU in short contexts the mask (T, T)."""
        key = (seq_len, x.device, x.dtype)
        if key not in self._tables:
            angles = rotary_tables(seq_len, self.config.head_size, self.config.rope_theta)
            tables = [t.to(x.device, x.dtype) for t in angles]
            if by_hand(x) and seq_len <= CPU_ATTENTION_MAX_SEQ_LEN:
                tables.append(torch.full((seq_len, seq_len), -math.inf, dtype=x.dtype).triu(1))
            self._tables[key] = tuple(tables)
        return self._tables[key]
