"""Grades: what every model of a post-training answers to every held-out set, all of it.

    accuracy, gold, words    for each test set, greedy answers, and drawn ones where asked for
    bpb                      bits per byte of the base's own validation text: what was forgotten

A grade is a stage like others, so it is done once, goes on after a kill and stands in MLflow.
Every answer is kept (answers.jsonl), so that models can be compared answer by answer.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from scalelab.config import Count, Switch, Whole
from scalelab.data.shards import open_corpus
from scalelab.data.stream import validation_windows
from scalelab.errors import DataError, RunError
from scalelab.evals.asking import grade
from scalelab.evals.inputs import MODEL, Input
from scalelab.files import whole
from scalelab.posttrain.account import held_bytes
from scalelab.posttrain.base import Finished, Given, Stage, StageResult, Step, Work
from scalelab.posttrain.display import Display
from scalelab.posttrain.starting import conversing
from scalelab.sealed import Damaged, file_digest, line, typed
from scalelab.track.stages import REDO
from scalelab.train.evaluate import validation_loss

ANSWERS = "answers.jsonl"
FIELDS = ("accuracy", "accuracy_se", "gold", "gold_se", "words", "ended")
TEXT = "base text"
"""What the base's validation text is called among the sets."""


@dataclass(frozen=True)
class SetGrade:
    """Answers of one model to one set of prompts: means and standard errors over prompts."""

    set: str
    """Name of the test set; NAME.sampled where answers were drawn."""
    n: int
    """Prompts."""
    accuracy: float | None = None
    """None, here and below: not known."""
    accuracy_se: float | None = None
    gold: float | None = None
    gold_se: float | None = None
    words: float | None = None
    ended: float | None = None
    """Share of answers that the model ended itself."""


@dataclass(frozen=True)
class TextGrade:
    """Loss of one model on the base's validation text."""

    set: str
    """TEXT."""
    n: int
    """Tokens."""
    loss: float
    """Nats per token."""
    loss_se: float | None
    bpb: float | None
    """Bits per byte."""


@dataclass(frozen=True)
class ModelGrade:
    """All grades of one model: what a stage that grades leaves."""

    sets: Mapping[str, SetGrade]
    """By name, the first test set first."""
    text: TextGrade | None

    @classmethod
    def of(cls, result: StageResult) -> "ModelGrade":
        """The grades in a stage's result. Raises RunError: they are not there."""
        sets, text = {}, None
        try:
            for row in result.tables["sets"]:
                if row["set"] == TEXT:
                    text = typed(TextGrade, row)
                else:
                    sets[row["set"]] = typed(SetGrade, row)
        except (KeyError, Damaged) as error:
            raise RunError(
                f"the result of stage {result.stage} holds no grades: {error}",
                where=f"stage {result.stage}-{result.id}",
                fix=f"delete its result.json and run it again: {REDO}",
            ) from error
        return cls(sets, text)


class Grade(Stage):
    """Grade one model."""

    kind: Literal["grade"] = "grade"
    """Names this method in STAGES."""
    model: str
    """The stage whose model is graded, or "base"."""
    prompts: Count = 300
    """Of each test set."""
    sampled: Switch = True
    """Grade drawn answers of the first test set too: they say what the whole model is like."""
    retention_tokens: Whole = 131_072
    """Tokens of the base's validation text; 0 for none."""

    def inputs(self) -> tuple[Input, ...]:
        """The model."""
        return (Input(self.model, MODEL),)

    def grade_of(self) -> str:
        """See Stage."""
        return self.model

    def display(self, result: StageResult) -> Display:
        """See Stage."""
        first = next(iter(ModelGrade.of(result).sets.values()), None)
        numbers = {} if first is None else {"accuracy": first.accuracy, "gold": first.gold}
        return Display({f"{first.set}.{k}": v for k, v in numbers.items() if v is not None})

    def work(self, given: Given) -> Work:
        """See Stage."""
        return Grading(self, given)


class Grading:
    """One model being graded; a step is one set."""

    updates_within = 1

    def __init__(self, stage: Grade, given: Given):
        self.stage, self.given = stage, given
        self.model = conversing(given.model(stage.model), given.seed)
        tests = given.conversations.tests(stage.prompts)
        if not tests and not (stage.retention_tokens and self.model.corpus):
            raise DataError(
                "there is nothing held out to grade on",
                where=f"data: {given.conversations.model_dump_json()}",
                fix="name test files (data.test), or ask for retention_tokens",
            )
        self.sets = [(name, prompts, 0.0) for name, prompts in tests.items()]
        if stage.sampled and self.sets:
            self.sets.append((f"{self.sets[0][0]}.sampled", self.sets[0][1], 1.0))
        self.n_steps, self.eval_every = len(self.sets) + 1, None
        self.rows: list[SetGrade | TextGrade] = []
        self.answers: list[dict[str, Any]] = []

    def step(self, k: int) -> Step:
        """Grade one set; the last step reads the base's text."""
        if k == len(self.sets):
            return self._remember()
        name, prompts, temperature = self.sets[k]
        graded = grade(
            self.given.conversations, self.model, prompts,
            temperature=temperature, seed=self.given.seed,
        )  # fmt: skip
        numbers = graded.numbers()
        self.rows.append(SetGrade(name, len(prompts), **{f: numbers.get(f) for f in FIELDS}))
        for i, prompt in enumerate(prompts):
            self.answers.append({
                "set": name, "i": i, "prompt": prompt.messages[-1]["content"],
                "answer": graded.answers[i], "reference": prompt.reference,
                "right": graded.right[i], "gold": graded.gold[i], "ended": graded.ended[i],
            })  # fmt: skip
        n = sum(len(self.model.chat.prompt(p.messages)) for p in prompts)
        n += sum(len(self.model.chat.answer(a)) for a in graded.answers)
        return Step(tokens=n, flops=n * self.model.forward_flops)

    def _remember(self) -> Step:
        """Bits per byte of the text that the base was validated on."""
        if not self.stage.retention_tokens or self.model.corpus is None:
            return Step()
        corpus = open_corpus(self.model.corpus)
        windows = validation_windows(corpus, self.model.seq_len, self.stage.retention_tokens)
        loss, error = validation_loss(
            self.model.network, windows, self.model.device, self.model.config.vocab_size
        )
        self.rows.append(TextGrade(TEXT, windows.size, loss, error, corpus.bpb(loss)))
        return Step(tokens=windows.size, flops=windows.size * self.model.forward_flops)

    def evaluate(self) -> Step:
        """Nothing to look at on the way."""
        return Step()

    def tensors(self) -> dict[str, Tensor]:
        """What is done so far, as bytes of JSON."""
        text = json.dumps([[asdict(row) for row in self.rows], self.answers]).encode()
        return {"so_far": torch.frombuffer(bytearray(text), dtype=torch.uint8)}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """See Work."""
        rows, self.answers = json.loads(tensors["so_far"].numpy().tobytes())
        self.rows = [TextGrade(**row) if row["set"] == TEXT else SetGrade(**row) for row in rows]

    def finish(self, out: Path) -> Finished:
        """Write every answer."""
        with whole(out / ANSWERS, "w") as file:
            file.writelines(map(line, self.answers))
        rows = [asdict(row) for row in self.rows]
        return Finished(
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
