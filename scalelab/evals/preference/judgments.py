"""Judged pairs of answers of one model and one baseline, and the prompts behind them.

Not here: judges (judges/), statistics of the pairs (pairwise.py).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from scalelab.errors import DataError

Array = np.ndarray

CHUNK = 200_000  # numbers in one array while replicates are fitted: 1.6 MB stays in the cache


@dataclass(frozen=True, eq=False)
class Judgments:
    """Judged pairs of answers, one from the model and one from the baseline; arrays (n,)."""

    model: str
    baseline: str
    prompt: Array
    """Number of the prompt of each pair; a prompt may have several pairs."""
    verdict: Array
    """1 the model's answer is preferred, 0 the baseline's, .5 a tie; or a probability."""
    length: Array | None = None
    """Length of the model's answers in `length_unit`; None if length is not used."""
    baseline_length: Array | None = None
    swapped: Array | None = None
    """Verdict with the answers in the other order, again 1 for the model. If given, `verdict` is for the
    model's answer in first position."""
    length_unit: str = "characters"

    def __post_init__(self) -> None:
        given = [self.verdict, self.length, self.baseline_length, self.swapped]
        shapes = [np.shape(self.prompt)] + [np.shape(each) for each in given if each is not None]
        if len(set(shapes)) > 1 or len(shapes[0]) != 1:
            self._refuse(f"arrays of shapes {sorted(set(shapes))}", "give one value per pair")
        if len(np.unique(self.prompt)) < 2:
            self._refuse(
                f"{len(np.unique(self.prompt))} prompt(s); an interval needs at least two",
                "judge answers to at least two prompts, preferably hundreds",
            )
        for name in ("verdict", "swapped"):
            value = getattr(self, name)
            if value is not None:
                self._refuse_rows(
                    name,
                    ~((value >= 0) & (value <= 1)),  # NaN is wrong too
                    "1: the model, 0: the baseline, .5: a tie (AlpacaEval's preference minus 1); "
                    "leave out, and report, pairs without a verdict",
                )
        if (self.length is None) != (self.baseline_length is None):
            self._refuse("lengths of one side only", "give both lengths, or neither")
        for name in ("length", "baseline_length"):
            value = getattr(self, name)
            if value is not None:
                wrong = ~((value >= 0) & (value < np.inf))
                self._refuse_rows(name, wrong, f"a count of {self.length_unit}, 0 or more")

    def _refuse_rows(self, name: str, wrong: Array, fix: str) -> None:
        if np.any(wrong):
            row = int(np.argmax(wrong))
            self._refuse(
                f"{int(np.sum(wrong))} {name}(s) out of range; pair {row} has {getattr(self, name)[row]}", fix
            )

    def _refuse(self, problem: str, fix: str) -> None:
        where = f"the judged pairs of {self.model} against {self.baseline}"
        raise DataError(problem, where=where, fix=fix)

    def __len__(self) -> int:
        return len(self.verdict)

    @property
    def preference(self) -> Array:
        """Verdict for the model, averaged over both orders if both were judged; (n,)."""
        verdict = np.asarray(self.verdict, float)
        return verdict if self.swapped is None else (verdict + self.swapped) / 2


@dataclass(frozen=True, eq=False)
class PromptSample:
    """Prompt and weight of each pair."""

    index: Array
    """Index of each pair's prompt among the sorted prompts; (n,)."""
    n_prompts: int
    weight: Array
    """One over the number of pairs of its prompt; sums to n_prompts; (n,)."""

    @classmethod
    def of(cls, judgments: Judgments) -> "PromptSample":
        """Return the prompts of judged pairs."""
        _, index, pairs = np.unique(judgments.prompt, return_inverse=True, return_counts=True)
        return cls(index, len(pairs), 1 / pairs[index])

    def by_prompt(self, value: Array) -> Array:
        """Return the mean of a value (n,) over the pairs of each prompt, (n_prompts,)."""
        return np.bincount(self.index, self.weight * value, self.n_prompts)

    def mean(self, value: Array) -> float:
        """Return the mean over prompts of a value (n,)."""
        return float(np.mean(self.by_prompt(value)))

    def replicates(self, n: int, seed: int) -> Iterator[Array]:
        """Yield the count of each prompt in each bootstrap replicate, (rows, n_prompts), in chunks."""
        rng = np.random.default_rng(seed)
        k = self.n_prompts
        rows = max(1, CHUNK // len(self.index))
        for begin in range(0, n, rows):
            size = min(rows, n - begin)
            chosen = rng.integers(k, size=(size, k)) + k * np.arange(size)[:, None]
            yield np.bincount(chosen.ravel(), minlength=size * k).reshape(size, k)
