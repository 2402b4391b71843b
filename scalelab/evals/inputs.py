"""Inputs of stages and judges: what an earlier stage left, or a path.

    MODEL           a model that answers (model.json and its weights)
    REWARD          a reward model (reward.json and its weights)
    ANSWER_PAIRS    compared answers (pairs.jsonl, or a file of the user's)

A stage says which of these it leaves and which it reads, so that a file that confuses them is
refused before anything is done. A stage of another package may leave a kind of its own: any other
words, for other stages of that package.

Not here: how an input is loaded (posttrain/base.py).
"""

from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from scalelab.config import Config
from scalelab.data.hashing import sha256
from scalelab.evals import reward_model
from scalelab.evals.checkpoint import model_digest

MODEL = "a model that answers"
REWARD = "a reward model"
ANSWER_PAIRS = "pairs of answers"
ROW_FILES = (".jsonl", ".parquet", ".gz", ".zst")
"""Endings by which a file of rows is told from the name of a stage."""


@dataclass(frozen=True)
class Input:
    """One input, as a config names it."""

    name: str
    """Of a stage, "base", or a path."""
    kind: str
    """What it has to be: MODEL, REWARD, ANSWER_PAIRS, ..."""
    is_path: bool = False

    @classmethod
    def stage_or_directory(cls, name: str, kind: str) -> Self:
        """An input that may be a directory: a path is told from a stage by its slash."""
        return cls(name, kind, "/" in name)

    @classmethod
    def stage_or_file(cls, name: str, kind: str) -> Self:
        """An input that may be a file of rows: a file is told from a stage by its ending."""
        return cls(name, kind, name.endswith(ROW_FILES))


class Reads(Config):
    """A config with inputs."""

    @abstractmethod
    def inputs(self) -> tuple[Input, ...]:
        """Everything that it reads."""

    def needs(self) -> tuple[str, ...]:
        """Names of the stages (or "base") among the inputs, each once."""
        return tuple(dict.fromkeys(one.name for one in self.inputs() if not one.is_path))

    def files(self) -> tuple[str, ...]:
        """Files and checkpoint directories among the inputs: their contents decide too."""
        return tuple(dict.fromkeys(one.name for one in self.inputs() if one.is_path))


def contents(path: Path) -> str:
    """Twelve hex digits of the contents of an input.

    Of a model they cover its weights, its config and its tokenizer, of a reward model its weights.

    Raises:
        DataError: It is not there, or cannot be read.
    """
    if not path.is_dir():
        return sha256(path)[:12]
    if (path / reward_model.WEIGHTS).exists():
        return sha256(path / reward_model.WEIGHTS)[:12]
    return model_digest(path)
