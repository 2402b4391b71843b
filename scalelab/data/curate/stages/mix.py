"""Mix: domains by weight, a document repeated or left out so that each domain has its share.

    mix: {weights: {manual: 0.6, forum: 0.4}, max_repeats: 4}

The corpus keeps its size where it can. A domain is repeated at most `max_repeats` times, because further
repeats teach hardly more; what that leaves open is given to the other domains by their weights. A part
of a document is never repeated: which documents are, is drawn by the hash of their names.

Source: Muennighoff et al. 2023, arXiv:2305.16264 (up to 4 repeats are nearly as good as new text).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, ClassVar, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from scalelab.config import NonNegative
from scalelab.data.curate.base import (
    Arrays,
    CurationContext,
    CurationStage,
    StageLedger,
    WebDocument,
    name_hash,
)
from scalelab.data.curate.clusters import packed, unpacked
from scalelab.data.hashing import U64, mix
from scalelab.errors import DataError


class DomainMix(CurationStage):
    """Gives each domain its share of the bytes."""

    kind: Literal["mix"] = "mix"
    """Names this stage in CURATION_STAGES."""
    observes: ClassVar[bool] = True
    weights: dict[str, NonNegative] = Field(min_length=1)
    """Weight of each domain; a domain that is not named has weight 0 and is left out."""
    max_repeats: Annotated[float, Field(strict=True, ge=1, le=100)] = 4.0
    """Times that a document is used at most."""

    @model_validator(mode="after")
    def _some_weight_is_positive(self) -> Self:
        if not any(self.weights.values()):
            raise ValueError("every weight is 0: give at least one domain a positive weight")
        return self

    def observe(self, documents: Iterator[WebDocument], context: CurationContext) -> Arrays:
        """Bytes of each domain."""
        del context
        found: dict[str, int] = {}
        for document in documents:
            found[document.domain] = found.get(document.domain, 0) + document.n_bytes
        return {"names": packed(list(found)), "bytes": np.array(list(found.values()), np.int64)}

    def decide(self, observations: Sequence[Arrays], context: CurationContext) -> Arrays:
        """Return how often each domain is used."""
        there: dict[str, int] = {}
        for each in observations:
            for name, size in zip(
                unpacked([each["names"]], [len(each["bytes"])]), each["bytes"], strict=True
            ):
                there[name] = there.get(name, 0) + int(size)
        missing = sorted(name for name, weight in self.weights.items() if weight and not there.get(name))
        if missing and not context.is_sample:
            raise DataError(
                f"the domain {missing[0]!r} has no documents",
                where="stages: mix.weights",
                fix=f"use domains that are there: {', '.join(sorted(there))[:300]}",
            )
        times = repeats(self.weights, there, self.max_repeats)
        total = sum(times[name] * size for name, size in there.items())
        context.shown["times used"] = {name: times[name] for name in sorted(there)}
        if total:
            context.shown["share of the bytes"] = {n: times[n] * there[n] / total for n in sorted(there)}
        names = sorted(there)
        return {"names": packed(names), "times": np.array([times[name] for name in names])}

    def apply(
        self, documents: Iterator[WebDocument], decision: Arrays, ledger: StageLedger
    ) -> Iterator[WebDocument]:
        """Yield each document as often as its domain is used."""
        times = dict(
            zip(unpacked([decision["names"]], [len(decision["times"])]), decision["times"], strict=True)
        )
        for document in documents:
            wanted = float(times[document.domain])
            drawn = int(mix(np.array([name_hash(document)], U64))[0]) / 2**64
            n = int(wanted) + (drawn < wanted - int(wanted))
            if n == 0:
                ledger.reject(document, f"domain {document.domain} has its share")
            for i in range(n):
                yield document if i == 0 else replace(document, name=f"{document.name}#{i + 1}")
            ledger.count("repeats", max(0, n - 1))


def repeats(weights: Mapping[str, float], there: Mapping[str, int], most: float) -> dict[str, float]:
    """Return how often each domain is used, so that its share of the bytes is its weight.

    Args:
        weights: Weight of each domain.
        there: Bytes of each domain.
        most: Times at most.
    """
    total = float(sum(there.values()))
    times = {name: 0.0 for name in there}
    free = {name for name in there if weights.get(name, 0.0) > 0}
    left = total
    while free:
        scale = left / sum(weights[name] for name in free)
        full = {name for name in free if scale * weights[name] / there[name] > most}
        if not full:
            return times | {name: scale * weights[name] / there[name] for name in free}
        for name in full:
            times[name] = most
            left -= most * there[name]
        free -= full
    return times
