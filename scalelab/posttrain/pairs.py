"""Pairs of a better and a worse answer, ready to be learned from.

They come from a stage that collected them, or from a file with a pair a line:

    {"prompt": text or messages, "chosen": text, "rejected": text}

Answers that a stage collected are learned token by token as they were written: one that was cut
off has no end to be learned. A share is held out by the prompt, so that no prompt is on both
sides. Undecided pairs and pairs of equal answers teach nothing: they are left out and counted.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from scalelab.config import Count, Fraction, Positive
from scalelab.data.chat import Chat, Message
from scalelab.data.hashing import drawn_share
from scalelab.data.textfiles import rows_of
from scalelab.errors import DataError
from scalelab.evals.checkpoint import Checkpoint
from scalelab.evals.inputs import ANSWER_PAIRS, MODEL, Input
from scalelab.evals.recorded import as_messages
from scalelab.posttrain.base import Given, Rates, Stage
from scalelab.posttrain.preferences import PAIRS, read_rows

HELD_OUT = 0.1
"""Share of the prompts that are held out."""


@dataclass(frozen=True)
class Pair:
    """One prompt, a better answer and a worse one, as tokens."""

    prompt: tuple[int, ...]
    chosen: tuple[int, ...]
    """With the end token."""
    rejected: tuple[int, ...]
    messages: tuple[Message, ...]
    said: tuple[str, str]
    """The two answers as text, the better one first."""


@dataclass(frozen=True)
class Pairs:
    """All of them, divided."""

    train: Sequence[Pair]
    held_out: Sequence[Pair]
    n_undecided: int
    """Comparisons without a winner, which are left out."""
    n_equal: int
    """Pairs whose answers are the same, which are left out."""

    def counts(self) -> dict[str, float]:
        """How many there are of each kind, and how often the longer answer is the worse one."""
        every = [*self.train, *self.held_out]
        return {
            "pairs": len(self.train),
            "pairs_held_out": len(self.held_out),
            "pairs_undecided": self.n_undecided,
            "pairs_equal": self.n_equal,
            "longer_loses": sum(len(p.rejected) > len(p.chosen) for p in every) / len(every),
        }


class OnPairs(Stage):
    """A stage that learns from pairs. Members add `kind`, their settings and their work."""

    start: str
    """The stage whose model it begins with."""
    pairs: str
    """The stage that collected the pairs, or a file."""
    examples: Count | None = None
    """Pairs to learn from; None takes all that are not held out."""
    epochs: Positive = 1.0
    """Passes over the pairs."""
    min_steps: Count = 1
    """Updates at least."""
    batch: Count = 32
    """Pairs of an update."""
    rates: Rates
    warmup: Fraction = 0.1
    """Share of the updates over which the rate rises."""
    backend: Literal["own", "trl"] = "own"
    """trl: TRL's trainer of this method does the steps (extra `post`)."""

    def inputs(self) -> tuple[Input, ...]:
        """The model, and the pairs."""
        return (Input(self.start, MODEL), Input.stage_or_file(self.pairs, ANSWER_PAIRS))

    def rows_trained(self) -> int | None:
        """Answers that go through the model at most; None: as many as there will be pairs."""
        if self.examples is None:
            return None
        return 2 * max(math.ceil(self.examples * self.epochs), self.min_steps * self.batch)


def pairs_of(given: Given, source: str, start: Checkpoint, n: int | None) -> Pairs:
    """The pairs of a stage or a file, as tokens of a model.

    Args:
        given: Of the stage that learns from them.
        source: A stage's name, or a path that ends in .jsonl or .parquet.
        start: The model whose tokens they become.
        n: Most pairs of training; None takes all.

    Raises:
        DataError: There are none, fewer than n, one is longer than the context, or all are of
            one class: nothing is preferred to anything.
    """
    rows, undecided = [], 0
    is_path = Input.stage_or_file(source, ANSWER_PAIRS).is_path
    path = Path(source) if is_path else given.paths[source] / PAIRS
    if is_path:
        placed = rows_of(path)
    else:
        placed = ((f"{path}:{number}", row) for number, row in enumerate(read_rows(path), 1))
    for where, row in placed:
        for name in ("prompt", "chosen", "rejected"):
            if name not in row:
                raise DataError(
                    f"the pair has no {name!r}",
                    where=where,
                    fix=f"give prompt, chosen and rejected; it has: {', '.join(row)}",
                )
        if row.get("verdict", 1.0) in (None, 0.5):
            undecided += 1
            continue
        rows.append(_pair(where, row, start.chat))
    if not rows:
        raise DataError(
            f"there is no decided pair, and {undecided} undecided",
            where=str(path),
            fix="collect more comparisons, or choose a judge that decides",
        )
    n_equal = sum(pair.chosen == pair.rejected for pair in rows)
    _refuse(rows, path, start.seq_len)
    rows = [pair for pair in rows if pair.chosen != pair.rejected]
    held = [drawn_share("held out " + repr(pair.messages), 0) < HELD_OUT for pair in rows]
    train = [pair for pair, is_held in zip(rows, held, strict=True) if not is_held]
    held_out = [pair for pair, is_held in zip(rows, held, strict=True) if is_held]
    if not train or (n is not None and len(train) < n):
        raise DataError(
            f"{n or 1} pairs are asked for, and {len(train)} are there beside {len(held_out)} "
            "held out",
            where=str(path),
            fix="ask for fewer, or collect more comparisons",
        )
    return Pairs(train[:n], held_out, undecided, n_equal)


def both_sides(pairs: Sequence[Pair]) -> list[tuple[int, ...]]:
    """Every pair's better answer after its prompt, then every worse one."""
    return [(*p.prompt, *p.chosen) for p in pairs] + [(*p.prompt, *p.rejected) for p in pairs]


def _pair(where: str, row: dict, chat: Chat) -> Pair:
    messages = as_messages(where, row["prompt"], "user")
    said = []
    for name in ("chosen", "rejected"):
        answer = as_messages(where, row[name], "assistant")
        said.append(answer[-1]["content"])
    prompt = tuple(chat.prompt(messages))
    name = chat.tokenizer.name
    if row.get("tokenizers") == [name, name]:
        one, two = (tuple(tokens) for tokens in row["written"])
        chosen, rejected = (one, two) if row["first_is_chosen"] else (two, one)
    else:
        chosen, rejected = (tuple(chat.answer(text)) for text in said)
    return Pair(prompt, chosen, rejected, messages, (said[0], said[1]))


def _refuse(rows: Sequence[Pair], path: Path, seq_len: int) -> None:
    same = sum(pair.chosen == pair.rejected for pair in rows)
    if same == len(rows):
        raise DataError(
            f"in all {same} pairs the better answer is the worse one: they are of one class",
            where=str(path),
            fix="draw the two answers with a higher temperature, or from two models",
        )
    longest = max(len(p.prompt) + max(len(p.chosen), len(p.rejected)) for p in rows)
    if longest > seq_len + 1:
        many = sum(len(p.prompt) + max(len(p.chosen), len(p.rejected)) > seq_len + 1 for p in rows)
        raise DataError(
            f"{many} of {len(rows)} pairs are longer than the context of {seq_len} tokens; the "
            f"longest has {longest}",
            where=str(path),
            fix="leave them out, or start from a model with a longer context",
        )
