"""What decides a run, and what a run comes to.

A RunSpec holds everything that decides a run and nothing else; its digest is the run's id,
so the same work has the same name wherever it is asked for. A RunResult is what the run
came to. Both are plain records: a spec is read from YAML, a result is written as JSON.

Units: n_params in parameters, n_tokens in tokens, flops in floating-point operations of
training (forward and backward), loss in nats per token, bpb in bits per byte, *_s seconds.

Run ids are versioned: see RunSpec.id.

Not here: where the files lie (run_directory.py), how specs are chosen (the sweep room).
"""

import re
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from scalelab.config import Config, Count, Whole, changed, digest_without, plugin, short_hash
from scalelab.data.base import DataConfig
from scalelab.model import ARCHITECTURES
from scalelab.model.base import Architecture
from scalelab.train import FIRST_OPTIMIZER, OPTIMIZERS, SCHEDULES
from scalelab.train.schedule import WSD

CompileMode = Literal["auto", "off", "block", "whole"]
CrossEntropy = Literal["auto", "plain", "chunked"]
AttentionChoice = Literal["auto", "sdpa", "flash3"]
CudaGraphs = Literal["auto", "off", "on"]
Matmul = Literal["plain", "fp8"]
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

    file_kind: ClassVar[str | None] = "run"

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
    compile: CompileMode = Field("auto", json_schema_extra={"since": 2})
    """How the network is compiled: off (no compiler is needed), block (each kind of block once) or whole
    (one graph, which takes longer to compile). auto: block on a GPU, off on a CPU. It changes rounding
    and speed."""
    cross_entropy: CrossEntropy = Field("auto", json_schema_extra={"since": 2})
    """How the loss is computed: plain (all logits of a micro-batch at once) or chunked (those of a part of
    its rows, which needs less memory for many tokens). auto: chunked on a GPU where plain logits would take
    more than 1/16 of its memory and chunks take less, else plain. It changes rounding and memory."""
    attention: AttentionChoice = Field("auto", json_schema_extra={"since": 2})
    """Kernel of attention: sdpa (torch chooses one) or flash3 (FlashAttention-3, which must be installed).
    auto: flash3 where it is installed, the GPU has compute capability 9 and precision is bf16, else sdpa."""
    cuda_graphs: CudaGraphs = Field("auto", json_schema_extra={"since": 2})
    """Whether a compiled network is replayed as CUDA graphs, which saves the time to launch its kernels.
    auto: on a GPU with fewer than 16,384 tokens in a micro-batch. Without effect on a CPU."""
    matmul: Matmul = Field("plain", json_schema_extra={"since": 3})
    """Matrix products in the blocks: plain (in the precision of the run) or fp8 (factors rounded to fp8, on an
    NVIDIA GPU of compute capability 8.9 or higher, in one process, with bf16). fp8 changes the losses by more than
    the rounding of the other settings does, so no device chooses it, and the precision in the result names it."""

    @model_validator(mode="after")
    def _schedule_fits(self) -> Self:
        if isinstance(self.schedule, WSD) and (problem := self.schedule.problem(self.n_steps)):
            raise ValueError(problem)
        refuse_long_context(self.seq_len, self.model)
        refuse_cooldown_of_data(self.data, has_cooldown=self.stable_tokens is not None)
        return self

    @property
    def n_tokens(self) -> int:
        """Training tokens this run is to see."""
        return self.n_steps * self.batch_tokens

    @property
    def stable_tokens(self) -> int | None:
        """Training tokens before the cooldown of the learning rate; None for a run without one."""
        if not (isinstance(self.schedule, WSD) and self.schedule.cooldown):
            return None
        return self.schedule.stable_end(self.n_steps) * self.batch_tokens

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

    @property
    def branch_step(self) -> int | None:
        """Steps after which the run leaves its trunk; None for a run that has none."""
        if not (isinstance(self.schedule, WSD) and self.schedule.trunk):
            return None
        return self.schedule.stable_end(self.n_steps)

    def trunk(self, n_steps: int) -> Self:
        """The first n_steps of this branch's trunk, as a run of its own: the same to the last bit."""
        data = self.data.model_copy(update={"cooldown_weights": None})
        return self.model_copy(
            update={"schedule": self.schedule.constant(), "n_steps": n_steps, "data": data}
        )

    @property
    def trunk_id(self) -> str | None:
        """Digest of all that decides the run's trunk but its length: equal for its branches. None without one."""
        return None if self.branch_step is None else self.trunk(1).id


def refuse_long_context(seq_len: int, model: Architecture) -> None:
    """Refuse a context that a model cannot read.

    Raises:
        ValueError: It has more tokens than the model has positions.
    """
    limit = model.context_limit()
    if limit is not None and seq_len > limit:
        raise ValueError(
            f"seq_len is {seq_len}, and the model has {limit} positions: max_positions is too small"
        )


def refuse_cooldown_of_data(data: DataConfig, *, has_cooldown: bool) -> None:
    """Refuse data with another mixture in a cooldown that the schedule does not have.

    Raises:
        ValueError: The schedule has no cooldown.
    """
    if data.cooldown_weights is not None and not has_cooldown:
        raise ValueError(
            "data.cooldown_weights need a schedule with a cooldown: schedule: {kind: wsd, cooldown: 0.3}"
        )


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
    """The published shorthand, 6 x n_params_active x n_tokens; in a dense model all are active."""
    n_tokens: int
    """Tokens trained on."""
    n_tokens_planned: int
    n_tokens_unique: int
    """Number of these tokens that were seen for the first time."""
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
    """Validation loss in bits per byte."""
    curve: list[list[float]]
    """Validation loss on the way: [step, n_tokens, loss]."""
    train_curve: list[list[float]]
    """Training loss on the way, mean since the point before: [step, n_tokens, loss]."""
    tokens_per_s: float | None
    """n_tokens / train_s: over all steps, those that compile the model included."""
    mfu: float | None
    """Share of the device's dense bf16 peak at tokens_per_s, 0 to 1. None where the peak is unknown, and with
    `matmul: fp8`, since a part of the products then has another peak."""
    train_s: float
    """Seconds spent training, all attempts that counted, compilation included, evaluation excluded."""
    eval_s: float
    """Seconds spent on validation losses; steps that a GPU had queued before count as training."""
    device: str
    precision: str
    """fp32 or bf16; bf16+fp8 where products in the blocks were in fp8."""
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
    first_steps_s: float | None = None
    """Seconds of train_s in the first two steps of each attempt and of each micro-batch size, in which
    the model is compiled. None, as for the next two fields, in results from before they were recorded;
    the schema stayed 2, since no older field changed its meaning."""
    steady_tokens_per_s: float | None = None
    """Tokens per second over the other steps, which compares with an estimate. None without any."""
    steady_mfu: float | None = None
    """Share of the peak at steady_tokens_per_s, 0 to 1. None where mfu is."""
    trunk: str | None = None
    """RunSpec.trunk_id where the run began at a trunk's checkpoint, as in the run table; None: it trained all its
    steps itself."""
    n_tokens_trunk: int = 0
    """Number of n_tokens that the trunk trained, once for all its branches. `flops` and `train_s` are those of the
    whole run, as if it had been trained by itself."""
    trunk_run: str | None = None
    """Id of the run that trained those steps: a trunk of a certain length. None, as for `trunk`."""
    domain_losses: dict[str, float] | None = None
    """Validation loss of each domain of a mix with names, nats per token; None without domains."""
