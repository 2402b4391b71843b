"""`scalelab bench`: measure this device: correctness, speed, memory, settings."""

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from scalelab.cli.arguments import examples
from scalelab.screen import echo

DESCRIPTION = (
    "Measure this device: losses against an fp32 CPU reference, tokens per second, MFU and memory by model "
    "size, each setting on and off, attention, compiling, checkpoints, validation, several runs at once. What "
    "the device cannot do is absent, with the reason. Leaves no files without --json and --out. Exit status: "
    "0 done, 1 a row failed (a wrong loss, an MFU above 1, a crash), 2 wrong usage, 130 interrupted."
)
EXAMPLES = examples(
    "scalelab bench",
    "scalelab bench --only correctness throughput --minutes 4",
    "scalelab bench --out analysis/gpu",
)
MINUTES = {"cuda": 8.0, "cpu": 4.0}
"""Default length by type of device, minutes."""
HIDE_GPUS = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument(
        "--device",
        choices=("cpu", "cuda"),
        help="type of device (default: a GPU if there is one, else the CPU)",
    )
    parser.add_argument(
        "--only",
        nargs="+",
        default=[],
        metavar="NAME",
        help="benchmarks to run, such as throughput (default: all)",
    )
    parser.add_argument(
        "--minutes",
        type=float,
        metavar="N",
        help="time limit of the command in minutes (default: 8 on a GPU, 4 on a CPU)",
    )
    parser.add_argument(
        "--json",
        type=Path,
        metavar="FILE",
        help="also write the record to FILE as JSON (default: not written)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="also write the record to DIR/DEVICE-DATE.json, such as analysis/gpu (default: not written)",
    )


def run(args: argparse.Namespace) -> int:
    """Measure, print each table when it is complete, and return the exit status."""
    import tempfile
    import time
    from datetime import datetime

    from scalelab.bench.record import BenchRecord, describe_device
    from scalelab.bench.runner import chosen, run_benchmarks
    from scalelab.files import make_dir, write_json
    from scalelab.records.provenance import code_version
    from scalelab.report.bench.document import device_document, result_document, summary_document
    from scalelab.report.render.terminal import render_terminal

    names = chosen(args.only)
    with _shown_devices(args.device):
        device = describe_device()
        _check(args, device.kind)
        minutes = args.minutes or MINUTES[device.kind]
        echo(render_terminal(device_document(device)))
        date, begun, results = datetime.now().astimezone(), time.monotonic(), []
        interrupted = False
        with tempfile.TemporaryDirectory(prefix="scalelab-bench-", ignore_cleanup_errors=True) as directory:
            try:
                for result in run_benchmarks(names, Path(directory), minutes):
                    results.append(result)
                    echo(render_terminal(result_document(result)))
            except KeyboardInterrupt:
                interrupted = True
    record = BenchRecord(date, code_version(), device, minutes, time.monotonic() - begun, results)
    echo(render_terminal(summary_document(record)))
    if interrupted:
        echo("Interrupted; the tables above are complete, and no file was written.")
        return 130
    paths = [args.json] if args.json is not None else []
    if args.out is not None:
        paths.append(make_dir(args.out) / record.file_name)
    for path in paths:
        write_json(path, record.to_json())
        echo(f"record: {path}")
    return 1 if record.n_failed else 0


def _check(args: argparse.Namespace, kind: str) -> None:
    """Refuse a device that is not there, and a length that is none."""
    from scalelab.errors import ConfigError

    if args.device == "cuda" and kind != "cuda":
        raise ConfigError(
            "torch finds no GPU that it can use",
            where="--device cuda",
            fix="run `scalelab doctor`, which says why; or measure the CPU: --device cpu",
        )
    if args.minutes is not None and not 0 < args.minutes < float("inf"):
        raise ConfigError(
            f"a length of {args.minutes:g} minutes is none",
            where="--minutes",
            fix="give a positive number of minutes, such as --minutes 8",
        )


@contextmanager
def _shown_devices(kind: str | None) -> Iterator[None]:
    """Hide the GPUs from the processes that are started in the body, where the CPU is asked for."""
    before = {name: os.environ.get(name) for name in HIDE_GPUS}
    if kind == "cpu":
        os.environ.update(dict.fromkeys(HIDE_GPUS, ""))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
