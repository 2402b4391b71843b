"""Trials of a tuning: which values each cell tries next, by Optuna's ask/tell interface.

    spread    the first two thirds of a cell: the recipe's own values, then a quasi-random sequence round them
    TPE       the others, from the losses so far

Optuna suggests values and nothing more: a trial is an ordinary run, named by the hash of its spec, and its loss is
read from the run's own result. The studies of all cells lie in one journal file that several processes may share.
A process asks for trials under a lease, takes over those that others left unfinished, and waits for those that others
train: the leases of the run directories decide who trains what. If the journal is lost, it is made anew, and the runs
are found by their names. A trial of the journal counts if its values, seed and number in the spread are those that
the tuning file gives, and its loss is that of its run.

    finished   value: its loss          diverged   pruned, so that TPE avoids such values
    lost       failed; the next command tries the same values again

Intermediate losses never end a trial: at another rate, another curve is normal.

Source: TPE, Bergstra et al. 2011 (Algorithms for Hyper-Parameter Optimization), as in Optuna; the sequence, Roberts
2018 (The Unreasonable Effectiveness of Quasirandom Sequences): x_i = frac(1/2 + i a), a_j = phi_k^-j.

Not here: the file (tune_file.py), the journal's lines (trial_journal.py), the jobs (launch/tune.py), the best values
(laws/tuned_settings.py).
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import optuna
from optuna.distributions import FloatDistribution
from optuna.samplers import TPESampler
from optuna.storages import BaseStorage
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from scalelab.errors import RunError
from scalelab.sweep.base import Proposal
from scalelab.sweep.file import MOST_RUNS
from scalelab.sweep.trial_journal import FIX, TrialJournal
from scalelab.sweep.tune_file import TuneFile, TuningCell
from scalelab.train.spec import RunResult

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
        storage: Holds the studies: that of the journal, where there is one.
        data_digest: Digest of the corpus.
        journal: Journal whose lease is held while trials are asked for; None: nobody else asks.

    Raises:
        RunError: The journal holds a trial that is not of this tuning.
    """

    def __init__(
        self,
        file: TuneFile,
        cells: tuple[TuningCell, ...],
        storage: BaseStorage,
        data_digest: str,
        journal: TrialJournal | None = None,
    ):
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.file, self.cells, self._journal = file, cells, journal
        self._digest = data_digest
        self._ranges = {
            field: FloatDistribution(r.low, r.high, log=r.log) for field, r in file.fields.items()
        }
        self._checked: set[tuple[int, int, TrialState]] = set()
        self._studies: list[Study] = []
        with self._alone():
            self._studies = [
                optuna.create_study(
                    storage=storage, study_name=file.search_digest(cell, data_digest), load_if_exists=True
                )
                for cell in cells
            ]
            self._check_trials()
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
                self._record(cell, number, result)
            self._refill(self._equal[run][0][0])

    @contextmanager
    def _alone(self) -> Iterator[None]:
        if self._journal is None:
            yield
            return
        with self._journal.alone():
            self._check_trials()
            yield

    def _check_trials(self) -> None:
        """Refuse a trial that is new, or in a new state, and that this tuning cannot have written."""
        for k, study in enumerate(self._studies):
            trials = study.get_trials(deepcopy=False)
            for t in trials:
                if (k, t.number, t.state) not in self._checked:
                    if (problem := self._problem(k, t, trials)) is not None:
                        raise self._damage(k, t.number, problem)
                    self._checked.add((k, t.number, t.state))

    def _problem(self, k: int, t: FrozenTrial, trials: list[FrozenTrial]) -> str | None:
        """Return why a trial of the journal is not of this tuning, in words."""
        for field, ends in t.distributions.items():
            if ends != self._ranges.get(field):
                return f"its {field} is from {ends}, and the tuning file has {self._ranges.get(field)}"
        values: Mapping[str, float] = t.params or t.system_attrs.get("fixed_params", {})
        if t.state == TrialState.WAITING and values.keys() != self._ranges.keys():
            return f"it waits with values of {_listed(values)}, and the fields are {_listed(self._ranges)}"
        for field, value in values.items():
            ends = self.file.fields.get(field)
            if ends is None or not ends.low <= value <= ends.high:
                return f"its {field} is {value:g}, which is not in the tuning file's range"
        if t.state == TrialState.COMPLETE and not self._has_values(t):
            return f"it is complete with values of {_listed(t.params)} only"
        return self._attribute_problem(k, t, values, trials)

    def _attribute_problem(
        self, k: int, t: FrozenTrial, values: Mapping[str, float], trials: list[FrozenTrial]
    ) -> str | None:
        seeds = range(self.file.seed, self.file.seed + self.file.seeds)
        if (seed := t.user_attrs.get(SEED, seeds[0])) not in seeds:
            return f"its seed is {seed!r}, and the tuning's are {seeds[0]} to {seeds[-1]}"
        if (again := t.user_attrs.get(AGAIN)) is not None:
            earlier = trials[again] if isinstance(again, int) and 0 <= again < t.number else None
            if earlier is None or earlier.state != TrialState.FAIL or dict(earlier.params) != dict(values):
                return f"it repeats trial {again!r}, which is no lost trial of the same values"
        if (point := t.user_attrs.get(POINT)) is None or not values:
            return None
        if not isinstance(point, int) or not 0 <= point < MOST_RUNS:
            return f"its number in the spread is {point!r}"
        for field, value in self._first_values(k, point).items():
            if field in values and not math.isclose(values[field], value, rel_tol=1e-9):
                return f"its {field} is {values[field]:g}, and place {point} of the spread is {value:g}"
        return None

    def _damage(self, k: int, number: int, problem: str) -> RunError:
        said, where = f"trial {number}: {problem}", f": trial {number} of {self.cells[k].words()}"
        if self._journal is not None:
            return self._journal.damage(said, where)
        return RunError(said, where=where.removeprefix(": "), fix=FIX)

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
        for i in range(self.file.n_spread):
            if i not in there:
                attributes = {POINT: i, SEED: self.file.seed + i % self.file.seeds}
                self._studies[k].enqueue_trial(self._first_values(k, i), user_attrs=attributes)

    def _first_values(self, k: int, i: int) -> dict[str, float]:
        """Return point i of the spread of a cell, by field."""
        own = self.file.own_values(self.cells[k])
        place = quasi_random(i + 1, len(own))[i]
        return {field: self._value(field, own[field], place[j] if i else None) for j, field in enumerate(own)}

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
            self._record(k, number, self._results[proposal.spec.id])

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
                self._record(k, t.number, self._results[run])
            if run not in self.trials:
                self.trials[run] = TuningTrial(k, t.number, self._values(t), proposal)
                yield self.trials[run]

    def _record(self, k: int, number: int, result: RunResult | None) -> None:
        """Record the end of a trial where no process has done so before, else compare what was recorded.

        Raises:
            RunError: The journal has another end of the trial than its run.
        """
        study = self._studies[k]
        state, loss = TrialState.PRUNED, None
        if result is None:
            state = TrialState.FAIL
        elif result.status == "finished" and result.loss is not None:
            state, loss = TrialState.COMPLETE, result.loss
        t = study.get_trials(deepcopy=False)[number]
        if not t.state.is_finished():
            study.tell(number, loss, state=None if loss is not None else state)
        elif TrialState.FAIL not in (state, t.state) and (t.state, t.value) != (state, loss):
            said = {TrialState.COMPLETE: f"loss {t.value}"}.get(t.state, "that it diverged")
            run = "that it diverged" if loss is None else f"loss {loss}"
            raise self._damage(
                k, number, f"the journal has {said}, and the run {self._run_of(k, t)} has {run}"
            )

    def _run_of(self, k: int, trial: FrozenTrial) -> str:
        return self._proposal(k, trial).spec.id

    def _proposal(self, k: int, trial: FrozenTrial) -> Proposal:
        return self.file.proposal(self.cells[k], self._values(trial), self._seed(trial), self._digest)

    def _values(self, trial: FrozenTrial) -> dict[str, float]:
        return {field: float(trial.params[field]) for field in self._ranges}

    def _seed(self, trial: FrozenTrial) -> int:
        return int(trial.user_attrs.get(SEED, self.file.seed + trial.number % self.file.seeds))


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "nothing"


def quasi_random(n: int, k: int) -> np.ndarray:
    """Points of the unit cube that fill it evenly for every n, shape (n, k); the first is its middle."""
    phi = 2.0
    for _ in range(60):
        phi = (1 + phi) ** (1 / (k + 1))
    return (0.5 + np.arange(n)[:, None] * phi ** -np.arange(1, k + 1)) % 1
