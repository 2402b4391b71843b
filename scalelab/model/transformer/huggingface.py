"""The transformer as a Hugging Face checkpoint: Llama's layout and its relatives.

    swiglu                       llama; with query-key norms qwen3
    gelu or relu2, without gate  arcee
    LayerNorm, learned positions, or no gate with query-key norms: no layout has them without biases

Only names change: our joined matrices are cut into the ones that transformers expects.

    qkv      -> q_proj, k_proj, v_proj
    gate_up  -> gate_proj, up_proj

Multipliers enter the weights: that of the branches o_proj and down_proj, that of the logits the gain of the last
norm. On the way back they leave the weights again; a config.json read without ours describes a model whose multipliers
are 1.

Not here: files (model/huggingface.py).
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from scalelab.errors import ConfigError
from scalelab.model.huggingface import HuggingFace
from scalelab.model.transformer.config import Transformer


class LlamaLayout(HuggingFace):
    """One transformer under the names of Llama or Qwen3."""

    config: Transformer
    model_types = ("llama", "qwen3", "arcee")

    def __init__(self, config: Transformer):
        """Keep a model that has such a checkpoint.

        Raises:
            ConfigError: It has none.
        """
        super().__init__(config)
        lacking = [words for words in config.departures() if "LayerNorm" in words or "positions" in words]
        if config.activation != "swiglu" and config.qk_norm:
            lacking.append(f"{config.activation} with query-key norms")
        if lacking:
            raise ConfigError(
                f"transformer cannot be exported to a Hugging Face checkpoint with {' and '.join(lacking)}",
                where=f"the model: {config.words()}",
                fix="export a model with `norm: rms` and `positions: rotary`, and swiglu where it has qk_norm",
            )

    @classmethod
    def read(cls, record: Mapping[str, Any]) -> Transformer:
        """See HuggingFace. Raises ValueError for what our network does not have."""
        rope, activations = record.get("rope_parameters") or {}, ACTIVATIONS[record["model_type"]]
        activation = activations.get(record["hidden_act"])
        odd = {
            "hidden_act": record["hidden_act"] if activation is None else None,
            "attention_bias": record.get("attention_bias") or None,
            "mlp_bias": record.get("mlp_bias") or None,
            "rope_type": rope.get("rope_type") if rope.get("rope_type", "default") != "default" else None,
            "rope_scaling": record.get("rope_scaling"),
            "sliding window": record.get("use_sliding_window") or None,
        }
        if found := {name: value for name, value in odd.items() if value is not None}:
            raise ValueError(f"not ours: {found}")
        heads = record["num_attention_heads"]
        return Transformer(
            n_layers=record["num_hidden_layers"],
            d_model=record["hidden_size"],
            n_heads=heads,
            n_kv_heads=record.get("num_key_value_heads", heads),
            head_size=record.get("head_dim") or record["hidden_size"] // heads,
            d_ff=record["intermediate_size"],
            vocab_size=record["vocab_size"],
            tied=record["tie_word_embeddings"],
            qk_norm=record["model_type"] == "qwen3",
            rope_theta=float(rope.get("rope_theta") or record["rope_theta"]),
            norm_eps=record["rms_norm_eps"],
            activation=activation,
        )

    def describe(self, seq_len: int) -> dict[str, object]:
        """See HuggingFace."""
        config = self.config
        kind = "arcee" if config.activation != "swiglu" else "qwen3" if config.qk_norm else "llama"
        return {
            "architectures": [f"{kind.capitalize()}ForCausalLM"],
            "model_type": kind,
            "hidden_size": config.d_model,
            "intermediate_size": config.d_ff,
            "num_hidden_layers": config.n_layers,
            "num_attention_heads": config.n_heads,
            "num_key_value_heads": config.n_kv_heads,
            "head_dim": config.head_size,
            "vocab_size": config.vocab_size,
            "max_position_embeddings": seq_len,
            "rms_norm_eps": config.norm_eps,
            "rope_theta": config.rope_theta,
            "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
            "tie_word_embeddings": config.tied,
            "attention_bias": False,
            "mlp_bias": False,
            "hidden_act": "silu" if config.activation == "swiglu" else config.activation,
            "use_cache": True,
            "dtype": "float32",
            # The corpus's own end-of-document token comes with its tokenizer.
            "bos_token_id": None,
            "eos_token_id": None,
            "pad_token_id": None,
        }

    def theirs(self, ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See HuggingFace."""
        theirs = self.theirs_but_mlp(ours)
        for i in range(self.config.n_layers):
            mlp, block = f"model.layers.{i}.mlp", f"blocks.{i}"
            if self.config.activation == "swiglu":
                halves = ours[f"{block}.gate_up"].chunk(2)
                theirs[f"{mlp}.gate_proj.weight"], theirs[f"{mlp}.up_proj.weight"] = halves
            else:
                theirs[f"{mlp}.up_proj.weight"] = ours[f"{block}.up"]
            theirs[f"{mlp}.down_proj.weight"] = _times(ours[f"{block}.down"], self.config.residual_multiplier)
        return {name: tensor.contiguous() for name, tensor in theirs.items()}

    def theirs_but_mlp(self, ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Our weights but those of feed-forwards under transformers' names."""
        config = self.config
        E, H, K = config.head_size, config.n_heads, config.n_kv_heads
        norm = _times(ours["norm"], config.output_multiplier)
        theirs = {"model.embed_tokens.weight": ours["embedding"], "model.norm.weight": norm}
        if not config.tied:
            theirs["lm_head.weight"] = ours["head"]
        for i in range(config.n_layers):
            block = {
                k.removeprefix(f"blocks.{i}."): v for k, v in ours.items() if k.startswith(f"blocks.{i}.")
            }
            q, k, v = block["qkv"].split((H * E, K * E, K * E))
            layer = {
                "self_attn.q_proj": q,
                "self_attn.k_proj": k,
                "self_attn.v_proj": v,
                "self_attn.o_proj": _times(block["out"], config.residual_multiplier),
                "input_layernorm": block["norm_attention"],
                "post_attention_layernorm": block["norm_mlp"],
            }
            if config.qk_norm:
                layer |= {"self_attn.q_norm": block["norm_q"], "self_attn.k_norm": block["norm_k"]}
            theirs |= {f"model.layers.{i}.{name}.weight": t for name, t in layer.items()}
        return theirs

    def ours(self, theirs: Mapping[str, Tensor], *, headless: bool = False) -> dict[str, Tensor]:
        """See HuggingFace."""
        ours = self.ours_but_mlp(theirs, headless=headless)
        for i in range(self.config.n_layers):
            mlp, block = f"model.layers.{i}.mlp", f"blocks.{i}"
            up = theirs[f"{mlp}.up_proj.weight"]
            if self.config.activation == "swiglu":
                ours[f"{block}.gate_up"] = torch.cat((theirs[f"{mlp}.gate_proj.weight"], up))
            else:
                ours[f"{block}.up"] = up
            ours[f"{block}.down"] = _times(
                theirs[f"{mlp}.down_proj.weight"], 1 / self.config.residual_multiplier
            )
        return {name: tensor.float().contiguous() for name, tensor in ours.items()}

    def ours_but_mlp(self, theirs: Mapping[str, Tensor], *, headless: bool = False) -> dict[str, Tensor]:
        """The inverse of `theirs_but_mlp`."""
        config = self.config
        norm = _times(theirs["model.norm.weight"], 1 / config.output_multiplier)
        ours = {"embedding": theirs["model.embed_tokens.weight"], "norm": norm}
        if not (config.tied or headless):
            ours["head"] = theirs["lm_head.weight"]
        for i in range(config.n_layers):
            layer = {name: theirs[f"model.layers.{i}.{name}.weight"] for name in _LAYER}
            block = {
                "qkv": torch.cat([layer[name] for name in _QKV]),
                "out": _times(layer["self_attn.o_proj"], 1 / config.residual_multiplier),
                "norm_attention": layer["input_layernorm"],
                "norm_mlp": layer["post_attention_layernorm"],
            }
            if config.qk_norm:
                for norm, name in (("norm_q", "q_norm"), ("norm_k", "k_norm")):
                    block[norm] = theirs[f"model.layers.{i}.self_attn.{name}.weight"]
            ours |= {f"blocks.{i}.{name}": tensor for name, tensor in block.items()}
        return ours


def _times(weight: Tensor, factor: float) -> Tensor:
    return weight if factor == 1 else weight * factor


ACTIVATIONS = {
    "llama": {"silu": "swiglu"},
    "qwen3": {"silu": "swiglu"},
    "arcee": {"gelu": "gelu", "relu2": "relu2"},
}
"""Our name of each `hidden_act`, by model_type."""
_QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
_LAYER = (*_QKV, "self_attn.o_proj", "input_layernorm", "post_attention_layernorm")
