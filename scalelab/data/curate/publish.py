"""A finished curation as a directory that a sweep trains on.

    curated/NAME/
      train-00000.jsonl, ...     documents of the last stage, one a line: text, name, url, date, domain, meta
      holdout-NAME.jsonl         each hold-out
      curation.json              sealed: files with SHA-256, stages, source
      (the page)                 report/curation/page.py

    source: {kind: curated, path: curated/NAME}

The files are the same to the last byte wherever and however often the curation was interrupted.
"""

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scalelab.data.curate.pipeline import CurationResult
from scalelab.data.curate.store import StoredShard
from scalelab.errors import DataError
from scalelab.files import whole, whole_dir, writing
from scalelab.sealed import Format

NAME = "curation.json"


@dataclass(frozen=True)
class CuratedCorpus:
    """Content of curation.json."""

    name: str
    train: list[StoredShard]
    holdouts: dict[str, StoredShard]
    fingerprint: str
    """Fingerprint of the source of pages."""
    stages: list[str]
    """Key of each stage."""
    config: dict[str, Any]
    """The curation file."""


CURATED = Format("curated corpus", CuratedCorpus, schema=1, error=DataError)


def publish(result: CurationResult, out: Path) -> CuratedCorpus:
    """Write the documents of a curation to a directory; what stood there is replaced.

    Raises:
        DataError: No document is left, or another thing stands there.
        RunError: The directory cannot be written.
    """
    last = result.reports[-1]
    if last.n_out == 0:
        worst = min(result.reports, key=lambda each: each.n_out / max(1, each.n_in))
        reasons = sorted(worst.reasons.items(), key=lambda item: -item[1][0])[:3]
        raise DataError(
            f"no document is left: the stage {worst.kind} kept {worst.n_out} of {worst.n_in}",
            where="; ".join(f"{reason}: {n:,}" for reason, (n, _) in reasons) or f"stages: {worst.kind}",
            fix="loosen its settings, or give pages that pass them",
        )
    if out.exists() and not (out / NAME).exists() and any(out.iterdir()):
        raise DataError(
            f"{out} holds something other than a curated corpus",
            where=str(out.absolute()),
            fix="choose another directory (--out) or another name",
        )
    with whole_dir(out) as place:
        train = [
            _copied(result.directories[-1] / shard.file, place / f"train-{i:05d}.jsonl", shard)
            for i, shard in enumerate(last.shards)
        ]
        holdouts = {
            name: _joined(
                [directory / stored.file for directory, stored in files],
                place / f"holdout-{name}.jsonl",
                files,
            )
            for name, files in result.holdouts.items()
        }
        found = CuratedCorpus(
            result.config.name,
            train,
            holdouts,
            result.fingerprint,
            [report.key for report in result.reports],
            result.config.model_dump(mode="json"),
        )
        CURATED.write(place / NAME, found)
    return found


def _copied(source: Path, target: Path, stored: StoredShard) -> StoredShard:
    with writing(target):
        shutil.copyfile(source, target)
    return StoredShard(**{**vars(stored), "file": target.name})


def _joined(sources: list[Path], target: Path, files: list[tuple[Path, StoredShard]]) -> StoredShard:
    digest, size = hashlib.sha256(), 0
    with whole(target) as file:
        for source in sources:
            data = source.read_bytes()
            digest.update(data)
            size += len(data)
            file.write(data)
    n = sum(stored.n_documents for _, stored in files)
    n_bytes = sum(stored.n_bytes for _, stored in files)
    return StoredShard(target.name, digest.hexdigest(), n, n_bytes, size)
