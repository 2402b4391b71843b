"""The rows of benchmarks as a Document: one table a benchmark, and reasons below it.

Every value has the unit of its column; a value that is not known is a dash, and a row that is absent or
failed has its reason in a sentence.
"""

from collections.abc import Callable, Sequence

from scalelab.bench.base import BenchColumn, BenchRow
from scalelab.bench.record import BenchRecord, DeviceRecord
from scalelab.bench.runner import BenchResult
from scalelab.report.document import (
    Block,
    Bullets,
    Content,
    Document,
    Facts,
    Heading,
    Number,
    Paragraph,
    Strong,
    Table,
)
from scalelab.units import duration, sci, si, size_text

UNKNOWN = "-"
FORMATS: dict[str, Callable[[float], str]] = {
    "parameters": si,
    "tokens": si,
    "tokens/s": si,
    "FLOP/s": sci,
    "bytes": size_text,
    "bytes/s": lambda value: f"{size_text(value)}/s",
    "seconds": lambda value: f"{value:.3g} s",
    "share": lambda value: f"{value:.1%}",
    "ratio": lambda value: f"{value:.3g}",
    "nats/token": lambda value: f"{value:.5f}",
    "runs": lambda value: f"{value:.0f}",
}


def device_document(device: DeviceRecord) -> Document:
    """Return what is measured on, and where its peak comes from."""
    parts = [device.name]
    if device.memory_bytes is not None:
        parts.append(size_text(device.memory_bytes))
    if device.capability is not None:
        parts.append(f"capability {device.capability}")
    if device.kind == "cpu":
        parts.append(f"{device.threads} threads")
    software = [f"torch {device.torch}"]
    if device.cuda is not None:
        software.append(f"built for {device.cuda}")
    software.append(f"driver {device.driver or 'unknown'}" if device.kind == "cuda" else "no driver")
    peak: Content = "unknown, so no MFU is reported"
    if device.peak_flops_per_s is not None:
        peak = [
            Number(f"{sci(device.peak_flops_per_s)} FLOP/s", "literature", labelled=True),
            f", {device.peak_source}",
        ]
    return Document(
        "Benchmarks",
        [
            Facts(
                [
                    ("device", ", ".join(parts)),
                    ("software", ", ".join(software)),
                    ("precision", device.precision),
                    ("peak", peak),
                ]
            )
        ],
    )


def result_document(result: BenchResult) -> Document:
    """Return the table of one benchmark, with the reasons of its absent and failed rows."""
    blocks: list[Block] = [Heading(result.title)]
    present = [row for row in result.rows if row.values]
    if present:
        columns = [c for c in result.columns if any(row.values.get(c.key) is not None for row in present)]
        blocks.append(
            Table(
                ["", *(c.title for c in columns)],
                [[_name(row), *(_cell(row, c) for c in columns)] for row in present],
                align="l" + "".join("l" if c.unit == "text" else "r" for c in columns),
                optional=[c.title for c in columns if c.is_optional],
            )
        )
        blocks.append(Paragraph([result.note, " " if result.note else "", _kinds(columns)]))
    reasons = _reasons(result.rows)
    if reasons:
        blocks.append(Bullets(reasons))
    return Document("", blocks)


def summary_document(record: BenchRecord) -> Document:
    """Return the closing sentence: how long it took, and how many rows failed."""
    rows = [row for result in record.results for row in result.rows]
    n_absent = sum(row.status == "absent" for row in rows)
    text = f"{len(rows)} rows in {duration(record.seconds)}, {n_absent} absent, "
    failures: Content = (
        f"{record.n_failed} failed." if not record.n_failed else Strong(f"{record.n_failed} FAILED.")
    )
    return Document("", [Paragraph([text, failures])])


def _name(row: BenchRow) -> Content:
    return row.name if row.status == "measured" else Strong(f"{row.name} (failed)")


def _cell(row: BenchRow, column: BenchColumn) -> Content:
    value = row.values.get(column.key)
    if value is None:
        return UNKNOWN
    return Number(value if isinstance(value, str) else FORMATS[column.unit](value), column.kind)


def _kinds(columns: Sequence[BenchColumn]) -> str:
    """Return a sentence on the columns that are not measured."""
    by_kind: dict[str, list[str]] = {}
    for column in columns:
        if column.kind != "measured":
            by_kind.setdefault(column.kind, []).append(column.title)
    other = "; ".join(f"{', '.join(titles)}: {kind}" for kind, titles in by_kind.items())
    return f"All values are measured{f' ({other})' if other else ''}."


def _reasons(rows: Sequence[BenchRow]) -> list[Content]:
    """Return one line for each reason, with the names of the rows that have it."""
    names: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if row.reason:
            names.setdefault((row.status, row.reason), []).append(row.name)
    return [
        [Strong("failed") if status == "failed" else status, f": {', '.join(which)}: {reason}"]
        for (status, reason), which in names.items()
    ]
