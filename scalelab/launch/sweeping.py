"""A sweep as jobs: what a study asks for, placed on the disk, written down, driven and told back.

    study.ask -> place -> manifest, run directories -> jobs -> driver -> results -> study.tell

Not here: the order of jobs and their retries (the jobs package), what a run is (the train package).
"""

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from scalelab.files import place_of
from scalelab.jobs.base import Ended, Executor, Job, Resources
from scalelab.jobs.drive import Listed, Outcomes, drive
from scalelab.jobs.live import LiveView, Shown, Words
from scalelab.launch.plan import PlannedWork
from scalelab.launch.sweepfile import SweepFile
from scalelab.leases import hold
from scalelab.sweep.base import Proposal, Study
from scalelab.track.manifest import PlannedRun, SweepManifest
from scalelab.train.memory import first_micro_rows, run_bytes
from scalelab.train.spec import RunSpec
from scalelab.units import sci, si


@contextmanager
def the_only_driver(root: Path, sweep: str) -> Iterator[None]:
    """Hold a sweep's directory. Raises LaunchError where another process drives it."""
    with hold(
        place_of(root, sweep) / "lock",
        f"the sweep {sweep!r} is being run by another process",
        "wait for it, stop it, or give this sweep another name (--set name=...)",
    ):
        yield


def write_down(file: SweepFile, work: Sequence[PlannedWork], root: Path) -> None:
    """The sweep's manifest and its run directories, before anything starts."""
    count, seq_len = file.recipe.param_count, file.recipe.seq_len
    planned = []
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
                group=spec.ids[-1],
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
    ).write(root)
    for w in work:
        if w.state == "done":
            w.run_dir.tidy()
        else:
            w.run_dir.create(w.proposal.spec)


def jobs_of(work: Sequence[PlannedWork]) -> list[Job]:
    """What is left to train, the longest first, so that the end is short."""
    todo = sorted((w for w in work if w.state != "done"), key=_length, reverse=True)
    return [_job(w) for w in todo]


def _job(work: PlannedWork) -> Job:
    return Job(
        work.run_dir.run,
        work.run_dir,
        "run",
        resources=Resources(memory=lambda kind, there: memory(work.proposal.spec, kind, there)),
    )


def memory(spec: RunSpec, kind: str, there: int | None) -> int:
    """Memory that a run should take on a device of a kind that has so much of it, bytes."""
    precision = "fp32" if spec.precision == "fp32" else "bf16"
    return run_bytes(spec, precision, first_micro_rows(spec, kind, there, precision))


def _length(work: PlannedWork) -> float:
    """How long a run takes, in some unit."""
    return work.seconds if work.seconds is not None else work.proposal.flops


def train_all(file: SweepFile, work: Sequence[PlannedWork], executor: Executor) -> Outcomes:
    """Train what is left of some work, shown live. Returns how each run ended.

    Raises:
        LaunchError: A person has to fix something first.
    """
    words = SweepWords(file.recipe.param_count, work)
    with LiveView(words, words.done) as view:
        return drive(Listed(jobs_of(work)), executor, view, file.launch.limits)


class SweepWords(Words):
    """What is said of the runs of a sweep.

    Args:
        param_count: How the recipe counts N.
        work: What is known of them; it may grow.
    """

    noun = "runs"

    def __init__(self, param_count: str, work: Sequence[PlannedWork]):
        self.param_count, self.work = param_count, work

    @property
    def done(self) -> list[Job]:
        """Runs that are done before anything starts."""
        return [_job(w) for w in self.work if w.state == "done"]

    def shown(self, job: Job) -> Shown:
        """Its place in the sweep."""
        work = next(w for w in self.work if w.run_dir.run == job.id)
        spec, p = work.proposal.spec, work.proposal
        n = si(spec.model.size(spec.seq_len).count(self.param_count))
        budget = "" if p.flops_planned is None else f"C={sci(p.flops_planned)} "
        cells = {"budget": "-" if p.flops_planned is None else sci(p.flops_planned), "N": n,
                 "D": si(spec.n_tokens)}  # fmt: skip
        words = f"{budget}N={n} D={si(spec.n_tokens)} seed {spec.seed}"
        return Shown(words, cells, spec.n_steps, _length(work))

    def state(self, ended: Ended) -> str:
        """What it came to."""
        result = ended.job.dir.result() if ended.outcome == "done" else None
        if result is None:
            return ended.outcome
        loss = "" if result.loss is None else f", loss {result.loss:.4f}"
        return f"{result.status}{loss}" + (f": {result.reason}" if result.reason else "")


@dataclass
class SweepSource:
    """The jobs of a study. Work that was done before is told to the study without being driven.

    Args:
        study: Asks for runs.
        placed: Runs with their directories and estimates, checked against the corpus.
        written: Writes all work so far down.
    """

    study: Study
    placed: Callable[[tuple[Proposal, ...]], list[PlannedWork]]
    written: Callable[[Sequence[PlannedWork]], None]
    work: list[PlannedWork] = field(default_factory=list)
    """All that was asked for so far, in that order."""
    _untold: deque[PlannedWork] = field(default_factory=deque)
    _fresh: list[PlannedWork] = field(default_factory=list)
    _lost: set[str] = field(default_factory=set)

    def begin(self, first: list[PlannedWork]) -> list[PlannedWork]:
        """Take the answer to the first question, which was asked before the source was made."""
        self.work += first
        self._untold += first
        self._fresh += first
        return first

    def _more(self) -> list[PlannedWork]:
        """What the study asks for next, with its place."""
        return self.begin(self.placed(self.study.ask()))

    def ask(self) -> Sequence[Job]:
        """The jobs of the newest question, and of those that follow where it was done before."""
        while True:
            fresh, self._fresh = self._fresh, []
            if fresh:
                self.written(self.work)
            if jobs := jobs_of(fresh):
                return jobs
            self._tell_in_order()
            if not self._more():
                return ()

    def tell(self, ended: Ended) -> None:
        """Note a run that will have no result; results are read from the disk."""
        if ended.outcome != "done":
            self._lost.add(ended.job.id)

    def _tell_in_order(self) -> None:
        while self._untold:
            work = self._untold[0]
            result = work.run_dir.result()
            if result is None and work.run_dir.run not in self._lost:
                return
            self._untold.popleft()
            self.study.tell(work.proposal, result)
