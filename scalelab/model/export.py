"""The way out: our weights as a Hugging Face checkpoint with equal logits.

Without query-key norms the layout is Llama's, with them Qwen3's. Only names change: our
joined matrices are cut into the ones that transformers expects.

    qkv      -> q_proj, k_proj, v_proj
    gate_up  -> gate_proj, up_proj

Not here: the tokenizer, which lies beside the corpus.
"""

import json
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from scalelab.files import whole_dir, write_text
from scalelab.model.transformer import Transformer


def to_hugging_face(config: Transformer, weights: Path, out: Path, *, seq_len: int) -> None:
    """Write config.json and model.safetensors to `out`, whole or not at all.

    Args:
        config: What the model is.
        weights: A run's model.safetensors.
        out: Directory for the checkpoint; what stands there is replaced.
        seq_len: The context it was trained on, noted as its longest.

    Raises:
        RunError: The directory cannot be written.
    """
    tensors = rename(config, load_file(weights))
    with whole_dir(out) as partial:
        write_text(partial / "config.json", json.dumps(hf_config(config, seq_len), indent=1))
        save_file(tensors, partial / "model.safetensors", metadata={"format": "pt"})


def hf_config(config: Transformer, seq_len: int) -> dict[str, object]:
    """The config.json of the checkpoint."""
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


def rename(config: Transformer, ours: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our weights under transformers' names."""
    E, H, K = config.head_size, config.n_heads, config.n_kv_heads
    theirs = {"model.embed_tokens.weight": ours["embedding"], "model.norm.weight": ours["norm"]}
    if not config.tied:
        theirs["lm_head.weight"] = ours["head"]
    for i in range(config.n_layers):
        block = {k.removeprefix(f"blocks.{i}."): v for k, v in ours.items()
                 if k.startswith(f"blocks.{i}.")}  # fmt: skip
        q, k, v = block["qkv"].split((H * E, K * E, K * E))
        gate, up = block["gate_up"].chunk(2)
        layer = {
            "self_attn.q_proj": q,
            "self_attn.k_proj": k,
            "self_attn.v_proj": v,
            "self_attn.o_proj": block["out"],
            "mlp.gate_proj": gate,
            "mlp.up_proj": up,
            "mlp.down_proj": block["down"],
            "input_layernorm": block["norm_attention"],
            "post_attention_layernorm": block["norm_mlp"],
        }
        if config.qk_norm:
            layer |= {"self_attn.q_norm": block["norm_q"], "self_attn.k_norm": block["norm_k"]}
        theirs |= {f"model.layers.{i}.{name}.weight": t for name, t in layer.items()}
    return {name: tensor.contiguous() for name, tensor in theirs.items()}
