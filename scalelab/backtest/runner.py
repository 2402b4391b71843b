"""Every method on every case, once: kept on the disk, so that an interrupted backtest goes on.

    OUT/answers/<key>.json     one answer, sealed; the key is a digest of the method, of the code that
                               it runs, of the evidence and of what was asked

An answer whose key is there is not made again; one that does not hold is. A method that has no forecast
of a case is kept too, with its reason.

Not here: what is asked (cases.py), the scores (board.py).
"""

import hashlib
import inspect
import json
import multiprocessing
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

import scalelab
from scalelab.backtest import METHODS
from scalelab.backtest.base import LEVELS, Answer, AnsweredCase, ForecastQuestion
from scalelab.backtest.cases import BacktestCase
from scalelab.errors import ConfigError, RunError, ScalelabError
from scalelab.laws.observations import Array
from scalelab.sealed import Format

READS = ("laws", "study", "backtest/methods")
"""Packages of scalelab whose code decides an answer."""
ANSWERS = "answers"


@dataclass(frozen=True)
class StoredAnswer:
    """One answer as JSON types, and what it took."""

    method: str
    table: str
    label: str
    seconds: float
    """CPU time of the fit and the forecast."""
    refused: str | None
    """Why there is no forecast."""
    levels: list[float]
    loss: list[float]
    low: list[list[float]] | None
    high: list[list[float]] | None
    sizes: list[float] | None
    size_low: list[list[float]] | None
    size_high: list[list[float]] | None
    expected_error: list[float] | None
    trusted: bool | None
    notes: list[str]

    @property
    def answer(self) -> Answer | None:
        """The answer as arrays; None where there is none."""
        if self.refused is not None:
            return None

        def array(value: list | None) -> Array | None:
            return None if value is None else np.array(value, float)

        k, m = len(self.levels), len(self.loss)
        shaped = [None if v is None else np.array(v, float).reshape(k, m) for v in (self.low, self.high)]
        return Answer(
            tuple(self.levels),
            np.array(self.loss, float),
            *shaped,
            array(self.sizes),
            array(self.size_low),
            array(self.size_high),
            array(self.expected_error),
            self.trusted,
            tuple(self.notes),
        )


FORMAT = Format(
    "answer of a backtest",
    StoredAnswer,
    1,
    fix="delete the file and run the same command again, which makes the answer anew",
)


@dataclass(frozen=True, eq=False)
class BacktestTask:
    """One method on one case."""

    method: str
    case: BacktestCase
    question: ForecastQuestion
    key: str


def question_of(case: BacktestCase, level: float, seed: int = 0) -> ForecastQuestion:
    """Return what is asked of a case.

    Args:
        case: Evidence and what is asked of it.
        level: The level that counts, 0 to 1; it is added to LEVELS.
        seed: Of whatever a method draws.
    """
    levels = tuple(sorted({*LEVELS, level}))
    budgets = np.array([budget.flops for budget in case.budgets])
    return ForecastQuestion(case.asked.N, case.asked.D, case.asked.C, budgets, levels, level, seed)


def tasks(methods: Sequence[str], cases: Sequence[BacktestCase], level: float) -> list[BacktestTask]:
    """Return every method on every case.

    Args:
        methods: Names in METHODS.
        cases: All of them.
        level: The level that counts, 0 to 1.
    """
    found = []
    for case in cases:
        question = question_of(case, level)
        found += [BacktestTask(name, case, question, _key(name, case, question)) for name in methods]
    return found


def run_tasks(
    todo: Sequence[BacktestTask], out: Path, jobs: int = 1, report: Callable[[int, int], None] | None = None
) -> dict[str, StoredAnswer]:
    """Return the answer of every task by its key; those in the directory are read, the others made.

    Args:
        todo: The tasks.
        out: Directory of the results.
        jobs: Processes.
        report: Called with the number of answers that are there and of all.

    Raises:
        RunError: A process died, or an answer cannot be written.
        ConfigError: A method of another package raised what is no error of a fit.
    """
    found: dict[str, StoredAnswer] = {}
    missing: list[BacktestTask] = []
    for task in todo:
        kept = _read(out, task.key)
        if kept is not None:
            found[task.key] = kept
        else:
            missing.append(task)
    for key, stored in _made(missing, jobs):
        FORMAT.write(_path(out, key), stored)
        found[key] = stored
        if report is not None:
            report(len(found), len(todo))
    return found


def answered(task: BacktestTask, stored: StoredAnswer) -> AnsweredCase | None:
    """Return an answer beside what came true; None where the method has none."""
    if stored.answer is None:
        return None
    case = task.case
    return AnsweredCase(
        case.table,
        case.family,
        stored.answer,
        case.reach,
        case.asked.L,
        case.size_reach,
        np.array([budget.n_params for budget in case.budgets]),
    )


def make(task: BacktestTask) -> StoredAnswer:
    """Return the answer of one task.

    Raises:
        ConfigError: A method of another package raised what is no error of a fit.
    """
    method = METHODS[task.method]()
    began = time.process_time()
    refused, answer = None, Answer(task.question.levels, np.zeros(0))
    try:
        with np.errstate(all="ignore"):
            answer = method.forecast(task.case.evidence, task.question).checked(task.question, task.method)
    except ScalelabError as error:
        refused = error.problem
    except Exception as error:
        package = METHODS.targets[task.method].package
        if package == "scalelab":
            raise
        raise ConfigError(
            f"the forecasting method {task.method!r} of the package {package} failed: "
            f"{type(error).__name__}: {error}",
            where=f"{task.case.table}, {task.case.label}",
            fix="correct that package; a method that has no forecast raises scalelab.errors.FitError",
        ) from error
    seconds = time.process_time() - began
    return StoredAnswer(
        task.method,
        task.case.table,
        task.case.label,
        seconds,
        refused,
        list(task.question.levels),
        *(
            _plain(getattr(answer, name))
            for name in ("loss", "low", "high", "sizes", "size_low", "size_high", "expected_error")
        ),
        None if answer.trusted is None else bool(answer.trusted),
        list(answer.notes),
    )


def _made(missing: Sequence[BacktestTask], jobs: int) -> Iterator[tuple[str, StoredAnswer]]:
    """Key and answer of each task, in the order in which they are finished."""
    if jobs == 1 or len(missing) < 2:
        for task in missing:
            yield task.key, make(task)
        return
    pool = ProcessPoolExecutor(
        min(jobs, len(missing)), multiprocessing.get_context("spawn"), initializer=_ignore_interrupt
    )
    try:
        waiting: dict[Future, BacktestTask] = {pool.submit(make, task): task for task in missing}
        while waiting:
            done, _ = wait(waiting, return_when=FIRST_COMPLETED)
            for future in done:
                yield waiting.pop(future).key, future.result()
    except BrokenProcessPool as error:
        raise RunError(
            "a process of the backtest died",
            where=f"{len(missing)} answers, {jobs} processes",
            fix="run the same command again, with fewer --jobs if memory is short",
        ) from error
    except BaseException:
        for process in multiprocessing.active_children():
            process.terminate()
        raise
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _ignore_interrupt() -> None:
    """Leave an interrupt to the process that waits."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _path(out: Path, key: str) -> Path:
    return out / ANSWERS / f"{key}.json"


def _read(out: Path, key: str) -> StoredAnswer | None:
    try:
        return FORMAT.read(_path(out, key))
    except (FileNotFoundError, ScalelabError):
        return None


def _plain(value: Array | None) -> list | None:
    return None if value is None else np.asarray(value, float).tolist()


def _key(name: str, case: BacktestCase, question: ForecastQuestion) -> str:
    """Digest of everything that decides an answer."""
    digest = hashlib.sha256(json.dumps([name, *_versions(name), question.level, question.seed]).encode())
    runs = case.evidence
    for values in (runs.N, runs.D, runs.C, runs.L, runs.weight, runs.flops_planned):
        digest.update(np.ascontiguousarray(values, float).tobytes() + b"|")
    for name_, column in (
        *_named(runs.columns),
        *_named(runs.recipe),
        ("group", runs.group),
        ("seed", runs.seed),
    ):
        digest.update(f"{name_}{np.asarray(column).tolist()}".encode())
    for values in (question.N, question.D, question.C, question.budgets, np.array(question.levels)):
        digest.update(np.ascontiguousarray(values, float).tobytes() + b"|")
    return digest.hexdigest()[:32]


def _named(columns: Mapping[str, Array]) -> list[tuple[str, Array]]:
    return sorted(columns.items())


@cache
def _versions(name: str) -> tuple[str, ...]:
    """Code that makes the answers of a method: ours by its bytes, another package by version and bytes."""
    package = METHODS.targets[name].package
    found = [_code_digest()]
    if package != "scalelab":
        file = inspect.getsourcefile(METHODS[name])
        found.append(hashlib.sha256(Path(file).read_bytes()).hexdigest() if file else "")
        try:
            found.append(version(package))
        except PackageNotFoundError:
            found.append("")
    return tuple(found)


@cache
def _code_digest() -> str:
    """Digest of the code in READS."""
    root, digest = Path(scalelab.__file__).parent, hashlib.sha256()
    for package in READS:
        for path in sorted((root / package).rglob("*.py")):
            digest.update(str(path.relative_to(root)).encode() + path.read_bytes())
    return digest.hexdigest()[:16]
