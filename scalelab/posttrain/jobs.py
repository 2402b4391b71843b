"""Stages as jobs: each runs once the stages that it needs are finished."""

from collections.abc import Sequence

from scalelab.errors import ScalelabError
from scalelab.jobs.base import Job, JobOutcome, JobResources
from scalelab.posttrain.base import StageDir
from scalelab.posttrain.pipeline import StagePlan

WORKER = "scalelab.posttrain.worker"


def jobs_of(stages: Sequence[StagePlan]) -> list[Job]:
    """Return one job per stage; a stage that asks a person runs at this terminal."""
    return [
        Job(
            p.name,
            p.dir.run_dir,
            "stage",
            needs=tuple(p.spec.stage.needs()),
            resources=JobResources(threads=1, terminal=p.spec.stage.is_interactive()),
            standing=standing,
        )
        for p in stages
    ]


def preload(stages: Sequence[StagePlan]) -> tuple[str, ...]:
    """Return the modules that the processes of the stages import."""
    return (WORKER, *sorted({type(p.spec.stage).__module__ for p in stages}))


def standing(job: Job) -> JobOutcome | None:
    """Return how a stage with a result ended; None if it has none. A damaged result is refused."""
    try:
        result = StageDir(job.dir).result()
    except ScalelabError as error:
        return JobOutcome(job, "refused", error.problem, error.where, error.fix)
    if result is None:
        return None
    if result.status == "finished":
        return JobOutcome(job, "done")
    return JobOutcome(job, "error", f"{result.status}: {result.reason}")
