"""The transformer as a Hugging Face checkpoint: Llama's layout, with query-key norms Qwen3's.

Only names change: our joined matrices are cut into the ones that transformers expects.

    qkv      -> q_proj, k_proj, v_proj
    gate_up  -> gate_proj, up_proj

Multipliers enter the weights: that of the branches o_proj and down_proj, that of the logits the gain of the last
norm.

Not here: files (model/huggingface.py).
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from scalelab.model.huggingface import HuggingFace
from scalelab.model.transformer.config import Transformer


class LlamaLayout(HuggingFace):
    """One transformer under the names of Llama or Qwen3."""

    config: Transformer
    model_types = ("llama", "qwen3")

    @classmethod
    def read(cls, record: Mapping[str, Any]) -> Transformer:
        """See HuggingFace. Raises ValueError for what our network does not have."""
        rope = record.get("rope_parameters") or {}
        odd = {
            "hidden_act": record["hidden_act"] if record["hidden_act"] != "silu" else None,
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
        )

    def describe(self, seq_len: int) -> dict[str, object]:
        """See HuggingFace."""
        config = self.config
        return {
            "architectures": ["Qwen3ForCausalLM" if config.qk_norm else "LlamaForCausalLM"],
            "model_type": "qwen3" if config.qk_norm else "llama",
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
            "hidden_act": "silu",
            "use_cache": True,
            "dtype": "float32",
            # The corpus's own end-of-document token comes with its tokenizer.
            "bos_token_id": None,
            "eos_token_id": None,
            "pad_token_id": None,
        }

    def theirs(self, ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See HuggingFace."""
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
            gate, up = block["gate_up"].chunk(2)
            layer = {
                "self_attn.q_proj": q,
                "self_attn.k_proj": k,
                "self_attn.v_proj": v,
                "self_attn.o_proj": _times(block["out"], config.residual_multiplier),
                "mlp.gate_proj": gate,
                "mlp.up_proj": up,
                "mlp.down_proj": _times(block["down"], config.residual_multiplier),
                "input_layernorm": block["norm_attention"],
                "post_attention_layernorm": block["norm_mlp"],
            }
            if config.qk_norm:
                layer |= {"self_attn.q_norm": block["norm_q"], "self_attn.k_norm": block["norm_k"]}
            theirs |= {f"model.layers.{i}.{name}.weight": t for name, t in layer.items()}
        return {name: tensor.contiguous() for name, tensor in theirs.items()}

    def ours(self, theirs: Mapping[str, Tensor], *, headless: bool = False) -> dict[str, Tensor]:
        """See HuggingFace."""
        config = self.config
        ours = {"embedding": theirs["model.embed_tokens.weight"], "norm": theirs["model.norm.weight"]}
        if not (config.tied or headless):
            ours["head"] = theirs["lm_head.weight"]
        for i in range(config.n_layers):
            layer = {name: theirs[f"model.layers.{i}.{name}.weight"] for name in _LAYER}
            q, k, v, gate, up = (layer[name] for name in _JOINED)
            block = {
                "qkv": torch.cat((q, k, v)),
                "gate_up": torch.cat((gate, up)),
                "out": layer["self_attn.o_proj"],
                "down": layer["mlp.down_proj"],
                "norm_attention": layer["input_layernorm"],
                "norm_mlp": layer["post_attention_layernorm"],
            }
            if config.qk_norm:
                for norm, name in (("norm_q", "q_norm"), ("norm_k", "k_norm")):
                    block[norm] = theirs[f"model.layers.{i}.self_attn.{name}.weight"]
            ours |= {f"blocks.{i}.{name}": tensor for name, tensor in block.items()}
        return {name: tensor.float().contiguous() for name, tensor in ours.items()}


def _times(weight: Tensor, factor: float) -> Tensor:
    return weight if factor == 1 else weight * factor


_JOINED = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.gate_proj", "mlp.up_proj")
_LAYER = (*_JOINED, "self_attn.o_proj", "mlp.down_proj", "input_layernorm", "post_attention_layernorm")
