"""Stages as jobs: side by side, each once those that it needs are done."""

from collections.abc import Sequence

from scalelab.errors import ScalelabError
from scalelab.jobs.base import Ended, Job, Resources
from scalelab.posttrain.base import StageDir
from scalelab.posttrain.flow import Planned

WORKER = "scalelab.posttrain.worker"


def jobs_of(stages: Sequence[Planned]) -> list[Job]:
    """A job for each stage; one that asks a person is done at this terminal."""
    return [
        Job(
            p.name,
            p.dir.run_dir,
            "stage",
            needs=tuple(p.spec.stage.needs()),
            resources=Resources(threads=1, terminal=p.spec.stage.is_interactive()),
            standing=standing,
        )
        for p in stages
    ]


def preload(stages: Sequence[Planned]) -> tuple[str, ...]:
    """Modules that the stages' processes need."""
    return (WORKER, *sorted({type(p.spec.stage).__module__ for p in stages}))


def standing(job: Job) -> Ended | None:
    """How a stage with a result ended; None: it has none. One that does not hold is refused."""
    try:
        result = StageDir(job.dir).result()
    except ScalelabError as error:
        return Ended(job, "refused", error.problem, error.where, error.fix)
    if result is None:
        return None
    if result.status == "finished":
        return Ended(job, "done")
    return Ended(job, "error", f"{result.status}: {result.reason}")
