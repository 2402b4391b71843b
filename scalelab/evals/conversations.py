"""What a source of conversations is: what an assistant is asked, and what is right.

Members read files, the Hub, or make conversations by program. Each knows as much as it can say:
whether an answer is right, what it is worth, or neither, and then it says None.

Not here: conversations as tokens (data/chat.py), who compares two answers (judges/).
"""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

from scalelab.config import Config
from scalelab.data.chat import Message


@dataclass(frozen=True)
class Prompt:
    """What an assistant is asked, and what is known about a right answer."""

    messages: tuple[Message, ...]
    reference: str | None = None
    """A right answer, where one is known."""
    task: Any = None
    """What the source of the prompt needs to judge an answer."""


class Conversations(Config):
    """A source of conversations. Members add `kind: Literal[...]` and their settings."""

    @abstractmethod
    def fingerprint(self) -> str:
        """Hex digits that change when any conversation does. Raises DataError: unreadable."""

    @abstractmethod
    def training(self, n: int | None, seed: int) -> list[tuple[Message, ...]]:
        """Conversations with their answers; the first n of a fixed order.

        Raises:
            DataError: There are fewer than n, or a record is not a conversation.
        """

    @abstractmethod
    def prompts(self, n: int, seed: int, purpose: str) -> list[Prompt]:
        """Prompts without answers, other ones for every purpose where the source allows it."""

    @abstractmethod
    def tests(self, n: int) -> dict[str, list[Prompt]]:
        """Held-out prompts by the name of their set, up to n of each."""

    @abstractmethod
    def gold(self, prompt: Prompt, answer: str) -> float | None:
        """What an answer is worth by the source's own measure; None where it has none."""

    @abstractmethod
    def is_right(self, prompt: Prompt, answer: str) -> bool | None:
        """Whether an answer is right; None where the source cannot tell."""
