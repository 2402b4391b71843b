"""Text to tokens and back: byte-level byte-pair encoding, or plain bytes.

Both start from the 256 bytes, so that every text can be written and comes back unchanged,
and both add one token that ends a document. A text that happens to spell out the name of
that token is still only text. Saved as tokenizer.json, which transformers loads as it is.

A tokenizer from elsewhere (tokenizers/) may have other models, and another token at the end of a document. Its
post-processor, which this file never applies to a text, says which: it appends that token.

Source: Sennrich et al. 2016, arXiv:1508.07909; byte level after Radford et al. 2019 (GPT-2);
the way text is cut before merging is that of GPT-4, as published in tiktoken.
"""

import hashlib
import heapq
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from scalelab.data.base import TokenizerConfig
from scalelab.data.hashing import U64, mix
from scalelab.errors import DataError
from scalelab.files import read_regular, write_text
from scalelab.screen import progress

END = "<|endoftext|>"
_CUT = (
    r"'(?:[sdmtSDMT]|ll|ve|re|LL|VE|RE)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_DRAW = U64(0x7E57D0C5)  # sets this draw apart from every other use of the content hash
LARGEST = 200_000_000
"""Bytes of a tokenizer.json. The largest published one, of 262,144 tokens, has about 33 million."""
_LONG = 1_000_000  # characters; the library needs some 100 bytes of memory for each token


class TextTokenizer:
    """A trained tokenizer. `encode` leaves the end-of-document token to the caller."""

    def __init__(self, inner: Tokenizer, vocab_size: int | None = None):
        self._inner = inner
        self._inner.encode_special_tokens = True  # text that spells END is text
        whole = json.loads(inner.to_str())
        model, end = whole["model"], _appended(whole)
        self.n_ids: int = max(inner.get_vocab(with_added_tokens=True).values(), default=-1) + 1
        """One more than its largest token: numbers may be left out."""
        self.vocab_size: int = max(self.n_ids, vocab_size or 0)
        self.end: int = inner.token_to_id(END if end is None else end)
        """The token that ends a document."""
        self._is_bytes = end is None and not model["merges"]
        if end is None:
            learned = json.dumps([sorted(model["vocab"].items()), model["merges"]])
            kind = "bytes" if self._is_bytes else "bpe"
        else:
            learned, kind = json.dumps(whole, sort_keys=True), str(model["type"]).lower()
        mark = hashlib.sha256(learned.encode()).hexdigest()[:8]
        self.name = f"{kind}-{self.n_ids}-{mark}"
        """Kind, vocabulary size and a hash of what was learned: "bpe-1024-1a2b3c4d"."""

    @classmethod
    def ending(cls, inner: Tokenizer, end: str, vocab_size: int | None = None) -> "TextTokenizer":
        """Return a tokenizer from elsewhere.

        Args:
            inner: The tokenizer; `end` is one of its special tokens.
            end: Name of the token that ends a document.
            vocab_size: Tokens of the model's vocabulary where they are more.
        """
        whole = json.loads(inner.to_str())
        if end == END and _is_ours(whole):
            return cls(inner, vocab_size)  # trained here: it keeps its name
        place = inner.token_to_id(end)
        inner.post_processor = processors.TemplateProcessing(
            single=["$A", end], special_tokens=[(end, place)]
        )
        return cls(inner, vocab_size)

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Each text as int64 tokens. A very long text is cut at line ends first.

        Raises:
            DataError: It has no token for a part of a text.
        """
        if self._is_bytes:
            return [np.frombuffer(t.encode("utf-8"), np.uint8).astype(np.int64) for t in texts]
        pieces = [piece for text in texts for piece in _pieces(text)]
        try:
            encoded = iter(self._inner.encode_batch_fast(pieces, add_special_tokens=False))
        except Exception as error:
            if type(error) is not Exception:  # the library raises bare ones
                raise
            raise DataError(
                f"the tokenizer cannot encode a text: {error}",
                where=self.name,
                fix="use a tokenizer with a token for every text (byte level), or one whose vocabulary has its"
                " unknown token",
            ) from error
        joined = []
        for text in texts:
            ids = [np.array(next(encoded).ids, np.int64) for _ in _pieces(text)]
            joined.append(np.concatenate(ids) if len(ids) != 1 else ids[0])
        return joined

    def decode(self, tokens: Sequence[int] | np.ndarray) -> str:
        """The text of tokens; an end-of-document token reads as its name."""
        return self._inner.decode([int(t) for t in tokens], skip_special_tokens=False)

    def special(self, name: str) -> int | None:
        """The token that a name stands for, where it is one token and never text."""
        added = self._inner.get_added_tokens_decoder()
        return next((i for i, t in added.items() if t.special and t.content == name), None)

    def extended(self, names: Sequence[str]) -> "TextTokenizer":
        """Return the tokenizer with a token added for each name that has none."""
        inner = Tokenizer.from_str(self._inner.to_str())
        inner.add_special_tokens([AddedToken(name, special=True) for name in names])
        return TextTokenizer(inner)

    def save(self, path: Path) -> None:
        """Write tokenizer.json."""
        write_text(path, self._inner.to_str(pretty=True))

    @classmethod
    def load(cls, path: Path) -> "TextTokenizer":
        """The inverse of save. Raises DataError where there is none or it is damaged."""
        try:
            return cls(Tokenizer.from_str(read_regular(path, LARGEST).decode("utf-8")))
        except Exception as error:  # the library raises bare Exceptions
            raise DataError(
                f"cannot read the tokenizer: {error}",
                where=str(path),
                fix="delete the directory it lies in, then run the same command again",
            ) from error


class DocumentSample:
    """Whole documents drawn evenly while all of them pass by, at most `n_bytes` and one more.

    A document's chance does not depend on its place or its length: those with the smallest
    hash stay. A single document longer than the sample is cut to its length.
    """

    def __init__(self, n_bytes: int):
        self._limit = n_bytes
        self._size = 0
        self._heap: list[tuple[int, int, int, str]] = []

    def add(self, place: int, content: int, text: str) -> None:
        """Offer one document: its place in the source, the hash of its text, and the text."""
        rank = int(mix(np.array([content], U64) ^ _DRAW)[0])
        text = text[: self._limit]
        n_bytes = len(text.encode("utf-8"))
        heapq.heappush(self._heap, (-rank, place, n_bytes, text))
        self._size += n_bytes
        while self._size - self._heap[0][2] >= self._limit:
            self._size -= heapq.heappop(self._heap)[2]

    def texts(self, is_validation: np.ndarray, n_bytes: int) -> Iterator[str]:
        """The drawn training documents, to about `n_bytes`; the last one is cut to fit."""
        for _, place, size, text in sorted(self._heap, reverse=True):
            if is_validation[place]:
                continue
            yield text if size <= n_bytes else text.encode()[:n_bytes].decode(errors="ignore")
            n_bytes -= size
            if n_bytes <= 0:
                return


def train(config: TokenizerConfig, texts: Iterator[str]) -> TextTokenizer:
    """A tokenizer learned from texts. It may find fewer tokens than asked for in little text."""
    # Set before the library starts threads: unset, it complains whenever a process forks.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    if config.kind == "bytes":
        return _bytes()
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = _cutting()
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocab_size,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator(progress(list(texts), "training the tokenizer"), trainer)
    return TextTokenizer(inner)


def _cutting() -> pre_tokenizers.PreTokenizer:
    """How text is cut before merging."""
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_CUT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def _is_ours(whole: dict[str, Any]) -> bool:
    """Return whether a tokenizer, as JSON types, is one that `train` could have made."""
    ours = Tokenizer(models.BPE())
    ours.pre_tokenizer, ours.decoder = _cutting(), decoders.ByteLevel()
    cut = json.loads(ours.to_str())
    same = ("normalizer", "post_processor", "decoder", "pre_tokenizer")
    settings = cut["model"].keys() - {"vocab", "merges"}
    return (
        all(whole[key] == cut[key] for key in same)
        and whole["model"]["type"] == "BPE"
        and bool(whole["model"]["merges"])
        and all(whole["model"].get(key) == cut["model"][key] for key in settings)
    )


def _bytes() -> TextTokenizer:
    """Token b is byte b; 256 ends a document."""
    # The byte level writes printable Latin-1 bytes as themselves, the others from 256 on.
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    vocab = {chr(b): b for b in plain}
    rest = [b for b in range(256) if b not in set(plain)]
    vocab |= {chr(256 + i): b for i, b in enumerate(rest)}
    inner = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens([AddedToken(END, special=True)])
    return TextTokenizer(inner)


def _appended(whole: dict[str, Any]) -> str | None:
    """Return the name of the token that a tokenizer's post-processor appends to a text; None where it does not."""
    last = ((whole.get("post_processor") or {}).get("single") or [None])[-1]
    return last["SpecialToken"]["id"] if isinstance(last, dict) and "SpecialToken" in last else None


def _pieces(text: str) -> list[str]:
    """The text, cut after a line end wherever it grows longer than the library can bear."""
    pieces, at = [], 0
    while len(text) - at > _LONG:
        end = text.rfind("\n", at, at + _LONG) + 1 or at + _LONG
        pieces.append(text[at:end])
        at = end
    return [*pieces, text[at:]]
