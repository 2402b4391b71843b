"""A finished model: weights, tokenizer and context length, from any of three kinds of directory.

    run directory of a sweep or a launch    spec.yaml, model.safetensors, the corpus's tokenizer
    model directory of post-training        model.json, model.safetensors, tokenizer.json
    exported checkpoint (Llama or Qwen3)    config.json, model.safetensors, tokenizer.json

`Checkpoint.load` reads all three. model.json is sealed and holds the digests of the two files
beside it, as the result.json of a run holds that of its weights; all of them are verified. The
files of an exported checkpoint belong to other software too, so they carry no seal. A model computes
log-probabilities of tokens and generates tokens; everything else in this package builds on these two.

Units: log-probabilities in nats.
Not here: the generation loop (model/generate.py), the format of conversations (data/chat.py).
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from scalelab.config import parse_yaml
from scalelab.data.chat import Chat
from scalelab.data.corpus.shards import open_corpus
from scalelab.data.hashing import sha256
from scalelab.data.tokenizer import END, TextTokenizer
from scalelab.errors import DataError, RunError
from scalelab.files import check_answered, exists
from scalelab.hardware.device import find_device, tf32_products
from scalelab.model import ARCHITECTURES
from scalelab.model.base import Architecture
from scalelab.model.generate import write
from scalelab.model.huggingface import from_hugging_face
from scalelab.model.network import Network
from scalelab.sealed import Damaged, Format, check_file
from scalelab.train.run_directory import RunDir, read_sealed_yaml

LOGITS_AT_ONCE = 2**22
"""Number of logits in memory at once: 16 MiB in fp32."""
ROWS_WRITTEN_AT_ONCE = 256
"""Prompts in one batch of generation."""
WEIGHTS, TOKENIZER, DESCRIPTION = "model.safetensors", "tokenizer.json", "model.json"
RESTORE = (
    "restore the file from a copy; where a stage made it, delete the result.json beside it and run "
    "the same command again"
)


@dataclass(frozen=True)
class ModelRecord:
    """Contents of model.json."""

    architecture: dict[str, Any]
    seq_len: int
    """Context length in tokens."""
    tokenizer: str
    """Name of the tokenizer that it was trained with."""
    corpus: str | None
    """Digest of the corpus that its base was trained on; None: not recorded."""
    files: dict[str, str] = field(default_factory=dict)
    """SHA-256 of the weights and the tokenizer beside it. Empty in files written before sealing existed."""


MODEL = Format("model description", ModelRecord, schema=2, fix=RESTORE, unsealed=1)


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A finished model on its device."""

    path: Path
    config: Architecture
    network: Network
    """The network, fp32, without gradients."""
    tokenizer: TextTokenizer
    seq_len: int
    """Context length in tokens."""
    digest: str
    """Twelve hex digits of weights, config and tokenizer: equal digests, equal models."""
    corpus: str | None = None
    """Digest of the corpus that its base was trained on; None if not recorded."""

    @classmethod
    def load(cls, path: Path) -> "Checkpoint":
        """Return the model in a directory.

        Raises:
            RunError: There is no model, it is unfinished, a file was altered, or the weights do not
                match the config.
            DataError: The tokenizer is missing or is not the one it was trained with.
        """
        for is_here, load in (
            (path / DESCRIPTION, _model_directory),
            (path / "spec.yaml", _run_directory),
            (path / "config.json", _exported),
        ):
            if exists(is_here):
                return load(path)
        raise RunError(
            f"there is no model in {path}",
            where=str(path.absolute()),
            fix="name a finished run's directory, a post-training stage's, or an exported "
            "checkpoint (config.json, model.safetensors, tokenizer.json)",
        )

    @cached_property
    def chat(self) -> Chat | None:
        """Chat format; None for a base model."""
        has_markers = self.tokenizer.special("<|assistant|>") is not None
        return Chat(self.tokenizer) if has_markers else None

    @property
    def train_flops(self) -> float:
        """FLOPs per token, forward and backward, at full context."""
        return self.config.size(self.seq_len).flops_per_token

    @property
    def forward_flops(self) -> float:
        """FLOPs per token of the forward pass."""
        return self.train_flops / 3

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return next(self.network.parameters()).device

    def logprobs(self, rows: Sequence[Sequence[int]]) -> list[np.ndarray]:
        """Return the log-probability of each token given the preceding ones, in nats.

        Args:
            rows: Tokens of each row, 2 to seq_len + 1 of them.

        Returns:
            One fp64 array per row, one shorter than the row: the first token is context only.
        """
        found: list[np.ndarray] = [np.empty(0)] * len(rows)
        for batch in self._batches([len(row) - 1 for row in rows]):
            tokens = torch.nn.utils.rnn.pad_sequence(
                [torch.tensor(rows[i]) for i in batch], batch_first=True
            ).to(self.device)
            taken = token_logprobs(self.network, tokens).double().cpu().numpy()
            for i, row in zip(batch, taken, strict=True):
                found[i] = row[: len(rows[i]) - 1].copy()
        return found

    def greedy_matches(self, rows: Sequence[Sequence[int]]) -> list[np.ndarray]:
        """Return whether each token is the most likely one given the preceding ones; shapes as `logprobs`."""
        found: list[np.ndarray] = [np.empty(0, bool)] * len(rows)
        for batch in self._batches([len(row) - 1 for row in rows]):
            tokens = torch.nn.utils.rnn.pad_sequence(
                [torch.tensor(rows[i]) for i in batch], batch_first=True
            ).to(self.device)
            with torch.no_grad():
                best = self.network(tokens[:, :-1]).argmax(-1)
            taken = (best == tokens[:, 1:]).cpu().numpy()
            for i, row in zip(batch, taken, strict=True):
                found[i] = row[: len(rows[i]) - 1].copy()
        return found

    def _batches(self, lengths: Sequence[int]) -> list[list[int]]:
        """Return batches of row numbers: similar lengths together, longest first."""
        if lengths and max(lengths) > self.seq_len:
            raise DataError(
                f"a row of {max(lengths) + 1} tokens is longer than the context of {self.seq_len}",
                where=str(self.path),
                fix="shorten the text, or cut it into windows",
            )
        order = np.argsort(lengths, kind="stable")[::-1]
        batches, at = [], 0
        while at < len(order):
            width = max(1, lengths[order[at]])
            n = max(1, LOGITS_AT_ONCE // (width * self.config.vocab_size))
            batches.append([int(i) for i in order[at : at + n]])
            at += n
        return batches

    def generate_tokens(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        n_new: int | None,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
    ) -> list[list[int]]:
        """Return the tokens generated after each prompt, including the end token if there is one.

        Args:
            prompts: Tokens of each prompt.
            n_new: Maximum new tokens; None: the rest of the context.
            temperature: Sampling temperature; 0 takes the most likely token each time.
            top_p: Sample only from the most likely tokens with this total probability.
            seed: Seed of the sampling.

        Raises:
            DataError: A prompt and n_new tokens (or one, for None) exceed the context.
        """
        longest, wanted = max(map(len, prompts), default=0), 1 if n_new is None else n_new
        if longest + wanted > self.seq_len:
            raise DataError(
                f"a prompt of {longest} tokens and {wanted} new ones exceed the context of {self.seq_len}",
                where=str(self.path),
                fix="shorten the prompts, or reduce n_new",
            )
        generator = torch.Generator().manual_seed(seed)
        never = self.chat.never_written if self.chat else ()
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        found: list[list[int]] = [[] for _ in prompts]
        for start in range(0, len(order), ROWS_WRITTEN_AT_ONCE):
            batch = order[start : start + ROWS_WRITTEN_AT_ONCE]
            with tf32_products():
                written = write(
                    self.network,
                    [prompts[i] for i in batch],
                    n_new=self.seq_len - len(prompts[batch[0]]) if n_new is None else n_new,
                    longest_row=self.seq_len,
                    end=self.tokenizer.end,
                    temperature=temperature,
                    top_p=top_p,
                    generator=generator,
                    never=never,
                )
            for i, row in zip(batch, written.tokens, strict=True):
                found[i] = row
        return found


def token_logprobs(network: Network, tokens_BT: Tensor) -> Tensor:
    """Return the log-probability of each token after the first, nats, shape (B, T - 1); no gradients."""
    with torch.no_grad():
        logits = network(tokens_BT[:, :-1]).float()
        return -torch.nn.functional.cross_entropy(logits.transpose(1, 2), tokens_BT[:, 1:], reduction="none")


def read_description(path: Path) -> tuple[Architecture, ModelRecord]:
    """Return the architecture and the record in a directory's model.json.

    Raises:
        RunError: It is missing, damaged, or describes no model.
    """
    place = path / DESCRIPTION
    try:
        record = MODEL.read(place)
        return architecture_of(record.architecture), record
    except FileNotFoundError:
        raise MODEL.refusal(place, "it is missing") from None
    except Damaged as damage:
        raise MODEL.refusal(place, damage) from None


def architecture_of(record: Mapping[str, Any]) -> Architecture:
    """Return the architecture that a record describes. Raises Damaged if it is invalid."""
    try:
        return ARCHITECTURES[record["kind"]].model_validate(dict(record))
    except (ValueError, KeyError, TypeError) as error:
        message = str(error).splitlines()
        raise Damaged(f"its architecture is invalid: {' '.join(message[:3])}") from None


def check_files_beside(path: Path, files: Mapping[str, str]) -> None:
    """Verify files of a directory against their recorded digests.

    Args:
        path: The directory.
        files: SHA-256 by name.

    Raises:
        RunError: A file is missing or was altered.
    """
    for name, digest in files.items():
        try:
            check_file(path / name, digest)
        except Damaged as damage:
            raise RunError(f"{name} cannot be used: {damage}", where=str(path / name), fix=RESTORE) from None


def _model_directory(path: Path) -> Checkpoint:
    config, record = read_description(path)
    check_files_beside(path, record.files)
    tokenizer = TextTokenizer.load(path / TOKENIZER)
    if tokenizer.name != record.tokenizer:
        raise DataError(
            f"the tokenizer is {tokenizer.name}, the model was trained with {record.tokenizer}",
            where=str(path / TOKENIZER),
            fix="put the model's own tokenizer.json back",
        )
    tensors = read_tensors(path / WEIGHTS)
    return _checkpoint(path, config, tensors, tokenizer, record.seq_len, record.corpus, record.files)


def _run_directory(path: Path) -> Checkpoint:
    run_dir = RunDir(path)
    if "stage" in parse_yaml(read_sealed_yaml(run_dir.spec_path), str(run_dir.spec_path)).data:
        raise RunError(
            "the stage has not written a model",
            where=str(path),
            fix="finish it, or name a stage that leaves a model; if its model.json is lost, "
            "restore that, or delete result.json and run the command of the stage again",
        )
    spec, result = run_dir.spec(), run_dir.result()
    if result is None or result.status != "finished":
        raise RunError(
            "the run has not finished, so it has no final weights",
            where=str(path),
            fix=f"finish it: scalelab run {path}",
        )
    run_dir.check_file(WEIGHTS, result.files)
    corpus = open_corpus(spec.data_digest)
    tokenizer = corpus.load_tokenizer()
    if tokenizer is None:
        raise DataError(
            f"the model was trained on {corpus.tokenizer}, which is not text",
            where=str(path),
            fix="name a model that was trained on text",
        )
    tensors = read_tensors(path / WEIGHTS)
    return _checkpoint(path, spec.model, tensors, tokenizer, spec.seq_len, corpus.digest, result.files)


def _exported(path: Path) -> Checkpoint:
    tokenizer = TextTokenizer.load(path / "tokenizer.json")
    config, tensors, seq_len = from_hugging_face(path)
    return _checkpoint(path, config, tensors, tokenizer, seq_len, None, {})


def _checkpoint(
    path: Path,
    config: Architecture,
    tensors: dict[str, Tensor],
    tokenizer: TextTokenizer,
    seq_len: int,
    corpus: str | None,
    verified: Mapping[str, str],
) -> Checkpoint:
    """Return a model from its parts; `verified` holds digests that were just checked."""
    if tokenizer.vocab_size > config.vocab_size:
        raise DataError(
            f"the tokenizer has {tokenizer.vocab_size} tokens, the model {config.vocab_size}",
            where=str(path),
            fix="put the model's own tokenizer.json back",
        )
    check_weight_count(tensors, config.size(seq_len).n_params_total, path / WEIGHTS)
    network = config.network()
    fit(network, tensors, path / WEIGHTS)
    network.requires_grad_(False).eval().to(find_device().torch)
    if tokenizer.end is None:
        raise DataError(
            f"the tokenizer has no token {END}, which ends a document",
            where=str(path / TOKENIZER),
            fix="name a model whose tokenizer was made here, or add the token and train it",
        )
    digest = model_digest(path, verified)
    return Checkpoint(path, config, network, tokenizer, seq_len, digest, corpus)


def check_weight_count(tensors: Mapping[str, Tensor], n: int, path: Path) -> None:
    """Raise RunError unless the file holds `n` values; checked before a network is built."""
    n_values = sum(tensor.numel() for tensor in tensors.values())
    if n_values != n:
        raise RunError(
            f"the weights do not fit the model: the file holds {n_values:,} values, the model {n:,}",
            where=str(path),
            fix="put the model's own weights back",
        )


def fit(network: torch.nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    """Load weights into a network. Raises RunError if they belong to another one."""
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        raise RunError(
            f"the weights do not fit the model: {str(error).splitlines()[-1].strip()}",
            where=str(path),
            fix="put the model's own weights back",
        ) from error


def model_digest(path: Path, verified: Mapping[str, str] | None = None) -> str:
    """Return twelve hex digits of a model: its weights, config and tokenizer.

    Args:
        path: The model's directory.
        verified: SHA-256 by name of files that need not be read again.

    Raises:
        DataError: The weights cannot be read.
    """
    verified = verified or {}
    names = [name for name in (DESCRIPTION, "config.json", TOKENIZER) if exists(path / name)]
    digests = [verified.get(name) or sha256(path / name) for name in (WEIGHTS, *names)]
    if exists(path / "spec.yaml") and not exists(path / DESCRIPTION):
        digests.append(path.name)  # a run's directory is named by its spec
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()[:12]


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file by name. Raises RunError if it is missing or damaged."""
    try:
        return load_file(path)
    except (OSError, ValueError, SafetensorError) as error:
        check_answered(path, error)
        raise RunError(
            f"the weights cannot be read: {str(error).splitlines()[0]}",
            where=str(path),
            fix="restore the file from a copy, or repeat the command that made it",
        ) from error
