"""Does a measurement keep its contract? For members of MEASUREMENTS, of any package.

    check_measurement("mine", {"mine": [...]}, models={"one": path}, folder=folder)

Every check is an AssertionError that says what does not hold.

Not here: what a measurement is (evals/measurement.py).
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scalelab.config import parse_yaml
from scalelab.evals import MEASUREMENTS
from scalelab.evals.file import EvalFile, file_type
from scalelab.evals.measurement import FinishedRun, Measurement, MeasurementContext, MeasurementRow, WorkItem
from scalelab.evals.stored_rows import rows_of_item
from scalelab.units import NUMBER_KINDS


def check_measurement(
    name: str,
    fields: Mapping[str, Any],
    *,
    models: Mapping[str, Path],
    folder: Path,
    inputs: Mapping[str, Path] | None = None,
    runs: Mapping[str, Sequence[FinishedRun]] | None = None,
) -> list[MeasurementRow]:
    """Check the contract of a measurement.

    Args:
        name: Of the measurement.
        fields: As an evaluation file gives them; they ask for this measurement.
        models: Directory of each model that is measured.
        folder: Receives the rows.
        inputs: Directory of each of its inputs.
        runs: Finished runs of each of its sweeps.

    Returns: Its rows.

    Raises:
        AssertionError: Something of the contract does not hold.
    """
    member = MEASUREMENTS[name]
    assert not member().is_requested(), "it measures where no field is given"
    head = {"name": "conformance", "models": {one: str(path) for one, path in models.items()}}
    file = file_type().model_validate(head | dict(fields))
    again = EvalFile.parse(parse_yaml(file.to_yaml(), "conformance.yaml"))
    assert again.digest == file.digest, "its fields do not survive YAML"
    assert name in file.sections, f"these fields do not ask for it: {', '.join(fields)}"
    section = file.sections[name]
    for kind in section.kinds:
        unknown = set(kind.value_kinds.values()) - set(NUMBER_KINDS)
        assert not unknown, f"{kind.name}: unknown kinds of values: {', '.join(sorted(unknown))}"
    assert len(set(section.names())) == len(section.names()), "two rows have one name"
    context = MeasurementContext(file, models, inputs or {}, runs or {}, folder)
    said = section.describe(context)
    assert said, "it describes nothing"
    assert all("\n" not in line for line in said), "a description is a line"

    rows, ids = [], []
    for model in models if section.of_each_model else [None]:
        work_items = list(section.work_items(context, model))
        ids += [item.id for item in work_items]
        assert [p.id for p in section.work_items(context, model)] == [p.id for p in work_items], (
            "the same work has another id the second time"
        )
        for item in work_items:
            rows += _check_item(context, section, item, model)
    assert len(set(ids)) == len(ids), "two work_items of work have one id"
    assert rows, "it has no row"
    return rows


def _check_item(
    context: MeasurementContext, section: Measurement, item: WorkItem, model: str | None
) -> list[MeasurementRow]:
    """Return the rows of an item. Raises AssertionError: they are not as they should be."""
    kinds = {kind.name: kind for kind in section.kinds}
    json.dumps(item.decided_by)
    rows = rows_of_item(context, item)
    for row in rows:
        assert row.kind in kinds, f"a row of kind {row.kind!r}, which it does not declare"
        assert row.model == model, f"a row of {row.model}, where {model} is measured"
        assert row.name, "a row without a name"
        assert row.text.strip(), "a row without words"
        for name, value in row.values.items():
            assert value is None or math.isfinite(value), f"{row.name}: {name} is {value}"
        score = kinds[row.kind].score
        assert score is None or not row.values or score in row.values, f"{row.name}: no {score}"
    assert rows_of_item(context, item) == rows, "its rows are not kept as they are"
    assert list(item.make()) == rows, "made again, its rows are others"
    return rows
