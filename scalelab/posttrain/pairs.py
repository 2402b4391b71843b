r"""Preference pairs: a prompt, a chosen and a rejected answer, as tokens.

They come from a stage that collected them, or from a file in one of these layouts (evals LAYOUTS):

    {"prompt": text or messages, "chosen": text or messages, "rejected": text or messages}
    {"chosen": [messages], "rejected": [messages]}                  the prompt is what they share
    {"chosen": "\n\nHuman: ...", "rejected": "\n\nHuman: ..."}      HH
    {"prompt": ..., "completion": ..., "label": true or false}      KTO

Rated answers (KTO) to the same prompt are paired in order, the first good one with the first bad one;
those left over are counted. Answers that a stage collected are used token by token as they were
generated: one that was cut off has no end token. The held-out share is drawn by prompt, so no prompt is
in both splits. Undecided pairs and pairs of equal answers carry no preference: they are dropped and
counted.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from scalelab.config import Count, Fraction, Positive
from scalelab.data.chat import Chat, Message
from scalelab.data.files.records import rows_of
from scalelab.data.hashing import drawn_share
from scalelab.errors import DataError
from scalelab.evals.checkpoint import Checkpoint
from scalelab.evals.conversations.layouts.base import PreferenceRecord, RatedRecord
from scalelab.evals.conversations.messages import read_text_or_messages
from scalelab.evals.conversations.reading import read_records
from scalelab.evals.inputs import ANSWER_PAIRS, MODEL, Input
from scalelab.posttrain.base import OptimizerSetting, Stage, StageContext
from scalelab.posttrain.context_length import TooLong, TooLongCounts, all_dropped, refuse_too_long
from scalelab.posttrain.stages.preferences import PAIRS, read_pairs

PAIR_COUNTS = ("pairs_dropped", "pairs_truncated", "answers_unpaired")
"""Metrics of pairs and answers that were read and left out or cut, where there may be some."""
HELD_OUT = 0.1
"""Share of the prompts held out for evaluation."""


@dataclass(frozen=True)
class Pair:
    """One prompt, its chosen and its rejected answer, as tokens."""

    prompt: tuple[int, ...]
    chosen: tuple[int, ...]
    """Tokens with the end token, if the answer was not cut off."""
    rejected: tuple[int, ...]
    messages: tuple[Message, ...]
    answers: tuple[str, str]
    """The two answers as text, the chosen one first."""


@dataclass(frozen=True)
class PairSet:
    """Training and held-out pairs."""

    train: Sequence[Pair]
    held_out: Sequence[Pair]
    n_undecided: int
    """Comparisons without a winner, which are dropped."""
    n_equal: int
    """Pairs of identical answers, which are dropped."""
    others: Mapping[str, int] = field(default_factory=dict)
    """Metrics named in PAIR_COUNTS."""

    def counts(self) -> dict[str, float]:
        """Return the number of pairs of each kind, and how often the longer answer was rejected."""
        every = [*self.train, *self.held_out]
        return {
            "pairs": len(self.train),
            "pairs_held_out": len(self.held_out),
            "pairs_undecided": self.n_undecided,
            "pairs_equal": self.n_equal,
            **self.others,
            "longer_loses": sum(len(p.rejected) > len(p.chosen) for p in every) / len(every),
        }


class PairStage(Stage):
    """A stage that trains on preference pairs. Members add `kind`, settings and a job."""

    start: str
    """Stage whose model is trained."""
    pairs: str
    """Stage that collected the pairs, or a file (.jsonl, .json, .csv, .tsv, .parquet, compressed or not)."""
    examples: Count | None = None
    """Number of training pairs; None: all that are not held out."""
    epochs: Positive = 1.0
    """Passes over the pairs."""
    min_steps: Count = 1
    """Least number of updates; few pairs are passed over more often to reach it."""
    batch: Count = 32
    """Pairs per update."""
    rates: OptimizerSetting
    warmup: Fraction = 0.1
    """Share of the updates over which the learning rate rises."""
    too_long: TooLong = Field("refuse", json_schema_extra={"since": 2})
    """Pairs that exceed the context: refuse them, drop them, or truncate the answers. Those dropped and
    truncated are counted in the result."""
    backend: Literal["own", "trl"] = "own"
    """Backend of the steps: "own", or "trl" for TRL's trainer of this method (extra `post`)."""

    def inputs(self) -> tuple[Input, ...]:
        """Return the model and the pairs."""
        return (Input(self.start, MODEL), Input.stage_or_file(self.pairs, ANSWER_PAIRS))

    def rows_trained(self) -> int | None:
        """Return the most answers processed by the model; None: it depends on the number of pairs."""
        if self.examples is None:
            return None
        return 2 * max(math.ceil(self.examples * self.epochs), self.min_steps * self.batch)


def load_pairs(
    context: StageContext, source: str, start: Checkpoint, n: int | None, too_long: TooLong = "refuse"
) -> PairSet:
    """Return the pairs of a stage or a file as tokens of a model.

    Args:
        context: Context of the stage that trains on them.
        source: Name of a stage, or a path of a file of records.
        start: Model whose tokenizer is used.
        n: Number of training pairs; None: all.
        too_long: What to do with pairs that exceed the context.

    Raises:
        DataError: There are no pairs, or fewer than n, one is longer than the context, or the
            two answers are identical in every pair.
    """
    is_path = Input.stage_or_file(source, ANSWER_PAIRS).is_path
    path = Path(source) if is_path else context.paths[source] / PAIRS
    if is_path:
        rows_with_places = rows_of(path)
    else:
        rows_with_places = ((f"{path}:{number}", row) for number, row in enumerate(read_pairs(path), 1))
    rows, n_undecided, others = _decided(rows_with_places)
    pairs = [_pair(record, row, start.chat) for record, row in rows]
    if not pairs:
        left_over = f"; {others['answers_unpaired']} rated answers have no counterpart" if others else ""
        raise DataError(
            f"no pair is decided; {n_undecided} are undecided{left_over}",
            where=str(path),
            fix="collect more comparisons, or use a judge with fewer ties"
            if not others
            else "give good and bad answers (label true and false) to the same prompts",
        )
    n_equal = _count_equal(pairs, path)
    if too_long == "refuse":
        refuse_too_long([_length(pair) for pair in pairs], "pairs", start.seq_len, str(path))
    different = [pair for pair in pairs if pair.chosen != pair.rejected]
    fitting, counts = fit_pairs(different, start.seq_len, too_long)
    if not fitting:
        raise all_dropped(len(different), "pairs", start.seq_len, str(path))
    held = [drawn_share("held out " + repr(pair.messages), 0) < HELD_OUT for pair in fitting]
    train = [pair for pair, is_held in zip(fitting, held, strict=True) if not is_held]
    held_out = [pair for pair, is_held in zip(fitting, held, strict=True) if is_held]
    if not train or (n is not None and len(train) < n):
        raise DataError(
            f"the stage needs {n or 1} training pairs; there are {len(train)} and {len(held_out)} held out",
            where=str(path),
            fix="lower examples, or collect more comparisons",
        )
    return PairSet(train[:n], held_out, n_undecided, n_equal, counts.metrics("pairs", too_long) | others)


def fit_pairs(pairs: Sequence[Pair], seq_len: int, too_long: TooLong) -> tuple[list[Pair], TooLongCounts]:
    """Return pairs without those that exceed the context, or with their answers cut, and counts.

    A pair whose cut answers are empty or equal carries no preference and is left out.
    """
    kept: list[Pair] = []
    n_truncated = 0
    for pair in pairs:
        if _length(pair) > seq_len + 1:
            room = max(0, seq_len + 1 - len(pair.prompt))
            cut = replace(pair, chosen=pair.chosen[:room], rejected=pair.rejected[:room])
            if too_long == "drop" or cut.chosen == cut.rejected:
                continue
            pair = cut
            n_truncated += 1
        kept.append(pair)
    return kept, TooLongCounts(len(pairs) - len(kept), n_truncated)


def full_sequences(pairs: Sequence[Pair]) -> list[tuple[int, ...]]:
    """Return each prompt with its chosen answer, then each prompt with its rejected answer."""
    return [(*p.prompt, *p.chosen) for p in pairs] + [(*p.prompt, *p.rejected) for p in pairs]


def _length(pair: Pair) -> int:
    return len(pair.prompt) + max(len(pair.chosen), len(pair.rejected))


def _decided(
    rows: Iterable[tuple[str, Mapping[str, Any]]],
) -> tuple[list[tuple[PreferenceRecord, Mapping[str, Any]]], int, dict[str, int]]:
    """Return the decided preferences with their rows, the number of undecided ones, and other counts."""
    decided = []
    n_undecided = 0
    for where, row in rows:
        if not _is_decided(row.get("verdict", 1.0), where):
            n_undecided += 1
        else:
            decided.append((where, row))
    if decided and all("written" in row for _, row in decided):
        # Answers that a model generated: they may be empty or hold any character.
        return [(_collected(row, where), row) for where, row in decided], n_undecided, {}
    records = read_records(decided, (PreferenceRecord, RatedRecord))
    if records and isinstance(records[0], RatedRecord):
        paired, n_unpaired = _paired(records)
        return [(record, {}) for record in paired], n_undecided, {"answers_unpaired": n_unpaired}
    return list(zip(records, (row for _, row in decided), strict=True)), n_undecided, {}


def _is_decided(verdict: object, where: str) -> bool:
    """Return whether a verdict prefers one of the answers; null and 0.5 do not. Raises DataError: it is no verdict."""
    if verdict is None:
        return False
    if isinstance(verdict, bool) or not isinstance(verdict, int | float) or not 0 <= verdict <= 1:
        raise DataError(
            f"the verdict is {verdict!r:.60}, not a number from 0 to 1 or null",
            where=where,
            fix="write 0.5 or null where neither answer is better; rename a field `verdict` that means something else",
        )
    return verdict != 0.5


def _collected(row: Mapping[str, Any], where: str) -> PreferenceRecord:
    """Return a row that a stage collected."""
    prompt = read_text_or_messages(row.get("prompt"), "user", f"{where}, prompt")
    chosen, rejected = row.get("chosen"), row.get("rejected")
    if not isinstance(chosen, str) or not isinstance(rejected, str):
        raise DataError(
            "the pair has no two answers",
            where=where,
            fix="give it `chosen` and `rejected`, or collect the pairs again",
        )
    return PreferenceRecord(prompt, chosen, rejected)


def _paired(records: Sequence[RatedRecord]) -> tuple[list[PreferenceRecord], int]:
    """Return good and bad answers to the same prompt as preferences, and the number of answers left over."""
    answers: dict[str, tuple[RatedRecord, tuple[list[str], list[str]]]] = {}
    for record in records:
        _, (bad, good) = answers.setdefault(repr(record.prompt), (record, ([], [])))
        (good if record.is_good else bad).append(record.answer)
    paired = [
        PreferenceRecord(first.prompt, chosen, rejected)
        for first, (bad, good) in answers.values()
        for chosen, rejected in zip(good, bad, strict=False)
    ]
    return paired, len(records) - 2 * len(paired)


def _pair(record: PreferenceRecord, row: Mapping[str, Any], chat: Chat) -> Pair:
    prompt = tuple(chat.prompt(record.prompt))
    name = chat.tokenizer.name
    if row.get("tokenizers") == [name, name]:
        one, two = (tuple(tokens) for tokens in row["written"])
        chosen, rejected = (one, two) if row["first_is_chosen"] else (two, one)
    else:
        chosen, rejected = (tuple(chat.answer(text)) for text in (record.chosen, record.rejected))
    return Pair(prompt, chosen, rejected, record.prompt, (record.chosen, record.rejected))


def _count_equal(pairs: Sequence[Pair], path: Path) -> int:
    """Return the number of pairs of identical answers. Raises DataError: all of them are."""
    same = sum(pair.chosen == pair.rejected for pair in pairs)
    if same == len(pairs):
        raise DataError(
            f"the two answers are identical in all {same} pairs",
            where=str(path),
            fix="sample the answers at a higher temperature, or from two different models",
        )
    return same
