"""Scores of one model on one task, each a mean over rows with its 95% interval.

    accuracy          the likeliest answer is the right one
    accuracy_chars    nats divided by the characters of the answer; lm-eval calls it acc_norm
    accuracy_bytes    nats divided by its UTF-8 bytes
    above_chance      (accuracy - chance) / (1 - chance); below chance it is negative, uncut
    loss_per_token    -log p of the right answer / its tokens, nats, mean over rows
    loss_per_byte     -log p of the right answer / its bytes, nats, mean over rows
    probability       of the right answer among the choices, mean over rows

The same model scores otherwise in another mode or under another template: `side_by_side` says by
how much, row by row.

Source: interval of a share, Wilson 1927, J. Am. Stat. Assoc. 22; means and paired differences,
percentile bootstrap over rows, Efron 1979, Ann. Stat. 7; normalisations as in lm-eval 0.4.13,
api/task.py.
Not here: how the model was asked (harness.py), what was asked (choice.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, NoReturn

import numpy as np

from scalelab.errors import DataError
from scalelab.evals.harness import Conditions, Sample, TaskResult

Array = np.ndarray
REPLICATES, AT_ONCE = 2000, 100
Z95 = 1.959964


@dataclass(frozen=True)
class Estimate:
    """A mean over rows with its 95% interval. Status: measured."""

    value: float
    standard_error: float
    """Standard deviation of the rows / sqrt(n); nan where there is one row."""
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def share(values: Array) -> Estimate:
    """The share of rows that are true, with Wilson's interval: it has a width at 0 and 1 too."""
    n, p = len(values), float(np.mean(values))
    middle = (p + Z95**2 / (2 * n)) / (1 + Z95**2 / n)
    half = Z95 / (1 + Z95**2 / n) * np.sqrt(p * (1 - p) / n + Z95**2 / (4 * n**2))
    return Estimate(p, _standard_error(values), float(middle - half), float(middle + half), n)


def mean(values: Array, seed: int = 0) -> Estimate:
    """The mean of rows, with the percentile interval of a bootstrap over them."""
    n = len(values)
    different, count = np.unique(values, return_counts=True)
    rng = np.random.default_rng(seed)
    drawn = np.concatenate(
        [
            rng.multinomial(n, count / n, AT_ONCE) @ different / n
            for _ in range(REPLICATES // AT_ONCE)
        ]
    )
    low, high = np.percentile(drawn, (2.5, 97.5))
    return Estimate(float(np.mean(values)), _standard_error(values), float(low), float(high), n)


def _standard_error(values: Array) -> float:
    n = len(values)
    return float(np.std(values, ddof=1) / np.sqrt(n)) if n > 1 else float("nan")


@dataclass(frozen=True, eq=False)
class ChoiceScore:
    """One task in one mode. Arrays have one entry a row, in the order of `keys`."""

    task: str
    mode: str
    template: str
    conditions: Conditions
    keys: tuple[str, ...]
    gold: Array
    logprobs: tuple[Array, ...]
    """Of each choice of each row, nats."""
    n_chars: tuple[Array, ...]
    n_bytes: tuple[Array, ...]
    n_tokens: tuple[Array, ...]
    group: str = ""
    """What scores of the same rows in other modes and ways have too."""

    @property
    def chance(self) -> float:
        """Accuracy of a guess: the mean over rows of 1 / choices."""
        return float(np.mean([1 / len(nats) for nats in self.logprobs]))

    def values(self) -> dict[str, float]:
        """Its numbers by name."""
        others = {"accuracy_chars": self.accuracy_chars, "accuracy_bytes": self.accuracy_bytes}
        return _accuracy(self.accuracy) | {
            "above_chance": self.above_chance.value,
            "loss_per_token": self.loss_per_token.value,
            "loss_per_byte": self.loss_per_byte.value,
            "probability": self.probability.value,
            **{name: one.value for name, one in others.items() if one is not None},
        }

    def nats_gap(self, other: "ChoiceScore") -> float:
        """The largest difference between two routes to the same log-probability."""
        pairs = zip(self.logprobs, other.logprobs, strict=True)
        return max(float(np.abs(ours - theirs).max()) for ours, theirs in pairs)

    @cached_property
    def is_right(self) -> Array:
        """Whether the likeliest choice of each row is the right one; of equals, the first."""
        return self._right([np.ones(len(nats)) for nats in self.logprobs])

    @cached_property
    def accuracy(self) -> Estimate:
        """By the likelihood of the choice."""
        return share(self.is_right)

    @cached_property
    def accuracy_chars(self) -> Estimate | None:
        """By the likelihood per character; None for letters, which are all as long."""
        return None if self.mode == "letter" else share(self._right(self.n_chars))

    @cached_property
    def accuracy_bytes(self) -> Estimate | None:
        """By the likelihood per byte; None for letters."""
        return None if self.mode == "letter" else share(self._right(self.n_bytes))

    @cached_property
    def above_chance(self) -> Estimate:
        """Accuracy on a scale on which a guess has 0 and all right has 1."""
        a, c = self.accuracy, self.chance
        scaled = ((x - c) / (1 - c) for x in (a.value, a.low, a.high))
        value, low, high = scaled
        return Estimate(value, a.standard_error / (1 - c), low, high, a.n)

    @cached_property
    def loss_per_token(self) -> Estimate:
        """Of the right answer, nats."""
        return mean(-self._of_gold(self.logprobs) / self._of_gold(self.n_tokens))

    @cached_property
    def loss_per_byte(self) -> Estimate:
        """Of the right answer, nats. The space before it is weighed and not counted."""
        return mean(-self._of_gold(self.logprobs) / self._of_gold(self.n_bytes))

    @cached_property
    def probability(self) -> Estimate:
        """Of the right answer among the choices."""
        shares = [np.exp(nats - nats.max()) for nats in self.logprobs]
        return mean(self._of_gold([s / s.sum() for s in shares]))

    def _right(self, sizes: Sequence[Array]) -> Array:
        per = zip(self.logprobs, sizes, self.gold, strict=True)
        return np.array([int(np.argmax(nats / size)) == gold for nats, size, gold in per])

    def _of_gold(self, values: Sequence[Array]) -> Array:
        return np.array([v[g] for v, g in zip(values, self.gold, strict=True)], float)

    @property
    def text(self) -> str:
        """The score in lines for eyes."""
        by_length = (
            f"  by characters {self.accuracy_chars}, by bytes {self.accuracy_bytes}\n"
            if self.mode != "letter"
            else ""
        )
        return (
            f"{self.task}, {self.mode}: accuracy {self.accuracy} measured on {self.accuracy.n} "
            f"rows, chance {self.chance:.3f}\n"
            f"{by_length}"
            f"  above chance {self.above_chance}; right answer: {self.loss_per_token} nats per "
            f"token, {self.loss_per_byte} per byte, probability {self.probability}\n"
            f"  {under(self.conditions)}, template {self.template!r}"
        )


@dataclass(frozen=True, eq=False)
class GenerationScore:
    """Answers that the model wrote."""

    task: str
    template: str
    conditions: Conditions
    keys: tuple[str, ...]
    is_right: Array
    written: tuple[str, ...]
    mode: str = "written"
    group: str = ""
    chance: ClassVar[None] = None
    """Nobody writes the right answer by chance."""

    def values(self) -> dict[str, float]:
        """Its numbers by name."""
        return _accuracy(self.accuracy)

    def nats_gap(self, other: "GenerationScore") -> None:
        """None: what was written has no log-probability here."""

    @cached_property
    def accuracy(self) -> Estimate:
        """Share of rows whose answer equals an accepted one after normalisation."""
        return share(self.is_right)

    @property
    def text(self) -> str:
        """The score in lines for eyes."""
        return (
            f"{self.task}, written: exact match {self.accuracy} measured on "
            f"{self.accuracy.n} rows\n"
            f"  {under(self.conditions)}, template {self.template!r}"
        )


Score = ChoiceScore | GenerationScore


def _accuracy(found: Estimate) -> dict[str, float]:
    return {"accuracy": found.value, "accuracy_low": found.low, "accuracy_high": found.high}


def under(conditions: Conditions) -> str:
    """Conditions as one line, cut tokens included where there were any."""
    cut = ""
    if conditions.n_truncated:
        cut = (
            f", {conditions.n_tokens_cut} tokens cut on the left of {conditions.n_truncated} "
            "requests that were longer than the context"
        )
    limit = "" if conditions.limit is None else f", first {conditions.limit} rows only"
    return (
        f"{conditions.shots} shots (seed {conditions.shot_seed}), read after {conditions.prefix}, "
        f"{'conversation' if conditions.chat else 'plain text'}{limit}, {conditions.route}, "
        f"lm-eval {conditions.harness}{cut}"
    )


def score(result: TaskResult, mode: str, template: str, group: str | None = None) -> Score:
    """What lm-eval logged of a task, as a score.

    Args:
        result: Of one task.
        mode: How it was asked.
        template: What was read before an answer.
        group: What scores of the same rows have too; None: the task's name.

    Raises:
        DataError: The task neither weighs answers nor compares what was written.
    """
    samples, group = result.samples, group or result.task
    keys = tuple(sample.key for sample in samples)
    if all(sample.written is not None for sample in samples) and "exact_match" in result.metrics:
        is_right = np.array([s.metrics["exact_match"] > 0 for s in samples])
        written = tuple(str(sample.written) for sample in samples)
        return GenerationScore(
            result.task, template, result.conditions, keys, is_right, written, group=group
        )
    if any(len(sample.answers) < 2 for sample in samples):
        raise DataError(
            "the task does not choose among answers, so it has no accuracy over chance",
            where=f"task {result.task}",
            fix="read its own numbers in the result's metrics",
        )
    answers = [sample.answers for sample in samples]
    return ChoiceScore(
        task=result.task,
        mode=mode,
        template=template,
        conditions=result.conditions,
        keys=keys,
        gold=np.array([_gold(sample) for sample in samples]),
        logprobs=tuple(np.array(sample.logprobs) for sample in samples),
        n_chars=tuple(np.array([len(a) for a in some]) for some in answers),
        n_bytes=tuple(np.array([len(a.encode()) for a in some]) for some in answers),
        n_tokens=tuple(np.array(sample.n_tokens) for sample in samples),
        group=group,
    )


def _gold(sample: Sample) -> int:
    """Place of the right answer, which lm-eval lets a task give as a place or as a text."""
    return int(sample.target) if not isinstance(sample.target, str) else (
        sample.answers.index(sample.target)
    )  # fmt: skip


@dataclass(frozen=True)
class Comparison:
    """The same rows asked of the same model in two ways. Status: measured."""

    first: str
    second: str
    differs: tuple[str, ...]
    """What the two ways do not share."""
    accuracy_first: Estimate
    accuracy_second: Estimate
    difference: Estimate
    """Second minus first, paired by row."""
    n_otherwise: int
    """Rows that are right one way only."""

    @property
    def text(self) -> str:
        """The comparison in two lines for eyes."""
        d = self.difference
        verdict = "differ" if d.low > 0 or d.high < 0 else "cannot be told apart"
        return (
            f"{self.first} {self.accuracy_first} | {self.second} {self.accuracy_second}\n"
            f"  difference {d.value:+.3f} [{d.low:+.3f}, {d.high:+.3f}] over {d.n} rows "
            f"({self.n_otherwise} right one way only): they {verdict}; "
            f"other: {', '.join(self.differs)}"
        )


def side_by_side(scores: Sequence[Score]) -> list[Comparison]:
    """Every score beside the first, paired by row.

    Raises:
        DataError: Fewer than two scores, of different models or different rows, or two that
            were taken in the same way.
    """
    if len(scores) < 2:
        _refuse_pair("one score has nothing to stand beside", "give two of the same model")
    found = []
    first = scores[0]
    for second in scores[1:]:
        if first.conditions.digest != second.conditions.digest or (
            first.conditions.digest is None and first.conditions.model != second.conditions.model
        ):
            _refuse_pair(
                f"two models: {first.conditions.model} and {second.conditions.model}",
                "compare models on one task and mode; here one model is compared with itself",
            )
        if sorted(first.keys) != sorted(second.keys):
            _refuse_pair(
                f"{first.task} and {second.task} did not ask the same rows",
                "ask the same file with the same limit",
            )
        differs = _differing(first, second)
        if not differs:
            _refuse_pair(
                f"{first.task} was asked twice in the same way",
                "change the mode, the template, the shots, the prefix or the chat",
            )
        a, b = (
            s.is_right[np.argsort(s.keys, kind="stable")].astype(float) for s in (first, second)
        )
        found.append(
            Comparison(
                first=_called(first),
                second=_called(second),
                differs=differs,
                accuracy_first=first.accuracy,
                accuracy_second=second.accuracy,
                difference=mean(b - a),
                n_otherwise=int(np.sum(a != b)),
            )
        )
    return found


def _differing(first: Score, second: Score) -> tuple[str, ...]:
    found = [name for name in ("mode", "template") if getattr(first, name) != getattr(second, name)]
    for name in ("prefix", "chat", "shots", "shot_seed", "route"):
        if getattr(first.conditions, name) != getattr(second.conditions, name):
            found.append(name)
    return tuple(found)


def _called(score: Score) -> str:
    c = score.conditions
    chat = ", chat" if c.chat else ""
    return f"{score.task} ({score.mode}, {c.shots} shots, after {c.prefix}{chat})"


def _refuse_pair(problem: str, fix: str) -> NoReturn:
    raise DataError(problem, where="the scores to be set side by side", fix=fix)
