"""What a judge is: verdicts on pairs of answers, counted, and what they cost.

A verdict is 1 where the first answer is better, 0 where the second is, 0.5 for a tie, and None
where the judge gave no verdict that can be read. Those are counted, not guessed; a judge that
gives none too often is refused.

The verdict on a comparison depends on its prompt, its answers and how many were judged before it,
not on what else is asked with it: kept verdicts are continued in the middle.

Not here: what is done with verdicts (verdicts.py, preferences.py), how judges agree
(evals/agreement.py).
"""

import time
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from scalelab.errors import DataError
from scalelab.evals.conversations import Conversations, Prompt
from scalelab.evals.inputs import Input, Reads

MOST_UNREADABLE = 0.5
"""Share of verdicts that cannot be read, beyond which a judge is refused."""
FEWEST_TRIED = 20
"""Verdicts before that is asked."""


@dataclass
class Court:
    """A judge at work, and what it has cost."""

    decide: Callable[[Sequence[Prompt], Sequence[str], Sequence[str], int], list[float | None]]
    """Verdicts on prompts, first and second answers; the number is how many were judged before."""
    flops: float = 0.0
    """Spent so far, on real tokens; reckoned."""
    may_pass: bool = False
    """Whether no verdict is an answer too, and not a judge that cannot be read."""
    dollars_per_verdict: float | None = None
    dollars_per_hour: float | None = None
    n: int = 0
    unreadable: int = 0
    seconds: float = 0.0
    same: list[bool | None] | None = None
    """Of the last comparisons: whether the verdict was one, whichever answer stood first. None:
    not asked, or not to be read."""

    @property
    def dollars_per_thousand(self) -> float | None:
        """What a thousand verdicts cost; None: not known."""
        if self.dollars_per_verdict is not None:
            return 1000 * self.dollars_per_verdict
        if self.dollars_per_hour is None or not self.n:
            return None
        return 1000 * self.dollars_per_hour * self.seconds / 3600 / self.n

    def __call__(
        self, prompts: Sequence[Prompt], first: Sequence[str], second: Sequence[str], before: int
    ) -> list[float | None]:
        """Verdicts, counted.

        Raises:
            DataError: The judge's words could not be read too often.
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
                fix="ask a judge that answers in the form that is asked of it, or change `ask`",
            )
        return verdicts


class Judge(Reads):
    """Somebody who compares answers. Members add `kind: Literal[...]` and their settings."""

    interactive: ClassVar[bool] = False
    """Whether a person at this terminal is asked."""

    def inputs(self) -> tuple[Input, ...]:
        """Models that it is made from."""
        return ()

    def passes(self) -> int:
        """Rows of text that a verdict takes through a model."""
        return 0

    def at_once(self) -> int | None:
        """Verdicts to ask for before they are written down; None: as many as there are."""
        return None

    @abstractmethod
    def court(self, conversations: Conversations, paths: Mapping[str, Path], seed: int) -> Court:
        """The judge, ready.

        Args:
            conversations: Where the prompts come from.
            paths: Directory of each input, by the name that `inputs` gives it.
            seed: Of whatever the judge draws.

        Raises:
            DataError, RunError: It cannot be had.
        """


def asked_in(prompt: Prompt) -> str:
    """All that was said before the answer; who said it, where there was more than one turn."""
    if len(prompt.messages) == 1:
        return prompt.messages[0]["content"]
    return "\n".join(f"{m['role']}: {m['content']}" for m in prompt.messages)
