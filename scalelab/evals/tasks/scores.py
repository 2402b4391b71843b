"""Scores of one model on one task, each a mean over rows with its 95% interval.

    accuracy          share of rows whose most likely answer is correct
    accuracy_chars    nats divided by the characters of the answer; lm-eval calls it acc_norm
    accuracy_bytes    nats divided by its UTF-8 bytes
    above_chance      (accuracy - chance) / (1 - chance); negative below chance
    loss_per_token    -log p of the right answer / its tokens, nats, mean over rows
    loss_per_byte     -log p of the right answer / its bytes, nats, mean over rows
    probability       of the right answer among the choices, mean over rows

A model's score depends on mode and template: `side_by_side` compares them, paired by row.

Source: interval of a share, Wilson 1927, J. Am. Stat. Assoc. 22; means and paired differences,
percentile bootstrap over rows, Efron 1979, Ann. Stat. 7; normalisations as in lm-eval 0.4.13,
api/task.py.
Not here: the call to lm-eval (harness.py), the questions (multiple_choice.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, NoReturn

import numpy as np

from scalelab.errors import DataError
from scalelab.evals.tasks.harness import EvalConditions, TaskResult, TaskSample

Array = np.ndarray
REPLICATES, AT_ONCE = 2000, 100
Z95 = 1.959964


@dataclass(frozen=True)
class ScoreEstimate:
    """A mean over rows with its 95% interval (measured)."""

    value: float
    standard_error: float
    """Standard deviation of the rows / sqrt(n); nan for a single row."""
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def share(values: Array) -> ScoreEstimate:
    """Return the share of true rows with Wilson's interval, which has a width at 0 and 1 too."""
    n, p = len(values), float(np.mean(values))
    middle = (p + Z95**2 / (2 * n)) / (1 + Z95**2 / n)
    half = Z95 / (1 + Z95**2 / n) * np.sqrt(p * (1 - p) / n + Z95**2 / (4 * n**2))
    return ScoreEstimate(p, _standard_error(values), float(middle - half), float(middle + half), n)


def mean(values: Array, seed: int = 0) -> ScoreEstimate:
    """Return the mean of rows with a percentile bootstrap interval."""
    n = len(values)
    different, count = np.unique(values, return_counts=True)
    rng = np.random.default_rng(seed)
    drawn = np.concatenate(
        [rng.multinomial(n, count / n, AT_ONCE) @ different / n for _ in range(REPLICATES // AT_ONCE)]
    )
    low, high = np.percentile(drawn, (2.5, 97.5))
    return ScoreEstimate(float(np.mean(values)), _standard_error(values), float(low), float(high), n)


def _standard_error(values: Array) -> float:
    n = len(values)
    return float(np.std(values, ddof=1) / np.sqrt(n)) if n > 1 else float("nan")


@dataclass(frozen=True, eq=False)
class ChoiceScore:
    """One task in one mode. Arrays have one entry per row, in the order of `keys`."""

    task: str
    mode: str
    template: str
    conditions: EvalConditions
    keys: tuple[str, ...]
    gold: Array
    logprobs: tuple[Array, ...]
    """Log-probability of each choice of each row, nats."""
    n_chars: tuple[Array, ...]
    n_bytes: tuple[Array, ...]
    n_tokens: tuple[Array, ...]
    group: str = ""
    """Name shared by scores of the same rows in other modes."""

    @property
    def chance(self) -> float:
        """Accuracy of guessing: the mean over rows of 1 / choices."""
        return float(np.mean([1 / len(nats) for nats in self.logprobs]))

    def values(self) -> dict[str, float]:
        """Return the values by name."""
        others = {"accuracy_chars": self.accuracy_chars, "accuracy_bytes": self.accuracy_bytes}
        return _accuracy(self.accuracy) | {
            "above_chance": self.above_chance.value,
            "loss_per_token": self.loss_per_token.value,
            "loss_per_byte": self.loss_per_byte.value,
            "probability": self.probability.value,
            **{name: one.value for name, one in others.items() if one is not None},
        }

    def nats_gap(self, other: "ChoiceScore") -> float:
        """Return the largest difference from log-probabilities computed by another route, nats."""
        pairs = zip(self.logprobs, other.logprobs, strict=True)
        return max(float(np.abs(ours - theirs).max()) for ours, theirs in pairs)

    @cached_property
    def is_right(self) -> Array:
        """Whether the most likely choice of each row is correct; ties go to the first."""
        return self._right([np.ones(len(nats)) for nats in self.logprobs])

    @cached_property
    def accuracy(self) -> ScoreEstimate:
        """Accuracy by the likelihood of the choice."""
        return share(self.is_right)

    @cached_property
    def accuracy_chars(self) -> ScoreEstimate | None:
        """Accuracy by the likelihood per character; None for letters."""
        return None if self.mode == "letter" else share(self._right(self.n_chars))

    @cached_property
    def accuracy_bytes(self) -> ScoreEstimate | None:
        """Accuracy by the likelihood per byte; None for letters."""
        return None if self.mode == "letter" else share(self._right(self.n_bytes))

    @cached_property
    def above_chance(self) -> ScoreEstimate:
        """Accuracy scaled so that guessing is 0 and perfect is 1."""
        a, c = self.accuracy, self.chance
        scaled = ((x - c) / (1 - c) for x in (a.value, a.low, a.high))
        value, low, high = scaled
        return ScoreEstimate(value, a.standard_error / (1 - c), low, high, a.n)

    @cached_property
    def loss_per_token(self) -> ScoreEstimate:
        """Loss of the correct answer, nats per token."""
        return mean(-self._of_gold(self.logprobs) / self._of_gold(self.n_tokens))

    @cached_property
    def loss_per_byte(self) -> ScoreEstimate:
        """Loss of the correct answer, nats per byte. Its leading space adds nats but no byte."""
        return mean(-self._of_gold(self.logprobs) / self._of_gold(self.n_bytes))

    @cached_property
    def probability(self) -> ScoreEstimate:
        """Probability of the correct answer among the choices."""
        shares = [np.exp(nats - nats.max()) for nats in self.logprobs]
        return mean(self._of_gold([s / s.sum() for s in shares]))

    def _right(self, sizes: Sequence[Array]) -> Array:
        per = zip(self.logprobs, sizes, self.gold, strict=True)
        return np.array([int(np.argmax(nats / size)) == gold for nats, size, gold in per])

    def _of_gold(self, values: Sequence[Array]) -> Array:
        return np.array([v[g] for v, g in zip(values, self.gold, strict=True)], float)

    @property
    def text(self) -> str:
        """The score as text."""
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
            f"  {conditions_text(self.conditions)}, template {self.template!r}"
        )


@dataclass(frozen=True, eq=False)
class GenerationScore:
    """Score of generated answers."""

    task: str
    template: str
    conditions: EvalConditions
    keys: tuple[str, ...]
    is_right: Array
    written: tuple[str, ...]
    mode: str = "written"
    group: str = ""
    chance: ClassVar[None] = None
    """None: guessing does not apply to generated answers."""

    def values(self) -> dict[str, float]:
        """Return the values by name."""
        return _accuracy(self.accuracy)

    def nats_gap(self, other: "GenerationScore") -> None:
        """Return None: generated answers have no log-probability."""

    @cached_property
    def accuracy(self) -> ScoreEstimate:
        """Share of rows whose answer equals an accepted one after normalisation."""
        return share(self.is_right)

    @property
    def text(self) -> str:
        """The score as text."""
        return (
            f"{self.task}, written: exact match {self.accuracy} measured on "
            f"{self.accuracy.n} rows\n"
            f"  {conditions_text(self.conditions)}, template {self.template!r}"
        )


Score = ChoiceScore | GenerationScore


def _accuracy(found: ScoreEstimate) -> dict[str, float]:
    return {"accuracy": found.value, "accuracy_low": found.low, "accuracy_high": found.high}


def conditions_text(conditions: EvalConditions) -> str:
    """Return the conditions as one line, including truncation."""
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
    """Return a result of lm-eval as a score.

    Args:
        result: Result of one task.
        mode: Mode of the task.
        template: Text before an answer.
        group: Name shared by scores of the same rows; None: the task's name.

    Raises:
        DataError: The task is neither multiple choice nor exact match.
    """
    samples, group = result.samples, group or result.task
    keys = tuple(sample.key for sample in samples)
    if all(sample.written is not None for sample in samples) and "exact_match" in result.metrics:
        is_right = np.array([s.metrics["exact_match"] > 0 for s in samples])
        written = tuple(str(sample.written) for sample in samples)
        return GenerationScore(result.task, template, result.conditions, keys, is_right, written, group=group)
    if any(len(sample.answers) < 2 for sample in samples):
        raise DataError(
            "the task does not choose among answers, so it has no accuracy over chance",
            where=f"task {result.task}",
            fix="read lm-eval's metrics in the result",
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


def _gold(sample: TaskSample) -> int:
    """Return the index of the correct answer, which lm-eval stores as an index or a text."""
    return int(sample.target) if not isinstance(sample.target, str) else (sample.answers.index(sample.target))


@dataclass(frozen=True)
class ModeComparison:
    """Scores of one model on the same rows under two conditions (measured)."""

    first: str
    second: str
    differs: tuple[str, ...]
    """Conditions that differ."""
    accuracy_first: ScoreEstimate
    accuracy_second: ScoreEstimate
    difference: ScoreEstimate
    """Second minus first, paired by row."""
    n_one_way_only: int
    """Rows that are correct under only one of the conditions."""

    @property
    def text(self) -> str:
        """The comparison as two lines of text."""
        d = self.difference
        verdict = "differ" if d.low > 0 or d.high < 0 else "are not significantly different"
        return (
            f"{self.first} {self.accuracy_first} | {self.second} {self.accuracy_second}\n"
            f"  difference {d.value:+.3f} [{d.low:+.3f}, {d.high:+.3f}] over {d.n} rows "
            f"({self.n_one_way_only} right one way only): they {verdict}; "
            f"other: {', '.join(self.differs)}"
        )


def side_by_side(scores: Sequence[Score]) -> list[ModeComparison]:
    """Return comparisons of every score with the first, paired by row.

    Raises:
        DataError: Fewer than two scores, or different models, different rows or identical conditions.
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
        a, b = (s.is_right[np.argsort(s.keys, kind="stable")].astype(float) for s in (first, second))
        found.append(
            ModeComparison(
                first=_called(first),
                second=_called(second),
                differs=differs,
                accuracy_first=first.accuracy,
                accuracy_second=second.accuracy,
                difference=mean(b - a),
                n_one_way_only=int(np.sum(a != b)),
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
