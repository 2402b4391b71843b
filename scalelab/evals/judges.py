"""Who says which of two answers is better: a function, a reward model, a language model, a person.

A verdict is 1 where the first answer is better, 0 where the second is, 0.5 for a tie, and None
where the judge gave no verdict that can be read. Those are counted, not guessed; a judge that
gives none too often is refused.

    gold     the conversations' own measure; `flips` turns that share of its verdicts around
    reward   a reward model of an earlier stage
    model    a language model that is asked which answer is better, in both orders or in one
    person   somebody at this terminal

Not here: what is done with verdicts (preferences.py), how judges agree (evals/agreement.py).
"""

import sys
import time
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from scalelab.config import Config, Count, Fraction, NonNegative, Switch
from scalelab.data.skills import drawn_share
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
    flops_per_verdict: float = 0.0
    dollars_per_verdict: float | None = None
    n: int = 0
    unreadable: int = 0
    seconds: float = 0.0
    swapped: int = 0
    """Comparisons that were asked in both orders."""
    same: int = 0
    """Of these, how many had one verdict, whichever answer stood first."""

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
        if self.n >= FEWEST_TRIED and self.unreadable > MOST_UNREADABLE * self.n:
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

    def court(self, conversations: Conversations, paths: Mapping[str, Path], seed: int) -> Court:
        """See Judge."""
        del conversations, seed
        model = RewardModel.load(paths[self.model])
        chat = model.like.chat

        def decide(prompts, first, second, before):
            del before
            scores = [
                model.score([chat.prompt(p.messages) + chat.answer(a) for p, a in zip(
                    prompts, answers, strict=True)])
                for answers in (first, second)
            ]  # fmt: skip
            return [0.5 if a == b else float(a > b) for a, b in zip(*scores, strict=True)]

        per_answer = model.like.forward_flops * model.like.seq_len
        return Court(decide, flops_per_verdict=2 * per_answer)


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

    def needs(self) -> tuple[str, ...]:
        """Its stage; a path needs none."""
        return () if "/" in self.model else (self.model,)

    def court(self, conversations: Conversations, paths: Mapping[str, Path], seed: int) -> Court:
        """See Judge."""
        del conversations, seed
        model = Checkpoint.load(paths.get(self.model) or Path(self.model))

        def verdicts(prompts, first, second):
            asked = [
                Prompt(({"role": "user", "content": self.ask.format(
                    question=p.messages[-1]["content"], a=a, b=b)},))
                for p, a, b in zip(prompts, first, second, strict=True)
            ]  # fmt: skip
            replies, _, _ = ask(model, asked, n_new=self.n_new)
            return [read_letter(reply) for reply in replies]

        def decide(prompts, first, second, before):
            del before
            found = verdicts(prompts, first, second)
            if not self.both_orders:
                return found
            swapped = verdicts(prompts, second, first)
            court.swapped += len(found)
            court.same += sum(a + b == 1 for a, b in _readable(found, swapped))
            return [
                None if a is None or b is None else (a + 1 - b) / 2
                for a, b in zip(found, swapped, strict=True)
            ]

        orders = 2 if self.both_orders else 1
        dollars = None if self.dollars_per_thousand is None else self.dollars_per_thousand / 1000
        flops = orders * model.forward_flops * model.seq_len
        court = Court(decide, flops_per_verdict=flops, dollars_per_verdict=dollars)
        return court


class Person(Judge):
    """Somebody at this terminal."""

    kind: Literal["person"] = "person"
    """Names this judge in JUDGES."""
    dollars_per_hour: NonNegative | None = None
    """What an hour of their time costs. None: not known, and not shown."""

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

        return Court(decide)


def _readable(one: Sequence[float | None], two: Sequence[float | None]):
    """Pairs of verdicts of which both can be read."""
    return ((a, b) for a, b in zip(one, two, strict=True) if a is not None and b is not None)


def read_letter(reply: str) -> float | None:
    """1 for A, 0 for B, 0.5 for a tie in so many words; None where it is neither."""
    word = reply.strip().strip("().:*'\"").split(" ")[0].strip("().:*'\",").lower()
    return {"a": 1.0, "b": 0.0, "tie": 0.5, "both": 0.5, "equal": 0.5}.get(word)


def asked_of_person(prompt: Prompt, one: str, two: str) -> float | None:
    """What somebody types; asked again until it can be read. `s` passes the question over."""
    print(f"\n{prompt.messages[-1]['content']}\n  a: {one}\n  b: {two}")
    while True:
        said = input("better: a, b, or = for neither (s passes over)? ").strip().lower()
        if said in {"a", "b", "=", "s"}:
            return {"a": 1.0, "b": 0.0, "=": 0.5, "s": None}[said]
        print("type a, b, = or s")
