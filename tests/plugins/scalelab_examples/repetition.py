"""A measurement of repetition: the share of n-grams that a model has just written before.

repetition: [{name: loops, prompts: ["the model"], n: 3}]
"""

from collections.abc import Iterator, Sequence
from typing import ClassVar

from pydantic import Field

from scalelab.config import Config, Count, Name
from scalelab.evals.measurements.base import Bench, Kind, Measured, Measurement, Piece


class RepetitionSpec(Config):
    """One set of prompts."""

    name: Name
    prompts: tuple[str, ...] = Field(min_length=1)
    """Texts that each model continues, the likeliest token each time."""
    n: Count = 3
    """Tokens of an n-gram."""
    n_new: Count = 32
    """Tokens of a continuation."""


class RepetitionMeasurement(Measurement):
    """Repetition of each model on each set."""

    kinds: ClassVar[tuple[Kind, ...]] = (
        Kind("repetition", "Repetition", "repeated", "Repeated n-grams [measured]",
             lower_is_better=True),
    )  # fmt: skip
    repetition: tuple[RepetitionSpec, ...] = ()

    def names(self) -> tuple[str, ...]:
        """Of the sets."""
        return tuple(asked.name for asked in self.repetition)

    def describe(self, bench: Bench) -> Sequence[str]:
        """See Measurement."""
        return [f"repetition on: {', '.join(self.names())}"]

    def pieces(self, bench: Bench, model: str) -> Iterator[Piece]:
        """See Measurement."""
        for asked in self.repetition:
            what = ["repetition", model, bench.digest(model), asked.model_dump_json()]
            yield Piece(what, lambda asked=asked: [_measure(bench, model, asked)])


def _measure(bench: Bench, name: str, asked: RepetitionSpec) -> Measured:
    model = bench.model(name)
    rows = [tokens.tolist() for tokens in model.tokenizer.encode(list(asked.prompts))]
    grams = repeated = 0
    for tokens in model.go_on(rows, n_new=asked.n_new):
        found = [tuple(tokens[i : i + asked.n]) for i in range(len(tokens) - asked.n + 1)]
        grams, repeated = grams + len(found), repeated + len(found) - len(set(found))
    share = repeated / grams if grams else 0.0
    text = f"{asked.name}: {share:.1%} of {grams} {asked.n}-grams are repeated [measured]"
    return Measured("repetition", asked.name, name, {"repeated": share, "n": grams}, text)
