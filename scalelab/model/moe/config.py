"""A transformer whose feed-forwards are mixtures of experts, described: dimensions, counts, costs. No torch.

Every block has `n_experts` feed-forwards of width `d_ff`, of which a token uses `top_k`, and `n_shared` that
every token uses. No token is dropped, whatever the load.

    scores   s = softmax or sigmoid of (router x), in fp32 whatever the working precision
    choice   the top_k largest of s + b;  b = 0 unless balance is bias
    output   sum over the chosen of g_e expert_e(x) + shared(x);  g = s / (sum of the chosen s), or s for top_k 1

    balance  bias   after each update b_e <- b_e - bias_step * sign(load_e - mean load); no gradient
             loss   balance_weight * n_experts * sum_e f_e P_e, the mean over windows; f_e share of the choices
                    that fell on e, P_e mean of s_e / sum s, both in one window
             none
    z-loss   z_weight * mean over tokens of (logsumexp of router x)^2

Losses beside the cross-entropy are summed over blocks. They change gradients in pretraining only: no loss that
is reported holds them. Both are means over windows, so they do not depend on the micro-batch or the layout.

    block    attention and norms as in the transformer + (n_experts + n_shared) * E + d_model * n_experts (+ n_experts)
    E        3 * d_model * d_ff with swiglu, else 2 * d_model * d_ff
    active   without the (n_experts - top_k) * E of a block that a token does not use

Symbols: total is every parameter, active those that one token uses; matmul and non_embedding count all experts.
FLOPs are those of the active parameters.

Source: choice, Shazeer et al. 2017, arXiv:1701.06538; loss, Fedus et al. 2021 (Switch), arXiv:2101.03961, by
window as in DeepSeek-V3; bias and sigmoid scores, DeepSeek-AI 2024 (DeepSeek-V3), arXiv:2412.19437; z-loss, Zoph
et al. 2022 (ST-MoE), arXiv:2202.08906; granularity, Krajewski et al. 2024, arXiv:2402.07871.
Not here: the weights (network.py).
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import ClassVar, Literal, Self

from pydantic import model_validator

from scalelab.config import Count, NonNegative, Positive, Whole
from scalelab.model.base import Architecture, Blocks, Family, ModelSize
from scalelab.model.transformer.config import NUMBERS_OF_FF, Transformer, TransformerFamily
from scalelab.model.transformer.flops import training_flops_per_token

Balance = Literal["bias", "loss", "none"]
Scores = Literal["softmax", "sigmoid"]
OF_ROUTING = (
    "n_experts",
    "top_k",
    "n_shared",
    "scores",
    "balance",
    "bias_step",
    "balance_weight",
    "z_weight",
)
"""Fields that a family hands to its members as they are."""


class MoeFamily(TransformerFamily):
    """A shape rule: the transformer of each width, its feed-forward divided into experts."""

    kind: Literal["moe"] = "moe"
    n_experts: Count
    """Experts of a block, of which a token uses top_k."""
    top_k: Count
    n_shared: Whole = 0
    """Experts that every token uses, beside them."""
    granularity: Count = 1
    """Parts of a dense feed-forward of ff_ratio: an expert has 1 / granularity of its width. With top_k +
    n_shared of granularity a token uses as many weights as in the dense transformer."""
    scores: Scores = "sigmoid"
    balance: Balance = "bias"
    bias_step: Positive = 1e-3
    """Step of the bias in one update. DeepSeek-V3's."""
    balance_weight: Positive = 1e-2
    """Weight of the balancing loss. Switch's."""
    z_weight: NonNegative = 0.0
    """Weight of the z-loss; ST-MoE has 1e-3."""

    def members(self, vocab_size: int) -> Iterator["Moe"]:
        """See Family."""
        routing = {name: getattr(self, name) for name in OF_ROUTING}
        for dense in super().members(vocab_size):
            width = -(-dense.d_model * self.ff_ratio / self.granularity // self.ff_multiple)
            fields = dense.model_dump(exclude={"kind"}) | {"d_ff": int(width) * self.ff_multiple}
            yield Moe(**fields, **routing)


class Moe(Transformer):
    """One mixture of experts, every dimension decided. `d_ff` is the width of one expert."""

    has_multipliers: ClassVar[bool] = False  # neither source says how experts follow width
    family: ClassVar[type[Family]] = MoeFamily
    parts: ClassVar[Mapping[str, str]] = {
        "network": "scalelab.model.moe.network:MoeNet",
        "sharding": "scalelab.model.moe.sharding:MoeSharding",
        "huggingface": "scalelab.model.moe.huggingface:MoeLayout",
        "generate": "scalelab.model.transformer.generate:KeyValueCache",
    }

    kind: Literal["moe"] = "moe"
    n_experts: Count
    top_k: Count
    """Experts that a token uses."""
    n_shared: Whole = 0
    """Experts that every token uses, beside them."""
    scores: Scores = "sigmoid"
    balance: Balance = "bias"
    bias_step: Positive = 1e-3
    balance_weight: Positive = 1e-2
    z_weight: NonNegative = 0.0

    @model_validator(mode="after")
    def _can_choose(self) -> Self:
        if self.top_k > self.n_experts:
            raise ValueError(f"top_k is {self.top_k}, and there are {self.n_experts} experts")
        return self

    @model_validator(mode="after")
    def _has_no_multipliers(self) -> Self:
        given = {"residual_multiplier": 1.0, "output_multiplier": 1.0, "residual_depth": None}
        if found := {name: value for name in given if (value := getattr(self, name)) != given[name]}:
            raise ValueError(f"a mixture of experts has no multipliers: leave out {found}")
        return self

    with_multipliers = Architecture.with_multipliers

    @property
    def has_losses(self) -> bool:
        """Whether a block adds to the loss that is trained on."""
        return self.balance == "loss" or self.z_weight > 0

    @property
    def _expert(self) -> int:
        return (3 if self.activation == "swiglu" else 2) * self.d_model * self.d_ff

    @property
    def _mixture(self) -> tuple[int, int, int]:
        """Parameters of one block's feed-forward: in matrices, those of them that a token uses not, others."""
        matrices = (self.n_experts + self.n_shared) * self._expert + self.d_model * self.n_experts
        idle = (self.n_experts - self.top_k) * self._expert
        return matrices, idle, self.n_experts if self.balance == "bias" else 0

    def as_dense(self) -> Transformer:
        """The transformer with one of the experts as its feed-forward."""
        return Transformer(
            **{name: getattr(self, name) for name in Transformer.model_fields if name != "kind"}
        )

    def size(self, seq_len: int) -> ModelSize:
        """See Architecture."""
        dense, (matrices, idle, vectors) = self.as_dense().size(seq_len), self._mixture
        more = self.n_layers * (matrices - self._expert)
        total = dense.n_params_total + more + self.n_layers * vectors
        matmul = dense.n_params_matmul + more
        heads = self.n_heads * self.head_size
        used = matmul - self.n_layers * idle
        return ModelSize(
            n_params_total=total,
            n_params_non_embedding=dense.n_params_non_embedding + more + self.n_layers * vectors,
            n_params_matmul=matmul,
            n_params_active=total - self.n_layers * idle,
            flops_per_token=training_flops_per_token(used, self.n_layers, heads, seq_len),
        )

    def blocks(self) -> Blocks:
        """See Architecture.

        Of the feed-forward a token leaves what each expert that it uses leaves, with that expert's input
        and output; and of the routing, in fp32, its input, three numbers an expert (logits and scores), and the
        numbers and places of the chosen experts, 24 bytes each.
        """
        dense, (matrices, _, vectors) = self.as_dense().blocks(), self._mixture
        used = self.top_k + self.n_shared
        of_ff = NUMBERS_OF_FF[self.activation] * self.d_ff
        experts = used * (of_ff + 2 * self.d_model) - of_ff
        refused = {"tensor"} | ({"pipeline"} if self.has_losses else set())
        return replace(
            dense,
            params_whole=dense.params_whole + dense.params_cut - self._expert + matrices + vectors,
            params_cut=0,
            numbers_whole=dense.numbers_whole + dense.numbers_cut + experts,
            numbers_cut=0,
            fp32=self.d_model + 3 * self.n_experts + 6 * self.top_k,
            divided={},
            refused=frozenset(refused),
        )

    def words(self) -> str:
        """See Architecture."""
        shared = f" and {self.n_shared} shared" if self.n_shared else ""
        balanced = {"bias": "balanced by a bias", "loss": "balanced by a loss", "none": "not balanced"}
        return (
            f"{super().words()}, {self.top_k} of {self.n_experts} experts{shared}, {self.scores} scores, "
            f"{balanced[self.balance]}"
        )

    def joined(self, name: str) -> dict[str, int]:
        """See Architecture: each expert's gate, up and down are matrices of their own."""
        leaf = name.rsplit(".")[-1]
        inner = ("gate", "up") if self.activation == "swiglu" else ("up",)
        if leaf == "experts_in":
            return {f"{name}.{e}.{part}": self.d_ff for e in range(self.n_experts) for part in inner}
        if leaf == "experts_out":
            return {f"{name}.{e}": self.d_ff for e in range(self.n_experts)}
        if leaf == "shared_in" and len(inner) > 1:
            return {f"{name}.{part}": self.n_shared * self.d_ff for part in inner}
        return super().joined(name)
