"""The board: every method on every case, scored, with constants as shipped and made without the family.

    backtest(read_tables(Path("data")), BacktestRequest(methods=("default", "chinchilla")), out) -> Board

A method that has constants made from tables stands on the board twice: `frozen` as it is shipped, and
`left out` with constants made anew without each family that is scored. Where both differ, the second is
what a table that had no part in its making may expect.

Not here: the split rule (cases.py), single scores (scores.py), what is printed (report/backtest/).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scalelab.backtest import METHODS, REFERENCE
from scalelab.backtest.base import Answer, AnsweredCase
from scalelab.backtest.calibration import left_out
from scalelab.backtest.cases import BacktestCase, loss_cases, published_case, size_cases
from scalelab.backtest.runner import BacktestTask, StoredAnswer, answered, run_tasks, tasks
from scalelab.backtest.scores import (
    LOSS_BANDS,
    SIZE_BANDS,
    BandScore,
    Comparison,
    ErrorTable,
    compare_errors,
    score_band,
    to_json,
)
from scalelab.backtest.tables import TableSet, sources
from scalelab.errors import ConfigError, DataError
from scalelab.laws.observations import Array

FROZEN, LEFT_OUT = "frozen", "left out"


@dataclass(frozen=True, kw_only=True)
class BacktestRequest:
    """What is scored. Checked when it is made; raises ConfigError on an impossible value."""

    methods: tuple[str, ...] = ()
    """Names in METHODS; empty: all of them."""
    level: float = 0.8
    """Level of the intervals that the board shows, 0 to 1."""
    jobs: int = 1
    """Processes."""
    sizes: bool = True
    """Whether best sizes of budgets are asked for too."""

    def __post_init__(self) -> None:
        where = "the request for a backtest"
        if not 0 < self.level < 1:
            raise ConfigError(
                f"level {self.level} is not between 0 and 1",
                where=where,
                fix="give a share between 0 and 1, such as 0.8",
            )
        if self.jobs < 1:
            raise ConfigError(f"{self.jobs} processes", where=where, fix="use 1 or more")
        if len(set(self.methods)) < len(self.methods):
            raise ConfigError(f"methods are {list(self.methods)}", where=where, fix="name each method once")
        for name in self.methods:
            METHODS[name]  # refused here if it is unknown


@dataclass(frozen=True)
class PublishedRun:
    """One run that a publication held out, as a method forecasts it."""

    table: str
    n_params: float
    n_tokens: float
    reach: float
    loss: float
    forecast: float
    low: float | None
    high: float | None
    """Ends of the interval at the board's level."""

    @property
    def error(self) -> float:
        """Forecast over actual loss, less one."""
        return self.forecast / self.loss - 1

    @property
    def inside(self) -> bool | None:
        """Whether the loss lies in the interval; None without one."""
        return None if self.low is None or self.high is None else self.low <= self.loss <= self.high


@dataclass(frozen=True)
class MethodScore:
    """One method on the board."""

    name: str
    constants: str
    """FROZEN or LEFT_OUT."""
    summary: str
    loss: tuple[BandScore, ...]
    sizes: tuple[BandScore, ...]
    versus: Mapping[str, Comparison]
    """Against the reference, by band: "near" and "far"."""
    published: tuple[PublishedRun, ...]
    answered_losses: int
    answered: int
    asked: int
    """Runs and budgets asked for."""
    refused: Mapping[str, int]
    """Cases without a forecast, by reason."""
    seconds: float
    """CPU time of all its forecasts."""
    seconds_per_case: float


@dataclass(frozen=True, eq=False)
class Board:
    """All methods, side by side."""

    level: float
    tables: TableSet
    methods: tuple[MethodScore, ...]
    errors: Mapping[tuple[str, str], ErrorTable]
    """Errors of the loss by name of the method and its constants, for figures."""
    n_cases: int
    n_asked: int
    """Runs asked for by the split rule."""
    n_sizes: int
    """Best sizes asked for."""
    thin: Mapping[str, str]
    """Tables from which no case could be made, and why."""

    def to_json(self) -> dict[str, Any]:
        """Schema 1 of `backtest --json`."""
        return {
            "schema": 1,
            "level": self.level,
            "reference": REFERENCE,
            "tables": list(sources(self.tables)),
            "left_out": [dict(vars(each)) for each in self.tables.left_out],
            "absent": dict(self.tables.absent),
            "thin": dict(self.thin),
            "cases": self.n_cases,
            "targets": self.n_asked,
            "sizes": self.n_sizes,
            "methods": [
                to_json(score)
                | {
                    "published": [
                        {**to_json(run), "error": run.error, "inside": run.inside} for run in score.published
                    ]
                }
                for score in self.methods
            ],
        }


def backtest(
    tables: TableSet, request: BacktestRequest, out: Path, report: Callable[[int, int], None] | None = None
) -> Board:
    """Return the board of all methods on all tables.

    Args:
        tables: The tables.
        request: Methods, level and processes.
        out: Directory of the results; answers that are there are not made again.
        report: Called with the number of answers that are there and of all.

    Raises:
        DataError: No case can be made from any table.
    """
    names = request.methods or tuple(METHODS)
    if REFERENCE not in names:
        names = (*names, REFERENCE)
    cases: list[BacktestCase] = []
    thin: dict[str, str] = {}
    for table in tables.tables:
        mine = loss_cases(table)
        if not mine:
            runs = table.runs
            thin[table.name] = (
                f"{len(runs)} runs of {len(np.unique(runs.N))} sizes from {runs.C.min():.2g} to "
                f"{runs.C.max():.2g} FLOPs: below half of the largest compute there are not 8 runs of 3 sizes "
                "and 3 token counts"
            )
        held_out = published_case(table)
        cases += mine + ([held_out] if held_out else []) + (size_cases(table) if request.sizes else [])
    if not cases:
        raise DataError(
            "no table has runs enough to forecast some from others",
            where="; ".join(f"{name}: {why}" for name, why in thin.items())
            or "; ".join(f"{each.name}: {each.reason}" for each in tables.left_out),
            fix="give tables of at least 8 smaller runs of 3 sizes and 3 token counts, and larger ones",
        )
    todo = tasks(names, cases, request.level)
    made = run_tasks(todo, out, request.jobs, report)
    errors: dict[tuple[str, str], ErrorTable] = {}
    scores: list[MethodScore] = []
    numbers = {id(case): i for i, case in enumerate(cases)}
    families = {i: case.family for i, case in enumerate(cases)}
    reference: Mapping[str, dict[tuple[int, int], float]] = {}
    for name in sorted(names, key=lambda each: each != REFERENCE):
        own = [task for task in todo if task.method == name]
        for constants, answers in _answers(name, own, made):
            rows = [(numbers[id(task.case)], task.case, answers.get(task.key)) for task in own]
            score, loss = _scored(name, constants, rows, own, made, request.level)
            by_band = _by_place(rows)
            if name == REFERENCE and not reference:
                reference = by_band
            versus = {
                band: found
                for band, found in (
                    (band, compare_errors(by_band[band], reference[band], families)) for band in by_band
                )
                if found is not None
            }
            scores.append(MethodScore(**{**score, "versus": versus}))
            errors[name, constants] = loss
    order = {name: i for i, name in enumerate(names)}
    split = [case for case in cases if case.kind == "split"]
    return Board(
        request.level,
        tables,
        tuple(sorted(scores, key=lambda score: order[score.name])),
        errors,
        len(split),
        sum(len(case.asked) for case in split),
        sum(len(case.budgets) for case in cases),
        thin,
    )


def _answers(
    name: str, own: Sequence[BacktestTask], made: Mapping[str, StoredAnswer]
) -> list[tuple[str, dict[str, Answer]]]:
    """Answers by key, with constants as shipped and, where there are any, made without each family."""
    there = {task.key: answered(task, made[task.key]) for task in own}
    given: dict[str, AnsweredCase] = {key: each for key, each in there.items() if each is not None}
    found = [(FROZEN, {key: each.answer for key, each in given.items()})]
    without = left_out(METHODS[name](), given)
    if without is not None:
        found.append((LEFT_OUT, without))
    return found


Row = tuple[int, BacktestCase, Answer | None]


def _scored(
    name: str,
    constants: str,
    rows: Sequence[Row],
    own: Sequence[BacktestTask],
    made: Mapping[str, StoredAnswer],
    level: float,
) -> tuple[dict[str, Any], ErrorTable]:
    """The fields of a MethodScore but for the comparison, and the errors of the loss."""
    loss = loss_errors([row for row in rows if row[1].kind == "split"])
    sizes = size_errors([row for row in rows if row[1].kind == "size"])
    refused: dict[str, int] = {}
    for task in own:
        why = made[task.key].refused
        if why is not None:
            refused[why] = refused.get(why, 0) + 1
    seconds = sum(made[task.key].seconds for task in own)
    return {
        "name": name,
        "constants": constants,
        "summary": METHODS[name]().summary,
        "loss": tuple(s for band in LOSS_BANDS if (s := score_band(loss, *band)) is not None),
        "sizes": tuple(s for band in SIZE_BANDS if (s := score_band(sizes, *band)) is not None),
        "published": tuple(
            run for row in rows if row[1].kind == "published" for run in _published(row, level)
        ),
        "answered_losses": len(loss),
        "answered": len(loss) + len(sizes),
        "asked": sum(len(case.asked) + len(case.budgets) for _, case, _ in rows if case.kind != "published"),
        "refused": refused,
        "seconds": seconds,
        "seconds_per_case": seconds / len(own),
    }, loss


def loss_errors(rows: Sequence[Row]) -> ErrorTable:
    """Return the errors of the loss of every run asked for.

    Args:
        rows: Number of the case, the case, and the answer to it; None where there is none.
    """
    parts = [
        _rows(number, case, answer, case.reach, case.asked.L, answer.loss, answer.low, answer.high)
        for number, case, answer in rows
        if answer is not None
    ]
    return _joined(parts)


def size_errors(rows: Sequence[Row]) -> ErrorTable:
    """Return the errors of the best size of every budget asked for.

    Args:
        rows: Number of the case, the case, and the answer to it; None where there is none.
    """
    parts = []
    for number, case, answer in rows:
        if answer is None or answer.sizes is None:
            continue
        truth = np.array([budget.n_params for budget in case.budgets])
        curvature = np.array([budget.curvature for budget in case.budgets])
        part = _rows(
            number, case, answer, case.size_reach, truth, answer.sizes, answer.size_low, answer.size_high
        )
        with np.errstate(under="ignore"):
            part["wasted"] = -np.expm1(-curvature * part["error"] ** 2 / case.decline)
        parts.append(part)
    return _joined(parts)


def _rows(
    number: int,
    case: BacktestCase,
    answer: Answer,
    reach: Array,
    truth: Array,
    forecast: Array,
    low: Array | None,
    high: Array | None,
) -> dict[str, Any]:
    n, k = len(truth), len(answer.levels)
    none = np.full((k, n), np.nan)
    expected = answer.expected_error if forecast is answer.loss else None
    return {
        "table": np.full(n, case.table, object),
        "family": np.full(n, case.family, object),
        "case": np.full(n, number),
        "reach": reach,
        "error": np.log(forecast / truth),
        "levels": answer.levels,
        "below": none if low is None else np.log(truth / low),
        "above": none if high is None else np.log(high / truth),
        "expected": np.full(n, np.nan) if expected is None else expected,
        "wasted": np.full(n, np.nan),
        "trusted": np.full(n, np.nan if answer.trusted is None else float(answer.trusted)),
    }


def _joined(parts: Sequence[dict[str, Any]]) -> ErrorTable:
    if not parts:
        empty = np.zeros(0)
        return ErrorTable(*[empty] * 5, (), np.zeros((0, 0)), np.zeros((0, 0)), *[empty] * 3)
    joined = {
        name: np.concatenate([part[name] for part in parts], axis=-1) for name in parts[0] if name != "levels"
    }
    return ErrorTable(levels=parts[0]["levels"], **joined)


def _by_place(rows: Sequence[Row]) -> dict[str, dict[tuple[int, int], float]]:
    """|error| of the loss by case and place in it, in the near and the far band."""
    found: dict[str, dict[tuple[int, int], float]] = {"near": {}, "far": {}}
    for number, case, answer in rows:
        if answer is None or case.kind != "split":
            continue
        error = np.abs(np.log(answer.loss / case.asked.L))
        for place, (reach, size) in enumerate(zip(case.reach, error, strict=True)):
            for band, (low, high) in zip(found, LOSS_BANDS, strict=False):
                if low < reach <= high:
                    found[band][number, place] = float(size)
    return found


def _published(row: Row, level: float) -> list[PublishedRun]:
    _, case, answer = row
    if answer is None:
        return []
    k, asked = answer.levels.index(level), case.asked
    low = [None] * len(asked) if answer.low is None else answer.low[k].tolist()
    high = [None] * len(asked) if answer.high is None else answer.high[k].tolist()
    return [
        PublishedRun(case.table, *map(float, numbers), *ends)
        for *numbers, ends in zip(
            asked.N, asked.D, case.reach, asked.L, answer.loss, zip(low, high, strict=True), strict=True
        )
    ]
