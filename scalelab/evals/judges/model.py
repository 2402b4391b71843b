"""The judge `model`: a language model that is asked which answer is better.

It is asked in both orders unless it is told otherwise, because the order sways it.

Source: Zheng et al. 2023, arXiv:2306.05685.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import field_validator

from scalelab.config import Count, NonNegative, Switch
from scalelab.evals.asking import ask
from scalelab.evals.checkpoint import Checkpoint
from scalelab.evals.conversations import Conversations, Prompt
from scalelab.evals.inputs import MODEL, Input
from scalelab.evals.judges.base import Court, Judge, asked_in


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

    def inputs(self) -> tuple[Input, ...]:
        """The model."""
        return (Input.stage_or_directory(self.model, MODEL),)

    def passes(self) -> int:
        """Both answers stand in one question; it is asked again with the answers swapped."""
        return 2 if self.both_orders else 1

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


def read_letter(reply: str) -> float | None:
    """1 for A, 0 for B, 0.5 for a tie in so many words; None where it is neither."""
    word = reply.strip().strip("().:*'\"").split(" ")[0].strip("().:*'\",").lower()
    return {"a": 1.0, "b": 0.0, "tie": 0.5, "both": 0.5, "equal": 0.5}.get(word)
