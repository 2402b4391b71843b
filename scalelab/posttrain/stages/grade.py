"""Grades of every model of a post-training on every held-out set.

    accuracy, gold, words    per test set: greedy answers, and sampled ones if requested
    bpb                      bits per byte of the base model's validation text, for forgetting

A grade is a stage like others: it runs once, resumes after a kill and is mirrored to MLflow.
Every answer is stored (answers.jsonl), so that models can be compared answer by answer.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from scalelab.config import Count, Switch, Whole
from scalelab.data.corpus.shards import open_corpus
from scalelab.data.corpus.stream import validation_windows
from scalelab.errors import DataError, RunError
from scalelab.evals.generation import grade
from scalelab.evals.inputs import MODEL, Input
from scalelab.files import whole
from scalelab.posttrain.add_chat_tokens import with_chat_tokens
from scalelab.posttrain.base import FinishedStage, Stage, StageContext, StageJob, StageResult, StepResult
from scalelab.posttrain.display import StageDisplay
from scalelab.posttrain.stage_cost import held_bytes
from scalelab.records.stage_manifest import REDO
from scalelab.sealed import Damaged, file_digest, line, typed
from scalelab.train.evaluate import validation_loss

ANSWERS = "answers.jsonl"
FIELDS = ("accuracy", "accuracy_se", "gold", "gold_se", "words", "ended")
TEXT = "base text"
"""Name of the base model's validation text among the sets."""


@dataclass(frozen=True)
class SetGrade:
    """Grade of one model on one test set: means and standard errors over prompts."""

    set: str
    """Name of the test set; NAME.sampled for sampled answers."""
    n: int
    """Number of prompts."""
    accuracy: float | None = None
    """Share of right answers. None, here and below: not known."""
    accuracy_se: float | None = None
    gold: float | None = None
    gold_se: float | None = None
    words: float | None = None
    """Mean length of an answer, words."""
    ended: float | None = None
    """Share of answers with an end token, not cut off."""


@dataclass(frozen=True)
class TextGrade:
    """Loss of one model on the base model's validation text."""

    set: str
    """Always TEXT."""
    n: int
    """Number of tokens."""
    loss: float
    """Loss, nats per token."""
    loss_se: float | None
    bpb: float | None
    """Bits per byte."""


@dataclass(frozen=True)
class ModelGrade:
    """All grades of one model: the output of a grading stage."""

    sets: Mapping[str, SetGrade]
    """Grade of each test set by name, the first test set first."""
    text: TextGrade | None

    @classmethod
    def of(cls, result: StageResult) -> "ModelGrade":
        """Return the grades in a stage's result. Raises RunError: it contains none."""
        sets, text = {}, None
        try:
            for row in result.tables["sets"]:
                if row["set"] == TEXT:
                    text = typed(TextGrade, row)
                else:
                    sets[row["set"]] = typed(SetGrade, row)
        except (KeyError, Damaged) as error:
            raise RunError(
                f"the result of stage {result.stage} contains no grades: {error}",
                where=f"stage {result.stage}-{result.id}",
                fix=f"delete its result.json and run it again: {REDO}",
            ) from error
        return cls(sets, text)


class Grade(Stage):
    """Grade one model."""

    kind: Literal["grade"] = "grade"
    """Names this method in STAGES."""
    model: str
    """Stage whose model is graded, or "base"."""
    prompts: Count = 300
    """Number of prompts per test set."""
    sampled: Switch = True
    """Grade sampled answers to the first test set in addition to greedy ones."""
    retention_tokens: Whole = 131_072
    """Tokens of the base model's validation text; 0: do not measure."""

    def inputs(self) -> tuple[Input, ...]:
        """Return the model."""
        return (Input(self.model, MODEL),)

    def graded_model(self) -> str:
        """See Stage."""
        return self.model

    def display(self, result: StageResult) -> StageDisplay:
        """See Stage."""
        first = next(iter(ModelGrade.of(result).sets.values()), None)
        numbers = {} if first is None else {"accuracy": first.accuracy, "gold": first.gold}
        return StageDisplay({f"{first.set}.{k}": v for k, v in numbers.items() if v is not None})

    def create_job(self, context: StageContext) -> StageJob:
        """See Stage."""
        return GradeJob(self, context)


class GradeJob:
    """Job of Grade; each step grades one set."""

    updates_within = 1

    def __init__(self, stage: Grade, context: StageContext):
        self.stage, self.context = stage, context
        self.model = with_chat_tokens(context.model(stage.model), context.seed)
        tests = context.conversations.tests(stage.prompts)
        if not tests and not (stage.retention_tokens and self.model.corpus):
            raise DataError(
                "there are no held-out prompts to grade on",
                where=f"data: {context.conversations.model_dump_json()}",
                fix="set data.test to test files, or retention_tokens above 0",
            )
        self.sets = [(name, prompts, 0.0) for name, prompts in tests.items()]
        if stage.sampled and self.sets:
            self.sets.append((f"{self.sets[0][0]}.sampled", self.sets[0][1], 1.0))
        self.n_steps, self.eval_every = len(self.sets) + 1, None
        self.rows: list[SetGrade | TextGrade] = []
        self.answers: list[dict[str, Any]] = []

    def step(self, k: int) -> StepResult:
        """Grade one set; the last step measures the loss on the base model's text."""
        if k == len(self.sets):
            return self._measure_retention()
        name, prompts, temperature = self.sets[k]
        graded = grade(
            self.context.conversations, self.model, prompts, temperature=temperature, seed=self.context.seed
        )
        numbers = graded.numbers()
        self.rows.append(SetGrade(name, len(prompts), **{f: numbers.get(f) for f in FIELDS}))
        for i, prompt in enumerate(prompts):
            self.answers.append(
                {
                    "set": name,
                    "i": i,
                    "prompt": prompt.messages[-1]["content"],
                    "answer": graded.answers[i],
                    "reference": prompt.reference,
                    "right": graded.right[i],
                    "gold": graded.gold[i],
                    "ended": graded.ended[i],
                }
            )
        n = sum(len(self.model.chat.prompt(p.messages)) for p in prompts)
        n += sum(len(self.model.chat.answer(a)) for a in graded.answers)
        return StepResult(tokens=n, flops=n * self.model.forward_flops)

    def _measure_retention(self) -> StepResult:
        """Measure bits per byte of the base model's validation text."""
        if not self.stage.retention_tokens or self.model.corpus is None:
            return StepResult()
        corpus = open_corpus(self.model.corpus)
        windows = validation_windows(corpus, self.model.seq_len, self.stage.retention_tokens)
        loss, error = validation_loss(
            self.model.network, windows, self.model.device, self.model.config.vocab_size
        )
        self.rows.append(TextGrade(TEXT, windows.size, loss, error, corpus.bpb(loss)))
        return StepResult(tokens=windows.size, flops=windows.size * self.model.forward_flops)

    def evaluate(self) -> StepResult:
        """Return no metrics: nothing is trained."""
        return StepResult()

    def tensors(self) -> dict[str, Tensor]:
        """Return the grades and answers so far, as bytes of JSON."""
        text = json.dumps([[asdict(row) for row in self.rows], self.answers]).encode()
        return {"so_far": torch.frombuffer(bytearray(text), dtype=torch.uint8)}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """See StageJob."""
        rows, self.answers = json.loads(tensors["so_far"].numpy().tobytes())
        self.rows = [TextGrade(**row) if row["set"] == TEXT else SetGrade(**row) for row in rows]

    def finish(self, out: Path) -> FinishedStage:
        """Write all answers."""
        with whole(out / ANSWERS, "w") as file:
            file.writelines(map(line, self.answers))
        rows = [asdict(row) for row in self.rows]
        return FinishedStage(
            files={ANSWERS: file_digest(out / ANSWERS)},
            metrics={
                f"{row['set']}.{name}": row[name]
                for row in rows
                for name in (*FIELDS, "loss", "bpb")
                if row.get(name) is not None
            },
            tables={"sets": rows},
            memory_bytes={"model": held_bytes(self.model.network)},
        )
