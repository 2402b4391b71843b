"""Who says which of two answers is better: a function, a reward model, a language model, a person.

A verdict is 1 where the first answer is better, 0 where the second is, 0.5 for a tie, and None
where the judge gave no verdict that can be read. Those are counted, not guessed; a judge that
gives none too often is refused.

    gold     the conversations' own measure; `flips` turns that share of its verdicts around
    reward   a reward model of an earlier stage
    model    a language model that is asked which answer is better, in both orders or in one
    person   somebody at this terminal

Not here: what is done with verdicts (verdicts.py, preferences.py), how judges agree
(evals/agreement.py).
"""

import sys
import time
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import field_validator

from scalelab.config import Config, Count, Fraction, NonNegative, Switch
from scalelab.data.hashing import drawn_share
from scalelab.errors import DataError
from scalelab.evals.asking import ask
from scalelab.evals.checkpoint import Checkpoint
from scalelab.evals.conversations import Conversations, Prompt
from scalelab.evals.reward_model import RewardModel

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


class Judge(Config):
    """Somebody who compares answers. Members add `kind: Literal[...]` and their settings."""

    def needs(self) -> tuple[str, ...]:
        """Names of the stages that it is made from."""
        return ()

    def files(self) -> tuple[str, ...]:
        """Checkpoint directories that it names by path."""
        return ()

    def passes(self) -> int:
        """Rows of text that a verdict takes through a model."""
        return 0

    def at_once(self) -> int | None:
        """Verdicts to ask for before they are written down; None: as many as there are."""
        return None

    @abstractmethod
    def court(self, conversations: Conversations, paths: Mapping[str, Path], seed: int) -> Court:
        """The judge, ready. Raises DataError or RunError where it cannot be had."""


class Gold(Judge):
    """The conversations' own measure."""

    kind: Literal["gold"] = "gold"
    """Names this judge in JUDGES."""
    flips: Fraction = 0.0
    """Share of verdicts that are turned around: people err, and so do labels."""

    def court(self, conversations: Conversations, paths: Mapping[str, Path], seed: int) -> Court:
        """See Judge."""
        del paths

        def decide(prompts, first, second, before):
            verdicts = []
            for i, (prompt, one, two) in enumerate(zip(prompts, first, second, strict=True)):
                a, b = conversations.gold(prompt, one), conversations.gold(prompt, two)
                if a is None or b is None:
                    raise DataError(
                        "these conversations have no gold measure",
                        where=f"data: {conversations.model_dump_json()}",
                        fix="choose another judge: reward, model or person",
                    )
                verdict = 0.5 if abs(a - b) < 1e-9 else float(a > b)
                is_flipped = drawn_share(f"flips-{seed}", before + i) < self.flips
                verdicts.append(1 - verdict if is_flipped else verdict)
            return verdicts

        return Court(decide)


class ByReward(Judge):
    """A reward model of an earlier stage: the higher number wins."""

    kind: Literal["reward"] = "reward"
    """Names this judge in JUDGES."""
    model: str
    """The stage that trained it."""

    def needs(self) -> tuple[str, ...]:
        """The reward model's stage."""
        return (self.model,)

    def passes(self) -> int:
        """Both answers are read."""
        return 2

    def court(self, conversations: Conversations, paths: Mapping[str, Path], seed: int) -> Court:
        """See Judge."""
        del conversations, seed
        model = RewardModel.load(paths[self.model])
        chat = model.chat

        def decide(prompts, first, second, before):
            del before
            sides = [
                [chat.prompt(p.messages) + chat.answer(a) for p, a in zip(
                    prompts, answers, strict=True)]
                for answers in (first, second)
            ]  # fmt: skip
            court.flops += sum(map(len, sides[0] + sides[1])) * model.forward_flops
            scores = [model.score(rows) for rows in sides]
            return [0.5 if a == b else float(a > b) for a, b in zip(*scores, strict=True)]

        court = Court(decide)
        return court


class ByModel(Judge):
    """A language model, asked in words."""

    kind: Literal["model"] = "model"
    """Names this judge in JUDGES."""
    model: str
    """A stage, "base", or the directory of a checkpoint that can converse."""
    ask: str = "Question: {question}\nAnswer A: {a}\nAnswer B: {b}\nWhich is better? Reply A or B."
    """What it is asked."""
    both_orders: Switch = True
    """Ask with the answers swapped too: a judge that changes its mind with the order has none."""
    n_new: Count = 4
    """Most tokens of its reply."""
    dollars_per_thousand: NonNegative | None = None
    """What a thousand verdicts cost. None: not known, and not shown."""

    @field_validator("ask")
    @classmethod
    def _has_its_places(cls, ask: str) -> str:
        try:
            filled = ask.format(question="", a="", b="")
        except (KeyError, IndexError, ValueError) as error:
            raise ValueError(f"cannot be filled in: {error!r}; write {{{{ for a brace") from None
        del filled
        if missing := [p for p in ("{question}", "{a}", "{b}") if p not in ask]:
            raise ValueError(f"must show {', '.join(missing)}")
        return ask

    def needs(self) -> tuple[str, ...]:
        """Its stage; a path needs none."""
        return () if "/" in self.model else (self.model,)

    def passes(self) -> int:
        """Both answers stand in one question; it is asked again with the answers swapped."""
        return 2 if self.both_orders else 1

    def files(self) -> tuple[str, ...]:
        """The directory, where it is one."""
        return (self.model,) if "/" in self.model else ()

    def court(self, conversations: Conversations, paths: Mapping[str, Path], seed: int) -> Court:
        """See Judge."""
        del conversations, seed
        model = Checkpoint.load(paths.get(self.model) or Path(self.model))

        def verdicts(prompts, first, second):
            asked = [
                Prompt(({"role": "user", "content": self.ask.format(
                    question=asked_in(p), a=a, b=b)},))
                for p, a, b in zip(prompts, first, second, strict=True)
            ]  # fmt: skip
            replies, _, written = ask(model, asked, n_new=self.n_new)
            n = sum(len(model.chat.prompt(p.messages)) for p in asked) + sum(map(len, written))
            court.flops += n * model.forward_flops
            return [read_letter(reply) for reply in replies]

        def decide(prompts, first, second, before):
            del before
            found = verdicts(prompts, first, second)
            if not self.both_orders:
                return found
            swapped = verdicts(prompts, second, first)
            court.same = [
                None if a is None or b is None else a + b == 1
                for a, b in zip(found, swapped, strict=True)
            ]
            return [
                None if a is None or b is None else (a + 1 - b) / 2
                for a, b in zip(found, swapped, strict=True)
            ]

        dollars = None if self.dollars_per_thousand is None else self.dollars_per_thousand / 1000
        court = Court(decide, dollars_per_verdict=dollars)
        return court


class Person(Judge):
    """Somebody at this terminal."""

    kind: Literal["person"] = "person"
    """Names this judge in JUDGES."""
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


def asked_in(prompt: Prompt) -> str:
    """All that was said before the answer; who said it, where there was more than one turn."""
    if len(prompt.messages) == 1:
        return prompt.messages[0]["content"]
    return "\n".join(f"{m['role']}: {m['content']}" for m in prompt.messages)


def read_letter(reply: str) -> float | None:
    """1 for A, 0 for B, 0.5 for a tie in so many words; None where it is neither."""
    word = reply.strip().strip("().:*'\"").split(" ")[0].strip("().:*'\",").lower()
    return {"a": 1.0, "b": 0.0, "tie": 0.5, "both": 0.5, "equal": 0.5}.get(word)


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
