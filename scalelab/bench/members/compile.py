"""Seconds that compiling adds to the first steps of a run: from an empty cache, and from a filled one.

    cold   first steps in a new process with an empty directory of compiled kernels - as many steady steps
    warm   the same in another new process with what the first one left there

Each mode of compilation has a directory of its own.
"""

import time
from collections.abc import Iterator
from multiprocessing.connection import Connection

from scalelab.bench.attempt import attempt
from scalelab.bench.base import BenchColumn, Benchmark, BenchRow, absent, failed
from scalelab.bench.child import ChildError, ChildProcess
from scalelab.bench.steps import COMPILE_S, TrainingSteps
from scalelab.bench.workbench import SizedSpec, Workbench
from scalelab.config import parse_yaml
from scalelab.hardware.device import find_device
from scalelab.train.engines.compilation import CACHE, compile_note
from scalelab.train.spec import RunSpec
from scalelab.train.step_clock import FIRST_STEPS

MODES = ("block", "whole")


class CompileBenchmark(Benchmark):
    """Compiling the middle model, block by block and as a whole."""

    title = "Compiling"
    seconds = 60.0
    columns = (BenchColumn("cold_s", "cold", "seconds"), BenchColumn("warm_s", "warm", "seconds"))
    note = "Seconds beyond those of steady steps, of a new process with an empty and with a filled cache."

    def rows(self, bench: Workbench, ends: float) -> Iterator[BenchRow]:
        """See Benchmark."""
        is_compiled = bench.device.compile_mode("auto") != "off"
        obstacle = compile_note(bench.device, MODES[0] if is_compiled else "auto")
        for mode in MODES:
            if not is_compiled:
                yield absent(mode, "runs on this type of device are not compiled by default")
            elif obstacle:
                yield absent(mode, obstacle)
            else:
                sized = bench.spec_at(bench.workload.middle, compile=mode)
                yield attempt(
                    mode, bench.device, lambda mode=mode, sized=sized: _row(bench, mode, sized, ends)
                )


def _row(bench: Workbench, mode: str, sized: SizedSpec, ends: float) -> BenchRow:
    seconds: dict[str, float] = {}
    for state in ("cold", "warm"):
        if time.monotonic() + COMPILE_S > ends:
            return absent(mode, f"no time is left for a {state} start")
        try:
            seconds[f"{state}_s"] = compile_seconds(sized.spec, bench.directory / f"compiled-{mode}", ends)
        except ChildError as error:
            reason = f"{state} start: {error.reason}"
            return absent(mode, reason) if error.is_late else failed(mode, reason)
    return BenchRow(mode, "measured", seconds)


def compile_seconds(spec: RunSpec, cache: object, ends: float) -> float:
    """Return the seconds that compiling adds to a run's first steps, measured in a new process.

    Args:
        spec: The run.
        cache: Directory of compiled kernels.
        ends: Time limit on the clock of time.monotonic.

    Raises:
        ChildError: The process ended, or the time limit passed.
    """
    function = f"{__name__}:send_compile_seconds"
    with ChildProcess(function, spec.to_yaml(), environ={CACHE: str(cache)}) as child:
        return child.receive(ends)


def send_compile_seconds(connection: Connection, text: str) -> None:
    """Send the seconds of the first steps beyond those of steady ones; runs in a process of its own.

    Args:
        connection: Receives the seconds.
        text: The run, as the YAML text of its RunSpec.
    """
    steps = TrainingSteps(RunSpec.parse(parse_yaml(text, "spec")), find_device())
    first = steps.seconds(FIRST_STEPS)
    connection.send(max(0.0, first - steps.seconds(FIRST_STEPS)))
