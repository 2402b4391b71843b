"""A post-training from its file to finished stages. Nothing is printed but the live view of the jobs.

    plan_posttrain   the base model, and every stage with its state and greatest cost; writes nothing
    run_posttrain    runs the stages that are not finished and resumes those that were interrupted

Not here: the order of stages (pipeline.py), one stage (loop.py), the report (report/posttrain/),
flags (cli/posttrain.py).
"""

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scalelab.evals.checkpoint import read_description
from scalelab.evals.models import find_base
from scalelab.files import exists, place_of
from scalelab.jobs.base import Job, JobOutcome
from scalelab.jobs.driver import JobList, JobOutcomes, drive
from scalelab.jobs.limits import Limits
from scalelab.jobs.view import JobDisplay, JobLabels, LiveView
from scalelab.leases import hold
from scalelab.markup import printable
from scalelab.posttrain.jobs import jobs_of, preload
from scalelab.posttrain.pipeline import PosttrainFile, StagePlan, plan_stages, write_manifest
from scalelab.tracking.sync import Syncer
from scalelab.units import duration, sci

LIMITS = Limits(stop_on_refusal=False, heartbeat_timeout_s=float("inf"))
"""A stage may be silent for as long as a test set takes, because grading it is one step."""


@dataclass(frozen=True)
class PosttrainPlan:
    """A post-training before it starts."""

    file: PosttrainFile
    root: Path
    """Directory of all runs."""
    base: Mapping[str, Any]
    """What is known of the base model (describe_base)."""
    stages: Sequence[StagePlan]
    """Every stage in order, grades last."""


@dataclass(frozen=True)
class PosttrainRun:
    """A post-training after its jobs have ended."""

    plan: PosttrainPlan
    outcomes: JobOutcomes
    behind: str | None
    """Message of the MLflow mirror if it has not caught up."""

    @property
    def interrupted(self) -> bool:
        """Whether the post-training was stopped on request."""
        return self.outcomes.interrupted

    @property
    def failed(self) -> list[JobOutcome]:
        """Stages that ended without a finished result, except those that wait for another stage."""
        return [e for e in self.outcomes.ended.values() if e.outcome not in {"done", "blocked"}]

    @property
    def diverged(self) -> dict[str, str]:
        """Reason of each stage that ended because its loss was no number, by name."""
        results = {planned.name: planned.dir.result() for planned in self.plan.stages}
        return {
            name: result.reason or "its loss was not finite"
            for name, result in results.items()
            if result is not None and result.status == "diverged"
        }

    @property
    def reasons(self) -> dict[str, str]:
        """Reason of the outcome of each stage, by name."""
        return {name: ended.reason or ended.outcome for name, ended in self.outcomes.ended.items()}


def plan_posttrain(file: PosttrainFile, root: Path) -> PosttrainPlan:
    """Return the plan of a post-training. Writes nothing.

    Raises:
        ConfigError: The base model does not exist.
        DataError: The conversations cannot be read.
        RunError: The base model has no weights, or the post-training cannot have its name.
    """
    place_of(root, file.name)
    with file.located():
        base = find_base(file.base, root)
    stages = plan_stages(file, base, root)
    return PosttrainPlan(file, root, describe_base(base, root), stages)


def run_posttrain(plan: PosttrainPlan) -> PosttrainRun:
    """Run every stage that is not finished, in parallel where inputs allow.

    Raises:
        LeaseTaken: Another process runs this post-training.
        LaunchError: The executor cannot start.
    """
    file, root, stages = plan.file, plan.root, plan.stages
    problem = f"another process is running the post-training {file.name!r}"
    with hold(place_of(root, file.name) / "lock", problem, "wait for it to end, or stop it"):
        write_manifest(file, stages, plan.base, root)
        syncer = Syncer.start(root, file.name)
        try:
            with (
                closing(file.executor.start(preload(stages), root / file.name)) as executor,
                LiveView(StageLabels(stages)) as view,
            ):
                outcomes = drive(JobList(jobs_of(stages)), executor, view, LIMITS)
        finally:
            behind = syncer.finish()
    return PosttrainRun(plan, outcomes, behind)


def max_flops(planned: StagePlan, base: Mapping[str, Any]) -> float | None:
    """Return the FLOPs of a stage if every row fills the context; None if not known yet.

    Args:
        planned: The stage.
        base: What is known of the base model (describe_base).
    """
    rows, passes = planned.spec.stage.max_rows()
    per_token = base.get("flops_per_token")
    if rows is None or per_token is None:
        return None
    return rows * base["seq_len"] * passes * per_token / 3


def describe_base(base: Path, root: Path) -> dict[str, Any]:
    """Return what is known of the base model from its directory; unknown values are None.

    Args:
        base: Directory of a run or of a checkpoint.
        root: Directory of all runs, for the FLOPs of earlier runs on the same corpus.
    """
    known: dict[str, Any] = {"path": str(base)}
    if not exists(base / "model.json") and exists(base / "spec.yaml"):
        from scalelab.records.run_table import every_run
        from scalelab.train.run_directory import RunDir

        run_dir = RunDir(base)
        spec, result = run_dir.spec(), run_dir.result()
        size = spec.model.size(spec.seq_len)
        known |= {
            "run": run_dir.run,
            "n_params_total": size.n_params_total,
            "flops_per_token": size.flops_per_token,
            "seq_len": spec.seq_len,
            "loss": None if result is None else result.loss,
            "bpb": None if result is None else result.bpb,
            "flops": None if result is None else result.flops,
            "n_tokens": None if result is None else result.n_tokens,
        }
        others = every_run(root, None)
        before = others[(others["data_digest"] == spec.data_digest) & (others["run"] != run_dir.run)]
        known["flops_before"] = float(before.drop_duplicates("run")["flops"].sum())
        return known
    if exists(base / "model.json"):
        config, model = read_description(base)
        seq_len = model.seq_len
    else:
        from scalelab.model.huggingface import config_of

        config, seq_len = config_of(base)
    size = config.size(seq_len)
    return known | {
        "seq_len": seq_len,
        "n_params_total": size.n_params_total,
        "flops_per_token": size.flops_per_token,
    }


class StageLabels(JobLabels):
    """Texts of the live view about stages."""

    noun = "stages"

    def __init__(self, stages: Sequence[StagePlan]):
        self._stages = {p.name: p for p in stages}

    def display(self, job: Job) -> JobDisplay:
        """Return the name and kind of the stage."""
        return JobDisplay(job.id, {"stage": job.id, "kind": self._stages[job.id].spec.stage.kind})

    def state(self, ended: JobOutcome) -> str:
        """Return how the stage ended, its cost, headline numbers and an example."""
        if ended.outcome != "done":
            return ended.outcome
        planned = self._stages[ended.job.id]
        stage, result = planned.spec.stage, planned.dir.result()
        numbers = [
            f"{k} {value:.3f}" if isinstance(value, float) else f"{k} {value:,}"
            for k, value in stage.display(result).headline.items()
        ]
        example = printable(stage.example(planned.dir.path) or "")
        cost = f"done in {duration(result.seconds)}, {sci(result.flops)} FLOPs"
        return cost + (f": {', '.join(numbers)}" if numbers else "") + (f"; {example}" if example else "")
