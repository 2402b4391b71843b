"""Read thousands of mutated files and see whether each is read right or refused.

    python analysis/fuzz.py [--scale 1] [--seed 0] [--only WORD] [--commands] [--list]

At scale 1 there are over 1,000 YAML files, 500 tables and 300 files of text and conversations: see
tests/fuzzing. Each is read in a process that may take 20 s and 1 GB for it. --commands puts a sample
of them through the command line as well, in a directory in which nothing may be left behind.

Reported are faults only: an exception that is no ScalelabError, a silent wrong answer, a refusal
without its place or its fix, a warning, output that no one asked for, a file left behind, a process
that died. Exit status: 0 without faults, else 1.
"""

import argparse
import contextlib
import glob
import io
import json
import os
import re
import select
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # this checkout, wherever scalelab is installed

from fuzzing.campaign import Group, groups
from fuzzing.check import LIMIT_S, Case, Outcome, check

ROOT = Path(__file__).resolve().parents[1]
PATIENCE_S = 4 * LIMIT_S
"""Seconds after which a process that does not answer its alarm is killed."""
REFUSAL = re.compile(r"error: .+\n  where: .+(\n         .+)*\n  fix:   .+")
Report = dict[str, Any]


def main() -> int:
    """Run the campaign and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--scale", type=float, default=1.0, help="share of the drawn inputs (default: 1)")
    parser.add_argument("--seed", type=int, default=0, help="seed of what is drawn (default: 0)")
    parser.add_argument("--only", default="", help="groups whose name has this word (default: all)")
    parser.add_argument("--commands", action="store_true", help="the command line too (default: off)")
    parser.add_argument("--list", action="store_true", help="list the groups and exit")
    args = parser.parse_args()
    os.environ["PYTHONPATH"] = str(ROOT)  # for processes that a command starts
    chosen = groups(args.seed, args.scale)
    if args.commands:
        chosen += command_groups(args.seed, args.scale)
    chosen = [group for group in chosen if args.only in group.name]
    if args.list:
        for group in chosen:
            print(f"{sum(1 for _ in group.cases()):5d}  {group.name}")
        return 0
    total: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        for group in chosen:
            start, count, slowest = time.perf_counter(), Counter(), {"seconds": 0.0, "label": ""}
            for report in outcomes(group, Path(folder) / "input"):
                count[report["kind"]] += 1
                slowest = max(slowest, report, key=lambda one: one["seconds"])
                if report["kind"] == "fault":
                    print(f"  {report['label']}: {report['what'][:600]}", flush=True)
            total += count
            print(
                f"{group.name}: {count['read']} read, {count['refused']} refused, {count['fault']} faults "
                f"in {time.perf_counter() - start:.0f} s; slowest {slowest['seconds']:.1f} s {slowest['label'][:60]}",
                flush=True,
            )
    print(f"{sum(total.values())} inputs: {dict(total)}")
    return 1 if total["fault"] else 0


def outcomes(group: Group, folder: Path) -> Iterator[Report]:
    """Yield what came of each input, read in a process of its own that is replaced when it dies."""
    done = 0
    while True:
        reports, ended = [], False
        for report in _in_child(group, folder, skip=done):
            if "end" in report:
                ended = True
            elif "kind" in report:
                done += 1
                yield report
            reports.append(report)
        if ended:
            return
        label = reports[-1].get("label", group.name) if reports else group.name
        done += 1
        yield {"label": label, "kind": "fault", "what": "the process died or did not answer", "seconds": 0.0}


def _in_child(group: Group, folder: Path, skip: int) -> Iterator[Report]:
    """Yield reports of one process: {"label"} before an input, all of it afterwards, {"end"} at the end."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(read)
            with open(write, "w", encoding="utf-8") as out:

                def send(report: Report) -> None:
                    print(json.dumps(report, default=str), file=out, flush=True)

                for case in islice(group.cases(), skip, None):
                    send({"label": case.label})
                    send(_report(check(case, group.reader, folder)))
                send({"end": True})
            status = 0
        finally:
            os._exit(status)
    os.close(write)
    buffer = b""
    try:
        while select.select([read], [], [], PATIENCE_S)[0]:
            data = os.read(read, 1 << 16)
            if not data:
                break
            *whole, buffer = (buffer + data).split(b"\n")
            yield from map(json.loads, whole)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(read)


def _report(outcome: Outcome) -> Report:
    return {
        "label": outcome.case.label,
        "kind": outcome.kind,
        "what": outcome.what,
        "seconds": outcome.seconds,
    }


SWEEP = """
name: fuzz
question: Is it read?
prediction: It is, or it is refused.
recipe:
  data: {{source: {{kind: text, paths: [{path}]}}, tokenizer: {{kind: bytes}}, validation: 0.2}}
  seq_len: 32
  model: {{kind: transformer, n_layers: 1, head_size: 4}}
  optimizer: {{lr: 3e-3}}
design: {{kind: isoflop, budgets: [1e9]}}
"""
"""A sweep file whose corpus is one file of text, in the current directory."""


def command_groups(seed: int, scale: float) -> list[Group]:
    """Return a sample of the inputs of each kind with the command that reads them."""

    def fit(path: str) -> list[str]:
        return ["fit", path, "--replicates", "20", "--target", "1e22"]

    def data(path: str) -> list[str]:
        Path("sweep.yaml").write_text(SWEEP.format(path=json.dumps(glob.escape(path))), encoding="utf-8")
        return ["data", "sweep.yaml"]

    commands: dict[str, Callable[[str], list[str]]] = {
        "sweep files": lambda path: ["sweep", path, "--dry-run", "--no-timing"],
        "posttrain files": lambda path: ["posttrain", path, "--dry-run"],
        "evaluation files": lambda path: ["eval", path, "--dry-run"],
        "special YAML files": lambda path: ["sweep", path, "--dry-run", "--no-timing"],
        "damaged tables": fit,
        "bad cells": fit,
        "fits of odd numbers": fit,
        "special tables": fit,
        "damaged text": data,
        "bad records of text": data,
        "special text": data,
        "rates files": lambda path: [
            *("plan", "--params", "1e9", "--tokens", "2e10", "--gpu", "h100", "--gpus", "8"),
            *("--mfu", "0.4", "--rates", path),
        ],
    }
    by_name = {group.name: group for group in groups(seed, scale / 5)}
    return [
        Group(f"command: {name}", _command(words), _without_answers(by_name[name]))
        for name, words in commands.items()
    ]


def _without_answers(group: Group) -> Callable[[], Iterator[Case]]:
    """The cases of a group, of which the command line gives no answer to compare."""

    def cases() -> Iterator[Case]:
        for case in group.cases():
            if not case.settings:
                yield Case(case.label, case.name, case.data, case.make, overrides=case.overrides)

    return cases


def _command(words: Callable[[str], list[str]]) -> Callable[..., None]:
    """Return a reader that runs a command, and raises where it ended in another way than it may."""
    from scalelab.cli.main import main as scalelab

    def run(path: Path, overrides: tuple[str, ...] = ()) -> None:
        here = os.getcwd()
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            os.environ["SCALELAB_CACHE"] = f"{folder}/cache"
            try:
                argv = words(str(path)) + [word for text in overrides for word in ("--set", text)]
                before = set(_files(Path(folder)))
                status, out, err = _run(scalelab, argv)
                left = set(_files(Path(folder))) - before
            finally:
                os.chdir(here)
        _check_end(status, out, err, left)

    return run


def _run(command: Callable[[list[str]], int], argv: list[str]) -> tuple[Any, str, str]:
    """Return exit status, standard output and standard error of a command of this process."""
    out, err = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = command(argv)
    except SystemExit as ended:  # argparse
        status = ended.code
    return status, out.getvalue(), err.getvalue()


def _check_end(status: Any, out: str, err: str, left: set[str]) -> None:
    assert status in (0, 2), f"exit status {status}: {err[-300:]}"
    assert status == 0 or REFUSAL.search(err) or err.startswith("usage:"), f"no refusal: {err[-300:]!r}"
    unexpected = [name for name in left if "cache/" not in name or ".partial" in name]
    assert status == 0 or not unexpected, f"refused, and left behind: {unexpected}"
    assert not [name for name in left if ".partial" in name], f"half written: {left}"
    assert "Traceback" not in err + out, err[-300:]
    assert "Warning:" not in err, err[-300:]
    found = re.search("[\x00-\x08\x0b-\x1a\x1c-\x1f\x7f]", err + out)
    assert not found, f"control character {found.group()!r} on the terminal"


def _files(folder: Path) -> list[str]:
    return [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]


if __name__ == "__main__":
    sys.exit(main())
