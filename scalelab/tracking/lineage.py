"""The data and the model of a finished run, as records that a tracker can list.

A data set is its digest and the part of the spec that describes it; a model is its sizes and where its
weights lie. Neither text nor weights are copied.

Not here: MLflow's objects (mlflow_objects.py).
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from scalelab.config import parse_yaml
from scalelab.files import exists
from scalelab.tracking.payload import CONSTANTS, MetricPoint
from scalelab.train.run_directory import RunDir, read_sealed_yaml
from scalelab.train.spec import RunResult

LONGEST_NAME = 128


@dataclass(frozen=True)
class MirroredDataset:
    """The data of a run."""

    name: str
    digest: str
    source: str
    """The data section of the spec, as JSON."""
    profile: str
    """Numbers of tokens, as JSON."""


@dataclass(frozen=True)
class MirroredModel:
    """The model that a run left."""

    name: str
    step: int
    params: Mapping[str, str]
    """Its sizes and architecture."""
    tags: Mapping[str, str]
    """Where its weights lie, and their digest."""
    points: tuple[MetricPoint, ...] = field(default=())
    """Its loss on the validation data: the point that the run has too, as MLflow adds it to both."""


def dataset_of(run_dir: RunDir, result: RunResult) -> MirroredDataset | None:
    """Return the data of a run; None if its spec describes none."""
    data = _spec(run_dir).get("data")
    if not isinstance(data, dict):
        return None
    source = data.get("source")
    kind = source.get("kind") if isinstance(source, dict) else None
    tokens = {"n_tokens": result.n_tokens, "n_tokens_unique": result.n_tokens_unique}
    return MirroredDataset(
        name=f"{kind or 'data'} in {result.tokenizer} tokens",
        digest=result.data_digest,
        source=json.dumps(data, sort_keys=True, default=str),
        profile=json.dumps(tokens),
    )


def model_of(name: str, run_dir: RunDir, result: RunResult) -> MirroredModel | None:
    """Return the model of a run; None if the run did not finish."""
    if result.status != "finished":
        return None
    model = _spec(run_dir).get("model")
    shape = model if isinstance(model, dict) else {}
    params = {f"model.{key}": str(value) for key, value in shape.items()}
    params |= {key: str(value) for key in CONSTANTS if (value := getattr(result, key)) is not None}
    weights = run_dir.weights_path
    tags = {"scalelab.run": result.run}
    if exists(weights):
        tags["scalelab.weights"] = f"{run_dir.path.parent.name}/{run_dir.path.name}/{weights.name}"
    if weights.name in result.files:
        tags["scalelab.weights_sha256"] = result.files[weights.name]
    loss = () if result.loss is None else (result.loss,)
    points = tuple(MetricPoint("loss", value, result.finished_ms, result.n_steps) for value in loss)
    return MirroredModel(re.sub(r"[^\w-]", "_", name)[:LONGEST_NAME], result.n_steps, params, tags, points)


def _spec(run_dir: RunDir) -> dict[str, Any]:
    data = parse_yaml(read_sealed_yaml(run_dir.spec_path), str(run_dir.spec_path)).data
    return dict(data)
