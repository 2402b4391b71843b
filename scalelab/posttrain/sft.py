"""Supervised fine-tuning: the loss of the answers' tokens, and of nothing else.

Conversations come from the file's source. What is asked is read and not learned: only tokens of
answers count, each answer's one end token among them. Examples that do not fit the context are
refused by number, not cut. Rows may be packed: several examples side by side, each seen by
itself alone.

    sizes: [500, 2000, 8000]    trains a series on growing shares, to see whether more data helps
    replay: 0.25                windows of the base's own text a row: else that is forgotten

Source: LIMA, Zhou et al. 2023, arXiv:2305.11206, for the question; chat loss on answers only as
in common practice (TRL's assistant_only_loss, against which the loss is tested).
Not here: what conversations look like as tokens (data/chat.py).
"""

import math
from pathlib import Path
from typing import ClassVar, Literal, Self

import torch
from pydantic import model_validator
from torch import Tensor

from scalelab.config import Count, Fraction, NonNegative, Positive, Switch
from scalelab.data.chat import Chat, Example, show
from scalelab.data.shards import open_corpus
from scalelab.data.stream import Stream
from scalelab.errors import DataError
from scalelab.evals.checkpoint import Checkpoint
from scalelab.evals.inputs import MODEL, Input
from scalelab.files import write_text
from scalelab.model.scalar_net import padded
from scalelab.posttrain import losses
from scalelab.posttrain.account import activation_bytes, trained_bytes
from scalelab.posttrain.base import Finished, Given, Rates, Stage, StageResult, Step, Work
from scalelab.posttrain.display import Display, Series, headline
from scalelab.posttrain.judged import Judged
from scalelab.posttrain.networks import Adapter, Lora, Trainee, copied, merged, write_model
from scalelab.posttrain.order import epochs_of
from scalelab.posttrain.starting import conversing

EXAMPLES = "batch.txt"
"""A few examples for eyes, in the stage's directory."""


class Sft(Stage):
    """Learn to answer from examples."""

    kind: Literal["sft"] = "sft"
    """Names this method in STAGES."""
    leaves: ClassVar[str] = MODEL
    start: str = "base"
    """The model that it begins with."""
    examples: Count | None = None
    """Conversations to learn from; None takes all that there are, and of those that are made by
    program 10,000."""
    sizes: tuple[Count, ...] = ()
    """Instead of `examples`: a series of models, each on the first so many. The last one, named
    as the stage is, goes on to the next stages."""
    epochs: Positive = 1.0
    """Passes over the examples."""
    min_steps: Count = 1
    """Updates at least: few examples are then passed over more often."""
    batch: Count = 32
    """Rows of an update: examples, or packed rows."""
    rates: Rates
    warmup: Fraction = 0.1
    """Share of the updates over which the rate rises."""
    replay: NonNegative = 0.0
    """Windows of the base's training text beside each row, learned as pretraining learned them:
    without them what the base knew is forgotten. Their loss counts as much as the answers'."""
    packing: Switch = False
    """Put several examples into one row, each seen by itself alone."""
    lora: Lora | None = None
    """Train low-rank changes only; they are put into the weights at the end."""
    backend: Literal["own", "trl"] = "own"
    """trl: SFTTrainer of TRL does the steps (extra `post`)."""

    @model_validator(mode="after")
    def _one_size(self) -> Self:
        if self.replay and self.backend == "trl":
            raise ValueError("TRL's trainer knows no replay: leave it out, or take backend: own")
        if self.sizes and self.examples is not None:
            raise ValueError("give examples or sizes, and not both")
        if list(self.sizes) != sorted(set(self.sizes)):
            raise ValueError("sizes must rise without repeats")
        return self

    def inputs(self) -> tuple[Input, ...]:
        """The model that it begins with."""
        return (Input(self.start, MODEL),)

    def baseline(self) -> str:
        """See Stage."""
        return self.start

    def expand(self) -> tuple[Stage, ...]:
        """A series as one stage for each size."""
        if not self.sizes:
            return (self,)
        *smaller, last = self.sizes
        series = [
            self.model_copy(update={"name": f"{self.name}-{n}", "sizes": (), "examples": n})
            for n in smaller
        ]
        return (*series, self.model_copy(update={"sizes": (), "examples": last}))

    def most_rows(self) -> tuple[int | None, float]:
        """See Stage."""
        if self.examples is None:
            return None, 3.0
        return max(math.ceil(self.examples * self.epochs), self.min_steps * self.batch), 3.0

    def display(self, result: StageResult) -> Display:
        """See Stage."""
        same = self.model_dump_json(exclude={"name", "examples"})
        return Display(
            headline=headline(result, "held_out.accuracy", "held_out.gold"),
            series=Series(same, int(result.metrics["examples"]), "examples"),
        )

    def example(self, path: Path) -> str | None:
        """See Stage."""
        if not (path / EXAMPLES).exists():
            return None
        text = (path / EXAMPLES).read_text(encoding="utf-8", errors="replace")
        first = text.partition("\n\n")[2].partition("\n")[0]
        return f"read, and learned in [ ]: {first[:200]}"

    def work(self, given: Given) -> Work:
        """See Stage."""
        if self.backend == "trl":
            from scalelab.posttrain.offline_trl import SftByTrl

            return SftByTrl(self, given)
        return Learning(self, given)


class Learning:
    """SFT being done."""

    updates_within = 1

    def __init__(self, stage: Sft, given: Given):
        self.stage, self.given = stage, given
        self.start = conversing(given.model(stage.start), given.seed)
        assert self.start.chat is not None
        self.examples = prepared(self.start, given, stage.examples)
        rows = packed(self.examples, self.start.seq_len) if stage.packing else None
        self.rows = rows or [(example,) for example in self.examples]
        write_text(given.out / EXAMPLES, shown(self.examples[:4], self.start.chat))
        self.order = epochs_of(
            len(self.rows), stage.batch, stage.epochs, stage.min_steps, given.seed
        )
        self.n_steps = len(self.order)
        self.eval_every = max(1, self.n_steps // 4)
        self.network = copied(self.start)
        self.adapter = Adapter(self.network, stage.lora, given.seed) if stage.lora else None
        module = self.adapter or self.network
        self.trainee = Trainee(module, module.kinds(), stage.rates, self.n_steps, stage.warmup)
        self.judged = Judged(given, self.start)
        self.replay = replayed(self.start, stage, given.seed)

    def step(self, k: int) -> Step:
        """One update on the batch of step k."""
        batch = [self.rows[i] for i in self.order[k]]
        tokens, counts, segments = laid(batch, self.start.chat.pad, self.start.device)
        logits = self.network(tokens[:, :-1], segments_BT=segments)
        loss = losses.sft(losses.token_logps(logits, tokens[:, 1:]), counts[:, 1:])
        loss.backward()
        n = sum(len(example.tokens) for row in batch for example in row)
        numbers = {"loss": float(loss.detach())}
        if self.replay is not None:
            windows = self.replay.batch(k, round(self.stage.replay * self.stage.batch))
            n += windows.size
            numbers["replay_loss"] = self._again(torch.from_numpy(windows).to(self.start.device))
        numbers["grad_norm"] = self.trainee.update(k)
        return Step(numbers, tokens=n, flops=n * self.start.train_flops)

    def _again(self, windows: Tensor) -> float:
        """Add the gradient of some of the base's own text; its loss."""
        loss = self.network(windows[:, :-1], windows[:, 1:])
        loss.backward()
        return float(loss.detach())

    def evaluate(self) -> Step:
        """Held-out loss and accuracy."""
        return self.judged.quick(self._now())

    def _now(self) -> Checkpoint:
        return self.judged.of(self.network)

    def tensors(self) -> dict[str, Tensor]:
        """Weights and moments."""
        return self.trainee.tensors("model")

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """See Work."""
        self.trainee.restore("model", tensors)

    def finish(self, out: Path) -> Finished:
        """Write the model."""
        files = write_model(out, self.start, merged(self.network))
        n_tokens = self.stage.batch * max(len(e.tokens) for e in self.examples)
        return Finished(
            files=files,
            metrics={
                "examples": len(self.examples),
                "steps": self.n_steps,
                "answer_tokens": sum(sum(e.is_answer) for e in self.examples),
            },
            memory_bytes={
                "trained": trained_bytes(self.adapter or self.network, self.stage.rates),
                "activations": activation_bytes(self.start, n_tokens),
            },
        )


def replayed(start: Checkpoint, stage: Sft, seed: int) -> Stream | None:
    """The base's training text in shuffled windows; None where none is asked for.

    Raises:
        DataError: Nobody knows what the base was trained on, or the share gives no whole window.
    """
    if not stage.replay:
        return None
    if round(stage.replay * stage.batch) < 1:
        raise DataError(
            f"replay {stage.replay} of {stage.batch} rows is not one window",
            where=f"stage {stage.name}",
            fix=f"ask for at least {1 / stage.batch:.3g}, or for none",
        )
    if start.corpus is None:
        raise DataError(
            "nobody wrote down which text the base was trained on",
            where=str(start.path),
            fix="start from a run of ours, or leave replay out",
        )
    return Stream(open_corpus(start.corpus).tokens("train"), start.seq_len, seed)


def prepared(start: Checkpoint, given: Given, n: int | None) -> list[Example]:
    """The examples as tokens, all of them fit to be learned from.

    Raises:
        DataError: Some are longer than the context, or have no token of an answer to learn.
    """
    chat = start.chat
    found = [chat.example(said) for said in given.conversations.training(n, given.seed)]
    if not found:
        raise DataError(
            "there are no conversations to learn from",
            where=f"data: {given.conversations.model_dump_json()}",
            fix="name files that hold some",
        )
    refuse_unfit(found, start.seq_len, chat.end)
    return found


def refuse_unfit(examples: list[Example], seq_len: int, end: int) -> None:
    """Refuse examples that would be cut, teach nothing, or end twice. Raises DataError."""
    long = [i for i, e in enumerate(examples, 1) if len(e.tokens) > seq_len + 1]
    if long:
        worst = max(len(e.tokens) for e in examples)
        raise DataError(
            f"{len(long)} of {len(examples)} conversations are longer than the context of "
            f"{seq_len} tokens; the longest has {worst}",
            where=f"conversations {', '.join(map(str, long[:5]))}"
            + (" ..." if len(long) > 5 else ""),
            fix="leave them out or shorten them, or start from a model with a longer context",
        )
    masked = [i for i, e in enumerate(examples, 1) if sum(e.is_answer) < 2]
    if masked:
        raise DataError(
            f"{len(masked)} conversations have no token of an answer to learn from",
            where=f"conversations {', '.join(map(str, masked[:5]))}",
            fix="give each an answer of the assistant that is not empty",
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
                fix="this is our own mistake: please report it",
            )


def packed(examples: list[Example], seq_len: int) -> list[tuple[Example, ...]]:
    """Rows of several examples, each row within the context; in order, none left out.

    First fit over the 64 rows that were opened last.
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


def laid(
    batch: list[tuple[Example, ...]], pad: int, device: torch.device
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Rows as tokens, which of them count, and whose they are, shapes (B, T), (B, T), (B, T - 1).

    The last is None where every row is one example: then nothing has to be kept apart.
    """
    tokens, _ = padded([[t for e in row for t in e.tokens] for row in batch], pad, device)
    counts, _ = padded([[float(a) for e in row for a in e.is_answer] for row in batch], 0, device)
    if all(len(row) == 1 for row in batch):
        return tokens, counts.float(), None
    owners = [[i for i, e in enumerate(row) for _ in e.tokens] for row in batch]
    segments, _ = padded(owners, -1, device)
    return tokens, counts.float(), segments[:, :-1]


def shown(examples: list[Example], chat: Chat) -> str:
    """Examples for eyes, what is learned between [ and ]."""
    head = "What is learned stands between [ and ]; the rest is only read.\n\n"
    return head + "\n".join(show(example, chat.tokenizer) for example in examples) + "\n"
