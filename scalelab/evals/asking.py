"""Questions put to a model that converses, its answers, and what they are worth.

    accuracy   share of right answers, where the source of the prompts can tell
    gold       mean worth of an answer, where the source knows it
    words      mean length of an answer
    ended      share of answers that the model ended itself, and was not cut off

Standard errors are of the mean over prompts.

Not here: tests with choices (choice.py), two models side by side (measurements/pairwise.py).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scalelab.errors import DataError
from scalelab.evals.checkpoint import Checkpoint
from scalelab.evals.conversations import Conversations, Prompt


@dataclass(frozen=True)
class Graded:
    """Answers to one set of prompts."""

    prompts: Sequence[Prompt]
    answers: Sequence[str]
    right: Sequence[bool | None]
    gold: Sequence[float | None]
    ended: Sequence[bool]
    """Whether the model ended its answer itself, or was cut off."""

    def numbers(self) -> dict[str, float]:
        """Means and standard errors; what is not known is not there."""
        found: dict[str, float] = {}
        errors: dict[str, float] = {}
        for name, values in (
            ("accuracy", self.right),
            ("gold", self.gold),
            ("words", [len(answer.split()) for answer in self.answers]),
            ("ended", self.ended),
        ):
            known = np.array([float(v) for v in values if v is not None])
            if len(known):
                found[name] = float(known.mean())
                if len(known) > 1:
                    errors[f"{name}_se"] = float(known.std(ddof=1)) / math.sqrt(len(known))
        return found | errors


def ask(
    model: Checkpoint,
    prompts: Sequence[Prompt],
    *,
    n_new: int | None = None,
    temperature: float = 0.0,
    seed: int = 0,
) -> tuple[list[str], list[bool], list[list[int]]]:
    """A model's answers, whether it ended each itself, and their tokens.

    Args:
        model: One that can converse.
        prompts: What it is asked.
        n_new: Most tokens of an answer; None: what its prompt leaves of the context.
        temperature: 0 takes the likeliest token each time.
        seed: Decides what is drawn.

    Raises:
        DataError: The model cannot converse, or a prompt fills its context.
    """
    if model.chat is None:
        raise DataError(
            "a base model does not answer: it has no tokens for turns",
            where=str(model.path),
            fix="put it through SFT first",
        )
    rows = [model.chat.prompt(prompt.messages) for prompt in prompts]
    room_for_answers(model, rows, n_new)  # refuses prompts that leave none
    written = model.go_on(rows, n_new=n_new, temperature=temperature, seed=seed)
    ended = [row[-1:] == [model.tokenizer.end] for row in written]
    return [model.chat.read(row) for row in written], ended, written


def room_for_answers(model: Checkpoint, rows: Sequence[Sequence[int]], n_new: int | None) -> int:
    """Tokens that an answer may have after every one of these prompts.

    Raises:
        DataError: There is no room for one; the message counts the prompts that are too long.
    """
    longest = max(map(len, rows), default=0)
    room = model.seq_len - longest if n_new is None else n_new
    if room < 1 or longest + room > model.seq_len:
        too_long = sum(len(row) + max(1, n_new or 1) > model.seq_len for row in rows)
        raise DataError(
            f"{too_long} of {len(rows)} prompts leave no room for an answer in the context of "
            f"{model.seq_len} tokens; the longest has {longest}",
            where=str(model.path),
            fix="shorten the prompts, ask for shorter answers, or take a model with a longer "
            "context",
        )
    return room


def grade(
    conversations: Conversations, model: Checkpoint, prompts: Sequence[Prompt], **how: float
) -> Graded:
    """Ask and judge. `how` is passed on to `ask`."""
    answers, ended, _ = ask(model, prompts, **how)
    pairs = list(zip(prompts, answers, strict=True))
    return Graded(
        prompts,
        answers,
        [conversations.is_right(prompt, answer) for prompt, answer in pairs],
        [conversations.gold(prompt, answer) for prompt, answer in pairs],
        ended,
    )
