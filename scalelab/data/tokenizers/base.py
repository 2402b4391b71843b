"""What all tokenizers from files share: they are checked before a text is read, and again on a sample of it.

    read     tokenizer.json, at most 200 MB, its SHA-256 compared with `sha256` if that is stated
    end      the token that ends a document becomes a special token
    check    every text of a sample comes back from its tokens unchanged, unless `lossy`

The file itself is part of the prepared corpus, so its contents are part of the corpus digest and of every run id.
Truncation and padding that the file asks for are switched off, and so are tokens that it would add to a text.

Not here: tokenizers that are trained on the corpus (data/tokenizer.py).
"""

import hashlib
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn

from pydantic import Field
from tokenizers import AddedToken, Tokenizer

from scalelab.config import Count, Switch
from scalelab.data.base import HashFile, TokenizerSettings
from scalelab.data.files.opening import open_source, unreadable
from scalelab.data.hashing import fingerprint_of
from scalelab.data.tokenizer import LARGEST, TextTokenizer
from scalelab.errors import DataError

KNOWN_ENDS = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>")
"""Names of the token that ends a document, in published tokenizers."""


class ExternalTokenizer(TokenizerSettings):
    """A tokenizer from a file. Members say where the file is, and what else lies beside it."""

    path: str = Field(min_length=1)
    """Where it is; a relative path starts at the working directory."""
    end: str | None = None
    """Name of the token that ends a document, such as "<|endoftext|>". None: the one that is known."""
    vocab_size: Count | None = None
    """Tokens of the model's vocabulary. None: as many as the tokenizer has. More are never used; fewer are refused."""
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    """SHA-256 of tokenizer.json in hex; another file is refused. None: any."""
    lossy: Switch = False
    """Whether a tokenizer is taken that does not give every text back (lower case, normal forms). Bits per byte
    are then of the text as it was, which its tokens do not hold in full."""

    @abstractmethod
    def files(self) -> Sequence[Path]:
        """Return tokenizer.json and the files beside it that are read. Raises DataError where there is none."""

    @abstractmethod
    def adapt(self, inner: Tokenizer) -> str | None:
        """Add what the files beside tokenizer.json say, and return the name of the token that ends a document.

        Raises:
            DataError: The files contradict one another.
        """

    def fingerprint(self, hash_file: HashFile) -> str:
        """Return a hash over the name, SHA-256 and size of each file."""
        return fingerprint_of([(path.name, path) for path in self.files()], hash_file)

    def planned_vocab_size(self) -> int:
        """Return the size of the vocabulary. Raises DataError where the tokenizer cannot be used."""
        return self.load().vocab_size

    def load(self, sample: Iterable[str] = ()) -> TextTokenizer:
        """Return the tokenizer, checked.

        Args:
            sample: Texts that it must give back.

        Raises:
            DataError: A file is damaged or another than was stated, no token ends a document, the vocabulary is
                larger than the model's, or a text does not come back.
        """
        path = self.files()[0]
        data = read_bytes(path)
        found = hashlib.sha256(data).hexdigest()
        if self.sha256 is not None and found != self.sha256:
            self.refuse(
                f"{path.name} has the SHA-256 {found}, not {self.sha256}",
                "restore the file that was meant, or correct `sha256`",
            )
        try:
            inner = Tokenizer.from_str(data.decode("utf-8"))
        except Exception as error:  # the library raises bare Exceptions
            raise DataError(
                f"cannot read the tokenizer: {error}",
                where=str(path),
                fix="name a tokenizer.json of the tokenizers library, whole and in UTF-8",
            ) from error
        end = self._end(inner, self.adapt(inner))
        inner.add_special_tokens([AddedToken(end, special=True)])
        inner.no_padding()
        inner.no_truncation()
        tokenizer = TextTokenizer.ending(inner, end, self.vocab_size)
        self._refuse_small_vocabulary(tokenizer)
        if not self.lossy:
            self._refuse_lossy(tokenizer, sample)
        return tokenizer

    def _end(self, inner: Tokenizer, beside: str | None) -> str:
        """Return the name of the token that ends a document."""
        vocabulary = inner.get_vocab(with_added_tokens=True)
        stated = self.end or beside
        if stated is not None:
            if stated not in vocabulary:
                self.refuse(
                    f"the tokenizer has no token {stated!r:.80} to end a document",
                    f"name one that it has as `end`: {_special(inner)}",
                )
            return stated
        known = [name for name in KNOWN_ENDS if name in vocabulary]
        if len(known) != 1:
            which = (
                f"several tokens may end a document: {', '.join(known)}"
                if known
                else "no known token ends a document"
            )
            self.refuse(which, f"name it as `end`; special tokens are {_special(inner)}")
        return known[0]

    def _refuse_small_vocabulary(self, tokenizer: TextTokenizer) -> None:
        if self.vocab_size is not None and tokenizer.n_ids > self.vocab_size:
            self.refuse(
                f"the tokenizer has tokens up to {tokenizer.n_ids - 1:,}, "
                f"and the model's vocabulary is {self.vocab_size:,}",
                f"remove tokenizer.vocab_size, or set it to {tokenizer.n_ids} or more",
            )

    def _refuse_lossy(self, tokenizer: TextTokenizer, sample: Iterable[str]) -> None:
        for text in sample:
            back = tokenizer.decode(tokenizer.encode([text])[0])
            if back != text:
                at = next(
                    (i for i, (a, b) in enumerate(zip(text, back, strict=False)) if a != b),
                    min(len(text), len(back)),
                )
                here = slice(max(0, at - 10), at + 20)
                self.refuse(
                    f"the tokenizer does not give a text back: {text[here]!r} became {back[here]!r}",
                    "use one that does (byte level), or set tokenizer.lossy: true, which makes bits per byte inexact",
                )

    def refuse(self, problem: str, fix: str) -> NoReturn:
        """Raise a DataError about this tokenizer."""
        raise DataError(problem, where=f"tokenizer: {self.path}", fix=fix)


def read_bytes(path: Path) -> bytes:
    """Return the contents of a file of a tokenizer. Raises DataError where it cannot be read or is too large."""
    try:
        with open_source(path) as file:
            data = file.read(LARGEST + 1)
    except OSError as error:
        raise unreadable(path, error) from error
    if len(data) > LARGEST:
        raise DataError(
            f"{path.name} is larger than {LARGEST:,} bytes",
            where=str(path),
            fix="name the tokenizer.json of a tokenizer",
        )
    return data


def _special(inner: Any) -> str:
    """Return the names of the first special tokens, for messages."""
    names = [token.content for token in inner.get_added_tokens_decoder().values() if token.special]
    return ", ".join(repr(name)[:40] for name in names[:8]) + (", ..." if len(names) > 8 else "") or "none"
