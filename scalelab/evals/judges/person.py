"""The judge `person`: somebody at this terminal."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Literal

from scalelab.config import NonNegative
from scalelab.data.hashing import drawn_share
from scalelab.errors import DataError
from scalelab.evals.conversations import Conversations, Prompt
from scalelab.evals.judges.base import Court, Judge, asked_in


class Person(Judge):
    """Somebody at this terminal."""

    kind: Literal["person"] = "person"
    """Names this judge in JUDGES."""
    interactive: ClassVar[bool] = True
    dollars_per_hour: NonNegative | None = None
    """What an hour of their time costs. None: not known, and not shown."""

    def at_once(self) -> int:
        """Each: nobody likes to be asked twice."""
        return 1

    def court(self, conversations: Conversations, paths: Mapping[str, Path], seed: int) -> Court:
        """See Judge."""
        del conversations, paths
        if not sys.stdin.isatty():
            raise DataError(
                "nobody sits at this terminal to judge",
                where="judge: person",
                fix="run the command in a terminal, or choose another judge",
            )

        def decide(prompts, first, second, before):
            verdicts = []
            for i, (prompt, one, two) in enumerate(zip(prompts, first, second, strict=True)):
                # The order is drawn, so that whoever sits there cannot learn which model is first.
                swap = drawn_share(f"order-{seed}", before + i) < 0.5
                shown = (two, one) if swap else (one, two)
                said = asked_of_person(prompt, *shown)
                verdicts.append(said if said is None or not swap else 1 - said)
            return verdicts

        return Court(decide, may_pass=True, dollars_per_hour=self.dollars_per_hour)


def asked_of_person(prompt: Prompt, one: str, two: str) -> float | None:
    """What somebody types; asked again until it can be read. `s` passes the question over."""
    print(f"\n{asked_in(prompt)}\n  a: {one}\n  b: {two}")
    while True:
        try:
            said = input("better: a, b, or = for neither (s passes over)? ").strip().lower()
        except EOFError:
            raise KeyboardInterrupt from None  # nobody is there any more
        if said in {"a", "b", "=", "s"}:
            return {"a": 1.0, "b": 0.0, "=": 0.5, "s": None}[said]
        print("type a, b, = or s")
