"""Benchmarks one after the other, each within its time limit and in a process of its own.

    limit = seconds of the benchmark, or its part of what is left of the command's time, if that is less

A process that crashes or hangs costs its own benchmark only: it is ended at its limit, with what was
measured until then. A GPU's memory is empty at the start of each.

Not here: what is measured (members/), what the command writes (record.py).
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from scalelab.bench import BENCHMARKS
from scalelab.bench.base import BenchColumn, Benchmark, BenchRow, absent, failed
from scalelab.bench.child import ChildError, ChildProcess
from scalelab.errors import ConfigError

START_S = 12.0
"""Seconds that the start of a benchmark's process is assumed to take, torch and the device included."""
GRACE_S = 30.0
"""Seconds after its limit at which a benchmark is ended: what it had begun may take so long."""
WHOLE = "benchmark"
"""Name of the row of a benchmark that has ended otherwise than with its last row."""
END = "end"


@dataclass(frozen=True)
class BenchResult:
    """The rows of one benchmark."""

    name: str
    title: str
    note: str
    columns: tuple[BenchColumn, ...]
    limit_s: float
    """Time limit that it had, seconds."""
    seconds: float
    """Seconds that it took, the start of its process included."""
    rows: tuple[BenchRow, ...]

    def to_json(self) -> dict[str, Any]:
        """The result as JSON types, with the unit and the kind of every column."""
        return {
            "name": self.name,
            "title": self.title,
            "limit_s": self.limit_s,
            "seconds": self.seconds,
            "columns": {c.key: {"unit": c.unit, "kind": c.kind} for c in self.columns},
            "rows": [row.to_json() for row in self.rows],
        }


def chosen(names: Sequence[str]) -> list[str]:
    """Return the names of the benchmarks to run, in the order of the table; all where none is named.

    Raises:
        ConfigError: There is no benchmark of a name.
    """
    for name in names:
        if name not in BENCHMARKS:
            BENCHMARKS[name]  # raises, with the names that there are
    return [name for name in BENCHMARKS if not names or name in names]


def limit(benchmark: str, later: Sequence[str], left_s: float, seconds: Mapping[str, float]) -> float:
    """Return the time limit of the next benchmark, seconds.

    Args:
        benchmark: Its name.
        later: Names of those that come after it.
        left_s: Seconds that are left of the command's time.
        seconds: Seconds of each benchmark at the default length.
    """
    share = seconds[benchmark] / sum(seconds[name] for name in (benchmark, *later))
    working = left_s - START_S * (1 + len(later))
    return max(0.0, min(seconds[benchmark], working * share))


def run_benchmarks(names: Sequence[str], directory: Path, minutes: float) -> Iterator[BenchResult]:
    """Yield the result of each benchmark, as soon as it has ended.

    Args:
        names: Benchmarks to run, in this order.
        directory: Empty directory for what they write.
        minutes: Length of the whole, minutes.
    """
    ends = time.monotonic() + 60 * minutes
    members: dict[str, type[Benchmark] | str] = {name: _member(name) for name in names}
    seconds = {name: 0.0 if isinstance(m, str) else float(m.seconds) for name, m in members.items()}
    for i, name in enumerate(names):
        member = members[name]
        if isinstance(member, str):
            yield BenchResult(name, name, "", (), 0.0, 0.0, (failed(WHOLE, member),))
            continue
        limit_s = limit(name, names[i + 1 :], ends - time.monotonic(), seconds)
        begun = time.monotonic()
        rows = tuple(_rows(name, directory / name, limit_s, ends))
        took = time.monotonic() - begun
        yield BenchResult(name, member.title, member.note, member.columns, limit_s, took, rows)


def _member(name: str) -> type[Benchmark] | str:
    """Return a benchmark, or why it cannot be used."""
    try:
        return BENCHMARKS[name]
    except ConfigError as error:
        return error.problem


def _rows(name: str, directory: Path, limit_s: float, ends: float) -> Iterator[BenchRow]:
    """Yield the rows that a benchmark sends from its process."""
    if limit_s <= 0:
        yield absent(WHOLE, "no time is left for it; give the command more with --minutes")
        return
    directory.mkdir()
    last = min(ends, time.monotonic() + START_S + limit_s + GRACE_S)
    with ChildProcess(f"{__name__}:send_rows", name, str(directory), limit_s) as child:
        try:
            while (row := child.receive(last)) != END:
                yield row
        except ChildError as error:
            reason = f"{error.reason}; the rows that are not here are not measured"
            yield absent(WHOLE, reason) if error.is_late else failed(WHOLE, reason)


def send_rows(connection: Connection, name: str, directory: str, limit_s: float) -> None:
    """Send the rows of a benchmark, then END; runs in a process of its own.

    Args:
        connection: Receives the rows.
        name: Name of the benchmark.
        directory: Its directory.
        limit_s: Its time limit, seconds.
    """
    import os

    import torch

    from scalelab.bench.workbench import Workbench
    from scalelab.hardware.device import find_device, use_threads
    from scalelab.train.engines.compilation import CACHE

    device = find_device()
    use_threads(torch.get_num_threads() if device.kind == "cpu" else None)
    os.environ.setdefault(CACHE, str(Path(directory) / "compiled"))
    bench = Workbench(device, Path(directory))
    for row in measure(BENCHMARKS[name](), bench, limit_s):
        connection.send(row)
    connection.send(END)


def measure(benchmark: Benchmark, bench: Any, limit_s: float) -> Iterator[BenchRow]:
    """Yield the rows of a benchmark in this process; an error of the benchmark itself is a failed row.

    Args:
        benchmark: The benchmark.
        bench: Workbench of the device.
        limit_s: Time limit, seconds.
    """
    from scalelab.bench.attempt import error_text

    try:
        for row in benchmark.rows(bench, time.monotonic() + limit_s):
            if isinstance(row, BenchRow):
                yield row
            else:
                yield failed(WHOLE, f"it returned {type(row).__name__} instead of a BenchRow")
    except Exception as error:  # of a driver, of torch or of another package
        yield failed(WHOLE, error_text(error))
