"""The measurement `perplexity`: loss on named sets of documents, with intervals."""

from collections.abc import Iterator, Sequence
from typing import ClassVar

from scalelab.data.hashing import sha256
from scalelab.evals.loss.document_sets import PerplexitySet, read_documents
from scalelab.evals.loss.perplexity import perplexity
from scalelab.evals.measurement import Measurement, MeasurementContext, MeasurementRow, RowKind, WorkItem


class PerplexityMeasurement(Measurement):
    """Loss of each model on each document set."""

    kinds: ClassVar[tuple[RowKind, ...]] = (
        RowKind(
            "perplexity",
            "Loss on named sets",
            "bits_per_byte",
            "Bits per byte [measured]",
            lower_is_better=True,
        ),
    )
    perplexity: tuple[PerplexitySet, ...] = ()

    def names(self) -> tuple[str, ...]:
        """Return the names of the sets."""
        return tuple(spec.name for spec in self.perplexity)

    def describe(self, context: MeasurementContext) -> Sequence[str]:
        """See Measurement."""
        return [f"loss on: {', '.join(self.names())}"]

    def work_items(self, context: MeasurementContext, model: str) -> Iterator[WorkItem]:
        """See Measurement."""
        for spec in self.perplexity:
            source = spec.source
            text = context.model(model).corpus if source is None else source.fingerprint(sha256)
            what = ["perplexity", model, context.digest(model), spec.model_dump_json(), text]
            yield WorkItem([*what, context.file.seed], lambda spec=spec: _measure(context, model, spec))


def _measure(context: MeasurementContext, name: str, spec: PerplexitySet) -> list[MeasurementRow]:
    model = context.model(name)
    if spec.source is None and model.corpus is None:
        words = f"{spec.name}: not measured, the training corpus of {name} is not recorded"
        return [MeasurementRow("perplexity", spec.name, name, {}, words)]
    result = perplexity(model, read_documents(spec, model), seed=context.file.seed)
    values: dict[str, float | None] = {}
    for what in ("nats_per_token", "perplexity", "bits_per_byte"):
        estimate = getattr(result.whole, what)
        low, high = estimate.interval or (None, None)
        values |= {what: estimate.value, f"{what}_low": low, f"{what}_high": high}
    return [MeasurementRow("perplexity", spec.name, name, values, result.summary())]
