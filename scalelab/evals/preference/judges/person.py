"""The judge `person`: a person at the terminal."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Literal

from scalelab.config import NonNegative
from scalelab.data.hashing import drawn_share
from scalelab.errors import DataError
from scalelab.evals.conversations.base import Conversations, Prompt
from scalelab.evals.preference.judges.base import Judge, JudgeSession, prompt_text
from scalelab.screen import ask, echo


class PersonJudge(Judge):
    """A person at the terminal."""

    kind: Literal["person"] = "person"
    """Name of this judge in JUDGES."""
    interactive: ClassVar[bool] = True
    dollars_per_hour: NonNegative | None = None
    """Cost of an hour in dollars. None: not known and not shown."""

    def at_once(self) -> int:
        """Return 1: each verdict is stored immediately."""
        return 1

    def open_session(
        self, conversations: Conversations, paths: Mapping[str, Path], seed: int
    ) -> JudgeSession:
        """See Judge."""
        del conversations, paths
        if not sys.stdin.isatty():
            raise DataError(
                "judge: person needs an interactive terminal",
                where="the judge",
                fix="run the command in a terminal, or choose another judge",
            )

        def decide(prompts, first, second, before):
            verdicts = []
            for i, (prompt, one, two) in enumerate(zip(prompts, first, second, strict=True)):
                # Random order, so that the person cannot learn which model comes first.
                swap = drawn_share(f"order-{seed}", before + i) < 0.5
                shown = (two, one) if swap else (one, two)
                verdict = read_person_verdict(prompt, *shown)
                verdicts.append(verdict if verdict is None or not swap else 1 - verdict)
            return verdicts

        return JudgeSession(decide, may_pass=True, dollars_per_hour=self.dollars_per_hour)


def read_person_verdict(prompt: Prompt, one: str, two: str) -> float | None:
    """Return the verdict that the person types, asking until it is valid; None for `s`, skip."""
    echo(f"\n{prompt_text(prompt)}\n  a: {one}\n  b: {two}")
    while True:
        try:
            reply = ask("better: a, b, or = for a tie (s to skip)? ").strip().lower()
        except EOFError:
            raise KeyboardInterrupt from None  # the terminal was closed
        if reply in {"a", "b", "=", "s"}:
            return {"a": 1.0, "b": 0.0, "=": 0.5, "s": None}[reply]
        echo("type a, b, = or s")
