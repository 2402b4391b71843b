"""Further processes that sketch documents for one that reads them.

    to a process    number of documents, their lengths (int64 each), their bytes one after another
    back            the band hashes of each document, uint64 each

A process (data/child_process.py) imports numpy and minhash.py. The batch of one that ends early, or cannot be
started, is sketched by the caller.

Not here: the hashes (minhash.py), the order of batches and how many are under way (sketches.py).
"""

import sys
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import BinaryIO

import numpy as np

from scalelab.data.child_process import ChildProcess, end_children, start_children
from scalelab.data.corpus.minhash import BANDS, bands_of
from scalelab.data.hashing import U64

BYTES_EACH = BANDS * U64().itemsize
"""Size of a document's band hashes, bytes."""
MODULE = "scalelab.data.corpus.sketch_workers"


class SketchWorkers:
    """Processes that sketch batches of documents.

    Args:
        n: Number of processes.
    """

    def __init__(self, n: int):
        self._processes = start_children(MODULE, n)
        self._idle: SimpleQueue[ChildProcess] = SimpleQueue()
        for process in self._processes:
            self._idle.put(process)
        self._threads = ThreadPoolExecutor(max(1, len(self._processes)), thread_name_prefix="sketch")

    def submit(self, batch: Sequence[bytes]) -> Future[bytes | None]:
        """Return the future sketches of a batch; their result is None if no process finished it."""
        return self._threads.submit(self._exchange, batch)

    def _exchange(self, batch: Sequence[bytes]) -> bytes | None:
        if not any(process.poll() is None for process in self._processes):
            return None
        process = self._idle.get()  # as many threads as processes: one is idle
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            lengths = np.array([len(data) for data in batch], np.int64)
            process.stdin.write(np.int64(len(batch)).tobytes() + lengths.tobytes())
            process.stdin.writelines(batch)
            process.stdin.flush()
            found = process.stdout.read(len(batch) * BYTES_EACH)
        except (OSError, ValueError):  # it has ended; ValueError: its pipe was closed
            return None
        finally:
            self._idle.put(process)
        return found if len(found) == len(batch) * BYTES_EACH else None

    def close(self) -> None:
        """End the processes. Batches that nobody waits for are dropped."""
        for process in self._processes:
            process.kill()  # ends the exchanges that the threads wait for
        self._threads.shutdown(cancel_futures=True)
        end_children(self._processes)


def serve(requests: BinaryIO, replies: BinaryIO) -> None:
    """Sketch batches until the input ends."""
    while len(header := requests.read(8)) == 8:
        lengths = np.frombuffer(requests.read(8 * int.from_bytes(header, sys.byteorder)), np.int64)
        replies.write(bands_of([requests.read(int(n)) for n in lengths]).tobytes())
        replies.flush()


if __name__ == "__main__":
    serve(sys.stdin.buffer, sys.stdout.buffer)
