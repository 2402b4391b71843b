"""A curation whose shards are worked on by an executor: a process on this machine, Slurm, Ray.

    curation file -> pipeline -> shards of one step -> groups -> jobs -> driver -> executor -> files of the stage

    <cache>/curation/jobs/<key>/    directories of the jobs, and their queue, until the curation is done

The pipeline of stages is the same as without an executor, and so is every byte of its result. What the shards of a
stage decide together is decided by this command. A shard whose record is complete is not done again. Machines other
than this one have to share the cache; the token of the queue, or the digest of the job's record, shows whether they do.

Not here: the order of stages (data/curate/pipeline.py), the process of a group (shards.py).
"""

import shutil
from collections.abc import Sequence
from functools import partial
from math import inf
from pathlib import Path

from scalelab.config import plugin
from scalelab.data.curate.file import CurationFile
from scalelab.data.curate.pipeline import CurationResult, curate
from scalelab.data.curate.shard_work import ShardJob, is_done
from scalelab.files import make_dir
from scalelab.jobs import EXECUTORS
from scalelab.jobs.base import Executor, ExecutorConfig, Job, JobOutcome, JobResources
from scalelab.jobs.driver import JobList, Limits, drive
from scalelab.jobs.lost import require_done
from scalelab.jobs.view import JobDisplay, JobLabels, LiveView
from scalelab.launch.shards import settings_of
from scalelab.train.run_directory import RunDir

WORKER = "scalelab.launch.shards"
LIMITS = Limits(heartbeat_timeout_s=inf)
"""A shard may take as long as its size and stage need, and logs nothing meanwhile."""
LEAST_JOBS, JOBS_PER_PLACE = 8, 4
"""Jobs of one step, if it has as many shards: so many, or so many for each that the executor runs at a time."""


class CurationRequest(CurationFile):
    """A curation file with where its shards are worked on."""

    executor: plugin(EXECUTORS) | None = None
    """Where shards are worked on; it has no effect on the result. None: in processes of this command, one per CPU
    core. Example: {kind: slurm, gpus: 0, workers: 16}."""

    @property
    def curation(self) -> CurationFile:
        """What decides the result."""
        return CurationFile.model_construct(
            **{name: getattr(self, name) for name in CurationFile.model_fields}
        )


def run_curation(
    request: CurationRequest, cache: Path | None = None, *, sample: bool = False
) -> CurationResult:
    """Run the stages of a curation that are not done yet, on the executor of its file.

    Args:
        request: The file.
        cache: Directory of intermediate results; None: that of prepared corpora.
        sample: Whether to curate a few hundred pages only, which this command does itself.

    Raises:
        DataError: The source cannot be read, a library is missing, or a stage has too little to decide.
        KeyboardInterrupt: The jobs were asked to stop, and have.
        LaunchError: The executor cannot start, or a person has to fix what a job ran into.
        RunError: The cache cannot be written.
        JobsLost: A job was killed again and again, or met a bug.
    """
    runner = None if request.executor is None else partial(ShardJobs, request.executor)
    return curate(request.curation, cache, runner=runner, sample=sample)


class ShardJobs:
    """Does the work on shards as jobs of an executor, which starts when there is some.

    Args:
        config: Settings of the executor.
        home: Directory of the jobs, which this process alone uses. Removed after a curation that is done.
    """

    def __init__(self, config: ExecutorConfig, home: Path):
        self._config, self._home = config, home
        self._executor: Executor | None = None

    def __enter__(self) -> "ShardJobs":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._executor is not None:
            self._executor.close()
        if kind is None:
            shutil.rmtree(self._home, ignore_errors=True)

    def run(self, jobs: Sequence[ShardJob], what: str) -> None:
        """Do the work on the shards of one step. See shard_work.ShardRunner and `run_curation`."""
        if all(map(is_done, jobs)):
            return
        if self._executor is None:
            self._executor = self._config.start((WORKER,), self._home)
        n_jobs = max(LEAST_JOBS, JOBS_PER_PLACE * self._executor.devices.n_parallel_on_cpu)
        size = -(-len(jobs) // n_jobs)
        groups = [ShardGroup(jobs[i : i + size], self._home) for i in range(0, len(jobs), size)]
        waiting = [group.job() for group in groups if not group.is_done]
        for job in waiting:
            make_dir(job.dir.path)
        with LiveView(_ShardLabels(what, groups)) as view:
            outcomes = drive(JobList(waiting), self._executor, view, LIMITS)
        RunDir(Path(jobs[0].directory)).refresh()  # other machines wrote there
        require_done(
            outcomes,
            "see what ended its process, such as too little memory for shard_mb, then run the same command again",
        )


class ShardGroup:
    """Shards of one step that one job works on.

    Args:
        shards: The shards, in their order.
        home: Directory of the jobs.
    """

    def __init__(self, shards: Sequence[ShardJob], home: Path):
        self.shards = shards
        first = shards[0]
        self.span = f"{first.index}-{shards[-1].index}"
        self.dir = RunDir(home / f"{Path(first.directory).name}-{first.step}-{self.span}")

    @property
    def is_done(self) -> bool:
        """Whether the result of each shard is there."""
        return all(map(is_done, self.shards))

    def job(self) -> Job:
        """Return the job that does the work."""
        return Job(
            self.dir.run,
            self.dir,
            "shards",
            resources=JobResources(threads=1, cpu_only=True),
            settings=settings_of(self.shards),
            standing=lambda job: JobOutcome(job, "done") if self.is_done else None,
            leaves_result=False,
        )


class _ShardLabels(JobLabels):
    """Labels of groups of shards in the live view."""

    noun = "groups of shards"

    def __init__(self, what: str, groups: Sequence[ShardGroup]):
        self._what, self._groups = what, {group.dir.run: group for group in groups}

    def display(self, job: Job) -> JobDisplay:
        """Return which shards they are."""
        group = self._groups[job.id]
        n = len(group.shards)
        return JobDisplay(f"{self._what} {group.span}", {"shards": group.span}, n, float(n))

    def state(self, ended: JobOutcome) -> str:
        """Return nothing for what was done: there are many."""
        return "" if ended.outcome == "done" else ended.outcome
