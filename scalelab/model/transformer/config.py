"""The dense decoder, by default in Llama's layout, described: dimensions, counts, costs. No torch.

Blocks of norm, grouped-query attention, norm, feed-forward; a final norm and an output head, tied to
the embedding or not. No biases. With `qk_norm` queries and keys are normalised per head, as in Qwen3.

    activation   feed-forward of x                                   weights
    swiglu       down (silu(gate x) * up x)                          3 * d_model * d_ff
    gelu         down gelu(up x), by the error function              2 * d_model * d_ff
    relu2        down max(0, up x)^2                                 2 * d_model * d_ff

    norm         rms: x / rms(x) * gain; layer: (x - mean) / std * gain
    positions    rotary in queries and keys; or learned, one vector each, added to the embedding

    blocks     n_layers * (d_model * head_size * (2 n_heads + 2 n_kv_heads) + 3 or 2 * d_model * d_ff)
    norms      n_layers * 2 * d_model + d_model  (+ n_layers * 2 * head_size with qk_norm)
    positions  max_positions * d_model where they are learned; counted with the embedding

Source: Touvron et al. 2023, arXiv:2302.13971; Qwen3 report 2025, arXiv:2505.09388; activations, Shazeer
2020, arXiv:2002.05202, and So et al. 2021 (Primer), arXiv:2109.08668.
Not here: the weights (network.py).
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from scalelab.config import Count, Positive, Switch
from scalelab.model.base import Architecture, Blocks, Family, ModelSize
from scalelab.model.transformer.flops import training_flops_per_token

Activation = Literal["swiglu", "gelu", "relu2"]
Norm = Literal["rms", "layer"]
Positions = Literal["rotary", "learned"]
ADDED = {"since": 2}
"""Fields that came after the first run ids."""
NUMBERS_OF_FF = {"swiglu": 4, "gelu": 2, "relu2": 3}
"""Numbers of width d_ff that a token leaves in one block, by activation."""


class TransformerFamily(Family):
    """A shape rule: the one transformer of each width. Depth follows width, or is fixed.

    Head size (or the number of heads), feed-forward ratio and (with `aspect_ratio`) width over depth
    are held along the ladder, because a shape that drifts with size bends the law.
    """

    closer: ClassVar[str] = "make head_size, n_heads or width_multiple smaller"
    kind: Literal["transformer"] = "transformer"
    head_size: Count | None = 64
    """Width of a head at every size. Give this or n_heads; without either it is 64."""
    n_heads: Count | None = Field(None, json_schema_extra={"since": 3})
    """Query heads at every size. A head is then d_model / n_heads wide, which rotary positions need to be even, so
    d_model is a multiple of 2 n_heads."""
    aspect_ratio: Positive | None = None
    """d_model / n_layers, held as nearly as whole layers allow. Give this or n_layers."""
    n_layers: Count | None = None
    """A fixed depth, for models so small that depth does not help yet."""
    heads_per_kv_head: Count = 1
    """Query heads that share one key-value head."""
    ff_ratio: Positive = 8 / 3
    """d_ff / d_model before rounding."""
    ff_multiple: Count = 16
    """d_ff is rounded up to a multiple of this."""
    width_multiple: Count = Field(1, json_schema_extra={"since": 2})
    """d_model is a multiple of this, and of a whole group of heads. 128 fills the tiles of a GPU's matrix
    products; the larger it is, the further apart the sizes lie."""
    tied: Switch = False
    qk_norm: Switch = False
    rope_theta: Positive = 10000.0
    activation: Activation = Field("swiglu", json_schema_extra=ADDED)
    """gelu and relu2 have no gate, so that they have two thirds of the weights at one ff_ratio."""
    norm: Norm = Field("rms", json_schema_extra=ADDED)
    positions: Positions = Field("rotary", json_schema_extra=ADDED)
    max_positions: Count | None = Field(None, json_schema_extra=ADDED)
    """Positions that are learned, tokens: at least the recipe's seq_len. None where they are rotary."""

    @model_validator(mode="before")
    @classmethod
    def _heads_by_number(cls, given: Any) -> Any:
        """Without a stated head_size, n_heads takes the place of its default."""
        if isinstance(given, Mapping) and given.get("n_heads") is not None and "head_size" not in given:
            return {**given, "head_size": None}
        return given

    @model_validator(mode="after")
    def _one_head_rule(self) -> Self:
        if (self.head_size is None) == (self.n_heads is None):
            raise ValueError(
                f"give either head_size or n_heads, and not both: head_size is {self.head_size}, n_heads {self.n_heads}"
            )
        if self.n_heads is not None and self.n_heads % self.heads_per_kv_head:
            raise ValueError(f"{self.n_heads} heads do not divide into groups of {self.heads_per_kv_head}")
        return self

    def width_obstacle(self) -> str | None:
        """See Family: attention divides by sqrt(head size)."""
        if self.n_heads is None:
            return None
        return f"needs heads of one size at every width, and recipe.model.n_heads is {self.n_heads}"

    @model_validator(mode="after")
    def _one_depth_rule(self) -> Self:
        if (self.aspect_ratio is None) == (self.n_layers is None):
            raise ValueError("give either aspect_ratio or n_layers, and not both")
        return self

    def members(self, vocab_size: int) -> Iterator["Transformer"]:
        """The family from its smallest member up, without end, one for each width."""
        least = 2 * (self.n_heads or 1) if self.head_size is None else self.head_size * self.heads_per_kv_head
        width_step = math.lcm(least, self.width_multiple)
        width = 0
        while True:
            width += width_step
            depth = self.n_layers or max(1, round(width / (self.aspect_ratio or 1)))
            n_heads = self.n_heads or width // (self.head_size or width)
            blocks = -(-width * self.ff_ratio // self.ff_multiple)
            yield Transformer(
                n_layers=depth,
                d_model=width,
                n_heads=n_heads,
                n_kv_heads=n_heads // self.heads_per_kv_head,
                head_size=width // n_heads,
                d_ff=int(blocks) * self.ff_multiple,
                vocab_size=vocab_size,
                tied=self.tied,
                qk_norm=self.qk_norm,
                rope_theta=self.rope_theta,
                activation=self.activation,
                norm=self.norm,
                positions=self.positions,
                max_positions=self.max_positions,
            )


class Transformer(Architecture):
    """One dense decoder, every dimension decided."""

    family: ClassVar[type[Family]] = TransformerFamily
    parts: ClassVar[Mapping[str, str]] = {
        "network": "scalelab.model.transformer.network:TransformerNet",
        "sharding": "scalelab.model.transformer.sharding:TransformerSharding",
        "huggingface": "scalelab.model.transformer.huggingface:LlamaLayout",
        "generate": "scalelab.model.transformer.generate:KeyValueCache",
    }
    has_chunked_loss: ClassVar[bool] = True
    has_multipliers: ClassVar[bool] = True

    kind: Literal["transformer"] = "transformer"
    n_layers: Count
    d_model: Count
    n_heads: Count
    n_kv_heads: Count
    """Key and value heads; fewer than n_heads is grouped-query attention."""
    head_size: Count
    d_ff: Count
    """Width of the feed-forward's hidden layer."""
    vocab_size: Count
    tied: Switch = False
    """Whether the output head is the embedding."""
    qk_norm: Switch = False
    rope_theta: Positive = 10000.0
    norm_eps: Positive = 1e-5
    residual_multiplier: Positive = Field(1.0, json_schema_extra={"since": 2})
    """Factor on what attention and the feed-forward layer add to the residual stream."""
    output_multiplier: Positive = Field(1.0, json_schema_extra={"since": 2})
    """Factor on the logits."""
    residual_depth: Count | None = Field(None, json_schema_extra={"since": 2})
    """Layers by which matrices that write into the residual stream start: std 1/sqrt(2 fan_in residual_depth).
    None: n_layers."""
    activation: Activation = Field("swiglu", json_schema_extra=ADDED)
    norm: Norm = Field("rms", json_schema_extra=ADDED)
    positions: Positions = Field("rotary", json_schema_extra=ADDED)
    max_positions: Count | None = Field(None, json_schema_extra=ADDED)
    """Positions that are learned, tokens. None where they are rotary."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.n_heads % self.n_kv_heads:
            raise ValueError(f"{self.n_heads} heads cannot share {self.n_kv_heads} key-value heads evenly")
        if self.head_size % 2 and self.positions == "rotary":
            raise ValueError(f"rotary positions need an even head_size, not {self.head_size}")
        if (self.positions == "learned") != (self.max_positions is not None):
            raise ValueError(
                f"positions are {self.positions} and max_positions is {self.max_positions}: give max_positions with "
                "learned positions, and only with them"
            )
        return self

    def size(self, seq_len: int) -> ModelSize:
        """See Architecture."""
        block, heads = self._matrices, self.n_heads * self.head_size
        vocab = self.vocab_size * self.d_model
        norms = self.n_layers * self._norms + self.d_model
        matmul = self.n_layers * block + vocab
        total = self.n_layers * block + norms + vocab * (1 if self.tied else 2) + self._positions
        return ModelSize(
            n_params_total=total,
            n_params_non_embedding=self.n_layers * block + norms,
            n_params_matmul=matmul,
            n_params_active=total,
            flops_per_token=training_flops_per_token(matmul, self.n_layers, heads, seq_len),
        )

    @property
    def _matrices(self) -> int:
        heads = 2 * self.n_heads + 2 * self.n_kv_heads
        ff = 3 if self.activation == "swiglu" else 2
        return self.d_model * self.head_size * heads + ff * self.d_model * self.d_ff

    @property
    def _norms(self) -> int:
        return 2 * self.d_model + (2 * self.head_size if self.qk_norm else 0)

    @property
    def _positions(self) -> int:
        return (self.max_positions or 0) * self.d_model

    def context_limit(self) -> int | None:
        """See Architecture."""
        return self.max_positions

    def blocks(self) -> Blocks:
        """See Architecture.

        What a token leaves in a block: both norms' inputs and outputs; the heads before and after
        rotary, the mixed values; of the feed-forward NUMBERS_OF_FF, its input and product among them.
        """
        heads = (2 * self.n_heads + 2 * self.n_kv_heads) * self.head_size
        return Blocks(
            n=self.n_layers,
            width=self.d_model,
            vocabulary=self.vocab_size * self.d_model,
            tied=self.tied,
            params_whole=self._norms,
            params_cut=self._matrices,
            params_first=self._positions,
            params_last=self.d_model,
            numbers_whole=4 * self.d_model,
            numbers_cut=2 * heads
            + self.n_heads * self.head_size
            + NUMBERS_OF_FF[self.activation] * self.d_ff,
            normed=(self.n_heads + self.n_kv_heads) * self.head_size if self.qk_norm else 0,
            scores=2 * self.n_heads,
            keys_values=self.n_kv_heads * self.head_size,
            divided={"key-value heads": self.n_kv_heads, "feed-forward columns": self.d_ff},
        )

    def words(self) -> str:
        """See Architecture."""
        return (
            f"{self.n_layers} layers x {self.d_model}, {self.n_heads} heads of {self.head_size} "
            f"({self.n_kv_heads} key-value), d_ff {self.d_ff}, vocabulary {self.vocab_size:,}"
            + (f", branches x{self.residual_multiplier:.4g}" if self.residual_multiplier != 1 else "")
            + (f", logits x{self.output_multiplier:.4g}" if self.output_multiplier != 1 else "")
            + "".join(f", {words}" for words in self.departures())
        )

    def with_multipliers(self, *, residual: float, output: float, residual_depth: int | None) -> Self:
        """See Architecture."""
        depth = None if residual_depth == self.n_layers else residual_depth
        return self.model_copy(
            update={"residual_multiplier": residual, "output_multiplier": output, "residual_depth": depth}
        )

    def departures(self) -> tuple[str, ...]:
        """What sets it apart from Llama's layout, in words."""
        return tuple(
            words
            for field, value, words in (
                ("activation", "gelu", "GELU"),
                ("activation", "relu2", "squared ReLU"),
                ("norm", "layer", "LayerNorm"),
                ("positions", "learned", f"{self.max_positions} learned positions"),
            )
            if getattr(self, field) == value
        )

    def joined(self, name: str) -> dict[str, int]:
        """See Architecture."""
        leaf = name.rsplit(".")[-1]
        heads, kv_heads = self.n_heads * self.head_size, self.n_kv_heads * self.head_size
        if leaf == "qkv":
            return {f"{name}.q": heads, f"{name}.k": kv_heads, f"{name}.v": kv_heads}
        if leaf == "gate_up":
            return {f"{name}.gate": self.d_ff, f"{name}.up": self.d_ff}
        return {name: -1}
