"""Reports about a name (fits, plans, outcomes, evaluations) as files beside its runs.

    runs/<name>/.mlflow-<kind>-<digest>.json    sealed; numbers and words of one report

MLflow is filled from these files, so a report that MLflow did not accept, or that a deleted database
held, is sent by `scalelab sync`. Files of the report itself stay where they are; one that was
replaced since is not sent.

Not here: sending (report_mirror.py).
"""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from scalelab.errors import TrackError
from scalelab.files import check_answered, inside, is_dir, is_file, make_dir, matching
from scalelab.sealed import Format

KEPT = {".png", ".svg", ".pdf", ".json", ".md", ".txt", ".csv"}
"""Endings of the files of a report that become artifacts."""
LARGEST_KEPT = 10_000_000
"""Bytes of the largest file of a report that becomes an artifact."""


@dataclass(frozen=True)
class ReportRecord:
    """One report as it was logged."""

    key: str
    """Its identity: kind, colon, digest. An equal report has the same key."""
    first_ms: int
    """Time of the first logging, milliseconds since 1970."""
    last_ms: int
    """Time of the newest logging of an equal report."""
    words: str
    """The result, as Markdown."""
    metrics: dict[str, float]
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    folder: str = ""
    """Directory of the report relative to the directory of all runs."""
    files: dict[str, str] = field(default_factory=dict)
    """SHA-256 by name of the report's files."""

    @property
    def kind(self) -> str:
        """Kind of report: fit, plan, outcome or evaluation."""
        return self.key.partition(":")[0]

    def paths(self, root: Path) -> Iterator[Path]:
        """Files of the report that are still as they were logged."""
        for name, digest in self.files.items():
            path = root / self.folder / name
            try:
                is_same = hashlib.sha256(path.read_bytes()).hexdigest() == digest
            except OSError as error:
                check_answered(path, error)
                continue
            if is_same:
                yield path


RECORD = Format(
    "report record",
    ReportRecord,
    schema=1,
    error=TrackError,
    fix="delete it and run the command that made the report again",
)


def write_report_record(root: Path, name: str, out: Path, record: ReportRecord) -> ReportRecord:
    """Write a report beside the runs of `name` and return it with its files and first time.

    Args:
        root: Directory of all runs.
        name: Name of the sweep, plan, post-training or evaluation.
        out: Directory of the report.
        record: The report; folder and files are filled in here.

    Raises:
        RunError: The name is not a plain one, or the file cannot be written.
    """
    path = _path(root, name, record.key)
    files = {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest()
        for file in matching(out)
        if file.suffix in KEPT and is_file(file) and file.stat().st_size <= LARGEST_KEPT
    }
    folder = os.path.relpath(out.resolve(), root.resolve())
    try:
        first = RECORD.read(path).first_ms
    except (FileNotFoundError, TrackError):
        first = record.first_ms
    record = replace(record, first_ms=first, folder=folder, files=files)
    make_dir(path.parent)
    RECORD.write(path, record)
    return record


def report_records(root: Path, name: str) -> list[ReportRecord]:
    """Return the readable reports of a name, oldest first."""
    found = []
    for path in matching(inside(root, name), ".mlflow-*.json"):
        try:
            found.append(RECORD.read(path))
        except (FileNotFoundError, TrackError):
            continue  # it can be made again, and the report itself is elsewhere
    return sorted(found, key=lambda record: (record.last_ms, record.key))


def reported_names(root: Path) -> list[str]:
    """Return the names that have a report, sorted."""
    return [path.name for path in matching(root) if is_dir(path) and matching(path, ".mlflow-*.json")]


def _path(root: Path, name: str, key: str) -> Path:
    kind, _, rest = key.partition(":")
    return inside(root, name) / f".mlflow-{kind}-{hashlib.sha256(rest.encode()).hexdigest()[:12]}.json"
