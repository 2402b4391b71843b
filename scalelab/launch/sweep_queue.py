"""The runs of a sweep as a queue, for workers that are started by hand or by another program.

    sweep file -> plan -> manifest, run directories -> queue -> `scalelab worker`, any number of times

Only designs whose runs do not depend on results can be queued as a whole; the others need a driver.

Not here: the queue (jobs/queue.py), the order of jobs (sweep_run.py).
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from scalelab.data.corpus import shards
from scalelab.errors import LaunchError
from scalelab.files import write_text
from scalelab.jobs.kubernetes import manifest, manifest_text
from scalelab.jobs.queue import JobQueue
from scalelab.jobs.queue_records import QueueSettings
from scalelab.launch import shared_runs
from scalelab.launch.sweep import SweepPlan, refuse_too_many_runs, refuse_unfit
from scalelab.launch.sweep_plan import place
from scalelab.launch.sweep_run import jobs_of, sweep_lock, write_manifest
from scalelab.sweep.file import SweepFile


@dataclass(frozen=True)
class QueuedSweep:
    """A sweep whose runs were queued."""

    plan: SweepPlan
    queue: JobQueue
    token: str
    n_jobs: int
    """Jobs that are still to be run: runs and trunks."""

    @property
    def command(self) -> str:
        """Command that starts one worker, in the directory in which the sweep was queued."""
        return f"scalelab worker {self.queue.home} --token {self.token}"

    def write_manifest(self) -> Path:
        """Write the manifest of a Kubernetes Job that runs the workers, and return its path.

        Raises:
            LaunchError: A setting is missing, or a directory is not on the volume.
        """
        settings = self.plan.file.launch.kubernetes
        content = manifest(settings, self.queue, self.token, shards.cache_dir())
        place = self.queue.home / "kubernetes.yaml"
        write_text(place, manifest_text(content))
        return place


def refuse_unfit_pods(file: SweepFile, root: Path) -> None:
    """Refuse settings of which no manifest could be made, before anything is queued. Raises LaunchError."""
    manifest(file.launch.kubernetes, JobQueue(root / file.name), "", shards.cache_dir())


def queue_sweep(file: SweepFile, root: Path, on_plan: Callable[[SweepPlan], None]) -> QueuedSweep:
    """Queue every run of a sweep that is not trained yet; nothing is trained.

    Args:
        file: The sweep file.
        root: Directory of all runs.
        on_plan: Called with the plan before anything is written.

    Raises:
        DataError: The corpus is too small for a run.
        LaunchError: Another process runs this sweep, or its design needs results to go on.
    """
    if file.design.adaptive:
        raise LaunchError(
            f"the design {getattr(file.design, 'kind', '')!r} chooses runs from results, so they cannot all be queued",
            where="design",
            fix="run it without --prepare, with an executor such as `launch.executor: slurm`",
        )
    corpus = shards.prepare(file.recipe.data)
    with file.located():
        session = file.design.study(file.recipe, vocab_size=corpus.vocab_size, data_digest=corpus.digest)
        proposals = session.ask()
        refuse_too_many_runs(proposals)
        refuse_unfit(file.recipe, corpus, proposals)
    with sweep_lock(root, file.name):
        plan = SweepPlan(file, place(proposals, root, file.name, shared_runs.settle), corpus.n_train)
        on_plan(plan)
        write_manifest(file, plan.work, root)
        jobs, queue, limits = jobs_of(plan.work), JobQueue(root / file.name), file.launch.limits
        settings = queue.open(
            QueueSettings(
                driven=False,
                retries=limits.retries,
                heartbeat_timeout_s=limits.heartbeat_timeout_s,
                wall_timeout_s=limits.wall_timeout_s,
                preload=["scalelab.launch.training"],
            )
        )
        queue.publish(jobs)
        queue.keep_only([job.id for job in jobs])
    return QueuedSweep(plan, queue, settings.token, len(jobs))
