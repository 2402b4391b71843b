"""The dense decoder: the torch module.

Notable:
- query, key and value share one matrix, and so do gate and up: fewer, larger kernels;
- by default positions are rotary and norms RMSNorm with a gain; there are no biases;
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
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from scalelab.errors import ConfigError
from scalelab.model.base import Kind
from scalelab.model.fp8 import FP8_MULTIPLE, fp8_linear
from scalelab.model.kernels import (
    CPU_ATTENTION_MAX_SEQ_LEN,
    attention,
    feed_forward_activation,
    flash3_attention,
    normed,
    own_mask,
    rms_norm,
    rotary,
    rotary_tables,
    short_attention,
    use_cpu_kernels,
)
from scalelab.model.linear_loss import linear_cross_entropy
from scalelab.model.network import AttentionKernel, MatmulKernel
from scalelab.model.products import linear
from scalelab.model.sharding import NetworkStage
from scalelab.model.transformer.config import Transformer
from scalelab.model.transformer.unsharded import UNSHARDED, Changed, Unsharded

FLASH3_HEADS = (8, 256)
"""FlashAttention-3 has kernels for heads of a multiple of the first size, up to the second."""
ADAPTABLE = ("qkv", "out", "gate_up", "up", "down")


class AttentionBlock(nn.Module, ABC):
    """One layer: attention and a feed-forward, each normed before and added after.

    A subclass adds the weights of its feed-forward after `super().__init__(config)`.
    """

    written_by: ClassVar[tuple[str, ...]]
    """Matrices that write into the residual stream, by name; they start smaller."""

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
        if c.qk_norm:
            self.norm_q = nn.Parameter(torch.ones(e))
            self.norm_k = nn.Parameter(torch.ones(e))

    @staticmethod
    def fan_in(config: Transformer, leaf: str, shape: torch.Size) -> int:
        """Numbers that a matrix multiplies at once: its starting values have the spread 1 / sqrt of it.

        Args:
            config: The model.
            leaf: Name of the matrix in its block.
            shape: Its shape.
        """
        del config, leaf
        return shape[1]

    @abstractmethod
    def feed_forward(self, x: Tensor, batch: int) -> tuple[Tensor, Tensor | None]:
        """What the second half of the layer adds to the residual stream, and to the loss that is trained on.

        Args:
            x: The normed stream, shape (R, C).
            batch: B.

        Returns: Shape (R, C); and a scalar, None where it adds nothing to the loss.
        """

    def forward(self, x_RC: Tensor, batch: int, tables: tuple[Tensor, ...]) -> tuple[Tensor, Tensor | None]:
        """The residual stream after this layer, shape (R, C), and what it adds to the loss."""
        x_RC = self.attended(x_RC, batch, tables)
        more, lost = self.feed_forward(self.norm(x_RC, self.norm_mlp), batch)
        return x_RC + self.branch(more), lost

    def attended(self, x_RC: Tensor, batch: int, tables: tuple[Tensor, ...]) -> Tensor:
        """The residual stream after attention, shape (R, C)."""
        mixed = self._attend(self.cut.enter(self.norm(x_RC, self.norm_attention)), batch, tables)
        return x_RC + self.branch(self.cut.leave(self.linear(mixed, self.cut.weight(self.out))))

    def norm(self, x: Tensor, gain: Tensor) -> Tensor:
        """X normed as the model norms; same shape as x."""
        return normed(x, self.cut.weight(gain), self.config.norm_eps, self.config.norm)

    def branch(self, x_RC: Tensor) -> Tensor:
        """What a branch adds to the residual stream."""
        factor = self.config.residual_multiplier
        return x_RC if factor == 1 else x_RC * factor

    def _attend(self, x_RC: Tensor, batch: int, tables: tuple[Tensor, ...]) -> Tensor:
        c, (cos_TE, sin_TE, *mask) = self.config, tables
        H, K, E = c.n_heads, c.n_kv_heads, c.head_size
        qkv = self.linear(x_RC, self.cut.weight(self.qkv))
        is_rotary = c.positions == "rotary"
        is_short = mask and mask[0].dim() == 2 and use_cpu_kernels(x_RC)
        if is_short and is_rotary and H == K and not c.qk_norm:
            return short_attention(qkv, cos_TE, sin_TE, mask[0], batch)
        heads = qkv.view(batch, -1, H + 2 * K, E).transpose(1, 2)
        q, k, v = heads.split((H, K, K), dim=1)
        if c.qk_norm:
            q = rms_norm(q, self.cut.gain_of_heads(self.norm_q), c.norm_eps)
            k = rms_norm(k, self.cut.gain_of_heads(self.norm_k), c.norm_eps)
        if is_rotary:
            q, k = rotary(q, cos_TE, sin_TE), rotary(k, cos_TE, sin_TE)
        if self.attention_kernel == "flash3" and not mask:
            mixed = flash3_attention(q, k, v)
        else:
            if K != H:
                k, v = (t.repeat_interleave(H // K, dim=1) for t in (k, v))
            mixed = attention(q, k, v, mask[0] if mask else None)
        return mixed.transpose(1, 2).reshape(len(x_RC), H * E)


class Block(AttentionBlock):
    """One layer of a dense model."""

    written_by = ("out", "down")

    def __init__(self, config: Transformer):
        super().__init__(config)
        c = config
        if c.activation == "swiglu":
            self.gate_up = nn.Parameter(torch.empty(2 * c.d_ff, c.d_model))
        else:
            self.up = nn.Parameter(torch.empty(c.d_ff, c.d_model))
        self.down = nn.Parameter(torch.empty(c.d_model, c.d_ff))

    def feed_forward(self, x: Tensor, batch: int) -> tuple[Tensor, None]:
        """See AttentionBlock."""
        del batch
        cut, activation = self.cut, self.config.activation
        inner = self.gate_up if activation == "swiglu" else self.up
        hidden = self.linear(cut.enter(x), cut.weight(inner))
        return cut.leave(
            self.linear(feed_forward_activation(hidden, activation), cut.weight(self.down))
        ), None


class TransformerNet(NetworkStage):
    """The model, or one stage of it: tokens in, logits or loss out.

    Args:
        config: Its dimensions; of the part that is here, where matrices are cut.
        layers: Which blocks are here; None for all. The first stage holds the embedding, the
            last the final norm and the head.
    """

    block: ClassVar[type[AttentionBlock]] = Block

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
            if config.positions == "learned":
                self.positions = nn.Parameter(torch.empty(config.max_positions, config.d_model))
        self.blocks = nn.ModuleDict({str(i): self.block(config) for i in layers})
        if self.is_last:
            self.norm = nn.Parameter(torch.ones(config.d_model))
            if not config.tied:
                self.head = nn.Parameter(torch.empty(config.vocab_size, config.d_model))
        self._tables: dict[tuple[int, torch.device, torch.dtype], tuple[Tensor, ...]] = {}

    def reset(self, seed: int) -> None:
        """Starting values, decided by `seed` alone whatever the device."""
        here = dict(self.named_parameters())
        with torch.no_grad():
            for name, value in starting_values(self.config, seed, type(self)):
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
        x, lost = self._through(x, tables)
        if not self.is_last:
            return x.view(B, T, -1)
        found = self._head_of(x, B, targets_BT)
        if targets_BT is None or lost is None:
            return found
        return found + (lost - lost.detach())  # its gradient, and no part of the loss that is reported

    def normed(self, x: Tensor) -> Tensor:
        """What the head multiplies: the residual stream, normed, times the multiplier of the logits."""
        x = normed(x, self.cut.weight(self.norm), self.config.norm_eps, self.config.norm)
        factor = self.config.output_multiplier
        return x if factor == 1 else x * factor

    def _head_of(self, x_RC: Tensor, batch: int, targets_BT: Tensor | None) -> Tensor:
        """Logits of shape (B, T, V), or their mean loss."""
        x = self.normed(x_RC)
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
        x, _ = self._through(tokens_BT, self._tables_for(tokens_BT, None))
        return self.normed(x).view(*tokens_BT.shape, -1)

    def activations(self, tokens_BT: Tensor) -> dict[str, Tensor]:
        """See Network."""
        tables, B = self._tables_for(tokens_BT, None), tokens_BT.shape[0]
        x = self._embedded(tokens_BT, tables[0])
        found = {}
        for i, block in self.blocks.items():
            x, _ = block(x, B, tables)
            found[f"block {int(i) + 1}"] = x
        return found | {"logits": self._head_of(x, B, None)}

    def adaptable(self) -> dict[str, nn.Parameter]:
        """The matrices of the blocks, by block and name."""
        return {
            f"{i}_{name}": getattr(block, name)
            for i, block in self.blocks.items()
            for name in ADAPTABLE
            if hasattr(block, name)
        }

    def adapt(self, change: Callable[[Tensor], Tensor]) -> None:
        """See Network."""
        for block in self.blocks.values():
            block.cut = Changed(change)

    def used(self, weight: Tensor) -> Tensor:
        """See Network."""
        return next(iter(self.blocks.values())).cut.weight(weight)

    def _through(self, x: Tensor, tables: tuple[Tensor, ...]) -> tuple[Tensor, Tensor | None]:
        """The residual stream after the blocks that are here, shape (R, C), and what they add to the loss."""
        B, lost = x.shape[0], None
        x = self._embedded(x, tables[0]) if self.is_first else x.flatten(0, 1)
        for block in self.blocks.values():
            if self.recompute:
                x, more = checkpoint(block, x, B, tables, use_reentrant=False)
            else:
                x, more = block(x, B, tables)
            if more is not None:
                lost = more if lost is None else lost + more
        return x, lost

    def _embedded(self, tokens_BT: Tensor, place: Tensor) -> Tensor:
        """The embedding of each token, with that of its place where places are learned; shape (R, C)."""
        x_RC = self.cut.embed(tokens_BT.reshape(-1), self.embedding)
        if self.config.positions == "rotary":
            return x_RC
        return x_RC + self.cut.weight(self.positions)[place.expand(tokens_BT.shape).reshape(-1)]

    def _tables_for(self, x: Tensor, segments_BT: Tensor | None) -> tuple[Tensor, ...]:
        """Cos and sin of shape (T, E); and a mask of segments, or on the CPU in short contexts (T, T).

        Where positions are learned, the place of each token, shape (T,) or (B, T), stands for cos and sin.
        Kept for each length. Not to be called in a graph, since it changes the network.
        """
        seq_len, dtype = x.shape[1], self.embedding.dtype if self.is_first else x.dtype
        refuse_too_long(self.config, seq_len)
        key = (seq_len, x.device, dtype)
        if key not in self._tables:
            if self.config.positions == "learned":
                tables = [torch.arange(seq_len, device=x.device)] * 2
            else:
                angles = rotary_tables(seq_len, self.config.head_size, self.config.rope_theta)
                tables = [t.to(x.device, dtype) for t in angles]
            if use_cpu_kernels(x) and seq_len <= CPU_ATTENTION_MAX_SEQ_LEN:
                tables.append(torch.full((seq_len, seq_len), -math.inf, dtype=dtype).triu(1))
            self._tables[key] = tuple(tables)
        tables = self._tables[key]
        if segments_BT is None:
            return tables
        if self.config.positions == "learned":
            tables = [_places(segments_BT, tables[0])] * 2
        return (*tables[:2], own_mask(segments_BT, dtype))


def _places(segments_BT: Tensor, along_T: Tensor) -> Tensor:
    """Places counted from the beginning of each segment, shape (B, T)."""
    begins_BT = torch.ones_like(segments_BT, dtype=torch.bool)
    begins_BT[:, 1:] = segments_BT[:, 1:] != segments_BT[:, :-1]
    return along_T - (begins_BT * along_T).cummax(1).values


def refuse_too_long(config: Transformer, n_tokens: int) -> None:
    """Refuse a text that has more tokens than there are learned positions.

    Raises:
        ConfigError: It has.
    """
    limit = config.context_limit()
    if limit is not None and n_tokens > limit:
        raise ConfigError(
            f"{n_tokens} tokens exceed the {limit} positions that the model has learned",
            where=f"the model: {config.words()}",
            fix="read less at once, or train a model with rotary positions or a larger max_positions",
        )


def kind_of(name: str) -> Kind:
    """What a weight is, by its name."""
    leaf = name.rsplit(".")[-1]
    if leaf in {"embedding", "head"}:
        return leaf
    if leaf == "positions":
        return "embedding"
    return "vector" if leaf.startswith("norm") or leaf == "load_bias" else "matrix"


def starting_values(
    config: Transformer, seed: int, network: type[TransformerNet] = TransformerNet
) -> Iterator[tuple[str, Tensor]]:
    """Every weight of the whole model by name, one at a time, decided by `seed` alone."""
    block = network.block
    with torch.device("meta"):
        shapes = {name: weight.shape for name, weight in network(config).named_parameters()}
    generator = torch.Generator().manual_seed(seed)
    residual = 1 / math.sqrt(2 * (config.residual_depth or config.n_layers))
    for name, shape in shapes.items():
        kind, leaf = kind_of(name), name.rsplit(".")[-1]
        if kind == "vector":
            yield name, torch.zeros(shape) if leaf == "load_bias" else torch.ones(shape)
        elif kind == "head":
            yield name, torch.zeros(shape)
        else:
            std = 0.02 if kind == "embedding" else 1 / math.sqrt(block.fan_in(config, leaf, shape))
            std *= residual if leaf in block.written_by else 1.0
            yield name, torch.randn(shape, generator=generator) * std
