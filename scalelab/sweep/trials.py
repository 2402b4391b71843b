"""Trials of a tuning: which values each cell tries next, by Optuna's ask/tell interface.

    spread    the first two thirds of a cell: the recipe's own values, then a quasi-random sequence round them
    TPE       the others, from the losses so far

Optuna suggests values and nothing more: a trial is an ordinary run, named by the hash of its spec, and its loss is
read from the run's own result. The studies of all cells lie in one journal file that several processes may share.
A process asks for trials under a lease, takes over those that others left unfinished, and waits for those that others
train: the leases of the run directories decide who trains what. If the journal is lost, it is made anew, and the runs
are found by their names.

    finished   value: its loss          diverged   pruned, so that TPE avoids such values
    lost       failed; the next command tries the same values again

Intermediate losses never end a trial: at another rate, another curve is normal.

Source: TPE, Bergstra et al. 2011 (Algorithms for Hyper-Parameter Optimization), as in Optuna; the sequence, Roberts
2018 (The Unreasonable Effectiveness of Quasirandom Sequences): x_i = frac(1/2 + i a), a_j = phi_k^-j.

Not here: the file (tune_file.py), the jobs (launch/tune.py), the best values (laws/tuned_settings.py).
"""

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import optuna
from optuna.distributions import FloatDistribution
from optuna.samplers import TPESampler
from optuna.storages import BaseStorage
from optuna.storages.journal import JournalFileBackend, JournalStorage
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from scalelab.errors import RunError
from scalelab.files import refuse_link, writing
from scalelab.leases import hold
from scalelab.sweep.base import Proposal
from scalelab.sweep.tune_file import TuneFile, TuningCell
from scalelab.train.spec import RunResult

JOURNAL = "trials.journal"
"""File of the studies in the directory of a tuning."""
ASKING = "asking"
"""Lease in the directory of a tuning: to ask for trials, and to write in the journal."""
POINT, SEED, AGAIN = "point", "seed", "again"
"""Attributes of a trial: its number in the spread, its seed, and the number of the lost trial that it repeats."""


@dataclass(frozen=True, eq=False)
class TuningTrial:
    """One trial of a cell."""

    cell: int
    """Number of the cell."""
    number: int
    """Number of the trial in the study of its cell."""
    values: dict[str, float]
    """By field."""
    proposal: Proposal


class TrialSession:
    """Trials of all cells of a tuning: requests runs and receives their results.

    Results of a trial lead to the next one of its cell, so the same results in the same order lead to the same
    requests where one process asks.

    Args:
        file: The tuning file.
        cells: Its cells.
        storage: Holds the studies.
        data_digest: Digest of the corpus.
        directory: Directory of the tuning, whose lease is held while trials are asked for; None: nobody else asks.
    """

    def __init__(
        self,
        file: TuneFile,
        cells: tuple[TuningCell, ...],
        storage: BaseStorage,
        data_digest: str,
        directory: Path | None = None,
    ):
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.file, self.cells, self._directory = file, cells, directory
        self._digest = data_digest
        self._ranges = {
            field: FloatDistribution(r.low, r.high, log=r.log) for field, r in file.fields.items()
        }
        with self._alone():
            self._studies = [
                optuna.create_study(
                    storage=storage, study_name=file.search_digest(cell, data_digest), load_if_exists=True
                )
                for cell in cells
            ]
        self.trials: dict[str, TuningTrial] = {}
        """Every trial that was asked for, by the id of its run."""
        self._equal: dict[str, list[tuple[int, int]]] = {}
        self._seen: set[tuple[int, int]] = set()
        self._results: dict[str, RunResult | None] = {}
        self._begun = False

    def ask(self) -> tuple[Proposal, ...]:
        """Return the runs of new trials, and of trials of other processes that this one has not seen."""
        with self._alone():
            for k in range(len(self.cells)):
                self._end_unfinished(k)
                if not self._begun:
                    self._repeat_lost(k)
                    self._spread(k)
                self._refill(k)
            self._begun = True
            return tuple(trial.proposal for k in range(len(self.cells)) for trial in self._new(k))

    def tell(self, proposal: Proposal, result: RunResult | None) -> None:
        """Receive the result of a run; None if it was lost."""
        run = proposal.spec.id
        self._results[run] = result
        with self._alone():
            for cell, number in self._equal[run]:
                _record(self._studies[cell], number, result)
            self._refill(self._equal[run][0][0])

    @contextmanager
    def _alone(self) -> Iterator[None]:
        if self._directory is None:
            yield
            return
        with _lease(self._directory):
            yield

    def _has_values(self, trial: FrozenTrial) -> bool:
        return self._ranges.keys() <= trial.params.keys()

    def _trials(self, k: int) -> list[FrozenTrial]:
        """Trials of a cell that have values, or will have them."""
        trials = self._studies[k].get_trials(deepcopy=False)
        return [t for t in trials if t.state == TrialState.WAITING or self._has_values(t)]

    def _end_unfinished(self, k: int) -> None:
        """End trials whose process was killed while it asked for them; nobody else asks now."""
        for t in self._studies[k].get_trials(deepcopy=False):
            if t.state == TrialState.RUNNING and not self._has_values(t):
                self._studies[k].tell(t.number, state=TrialState.FAIL)

    def _repeat_lost(self, k: int) -> None:
        """Put values whose runs were lost in the queue of their cell once more."""
        trials = self._trials(k)
        repeated = {t.user_attrs.get(AGAIN) for t in trials}
        for t in trials:
            if t.state == TrialState.FAIL and t.number not in repeated:
                attributes = {AGAIN: t.number, SEED: self._seed(t)}
                self._studies[k].enqueue_trial(dict(t.params), user_attrs=attributes)

    def _spread(self, k: int) -> None:
        """Put the first values of a cell in its queue, those of them that are not there."""
        there = {t.user_attrs.get(POINT) for t in self._trials(k)}
        own = self.file.own_values(self.cells[k])
        for i, place in enumerate(quasi_random(self.file.n_spread, len(own))):
            if i not in there:
                values = {
                    field: self._value(field, own[field], place[j] if i else None)
                    for j, field in enumerate(own)
                }
                attributes = {POINT: i, SEED: self.file.seed + i % self.file.seeds}
                self._studies[k].enqueue_trial(values, user_attrs=attributes)

    def _value(self, field: str, own: float | None, place: float | None) -> float:
        """Return the value at a place from 0 to 1 of a field's first values; None: the recipe's own."""
        r = self.file.fields[field]
        if place is None and own is not None:
            return own
        place = 0.5 if place is None else place
        if not r.log:
            return r.low + place * (r.high - r.low)
        low, high = math.log(r.low), math.log(r.high)
        if own is not None:
            low = max(low, math.log(own / self.file.spread))
            high = min(high, math.log(own * self.file.spread))
        return min(max(math.exp(low + place * (high - low)), r.low), r.high)  # rounding of exp

    def _refill(self, k: int) -> None:
        """Start trials of a cell: those in its queue, then by TPE while few enough of them run."""
        study = self._studies[k]
        while True:
            trials = self._trials(k)
            n_waiting = sum(t.state == TrialState.WAITING for t in trials)
            n_running = sum(t.state == TrialState.RUNNING for t in trials)
            repeated = {t.user_attrs.get(AGAIN) for t in trials}
            n_used = sum(t.state != TrialState.WAITING and t.number not in repeated for t in trials)
            if not n_waiting and (n_used >= self.file.trials or n_running >= self.file.at_once):
                return
            study.sampler = TPESampler(seed=len(trials) + 1000 * k + self.file.seed, n_startup_trials=1)
            trial = study.ask(fixed_distributions=self._ranges)
            if SEED not in trial.user_attrs:
                trial.set_user_attr(SEED, self.file.seed + n_used % self.file.seeds)
            self._join_equal(k, trial.number)

    def _join_equal(self, k: int, number: int) -> None:
        """Give a trial the result of an equal run that has ended."""
        t = next(t for t in self._trials(k) if t.number == number)
        proposal = self._proposal(k, t)
        if proposal.spec.id in self._results:
            self._seen.add((k, number))
            self._equal[proposal.spec.id].append((k, number))
            _record(self._studies[k], number, self._results[proposal.spec.id])

    def _new(self, k: int) -> Iterator[TuningTrial]:
        """Yield trials of a cell that were not requested before; one of those whose runs are equal."""
        for t in self._trials(k):
            if t.state == TrialState.WAITING or (k, t.number) in self._seen:
                continue
            self._seen.add((k, t.number))
            proposal = self._proposal(k, t)
            run = proposal.spec.id
            self._equal.setdefault(run, []).append((k, t.number))
            if run in self._results:
                _record(self._studies[k], t.number, self._results[run])
            if run not in self.trials:
                self.trials[run] = TuningTrial(k, t.number, self._values(t), proposal)
                yield self.trials[run]

    def _proposal(self, k: int, trial: FrozenTrial) -> Proposal:
        return self.file.proposal(self.cells[k], self._values(trial), self._seed(trial), self._digest)

    def _values(self, trial: FrozenTrial) -> dict[str, float]:
        return {field: float(trial.params[field]) for field in self._ranges}

    def _seed(self, trial: FrozenTrial) -> int:
        return int(trial.user_attrs.get(SEED, self.file.seed + trial.number % self.file.seeds))


def _record(study: Study, number: int, result: RunResult | None) -> None:
    """Record the end of a trial in its study, where no process has done so before."""
    if result is None:
        study.tell(number, state=TrialState.FAIL, skip_if_finished=True)
    elif result.status == "finished" and result.loss is not None:
        study.tell(number, result.loss, skip_if_finished=True)
    else:
        study.tell(number, state=TrialState.PRUNED, skip_if_finished=True)


def quasi_random(n: int, k: int) -> np.ndarray:
    """Points of the unit cube that fill it evenly for every n, shape (n, k); the first is its middle."""
    phi = 2.0
    for _ in range(60):
        phi = (1 + phi) ** (1 / (k + 1))
    return (0.5 + np.arange(n)[:, None] * phi ** -np.arange(1, k + 1)) % 1


class _UnderLease:
    """The lock of a journal that is only written under the lease of a session."""

    def acquire(self) -> bool:
        """Return True: the lease is held."""
        return True

    def release(self) -> None:
        """Nothing: the lease is released later."""


@contextmanager
def _lease(directory: Path) -> Iterator[None]:
    """Hold the right to ask for trials and to write in the journal; one left by a killed process is free at once."""
    problem, fix = "another process asks for trials", "run the same command again"
    with hold(directory / ASKING, problem, fix, wait_s=math.inf):
        yield


def journal_storage(directory: Path) -> JournalStorage:
    """Return the storage of a tuning's studies, in its directory.

    Raises:
        RunError: The journal is damaged, or cannot be read or written.
    """
    path = directory / JOURNAL
    refuse_link(path)
    with writing(path), _lease(directory):
        _cut_unfinished(path)
        damaged = _damaged_line(path)
        try:
            if damaged is None:
                return JournalStorage(JournalFileBackend(str(path), lock_obj=_UnderLease()))
        except (ValueError, KeyError, TypeError, AttributeError, IndexError, AssertionError) as error:
            damaged = f"it cannot be replayed: {type(error).__name__}: {error}"
    raise RunError(
        f"the journal of trials is damaged: {damaged}",
        where=str(path),
        fix="remove it and run the same command again: runs that are trained are kept",
    )


def _cut_unfinished(path: Path) -> None:
    """Remove a last line that was cut short by the end of its writer: it was never acknowledged."""
    if not path.exists():
        return
    data = path.read_bytes()
    if data and not data.endswith(b"\n"):
        with open(path, "r+b") as file:
            file.truncate(data.rfind(b"\n") + 1)


def _damaged_line(path: Path) -> str | None:
    """Return what is wrong with the first damaged line of a journal; None: every line is a record."""
    if not path.exists():
        return None
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            record = json.loads(line)
        except ValueError:
            return f"line {number} is not JSON"
        if not isinstance(record, dict) or not isinstance(record.get("op_code"), int):
            return f"line {number} is no record"
    return None
