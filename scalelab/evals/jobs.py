"""An evaluation on an executor: a job for each model, then one for what is measured of all models together.

    evaluation file -> jobs -> driver -> executor -> stored rows -> read by the command, which measures what is left

A job measures what is not stored yet, item by item, so one that was killed goes on with the next item. It has no
result of its own: it is done when the rows of each of its items are stored. What a person judges at the terminal is
left to the command.

Not here: what is measured (measurement.py of each subfolder), the rows on the disk (stored_rows.py).
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from math import inf
from pathlib import Path
from typing import Any

from scalelab.evals.file import file_type
from scalelab.evals.measurement import MeasurementContext, WorkItem, work_item_id
from scalelab.evals.request import EvalRequest
from scalelab.evals.stored_rows import is_stored, rows_of_item
from scalelab.files import make_dir
from scalelab.jobs.base import ExecutorConfig, Job, JobOutcome, Outcome
from scalelab.jobs.driver import JobList, Limits, drive
from scalelab.jobs.lost import require_done
from scalelab.jobs.view import JobLabels, LiveView
from scalelab.jobs.worker import Assignment
from scalelab.train.run_directory import RunDir

WORKER = "scalelab.evals.jobs"
LIMITS = Limits(heartbeat_timeout_s=inf)
"""A test set may take hours, and logs nothing meanwhile."""
TOGETHER = "together"


class _EvaluationLabels(JobLabels):
    """Labels of the jobs of an evaluation in the live view."""

    noun = "jobs"


def measure_on(executor: ExecutorConfig, request: EvalRequest, context: MeasurementContext) -> None:
    """Measure what jobs can measure, and store the rows. The caller holds the lock of the evaluation.

    Args:
        executor: Settings of the executor.
        request: The evaluation.
        context: Its models.

    Raises:
        JobsLost: A job was killed again and again, or met a bug.
        KeyboardInterrupt: The jobs were asked to stop, and have.
        LaunchError: The executor cannot start, or a person has to fix what a job ran into.
    """
    jobs = [job for job in evaluation_jobs(request, context) if job.standing(job) is None]
    if not jobs:
        return
    home = make_dir(context.folder.absolute() / "jobs")
    with closing(executor.start((WORKER,), home)) as started, LiveView(_EvaluationLabels()) as view:
        outcomes = drive(JobList(jobs), started, view, LIMITS)
    RunDir(context.folder).refresh()  # other machines wrote there
    require_done(outcomes, "see what ended its process, then run the same command again")


def evaluation_jobs(request: EvalRequest, context: MeasurementContext) -> Iterator[Job]:
    """Yield the jobs of an evaluation. The name of each holds the ids of its items, which hold what decides their rows.

    Raises:
        ScalelabError: A model or file that items are made of cannot be read.
    """
    sections = [s for s in context.file.sections.values() if not s.is_interactive()]
    common = {
        "file": context.file.model_dump(mode="json", exclude={"executor"}),
        "root": os.path.abspath(request.root),
    }
    made: list[str] = []

    def job(name: str, model: str | None) -> Job:
        items = list(_items(context, model))
        name = f"{name}-{work_item_id([item.id for item in items])}"
        after = tuple(made) if model is None else ()
        made.append(name)
        place = RunDir(make_dir(context.folder.absolute() / "jobs" / name))
        return Job(
            name,
            place,
            "evaluation",
            after=after,
            settings={**common, "model": model},
            standing=lambda job: JobOutcome(job, "done") if _all_stored(context, items) else None,
            leaves_result=False,
        )

    if any(section.of_each_model for section in sections):
        for name in context.models:
            yield job(f"model.{name}", name)
    if any(not section.of_each_model for section in sections):
        yield job(TOGETHER, None)


def run_measurements(assignment: Assignment) -> Outcome:
    """Measure one model, or all of them together, and store the rows.

    Raises:
        ConfigError: A model does not exist here, or a sweep has no finished runs.
        LeaseTaken: Another process is measuring the same.
        ScalelabError: A model or file cannot be read, or does not support a measurement.
    """
    settings: Mapping[str, Any] = assignment.settings
    with assignment.dir.claimed("evaluation") as (ours, _):
        file = file_type().model_validate(settings["file"])
        request = EvalRequest(file, Path(settings["root"]), lambda text: ours.append("note", text=text))
        context = request.context()
        for n, item in enumerate(_items(context, settings["model"]), 1):
            if not is_stored(context, item):
                if assignment.stop():
                    return "interrupted"
                ours.guard()
                rows_of_item(context, item)
                ours.append("checkpoint", step=n)
            ours.append("step", step=n)
    return "done"


def _all_stored(context: MeasurementContext, items: Sequence[WorkItem]) -> bool:
    return all(is_stored(context, item) for item in items)


def _items(context: MeasurementContext, model: str | None) -> Iterator[WorkItem]:
    for section in context.file.sections.values():
        if section.of_each_model == (model is not None) and not section.is_interactive():
            yield from section.work_items(context, model)
