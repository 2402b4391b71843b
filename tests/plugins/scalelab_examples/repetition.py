"""A measurement of repetition: the share of n-grams that a model has just written before.

repetition: [{name: loops, prompts: ["the model"], n: 3}]
"""

from collections.abc import Iterator, Sequence
from typing import ClassVar

from pydantic import Field

from scalelab.config import Config, Count, Name
from scalelab.evals.measurement import Measurement, MeasurementContext, MeasurementRow, RowKind, WorkItem


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

    kinds: ClassVar[tuple[RowKind, ...]] = (
        RowKind("repetition", "Repetition", "repeated", "Repeated n-grams [measured]", lower_is_better=True),
    )
    repetition: tuple[RepetitionSpec, ...] = ()

    def names(self) -> tuple[str, ...]:
        """Of the sets."""
        return tuple(spec.name for spec in self.repetition)

    def describe(self, context: MeasurementContext) -> Sequence[str]:
        """See Measurement."""
        return [f"repetition on: {', '.join(self.names())}"]

    def work_items(self, context: MeasurementContext, model: str) -> Iterator[WorkItem]:
        """See Measurement."""
        for spec in self.repetition:
            what = ["repetition", model, context.digest(model), spec.model_dump_json()]
            yield WorkItem(what, lambda spec=spec: [_measure(context, model, spec)])


def _measure(context: MeasurementContext, name: str, spec: RepetitionSpec) -> MeasurementRow:
    model = context.model(name)
    rows = [tokens.tolist() for tokens in model.tokenizer.encode(list(spec.prompts))]
    grams = repeated = 0
    for tokens in model.generate_tokens(rows, n_new=spec.n_new):
        found = [tuple(tokens[i : i + spec.n]) for i in range(len(tokens) - spec.n + 1)]
        grams, repeated = grams + len(found), repeated + len(found) - len(set(found))
    share = repeated / grams if grams else 0.0
    text = f"{spec.name}: {share:.1%} of {grams} {spec.n}-grams are repeated [measured]"
    return MeasurementRow("repetition", spec.name, name, {"repeated": share, "n": grams}, text)
