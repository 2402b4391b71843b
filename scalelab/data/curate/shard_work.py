"""The work of a stage on one shard, in this process or in further ones.

    to a process    one job a line, JSON
    back            one line for each: {} or {"error": [problem, where, fix]}

A job names its input and output files and holds all settings, so it gives the same bytes wherever and
whenever it runs. Further processes are those of data/child_process.py.
One that ends early costs time alone: its job is done by the caller.

Not here: which jobs there are (pipeline.py), the same on an executor (launch/curation.py).
"""

import json
import socket
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Protocol

from scalelab.data.child_process import ChildProcess, end_children, start_children
from scalelab.data.curate import CURATION_STAGES, PAGE_SOURCES
from scalelab.data.curate.base import CurationContext, CurationStage, Page, PageSource, WebDocument
from scalelab.data.curate.store import (
    CuratedShardWriter,
    find_outcome,
    read_arrays,
    read_documents,
    write_arrays,
)
from scalelab.data.hashing import sha256
from scalelab.errors import DataError
from scalelab.files import exists
from scalelab.screen import progress

MODULE = "scalelab.data.curate.shard_work"
PAGES_OF_A_SAMPLE = 200
"""Pages taken of each file where only a sample is curated."""


@dataclass(frozen=True)
class ShardJob:
    """One step of one stage on one shard."""

    step: str
    """observe or apply."""
    stage: dict[str, Any]
    """Settings of the stage, with its kind."""
    directory: str
    """Directory of the stage."""
    index: int
    """Number of the shard."""
    documents: str = ""
    """File of the documents; empty where pages are read."""
    sha256: str = ""
    """SHA-256 of that file."""
    source: dict[str, Any] | None = None
    """Settings of the source of pages, where pages are read."""
    places: tuple[str, ...] = ()
    """Its places."""
    hashes: tuple[str, ...] = ()
    """SHA-256 of the file of each place as it was fingerprinted; empty: not compared."""
    is_sample: bool = False
    """Whether only the first pages of each place are taken."""
    holdouts: dict[str, list[str]] = field(default_factory=dict)
    """Files of the hold-outs that were cut so far, by name."""


def is_done(job: ShardJob) -> bool:
    """Return whether the result of a job is there, complete. Raises NoAnswer."""
    directory = Path(job.directory)
    if job.step == "observe":
        return exists(observed_path(directory, job.index))
    return find_outcome(directory, job.index) is not None


def run_job(job: ShardJob) -> None:
    """Do the work of a job; nothing where its result is there.

    Raises:
        DataError: Pages or documents cannot be read.
        RunError: The disk refuses what is written.
    """
    if is_done(job):
        return
    stage: CurationStage = CURATION_STAGES[job.stage["kind"]].model_validate(job.stage)
    directory = Path(job.directory)
    if job.step == "observe":
        files = {name: list(map(Path, paths)) for name, paths in job.holdouts.items()}
        context = CurationContext(files, is_sample=job.is_sample)
        write_arrays(observed_path(directory, job.index), stage.observe(_documents(job), context))
        return
    began = time.process_time()
    decision = read_arrays(decision_path(directory)) if stage.observes else {}
    counted = _Counted(_pages(job) if job.source is not None else _documents(job))
    with CuratedShardWriter(directory, job.index) as writer:
        for document in stage.apply(counted, decision, writer.ledger):  # type: ignore[arg-type]
            writer.keep(document)
    writer.outcome(counted.n, counted.n_bytes, time.process_time() - began)


def observed_path(directory: Path, index: int) -> Path:
    """Return the path of what a stage observed of one shard."""
    return directory / f"observed-{index:05d}.npz"


def decision_path(directory: Path) -> Path:
    """Return the path of what a stage decided."""
    return directory / "decision.npz"


def _documents(job: ShardJob) -> Iterator[WebDocument]:
    return read_documents(Path(job.documents), job.sha256)


def _pages(job: ShardJob) -> Iterator[Page]:
    assert job.source is not None
    source: PageSource = PAGE_SOURCES[job.source["kind"]].model_validate(job.source)
    if not job.is_sample:
        for place, digest in zip(job.places, job.hashes, strict=False):
            _check_file(source.file_of(place), digest)
        yield from source.pages(list(job.places))
        return
    for place in job.places:
        for i, page in enumerate(source.pages([place]), 1):
            yield page
            if i == PAGES_OF_A_SAMPLE:
                break


def _check_file(path: Path | None, digest: str) -> None:
    """Refuse a file of the source that is not the one whose hash is part of the stage's key."""
    if path is not None and digest and sha256(path) != digest:
        raise DataError(
            f"{path.name} is not the file that was there when the curation began",
            where=f"{path.absolute()} on {socket.gethostname()}",
            fix="leave the source as it is while it is curated, and put it where all machines find it",
        )


class _Counted:
    """Documents or pages, counted as they pass."""

    def __init__(self, items: Iterable[Any]):
        self._items = items
        self.n = self.n_bytes = 0

    def __iter__(self) -> Iterator[Any]:
        for item in self._items:
            self.n += 1
            self.n_bytes += len(item.data) if isinstance(item, Page) else item.n_bytes
            yield item


class ShardRunner(Protocol):
    """What does the jobs of one step of a stage."""

    def run(self, jobs: Sequence[ShardJob], what: str) -> None:
        """Do jobs that depend on nothing of one another.

        Args:
            jobs: The jobs.
            what: What they do, shown meanwhile: "language: shards".

        Raises:
            ScalelabError: The first that a job raised.
        """


class ShardWorkers:
    """Does jobs in several processes; in this one where there are none.

    Args:
        n: Number of further processes; 0 or 1 for none.
    """

    def __init__(self, n: int):
        self._processes = start_children(MODULE, n if n > 1 else 0, OMP_NUM_THREADS="1")

    def __enter__(self) -> "ShardWorkers":
        return self

    def __exit__(self, *_: object) -> None:
        end_children(self._processes)
        self._processes = []

    def run(self, jobs: Sequence[ShardJob], what: str) -> None:
        """Do the jobs, and show how many are done. See ShardRunner."""
        for _ in progress(self._done(jobs), what, len(jobs)):
            pass

    def _done(self, jobs: Sequence[ShardJob]) -> Iterator[ShardJob]:
        """Yield the jobs as they are done, in their order."""
        if not self._processes or len(jobs) < 2:
            for job in jobs:
                run_job(job)
                yield job
            return
        idle: SimpleQueue[ChildProcess] = SimpleQueue()
        for process in self._processes:
            idle.put(process)

        def exchange(job: ShardJob) -> ShardJob:
            process = idle.get()  # as many threads as processes: one is idle
            try:
                reply = _exchange(process, job)
            finally:
                idle.put(process)
            if reply is None:
                run_job(job)
            elif "error" in reply:
                problem, where, fix = reply["error"]
                raise DataError(problem, where=where, fix=fix)
            return job

        with ThreadPoolExecutor(len(self._processes), thread_name_prefix="curate") as threads:
            try:
                yield from threads.map(exchange, jobs)
            except BaseException:
                threads.shutdown(wait=False, cancel_futures=True)
                raise


def _exchange(process: ChildProcess, job: ShardJob) -> dict[str, Any] | None:
    """Return the reply of a process; None where it has ended."""
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write((json.dumps(asdict(job)) + "\n").encode())
        process.stdin.flush()
        return json.loads(process.stdout.readline() or b"null")
    except (OSError, ValueError):
        return None


def serve() -> None:
    """Do jobs until the input ends."""
    from scalelab.errors import ScalelabError

    for line in sys.stdin:
        reply: dict[str, Any] = {}
        try:
            job = json.loads(line)
            run_job(ShardJob(**{**job, **{name: tuple(job[name]) for name in ("places", "hashes")}}))
        except ScalelabError as error:
            reply = {"error": [error.problem, error.where, error.fix]}
        sys.stdout.write(json.dumps(reply) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    serve()
