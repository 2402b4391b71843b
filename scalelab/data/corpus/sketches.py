"""Sketches of documents, by which near-copies are found: the bands of their MinHash (minhash.py).

Documents are sketched in batches: in this process, and after the first POOL_BYTES in further ones
(sketch_workers.py), whose results are the same numbers and are put in the same order.

Memory: 128 bytes a document, a few batches of BATCH_BYTES for each process, and the words that each
remembers (minhash.py: MEMO).
Not here: what the sketches are used for (split.py).
"""

import os
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np

from scalelab.data.base import SplitName
from scalelab.data.corpus.minhash import BANDS, bands_of
from scalelab.data.corpus.sketch_workers import SketchWorkers
from scalelab.data.hashing import U64, content_hash

BATCH_BYTES, BATCH_DOCUMENTS = 2**21, 2**13
"""Text and documents that are sketched at once; a batch ends at the first limit that it reaches."""
POOL_BYTES = 2**26
"""Text after which more processes are worth their start of about half a second."""


@dataclass(frozen=True, eq=False)
class Sketches:
    """Sketches of documents."""

    content: np.ndarray
    """Hash of the text, uint64, shape (n,)."""
    n_bytes: np.ndarray
    """UTF-8 bytes, int64, shape (n,)."""
    bands: np.ndarray
    """Band hashes, uint64, shape (n, BANDS)."""
    sides: tuple[SplitName | None, ...] = ()
    """Side of each document as its source states it; empty where it states none."""


class Sketcher:
    """Sketches documents in batches, in this process and, for much text, in further ones.

    Args:
        processes: Number of further processes at most; None: one per CPU core of this process, none
            where there is one core.
    """

    def __init__(self, processes: int | None = None):
        cores = len(os.sched_getaffinity(0))
        self._n_workers = (cores if cores > 1 else 0) if processes is None else processes
        self._workers: SketchWorkers | None = None
        self._batch: list[bytes] = []
        self._batch_bytes = self._total_bytes = 0
        self._content: list[int] = []
        self._bytes: list[int] = []
        self._bands: list[np.ndarray] = []
        self._sides: list[SplitName | None] = []
        self._pending: deque[tuple[list[bytes], Future[bytes | None]]] = deque()

    def add(self, text: str, side: SplitName | None = None) -> int:
        """Take one document, and its side where the source states it. Returns the hash of its text."""
        self._sides.append(side)
        data = text.encode("utf-8")
        content = content_hash(data)
        self._content.append(content)
        self._bytes.append(len(data))
        self._batch.append(data)
        self._batch_bytes += len(data)
        if self._batch_bytes >= BATCH_BYTES or len(self._batch) >= BATCH_DOCUMENTS:
            self._hand_out()
        return content

    def finish(self) -> Sketches:
        """Return the sketches of all documents, in the order in which they were added."""
        self._hand_out()
        while self._pending:
            self._collect()
        self.close()
        bands = np.concatenate([np.zeros((0, BANDS), U64), *self._bands])
        sides = tuple(self._sides) if any(self._sides) else ()
        return Sketches(np.array(self._content, U64), np.array(self._bytes, np.int64), bands, sides)

    def close(self) -> None:
        """End the further processes."""
        if self._workers is not None:
            self._workers.close()
            self._workers = None

    def _hand_out(self) -> None:
        """Sketch the batch here, or let a further process do so."""
        batch, self._batch = self._batch, []
        self._total_bytes += self._batch_bytes
        self._batch_bytes = 0
        if not batch:
            return
        if self._workers is None and self._n_workers > 0 and self._total_bytes > POOL_BYTES:
            self._workers = SketchWorkers(self._n_workers)
        if self._workers is None:
            self._bands.append(bands_of(batch))
            return
        self._pending.append((batch, self._workers.submit(batch)))
        while len(self._pending) > 2 * self._n_workers:
            self._collect()

    def _collect(self) -> None:
        """Take the oldest batch back; one that its process did not finish is sketched here."""
        batch, future = self._pending.popleft()
        found = future.result()
        bands = bands_of(batch) if found is None else np.frombuffer(found, U64).reshape(-1, BANDS)
        self._bands.append(bands)
