"""A tuning from its file to trained trials, best values and a rule. Nothing is printed but the live view of the jobs.

    plan_tune   every cell with its cost, at once; nothing is written or trained
    run_tune    trains the trials, repeats the best of cells without an optimum, fits the rule

A tuning is a sweep that asks step by step: its trials are runs with directories, leases and a manifest of their own
sweep, and are mirrored like them. Several processes, on several machines, may run the same file at the same time,
except on an executor that is exclusive (jobs/base.py).

Not here: which values are tried (sweep/trials.py), the estimates (laws/tuned_settings.py), the result
(tune_result.py), texts (report/tune/).
"""

import math
from collections.abc import Callable, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from scalelab.data.corpus import shards
from scalelab.data.vocabulary import UNPREPARED, vocab_size_of
from scalelab.errors import ConfigError, LaunchError
from scalelab.files import make_dir, place_of
from scalelab.jobs.base import Job
from scalelab.jobs.driver import drive
from scalelab.jobs.view import JobDisplay, LiveView
from scalelab.launch import shared_runs
from scalelab.launch.sweep import refuse_unfit
from scalelab.launch.sweep_plan import PlannedJob, place
from scalelab.launch.sweep_run import SweepJobs, SweepLabels, sweep_lock, write_manifest
from scalelab.launch.tune_result import TrialRow, TunedCell, TuneResult
from scalelab.laws.tuned_settings import SettingRule, SettingsOptimum, optimum_of, rule_of, runs_needed
from scalelab.leases import hold, holder
from scalelab.sweep.base import Proposal
from scalelab.sweep.trial_journal import TrialJournal
from scalelab.sweep.trials import TrialSession
from scalelab.sweep.tune_file import BATCH, TuneFile, TuningCell
from scalelab.tracking.sync import Syncer
from scalelab.train.spec import RunResult

MANIFEST = "manifest"
"""Lease in the directory of a tuning under which its manifest is written."""


@dataclass(frozen=True)
class TunePlan:
    """A tuning before it starts."""

    file: TuneFile
    cells: Sequence[TuningCell]
    own: Sequence[dict[str, float | None]]
    """Values of the fields by the recipe, for each cell."""
    flops: Sequence[float]
    """FLOPs of one trial of each cell, at the recipe's own values. Exact."""

    def to_json(self) -> dict[str, Any]:
        """Return the plan as JSON types."""
        return {
            "schema": 1,
            "tuning": self.file.name,
            "digest": self.file.digest,
            "param_count": self.file.recipe.param_count,
            "fields": {name: r.model_dump(mode="json") for name, r in self.file.fields.items()},
            "trials_of_each_cell": self.file.trials,
            "cells": [
                {"n_params": c.n_params, "n_tokens": c.n_tokens, "own": own, "flops_of_a_trial": flops}
                for c, own, flops in zip(self.cells, self.own, self.flops, strict=True)
            ],
            "flops_planned": self.file.trials * sum(self.flops),
        }


def plan_tune(file: TuneFile) -> TunePlan:
    """Return the cells of a tuning with their cost. Writes nothing and trains nothing.

    Raises:
        ConfigError: A cell or a corner of the ranges cannot be trained, or there are too few trials for a surface.
        DataError: The corpus is too small for a run.
    """
    corpus = shards.find(file.recipe.data)
    vocab_size = corpus.vocab_size if corpus else vocab_size_of(file.recipe.data)
    with file.located():
        cells = _checked(file, vocab_size, corpus.digest if corpus else UNPREPARED)
        if corpus:
            refuse_unfit(file.recipe, corpus, _largest(file, cells, corpus.digest))
        return _plan(file, cells)


def _plan(file: TuneFile, cells: Sequence[TuningCell]) -> TunePlan:
    costs = [c.model.size(file.recipe.seq_len).flops_per_token * c.n_tokens for c in cells]
    return TunePlan(file, cells, [file.own_values(c) for c in cells], costs)


def _checked(file: TuneFile, vocab_size: int, data_digest: str) -> tuple[TuningCell, ...]:
    needed = runs_needed(len(file.fields))
    if file.trials < needed:
        raise ConfigError(
            f"{file.trials} trials of each cell are too few: a surface over {len(file.fields)} fields needs {needed}",
            where="trials",
            fix=f"set trials to {needed} or more",
        )
    return file.check(vocab_size, data_digest)


def _largest(file: TuneFile, cells: Sequence[TuningCell], data_digest: str) -> tuple[Proposal, ...]:
    """The run of most tokens: what a corpus has to be large enough for."""
    return (file.proposal(cells[-1], {}, file.seed, data_digest),)


def _ignore(plan: TunePlan) -> None:
    del plan


def run_tune(file: TuneFile, root: Path, on_plan: Callable[[TunePlan], None] = _ignore) -> TuneResult:
    """Train every trial of a tuning that is not trained yet, and return the best values and the rule.

    Args:
        file: The tuning file.
        root: Directory of all runs.
        on_plan: Called with the plan before anything is written or trained.

    Raises:
        ConfigError: As plan_tune.
        DataError: The corpus is too small for a run.
        LaunchError: A sweep of this name is being run, an executor cannot start, or no device can do a run.
        RunError: The journal of trials is damaged, or is not of this tuning.
    """
    corpus = shards.prepare(file.recipe.data)
    with file.located():
        cells = _checked(file, corpus.vocab_size, corpus.digest)
        refuse_unfit(file.recipe, corpus, _largest(file, cells, corpus.digest))
        on_plan(_plan(file, cells))
    directory = place_of(root, file.name)
    if holder(directory, "lock") is not None:
        raise LaunchError(
            f"a sweep with the name {file.name!r} is being run by another process",
            where=str(directory),
            fix="wait for it, or give this tuning another name (--set name=...)",
        )
    make_dir(directory)
    journal = TrialJournal(directory)
    session = TrialSession(file, cells, journal.storage, corpus.digest, journal)
    stages = _TuningStages(session, corpus.digest)

    def placed(proposals: tuple[Proposal, ...]) -> list[PlannedJob]:
        return place(proposals, root, file.name, shared_runs.settle)

    def written(work: Sequence[PlannedJob]) -> None:
        with hold(
            directory / MANIFEST, "another process writes the manifest", "wait for it", wait_s=math.inf
        ):
            write_manifest(file, work, root, tuple(file.fields))

    config = file.launch.executor
    alone = sweep_lock(root, file.name) if config.exclusive else nullcontext()
    with alone, closing(config.start(("scalelab.launch.training",), directory)) as executor:
        source = SweepJobs(stages, placed, written)
        written(source.begin(placed(stages.ask())))
        syncer = Syncer.start(root, file.name)
        labels = _TrialLabels(file, source.work, stages)
        with LiveView(labels, labels.done) as view:
            outcomes = drive(source, executor, view, file.launch.limits)
    behind = syncer.finish()
    results = {w.run_dir.run: w.run_dir.result() for w in source.work}
    found = stages.cells(results, fit=not outcomes.interrupted)
    return TuneResult(file, found, _rules(file, found), outcomes, behind)


class _TrialLabels(SweepLabels):
    """Labels of trials in the live view."""

    noun = "trials"

    def __init__(self, file: TuneFile, work: Sequence[PlannedJob], stages: "_TuningStages"):
        super().__init__(file.recipe.param_count, work)
        self._stages = stages

    def display(self, job: Job) -> JobDisplay:
        """Return the run's size, seed and values."""
        shown = super().display(job)
        values = self._stages.values_of(job.id)
        return replace(shown, words=f"{shown.words} " + " ".join(f"{k}={v:.3g}" for k, v in values.items()))


@dataclass
class _TuningStages:
    """Trials of all cells, then reruns of the best observed values of cells without an optimum."""

    session: TrialSession
    data_digest: str
    reruns: dict[str, tuple[int, dict[str, float], Proposal]] = field(default_factory=dict)
    """Cell, values and proposal of each rerun, by the id of its run."""
    _results: dict[str, RunResult | None] = field(default_factory=dict)
    _n_open: int = 0
    _optima: list[SettingsOptimum | str] | None = None

    def ask(self) -> tuple[Proposal, ...]:
        """Return new trials; when all have ended, the reruns, once."""
        if self._optima is not None:
            return ()
        found = self.session.ask()
        if not found and self._n_open == 0:
            found = self._again()
        self._n_open += len(found)
        return found

    def tell(self, proposal: Proposal, result: RunResult | None) -> None:
        """Receive the result of a run; None if it was lost."""
        self._n_open -= 1
        self._results[proposal.spec.id] = result
        if proposal.spec.id not in self.reruns:
            self.session.tell(proposal, result)

    def values_of(self, run: str) -> dict[str, float]:
        """Return the values of a trial or rerun by the id of its run."""
        return self.reruns[run][1] if run in self.reruns else self.session.trials[run].values

    def _again(self) -> tuple[Proposal, ...]:
        file = self.session.file
        self._optima = [self._optimum(k, self._results) for k in range(len(self.session.cells))]
        for k, optimum in enumerate(self._optima):
            best = min(
                (row for row in self._rows(k, self._results) if row.loss is not None),
                key=lambda row: row.loss,
                default=None,
            )
            if isinstance(optimum, str) and best is not None:
                values = self.session.trials[best.run].values
                for seed in range(file.seed + file.seeds, file.seed + file.seeds + file.reruns):
                    proposal = file.proposal(self.session.cells[k], values, seed, self.data_digest)
                    self.reruns[proposal.spec.id] = (k, values, proposal)
        return tuple(proposal for *_, proposal in self.reruns.values())

    def _rows(self, k: int, results: dict[str, RunResult | None]) -> list[TrialRow]:
        mine = (t for t in self.session.trials.values() if t.cell == k)
        return [_row(t.values, t.proposal, results.get(t.proposal.spec.id)) for t in mine]

    def _optimum(self, k: int, results: dict[str, RunResult | None]) -> SettingsOptimum | str:
        """Best values of a cell, by its finished trials."""
        rows = [row for row in self._rows(k, results) if row.loss is not None]
        if not rows:
            return "no trial has finished"
        ranges = self.session.file.fields
        x = np.array([[row.values[f] for f in ranges] for row in rows])
        logs = np.array([r.log for r in ranges.values()])
        x[:, logs] = np.log(x[:, logs])
        return optimum_of(x, np.array([row.loss for row in rows]), tuple(ranges), seed=k)

    def cells(self, results: dict[str, RunResult | None], *, fit: bool) -> list[TunedCell]:
        """Return every cell by these results.

        Args:
            results: By the id of a run.
            fit: Whether cells whose optima are not known yet are fitted.
        """
        optima = self._optima or [
            self._optimum(k, results) if fit else "its trials have not ended"
            for k in range(len(self.session.cells))
        ]
        again = [
            (k, _row(values, proposal, results.get(run)))
            for run, (k, values, proposal) in self.reruns.items()
        ]
        return [
            TunedCell(cell, self._rows(k, results), [row for of, row in again if of == k], optima[k])
            for k, cell in enumerate(self.session.cells)
        ]


def _row(values: dict[str, float], proposal: Proposal, result: RunResult | None) -> TrialRow:
    spec = proposal.spec
    values = {name: float(spec.batch_tokens) if name == BATCH else value for name, value in values.items()}
    status = "no result" if result is None else result.status
    loss = result.loss if result is not None and result.status == "finished" else None
    return TrialRow(spec.id, spec.seed, spec.batch_tokens, values, status, loss)


def _rules(file: TuneFile, cells: Sequence[TunedCell]) -> dict[str, SettingRule | str]:
    tuned = [(c.cell, c.optimum) for c in cells if isinstance(c.optimum, SettingsOptimum)]
    n_params = np.array([float(cell.n_params) for cell, _ in tuned])
    n_tokens = np.array([cell.n_tokens for cell, _ in tuned])
    found = {}
    for j, (name, values) in enumerate(file.fields.items()):
        place = np.array([optimum.place[j] for _, optimum in tuned])
        draws = [optimum.draws[:, j] for _, optimum in tuned]
        found[name] = rule_of(n_params, n_tokens, place, draws, values.log)
    return found
