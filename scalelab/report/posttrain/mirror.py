"""The grades and the report of a post-training in MLflow."""

from pathlib import Path

from scalelab.posttrain.run import PosttrainPlan
from scalelab.report.posttrain.results import PosttrainResults
from scalelab.tracking.mirror_warning import warn_if_not_mirrored
from scalelab.tracking.report_mirror import log_evaluation


def mirror_report(plan: PosttrainPlan, data: PosttrainResults, folder: Path) -> None:
    """Log the grades and the files of the report to MLflow, or warn that this failed.

    Args:
        plan: The post-training.
        data: Its results.
        folder: Directory of the report.
    """
    with warn_if_not_mirrored("the report"):
        log_evaluation(
            plan.root,
            data.name,
            folder,
            f"posttrain:{plan.file.digest}:{plan.file.seed}",
            metrics(data),
            f"grades of {len(data.models)} models",
        )


def metrics(data: PosttrainResults) -> dict[str, float | None]:
    """Return the cost and the grades of every model as metrics of one MLflow run."""
    values: dict[str, float | None] = {"flops": data.flops, "seconds": data.seconds}
    for model in data.models:
        for name, grade in model.sets.items():
            for what in ("accuracy", "gold"):
                values[f"{model.model}.{name}.{what}"] = getattr(grade, what)
        values[f"{model.model}.bpb"] = model.bpb
    return values
