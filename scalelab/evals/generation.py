"""Answers of a chat model to prompts, and their grades.

    accuracy   share of correct answers, if the source of the prompts can check them
    gold       mean gold score of an answer, if the source has one
    words      mean length of an answer
    ended      share of answers that the model ended itself instead of being cut off

Standard errors are those of the mean over prompts.

Not here: multiple choice (tasks/multiple_choice.py), pairwise comparison (preference/pairwise.py).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scalelab.errors import DataError
from scalelab.evals.checkpoint import Checkpoint
from scalelab.evals.conversations.base import Conversations, Prompt


@dataclass(frozen=True)
class GradedAnswers:
    """Answers to one set of prompts."""

    prompts: Sequence[Prompt]
    answers: Sequence[str]
    right: Sequence[bool | None]
    gold: Sequence[float | None]
    ended: Sequence[bool]
    """Whether the model ended each answer itself; False if it was cut off."""

    def numbers(self) -> dict[str, float]:
        """Return means and standard errors by name; values that are not known are omitted."""
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


def generate_answers(
    model: Checkpoint,
    prompts: Sequence[Prompt],
    *,
    n_new: int | None = None,
    temperature: float = 0.0,
    seed: int = 0,
) -> tuple[list[str], list[bool], list[list[int]]]:
    """Return a model's answers, whether it ended each itself, and their tokens.

    Args:
        model: A chat model.
        prompts: Prompts to answer.
        n_new: Maximum tokens of an answer; None: the rest of the context.
        temperature: Sampling temperature; 0 takes the most likely token each time.
        seed: Seed of the sampling.

    Raises:
        DataError: The model is a base model, or a prompt fills its context.
    """
    if model.chat is None:
        raise DataError(
            "the model is a base model: it has no chat tokens",
            where=str(model.path),
            fix="train it with an SFT stage first",
        )
    rows = [model.chat.prompt(prompt.messages) for prompt in prompts]
    answer_budget(model, rows, n_new)  # raises if a prompt leaves no room
    written = model.generate_tokens(rows, n_new=n_new, temperature=temperature, seed=seed)
    ended = [row[-1:] == [model.tokenizer.end] for row in written]
    return [model.chat.read(row) for row in written], ended, written


def answer_budget(model: Checkpoint, rows: Sequence[Sequence[int]], n_new: int | None) -> int:
    """Return the maximum tokens of an answer that fit after every prompt.

    Raises:
        DataError: No answer fits; the message gives the number of prompts that are too long.
    """
    longest = max(map(len, rows), default=0)
    room = model.seq_len - longest if n_new is None else n_new
    if room < 1 or longest + room > model.seq_len:
        too_long = sum(len(row) + max(1, n_new or 1) > model.seq_len for row in rows)
        raise DataError(
            f"{too_long} of {len(rows)} prompts leave no room for an answer in the context of "
            f"{model.seq_len} tokens; the longest has {longest}",
            where=str(model.path),
            fix="shorten the prompts, reduce n_new, or use a model with a longer context",
        )
    return room


def grade(
    conversations: Conversations, model: Checkpoint, prompts: Sequence[Prompt], **how: float
) -> GradedAnswers:
    """Return graded answers; `how` holds keyword arguments of `generate_answers`."""
    answers, ended, _ = generate_answers(model, prompts, **how)
    pairs = list(zip(prompts, answers, strict=True))
    return GradedAnswers(
        prompts,
        answers,
        [conversations.is_right(prompt, answer) for prompt, answer in pairs],
        [conversations.gold(prompt, answer) for prompt, answer in pairs],
        ended,
    )
