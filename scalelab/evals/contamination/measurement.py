"""The measurement `contamination`: whether test items were trained on.

Not here: the statistics (evals/contamination/order_test.py, overlap.py).
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar, Literal

from scalelab.config import Config, Count, Name
from scalelab.data.corpus.shards import open_corpus
from scalelab.data.files.records import rows_of
from scalelab.errors import DataError
from scalelab.evals.contamination.order_test import order_test
from scalelab.evals.contamination.overlap import overlap
from scalelab.evals.measurement import Measurement, MeasurementContext, MeasurementRow, RowKind, WorkItem


class ContaminationSpec(Config):
    """Test items to look for in the training data."""

    name: Name
    rows: str
    """A file of records (.jsonl, .json, .csv, .tsv, .parquet) with the items in their published order."""
    field: str
    """Field of a record with the text of the item."""
    shards: Count = 20
    permutations: Count = 30
    control: tuple[Count, ...] = (1, 2, 4, 8, 16)
    """Passes over the items after which the positive control is tested; [] for no control."""
    n: Count = 13
    """Length of the n-grams searched for in the training text, in `unit`."""
    unit: Literal["tokens", "words"] = "tokens"


class ContaminationMeasurement(Measurement):
    """Order test and n-gram overlap of each set, for each model."""

    kinds: ClassVar[tuple[RowKind, ...]] = (RowKind("contamination", "Contamination"),)
    contamination: tuple[ContaminationSpec, ...] = ()

    def names(self) -> tuple[str, ...]:
        """Return the names of the sets."""
        return tuple(spec.name for spec in self.contamination)

    def describe(self, context: MeasurementContext) -> Sequence[str]:
        """See Measurement."""
        return [f"contamination by: {', '.join(self.names())}"]

    def work_items(self, context: MeasurementContext, model: str) -> Iterator[WorkItem]:
        """See Measurement."""
        for spec in self.contamination:
            items = _items(spec)
            what = ["contamination", model, context.digest(model), spec.model_dump_json(), items]
            yield WorkItem(
                [*what, context.file.seed],
                lambda spec=spec, items=items: _measure(context, model, spec, items),
            )


def _measure(
    context: MeasurementContext, name: str, spec: ContaminationSpec, items: Sequence[str]
) -> Iterator[MeasurementRow]:
    model = context.model(name)
    order = order_test(
        model,
        items,
        shards=spec.shards,
        permutations=spec.permutations,
        repeats=spec.control,
        seed=context.file.seed,
    )
    values = {"p": order.p, "z": order.z}
    yield MeasurementRow("contamination", f"{spec.name}.order", name, values, order.summary())
    if model.corpus is None:
        yield MeasurementRow(
            "contamination",
            f"{spec.name}.overlap",
            name,
            {},
            f"n-grams of {spec.name}: not searched, the training corpus of {name} is not recorded",
        )
        return
    found = overlap(items, open_corpus(model.corpus), n=spec.n, unit=spec.unit)
    values = {
        "share_of_items": found.share_of_items,
        "share_of_grams": found.share_of_grams,
        "share_of_short": found.share_of_short,
    }
    yield MeasurementRow("contamination", f"{spec.name}.overlap", name, values, found.summary())


def _items(spec: ContaminationSpec) -> list[str]:
    """Return the texts of a file of items. Raises DataError naming a record without one."""
    items = []
    for where, row in rows_of(Path(spec.rows)):
        text = row.get(spec.field)
        if not isinstance(text, str) or not text.strip():
            raise DataError(
                f"the record has no text in the field {spec.field!r}",
                where=where,
                fix=f"name the field that holds the item (field: ...); it has: {', '.join(row)}",
            )
        items.append(text)
    return items
