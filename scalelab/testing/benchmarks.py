"""Conformance of benchmarks of `scalelab bench`: members of BENCHMARKS, of any package."""

import json
import time
from typing import get_args

from scalelab.bench import BENCHMARKS
from scalelab.bench.base import Benchmark, BenchRow, Unit
from scalelab.bench.workbench import Workbench

MOST_WIDTH = 80
"""Characters of a line of the terminal; the titles of columns that are not optional have to fit into it."""


def check_benchmark(name: str, bench: Workbench, limit_s: float) -> list[BenchRow]:
    """Check the contract of a benchmark on a device, and return its rows.

    Args:
        name: Name in the table of benchmarks.
        bench: Device, real or pretended, with a workload that is small enough for the limit.
        limit_s: Time limit that it is given, seconds.

    Raises:
        AssertionError: It raises, does not say what it measures, has rows without a name of their own, values
            without a column or impossible ones, or begins something new once its time has passed.
    """
    member = BENCHMARKS[name]
    assert issubclass(member, Benchmark), f"{name} is no Benchmark"
    assert member.title, f"{name} has no title"
    assert member.seconds > 0, f"{name} has no time limit"
    keys = [column.key for column in member.columns]
    assert len(set(keys)) == len(keys), f"{name} has two columns of one key"
    assert all(column.unit in get_args(Unit) for column in member.columns), f"{name} has an unknown unit"
    needed = [column.title for column in member.columns if not column.is_optional]
    assert len("  ".join(needed)) <= MOST_WIDTH, f"{name} is wider than a terminal"
    assert not member.note or member.note.endswith("."), f"{name} has a note that is no sentence"

    rows = list(member().rows(bench, time.monotonic() + limit_s))
    assert rows, f"{name} yields no row"
    names = [row.name for row in rows]
    assert len(set(names)) == len(names), f"{name} has two rows of one name: {names}"
    for row in rows:
        _check_row(member, row)

    begun = time.monotonic()
    late = list(member().rows(bench, begun - 1.0))
    assert [row.name for row in late] == names, f"{name} has other rows when its time has passed"
    return rows


def _check_row(member: type[Benchmark], row: BenchRow) -> None:
    assert isinstance(row, BenchRow), f"it yields {type(row).__name__}"
    json.dumps(row.to_json(), allow_nan=False)
    columns = {column.key: column for column in member.columns}
    for key, value in row.values.items():
        assert key in columns, f"{row.name}: {key} is no column"
        if value is None:
            continue
        unit = columns[key].unit
        assert isinstance(value, str) == (unit == "text"), f"{row.name}: {key} is {value!r}"
        if isinstance(value, str):
            continue
        assert value >= 0, f"{row.name}: {key} is {value}"
        if unit == "share" and row.status == "measured":
            assert value <= 1, f"{row.name}: the share {key} is {value}"
    assert "\n" not in row.reason, f"{row.name}: its reason has several lines"
