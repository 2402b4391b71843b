"""Several sources as one corpus: every document of each, one source behind the other.

Shares are not asked for, they come out: each source hands out all it has, so a mixture is
changed by asking a source for more or fewer documents. Training reads windows in shuffled
order, so where a document stands among the others does not matter. What each part came to is
in the corpus's manifest by its documents' names.
"""

import hashlib
from collections.abc import Iterator
from typing import Literal, Self

from pydantic import Field, model_validator

from scalelab.config import plugin
from scalelab.data import SOURCES
from scalelab.data.base import HashFile, SkippedDocuments, TextDocument, TextSource


class Mix(TextSource):
    """Text of several sources."""

    kind: Literal["mix"] = "mix"
    """Names this source in SOURCES."""
    parts: tuple[plugin(SOURCES), ...] = Field(min_length=2)
    """Sources of text, in this order."""

    @model_validator(mode="after")
    def _all_are_text(self) -> Self:
        for part in self.parts:
            if not isinstance(part, TextSource):
                raise ValueError(f"source {part.kind!r} is tokens already, and cannot be mixed")
        return self

    def fingerprint(self, hash_file: HashFile) -> str:
        """Over the fingerprints of the parts."""
        said = "\n".join(part.fingerprint(hash_file) for part in self.parts)
        return hashlib.sha256(said.encode()).hexdigest()

    def documents(self, skips: SkippedDocuments) -> Iterator[TextDocument]:
        """Every document of every part."""
        for i, part in enumerate(self.parts):
            for document in part.documents(skips):
                yield TextDocument(f"{i}-{part.kind}/{document.name}", document.text)
