"""What a source of text is, and how a corpus is described.

A source is a frozen config that can be read: the same settings on the same files give the
same documents in the same order, and a fingerprint that says so without tokenising. Most
sources hand out text. A source that has its own tokens (a synthetic language) hands
out those, already divided, and then there is no tokenizer to train.

Not here: where the documents end up (shards.py), which side they fall on (split.py).
"""

from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from scalelab.config import Config, Count, Fraction, Positive, plugin
from scalelab.data import SOURCES, TOKENIZERS
from scalelab.data.hashing import utf8_name

SplitName = Literal["train", "validation"]
HashFile = Callable[[Path], str]
"""Gives the sha256 of a file in hex; may remember what it read before."""

ADDED = {"since": 2}
"""Marks fields that came with the second schema of runs (config.py)."""
MIN_BPE_VOCAB = 257
"""One token for each byte, one that ends a document."""


@dataclass(frozen=True)
class TextDocument:
    """One text, whole. It falls on one side of the split and ends with its own token."""

    name: str
    text: str
    domain: str | None = None
    """Domain of a mixture whose shares can be chosen; None: it belongs to none."""
    side: SplitName | None = None
    """Where the source has cut its own hold-out: the side of the document. None: it is drawn."""


@dataclass(frozen=True, eq=False)
class EncodedDocument:
    """One document as tokens, its side already chosen."""

    split: SplitName
    tokens: np.ndarray
    """Whole numbers, shape (n_tokens,), the end-of-document token included where there is one."""
    n_bytes: int
    """UTF-8 bytes of the text; 0 where there is no text."""
    nats: np.ndarray | None = None
    """True information of each token given all before it in the document, nats; None: unknown."""
    domain: str | None = None
    """As of its text."""


@dataclass
class SkippedDocuments:
    """What a source left out, and why: a count per reason and a few names to look at."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def note(self, reason: str, name: str) -> None:
        """One more document left out."""
        self.counts[reason] += 1
        shown = self.examples.setdefault(reason, [])
        if len(shown) < 5:
            shown.append(name)

    def to_dict(self) -> dict[str, Any]:
        """Reason to count and examples, as JSON types."""
        names = {reason: [utf8_name(n) for n in shown] for reason, shown in self.examples.items()}
        return {r: {"count": n, "examples": names[r]} for r, n in self.counts.items()}


class DocumentSource(Config):
    """A place that documents come from. Members add `kind: Literal[...]` and their settings."""

    @abstractmethod
    def fingerprint(self, hash_file: HashFile) -> str:
        """Hex digits that change when any document does. Cheap: nothing is tokenised.

        Raises:
            DataError: There is nothing to read, or it cannot be read.
        """


class TextSource(DocumentSource):
    """A source of text."""

    @property
    def may_state_sides(self) -> bool:
        """Whether its documents may say on which side of the split they are."""
        return False

    @abstractmethod
    def documents(self, skips: SkippedDocuments) -> Iterator[TextDocument]:
        """Every document, in the same order each time; what is left out is noted in `skips`.

        Raises:
            DataError: Naming the file (and line) that cannot be read as text.
        """


class TokenSource(DocumentSource):
    """A source whose documents are tokens from the start, so that no tokenizer is trained."""

    @property
    @abstractmethod
    def vocab_size(self) -> int:
        """Tokens of its vocabulary."""

    @property
    def tokenizer_name(self) -> str:
        """Name of what its tokens mean; equal names, equal meaning."""
        return f"{self.kind}-{self.vocab_size}-{self.digest[:8]}"

    @abstractmethod
    def encoded(self, validation: float) -> Iterator[EncodedDocument]:
        """Every document, about the share `validation` of them on the validation side."""


class TokenizerSettings(Config):
    """How text becomes tokens. Members add `kind: Literal[...]` and their settings.

    One that is not trained on the corpus is an ExternalTokenizer (tokenizers/base.py).
    """

    sample_bytes: ClassVar[int] = 1_000_000
    """Text of training documents that the tokenizer is trained or checked on, bytes; trained kinds set their own."""

    @abstractmethod
    def planned_vocab_size(self) -> int:
        """Return the size of the vocabulary before any text is read.

        Raises:
            DataError: The tokenizer cannot be read.
        """

    def fingerprint(self, hash_file: HashFile) -> str:
        """Return hex digits that change with its files; empty where its settings and the text say all."""
        return ""


class TokenizerConfig(TokenizerSettings):
    """A tokenizer trained on the corpus, or plain bytes."""

    kind: Literal["bpe", "bytes"] = "bpe"
    """bpe: byte-level byte-pair encoding, trained on this corpus. bytes: as they are, untrained."""
    vocab_size: Count = 1024
    """Tokens of the vocabulary, the end-of-document token included. Left alone for bytes."""
    train_bytes: Count = 8_000_000
    """Text that the merges are learned from: training documents, evenly drawn."""

    @model_validator(mode="after")
    def _vocabulary_is_possible(self) -> Self:
        if self.kind == "bpe" and self.vocab_size < MIN_BPE_VOCAB:
            raise ValueError(f"vocab_size {self.vocab_size} is too few: bpe starts at 257 tokens")
        default = type(self).model_fields["vocab_size"].default
        if self.kind == "bytes" and self.vocab_size not in (257, default):
            raise ValueError(f"bytes has 257 tokens, not {self.vocab_size}: remove vocab_size")
        return self

    def planned_vocab_size(self) -> int:
        """Return the number of tokens that are asked for; text may hold fewer."""
        return self.vocab_size if self.kind == "bpe" else MIN_BPE_VOCAB


class DataConfig(Config):
    """A corpus: where its documents come from and how they are cut into tokens."""

    source: plugin(SOURCES)
    tokenizer: plugin(TOKENIZERS, default="bpe") = TokenizerConfig()
    validation: Annotated[float, Field(strict=True, gt=0, le=0.5)] = 0.08
    """Share of the text held out, whole documents, near-copies kept on one side."""
    epochs: Positive = 1.0
    """Passes over the training text that a run may make before it is refused."""
    held_out: plugin(SOURCES) | None = Field(None, json_schema_extra=ADDED)
    """Text in which validation documents are held out, and the rest of which the tokenizer learns from, in place of
    `source`: recipes that train on different text are then evaluated on the same tokens. Documents of `source`
    that are near-copies of validation documents are left out. None: `source` itself."""
    train_share: Annotated[float, Field(strict=True, gt=0, le=1)] = Field(1.0, json_schema_extra=ADDED)
    """Share of the training text that is trained on, by bytes, whole documents by a hash of their text: a smaller
    share is part of a larger one. Neither the validation text nor the tokenizer depends on it."""
    weights: dict[str, Fraction] | None = Field(None, json_schema_extra=ADDED)
    """Share of each domain in the training tokens, which sum to 1; domains are the names of a mix. A domain that is
    left out has none. None: all text in its natural proportions."""
    cooldown_weights: dict[str, Fraction] | None = Field(None, json_schema_extra=ADDED)
    """Shares of the domains in the cooldown of the learning rate, such as of better text. None: those of `weights`."""

    @model_validator(mode="after")
    def _is_drawn_from_text(self) -> Self:
        given = {"held_out": self.held_out is not None, "train_share": self.train_share != 1}
        if isinstance(self.source, TokenSource) and any(given.values()):
            names = " and ".join(name for name, is_set in given.items() if is_set)
            raise ValueError(f"source {self.source.kind!r} is tokens already: remove {names}")
        if isinstance(self.held_out, TokenSource):
            raise ValueError(f"held_out {self.held_out.kind!r} is tokens already: name a source of text")
        return self

    @model_validator(mode="after")
    def _tokens_need_no_tokenizer(self) -> Self:
        if isinstance(self.source, TokenSource) and self.tokenizer != TokenizerConfig():
            raise ValueError(f"source {self.source.kind!r} is tokens already: remove `tokenizer`")
        return self

    @model_validator(mode="after")
    def _weights_are_shares_of_domains(self) -> Self:
        if self.weights is None:
            if self.cooldown_weights is not None:
                raise ValueError(
                    "cooldown_weights need `weights`, the shares before the cooldown; a design of mixtures, which "
                    "chooses the weights of each run, takes neither"
                )
            return self
        names = getattr(self.source, "names", ())
        if not names:
            raise ValueError("weights need a source with named domains: kind: mix, with `names`")
        if getattr(self.source, "shares", None) is not None:
            raise ValueError(
                "the mixture is stated twice, as `weights` and as `shares` of the source: remove source.shares, "
                "the weights choose the mixture of named domains"
            )
        for said, weights in (("weights", self.weights), ("cooldown_weights", self.cooldown_weights)):
            if weights is None:
                continue
            if unknown := sorted(set(weights) - set(names)):
                raise ValueError(f"{said} name {unknown[0]!r}, which is no domain ({', '.join(names)})")
            if abs(sum(weights.values()) - 1) > 1e-3:
                raise ValueError(f"the {said} sum to {sum(weights.values()):.6g}, not 1")
        return self
