"""The dense decoder in Llama's layout: the torch module.

Notable:
- query, key and value share one matrix, and so do gate and up: fewer, larger kernels;
- positions are rotary, norms are RMSNorm with a gain, there are no biases;
- matrices start at std 1/sqrt(fan_in), those that write into the residual stream smaller
  by 1/sqrt(2 n_layers) (or by `residual_depth`); the embedding at 0.02; an untied head at zero,
  so that the loss of an untrained model is ln(vocabulary) exactly;
- `kinds()` says which weight is what, for learning rates and decay;
- a network may be one stage of a pipeline (`layers`), and its matrices may be cut over
  processes (`cut`, see sharding.py). By default it is whole.

Shapes: B batch, T time, R = B*T rows, C width, H heads, K key-value heads, E head size,
V vocabulary.

Not here: dimensions and costs (config.py), the way out to other software (huggingface.py).
"""

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from torch.utils.checkpoint import checkpoint

from scalelab.model.base import Kind
from scalelab.model.fp8 import FP8_MULTIPLE, fp8_linear
from scalelab.model.kernels import (
    CPU_ATTENTION_MAX_SEQ_LEN,
    attention,
    flash3_attention,
    own_mask,
    rms_norm,
    rotary,
    rotary_tables,
    short_attention,
    swiglu,
    use_cpu_kernels,
)
from scalelab.model.linear_loss import linear_cross_entropy
from scalelab.model.network import AttentionKernel, MatmulKernel
from scalelab.model.sharding import NetworkStage
from scalelab.model.transformer.config import Transformer
from scalelab.model.transformer.unsharded import UNSHARDED, Changed, Unsharded

FLASH3_HEADS = (8, 256)
"""FlashAttention-3 has kernels for heads of a multiple of the first size, up to the second."""
ADAPTABLE = ("qkv", "out", "gate_up", "down")


class Block(nn.Module):
    """One layer: attention and SwiGLU, each normed before and added after."""

    def __init__(self, config: Transformer):
        super().__init__()
        c, e = config, config.head_size
        self.config = config
        self.cut: Unsharded = UNSHARDED
        self.attention_kernel: AttentionKernel = "sdpa"
        self.linear: Callable[[Tensor, Tensor], Tensor] = linear
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
        c, cut = self.config, self.cut
        normed = rms_norm(x_RC, cut.weight(self.norm_attention), c.norm_eps)
        mixed = self._attend(cut.enter(normed), batch, tables)
        x_RC = x_RC + self.branch(cut.leave(self.linear(mixed, cut.weight(self.out))))
        normed = rms_norm(x_RC, cut.weight(self.norm_mlp), c.norm_eps)
        hidden = self.linear(cut.enter(normed), cut.weight(self.gate_up))
        return x_RC + self.branch(cut.leave(self.linear(swiglu(hidden), cut.weight(self.down))))

    def branch(self, x_RC: Tensor) -> Tensor:
        """What a branch adds to the residual stream."""
        factor = self.config.residual_multiplier
        return x_RC if factor == 1 else x_RC * factor

    def _attend(self, x_RC: Tensor, batch: int, tables: tuple[Tensor, ...]) -> Tensor:
        c, (cos_TE, sin_TE, *mask) = self.config, tables
        H, K, E = c.n_heads, c.n_kv_heads, c.head_size
        qkv = self.linear(x_RC, self.cut.weight(self.qkv))
        if mask and mask[0].dim() == 2 and H == K and not c.qk_norm and use_cpu_kernels(x_RC):
            return short_attention(qkv, cos_TE, sin_TE, mask[0], batch)
        heads = qkv.view(batch, -1, H + 2 * K, E).transpose(1, 2)
        q, k, v = heads.split((H, K, K), dim=1)
        if c.qk_norm:
            q = rms_norm(q, self.cut.gain_of_heads(self.norm_q), c.norm_eps)
            k = rms_norm(k, self.cut.gain_of_heads(self.norm_k), c.norm_eps)
        q, k = rotary(q, cos_TE, sin_TE), rotary(k, cos_TE, sin_TE)
        if self.attention_kernel == "flash3" and not mask:
            mixed = flash3_attention(q, k, v)
        else:
            if K != H:
                k, v = (t.repeat_interleave(H // K, dim=1) for t in (k, v))
            mixed = attention(q, k, v, mask[0] if mask else None)
        return mixed.transpose(1, 2).reshape(len(x_RC), H * E)


class TransformerNet(NetworkStage):
    """The model, or one stage of it: tokens in, logits or loss out.

    Args:
        config: Its dimensions; of the part that is here, where matrices are cut.
        layers: Which blocks are here; None for all. The first stage holds the embedding, the
            last the final norm and the head.
    """

    def __init__(self, config: Transformer, layers: range | None = None):
        super().__init__()
        layers = range(config.n_layers) if layers is None else layers
        self.config = config
        self.cut: Unsharded = UNSHARDED
        self.recompute = False
        """Whether activations inside a block are forgotten and computed again on the way back."""
        self.is_first, self.is_last = layers.start == 0, layers.stop == config.n_layers
        if self.is_first:
            self.embedding = nn.Parameter(torch.empty(config.vocab_size, config.d_model))
        self.blocks = nn.ModuleDict({str(i): Block(config) for i in layers})
        if self.is_last:
            self.norm = nn.Parameter(torch.ones(config.d_model))
            if not config.tied:
                self.head = nn.Parameter(torch.empty(config.vocab_size, config.d_model))
        self._tables: dict[tuple[int, torch.device, torch.dtype], tuple[Tensor, ...]] = {}

    def reset(self, seed: int) -> None:
        """Starting values, decided by `seed` alone whatever the device."""
        here = dict(self.named_parameters())
        with torch.no_grad():
            for name, value in starting_values(self.config, seed):
                here[name].copy_(value)

    def kinds(self) -> dict[str, Kind]:
        """What each named parameter is."""
        return {name: kind_of(name) for name, _ in self.named_parameters()}

    def forward(
        self, x: Tensor, targets_BT: Tensor | None = None, segments_BT: Tensor | None = None
    ) -> Tensor:
        """Logits of shape (B, T, V); with targets, their mean loss in nats per token.

        Args:
            x: Tokens of shape (B, T); in a later stage what the stage before it gave.
            targets_BT: The tokens to predict.
            segments_BT: Whose each token is: none sees those of another. None: all are one's.

        In a stage that is not the last: the residual stream, shape (B, T, C).
        """
        return self._run(x, self._tables_for(x, segments_BT), targets_BT)

    def _run(self, x: Tensor, tables: tuple[Tensor, ...], targets_BT: Tensor | None) -> Tensor:
        B, T = x.shape[:2]
        x = self._through(x, tables)
        return self._head_of(x, B, targets_BT) if self.is_last else x.view(B, T, -1)

    def _head_of(self, x_RC: Tensor, batch: int, targets_BT: Tensor | None) -> Tensor:
        """Logits of shape (B, T, V), or their mean loss."""
        x = self.normed(x_RC, self.cut.weight(self.norm))
        head = self.embedding if self.config.tied else self.head
        if targets_BT is not None and self.loss_rows is not None and self.cut.has_whole_head:
            return linear_cross_entropy(x, self.cut.weight(head), targets_BT.reshape(-1), self.loss_rows)
        logits = linear(self.cut.enter(x), self.cut.weight(head))
        if targets_BT is None:
            whole = self.cut.whole_logits(logits, self.config.vocab_size)
            return whole.view(batch, -1, self.config.vocab_size)
        return self.cut.loss(logits, targets_BT.reshape(-1), self.config.vocab_size)

    @property
    def follows(self) -> frozenset[str]:
        """See Network.

        Heads of some sizes have no kernel in FlashAttention-3, matrices of some sizes no product in fp8. In a
        pipeline a stage gives logits, and a vocabulary that is cut has its own loss, so neither computes it
        in chunks.
        """
        step, most = FLASH3_HEADS
        has_flash3 = self.config.head_size % step == 0 and self.config.head_size <= most
        is_whole = self.is_first and self.is_last and self.cut.has_whole_head
        has_fp8 = all(n % FP8_MULTIPLE == 0 for w in self.adaptable().values() for n in w.shape)
        found = {"loss_rows": is_whole, "attention_kernel": has_flash3, "matmul": has_fp8}
        return frozenset(name for name, follows in found.items() if follows)

    def configure(
        self, loss_rows: int | None, attention_kernel: AttentionKernel, matmul: MatmulKernel = "plain"
    ) -> None:
        """See Network."""
        super().configure(loss_rows, attention_kernel, matmul)
        for block in self.blocks.values():
            block.attention_kernel = attention_kernel
            block.linear = fp8_linear if matmul == "fp8" else linear

    def compile_with(self, compiler: Callable[[Callable], Callable], whole: bool) -> None:
        """See Network. Rotary tables are an argument of every graph, and are made outside.

        A loss over a cut vocabulary stays outside too (see sharding.py).
        """
        if whole and self.cut.compiles_loss:
            self._run = compiler(self._run)
            return
        if whole:
            self._through = compiler(self._through)
            return
        for block in self.blocks.values():
            block.forward = compiler(block.forward)
        if self.is_last and self.cut.compiles_loss:
            self._head_of = compiler(self._head_of)

    def hidden(self, tokens_BT: Tensor) -> Tensor:
        """What the head would see: the residual stream, normed, shape (B, T, C)."""
        x = self._through(tokens_BT, self._tables_for(tokens_BT, None))
        return self.normed(x, self.cut.weight(self.norm)).view(*tokens_BT.shape, -1)

    def normed(self, x: Tensor, gain_C: Tensor) -> Tensor:
        """What the head multiplies: the residual stream, normed, times the multiplier of the logits."""
        x = rms_norm(x, gain_C, self.config.norm_eps)
        factor = self.config.output_multiplier
        return x if factor == 1 else x * factor

    def activations(self, tokens_BT: Tensor) -> dict[str, Tensor]:
        """See Network."""
        tables, B = self._tables_for(tokens_BT, None), tokens_BT.shape[0]
        x = self.cut.embed(tokens_BT.reshape(-1), self.embedding)
        found = {}
        for i, block in self.blocks.items():
            x = block(x, B, tables)
            found[f"block {int(i) + 1}"] = x
        return found | {"logits": self._head_of(x, B, None)}

    def adaptable(self) -> dict[str, nn.Parameter]:
        """The matrices of the blocks, by block and name."""
        return {f"{i}_{name}": getattr(block, name) for i, block in self.blocks.items() for name in ADAPTABLE}

    def adapt(self, change: Callable[[Tensor], Tensor]) -> None:
        """See Network."""
        for block in self.blocks.values():
            block.cut = Changed(change)

    def used(self, weight: Tensor) -> Tensor:
        """See Network."""
        return next(iter(self.blocks.values())).cut.weight(weight)

    def _through(self, x: Tensor, tables: tuple[Tensor, ...]) -> Tensor:
        """The residual stream after the blocks that are here, shape (R, C)."""
        B = x.shape[0]
        x = self.cut.embed(x.reshape(-1), self.embedding) if self.is_first else x.flatten(0, 1)
        for block in self.blocks.values():
            if self.recompute:
                x = checkpoint(block, x, B, tables, use_reentrant=False)
            else:
                x = block(x, B, tables)
        return x

    def _tables_for(self, x: Tensor, segments_BT: Tensor | None) -> tuple[Tensor, ...]:
        """Cos and sin of shape (T, E); and a mask of segments, or on the CPU in short contexts (T, T).

        Kept for each length. Not to be called in a graph, since it changes the network.
        """
        seq_len, dtype = x.shape[1], self.embedding.dtype if self.is_first else x.dtype
        key = (seq_len, x.device, dtype)
        if key not in self._tables:
            angles = rotary_tables(seq_len, self.config.head_size, self.config.rope_theta)
            tables = [t.to(x.device, dtype) for t in angles]
            if use_cpu_kernels(x) and seq_len <= CPU_ATTENTION_MAX_SEQ_LEN:
                tables.append(torch.full((seq_len, seq_len), -math.inf, dtype=dtype).triu(1))
            self._tables[key] = tuple(tables)
        tables = self._tables[key]
        return tables if segments_BT is None else (*tables[:2], own_mask(segments_BT, dtype))


def kind_of(name: str) -> Kind:
    """What a weight is, by its name."""
    leaf = name.rsplit(".")[-1]
    if leaf in {"embedding", "head"}:
        return leaf
    return "vector" if leaf.startswith("norm") else "matrix"


def starting_values(config: Transformer, seed: int) -> Iterator[tuple[str, Tensor]]:
    """Every weight of the whole model by name, one at a time, decided by `seed` alone."""
    with torch.device("meta"):
        shapes = {name: weight.shape for name, weight in TransformerNet(config).named_parameters()}
    generator = torch.Generator().manual_seed(seed)
    residual = 1 / math.sqrt(2 * (config.residual_depth or config.n_layers))
    for name, shape in shapes.items():
        kind, leaf = kind_of(name), name.rsplit(".")[-1]
        if kind == "vector":
            yield name, torch.ones(shape)
        elif kind == "head":
            yield name, torch.zeros(shape)
        else:
            std = 0.02 if kind == "embedding" else 1 / math.sqrt(shape[1])
            std *= residual if leaf in {"out", "down"} else 1.0
            yield name, torch.randn(shape, generator=generator) * std
