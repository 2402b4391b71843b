"""What seals, checksums, digests and leases cost. Exit 0 either way.

    python analysis/bench/sealing.py [--rounds 5] [--gigabytes 2] [--only sweep|single|sharded]

sweep    The runs of sweeps/smoke.yaml are trained in this process, as `executor: inline` does it,
         and the CPU seconds within scalelab/sealed.py, scalelab/leases.py and the hashing of
         checkpoints are summed. Runs this short would end before their first checkpoint, so one is
         asked for every 2 s (by default 15 s at the least). What JSON would cost anyway counts as
         sealing here.
single   A checkpoint of one process is written and flushed, in turn as it is (sealed), by the same
         code without hashing (unhashed), and as before the seals (plain: copies, safetensors'
         save_file, meta.json).
sharded  The same for a launched run of one process: sealed, unhashed, torch's own writer with its
         pickled index (plain), and that with BLAKE2b of its files taken afterwards, as before the
         seals (before). It is written beside the training, so nothing waits for it.

The ways take turns, since the machine and its disk are shared; ratios are medians over rounds. To
hash beside the writing takes a second core: on a machine whose cores are all busy, the ratio to
`unhashed` shows the CPU time of SHA-256, which is printed beside it.
"""

import argparse
import hashlib
import json
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from safetensors.torch import save_file
from torch.distributed.checkpoint.filesystem import FileSystemWriter

from scalelab import leases, sealed
from scalelab.data.corpus.shards import prepare
from scalelab.files import whole_dir, write_json
from scalelab.hardware.device import use_threads
from scalelab.jobs.executors.inline import InlineExecutor
from scalelab.launch.sweep_plan import place
from scalelab.launch.sweep_run import train_all, write_manifest
from scalelab.sweep.file import SweepFile
from scalelab.train.checkpoints import sharded, unsharded
from scalelab.train.checkpoints.unsharded import Progress

SWEEP = Path(__file__).parents[2] / "sweeps" / "smoke.yaml"
EVERY_S = 2.0
SHARE_LIMIT, WALL_LIMIT = 0.02, 1.10
TIMED = (
    *(
        (sealed, name)
        for name in (
            "line",
            "read_lines",
            "seal_text",
            "unseal_text",
            "file_digest",
            "synced_digest",
            "check_file",
        )
    ),
    (sealed.Format, "text"),
    (sealed.Format, "parse"),
    (sealed.Checksum, "update"),
    (leases, "claim"),
    (leases, "holder"),
    (leases.Lease, "check"),
    (leases.Lease, "release"),
)


def main() -> None:
    asked = argparse.ArgumentParser()
    asked.add_argument("--rounds", type=int, default=5)
    asked.add_argument("--gigabytes", type=float, default=2.0)
    asked.add_argument("--only", choices=["sweep", "single", "sharded"])
    options = asked.parse_args()
    use_threads(1)
    lines = []
    if options.only in (None, "sweep"):
        lines.append(share_of_a_sweep())
    for name, ways in (("single", SINGLE), ("sharded", SHARDED)):
        if options.only in (None, name):
            lines.append(compare(name, ways, options.gigabytes, options.rounds))
    for line in lines:
        print(json.dumps(line))


def share_of_a_sweep() -> dict:
    """Sealing's part of the CPU seconds of a small sweep."""
    file = SweepFile.load(SWEEP, [])
    corpus = prepare(file.recipe.data)
    proposals = file.design.ask(file.recipe, vocab_size=corpus.vocab_size, data_digest=corpus.digest)
    clock = _Clock()
    with (
        tempfile.TemporaryDirectory() as directory,
        patch.object(unsharded, "seconds_until_next", lambda last: EVERY_S),
        clock.running(),
    ):
        root = Path(directory)
        begun = time.process_time()
        work = place(proposals, root, file.name)
        write_manifest(file, work, root)
        outcomes = train_all(file, work, InlineExecutor())
        total = time.process_time() - begun
        assert len(outcomes.of("done")) == len(work), outcomes
        n_saved = sum(e["event"] == "checkpoint" for w in work for e in w.run_dir.events())
    spent = sum(clock.seconds.values())
    print(
        f"sweep: {len(work)} runs, {n_saved} checkpoints, {total:.1f} CPU s, of which sealing {spent:.3f} s"
    )
    for name, seconds in sorted(clock.seconds.items(), key=lambda item: -item[1]):
        print(f"  {name:<14} {seconds:7.4f} s in {clock.calls[name]:>6} calls")
    share = spent / total
    print(f"share {share:.2%}; target at most {SHARE_LIMIT:.0%}: {_verdict(share <= SHARE_LIMIT)}")
    return {
        "what": "sealing's share of a sweep",
        "value": round(share, 5),
        "limit": SHARE_LIMIT,
        "unit": "share of CPU seconds",
        "cpu_s": round(total, 2),
        "n_saved": n_saved,
    }


class _Clock:
    """CPU seconds within functions, by name; a call within a call counts for the outer one."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.calls: dict[str, int] = {}
        self._within = threading.local()
        self._lock = threading.Lock()

    def timed(self, name: str, do: Callable[..., Any]) -> Callable[..., Any]:
        def measured(*args: Any, **kwargs: Any) -> Any:
            if getattr(self._within, "is_so", False):
                return do(*args, **kwargs)
            self._within.is_so, begun = True, time.thread_time()
            try:
                return do(*args, **kwargs)
            finally:
                spent, self._within.is_so = time.thread_time() - begun, False
                with self._lock:
                    self.seconds[name] = self.seconds.get(name, 0.0) + spent
                    self.calls[name] = self.calls.get(name, 0) + 1

        return measured

    @contextmanager
    def running(self) -> Iterator[None]:
        """Time every function of TIMED, under whatever name a module has imported it."""
        changed = []
        modules = [m for name, m in sys.modules.items() if name.startswith("scalelab")]
        for owner, name in TIMED:
            original = getattr(owner, name)
            for holder in {id(m): m for m in (owner, *modules)}.values():
                if vars(holder).get(name) is original:
                    changed.append((holder, name, original))
                    setattr(holder, name, self.timed(name, original))
        try:
            yield
        finally:
            for holder, name, original in changed:
                setattr(holder, name, original)


@contextmanager
def _unhashed() -> Iterator[None]:
    """Let checkpoints be written without the work of hashing."""
    with patch.object(sealed.Checksum, "update", lambda self, data: None):
        yield


def compare(name: str, ways: dict, gigabytes: float, rounds: int) -> dict:
    """Wall seconds of one kind of checkpoint in each way, in turn."""
    # Views of one buffer, as the loop has them.
    flat = torch.randn(64, int(gigabytes * 2**30 / 4 / 64 / 1024), 1024)
    tensors = {f"blocks.{i}.w": tensor for i, tensor in enumerate(flat)}
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    cpu: dict[str, list[float]] = {way: [] for way in ways}
    for i in range(rounds + 1):
        for way in list(ways)[:: 1 if i % 2 else -1]:
            with tempfile.TemporaryDirectory() as directory:
                os.sync()
                begun, cpu_begun = time.perf_counter(), time.process_time()
                ways[way](Path(directory) / "checkpoints", tensors)
                wall, used = time.perf_counter() - begun, time.process_time() - cpu_begun
            if i:  # the first round warms caches
                seconds[way].append(wall)
                cpu[way].append(used)
    if dist.is_initialized():
        sharded.leave()
    for way in ways:
        print(
            f"{name} {way:<9} {statistics.median(seconds[way]):6.2f} s wall "
            f"({min(seconds[way]):.2f} to {max(seconds[way]):.2f}), "
            f"{statistics.median(cpu[way]):.2f} s CPU"
        )
    ratios = {
        other: statistics.median(
            mine / theirs for mine, theirs in zip(seconds["sealed"], seconds[other], strict=True)
        )
        for other in ways
    }
    over = ", ".join(f"{way} {ratio:.2f}" for way, ratio in ratios.items() if way != "sealed")
    print(
        f"{name}: sealed over {over}; target at most {WALL_LIMIT} over plain: "
        f"{_verdict(ratios['plain'] <= WALL_LIMIT)}; load {os.getloadavg()[0]:.1f} on "
        f"{os.cpu_count()} cores"
    )
    return {
        "what": f"sealed over plain, {name} checkpoint",
        "value": round(ratios["plain"], 3),
        "limit": WALL_LIMIT,
        "unit": "ratio of wall seconds",
        "gigabytes": gigabytes,
        **{f"over_{way}": round(ratio, 3) for way, ratio in ratios.items() if way != "sealed"},
        "load": os.getloadavg()[0],
        "seconds": {way: [round(s, 2) for s in values] for way, values in seconds.items()},
    }


def _single(folder: Path, tensors: dict) -> None:
    unsharded.save(folder, "0123456789ab", Progress(step=1), tensors)


def _single_unhashed(folder: Path, tensors: dict) -> None:
    with _unhashed():
        _single(folder, tensors)


def _single_plain(folder: Path, tensors: dict) -> None:
    """As scalelab wrote checkpoints before they were sealed."""
    with whole_dir(folder / "step-00000001") as partial:
        host = {name: tensor.detach().to("cpu").contiguous() for name, tensor in tensors.items()}
        save_file({name: tensor.clone() for name, tensor in host.items()}, partial / "state")
        write_json(partial / "meta.json", vars(Progress(step=1)))


class _Engine:
    """As much of an engine as is saved."""

    is_first = True

    def __init__(self, tensors: dict):
        self._tensors = tensors

    def state(self) -> dict:
        """The tensors."""
        return self._tensors


def _sharded(folder: Path, tensors: dict) -> None:
    saver = sharded.Saver(folder, "0123456789ab", _Engine(tensors))
    saver.begin(Progress(step=1))
    saver.wait()


def _sharded_unhashed(folder: Path, tensors: dict) -> None:
    with _unhashed():
        _sharded(folder, tensors)


def _sharded_plain(folder: Path, tensors: dict) -> None:
    """With torch's writer alone."""
    sharded.Saver(folder, "0123456789ab", _Engine(tensors))  # makes the group of processes
    dcp.async_save(
        _Engine(tensors).state(),
        storage_writer=FileSystemWriter(folder / "sharded-00000001"),
        async_stager=sharded.HostCopy(),
    ).result()
    write_json(folder / "sharded-00000001" / "meta.json", vars(Progress(step=1)))


def _sharded_before(folder: Path, tensors: dict) -> None:
    """As scalelab wrote them before they were sealed."""
    _sharded_plain(folder, tensors)
    for path in (folder / "sharded-00000001").iterdir():
        with open(path, "rb") as file:
            hashlib.file_digest(file, "blake2b")


SINGLE = {"sealed": _single, "unhashed": _single_unhashed, "plain": _single_plain}
SHARDED = {
    "sealed": _sharded,
    "unhashed": _sharded_unhashed,
    "plain": _sharded_plain,
    "before": _sharded_before,
}


def _verdict(is_reached: bool) -> str:
    return "reached" if is_reached else "NOT reached"


if __name__ == "__main__":
    main()
