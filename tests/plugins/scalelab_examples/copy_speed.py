"""A benchmark: how fast the device copies its own memory."""

import time
from collections.abc import Iterator

import torch

from scalelab.bench.attempt import attempt
from scalelab.bench.base import BenchColumn, Benchmark, BenchRow, absent
from scalelab.bench.workbench import Workbench

SIZES = {"1 MB": 10**6, "64 MB": 64 * 10**6}


class CopySpeedBenchmark(Benchmark):
    """Copies of blocks of two sizes."""

    title = "Copies"
    seconds = 5.0
    columns = (BenchColumn("bytes_per_s", "copies", "bytes/s"),)

    def rows(self, bench: Workbench, ends: float) -> Iterator[BenchRow]:
        """See Benchmark."""
        for name, size in SIZES.items():
            if time.monotonic() > ends:
                yield absent(name, "the time limit has passed")
            else:
                yield attempt(name, bench.device, lambda name=name, size=size: _copy(bench, name, size))


def _copy(bench: Workbench, name: str, size: int) -> BenchRow:
    block = torch.zeros(size, dtype=torch.uint8, device=bench.device.torch)
    bench.device.synchronize()
    begun = time.perf_counter()
    block.clone()
    bench.device.synchronize()
    return BenchRow(name, "measured", {"bytes_per_s": size / (time.perf_counter() - begun)})
