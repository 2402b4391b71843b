"""Kill every long command many times, run it again, and compare with an undisturbed run.

    python analysis/kills.py [--only sweep] [--seed 0] [--scale 0.1] [--keep DIR]

Everything runs through the command line on tiny data made here. The signal is always SIGKILL.

    what       kills  of what
    sweep      40     process tree, parent alone, one training child, fork server: a quarter each
    launch     10     process tree, parent alone, training child
    posttrain  20     process tree, parent alone, one stage's process
    data       10     process tree or parent alone, on a cold cache
    fit        10     process tree or parent alone, while the report is being written

After some kills the same command runs until it exits with 0, and the result is compared with the
undisturbed one: losses, curves, tensors and report files bit by bit, no result lost, rewritten or
present twice, the same MLflow rows. Processes recorded before a parent was killed must be gone
`ORPHAN_S` seconds later (more on a busy machine), and no half-written file may remain. Moments are
seeded and wait for progress (journal lines, results, checkpoints, files) rather than for seconds.

Exit status: 0 without deviations, else 1.

`campaign` is also used by tests/journeys. How processes and files are read: observe.py.
"""

import argparse
import hashlib
import itertools
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from observe import (
    SWEEP,
    Found,
    World,
    born,
    command_of,
    descendants,
    fork_servers,
    kill,
    leftovers,
    living,
    mirrored,
    run_results,
    stage_results,
    workers,
    working_in,
)

ORPHAN_S = 15.0
"""How long a process may outlive its killed parent. The MLflow syncer makes a last pass first."""
PATIENCE_S = 300.0
"""How long a command may go on without reaching the moment of the next kill, or its end. Both
limits are for an idle machine and grow with its load (`limit_s`)."""
TRIES = 5
"""How often the same command is run, undisturbed, before the round counts as failed."""

POSTTRAIN = """
name: made
question: Does it hold together?
base: BASE
data: skills
grades: {prompts: 6, retention_tokens: 1024}
stages:
- {kind: sft, name: sft, sizes: [16, 64], batch: 8, epochs: 3, rates: {lr: 1e-2}}
- {kind: preferences, name: pairs, first: sft, judge: gold, prompts: 60, batch: 10, n_new: 12}
- {kind: reward, name: judge, start: sft, pairs: pairs, batch: 8, rates: {lr: 1e-2}}
- {kind: dpo, name: dpo, start: sft, pairs: pairs, batch: 8, epochs: 2, rates: {lr: 1e-3}}
- {kind: ppo, name: ppo, start: sft, reward: judge, steps: 8, batch: 16, n_new: 12,
   rates: {lr: 1e-3}}
- {kind: best_of, name: best, start: sft, proxy: judge, prompts: 6, draws: 4, n: [1, 2, 4],
   n_new: 12}
"""
LONG_BUDGET = "1.2e11"
"""FLOPs of the campaign's largest slice: its runs are long enough to write checkpoints."""


def limit_s(seconds: float) -> float:
    """A time limit on this machine now: longer when more processes than cores want to run."""
    return seconds * max(1.0, 2 * os.getloadavg()[0] / (os.cpu_count() or 1))


# What is killed.

Moment = tuple[str, Callable[[], bool]]
"""A moment in words, and whether it has come."""


class Subject:
    """A command that is killed. Members say how it is set up, watched and compared."""

    name: str
    kinds: tuple[str, ...]
    """What is killed in turn: tree, parent, child, server."""
    kills: int
    """In the full campaign."""
    per_round: int
    """Kills of one world before its command may finish."""
    argv: tuple[str, ...]
    delay_s = 0.2
    """A kill comes up to so much later than its moment."""
    poll_s = 0.03
    """How often progress is looked at."""

    def world(self, name: str) -> World:
        """A new world in which the command can be run."""
        raise NotImplementedError

    def moment(self, draw: random.Random, world: World, process: subprocess.Popen) -> Moment:
        """When to kill: a name, and a function that says whether the moment has come."""
        raise NotImplementedError

    def found(self, world: World) -> Found:
        """What the command came to."""
        raise NotImplementedError

    def folders(self, world: World) -> list[Path]:
        """Where nothing half-written may remain."""
        return [world.runs, world.path / "reports", world.cache]


class Training(Subject):
    """A command whose processes write journals below runs/NAME."""

    folder: str
    moments = ("starting", "lines", "lines", "lines", "result", "save")
    """Drawn from; one that never comes costs an undisturbed run."""
    most_lines = 40
    most_results = 2

    def moment(self, draw: random.Random, world: World, process: subprocess.Popen) -> Moment:
        """On the way to training, after some lines of the journals, at a save or at a result."""
        kind = draw.choice(self.moments)
        if kind == "starting":
            n = draw.randint(2, 5)
            return f"{n} processes", lambda: len(descendants(process.pid)) >= n
        watched, more = {
            "lines": (self._n_lines, draw.randint(1, self.most_lines)),
            "result": (self._n_results, draw.randint(1, self.most_results)),
            "save": (self._n_saves, 1),
        }[kind]
        before = watched(world)
        return f"{more} {kind}", lambda: watched(world) >= before + more

    def _n_lines(self, world: World) -> int:
        logs = (world.runs / self.folder).glob("*/log.jsonl")
        return sum(log.read_bytes().count(b"\n") for log in logs)

    def _n_results(self, world: World) -> int:
        return len(list((world.runs / self.folder).glob("*/result.json")))

    def _n_saves(self, world: World) -> int:
        """Step of the newest checkpoint, whole or being written, summed over runs."""
        total = 0
        for place in (world.runs / self.folder).glob("*/checkpoints"):
            total += max(map(_step_of, place.glob("*-0*")), default=0)
        return total


def _step_of(path: Path) -> int:
    """One more than the step in a checkpoint's name, whole or partial; 0 when there is none."""
    number = path.name.lstrip(".").partition("-")[2].partition(".")[0].partition("-")[0]
    return 1 + int(number) if number.isdigit() else 0


class Sweep(Training):
    """`scalelab sweep`."""

    name, kinds, kills, per_round = "sweep", ("tree", "parent", "child", "server"), 40, 20
    folder = "journey"
    argv = ("sweep", "journey.yaml", "--set", "launch.retries=20")

    def __init__(self, make: Callable[[str], World]):
        self.world = make

    def found(self, world: World) -> Found:
        return run_results(world.runs / self.folder)


class Launch(Training):
    """`scalelab launch` of a plan that `planned` holds."""

    name, kinds, kills, per_round = "launch", ("tree", "parent", "child"), 10, 5
    folder, most_results = "plan", 1
    argv = ("launch", "plan", "--set", "checkpoint_s=0.3", "--set", "retries=20")

    def __init__(self, make: Callable[[str], World], planned: World):
        self.make, self.planned = make, planned

    def world(self, name: str) -> World:
        world = self.make(name)
        shutil.copytree(self.planned.runs, world.runs)
        shutil.copytree(self.planned.path / "plan", world.path / "plan")
        return world

    def found(self, world: World) -> Found:
        """The run, that its report tells its loss, and what is in the ledger of forecasts."""
        found = run_results(world.runs / self.folder)
        loss = json.dumps(found[0][1][0][1]) if found else "?"
        outcome = world.path / "reports" / "plan" / "outcome.json"
        if outcome.exists():
            found.append((("report",), loss in outcome.read_text()))
        ledger = sorted(p.name for p in (world.runs / "forecasts").glob("*"))
        return [*found, (("ledger",), ledger)]


class Posttrain(Training):
    """`scalelab posttrain`, from the base model that a sweep named base trained in `based`."""

    name, kinds, kills, per_round = "posttrain", ("tree", "parent", "child"), 20, 7
    folder, most_lines = "made", 12
    moments = ("starting", "lines", "lines", "result")  # too short for checkpoints
    argv = ("posttrain", "made.yaml")

    def __init__(self, make: Callable[[str], World], based: World):
        self.make, self.based = make, based

    def world(self, name: str) -> World:
        world = self.make(name)
        shutil.copytree(self.based.runs, world.runs)
        base = min(
            (world.runs / "base").glob("*/result.json"),
            key=lambda path: json.loads(path.read_text())["n_params_total"],
        ).parent
        text = POSTTRAIN.replace("BASE", str(base.relative_to(world.path)))
        (world.path / "made.yaml").write_text(text)
        return world

    def found(self, world: World) -> Found:
        report = world.path / "reports" / "made"
        names = sorted(p.name for p in report.glob("*") if p.suffix != ".partial")
        return [*stage_results(world.runs / self.folder), (("report",), names)]


class Data(Subject):
    """`scalelab data` with a cold cache, on the text of `large`."""

    name, kinds, kills, per_round = "data", ("tree", "parent"), 10, 3
    delay_s, poll_s = 0.02, 0.005
    argv = ("data", "journey.yaml", "--set", "recipe.data.tokenizer={kind: bpe, vocab_size: 512}")

    def __init__(self, make: Callable[[str], World], large: Path):
        self.make, self.large = make, large

    def world(self, name: str) -> World:
        world = self.make(name)
        world.environ["SCALELAB_CACHE"] = str(world.path / "cache")
        (world.path / "journey.yaml").write_text(SWEEP.replace("TEXT", str(self.large)))
        return world

    def moment(self, draw: random.Random, world: World, process: subprocess.Popen) -> Moment:
        """At some size of what is being written, or as files are moved to their place."""
        cache, since = world.cache, time.time_ns()
        watched, least = draw.choice(
            (
                ("locks/*", 0),
                ("partial/*", 0),
                ("partial/*/*", draw.randint(1, int(0.3 * _size(self.large)))),
                ("partial/*/*", draw.randint(1, int(0.3 * _size(self.large)))),
                ("corpora/.*", 0),
                ("corpora/[0-9a-f]*", 0),
            )
        )

        def has_come() -> bool:
            new = [size for at, size in _stats(cache.glob(watched)) if at >= since]
            return bool(new) and sum(new) >= least

        return f"{least} bytes in {watched}", has_come

    def found(self, world: World) -> Found:
        """Every file of every corpus, and the keys."""
        corpora, keys = world.cache / "corpora", world.cache / "keys"
        return [*_files(corpora, corpora.rglob("*")), *_files(keys, keys.glob("*"))]

    def folders(self, world: World) -> list[Path]:
        return [world.cache]


class Fit(Subject):
    """`scalelab fit` of the sweep in `swept`, while the report is written."""

    name, kinds, kills, per_round = "fit", ("tree", "parent"), 10, 4
    delay_s, poll_s = 0.02, 0.005
    argv = ("fit", "journey", "--law", "kaplan", "--replicates", "30")

    def __init__(self, make: Callable[[str], World], swept: World):
        self.make, self.swept = make, swept

    def world(self, name: str) -> World:
        world = self.make(name)
        shutil.copytree(self.swept.runs, world.runs)
        return world

    def moment(self, draw: random.Random, world: World, process: subprocess.Popen) -> Moment:
        """Once some files of the report have been written or begun by this command."""
        out, more, since = world.path / "reports" / "journey", draw.randint(1, 18), time.time_ns()

        def has_come() -> bool:
            return sum(at >= since for at, _ in _stats(out.glob("*"))) >= more

        return f"{more} files", has_come

    def found(self, world: World) -> Found:
        """Every file of the report, but for the commit of the code that it names."""
        out = world.path / "reports" / "journey"
        page = out / "README.md"
        lines = page.read_text().splitlines() if page.exists() else []
        rest = [line for line in lines if not line.startswith("| commit |")]
        return [*_files(out, set(out.glob("*")) - {page}), ((page.name,), rest)]


def _stats(paths: Iterable[Path]) -> list[tuple[int, int]]:
    """Time of change in ns, and size, of files that may be moved or removed meanwhile."""
    found = []
    for path in paths:
        with suppress(OSError):
            stat = path.stat()
            found.append((stat.st_mtime_ns, stat.st_size))
    return found


def _size(folder: Path) -> int:
    return sum(size for _, size in _stats(folder.rglob("*")))


def _files(folder: Path, paths: Iterable[Path]) -> Found:
    """Name below `folder` and sha256 of each file; `leftovers` reports partial ones."""
    return sorted(
        ((str(p.relative_to(folder)),), hashlib.sha256(p.read_bytes()).hexdigest())
        for p in paths
        if p.is_file() and p.suffix != ".partial"
    )


# A campaign.


@dataclass
class Tally:
    """What came of the kills of one subject."""

    what: str
    kills: Counter[str] = field(default_factory=Counter)
    rounds: int = 0
    finished: int = 0
    """Rounds whose command came to exit status 0."""
    is_equal: bool = True
    lost: int = 0
    twice: int = 0
    orphans: int = 0
    leftovers: int = 0
    slowest_s: float = 0.0
    """Longest time that a process was seen to outlive its killed parent."""
    notes: list[str] = field(default_factory=list)
    """Every deviation, in words. Empty: there is none."""

    def row(self) -> list[str]:
        """Cells of the table."""
        kinds = ", ".join(f"{n} {kind}" for kind, n in sorted(self.kills.items()))
        state = "finished" if self.finished == self.rounds else "not finished"
        return [
            self.what,
            f"{self.kills.total()} ({kinds})",
            f"{state} ({self.finished}/{self.rounds} rounds)",
            "yes" if self.is_equal else "NO",
            *map(str, (self.lost, self.twice, self.orphans, self.leftovers)),
        ]


COLUMNS = (*("what", "kills done", "final state", "bit-equal"), *("lost", "twice", "orphans", "leftovers"))


def run_undisturbed(subject: Subject) -> World:
    """A world in which the command has been run once and nothing happened to it."""
    world = subject.world(f"{subject.name}-undisturbed")
    done = world(*subject.argv, timeout=limit_s(PATIENCE_S))
    if done.returncode != 0:
        raise SystemExit(f"{subject.name} fails undisturbed:\n{done.stdout}\n{done.stderr}")
    return world


def campaign(
    subject: Subject,
    kinds: Sequence[str],
    seed: int,
    reference: World,
    say: Callable[[str], None] = lambda line: None,
) -> Tally:
    """Kill a subject's command once for each of `kinds`, in as many rounds as that takes.

    Args:
        subject: What is killed.
        kinds: tree, parent, child or server, in order.
        seed: Of the moments.
        reference: A world in which the same command was undisturbed.
        say: Hears of each kill.
    """
    tally, draw, todo = Tally(subject.name), random.Random(seed), list(kinds)
    idle = 0
    while todo and idle < TRIES:
        tally.rounds += 1
        before = len(todo)
        _Round(subject, tally, draw, say).run(todo, reference)
        idle = idle + 1 if len(todo) == before else 0
    if todo:
        tally.notes.append(f"{len(todo)} kills left out: the command ended before each of them")
    return tally


class _Round:
    """One world, from its first kill to a finished command and the comparison."""

    def __init__(self, subject: Subject, tally: Tally, draw: random.Random, say):
        self.subject, self.tally, self.draw, self.say = subject, tally, draw, say
        self.world = subject.world(f"{subject.name}-{tally.rounds}")
        self.said: list[Path] = []
        self.pending: list[tuple[float, dict[int, str | None]]] = []
        self.finished: dict[Path, bytes] = {}
        self.process: subprocess.Popen | None = None

    def run(self, todo: list[str], reference: World) -> None:
        """Do kills from the front of `todo`, then finish and compare."""
        if self._kill_some(todo):
            self._finish()
        self._wait_for_orphans()
        self._compare(reference)

    def _kill_some(self, todo: list[str]) -> bool:
        """Whether the command still has to be finished afterwards."""
        done = failures = 0
        while todo and done < self.subject.per_round:
            if self.process is None:
                self.process = self._start()
            kind = todo[0]
            when, has_come = self.subject.moment(self.draw, self.world, self.process)
            code = self._wait(has_come, kind)
            if code is None:
                time.sleep(self.draw.uniform(0.0, self.subject.delay_s))
                targets = self._targets(kind)
                if not targets or self.process.poll() is not None:
                    continue
                self._kill(kind, targets, when)
                todo.pop(0)
                done += 1
            elif code == 0:
                self.process = None
                return False
            else:
                failures += 1
                if failures > 2 * TRIES:
                    self._note(f"gave up killing: {failures} failures in one round")
                    return True
        return True

    def _start(self) -> subprocess.Popen:
        path = self.world.path / f"said-{len(self.said):03d}.txt"
        self.said.append(path)
        with open(path, "w") as out:
            return self.world.start(*self.subject.argv, stdout=out, stderr=out)

    def _targets(self, kind: str) -> list[int]:
        process = self.process
        assert process is not None
        if kind == "parent":
            return [process.pid]
        if kind == "server":
            return fork_servers(process.pid)
        if kind == "child":
            assert isinstance(self.subject, Training)
            known = set(workers(self.world.runs / self.subject.folder))
            return sorted(known & set(working_in(self.world.path)))
        return descendants(process.pid)

    def _kill(self, kind: str, targets: list[int], when: str) -> None:
        process = self.process
        assert process is not None
        self._remember()
        before = {pid: born(pid) for pid in descendants(process.pid)}
        kill([self.draw.choice(targets)] if kind == "child" else targets)
        self.tally.kills[kind] += 1
        self.say(f"{self.subject.name}: killed {kind} at {when}")
        if kind in {"tree", "parent"}:
            process.wait()
            self.process = None
            self.pending.append((time.monotonic(), before))
            # Half of the times the command runs again at once, beside what may still be there.
            if self.draw.random() < 0.5:
                self._wait_for_orphans()

    def _wait(self, has_come: Callable[[], bool], kind: str | None = None) -> int | None:
        """Wait for a moment and something to kill. None: both are there; else the exit status."""
        process = self.process
        assert process is not None
        deadline = time.monotonic() + limit_s(PATIENCE_S)
        while process.poll() is None:
            if has_come() and (kind is None or self._targets(kind)):
                return None
            if time.monotonic() > deadline:
                tail = self.said[-1].read_text()[-300:]
                self._note(f"hung; it last printed: {tail!r}")
                kill(descendants(process.pid))
                process.wait()
            time.sleep(self.subject.poll_s)
        self.process = None
        self._check_ending(process.returncode)
        return process.returncode

    def _check_ending(self, code: int) -> None:
        """Exit status 1 tells of killed children, after too many tries. Others are deviations."""
        if code not in (0, 1) and code != -signal.SIGKILL:
            lines = self.said[-1].read_text().strip().splitlines()
            error = next((i for i, line in enumerate(lines) if line.startswith("error:")), -1)
            words = " | ".join(line.strip() for line in lines[error:][:3])
            self._note(f"ended by itself with exit status {code}: {words}")

    def _finish(self) -> None:
        """Run the same command until it exits with 0."""
        for _ in range(TRIES):
            was_hit = self.process is not None
            self.process = self.process or self._start()
            code = self._wait(lambda: False)
            if code == 0:
                return
            if not was_hit:
                self._note(f"run again undisturbed it ended with exit status {code}")
        self._note(f"not finished after {TRIES} undisturbed tries")

    def _remember(self) -> None:
        """Results that are there must never change again."""
        for path in self.world.runs.glob("*/*/result.json"):
            with suppress(OSError):
                self.finished.setdefault(path, path.read_bytes())

    def _wait_for_orphans(self) -> None:
        for since, processes in self.pending:
            while living(processes) and time.monotonic() < since + limit_s(ORPHAN_S):
                time.sleep(0.05)
                self.tally.slowest_s = max(self.tally.slowest_s, time.monotonic() - since)
            self._count_orphans(living(processes))
        self.pending = []

    def _count_orphans(self, pids: list[int]) -> None:
        self.tally.orphans += len(pids)
        for pid in pids:
            self._note(f"orphan {pid}: {command_of(pid)[:120]}")
        kill(pids)

    def _compare(self, reference: World) -> None:
        tally, subject, world = self.tally, self.subject, self.world
        deadline = time.monotonic() + limit_s(ORPHAN_S)
        while working_in(world.path) and time.monotonic() < deadline:
            time.sleep(0.1)
        self._count_orphans(working_in(world.path))
        tally.finished += not any("not finished" in n for n in self._own_notes())
        ours, theirs = subject.found(world), dict(subject.found(reference))
        counts = Counter(identity for identity, _ in ours)
        lost = sorted(map(str, theirs.keys() - counts.keys()))
        twice = [str(i) for i, n in counts.items() if n > 1 or i not in theirs]
        unequal = [str(i) for i, values in ours if i in theirs and values != theirs[i]]
        for path, data in self.finished.items():
            if not path.exists() or path.read_bytes() != data:
                twice.append(f"{path.relative_to(world.path)}, which was done already")
        lines_lost, lines_twice = self._compare_rows(reference)
        for words, items in (
            ("lost", lost + lines_lost),
            ("twice", twice + lines_twice),
            ("not equal", unequal),
        ):
            if items:
                self._note(f"{words}: {', '.join(items[:5])}")
        tally.lost += len(lost + lines_lost)
        tally.twice += len(twice + lines_twice)
        tally.is_equal = tally.is_equal and not unequal
        left = leftovers(*subject.folders(world))
        tally.leftovers += len(left)
        for path in left:
            name = path.relative_to(world.path) if path.is_relative_to(world.path) else path
            self._note(f"leftover {name}")
        self._look_for_tracebacks()

    def _compare_rows(self, reference: World) -> tuple[list[str], list[str]]:
        """Rows of MLflow by run, compared without the runs' keys."""
        if "MLflow is behind" in self.said[-1].read_text():  # as on a busy machine: documented
            synced = self.world("sync", timeout=limit_s(PATIENCE_S))
            if synced.returncode != 0:
                self._note(f"MLflow stays behind: {' '.join(synced.stderr.split())[:200]}")
                return ["MLflow"], []
        worlds = (self.world, reference)
        rows = (mirrored(world.runs / "mlflow.db").values() for world in worlds)
        ours, theirs = (Counter(map(tuple, each)) for each in rows)
        lost = [f"MLflow rows of a run that has {len(rows)}" for rows in theirs - ours]
        more = [f"MLflow rows of a run that has {len(rows)}" for rows in ours - theirs]
        return lost, more

    def _look_for_tracebacks(self) -> None:
        logs = [*self.said, *self.world.runs.rglob("traceback*"), *self.world.runs.rglob("sync.log")]
        for path in logs:
            text = path.read_text(errors="replace")
            if words := _traceback_in(text):
                self._note(f"traceback in {path.relative_to(self.world.path)}: {words}")

    def _note(self, words: str) -> None:
        self.tally.notes.append(f"round {self.tally.rounds}: {words}")
        self.say(f"{self.subject.name}: DEVIATION {words}")

    def _own_notes(self) -> list[str]:
        return [n for n in self.tally.notes if n.startswith(f"round {self.tally.rounds}:")]


def _traceback_in(text: str) -> str | None:
    """Where our code was in the first traceback of a text, and its error."""
    _, found, rest = text.partition("Traceback (most recent call last):\n")
    if not found:
        return None
    trace = list(itertools.takewhile(lambda line: line[:1] in " |", rest.splitlines()))
    error = (rest.splitlines()[len(trace) :] or ["cut off"])[0]
    ours = re.findall(r'File "\S*?(scalelab/\S+\.py)", line (\d+)', "\n".join(trace))
    return f"{':'.join(ours[-1]) if ours else 'elsewhere'}: {error[:160]}"


def write_text_files(folder: Path, n: int, n_words: int) -> Path:
    """`n` documents with some structure: each word is drawn after the one before it."""
    parts = ("la", "no", "mi", "te", "ra", "si", "ko", "den")
    words = ["".join(three) for three in itertools.product(parts, repeat=3)]
    folder.mkdir(parents=True)
    for i in range(n):
        draw, at, out = random.Random(i), 0, []
        for _ in range(n_words):
            at = (at * 5 + draw.choice((1, 1, 2, 7, 40, 190))) % len(words)
            out.append(words[at])
        (folder / f"{i:04d}.txt").write_text(" ".join(out))
    return folder


class Lab:
    """The worlds of a campaign, on text and a cache of its own."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.text = write_text_files(folder / "text", 40, 300)
        self._made: dict[str, World] = {}

    def make(self, name: str) -> World:
        """A world with the sweep's file; its largest runs are long enough for checkpoints."""
        world = World(self.folder / name, self.folder / "cache")
        text = SWEEP.replace("TEXT", str(self.text))
        (world.path / "journey.yaml").write_text(text.replace("2.4e10]", f"2.4e10, {LONG_BUDGET}]"))
        return world

    def _once(self, name: str, build: Callable[[World], None]) -> World:
        if name not in self._made:
            self._made[name] = self.make(name)
            build(self._made[name])
        return self._made[name]

    def swept(self) -> World:
        """A world with a finished sweep of nine short runs."""
        return self._once("swept", lambda world: self._sweep(world, SWEEP))

    def planned(self) -> World:
        """The same world with a plan in its directory `plan`."""

        def plan(world: World) -> None:
            options = ("--law", "kaplan", "--replicates", "200", "--out", "plan")
            shutil.copytree(self.swept().runs, world.runs)
            must(world, "plan", "journey", "--budget", "1e11", *options)

        return self._once("planned", plan)

    def based(self) -> World:
        """A world with a sweep named base, whose context is long enough for conversations."""
        text = SWEEP.replace("name: journey", "name: base").replace("seq_len: 32", "seq_len: 128")
        text = text.replace("[4e9, 1e10, 2.4e10]", "[1e10]")
        return self._once("based", lambda world: self._sweep(world, text))

    def _sweep(self, world: World, text: str) -> None:
        (world.path / "journey.yaml").write_text(text.replace("TEXT", str(self.text)))
        must(world, "sweep", "journey.yaml")

    def subject(self, name: str) -> Subject:
        """The subject of this name, with what it needs."""
        if name == "sweep":
            return Sweep(self.make)
        if name == "launch":
            return Launch(self.make, self.planned())
        if name == "posttrain":
            return Posttrain(self.make, self.based())
        if name == "data":
            return Data(self.make, write_text_files(self.folder / "text-large", 600, 4000))
        return Fit(self.make, self.swept())


def must(world: World, *argv: str) -> None:
    """Run a command that has to succeed."""
    done = world(*argv, timeout=limit_s(PATIENCE_S))
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(argv)} fails undisturbed:\n{done.stdout}\n{done.stderr}")


SUBJECTS: dict[str, type[Subject]] = {
    subject.name: subject for subject in (Sweep, Launch, Posttrain, Data, Fit)
}


def table(tallies: Sequence[Tally]) -> str:
    """The result as a Markdown table."""
    rows = [list(COLUMNS), ["---"] * len(COLUMNS), *(tally.row() for tally in tallies)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=SUBJECTS, help="kill this command alone")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments (default 0)")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the kills (default 1)")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="work in DIR and keep it")
    args = parser.parse_args()
    folder = args.keep or Path(tempfile.mkdtemp(prefix="kills-"))
    folder = folder.resolve()
    if args.keep is not None and folder.exists() and any(folder.iterdir()):
        parser.error(f"--keep {folder}: the directory is not empty")
    began, tallies = time.monotonic(), []

    def say(line: str) -> None:
        print(f"{time.monotonic() - began:7.1f} s  {line}", file=sys.stderr, flush=True)

    lab = Lab(folder)
    for name in [args.only] if args.only else SUBJECTS:
        subject = lab.subject(name)
        n = max(len(subject.kinds), round(args.scale * subject.kills))
        kinds = [subject.kinds[k % len(subject.kinds)] for k in range(n)]
        random.Random(args.seed).shuffle(kinds)
        say(f"{name}: undisturbed")
        tallies.append(campaign(subject, kinds, args.seed, run_undisturbed(subject), say))
        print(table(tallies[-1:]), file=sys.stderr, flush=True)
    print(table(tallies))
    notes = [f"- {tally.what}, {note}" for tally in tallies for note in tally.notes]
    slowest = max(tally.slowest_s for tally in tallies)
    print(f"\nThe last process was gone {slowest:.1f} s after its parent was killed.")
    print("\n".join(["", "Deviations:", *notes] if notes else ["No deviations."]))
    if args.keep is None and not notes:
        shutil.rmtree(folder)
    else:
        print(f"\nKept in {folder}")
    return 1 if notes else 0


if __name__ == "__main__":
    sys.exit(main())
