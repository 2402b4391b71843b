"""Several runs on one device at once, against one: tokens per second of all of them together.

    gain   tokens per second of n processes that train at the same time / those of one process

Small models leave most of a GPU idle; whether several of them share it well is measured here. All
processes are ready before any begins, and all train for the same seconds. On a CPU every process has an
equal part of the threads, as the runs of a sweep have.
"""

import time
from collections.abc import Iterator
from multiprocessing.connection import Connection

import torch

from scalelab.bench.attempt import attempt
from scalelab.bench.base import BenchColumn, Benchmark, BenchRow, absent, failed
from scalelab.bench.child import ChildError, ChildProcess
from scalelab.bench.steps import TrainingSteps
from scalelab.bench.workbench import SizedSpec, Workbench
from scalelab.config import parse_yaml
from scalelab.hardware.device import find_device, use_threads
from scalelab.train.memory import SHARE_OF_DEVICE, run_bytes
from scalelab.train.spec import RunSpec
from scalelab.train.step_clock import FIRST_STEPS
from scalelab.units import size_text

COUNTS = (1, 2, 4)
"""Numbers of processes, 1 first."""
MEASURED_S = 4.0
"""Seconds that all of them train."""
START_S = 15.0
"""Seconds that the start of the processes is assumed to take, when it is decided what to begin."""


class SeveralRunsBenchmark(Benchmark):
    """The smallest model in one, two and four processes."""

    title = "Several runs on one device"
    seconds = 60.0
    columns = (
        BenchColumn("runs", "runs", "runs", "computed"),
        BenchColumn("tokens_per_s", "together", "tokens/s"),
        BenchColumn("each_tokens_per_s", "each", "tokens/s"),
        BenchColumn("gain", "against one", "ratio"),
    )

    def rows(self, bench: Workbench, ends: float) -> Iterator[BenchRow]:
        """See Benchmark."""
        sized = bench.sizes()[0]
        found: dict[int, float] = {}
        for count in COUNTS:
            name = f"{count} x {sized.name}"
            reason = _obstacle(bench, sized, count, ends, bool(found) or count == COUNTS[0])
            if reason:
                yield absent(name, reason)
            else:
                yield attempt(
                    name, bench.device, lambda name=name, count=count: _row(sized, name, count, ends, found)
                )


def _obstacle(bench: Workbench, sized: SizedSpec, count: int, ends: float, is_comparable: bool) -> str:
    """Return why so many processes are not started; empty where they are."""
    if not is_comparable:
        return "there is no rate of one run to compare with"
    if bench.device.kind == "cpu":
        if count > torch.get_num_threads():
            return f"{count} runs would share {torch.get_num_threads()} threads"
    elif bench.device.memory_bytes is not None:
        spec = sized.spec
        rows = spec.batch_tokens // spec.seq_len
        memory_bytes = bench.device.memory_bytes
        need = count * run_bytes(spec, bench.precision, rows, bench.device.kind, memory_bytes)
        if need > SHARE_OF_DEVICE * bench.device.memory_bytes:
            return f"together they need {size_text(need)} of memory"
    if time.monotonic() + START_S + MEASURED_S > ends:
        return "no time is left for it"
    return ""


def _row(sized: SizedSpec, name: str, count: int, ends: float, found: dict[int, float]) -> BenchRow:
    threads = max(1, torch.get_num_threads() // count)
    try:
        rates = rates_together(sized.spec, count, threads, ends)
    except ChildError as error:
        return absent(name, error.reason) if error.is_late else failed(name, error.reason)
    found[count] = sum(rates)
    return BenchRow(
        name,
        "measured",
        {
            "runs": count,
            "tokens_per_s": found[count],
            "each_tokens_per_s": found[count] / count,
            "gain": found[count] / found[COUNTS[0]],
        },
    )


def rates_together(spec: RunSpec, count: int, threads: int, ends: float) -> list[float]:
    """Return the tokens per second of each of several processes that train at the same time.

    Args:
        spec: Run of each.
        count: Number of processes.
        threads: Threads of each on a CPU.
        ends: Time limit on the clock of time.monotonic.

    Raises:
        ChildError: A process ended, or the time limit passed.
    """
    function, text = f"{__name__}:send_rate", spec.to_yaml()
    children = [ChildProcess(function, text, threads, MEASURED_S) for _ in range(count)]
    try:
        for child in children:
            child.receive(ends)  # it is ready
        for child in children:
            child.send("begin")
        return [child.receive(ends) for child in children]
    finally:
        for child in children:
            child.close()


def send_rate(connection: Connection, text: str, threads: int, seconds: float) -> None:
    """Send "ready", wait, train for some seconds and send tokens per second; runs in its own process.

    Args:
        connection: To the process that started this one.
        text: The run, as the YAML text of its RunSpec.
        threads: Threads on a CPU.
        seconds: Seconds to train.
    """
    device = find_device()
    use_threads(threads if device.kind == "cpu" else None)
    spec = RunSpec.parse(parse_yaml(text, "spec"))
    steps = TrainingSteps(spec, device)
    steps.seconds(FIRST_STEPS)
    connection.send("ready")
    connection.recv()
    taken, begun = 0, time.perf_counter()
    while (passed := time.perf_counter() - begun) < seconds:
        steps.seconds(1)
        taken += 1
    connection.send(taken * spec.batch_tokens / passed)
