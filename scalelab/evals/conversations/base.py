"""The interface of a source of conversations: prompts, and how answers are checked.

Members read files, read the Hub, or generate conversations. A source that cannot check or score an
answer returns None.

Not here: conversations as tokens (data/chat.py), comparison of two answers (preference/judges/).
"""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

from scalelab.config import Config
from scalelab.data.chat import Message


@dataclass(frozen=True)
class Prompt:
    """A prompt, and what is known about its correct answer."""

    messages: tuple[Message, ...]
    reference: str | None = None
    """A correct answer, if one is known."""
    task: Any = None
    """What the source needs to check an answer."""


class Conversations(Config):
    """A source of conversations. Members add `kind: Literal[...]` and their settings."""

    @abstractmethod
    def fingerprint(self) -> str:
        """Return hex digits that change when any conversation does. Raises DataError if one is unreadable."""

    @abstractmethod
    def training(self, n: int | None, seed: int) -> list[tuple[Message, ...]]:
        """Return conversations with their answers: the first n in a fixed order.

        Raises:
            DataError: There are fewer than n, or a record is not a conversation.
        """

    @abstractmethod
    def prompts(self, n: int, seed: int, purpose: str) -> list[Prompt]:
        """Return prompts without answers, different ones for each purpose if the source allows it."""

    @abstractmethod
    def tests(self, n: int) -> dict[str, list[Prompt]]:
        """Return held-out prompts by the name of their set, up to n of each."""

    @abstractmethod
    def gold(self, prompt: Prompt, answer: str) -> float | None:
        """Return the source's own score of an answer; None if it has none."""

    @abstractmethod
    def is_right(self, prompt: Prompt, answer: str) -> bool | None:
        """Return whether an answer is correct; None if the source does not know."""
