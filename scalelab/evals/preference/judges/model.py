"""The judge `model`: a language model that is asked which answer is better.

By default it is asked in both orders, because the order influences its verdict.

Source: Zheng et al. 2023, arXiv:2306.05685.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import field_validator

from scalelab.config import Count, NonNegative, Switch
from scalelab.evals.checkpoint import Checkpoint
from scalelab.evals.conversations.base import Conversations, Prompt
from scalelab.evals.generation import generate_answers
from scalelab.evals.inputs import MODEL, Input
from scalelab.evals.preference.judges.base import Judge, JudgeSession, prompt_text


class ModelJudge(Judge):
    """A chat model that replies with a letter."""

    kind: Literal["model"] = "model"
    """Name of this judge in JUDGES."""
    model: str
    """A stage, "base", or the directory of a chat model."""
    ask: str = "Question: {question}\nAnswer A: {a}\nAnswer B: {b}\nWhich is better? Reply A or B."
    """Template of the question, with {question}, {a} and {b}."""
    both_orders: Switch = True
    """Ask with the answers swapped too, and average the two verdicts."""
    n_new: Count = 4
    """Maximum tokens of a reply."""
    dollars_per_thousand: NonNegative | None = None
    """Cost of a thousand verdicts in dollars. None: not known and not shown."""

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
        """Return the model."""
        return (Input.stage_or_directory(self.model, MODEL),)

    def passes(self) -> int:
        """Return 1, or 2 if the answers are swapped too: one question holds both answers."""
        return 2 if self.both_orders else 1

    def open_session(
        self, conversations: Conversations, paths: Mapping[str, Path], seed: int
    ) -> JudgeSession:
        """See Judge."""
        del conversations, seed
        model = Checkpoint.load(paths.get(self.model) or Path(self.model))

        def verdicts(prompts, first, second):
            questions = [
                Prompt(({"role": "user", "content": self.ask.format(question=prompt_text(p), a=a, b=b)},))
                for p, a, b in zip(prompts, first, second, strict=True)
            ]
            replies, _, written = generate_answers(model, questions, n_new=self.n_new)
            n = sum(len(model.chat.prompt(p.messages)) for p in questions) + sum(map(len, written))
            session.flops += n * model.forward_flops
            return [read_letter(reply) for reply in replies]

        def decide(prompts, first, second, before):
            del before
            found = verdicts(prompts, first, second)
            if not self.both_orders:
                return found
            swapped = verdicts(prompts, second, first)
            session.same = [
                None if a is None or b is None else a + b == 1 for a, b in zip(found, swapped, strict=True)
            ]
            return [
                None if a is None or b is None else (a + 1 - b) / 2
                for a, b in zip(found, swapped, strict=True)
            ]

        dollars = None if self.dollars_per_thousand is None else self.dollars_per_thousand / 1000
        session = JudgeSession(decide, dollars_per_verdict=dollars)
        return session


def read_letter(reply: str) -> float | None:
    """Return 1 for A, 0 for B, 0.5 for "tie", "both" or "equal"; None for anything else."""
    word = reply.strip().strip("().:*'\"").split(" ")[0].strip("().:*'\",").lower()
    return {"a": 1.0, "b": 0.0, "tie": 0.5, "both": 0.5, "equal": 0.5}.get(word)
