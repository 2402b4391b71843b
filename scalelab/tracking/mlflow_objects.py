"""Data sets and models as MLflow's own objects, which its page lists beside the runs.

Every call may be repeated: a model is looked up by its run before it is created, and a second one
that a late server made is deleted, the oldest kept.

Not here: what they say (lineage.py).
"""

from mlflow.entities import (
    Dataset,
    DatasetInput,
    InputTag,
    LoggedModel,
    LoggedModelOutput,
    LoggedModelStatus,
    Metric,
)
from mlflow.tracking import MlflowClient

from scalelab.tracking.lineage import MirroredDataset, MirroredModel

CONTEXT = "mlflow.data.context"
"""Tag of a data set that says what it is used for."""


def log_dataset(client: MlflowClient, run_id: str, record: MirroredDataset) -> None:
    """Log the training data of a run."""
    dataset = Dataset(record.name, record.digest, "scalelab", record.source, profile=record.profile)
    client.log_inputs(run_id, [DatasetInput(dataset, [InputTag(CONTEXT, "training")])])


def log_model(
    client: MlflowClient, experiment: str, run_id: str, record: MirroredModel, dataset: MirroredDataset | None
) -> None:
    """Log the model of a run, with the loss that it reached.

    Args:
        client: MLflow's client.
        experiment: Id of the run's experiment.
        run_id: MLflow's id of the run.
        record: The model.
        dataset: The data that its metrics were measured on; None if unknown.
    """
    model = _found_or_made(client, experiment, run_id, record)
    if model.status != LoggedModelStatus.READY:
        client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
    outputs = client.get_run(run_id).outputs
    known = {output.model_id for output in outputs.model_outputs} if outputs else set()
    if model.model_id not in known:
        client.log_outputs(run_id, [LoggedModelOutput(model.model_id, record.step)])
    of_data = {} if dataset is None else {"dataset_name": dataset.name, "dataset_digest": dataset.digest}
    metrics = [
        Metric(p.name, p.value, p.t, p.step, model_id=model.model_id, run_id=run_id, **of_data)
        for p in record.points
    ]
    if metrics:
        client.log_batch(run_id, metrics=metrics)


def _found_or_made(client: MlflowClient, experiment: str, run_id: str, record: MirroredModel) -> LoggedModel:
    found = client.search_logged_models([experiment], f"source_run_id = '{run_id}'")
    if not found:
        return client.create_logged_model(
            experiment,
            name=record.name,
            source_run_id=run_id,
            tags=dict(record.tags),
            params=dict(record.params),
            model_type="scalelab",
        )
    first, *doubles = sorted(found, key=lambda model: (model.creation_timestamp, model.model_id))
    for double in doubles:
        client.delete_logged_model(double.model_id)
    return first
