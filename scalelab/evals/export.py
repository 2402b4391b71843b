"""Export of a checkpoint for other software, which computes the same numbers from it.

    config.json, model.safetensors   Llama's or Qwen3's layout (model/huggingface.py)
    tokenizer.json                   this package's; END precedes a text, as it precedes every document
    tokenizer_config.json            END as first, last and (without a chat) padding token
    special_tokens_map.json          the same, for older readers
    generation_config.json           end token, and tokens that are never generated

A base model has no padding token. END stands in for it: padding is masked, so it has no effect.
The tokenizer class is PreTrainedTokenizerFast, because the name that transformers 5 writes does not
exist in version 4.

Source: file names and keys as transformers 5.23 reads them.
Not here: the names of the weights (model/huggingface.py), reading it back (checkpoint.py).
"""

import json
from pathlib import Path

from safetensors.torch import save_file

from scalelab.data.chat import PAD, TEMPLATE
from scalelab.data.tokenizer import END
from scalelab.evals.checkpoint import Checkpoint
from scalelab.files import whole_dir, write_text


def export_checkpoint(checkpoint: Checkpoint, out: Path) -> None:
    """Write the model to `out` atomically, replacing what is there.

    Args:
        checkpoint: The model.
        out: Directory for the checkpoint.

    Raises:
        ConfigError: The architecture has no Hugging Face layout.
        RunError: The directory cannot be written.
    """
    layout = checkpoint.config.hugging_face()
    weights = {name: w.detach().cpu() for name, w in checkpoint.network.state_dict().items()}
    with whole_dir(out) as partial:
        checkpoint.tokenizer.save(partial / "tokenizer.json")
        tokenizer = json.loads((partial / "tokenizer.json").read_text(encoding="utf-8"))
        tokenizer["post_processor"] = _begin_with_end(checkpoint.tokenizer.end)
        files = {
            "config.json": layout.describe(checkpoint.seq_len),
            "tokenizer.json": tokenizer,
            "tokenizer_config.json": _tokenizer_config(checkpoint),
            "special_tokens_map.json": _special(checkpoint),
            "generation_config.json": _generation_config(checkpoint),
        }
        for name, contents in files.items():
            write_text(partial / name, json.dumps(contents, indent=1, ensure_ascii=False))
        save_file(layout.theirs(weights), partial / "model.safetensors", metadata={"format": "pt"})


def _special(checkpoint: Checkpoint) -> dict[str, str]:
    pad = PAD if checkpoint.chat else END
    return {"bos_token": END, "eos_token": END, "pad_token": pad}


def _tokenizer_config(checkpoint: Checkpoint) -> dict[str, object]:
    chat = {"chat_template": TEMPLATE} if checkpoint.chat else {}
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **_special(checkpoint),
        "add_bos_token": True,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": checkpoint.seq_len,
        **chat,
    }


def _generation_config(checkpoint: Checkpoint) -> dict[str, object]:
    end, chat = checkpoint.tokenizer.end, checkpoint.chat
    never = {"suppress_tokens": list(chat.never_written)} if chat else {}
    return {"bos_token_id": end, "eos_token_id": end, "pad_token_id": chat.pad if chat else end, **never}


def _begin_with_end(end: int) -> dict[str, object]:
    """Return the post-processor of the tokenizers library that puts END before every text."""
    first = {"SpecialToken": {"id": END, "type_id": 0}}
    a, b = ({"Sequence": {"id": name, "type_id": i}} for i, name in enumerate("AB"))
    return {
        "type": "TemplateProcessing",
        "single": [first, a],
        "pair": [first, a, b],
        "special_tokens": {END: {"id": END, "ids": [end], "tokens": [END]}},
    }
