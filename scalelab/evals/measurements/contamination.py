"""The measurement `contamination`: whether test items were trained on.

Not here: the statistics (evals/contamination.py, overlap.py).
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar, Literal

from scalelab.config import Config, Count, Name
from scalelab.data.shards import open_corpus
from scalelab.data.textfiles import rows_of
from scalelab.errors import DataError
from scalelab.evals.contamination import order_test
from scalelab.evals.measurements.base import Bench, Kind, Measured, Measurement, Piece
from scalelab.evals.overlap import overlap


class ContaminationSpec(Config):
    """Whether test items were trained on."""

    name: Name
    rows: str
    """A JSONL file of the items in their published order."""
    field: str
    """Field of a record that holds the item's text."""
    shards: Count = 20
    permutations: Count = 30
    control: tuple[Count, ...] = (1, 2, 4, 8, 16)
    """Passes over the items after which the positive control is asked; [] for none."""
    n: Count = 13
    """Length of the n-grams that are looked for in the training text."""
    unit: Literal["tokens", "words"] = "tokens"


class ContaminationMeasurement(Measurement):
    """Order of the items and n-grams of each set, for each model."""

    kinds: ClassVar[tuple[Kind, ...]] = (Kind("contamination", "Contamination"),)
    contamination: tuple[ContaminationSpec, ...] = ()

    def names(self) -> tuple[str, ...]:
        """Of the sets of items."""
        return tuple(asked.name for asked in self.contamination)

    def describe(self, bench: Bench) -> Sequence[str]:
        """See Measurement."""
        return [f"contamination by: {', '.join(self.names())}"]

    def pieces(self, bench: Bench, model: str) -> Iterator[Piece]:
        """See Measurement."""
        for asked in self.contamination:
            items = _items(asked)
            what = ["contamination", model, bench.digest(model), asked.model_dump_json(), items]
            yield Piece(
                [*what, bench.file.seed],
                lambda asked=asked, items=items: _measure(bench, model, asked, items),
            )


def _measure(
    bench: Bench, name: str, asked: ContaminationSpec, items: Sequence[str]
) -> Iterator[Measured]:
    model = bench.model(name)
    order = order_test(
        model, items, shards=asked.shards, permutations=asked.permutations,
        repeats=asked.control, seed=bench.file.seed,
    )  # fmt: skip
    values = {"p": order.p, "z": order.z}
    yield Measured("contamination", f"{asked.name}.order", name, values, order.summary())
    if model.corpus is None:
        yield Measured("contamination", f"{asked.name}.overlap", name, {},
                       f"n-grams of {asked.name}: not looked for, nobody wrote down which "
                       f"text {name} was trained on")  # fmt: skip
        return
    found = overlap(items, open_corpus(model.corpus), n=asked.n, unit=asked.unit)
    values = {
        "share_of_items": found.share_of_items,
        "share_of_grams": found.share_of_grams,
        "share_of_short": found.share_of_short,
    }
    yield Measured("contamination", f"{asked.name}.overlap", name, values, found.summary())


def _items(asked: ContaminationSpec) -> list[str]:
    """The texts of a file of items. Raises DataError naming the record without one."""
    items = []
    for where, row in rows_of(Path(asked.rows)):
        text = row.get(asked.field)
        if not isinstance(text, str) or not text.strip():
            raise DataError(
                f"the record has no text in the field {asked.field!r}",
                where=where,
                fix=f"name the field that holds the item (field: ...); it has: {', '.join(row)}",
            )
        items.append(text)
    return items
