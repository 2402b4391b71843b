"""A sweep as jobs: proposals of a design, placed on disk, recorded, driven, and reported back.

    study.ask -> place -> manifest, run directories -> jobs -> driver -> results -> study.tell

Not here: the order of jobs and their retries (the jobs package), what a run is (the train package).
"""

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from scalelab.data.corpus.shards import open_corpus
from scalelab.errors import DataError, LaunchError, TrackError
from scalelab.files import exists, place_of
from scalelab.jobs.base import Executor, Job, JobOutcome, JobResources
from scalelab.jobs.driver import JobList, JobOutcomes, drive
from scalelab.jobs.view import JobDisplay, JobLabels, LiveView
from scalelab.launch.sweep_plan import PlannedJob
from scalelab.launch.trunk_jobs import PlannedTrunk, trunks_of
from scalelab.leases import hold
from scalelab.records.sweep_manifest import PlannedRun, SweepManifest, manifest_path
from scalelab.sweep.base import DesignSession, Proposal
from scalelab.sweep.file import SweepFile
from scalelab.sweep.tune_file import TuneFile
from scalelab.train.memory import run_memory
from scalelab.units import sci, si


@contextmanager
def sweep_lock(root: Path, sweep: str) -> Iterator[None]:
    """Hold a sweep's directory. Raises LaunchError where another process drives it."""
    with hold(
        place_of(root, sweep) / "lock",
        f"the sweep {sweep!r} is being run by another process",
        "wait for it, stop it, or give this sweep another name (--set name=...)",
    ):
        yield


def _refuse_other_kind(root: Path, name: str, tuned: tuple[str, ...]) -> None:
    path = manifest_path(root, name)
    if not exists(path):
        return
    try:
        there = SweepManifest.load(root, name).tuned
    except TrackError:  # it is damaged, and is written anew
        return
    if there != tuned:
        what = f"a tuning of {' and '.join(there)}" if there else "a sweep"
        raise LaunchError(
            f"{name!r} is already the name of {what}",
            where=str(path),
            fix="give this one another name: --set name=...",
        )


def write_manifest(
    file: SweepFile | TuneFile, work: Sequence[PlannedJob], root: Path, tuned: tuple[str, ...] = ()
) -> None:
    """Write the manifest of a sweep or a tuning and create its run directories.

    Args:
        file: Its file.
        work: All its runs so far.
        root: Directory of all runs.
        tuned: Fields of the recipe in which the runs differ.

    Raises:
        LaunchError: The name is that of a tuning and this is a sweep, or the other way round, or of a tuning of
            other fields.
    """
    _refuse_other_kind(root, file.name, tuned)
    count, seq_len = file.recipe.param_count, file.recipe.seq_len
    trunks, planned = trunks_of(work), []
    trunk_dirs = {w.run_dir.run: str(t.run_dir.path.relative_to(root)) for t in trunks for w in t.branches}
    for w in work:
        p, spec = w.proposal, w.proposal.spec
        size = spec.model.size(seq_len)
        planned.append(
            PlannedRun(
                run=w.run_dir.run,
                dir=str(w.run_dir.path.relative_to(root)),
                flops_planned=p.flops_planned,
                n_params_planned=p.n_params_planned,
                n_params=size.count(count),
                n_tokens_planned=p.n_tokens_planned,
                n_tokens=spec.n_tokens,
                n_steps=spec.n_steps,
                flops=p.flops,
                seed=spec.seed,
                group=spec.trunk_id or spec.ids[-1],
                trunk=spec.trunk_id,
                trunk_dir=trunk_dirs.get(w.run_dir.run),
                schedule=file.recipe.schedule_words,
                validates=p.validates,
            )
        )
    SweepManifest(
        sweep=file.name,
        digest=file.digest,
        param_count=count,
        question=file.question,
        prediction=file.prediction,
        target_flops=file.target_flops,
        config_yaml=file.to_yaml(),
        created_ms=time.time_ns() // 1_000_000,
        runs=tuple(planned),
        tuned=tuned,
        validation_digest=_validation_digest(work),
    ).write(root)
    for w in work:
        if w.state == "done":
            w.run_dir.tidy()
        else:
            w.run_dir.create(w.proposal.spec)
    for trunk in trunks:
        if trunk.is_needed:
            trunk.run_dir.create(trunk.spec)
        else:
            trunk.run_dir.clear_checkpoints()


def _validation_digest(work: Sequence[PlannedJob]) -> str | None:
    """Digest of the validation tokens of runs; None where there are none, or their corpus is not here."""
    for each in work:
        with suppress(DataError):
            return open_corpus(each.proposal.spec.data_digest).validation_digest
        break
    return None


def jobs_of(work: Sequence[PlannedJob]) -> list[Job]:
    """Return the jobs still to be trained: trunks, each right before the branches that wait for it, then other runs.

    Each longest first, which shortens the total time. Branches follow their trunk so that their checkpoints do not
    lie on the disk together with those of every other trunk. They begin when it has ended, however it ended.
    """
    todo = {w.run_dir.run: w for w in sorted(work, key=_length, reverse=True) if w.state != "done"}
    jobs = []
    for trunk in sorted((t for t in trunks_of(work) if t.is_needed), key=_trunk_length, reverse=True):
        waiting = {w.run_dir.run for w in trunk.waiting}
        jobs.append(trunk.job())
        jobs += [_job(todo.pop(run), (trunk.run_dir.run,)) for run in [*todo] if run in waiting]
    return jobs + [_job(w) for w in todo.values()]


def _job(work: PlannedJob, after: tuple[str, ...] = ()) -> Job:
    return Job(
        work.run_dir.run,
        work.run_dir,
        "run",
        resources=JobResources(
            memory=lambda *device: run_memory(work.proposal.spec, *device),
            precision=work.proposal.spec.precision,
        ),
        after=after,
    )


def _length(work: PlannedJob) -> float:
    """Duration of a run, in seconds if known, else its FLOPs."""
    return work.seconds if work.seconds is not None else work.proposal.flops


def _trunk_length(trunk: PlannedTrunk) -> float:
    """Duration of a trunk, likewise."""
    return trunk.seconds if trunk.seconds is not None else trunk.flops


def train_all(file: SweepFile, work: Sequence[PlannedJob], executor: Executor) -> JobOutcomes:
    """Train the runs that are not done, with a live view, and return their outcomes.

    Raises:
        LaunchError: A person has to fix something first.
    """
    words = SweepLabels(file.recipe.param_count, work)
    with LiveView(words, words.done) as view:
        return drive(JobList(jobs_of(work)), executor, view, file.launch.limits)


class SweepLabels(JobLabels):
    """Labels of the runs of a sweep in the live view.

    Args:
        param_count: How the recipe counts N.
        work: Runs of the sweep; the list may grow.
    """

    noun = "runs"

    def __init__(self, param_count: str, work: Sequence[PlannedJob]):
        self.param_count, self.work = param_count, work

    @property
    def done(self) -> list[Job]:
        """Runs that were done before the start."""
        return [_job(w) for w in self.work if w.state == "done"]

    def display(self, job: Job) -> JobDisplay:
        """Return the run's budget, size and seed; of a trunk its size, length and seed."""
        work = next((w for w in self.work if w.run_dir.run == job.id), None)
        if work is None:
            return self._display_trunk(job)
        spec, p = work.proposal.spec, work.proposal
        n = si(spec.model.size(spec.seq_len).count(self.param_count))
        budget = "" if p.flops_planned is None else f"C={sci(p.flops_planned)} "
        cells = {
            "budget": "-" if p.flops_planned is None else sci(p.flops_planned),
            "N": n,
            "D": si(spec.n_tokens),
        }
        words = f"{budget}N={n} D={si(spec.n_tokens)} seed {spec.seed}"
        return JobDisplay(words, cells, spec.n_steps, _length(work))

    def _display_trunk(self, job: Job) -> JobDisplay:
        trunk = next(t for t in trunks_of(self.work) if t.run_dir.run == job.id)
        spec = trunk.spec
        cells = {"budget": "trunk", "N": si(spec.model.size(spec.seq_len).count(self.param_count))}
        cells["D"] = si(spec.n_tokens)
        words = f"trunk of {len(trunk.branches)} runs, N={cells['N']} D={cells['D']} seed {spec.seed}"
        return JobDisplay(words, cells, spec.n_steps, _trunk_length(trunk))

    def state(self, ended: JobOutcome) -> str:
        """Return the run's status and loss."""
        result = ended.job.dir.result() if ended.outcome == "done" else None
        if result is None:
            return ended.outcome
        loss = "" if result.loss is None else f", loss {result.loss:.4f}"
        return f"{result.status}{loss}" + (f": {result.reason}" if result.reason else "")


@dataclass
class SweepJobs:
    """The jobs of a design. Results that exist already are reported to the design without a job.

    Args:
        study: Session of the design, which requests runs.
        placed: Returns runs with their directories and estimates, checked against the corpus.
        written: Records all work so far.
    """

    study: DesignSession
    placed: Callable[[tuple[Proposal, ...]], list[PlannedJob]]
    written: Callable[[Sequence[PlannedJob]], None]
    work: list[PlannedJob] = field(default_factory=list)
    """All runs requested so far, in order of request."""
    _unreported: deque[PlannedJob] = field(default_factory=deque)
    _fresh: list[PlannedJob] = field(default_factory=list)
    _lost: set[str] = field(default_factory=set)

    def begin(self, first: list[PlannedJob]) -> list[PlannedJob]:
        """Add newly requested runs and return them."""
        self.work += first
        self._unreported += first
        self._fresh += first
        return first

    def _more(self) -> list[PlannedJob]:
        """Request further runs from the design."""
        return self.begin(self.placed(self.study.ask()))

    def ask(self) -> Sequence[Job]:
        """Return jobs of the newest request; requests whose runs are all done are skipped."""
        while True:
            fresh, self._fresh = self._fresh, []
            if fresh:
                self.written(self.work)
            if jobs := jobs_of(fresh):
                return jobs
            self._report_in_order()
            if not self._more():
                return ()

    def tell(self, ended: JobOutcome) -> None:
        """Record a run that will have no result; results are read from the disk."""
        if ended.outcome != "done":
            self._lost.add(ended.job.id)

    def _report_in_order(self) -> None:
        while self._unreported:
            work = self._unreported[0]
            result = work.run_dir.result()
            if result is None and work.run_dir.run not in self._lost:
                return
            self._unreported.popleft()
            self.study.tell(work.proposal, result)
