"""The journal of a tuning's trials: an Optuna journal file that is verified before it is believed.

    line    one record: a study of a cell, a trial, a value of it, its state, an attribute

A record counts if its fields have the types and ranges that a tuning writes, and its numbers name a study and a trial
that lines above it created. This is checked when the journal is opened and, for lines that other processes have
added since, each time the lease is taken. A last line without an end was never acknowledged: its writer was killed
or its disk was full. It is removed under the lease, before anything is added behind it. Anything else that is wrong
is refused with its line.

Not here: whether the values of a trial belong to its cell, and its loss to its run (trials.py).
"""

import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from optuna.distributions import FloatDistribution, json_to_distribution
from optuna.storages.journal import JournalFileBackend, JournalStorage
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from scalelab.errors import RunError
from scalelab.files import exists, refuse_link, writing
from scalelab.leases import hold

JOURNAL = "trials.journal"
"""File of the studies in the directory of a tuning."""
ASKING = "asking"
"""Lease in the directory of a tuning: to ask for trials, and to read and write the journal."""
FIX = "remove it and run the same command again: runs that are trained are kept"
RUNNING, COMPLETE, PRUNED, FAILED, WAITING = range(5)
"""States of a trial in a record, as in optuna.trial.TrialState."""


def _is_time(text: str) -> str:
    datetime.fromisoformat(text)
    return text


def _is_field(text: str) -> str:
    try:
        if isinstance(json_to_distribution(text), FloatDistribution):
            return text
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass
    raise ValueError("it is no distribution of a field")


Ordinal = Annotated[int, Field(ge=0)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Time = Annotated[str, AfterValidator(_is_time)]
OneEntry = Annotated[dict[str, Any], Field(min_length=1, max_length=1)]


class _Record(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")
    worker_id: str


class _Study(_Record):
    study_name: Annotated[str, Field(pattern=r"^[0-9a-f]{12}$")]
    directions: tuple[Literal[1]]


class _SystemAttributes(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")
    fixed_params: dict[str, Finite] = {}


class _Trial(_Record):
    study_id: Ordinal
    datetime_start: Time | None
    state: Literal[0, 4] = RUNNING
    value: None = None
    values: None = None
    distributions: Annotated[dict[str, Any], Field(max_length=0)] = {}
    params: Annotated[dict[str, Any], Field(max_length=0)] = {}
    intermediate_values: Annotated[dict[str, Any], Field(max_length=0)] = {}
    user_attrs: dict[str, Any] = {}
    system_attrs: _SystemAttributes = _SystemAttributes()


class _OfTrial(_Record):
    trial_id: Ordinal


class _Value(_OfTrial):
    param_name: str
    param_value_internal: Finite
    distribution: Annotated[str, AfterValidator(_is_field)]


class _State(_OfTrial):
    state: Literal[0, 1, 2, 3]
    values: Annotated[list[Finite], Field(min_length=1, max_length=1)] | None
    datetime_start: Time | None = None
    datetime_complete: Time | None = None


class _UserAttribute(_OfTrial):
    user_attr: OneEntry


class _SystemAttribute(_OfTrial):
    system_attr: OneEntry


_RECORDS: dict[int, type[_Record]] = {
    0: _Study,
    4: _Trial,
    5: _Value,
    6: _State,
    8: _UserAttribute,
    9: _SystemAttribute,
}
"""Records that a tuning writes, by op_code."""


class JournalChecker:
    """Checks records in the order of the journal, each against those before it."""

    def __init__(self) -> None:
        self._studies: set[str] = set()
        self._n_trials = 0

    def problem(self, line: bytes) -> str | None:
        """Return what is wrong with the next line, in words; None if it is a record."""
        try:
            data = json.loads(line)
        except (ValueError, RecursionError):
            return "is not JSON"
        op_code = data.get("op_code") if isinstance(data, dict) else None
        if not isinstance(op_code, int):
            return "is no record"
        if op_code not in _RECORDS:
            return f"has op_code {op_code}, which a tuning never writes"
        try:
            record = _RECORDS[op_code].model_validate_json(line)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"])
            return f"has {place} {_excerpt(first['input'])}: {first['msg'].removeprefix('Value error, ')}"
        return self._unknown(record) or self._incomplete(record)

    def _unknown(self, record: _Record) -> str | None:
        if isinstance(record, _Study):
            self._studies.add(record.study_name)
        elif isinstance(record, _Trial):
            if record.study_id >= len(self._studies):
                return f"has study_id {record.study_id}, and there are {len(self._studies)} studies above it"
            self._n_trials += 1
        elif isinstance(record, _OfTrial) and record.trial_id >= self._n_trials:
            return f"has trial_id {record.trial_id}, and there are {self._n_trials} trials above it"
        return None

    def _incomplete(self, record: _Record) -> str | None:
        if isinstance(record, _State):
            if (record.state == COMPLETE) != (record.values is not None):
                return f"has state {record.state} with values {record.values}"
            needed = "datetime_start" if record.state == RUNNING else "datetime_complete"
            if getattr(record, needed) is None:
                return f"has state {record.state} without {needed}"
        if isinstance(record, _Value):
            ends = json_to_distribution(record.distribution)
            assert isinstance(ends, FloatDistribution), "checked with the record"
            if not ends.low <= record.param_value_internal <= ends.high:
                return f"has {record.param_name} {record.param_value_internal:g}, outside {ends.low:g} to {ends.high:g}"
        return None


def _excerpt(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


class _UnderLease:
    """The lock of a journal that is only written under the lease of a session."""

    def acquire(self) -> bool:
        """Return True: the lease is held."""
        return True

    def release(self) -> None:
        """Nothing: the lease is released later."""


class TrialJournal:
    """The journal in the directory of a tuning, and the lease under which it is read and written.

    Args:
        directory: Directory of the tuning.

    Raises:
        RunError: The journal is damaged, or cannot be read or written.
    """

    def __init__(self, directory: Path):
        self.path = directory / JOURNAL
        refuse_link(self.path)
        self._checker, self._n_lines, self._offset = JournalChecker(), 0, 0
        with writing(self.path), self.alone():
            try:
                self.storage = JournalStorage(JournalFileBackend(str(self.path), lock_obj=_UnderLease()))
            except (ValueError, KeyError, TypeError, AttributeError, IndexError, AssertionError) as error:
                raise self.damage(f"it cannot be replayed: {type(error).__name__}: {error}") from None

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the lease, with the journal verified; a lease left by a killed process is free at once.

        Raises:
            RunError: A line is damaged.
        """
        problem, fix = "another process asks for trials", "run the same command again"
        with hold(self.path.parent / ASKING, problem, fix, wait_s=math.inf):
            self._verify()
            yield

    def damage(self, problem: str, where: str = "") -> RunError:
        """Return the error of a damaged journal.

        Args:
            problem: What is wrong, in words.
            where: Place in the journal.
        """
        return RunError(
            f"the journal of trials is damaged: {problem}",
            where=f"{self.path}{where}",
            fix=f"{FIX.replace('it', str(self.path), 1)}",
        )

    def _verify(self) -> None:
        """Check lines that were added since the last time, and remove an unfinished last one."""
        if not exists(self.path):
            return
        with open(self.path, "r+b") as file:
            size = file.seek(0, os.SEEK_END)
            if size < self._offset:
                raise self.damage(f"it has become shorter: {size:,} bytes, after {self._offset:,}")
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):
                    file.truncate(self._offset)
                    return
                self._n_lines += 1
                if (problem := self._checker.problem(line)) is not None:
                    raise self.damage(f"line {self._n_lines} {problem}", f":{self._n_lines}")
                self._offset += len(line)
