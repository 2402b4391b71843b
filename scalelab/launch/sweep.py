"""A sweep from its file to trained runs. Nothing is printed but the live view of the jobs.

    plan_sweep   every run with its cost and state, at once; nothing is written, timed or trained
    time_plan    the same with the time of each run, from a few timed steps
    run_sweep    both, then trains what is not trained yet, and resumes what was interrupted

Not here: the jobs (sweep_run.py), texts (report/sweep/), flags (cli/sweep.py).
"""

import json
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from scalelab.data.corpus import shards
from scalelab.data.corpus.mixture import held_out_windows, refuse_too_many
from scalelab.data.corpus.shards import Corpus
from scalelab.data.vocabulary import UNPREPARED, vocab_size_of
from scalelab.errors import ConfigError, DataError, LaunchError
from scalelab.files import place_of
from scalelab.jobs.base import LOST, AvailableDevices, Executor, JobOutcome
from scalelab.jobs.driver import JobOutcomes, drive
from scalelab.jobs.view import LiveView
from scalelab.launch import shared_runs
from scalelab.launch.sweep_plan import PlannedJob, place
from scalelab.launch.sweep_run import SweepJobs, SweepLabels, jobs_of, sweep_lock, write_manifest
from scalelab.launch.sweep_timing import LIMIT_S, SweepTiming, estimate, time_runs
from scalelab.launch.trunk_jobs import flops_planned
from scalelab.sweep.base import DesignSession, Proposal
from scalelab.sweep.file import MOST_RUNS, SweepFile, too_many_runs
from scalelab.tracking.sync import Syncer
from scalelab.train.recipe import Recipe
from scalelab.train.spec import RunResult, RunSpec
from scalelab.units import si


@dataclass(frozen=True)
class SweepPlan:
    """Every run of a sweep before it starts, with its state and estimated cost."""

    file: SweepFile
    work: Sequence[PlannedJob]
    n_train: int | None
    """Training tokens of the corpus; None if it is not prepared."""
    devices: AvailableDevices | None = None
    """Devices that the runs are placed on; None before an executor has started, and where all runs are trained."""
    timing: SweepTiming | None = None
    """Timed steps behind the seconds of each run; None: not timed."""

    def to_json(self) -> dict[str, Any]:
        """Return the plan as JSON types."""
        count, seq_len = self.file.recipe.param_count, self.file.recipe.seq_len
        return {
            "schema": 1,
            "sweep": self.file.name,
            "digest": self.file.digest,
            "param_count": count,
            "runs": [
                {
                    "run": w.run_dir.run,
                    "state": w.state,
                    "flops_planned": w.proposal.flops_planned,
                    "flops": w.proposal.flops,
                    "n_params_planned": w.proposal.n_params_planned,
                    "n_params": w.proposal.spec.model.size(seq_len).count(count),
                    "n_tokens_planned": w.proposal.n_tokens_planned,
                    "n_tokens": w.proposal.spec.n_tokens,
                    "n_steps": w.proposal.spec.n_steps,
                    "batch_tokens": w.proposal.spec.batch_tokens,
                    "seed": w.proposal.spec.seed,
                    "trunk": w.proposal.spec.trunk_id,
                    "seconds_estimated": w.seconds,
                }
                for w in self.work
            ],
            "flops_planned": flops_planned(self.work),
            "timing": None if self.timing is None else self._timing(self.timing),
        }

    def _timing(self, timing: SweepTiming) -> dict[str, Any]:
        count, seq_len = self.file.recipe.param_count, self.file.recipe.seq_len
        return {
            "limit_s": timing.limit_s,
            "models": [
                {
                    "n_params": m.proposal.spec.model.size(seq_len).count(count),
                    "seconds_per_token": m.seconds_per_token,
                    "reason": m.reason or None,
                }
                for m in timing.models
            ],
        }


@dataclass(frozen=True)
class SweepResult:
    """The runs of a sweep after its jobs have ended. All measured."""

    file: SweepFile
    work: Sequence[PlannedJob]
    outcomes: JobOutcomes
    behind: str | None
    """Message of the MLflow mirror if it has not caught up."""

    @property
    def results(self) -> list[RunResult | None]:
        """Result of each run of `work`; None for a run without one."""
        return [w.run_dir.result() for w in self.work]

    @property
    def n_finished(self) -> int:
        """Number of runs that were trained to their end."""
        return sum(r is not None and r.status == "finished" for r in self.results)

    @property
    def is_fittable(self) -> bool:
        """Whether enough runs finished for a fit: half of them, at least one."""
        return self.n_finished > 0 and 2 * self.n_finished >= len(self.work)

    @property
    def lost(self) -> list[JobOutcome]:
        """Jobs that ended without a result."""
        return self.outcomes.of(*LOST)

    @property
    def interrupted(self) -> bool:
        """Whether the sweep was stopped on request."""
        return self.outcomes.interrupted


def plan_sweep(file: SweepFile, root: Path) -> SweepPlan:
    """Return every run of a sweep with its cost. Writes nothing and times nothing: see time_plan.

    Args:
        file: The sweep file.
        root: Directory of all runs.

    Raises:
        ConfigError: A run cannot be built, or there are too many.
        DataError: The corpus is too small for a run.
        RunError: The sweep cannot have its name.
    """
    place_of(root, file.name)
    corpus = shards.find(file.recipe.data)
    with file.located():
        vocab_size = corpus.vocab_size if corpus else vocab_size_of(file.recipe.data)
        digest = corpus.digest if corpus else UNPREPARED
        session = file.design.study(file.recipe, vocab_size=vocab_size, data_digest=digest)
        proposals = session.ask()
        refuse_too_many_runs(proposals)
        if corpus:
            refuse_unfit(file.recipe, corpus, proposals)
    work = place(proposals, root, file.name)
    return SweepPlan(file, work, corpus.n_train if corpus else None)


def time_plan(plan: SweepPlan, limit_s: float = LIMIT_S) -> SweepPlan:
    """Return a plan with the time of each run, from timed steps of some of its models.

    Args:
        plan: Plan of a sweep.
        limit_s: Time limit of the steps, seconds. Models that would take longer are not timed.

    Raises:
        LaunchError: The executor cannot start.
    """
    with closing(_executor(plan.file, None)) as executor:
        return _with_times(plan, executor, limit_s)


def _with_times(plan: SweepPlan, executor: Executor, limit_s: float | None) -> SweepPlan:
    timing = None if limit_s is None else time_runs(plan.work, executor, limit_s)
    is_trained = all(work.state == "done" for work in plan.work)
    devices = None if is_trained else executor.devices
    return replace(plan, work=estimate(plan.work, timing), devices=devices, timing=timing)


def _ignore(plan: SweepPlan) -> None:
    del plan


def run_sweep(
    file: SweepFile,
    root: Path,
    on_plan: Callable[[SweepPlan], None] = _ignore,
    on_time: Callable[[SweepPlan], None] = _ignore,
    limit_s: float | None = LIMIT_S,
) -> SweepResult:
    """Train every run of a sweep that is not trained yet, and return the outcomes of all of them.

    Args:
        file: The sweep file.
        root: Directory of all runs.
        on_plan: Called with the plan before anything is written, timed or trained.
        on_time: Called with the plan and its times, before anything is written or trained.
        limit_s: Time limit of timing, seconds; None: time nothing.

    Raises:
        DataError: The corpus is too small for a run.
        LaunchError: Another process runs this sweep, an executor cannot start, or no device can do a run.
    """
    corpus = shards.prepare(file.recipe.data)
    with file.located():
        session = file.design.study(file.recipe, vocab_size=corpus.vocab_size, data_digest=corpus.digest)
        first = session.ask()
        refuse_too_many_runs(first)
        refuse_unfit(file.recipe, corpus, first)
    with sweep_lock(root, file.name):
        plan = SweepPlan(file, place(first, root, file.name, shared_runs.settle), corpus.n_train)
        on_plan(plan)
        with closing(_executor(file, root / file.name)) as executor:
            return _train(plan, session, corpus, executor, root, on_time, limit_s)


def _train(
    plan: SweepPlan,
    session: DesignSession,
    corpus: Corpus,
    executor: Executor,
    root: Path,
    on_time: Callable[[SweepPlan], None],
    limit_s: float | None,
) -> SweepResult:
    """Time the runs of a plan, train them and those that the design adds, and return the outcomes."""
    for job in jobs_of(plan.work):
        executor.check(job)
    file, plan = plan.file, _with_times(plan, executor, limit_s)
    on_time(plan)

    def placed(proposals: tuple[Proposal, ...]) -> list[PlannedJob]:
        refuse_unfit(file.recipe, corpus, proposals)
        return estimate(place(proposals, root, file.name, shared_runs.settle), plan.timing)

    source = SweepJobs(session, placed, lambda work: write_manifest(file, work, root))
    work = source.begin(list(plan.work))
    write_manifest(file, work, root)
    syncer = Syncer.start(root, file.name)
    labels = SweepLabels(file.recipe.param_count, source.work)
    with LiveView(labels, labels.done) as view:
        outcomes = drive(source, executor, view, file.launch.limits)
    return SweepResult(file, source.work, outcomes, syncer.finish())


def refuse_unfinished(result: SweepResult) -> None:
    """Refuse a sweep of which no run finished, or fewer than half: what is left is no sample of the design.

    Raises:
        LaunchError: Fewer than half of the runs finished.
    """
    if result.is_fittable:
        return
    n, name = result.n_finished, result.file.name
    problem = (
        f"{n} of {len(result.work)} runs of {name} finished, too few to fit"
        if n
        else f"no run of {name} finished, so there is nothing to fit"
    )
    ended = (
        w for w, r in zip(result.work, result.results, strict=True) if r is None or r.status != "finished"
    )
    raise LaunchError(problem, where=str(next(ended).run_dir.path), fix=_remedy(result))


def _remedy(result: SweepResult) -> str:
    """Return what to change after runs of a sweep ended without a loss."""
    statuses = {r.status for r in result.results if r is not None}
    if "diverged" not in statuses:
        return "see above why each ended, then run the same command to try them again"
    lr = getattr(result.file.recipe.optimizer, "lr", None)
    number = f"={lr / 4:.3g}" if isinstance(lr, float | int) else ""
    return (
        "see above why each ended; where they diverged, lower the learning rate and run the sweep again: "
        f"--set recipe.optimizer.lr{number}"
    )


def _executor(file: SweepFile, home: Path | None) -> Executor:
    return file.launch.executor.start(("scalelab.launch.training",), home)


def refuse_too_many_runs(proposals: Sequence[Proposal]) -> None:
    """Refuse a design that asks for more than MOST_RUNS runs at once. Raises ConfigError."""
    if len(proposals) > MOST_RUNS:
        raise ConfigError(too_many_runs(len(proposals)), where="design", fix="ask for fewer runs")


def refuse_unfit(recipe: Recipe, corpus: Corpus, proposals: tuple[Proposal, ...]) -> None:
    """Refuse runs that the corpus is too small for, before anything is trained.

    Raises:
        DataError: A run needs more tokens than the corpus has, or validation, also of a domain, has too few.
    """
    longest: dict[str, RunSpec] = {}
    for spec in (proposal.spec for proposal in proposals):
        mixture = json.dumps([spec.data.weights, spec.data.cooldown_weights])
        if mixture not in longest or spec.n_tokens > longest[mixture].n_tokens:
            longest[mixture] = spec
    for spec in longest.values():
        refuse_too_many(corpus, spec.data, recipe.seq_len, spec.n_tokens, spec.stable_tokens)
    held_out_windows(corpus, recipe.seq_len)
    wanted = max(recipe.evaluation.tokens, recipe.evaluation.curve_tokens)
    available = corpus.n_validation - 1
    if wanted > available:
        raise DataError(
            f"the recipe needs {si(wanted)} validation tokens, the corpus has {si(available)}",
            where="recipe.evaluation.tokens",
            fix=f"--set recipe.evaluation.tokens={available // recipe.seq_len * recipe.seq_len}, "
            "or hold out more: recipe.data.validation",
        )
