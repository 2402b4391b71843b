"""What decides a run, and what a run comes to.

A RunSpec holds everything that decides a run and nothing else; its digest is the run's id,
so the same work has the same name wherever it is asked for. A RunResult is what the run
came to. Both are plain records: a spec is read from YAML, a result is written as JSON.

Units: n_params in parameters, n_tokens in tokens, flops in floating-point operations of
training (forward and backward), loss in nats per token, bpb in bits per byte, *_s seconds.

Run ids are versioned: see RunSpec.id.

Not here: where the files lie (rundir.py), how specs are chosen (the sweep room).
"""

import re
from dataclasses import dataclass, field
from typing import Any, Literal

from scalelab.config import (
    Config,
    Count,
    Whole,
    changed,
    digest_without,
    plugin,
    short_hash,
)
from scalelab.data.base import DataConfig
from scalelab.model import ARCHITECTURES
from scalelab.train import FIRST_OPTIMIZER, OPTIMIZERS, SCHEDULES

ParamCount = Literal["total", "non_embedding", "matmul", "active"]
Status = Literal["finished", "diverged", "failed"]
_ID = re.compile(r"[0-9a-f]{12}")
ID_SCHEMA = 2
"""Version of what a run id covers. 1 was the whole spec, defaults included."""


class EvalSpec(Config):
    """How the validation loss is measured."""

    tokens: Count = 2**19
    """Validation tokens of the final loss: a fixed set, the same for every run of a recipe."""
    curve_points: Whole = 8
    """Evaluations on the way, evenly spaced, for the loss curve."""
    curve_tokens: Count = 2**16
    """Validation tokens of each of those: the first part of the same fixed set."""


class RunSpec(Config):
    """Everything that decides one training run. Its digest is the run's id."""

    data: DataConfig
    data_digest: str
    """Content hash of the prepared corpus: the same config reads other text elsewhere."""
    seq_len: Count
    """Tokens a model sees at once."""
    model: plugin(ARCHITECTURES)
    optimizer: plugin(OPTIMIZERS, default=FIRST_OPTIMIZER)
    schedule: plugin(SCHEDULES)
    batch_tokens: Count
    """Tokens per optimizer step, whatever the micro-batch."""
    n_steps: Count
    evaluation: EvalSpec = EvalSpec()
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Arithmetic of the forward and backward pass; master weights are fp32 always.
    auto: bf16 where the device multiplies it natively, else fp32. The result says which."""
    seed: Whole = 0
    """Seeds the weights and the order of the data."""

    @property
    def n_tokens(self) -> int:
        """Training tokens this run is to see."""
        return self.n_steps * self.batch_tokens

    @property
    def id(self) -> str:
        """The run's id, twelve hex digits: over what differs from the defaults.

        A new field with a default changes no id. A changed default would change what old ids mean:
        raise ID_SCHEMA with it.
        """
        return short_hash({"schema": ID_SCHEMA, "run": changed(self)})

    @property
    def ids(self) -> tuple[str, ...]:
        """The id, and the one under which runs from before ID_SCHEMA 2 are found."""
        return self.id, digest_without(self, after=1)


def is_id(name: str) -> bool:
    """Whether a name has the form of a run's id."""
    return _ID.fullmatch(name) is not None


@dataclass(frozen=True)
class RunResult:
    """What one run came to. Counts are planned and actual, side by side; None is unknown."""

    run: str
    """The run's id: the digest of its spec."""
    status: Status
    reason: str | None
    """Why a run that did not finish ended."""
    seed: int
    n_params_total: int
    n_params_non_embedding: int
    n_params_matmul: int
    n_params_active: int
    flops_per_token: float
    """Exact: matmuls, attention in full, head. Forward and backward."""
    flops: float
    """Spent: flops_per_token x n_tokens."""
    flops_6nd: float
    """The published shorthand, 6 x n_params_total x n_tokens."""
    n_tokens: int
    """Tokens trained on."""
    n_tokens_planned: int
    n_tokens_unique: int
    """Of these, how many were seen for the first time."""
    n_steps: int
    batch_tokens: int
    micro_batch_tokens: int
    """Tokens in memory at once; smaller than batch_tokens when gradients were accumulated."""
    seq_len: int
    loss: float | None
    """Final validation loss, nats per token, on the recipe's fixed tokens."""
    loss_se: float | None
    """Standard error of that loss over validation windows. It is not seed noise."""
    bpb: float | None
    """The same in bits per byte."""
    curve: list[list[float]]
    """Validation loss on the way: [step, n_tokens, loss]."""
    train_curve: list[list[float]]
    """Training loss on the way, mean since the point before: [step, n_tokens, loss]."""
    tokens_per_s: float | None
    mfu: float | None
    """Share of the device's dense peak, 0 to 1. None where the peak is unknown."""
    train_s: float
    """Seconds spent training, all attempts that counted, evaluation excluded."""
    eval_s: float
    device: str
    precision: str
    threads: int
    n_resumes: int
    """How often the run went on from a checkpoint."""
    tokenizer: str
    data_digest: str
    versions: dict[str, str]
    finished_ms: int
    layout: dict[str, Any] | None = None
    """How a launched run was spread over processes; None for a sweep's run."""
    interventions: list[dict[str, Any]] = field(default_factory=list)
    """What was done about spikes and batches without a number (stability.py)."""
    files: dict[str, str] = field(default_factory=dict)
    """SHA-256 of what the run left beside this record, by name: the final weights."""
