"""The measurement `perplexity`: loss on named sets of documents, with intervals."""

from collections.abc import Iterator, Sequence
from typing import ClassVar

from scalelab.data.hashing import sha256
from scalelab.evals.documents import PerplexitySet, read
from scalelab.evals.measurements.base import Bench, Kind, Measured, Measurement, Piece
from scalelab.evals.perplexity import perplexity


class PerplexityMeasurement(Measurement):
    """Loss of each model on each set."""

    kinds: ClassVar[tuple[Kind, ...]] = (
        Kind("perplexity", "Loss on named sets", "bits_per_byte", "Bits per byte [measured]",
             lower_is_better=True),
    )  # fmt: skip
    perplexity: tuple[PerplexitySet, ...] = ()

    def names(self) -> tuple[str, ...]:
        """Of the sets."""
        return tuple(asked.name for asked in self.perplexity)

    def describe(self, bench: Bench) -> Sequence[str]:
        """See Measurement."""
        return [f"loss on: {', '.join(self.names())}"]

    def pieces(self, bench: Bench, model: str) -> Iterator[Piece]:
        """See Measurement."""
        for asked in self.perplexity:
            source = asked.source
            text = bench.model(model).corpus if source is None else source.fingerprint(sha256)
            what = ["perplexity", model, bench.digest(model), asked.model_dump_json(), text]
            yield Piece([*what, bench.file.seed], lambda asked=asked: _measure(bench, model, asked))


def _measure(bench: Bench, name: str, asked: PerplexitySet) -> list[Measured]:
    model = bench.model(name)
    if asked.source is None and model.corpus is None:
        words = f"{asked.name}: not measured, nobody wrote down which text {name} was trained on"
        return [Measured("perplexity", asked.name, name, {}, words)]
    result = perplexity(model, read(asked, model), seed=bench.file.seed)
    values: dict[str, float | None] = {}
    for what in ("nats_per_token", "perplexity", "bits_per_byte"):
        estimate = getattr(result.whole, what)
        low, high = estimate.interval or (None, None)
        values |= {what: estimate.value, f"{what}_low": low, f"{what}_high": high}
    return [Measured("perplexity", asked.name, name, values, result.summary())]
