"""How the runs of a check are trained: as jobs of the sweep's executor, or here.

Not here: which runs (workbench.py).
"""

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from scalelab.jobs.base import LOST, Executor, Job, JobOutcome, JobResources
from scalelab.jobs.driver import JobList, drive
from scalelab.jobs.settings import LaunchConfig
from scalelab.jobs.view import JobDisplay, JobLabels, LiveView
from scalelab.train.loop import train
from scalelab.train.memory import run_memory
from scalelab.train.run_directory import RunDir
from scalelab.train.spec import RunSpec
from scalelab.units import si


class RecipeRunLabels(JobLabels):
    """Labels of the runs of a check in the live view."""

    noun = "runs"

    def display(self, job: Job) -> JobDisplay:
        """Return the run's width, tokens and seed."""
        spec = job.dir.spec()
        cells = {"width": f"{spec.model.width()}", "D": si(spec.n_tokens)}
        words = f"width {spec.model.width()}, {si(spec.n_tokens)} tokens, seed {spec.seed}"
        return JobDisplay(words, cells, spec.n_steps, _flops(spec))

    def state(self, ended: JobOutcome) -> str:
        """Return the run's status and loss."""
        result = ended.job.dir.result() if ended.outcome == "done" else None
        if result is None:
            return ended.outcome
        return result.status if result.loss is None else f"{result.status}, loss {result.loss:.4f}"


class ExecutorTrainer:
    """Trains runs as jobs of one executor, with a live view."""

    def __init__(self, executor: Executor, config: LaunchConfig):
        self.executor, self.config = executor, config

    def __call__(self, dirs: Sequence[RunDir]) -> None:
        """Train runs, the longest first.

        Raises:
            KeyboardInterrupt: It was stopped on request; the runs resume.
            LaunchError: A run ended without a result, or a person has to fix something first.
        """
        specs = {run_dir.run: run_dir.spec() for run_dir in dirs}
        jobs = [_job(d, specs[d.run]) for d in sorted(dirs, key=lambda d: -_flops(specs[d.run]))]
        for job in jobs:
            self.executor.check(job)
        with LiveView(RecipeRunLabels()) as view:
            outcomes = drive(JobList(jobs), self.executor, view, self.config.limits)
        if outcomes.interrupted:
            raise KeyboardInterrupt
        if lost := outcomes.of(*LOST):
            raise lost[0].refusal()


@contextmanager
def executor_trainer(config: LaunchConfig, home: Path) -> Iterator[ExecutorTrainer]:
    """Start the executor of a sweep file for the runs of checks, which lie below the directory `home`.

    Raises:
        LaunchError: It cannot start.
    """
    with closing(config.executor.start(("scalelab.launch.training",), home)) as executor:
        yield ExecutorTrainer(executor, config)


def train_here(dirs: Sequence[RunDir]) -> None:
    """Train runs in this process, one after another."""
    for run_dir in dirs:
        with run_dir.claimed() as (ours, _):
            train(ours)


def _job(run_dir: RunDir, spec: RunSpec) -> Job:
    resources = JobResources(memory=lambda *device: run_memory(spec, *device), precision=spec.precision)
    return Job(run_dir.run, run_dir, "run", resources=resources)


def _flops(spec: RunSpec) -> float:
    return spec.model.size(spec.seq_len).flops_per_token * spec.n_tokens
