"""The way out and back: our weights as a Hugging Face checkpoint with equal logits.

Without query-key norms the layout is Llama's, with them Qwen3's. Only names change: our
joined matrices are cut into the ones that transformers expects.

    qkv      -> q_proj, k_proj, v_proj
    gate_up  -> gate_proj, up_proj

Not here: the tokenizer, which lies beside the corpus.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from scalelab.errors import RunError
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


def from_hugging_face(path: Path) -> tuple[Transformer, dict[str, Tensor], int]:
    """A checkpoint in Llama's or Qwen3's layout as our config, weights by our names, and context.

    Args:
        path: Holds config.json and model.safetensors (one file).

    Raises:
        RunError: A file is missing or damaged, or the model has something that ours has not.
    """
    config, seq_len = config_of(path)
    try:
        return config, our_names(config, load_file(path / "model.safetensors")), seq_len
    except (OSError, KeyError, SafetensorError) as error:
        raise _unreadable(path, error) from error


def config_of(path: Path) -> tuple[Transformer, int]:
    """What a checkpoint's model is, and its context, without its weights.

    Raises:
        RunError: config.json is missing or damaged, or the model has something that ours has not.
    """
    try:
        record = json.loads((path / "config.json").read_text(encoding="utf-8"))
        return _our_config(record), int(record["max_position_embeddings"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> RunError:
    return RunError(
        f"the checkpoint cannot be read: {type(error).__name__}: {error}",
        where=str(path),
        fix="name a checkpoint of model_type llama or qwen3 with one model.safetensors, no biases "
        "and plain rotary positions",
    )


def _our_config(record: dict[str, Any]) -> Transformer:
    """The inverse of hf_config. Raises ValueError for what our network does not have."""
    kind = record["model_type"]
    rope = record.get("rope_parameters") or {}
    odd = {
        "model_type": kind if kind not in {"llama", "qwen3"} else None,
        "hidden_act": record["hidden_act"] if record["hidden_act"] != "silu" else None,
        "attention_bias": record.get("attention_bias") or None,
        "mlp_bias": record.get("mlp_bias") or None,
        "rope_type": rope.get("rope_type")
        if rope.get("rope_type", "default") != "default"
        else None,
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
        qk_norm=kind == "qwen3",
        rope_theta=float(rope.get("rope_theta") or record["rope_theta"]),
        norm_eps=record["rms_norm_eps"],
    )


def our_names(config: Transformer, theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of rename, in fp32."""
    ours = {"embedding": theirs["model.embed_tokens.weight"], "norm": theirs["model.norm.weight"]}
    if not config.tied:
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


_JOINED = (
    "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.gate_proj", "mlp.up_proj",
)  # fmt: skip
_LAYER = (
    *_JOINED, "self_attn.o_proj", "mlp.down_proj", "input_layernorm", "post_attention_layernorm",
)  # fmt: skip
