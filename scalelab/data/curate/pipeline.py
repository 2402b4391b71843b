"""Stages of a curation in their order, each done once for the same input and settings.

    <cache>/curation/<key>/   one stage: its shards (store.py), what it decided, stage.json

The key of a stage hashes its settings, its version and library, the files that it names, and the key of
the stage before it; that of the first stage the fingerprint of the source and what reads it. So a changed threshold
repeats the stages from there on, and two files that begin alike share what they have in common.

Interrupted at any point, the same command resumes: a shard whose record is complete is not done again,
and one that is not complete is done again with the same bytes.

Not here: the work on one shard (shard_work.py), what is published (publish.py).
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from math import inf
from pathlib import Path
from typing import Any

import numpy as np

from scalelab.config import changed
from scalelab.data.corpus.shards import cache_dir
from scalelab.data.curate.base import Arrays, CurationContext, CurationStage
from scalelab.data.curate.file import CurationFile
from scalelab.data.curate.shard_jobs import reading_jobs, sample_of, stage_jobs
from scalelab.data.curate.shard_work import ShardJob, ShardRunner, ShardWorkers, decision_path, observed_path
from scalelab.data.curate.stages.holdout import Holdout
from scalelab.data.curate.stages.pii import masked_excerpt
from scalelab.data.curate.store import (
    ShardOutcome,
    ShownDocument,
    StoredShard,
    Tally,
    find_outcome,
    read_arrays,
    read_documents,
    smallest,
    write_arrays,
)
from scalelab.data.hashing import FileHashes
from scalelab.errors import DataError
from scalelab.files import make_dir, sweep_partials
from scalelab.leases import hold
from scalelab.sealed import Format

FORMAT = 2
"""Version of what is stored. Raising it repeats every stage."""


@dataclass(frozen=True)
class StageReport:
    """What a stage did with the corpus, from the outcomes of its shards."""

    kind: str
    settings: dict[str, Any]
    key: str
    n_in: int
    bytes_in: int
    n_out: int
    bytes_out: int
    reasons: Tally
    languages: Tally
    domains: Tally
    counts: dict[str, int]
    n_changed: int
    kept_samples: list[ShownDocument]
    rejected_samples: dict[str, list[ShownDocument]]
    changed_samples: list[ShownDocument]
    holdouts: Tally
    shown: dict[str, Any]
    """Findings of the stage's decision."""
    cpu_s: float
    """CPU seconds of `apply` over all shards."""
    shards: list[StoredShard]


@dataclass(frozen=True)
class Decision:
    """Findings of a decision, for the page."""

    shown: dict[str, Any]


STAGE = Format("report of a curation stage", StageReport, schema=1, error=DataError)
DECISION = Format("findings of a curation stage", Decision, schema=1, error=DataError)


@dataclass(frozen=True)
class CurationResult:
    """A finished curation: where the shards of each stage are, and what each stage did."""

    config: CurationFile
    fingerprint: str
    """Fingerprint of the source of pages."""
    source_facts: dict[str, Any]
    directories: list[Path]
    """Directory of each stage."""
    reports: list[StageReport]
    is_sample: bool = False
    holdouts: dict[str, list[tuple[Path, StoredShard]]] = field(default_factory=dict)
    """Files of each hold-out, with the directory that they are in."""


def curate(
    config: CurationFile,
    cache: Path | None = None,
    *,
    processes: int | None = None,
    runner: Callable[[Path], AbstractContextManager[ShardRunner]] | None = None,
    sample: bool = False,
) -> CurationResult:
    """Run the stages of a curation that are not done yet.

    Args:
        config: Source and stages.
        cache: Directory of intermediate results; None: that of prepared corpora.
        processes: Processes at most; None: one per CPU core of this process.
        runner: Returns what does the work on shards, given a directory for its own files. None: processes of
            this machine. A sample is always curated by them.
        sample: Whether to curate a few hundred pages only.

    Raises:
        DataError: The source cannot be read, a library is missing, or a stage has too little to decide.
        RunError: The cache cannot be written.
    """
    root = make_dir((cache or cache_dir()).absolute() / "curation")
    memo = FileHashes(root / "hashes" / f"{config.source.digest}.json")
    versions = [stage.implementation() for stage in config.used_stages]  # what is missing, before any work
    hashes: dict[Path, str] = {}

    def hash_file(path: Path) -> str:
        return hashes.setdefault(path.absolute(), memo(path))

    fingerprint = config.source.fingerprint(hash_file)
    memo.save()
    groups = config.source.shards(config.shard_mb * 10**6)
    if sample:
        groups = sample_of(groups)
    reader = config.source.implementation()
    keys = _keys(config, [fingerprint, reader], versions, memo, is_sample=sample)
    cores = len(os.sched_getaffinity(0)) if processes is None else processes
    n = cores if len(groups) > 1 and not sample else 1
    context = CurationContext({}, is_sample=sample)
    result = CurationResult(config, fingerprint, config.source.facts(), [], [], sample)
    others = "another process runs this curation"
    with (
        hold(root / "locks" / keys[0], others, "wait for it", wait_s=inf),
        ShardWorkers(n) if runner is None or sample else runner(root / "jobs" / keys[0]) as workers,
    ):
        before: StageReport | None = None
        for stage, key in zip(config.used_stages, keys, strict=True):
            directory = make_dir(root / key)
            if before is None:
                jobs = reading_jobs(stage, directory, config.source, groups, hashes, is_sample=sample)
            else:
                shards = before.shards
                jobs = stage_jobs(stage, directory, result.directories[-1], shards, is_sample=sample)
            given, before = before, _stage(stage, key, directory, jobs, workers, context, result.holdouts)
            if isinstance(stage, Holdout) and given is not None and not sample:
                stage.check_cut(before.holdouts, given.domains, given.languages)
            result.directories.append(directory)
            result.reports.append(without_personal_data(before))
            for name, place, stored in _holdout_files(directory, len(jobs)):
                result.holdouts.setdefault(name, []).append((place, stored))
            held_out = {n: [d / s.file for d, s in files] for n, files in result.holdouts.items()}
            context = CurationContext(held_out, is_sample=sample)
    return result


def _stage(
    stage: CurationStage,
    key: str,
    directory: Path,
    jobs: list[ShardJob],
    workers: ShardRunner,
    context: CurationContext,
    holdouts: Mapping[str, list[tuple[Path, StoredShard]]],
) -> StageReport:
    """Do one stage, or read what it did."""
    path = directory / "stage.json"
    try:
        found = STAGE.read(path)
        if all(find_outcome(directory, i) is not None for i in range(len(found.shards))):
            return found
    except (FileNotFoundError, DataError):
        pass
    sweep_partials(directory)
    shown: dict[str, Any] = {}
    if stage.observes:
        _check_holdouts(holdouts)
        shown = _decide(stage, directory, jobs, workers, context)
    workers.run(jobs, f"{stage.kind}: shards")
    outcomes = [_outcome(directory, job.index) for job in jobs]
    report = _report(stage, key, outcomes, shown)
    STAGE.write(path, report)
    return report


def _check_holdouts(holdouts: Mapping[str, list[tuple[Path, StoredShard]]]) -> None:
    """Check that the files of hold-outs, which stages read while they observe, are what was written."""
    for files in holdouts.values():
        for directory, stored in files:
            for _ in read_documents(directory / stored.file, stored.sha256):
                pass


def _outcome(directory: Path, index: int) -> ShardOutcome:
    found = find_outcome(directory, index)
    if found is None:
        raise DataError(
            f"shard {index} was damaged while the curation ran",
            where=str(directory),
            fix="check the disk, then run the same command again",
        )
    return found


def _decide(
    stage: CurationStage,
    directory: Path,
    jobs: list[ShardJob],
    workers: ShardRunner,
    context: CurationContext,
) -> dict[str, Any]:
    """Observe every shard, decide, and return the findings for the page."""
    findings = directory / "decision.json"
    try:
        read_arrays(decision_path(directory))
        return DECISION.read(findings).shown
    except (FileNotFoundError, DataError):
        pass
    files = {name: list(map(str, paths)) for name, paths in context.holdouts.items()}
    observing = [replace(job, step="observe", holdouts=files) for job in jobs]
    workers.run(observing, f"{stage.kind}: looking at shards")
    observations = _Observations([observed_path(directory, job.index) for job in jobs])
    decision = stage.decide(observations, context)
    write_arrays(decision_path(directory), decision)
    DECISION.write(findings, Decision(context.shown))
    return context.shown


class _Observations(Sequence[Arrays]):
    """What a stage observed of each shard, read whenever it is asked for, so that no more than one is in memory."""

    def __init__(self, paths: list[Path]):
        self._paths = paths

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, i: Any) -> Any:
        return read_arrays(self._paths[i])


def _keys(
    config: CurationFile, source: list[str], versions: list[str], memo: FileHashes, *, is_sample: bool
) -> list[str]:
    """Return the key of every stage.

    Args:
        config: Source and stages.
        source: Fingerprint of the source, and what reads it.
        versions: Libraries of each stage.
        memo: Hashes of files.
        is_sample: Whether a sample is curated.
    """
    key = hashlib.sha256(
        json.dumps([FORMAT, *source, changed(config.source), config.shard_mb, is_sample]).encode()
    ).hexdigest()
    keys = []
    for stage, version in zip(config.used_stages, versions, strict=True):
        files = [memo(path) for path in stage.inputs()]
        parts = [key, stage.kind, changed(stage), stage.version, version, files]
        key = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
        keys.append(f"{stage.kind}-{key[:16]}")
    return keys


def _holdout_files(directory: Path, n: int) -> Iterator[tuple[str, Path, StoredShard]]:
    for i in range(n):
        for name, stored in _outcome(directory, i).holdouts.items():
            yield name, directory, stored


def _report(
    stage: CurationStage, key: str, outcomes: list[ShardOutcome], shown: dict[str, Any]
) -> StageReport:
    counts: Counter[str] = Counter()
    for outcome in outcomes:
        counts.update(outcome.counts)
    rejected: dict[str, list[ShownDocument]] = {}
    for outcome in outcomes:
        for reason, samples in outcome.rejected_samples.items():
            rejected[reason] = smallest(rejected.get(reason, []) + samples)
    held = [{n: (s.n_documents, s.n_bytes) for n, s in o.holdouts.items()} for o in outcomes]
    return StageReport(
        kind=stage.kind,
        settings=stage.model_dump(mode="json", exclude={"kind"}),
        key=key,
        n_in=sum(o.n_in for o in outcomes),
        bytes_in=sum(o.bytes_in for o in outcomes),
        n_out=sum(o.kept.n_documents for o in outcomes),
        bytes_out=sum(o.kept.n_bytes for o in outcomes),
        reasons=added([o.reasons for o in outcomes]),
        languages=added([o.languages for o in outcomes]),
        domains=added([o.domains for o in outcomes]),
        counts=dict(sorted(counts.items())),
        n_changed=sum(o.n_changed for o in outcomes),
        kept_samples=smallest([s for o in outcomes for s in o.kept_samples]),
        rejected_samples=dict(sorted(rejected.items())),
        changed_samples=smallest([s for o in outcomes for s in o.changed_samples]),
        holdouts=added(held),
        shown=shown,
        cpu_s=sum(o.cpu_s for o in outcomes),
        shards=[o.kept for o in outcomes],
    )


def added(tallies: list[Mapping[str, tuple[int, int]]] | list[Tally]) -> Tally:
    """Return the sum of tallies, sorted by name."""
    found: dict[str, np.ndarray] = {}
    for tally in tallies:
        for name, (n, size) in tally.items():
            found[name] = found.get(name, np.zeros(2, np.int64)) + np.array([n, size])
    return {name: (int(found[name][0]), int(found[name][1])) for name in sorted(found)}


def without_personal_data(report: StageReport) -> StageReport:
    """Return a report whose samples are masked: those of stages before `pii` hold what it masks later."""

    def masked_samples(samples: list[ShownDocument]) -> list[ShownDocument]:
        return [replace(s, text=masked_excerpt(s.text), detail=masked_excerpt(s.detail)) for s in samples]

    return replace(
        report,
        kept_samples=masked_samples(report.kept_samples),
        rejected_samples={reason: masked_samples(each) for reason, each in report.rejected_samples.items()},
        changed_samples=masked_samples(report.changed_samples),
    )
