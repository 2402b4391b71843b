"""Shards of web documents on the disk, and the record of what a stage did with each.

    <stage>/documents-00000.jsonl         one document a line, those that are kept
    <stage>/rejects-00000.jsonl           the others, each with its reason
    <stage>/holdout-NAME-00000.jsonl      those that were cut for a hold-out
    <stage>/shard-00000.json              sealed, written last: counts, SHA-256, samples

Not here: what stages do (stages/), the order of the work (pipeline.py).
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np

from scalelab.data.curate.base import EXAMPLES, Arrays, StageLedger, WebDocument, excerpt
from scalelab.data.hashing import content_hash
from scalelab.errors import DataError
from scalelab.files import check_answered, looking, open_regular, whole, writing
from scalelab.sealed import Format
from scalelab.system import system

Tally = dict[str, tuple[int, int]]
"""Documents and bytes by name."""


@dataclass(frozen=True)
class StoredShard:
    """One file of documents as it was written."""

    file: str
    """Name in its directory."""
    sha256: str
    n_documents: int
    n_bytes: int
    """UTF-8 bytes of the texts."""
    size: int
    """Bytes of the file."""


@dataclass(frozen=True)
class ShownDocument:
    """A document shown on the page."""

    order: int
    """Hash of its name: the samples of several shards are merged by it."""
    name: str
    text: str
    """A part of it."""
    detail: str = ""


@dataclass(frozen=True)
class ShardOutcome:
    """What a stage did with one shard."""

    n_in: int
    bytes_in: int
    kept: StoredShard
    rejects: StoredShard
    holdouts: dict[str, StoredShard]
    reasons: Tally
    languages: Tally
    domains: Tally
    counts: dict[str, int]
    n_changed: int
    kept_samples: list[ShownDocument]
    rejected_samples: dict[str, list[ShownDocument]]
    changed_samples: list[ShownDocument]
    cpu_s: float


OUTCOME = Format("record of a curated shard", ShardOutcome, schema=1, error=DataError)


def outcome_path(directory: Path, index: int) -> Path:
    """Return the path of the record of one shard."""
    return directory / f"shard-{index:05d}.json"


def find_outcome(directory: Path, index: int) -> ShardOutcome | None:
    """Return the record of a shard that is complete; None where it has to be made.

    Raises:
        NoAnswer: The file system does not say.
    """
    try:
        found = OUTCOME.read(outcome_path(directory, index))
        files = (found.kept, found.rejects, *found.holdouts.values())
        with looking(directory):
            is_whole = all(system().size(directory / each.file) == each.size for each in files)
    except (FileNotFoundError, DataError):
        return None
    return found if is_whole else None


class DocumentWriter:
    """Writes documents as JSON lines; complete or not at all.

    Args:
        path: File to write.
    """

    def __init__(self, path: Path):
        self.path = path
        self._digest = hashlib.sha256()
        self.n_documents = self.n_bytes = self._size = 0
        self._stack = ExitStack()
        self._file: IO[bytes] | None = None

    def __enter__(self) -> "DocumentWriter":
        self._file = self._stack.enter_context(whole(self.path))
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    def add(self, document: WebDocument, **further: Any) -> None:
        """Append one document, with further fields."""
        assert self._file is not None
        record = {name: value for name, value in vars(document).items() if value}
        data = (json.dumps(record | further, ensure_ascii=False) + "\n").encode("utf-8")
        with writing(self.path):
            self._file.write(data)
        self._digest.update(data)
        self._size += len(data)
        self.n_documents += 1
        self.n_bytes += document.n_bytes

    @property
    def stored(self) -> StoredShard:
        """What was written."""
        name, digest = self.path.name, self._digest.hexdigest()
        return StoredShard(name, digest, self.n_documents, self.n_bytes, self._size)


def read_documents(path: Path, sha256: str = "") -> Iterator[WebDocument]:
    """Yield the documents of a file that DocumentWriter wrote.

    Args:
        path: The file.
        sha256: What it was when it was written, checked when all of it was read; empty: not checked.

    Raises:
        DataError: It is not what was written.
        NoAnswer: The file system does not say.
    """
    digest = hashlib.sha256()
    known = set(WebDocument.__dataclass_fields__)
    try:
        with open_regular(path) as file:
            for line in file:
                digest.update(line)
                record = json.loads(line)
                fields = {name: value for name, value in record.items() if name in known}
                yield WebDocument(**{"text": "", **fields})
    except (OSError, ValueError, TypeError) as error:
        check_answered(path, error)
        raise damaged(path, getattr(error, "strerror", None) or str(error)) from error
    if sha256 and digest.hexdigest() != sha256:
        raise damaged(path, "its SHA-256 does not match")


def damaged(path: Path, why: str) -> DataError:
    """Return the error for a file that is not what was written."""
    return DataError(
        f"{path.name} is not what was written: {why}",
        where=str(path),
        fix=f"delete {path.parent}, then run the same command again",
    )


@dataclass
class Samples:
    """A few documents, drawn evenly by the hash of their names, the same whatever the order.

    Args:
        stage: Its key; each stage draws others.
    """

    stage: str
    found: list[ShownDocument] = field(default_factory=list)

    def add(self, document: WebDocument, detail: str = "") -> None:
        """Offer one document."""
        order = content_hash(f"{self.stage} {document.name}".encode())
        if len(self.found) >= EXAMPLES and order >= self.found[-1].order:
            return
        self.found.append(ShownDocument(order, document.name, excerpt(document.text), detail))
        self.found = smallest(self.found)


def smallest(samples: list[ShownDocument]) -> list[ShownDocument]:
    """Return the first few samples in the order of their hashes."""
    return sorted(samples, key=lambda each: (each.order, each.name))[:EXAMPLES]


class CuratedShardWriter:
    """Writes all that a stage gives for one shard. Use as a context, then `outcome` writes the record.

    Args:
        directory: Directory of the stage.
        index: Number of the shard.
    """

    def __init__(self, directory: Path, index: int):
        self._directory, self._index = directory, index
        self._stack = ExitStack()
        self._holdouts: dict[str, DocumentWriter] = {}
        self._reasons: Counter[str] = Counter()
        self._reason_bytes: Counter[str] = Counter()
        self._tallies: dict[str, dict[str, list[int]]] = {"language": {}, "domain": {}}
        self._kept_samples = Samples(directory.name)
        self._rejected_samples: dict[str, Samples] = {}
        self.ledger = StageLedger(self._reject, self._hold_out)

    def __enter__(self) -> "CuratedShardWriter":
        self._kept = self._stack.enter_context(self._open("documents"))
        self._rejects = self._stack.enter_context(self._open("rejects"))
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    def _open(self, name: str) -> DocumentWriter:
        return DocumentWriter(self._directory / f"{name}-{self._index:05d}.jsonl")

    def keep(self, document: WebDocument) -> None:
        """Write a document that goes on."""
        self._kept.add(document)
        self._kept_samples.add(document)
        size = document.n_bytes
        for name, tally in self._tallies.items():
            entry = tally.setdefault(getattr(document, name) or "unknown", [0, 0])
            entry[0] += 1
            entry[1] += size

    def _reject(self, document: WebDocument, reason: str, detail: str) -> None:
        self._rejects.add(document, reason=reason, detail=detail)
        self._reasons[reason] += 1
        self._reason_bytes[reason] += document.n_bytes
        self._rejected_samples.setdefault(reason, Samples(self._directory.name)).add(document, detail)

    def _hold_out(self, name: str, document: WebDocument) -> None:
        if name not in self._holdouts:
            self._holdouts[name] = self._stack.enter_context(self._open(f"holdout-{name}"))
        self._holdouts[name].add(document)

    def outcome(self, n_in: int, bytes_in: int, cpu_s: float) -> ShardOutcome:
        """Write the record of the shard, and return it. Its files have to be closed.

        Raises:
            RunError: The record cannot be written.
        """
        changed = [ShownDocument(order, name, text) for order, name, text in self.ledger.changed]
        found = ShardOutcome(
            n_in=n_in,
            bytes_in=bytes_in,
            kept=self._kept.stored,
            rejects=self._rejects.stored,
            holdouts={name: writer.stored for name, writer in sorted(self._holdouts.items())},
            reasons={name: (n, self._reason_bytes[name]) for name, n in sorted(self._reasons.items())},
            languages=_tally(self._tallies["language"]),
            domains=_tally(self._tallies["domain"]),
            counts=dict(sorted(self.ledger.counts.items())),
            n_changed=self.ledger.n_changed,
            kept_samples=self._kept_samples.found,
            rejected_samples={name: s.found for name, s in sorted(self._rejected_samples.items())},
            changed_samples=smallest(changed),
            cpu_s=cpu_s,
        )
        OUTCOME.write(outcome_path(self._directory, self._index), found)
        return found


def _tally(counted: Mapping[str, list[int]]) -> Tally:
    return {name: (n, size) for name, (n, size) in sorted(counted.items())}


def write_arrays(path: Path, arrays: Arrays) -> None:
    """Write arrays, complete or not at all."""
    with whole(path) as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


def read_arrays(path: Path) -> Arrays:
    """Return arrays that write_arrays wrote.

    Raises:
        FileNotFoundError: There is no such file.
        DataError: It is damaged.
        NoAnswer: The file system does not say.
    """
    try:
        with open_regular(path) as file, np.load(file, allow_pickle=False) as found:
            return {name: found[name] for name in found.files}
    except FileNotFoundError:
        raise
    except Exception as error:
        check_answered(path, error)
        raise damaged(path, str(error)) from error
