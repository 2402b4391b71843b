"""A finished curation as a directory that a sweep trains on.

    curated/NAME/
      train-00000.jsonl, ...     documents of the last stage, one a line: text, name, url, date, domain, meta
      holdout-NAME.jsonl         each hold-out
      curation.json              sealed: files with SHA-256, stages, source
      (the page)                 report/curation/page.py

    source: {kind: curated, path: curated/NAME}

Where the curation masks personal data, hold-outs are masked too: they may have been cut before that stage.
Every file is compared with what was written while it is copied.

The files are the same to the last byte wherever and however often the curation was interrupted.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from scalelab.data.curate.pipeline import CurationResult
from scalelab.data.curate.stages.pii import PersonalData, PersonalDataKind, masked
from scalelab.data.curate.store import DocumentWriter, StoredShard, damaged, read_documents
from scalelab.errors import DataError
from scalelab.files import exists, is_dir, names_in, open_regular, whole, whole_dir
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
    check_place(out)
    kinds = next((stage.mask for stage in result.config.used_stages if isinstance(stage, PersonalData)), ())
    with whole_dir(out) as place:
        train = [
            _copied(result.directories[-1] / shard.file, place / f"train-{i:05d}.jsonl", shard)
            for i, shard in enumerate(last.shards)
        ]
        holdouts = {
            name: _joined(files, place / f"holdout-{name}.jsonl", kinds)
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


def check_place(out: Path) -> None:
    """Check that a curated corpus may be written to a directory.

    Raises:
        DataError: Something else stands there.
    """
    if exists(out) and not exists(out / NAME) and (not is_dir(out) or names_in(out)):
        raise DataError(
            f"{out} {'holds' if is_dir(out) else 'is a file,'} something other than a curated corpus",
            where=str(out.absolute()),
            fix="choose another directory (--out) or another name",
        )


def _copied(source: Path, target: Path, stored: StoredShard) -> StoredShard:
    digest = hashlib.sha256()
    with open_regular(source) as given, whole(target) as file:
        while data := given.read(1 << 20):
            digest.update(data)
            file.write(data)
    if digest.hexdigest() != stored.sha256:
        raise damaged(source, "its SHA-256 does not match")
    return replace(stored, file=target.name)


def _joined(
    files: list[tuple[Path, StoredShard]], target: Path, kinds: Sequence[PersonalDataKind]
) -> StoredShard:
    with DocumentWriter(target) as writer:
        for directory, stored in files:
            for document in read_documents(directory / stored.file, stored.sha256):
                writer.add(replace(document, text=masked(document.text, tuple(kinds))[0]))
    return writer.stored
