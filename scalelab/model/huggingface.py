"""Our weights as a Hugging Face checkpoint with equal logits, and the way back.

An architecture that has such a checkpoint says how (its `huggingface` part); files are read and
written here.

Not here: the tokenizer, which lies beside the corpus.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from scalelab.errors import RunError
from scalelab.files import read_regular, whole_dir, write_text
from scalelab.model import ARCHITECTURES
from scalelab.model.base import Architecture

LARGEST_CONFIG = 1 << 20
"""Largest config.json, bytes. Real ones have a few kilobytes."""


class HuggingFace(ABC):
    """One model under the names of the transformers library."""

    model_types: ClassVar[tuple[str, ...]]
    """The `model_type` of every config.json that can be read."""
    is_named_so_when_loaded: ClassVar[bool] = True
    """Whether a model that transformers has loaded has its weights under these names too."""

    def __init__(self, config: Architecture):
        self.config = config

    @classmethod
    @abstractmethod
    def read(cls, record: Mapping[str, Any]) -> Architecture:
        """The model that a config.json describes, the inverse of `describe`.

        Raises:
            ValueError, KeyError, TypeError: It has something that ours has not.
        """

    @abstractmethod
    def describe(self, seq_len: int) -> dict[str, object]:
        """The config.json. `seq_len`, the context it was trained on, is its longest."""

    @abstractmethod
    def theirs(self, ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Our weights under transformers' names."""

    @abstractmethod
    def ours(self, theirs: Mapping[str, Tensor], *, headless: bool = False) -> dict[str, Tensor]:
        """The inverse of `theirs`, in fp32; of a model without an output head if `headless`."""


def to_hugging_face(config: Architecture, weights: Path, out: Path, *, seq_len: int) -> None:
    """Write config.json and model.safetensors to `out`, whole or not at all.

    Args:
        config: What the model is.
        weights: A run's model.safetensors.
        out: Directory for the checkpoint; what stands there is replaced.
        seq_len: The context it was trained on, noted as its longest.

    Raises:
        ConfigError: The architecture has no such checkpoint.
        RunError: The directory cannot be written.
    """
    layout = config.hugging_face()
    tensors = layout.theirs(load_file(weights))
    with whole_dir(out) as partial:
        write_text(partial / "config.json", json.dumps(layout.describe(seq_len), indent=1))
        save_file(tensors, partial / "model.safetensors", metadata={"format": "pt"})


def from_hugging_face(path: Path) -> tuple[Architecture, dict[str, Tensor], int]:
    """A checkpoint as our config, weights by our names, and context.

    Args:
        path: Holds config.json and model.safetensors (one file).

    Raises:
        RunError: A file is missing or damaged, or the model has something that ours has not.
    """
    config, seq_len = config_of(path)
    try:
        weights = load_file(path / "model.safetensors")
        return config, config.hugging_face().ours(weights), seq_len
    except (OSError, KeyError, SafetensorError) as error:
        raise _unreadable(path, error) from error


def config_of(path: Path) -> tuple[Architecture, int]:
    """What a checkpoint's model is, and its context, without its weights.

    Raises:
        RunError: config.json is missing or damaged, or the model has something that ours has not.
    """
    try:
        record = json.loads(read_regular(path / "config.json", LARGEST_CONFIG))
        return _reader(record).read(record), int(record["max_position_embeddings"])
    except (OSError, ValueError, KeyError, TypeError, ArithmeticError, RecursionError) as error:
        raise _unreadable(path, error) from error


def _readers() -> dict[str, type[HuggingFace]]:
    """Return the readers of a checkpoint, by its model_type."""
    members = [ARCHITECTURES[name] for name in ARCHITECTURES]
    layouts = [member.part("huggingface") for member in members if "huggingface" in member.parts]
    return {kind: layout for layout in layouts for kind in layout.model_types}


def _reader(record: Mapping[str, Any]) -> type[HuggingFace]:
    kind, readers = record["model_type"], _readers()
    if kind not in readers:
        raise ValueError(f"not ours: {{'model_type': {kind!r}}}")
    return readers[kind]


def _unreadable(path: Path, error: Exception) -> RunError:
    return RunError(
        f"the checkpoint cannot be read: {type(error).__name__}: {error}",
        where=str(path),
        fix=f"name a checkpoint of model_type {' or '.join(_readers())} with one "
        "model.safetensors, no biases and plain rotary positions",
    )
