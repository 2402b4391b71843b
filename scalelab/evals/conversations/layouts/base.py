"""The interface of a layout: which records have it, and what they hold.

A layout is one file and one line in LAYOUTS. A record has a layout if it has all of its fields;
fields that are null count as absent, because in parquet every record has every field. Each record
of a file must have the layout of the first, and only that one.

Not here: the choice of a layout and reading a file (reading.py), messages (messages.py).
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from scalelab.data.chat import Message


@dataclass(frozen=True)
class ConversationRecord:
    """A conversation that ends with an answer."""

    messages: tuple[Message, ...]


@dataclass(frozen=True)
class PreferenceRecord:
    """A prompt with a better and a worse answer."""

    prompt: tuple[Message, ...]
    chosen: str
    rejected: str


@dataclass(frozen=True)
class RatedRecord:
    """A prompt with one answer, which is good or bad."""

    prompt: tuple[Message, ...]
    answer: str
    is_good: bool


Record = ConversationRecord | PreferenceRecord | RatedRecord


class RecordLayout(ABC):
    """One form in which records hold conversations or preferences."""

    gives: ClassVar[type[Record]]
    """What a record of this layout holds."""
    fields: ClassVar[tuple[str, ...]]
    """Fields that every record of this layout has."""
    examples: ClassVar[Sequence[Mapping[str, Any]]]
    """At least two records, for messages and for the conformance test (testing/layouts.py)."""

    def matches(self, record: Mapping[str, Any]) -> bool:
        """Return whether a record has this layout, judged by its fields and the types of their values."""
        return all(name in record for name in self.fields)

    @abstractmethod
    def read(self, record: Mapping[str, Any], where: str) -> Record:
        """Return what a record holds; fields that are null have been removed.

        Raises:
            DataError: A value is missing, empty or of the wrong type; the error gives `where`.
        """
