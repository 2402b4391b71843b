"""A mixture of experts as a Hugging Face checkpoint, where transformers has its routing.

    softmax scores, no bias, no shared experts, top_k 2 or more     mixtral
    the same with query-key norms, any top_k                        qwen3_moe
    sigmoid scores, balanced by a bias                              glm4_moe, one group, no dense blocks

All need swiglu, RMSNorm and rotary positions. What decides the training of the routing and not its result lies
in config.json under `scalelab`; of a checkpoint without it the load is taken as not balanced, or with
glm4_moe as balanced by a bias with the default step.

Not here: attention, norms and head (transformer/huggingface.py), files (model/huggingface.py).
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from scalelab.errors import ConfigError
from scalelab.model.huggingface import HuggingFace
from scalelab.model.moe.config import Moe
from scalelab.model.transformer.huggingface import LlamaLayout

OF_TRAINING = ("balance", "bias_step", "balance_weight", "z_weight")
"""Fields that transformers has no name for."""


class MoeLayout(HuggingFace):
    """One mixture of experts under the names of Mixtral, Qwen3-MoE or GLM-4-MoE."""

    config: Moe
    model_types = ("mixtral", "qwen3_moe", "glm4_moe")
    is_named_so_when_loaded = False  # transformers 5 joins the experts of a block as it loads them

    def __init__(self, config: Moe):
        """Keep a model that has such a checkpoint.

        Raises:
            ConfigError: It has none.
        """
        super().__init__(config)
        lacking = list(config.departures())
        if config.scores == "softmax":
            lacking += ["softmax scores balanced by a bias"] * (config.balance == "bias")
            lacking += ["softmax scores and shared experts"] * (config.n_shared > 0)
            lacking += ["one softmax expert without query-key norms"] * (
                config.top_k == 1 and not config.qk_norm
            )
        elif config.balance != "bias":
            lacking.append("sigmoid scores that no bias balances")
        if lacking:
            raise ConfigError(
                f"moe cannot be exported to a Hugging Face checkpoint with {' and '.join(lacking)}",
                where=f"the model: {config.words()}",
                fix="export softmax scores without a bias and shared experts, or sigmoid scores with a bias; "
                "with swiglu, `norm: rms` and `positions: rotary`",
            )
        self.kind = "glm4_moe" if config.scores == "sigmoid" else "qwen3_moe" if config.qk_norm else "mixtral"
        self.dense = LlamaLayout(config.as_dense())

    @classmethod
    def read(cls, record: Mapping[str, Any]) -> Moe:
        """See HuggingFace. Raises ValueError for what our network does not have."""
        kind, is_sigmoid = record["model_type"], record["model_type"] == "glm4_moe"
        qk_norm = kind == "qwen3_moe" or bool(is_sigmoid and record.get("use_qk_norm"))
        experts, width = _NAMES[kind]
        rope = record.get("rope_parameters") or {}
        odd = {
            "mlp_only_layers": record.get("mlp_only_layers") or None,
            "decoder_sparse_step": record.get("decoder_sparse_step", 1) if kind == "qwen3_moe" else 1,
            "first_k_dense_replace": (record.get("first_k_dense_replace", 1) if is_sigmoid else 0) or None,
            "n_group": (record.get("n_group") or 1) if is_sigmoid else 1,
            "routed_scaling_factor": record.get("routed_scaling_factor", 1.0) if is_sigmoid else 1.0,
            "partial_rotary_factor": rope.get("partial_rotary_factor", 0.5 if is_sigmoid else 1.0),
            "sliding_window": record.get("sliding_window"),
        }
        if found := {name: value for name, value in odd.items() if value not in (None, 1)}:
            raise ValueError(f"not ours: {found}")
        top_k = record["num_experts_per_tok"]
        if kind != "mixtral" and bool(record["norm_topk_prob"]) != (top_k > 1):
            raise ValueError(f"not ours: {{'norm_topk_prob': {record['norm_topk_prob']!r}}}")
        dense = LlamaLayout.read(
            {**record, "model_type": "qwen3" if qk_norm else "llama", "intermediate_size": record[width]}
        )
        return Moe(
            **dense.model_dump(exclude={"kind"}),
            n_experts=record[experts],
            top_k=top_k,
            n_shared=record["n_shared_experts"] if is_sigmoid else 0,
            scores="sigmoid" if is_sigmoid else "softmax",
            **({"balance": "bias" if is_sigmoid else "none"} | dict(record.get("scalelab", {}))),
        )

    def describe(self, seq_len: int) -> dict[str, object]:
        """See HuggingFace."""
        c, (experts, width) = self.config, _NAMES[self.kind]
        name = {"mixtral": "Mixtral", "qwen3_moe": "Qwen3Moe", "glm4_moe": "Glm4Moe"}[self.kind]
        own: dict[str, object] = {}
        if self.kind != "mixtral":
            own |= {"norm_topk_prob": c.top_k > 1}
        if self.kind == "qwen3_moe":
            own |= {"decoder_sparse_step": 1, "mlp_only_layers": []}
        if self.kind == "glm4_moe":
            own |= {
                "n_shared_experts": c.n_shared,
                "n_group": 1,
                "topk_group": 1,
                "first_k_dense_replace": 0,
                "routed_scaling_factor": 1.0,
                "use_qk_norm": c.qk_norm,
                "rope_parameters": {
                    "rope_type": "default",
                    "rope_theta": c.rope_theta,
                    "partial_rotary_factor": 1.0,
                },
            }
        return {
            **self.dense.describe(seq_len),
            "architectures": [f"{name}ForCausalLM"],
            "model_type": self.kind,
            experts: c.n_experts,
            "num_experts_per_tok": c.top_k,
            width: c.d_ff,
            "sliding_window": None,
            **own,
            "scalelab": {field: getattr(c, field) for field in OF_TRAINING},
        }

    def theirs(self, ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See HuggingFace."""
        c, theirs = self.config, self.dense.theirs_but_mlp(ours)
        for i in range(c.n_layers):
            place, block = f"model.layers.{i}.{self._mlp}", f"blocks.{i}."
            theirs[f"{place}.gate.weight"] = ours[f"{block}router"]
            if c.balance == "bias":
                theirs[f"{place}.gate.e_score_correction_bias"] = ours[f"{block}load_bias"]
            inner = ours[f"{block}experts_in"].view(c.n_experts, 2, c.d_ff, c.d_model)
            outer = ours[f"{block}experts_out"].view(c.n_experts, c.d_ff, c.d_model)
            gate, up, down = self._expert
            for e in range(c.n_experts):
                theirs[f"{place}.experts.{e}.{gate}.weight"] = inner[e, 0]
                theirs[f"{place}.experts.{e}.{up}.weight"] = inner[e, 1]
                theirs[f"{place}.experts.{e}.{down}.weight"] = outer[e].t()
            if c.n_shared:
                shared = f"{place}.shared_experts"
                halves = ours[f"{block}shared_in"].chunk(2)
                theirs[f"{shared}.gate_proj.weight"], theirs[f"{shared}.up_proj.weight"] = halves
                theirs[f"{shared}.down_proj.weight"] = ours[f"{block}shared_out"]
        return {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in theirs.items()}

    def ours(self, theirs: Mapping[str, Tensor], *, headless: bool = False) -> dict[str, Tensor]:
        """See HuggingFace."""
        c, ours = self.config, self.dense.ours_but_mlp(theirs, headless=headless)
        gate, up, down = self._expert
        for i in range(c.n_layers):
            place, block = f"model.layers.{i}.{self._mlp}", f"blocks.{i}."
            ours[f"{block}router"] = theirs[f"{place}.gate.weight"]
            if c.balance == "bias":
                ours[f"{block}load_bias"] = theirs[f"{place}.gate.e_score_correction_bias"]
            experts = [f"{place}.experts.{e}" for e in range(c.n_experts)]
            inner = [theirs[f"{expert}.{side}.weight"] for expert in experts for side in (gate, up)]
            ours[f"{block}experts_in"] = torch.cat(inner)
            ours[f"{block}experts_out"] = torch.cat([theirs[f"{x}.{down}.weight"].t() for x in experts])
            if c.n_shared:
                shared = f"{place}.shared_experts"
                sides = [theirs[f"{shared}.{side}.weight"] for side in ("gate_proj", "up_proj")]
                ours[f"{block}shared_in"] = torch.cat(sides)
                ours[f"{block}shared_out"] = theirs[f"{shared}.down_proj.weight"]
        return {name: tensor.float().contiguous() for name, tensor in ours.items()}

    @property
    def _mlp(self) -> str:
        return "block_sparse_moe" if self.kind == "mixtral" else "mlp"

    @property
    def _expert(self) -> tuple[str, str, str]:
        return ("w1", "w3", "w2") if self.kind == "mixtral" else ("gate_proj", "up_proj", "down_proj")


_NAMES = {
    "mixtral": ("num_local_experts", "intermediate_size"),
    "qwen3_moe": ("num_experts", "moe_intermediate_size"),
    "glm4_moe": ("n_routed_experts", "moe_intermediate_size"),
}
"""Their names of n_experts and d_ff."""
