"""The interface of a judge: verdicts on pairs of answers, their count and their cost.

A verdict is 1 if the first answer is better, 0 if the second is, 0.5 for a tie, and None if the reply
could not be read. Unreadable replies are counted, never guessed; too many of them raise an error.

A verdict depends on the prompt, the answers and the number of comparisons before it, not on the rest
of the batch, so a partly stored comparison can be resumed.

Not here: storage of verdicts (judgement_cache.py), agreement of judges (agreement.py).
"""

import time
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from scalelab.errors import DataError
from scalelab.evals.conversations.base import Conversations, Prompt
from scalelab.evals.inputs import ConfigWithInputs, Input

MOST_UNREADABLE = 0.5
"""Largest share of unreadable verdicts."""
FEWEST_TRIED = 20
"""Verdicts before that share is checked."""


@dataclass
class JudgeSession:
    """A running judge, with its counts and costs."""

    decide: Callable[[Sequence[Prompt], Sequence[str], Sequence[str], int], list[float | None]]
    """Function of prompts, first answers, second answers and the number of earlier comparisons to verdicts."""
    flops: float = 0.0
    """FLOPs spent so far, computed from the tokens without padding."""
    may_pass: bool = False
    """Whether the judge may skip a comparison; skipped ones do not count as unreadable."""
    dollars_per_verdict: float | None = None
    dollars_per_hour: float | None = None
    n: int = 0
    unreadable: int = 0
    seconds: float = 0.0
    same: list[bool | None] | None = None
    """Whether the verdict of each of the last comparisons was the same in both orders. None: one order
    only, or unreadable."""

    @property
    def dollars_per_thousand(self) -> float | None:
        """Dollars per thousand verdicts; None if not known."""
        if self.dollars_per_verdict is not None:
            return 1000 * self.dollars_per_verdict
        if self.dollars_per_hour is None or not self.n:
            return None
        return 1000 * self.dollars_per_hour * self.seconds / 3600 / self.n

    def __call__(
        self, prompts: Sequence[Prompt], first: Sequence[str], second: Sequence[str], before: int
    ) -> list[float | None]:
        """Return verdicts and count them.

        Args:
            prompts: Prompts of the comparisons.
            first: First answer to each.
            second: Second answer to each.
            before: Number of comparisons judged earlier.

        Raises:
            DataError: Too many replies could not be read.
        """
        began = time.monotonic()
        verdicts = self.decide(prompts, first, second, before)
        self.seconds += time.monotonic() - began
        self.n += len(verdicts)
        self.unreadable += sum(v is None for v in verdicts)
        many = self.n >= FEWEST_TRIED and not self.may_pass
        if many and self.unreadable > MOST_UNREADABLE * self.n:
            raise DataError(
                f"{self.unreadable} of the judge's {self.n} verdicts cannot be read",
                where="the judge",
                fix="use a judge that replies in the requested form, or change `ask`",
            )
        return verdicts


class Judge(ConfigWithInputs):
    """A judge of pairs of answers. Members add `kind: Literal[...]` and their settings."""

    interactive: ClassVar[bool] = False
    """Whether it asks a person at the terminal."""

    def inputs(self) -> tuple[Input, ...]:
        """Return the models that it uses."""
        return ()

    def passes(self) -> int:
        """Return how many texts a model reads for one verdict."""
        return 0

    def at_once(self) -> int | None:
        """Return the number of verdicts between two writes; None: those of a whole comparison."""
        return None

    @abstractmethod
    def open_session(
        self, conversations: Conversations, paths: Mapping[str, Path], seed: int
    ) -> JudgeSession:
        """Start the judge and return its session.

        Args:
            conversations: Source of the prompts.
            paths: Directory of each input, by its name in `inputs`.
            seed: Seed of random choices.

        Raises:
            DataError, RunError: Something that it needs is missing.
        """


def prompt_text(prompt: Prompt) -> str:
    """Return the text of a prompt; with several turns each line begins with its role."""
    if len(prompt.messages) == 1:
        return prompt.messages[0]["content"]
    return "\n".join(f"{m['role']}: {m['content']}" for m in prompt.messages)
