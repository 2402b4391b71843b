"""Supervised fine-tuning on conversations, with the loss on answer tokens only.

Conversations come from the source of the file. Prompt tokens are context; the loss covers the tokens
of answers, each with its end token. An example that does not fit the context is an error unless
`too_long` says otherwise (context_length.py).
Rows may be packed: several examples per row, each attending to itself only.

    sizes: [500, 2000, 8000]    train a series on growing subsets, to measure the gain from more data
    replay: 0.25                windows of pretraining text per row, against forgetting

Source: LIMA, Zhou et al. 2023, arXiv:2305.11206, for the effect of the amount of data; the loss on
answers only as in common practice (TRL's assistant_only_loss, against which it is tested).
Not here: conversations as tokens (data/chat.py).
"""

import math
from pathlib import Path
from typing import ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from scalelab.config import Count, Fraction, NonNegative, Positive, Switch
from scalelab.data.chat import Chat, Example, show
from scalelab.data.corpus.shards import open_corpus
from scalelab.data.corpus.stream import Stream
from scalelab.errors import DataError
from scalelab.evals.checkpoint import Checkpoint
from scalelab.evals.inputs import MODEL, Input
from scalelab.files import exists, write_text
from scalelab.markup import printable
from scalelab.model.scalar_net import padded
from scalelab.posttrain import losses
from scalelab.posttrain.add_chat_tokens import with_chat_tokens
from scalelab.posttrain.base import (
    FinishedStage,
    OptimizerSetting,
    Stage,
    StageContext,
    StageJob,
    StageResult,
    StepResult,
)
from scalelab.posttrain.batch_order import epoch_batches
from scalelab.posttrain.context_length import TooLong, TooLongCounts, all_dropped, refuse_too_long
from scalelab.posttrain.display import SizeSeries, StageDisplay, headline
from scalelab.posttrain.heldout_eval import HeldoutPrompts
from scalelab.posttrain.networks import (
    Lora,
    LoraAdapter,
    TrainableModel,
    copy_network,
    merged_weights,
    write_model,
)
from scalelab.posttrain.stage_cost import activation_bytes, trained_bytes

EXAMPLES = "batch.txt"
"""File in the stage's directory that shows a few training examples."""


class Sft(Stage):
    """Train on example conversations."""

    kind: Literal["sft"] = "sft"
    """Names this method in STAGES."""
    output_kind: ClassVar[str] = MODEL
    start: str = "base"
    """Stage whose model is trained, or "base"."""
    examples: Count | None = None
    """Number of training conversations; None: all, or 10,000 of a source that generates them."""
    sizes: tuple[Count, ...] = ()
    """Instead of `examples`: train a series of models, each on the first so many conversations. The
    last one has the name of the stage and is the input of later stages."""
    epochs: Positive = 1.0
    """Passes over the examples."""
    min_steps: Count = 1
    """Least number of updates; few examples are passed over more often to reach it."""
    batch: Count = 32
    """Rows per update: examples, or packed rows."""
    rates: OptimizerSetting
    warmup: Fraction = 0.1
    """Share of the updates over which the learning rate rises."""
    replay: NonNegative = 0.0
    """Windows of the base model's training text per row, trained with the loss of pretraining to limit
    forgetting. Their loss has the same weight as that of the answers."""
    packing: Switch = False
    """Pack several examples into one row, each attending to itself only."""
    lora: Lora | None = None
    """Train low-rank updates only and merge them into the weights at the end; None: all weights."""
    too_long: TooLong = Field("refuse", json_schema_extra={"since": 2})
    """Conversations that exceed the context: refuse them, drop them, or truncate their end. Those dropped and
    truncated are counted in the result."""
    backend: Literal["own", "trl"] = "own"
    """Backend of the steps: "own", or "trl" for TRL's SFTTrainer (extra `post`)."""

    @model_validator(mode="after")
    def _one_size(self) -> Self:
        if self.replay and self.backend == "trl":
            raise ValueError("backend trl does not support replay: remove replay, or use backend: own")
        if self.sizes and self.examples is not None:
            raise ValueError("set examples or sizes, not both")
        if list(self.sizes) != sorted(set(self.sizes)):
            raise ValueError("sizes must be strictly increasing")
        return self

    def inputs(self) -> tuple[Input, ...]:
        """Return the start model."""
        return (Input(self.start, MODEL),)

    def baseline(self) -> str:
        """See Stage."""
        return self.start

    def expand(self) -> tuple[Stage, ...]:
        """Return one stage per size of a series."""
        if not self.sizes:
            return (self,)
        *smaller, last = self.sizes
        series = [
            self.model_copy(update={"name": f"{self.name}-{n}", "sizes": (), "examples": n}) for n in smaller
        ]
        return (*series, self.model_copy(update={"sizes": (), "examples": last}))

    def max_rows(self) -> tuple[int | None, float]:
        """See Stage."""
        if self.examples is None:
            return None, 3.0
        return max(math.ceil(self.examples * self.epochs), self.min_steps * self.batch), 3.0

    def display(self, result: StageResult) -> StageDisplay:
        """See Stage."""
        same = self.model_dump_json(exclude={"name", "examples"})
        return StageDisplay(
            headline=headline(
                result, "held_out.accuracy", "held_out.gold", "examples_dropped", "examples_truncated"
            ),
            series=SizeSeries(same, int(result.metrics["examples"]), "examples"),
        )

    def example(self, path: Path) -> str | None:
        """See Stage."""
        if not exists(path / EXAMPLES):
            return None
        text = (path / EXAMPLES).read_text(encoding="utf-8", errors="replace")
        first = text.partition("\n\n")[2].partition("\n")[0]
        return f"example, trained tokens in [ ]: {first[:200]}"

    def create_job(self, context: StageContext) -> StageJob:
        """See Stage."""
        if self.backend == "trl":
            from scalelab.posttrain.trl.offline import TrlSftJob

            return TrlSftJob(self, context, SftJob)
        return SftJob(self, context)


class SftJob:
    """Job of Sft."""

    updates_within = 1

    def __init__(self, stage: Sft, context: StageContext):
        self.stage, self.context = stage, context
        self.start = with_chat_tokens(context.model(stage.start), context.seed)
        assert self.start.chat is not None
        self.examples, self.too_long = load_examples(self.start, context, stage.examples, stage.too_long)
        rows = pack_rows(self.examples, self.start.seq_len) if stage.packing else None
        self.rows = rows or [(example,) for example in self.examples]
        write_text(context.out / EXAMPLES, render_examples(self.examples[:4], self.start.chat))
        self.order = epoch_batches(len(self.rows), stage.batch, stage.epochs, stage.min_steps, context.seed)
        self.n_steps = len(self.order)
        self.eval_every = max(1, self.n_steps // 4)
        self.network = copy_network(self.start)
        self.adapter = LoraAdapter(self.network, stage.lora, context.seed) if stage.lora else None
        module = self.adapter or self.network
        self.trainee = TrainableModel(module, module.kinds(), stage.rates, self.n_steps, stage.warmup)
        self.heldout = HeldoutPrompts(context, self.start)
        self.replay = replay_stream(self.start, stage, context.seed)

    def step(self, k: int) -> StepResult:
        """Make one update on the batch of step k."""
        batch = [self.rows[i] for i in self.order[k]]
        tokens, counts, segments = collate(batch, self.start.chat.pad, self.start.device)
        logits = self.network(tokens[:, :-1], segments_BT=segments)
        loss = losses.sft(losses.token_logps(logits, tokens[:, 1:]), counts[:, 1:])
        loss.backward()
        n = sum(len(example.tokens) for row in batch for example in row)
        numbers = {"loss": float(loss.detach())}
        if self.replay is not None:
            windows = self.replay.batch(k, round(self.stage.replay * self.stage.batch))
            n += windows.size
            numbers["replay_loss"] = self._replay_gradient(torch.from_numpy(windows).to(self.start.device))
        numbers["grad_norm"] = self.trainee.update(k)
        return StepResult(numbers, tokens=n, flops=n * self.start.train_flops)

    def _replay_gradient(self, windows: Tensor) -> float:
        """Accumulate the gradient of windows of pretraining text and return their loss."""
        loss = self.network(windows[:, :-1], windows[:, 1:])
        loss.backward()
        return float(loss.detach())

    def evaluate(self) -> StepResult:
        """Grade answers to held-out prompts."""
        return self.heldout.evaluate(self.heldout.as_checkpoint(self.network))

    def tensors(self) -> dict[str, Tensor]:
        """Return weights and optimizer state."""
        return self.trainee.tensors("model")

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """See StageJob."""
        self.trainee.restore("model", tensors)

    def finish(self, out: Path) -> FinishedStage:
        """Write the model."""
        files = write_model(out, self.start, merged_weights(self.network))
        n_tokens = self.stage.batch * max(len(e.tokens) for e in self.examples)
        return FinishedStage(
            files=files,
            metrics={
                "examples": len(self.examples),
                **self.too_long.metrics("examples", self.stage.too_long),
                "steps": self.n_steps,
                "answer_tokens": sum(sum(e.is_answer) for e in self.examples),
            },
            memory_bytes={
                "trained": trained_bytes(self.adapter or self.network, self.stage.rates),
                "activations": activation_bytes(self.start, n_tokens),
            },
        )


def replay_stream(start: Checkpoint, stage: Sft, seed: int) -> Stream | None:
    """Return the base model's training text in shuffled windows; None without replay.

    Raises:
        DataError: The training corpus is not recorded, or replay is less than one window per batch.
    """
    if not stage.replay:
        return None
    if round(stage.replay * stage.batch) < 1:
        raise DataError(
            f"replay {stage.replay} x batch {stage.batch} is less than one window",
            where=f"stage {stage.name}",
            fix=f"set replay to at least {1 / stage.batch:.3g}, or to 0",
        )
    if start.corpus is None:
        raise DataError(
            "the base model's training corpus is not recorded",
            where=str(start.path),
            fix="start from a model trained by scalelab, or remove replay",
        )
    return Stream(open_corpus(start.corpus).tokens("train"), start.seq_len, seed)


def load_examples(
    start: Checkpoint, context: StageContext, n: int | None, too_long: TooLong = "refuse"
) -> tuple[list[Example], TooLongCounts]:
    """Return the training examples as tokens, all of them checked, and how many exceeded the context.

    Args:
        start: Model whose tokenizer and context are used.
        context: Context of the stage.
        n: Number of conversations to read; None: all.
        too_long: What to do with those that exceed the context.

    Raises:
        DataError: There are none, or some exceed the context or have an empty answer.
    """
    chat = start.chat
    found = [chat.example(messages) for messages in context.conversations.training(n, context.seed)]
    where = f"data: {context.conversations.model_dump_json()}"
    if not found:
        raise DataError(
            "there are no training conversations",
            where=where,
            fix="name a source or files that contain conversations",
        )
    check_examples(found, chat.end)
    if too_long == "refuse":
        refuse_too_long([len(e.tokens) for e in found], "conversations", start.seq_len, where)
    kept, counts = fit_examples(found, start.seq_len, too_long)
    if not kept:
        raise all_dropped(len(found), "conversations", start.seq_len, where)
    return kept, counts


def fit_examples(
    examples: list[Example], seq_len: int, too_long: TooLong
) -> tuple[list[Example], TooLongCounts]:
    """Return examples without those that exceed the context, or with their ends cut off, and counts."""
    kept: list[Example] = []
    n_truncated = 0
    for example in examples:
        if len(example.tokens) > seq_len + 1:
            cut = Example(example.tokens[: seq_len + 1], example.is_answer[: seq_len + 1])
            if too_long == "drop" or not any(cut.is_answer):
                continue
            example = cut
            n_truncated += 1
        kept.append(example)
    return kept, TooLongCounts(len(examples) - len(kept), n_truncated)


def check_examples(examples: list[Example], end: int) -> None:
    """Check that examples have an answer and one end token per answer.

    Raises:
        DataError: Some do not.
    """
    masked = [i for i, e in enumerate(examples, 1) if sum(e.is_answer) < 2]
    if masked:
        raise DataError(
            f"{len(masked)} conversations have no answer to train on",
            where=f"conversations {', '.join(map(str, masked[:5]))}",
            fix="give each a non-empty answer of the assistant, or remove them",
        )
    for i, example in enumerate(examples, 1):
        answers = sum(
            mark and not before
            for before, mark in zip((False, *example.is_answer), example.is_answer, strict=False)
        )
        ends = example.tokens.count(end)
        if ends != answers:
            raise DataError(
                f"the conversation has {ends} end tokens for {answers} answers",
                where=f"conversation {i}",
                fix="this is a bug in scalelab; please report it",
            )


def pack_rows(examples: list[Example], seq_len: int) -> list[tuple[Example, ...]]:
    """Return rows of several examples that fit the context, in order, with every example.

    First fit over the 64 most recent rows.
    """
    rows: list[list[Example]] = []
    used: list[int] = []
    for example in examples:
        n = len(example.tokens)
        fits = [i for i in range(max(0, len(rows) - 64), len(rows)) if used[i] + n <= seq_len + 1]
        if fits:
            rows[fits[0]].append(example)
            used[fits[0]] += n
        else:
            rows.append([example])
            used.append(n)
    return [tuple(row) for row in rows]


def collate(
    batch: list[tuple[Example, ...]], pad: int, device: torch.device
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return rows as tokens, loss mask and segments, shapes (B, T), (B, T), (B, T - 1).

    Segments number the examples of a row; they are None if every row has one example.
    """
    tokens, _ = padded([[t for e in row for t in e.tokens] for row in batch], pad, device)
    counts, _ = padded([[float(a) for e in row for a in e.is_answer] for row in batch], 0, device)
    if all(len(row) == 1 for row in batch):
        return tokens, counts.float(), None
    owners = [[i for i, e in enumerate(row) for _ in e.tokens] for row in batch]
    segments, _ = padded(owners, -1, device)
    return tokens, counts.float(), segments[:, :-1]


def render_examples(examples: list[Example], chat: Chat) -> str:
    """Return examples as text, trained tokens between [ and ], control characters replaced."""
    head = "What is learned stands between [ and ]; the rest is only read.\n\n"
    return (
        head
        + "\n".join(printable(show(example, chat.tokenizer), keep_lines=True) for example in examples)
        + "\n"
    )
