"""Inputs of stages and judges: the output of an earlier stage, or a path.

    MODEL           a model that answers (model.json and its weights)
    REWARD          a reward model (reward.json and its weights)
    ANSWER_PAIRS    compared answers (pairs.jsonl, or a file in the same format)

A stage declares which of these it reads and which it writes, so a file that confuses them is rejected
before anything runs. A stage of another package can write a kind of its own, any other string, for
other stages of that package.

Not here: how an input is loaded (posttrain/base.py).
"""

from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from scalelab.config import Config
from scalelab.data.files.records import record_format
from scalelab.data.hashing import sha256
from scalelab.evals import reward_model
from scalelab.evals.checkpoint import model_digest
from scalelab.files import exists, is_dir

MODEL = "a model that answers"
REWARD = "a reward model"
ANSWER_PAIRS = "pairs of answers"


@dataclass(frozen=True)
class Input:
    """One input, as a config names it."""

    name: str
    """Name of a stage, "base", or a path."""
    kind: str
    """Required kind: MODEL, REWARD, ANSWER_PAIRS, ..."""
    is_path: bool = False

    @classmethod
    def stage_or_directory(cls, name: str, kind: str) -> Self:
        """Return an input that may be a directory; a name with a slash is a path."""
        return cls(name, kind, "/" in name)

    @classmethod
    def stage_or_file(cls, name: str, kind: str) -> Self:
        """Return an input that may be a file of records; a name with a slash or an ending of records is a path."""
        return cls(name, kind, "/" in name or record_format(name) is not None)


class ConfigWithInputs(Config):
    """A config with inputs."""

    @abstractmethod
    def inputs(self) -> tuple[Input, ...]:
        """Return everything that it reads."""

    def needs(self) -> tuple[str, ...]:
        """Return the names of the stages (or "base") among the inputs, each once."""
        return tuple(dict.fromkeys(one.name for one in self.inputs() if not one.is_path))

    def files(self) -> tuple[str, ...]:
        """Return the files and checkpoint directories among the inputs; their contents affect the result."""
        return tuple(dict.fromkeys(one.name for one in self.inputs() if one.is_path))


def contents(path: Path) -> str:
    """Return twelve hex digits of the contents of an input.

    For a model they cover weights, config and tokenizer; for a reward model only the weights.

    Raises:
        DataError: It does not exist or cannot be read.
    """
    if not is_dir(path):
        return sha256(path)[:12]
    if exists(path / reward_model.WEIGHTS):
        return sha256(path / reward_model.WEIGHTS)[:12]
    return model_digest(path)
