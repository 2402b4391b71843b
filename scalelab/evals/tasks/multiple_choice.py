"""Questions with known answers, as a few lines of YAML over rows of JSON.

    name: colours
    rows: colours.jsonl          {"question": ..., "choices": [...], "answer": 2}
    modes: [full, letter]

full     the likelihood of each complete answer after the question; the most likely one is chosen
letter   the question lists the answers as A, B, C; the likelihoods of the letters are compared
written  the model generates an answer, which is compared with the accepted ones

Small models know answers before they can use letters: in mode letter they are at chance.
Source: the modes are those of lm-eval's mmlu_continuation and mmlu.
Not here: rows and templates (rows.py), scores (scores.py), the call to lm-eval (harness.py),
published benchmarks (benchmarks.py).
"""

import json
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from scalelab.config import Count, Name, Switch, Whole
from scalelab.evals.checkpoint import Checkpoint
from scalelab.evals.tasks.base import Task
from scalelab.evals.tasks.harness import CustomTask, run_tasks
from scalelab.evals.tasks.lm_eval_adapters import Prefix
from scalelab.evals.tasks.rows import DataRow, checked_template, places, read_rows
from scalelab.evals.tasks.scores import Score, score

Mode = Literal["full", "letter"]
LETTERS = string.ascii_uppercase


class ChoiceTask(Task):
    """Questions with answers to choose from."""

    kind: Literal["choice"] = "choice"
    name: Name
    rows: str | tuple[dict[str, Any], ...]
    """A file of records (.jsonl, .json, .csv, .tsv, .parquet), or the rows themselves."""
    shot_rows: str | tuple[dict[str, Any], ...] | None = None
    """Rows of the few-shot examples; None: other rows of `rows`."""
    question: str = "question"
    """Field of a row that holds the question."""
    choices: str = "choices"
    """Field that holds the list of answers, texts."""
    answer: str = "answer"
    """Field of the correct answer: its index from 0, or its text."""
    template: str = "{question}"
    """Text before an answer in mode full. {name} is any field of the row; {options} is
    the lettered list."""
    letters_template: str = "{question}\n{options}\nAnswer:"
    """Text before an answer in mode letter; must contain {options}."""
    shots: Whole = 0
    """Few-shot examples before each question, drawn for each."""
    modes: Annotated[tuple[Mode, ...], Field(min_length=1)] = ("full",)

    @field_validator("template", "letters_template")
    @classmethod
    def _can_be_filled(cls, template: str) -> str:
        return checked_template(template)

    @model_validator(mode="after")
    def _letters_are_shown(self) -> Self:
        if "letter" in self.modes and "options" not in places(self.letters_template):
            raise ValueError("letters_template does not show the {options} that letters stand for")
        if len(set(self.modes)) < len(self.modes):
            raise ValueError("a mode is named twice")
        return self

    def files(self) -> tuple[str, ...]:
        """Return the files that it names; their contents affect the result."""
        return tuple(rows for rows in (self.rows, self.shot_rows) if isinstance(rows, str))

    def questions(self, mode: Mode, rows: Sequence[DataRow]) -> list["Question"]:
        """Return the rows as questions of one mode. Raises DataError naming the first invalid row."""
        template = self.template if mode == "full" else self.letters_template
        made = []
        for row in rows:
            asked = row.text(self.question)
            choices = checked_choices(row, self.choices, row.get(self.choices))
            if twice := sorted({choice for choice in choices if choices.count(choice) > 1}):
                row.refuse(f"the choice {twice[0]!r} occurs twice", "leave one of them out")
            gold = _right_answer(row, self.answer, choices)
            if mode == "letter" and len(choices) > len(LETTERS):
                row.refuse(f"{len(choices)} choices are more than there are letters", "ask it full")
            options = "\n".join(f"{LETTERS[i % 26]}. {c}" for i, c in enumerate(choices))
            filled = row.fill(template, {"question": asked, "options": options})
            key = json.dumps([asked, choices, gold], ensure_ascii=False)
            weighed = choices if mode == "full" else list(LETTERS[: len(choices)])
            made.append(Question(filled, tuple(weighed), gold, key))
        return made

    def own_tasks(self) -> list[tuple[CustomTask, Mode, str]]:
        """Return the task in lm-eval's format, its mode and template, one for each mode."""
        rows = read_rows(self.rows, self.name)
        others = None if self.shot_rows is None else read_rows(self.shot_rows, self.name)
        made = []
        for mode in self.modes:
            template = self.template if mode == "full" else self.letters_template
            shots = None if others is None else self.questions(mode, others)
            questions = self.questions(mode, rows)
            task = choice_task(f"{self.name}.{mode}", questions, shots, n_shots=self.shots, group=self.name)
            made.append((task, mode, template))
        return made


class GenerationTask(Task):
    """Questions that the model answers in text; a correct answer equals an accepted one."""

    kind: Literal["generation"] = "generation"
    name: Name
    rows: str | tuple[dict[str, Any], ...]
    """A file of records (.jsonl, .json, .csv, .tsv, .parquet), or the rows themselves."""
    shot_rows: str | tuple[dict[str, Any], ...] | None = None
    """Rows of the few-shot examples; None: other rows of `rows`."""
    prompt: str = "prompt"
    """Field of a row that holds the prompt."""
    answer: str = "answer"
    """Field that holds the right answer, or a list of accepted ones."""
    template: str = "{prompt}"
    """Text before the generated answer."""
    shots: Whole = 0
    n_new: Count = 32
    """Maximum tokens of an answer."""
    stop: tuple[str, ...] = ("\n",)
    """Texts that end an answer, besides the end token."""
    ignore_case: Switch = True
    ignore_punctuation: Switch = False
    """Ignore punctuation. Repeated and surrounding white space is always ignored."""

    @field_validator("template")
    @classmethod
    def _can_be_filled(cls, template: str) -> str:
        return checked_template(template)

    def files(self) -> tuple[str, ...]:
        """Return the files that it names; their contents affect the result."""
        return tuple(rows for rows in (self.rows, self.shot_rows) if isinstance(rows, str))

    def normalised(self, text: str) -> str:
        """Return the text in the form that is compared."""
        text = text.casefold() if self.ignore_case else text
        if self.ignore_punctuation:
            text = text.translate(str.maketrans("", "", string.punctuation))
        return " ".join(text.split())

    def own_tasks(self) -> list[tuple[CustomTask, str, str]]:
        """Return the task in lm-eval's format, the mode "written" and its template."""
        rows = self._docs(read_rows(self.rows, self.name))
        others = None
        if self.shot_rows is not None:
            others = self._docs(read_rows(self.shot_rows, self.name))
        settings = {
            "output_type": "generate_until",
            "doc_to_text": "prompt",
            "doc_to_target": "target",
            "process_results": self._right,
            "generation_kwargs": {"until": list(self.stop), "max_gen_toks": self.n_new, "do_sample": False},
            "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
        }
        task = CustomTask(self.name, rows, others, settings, self.shots)
        return [(task, "written", self.template)]

    def _docs(self, rows: Sequence[DataRow]) -> list[dict[str, Any]]:
        docs = []
        for row in rows:
            prompt, accepted = row.text(self.prompt), row.get(self.answer)
            accepted = [accepted] if isinstance(accepted, str) else accepted
            if not isinstance(accepted, list) or not accepted:
                row.refuse(f"{self.answer} is {accepted!r}, not a text", "write a text, or several")
            for text in accepted:
                if not isinstance(text, str) or not self.normalised(text):
                    row.refuse(f"{self.answer} holds {text!r}, nothing to write", "write a text")
            filled = row.fill(self.template, {"prompt": prompt})
            key = json.dumps([prompt, accepted], ensure_ascii=False)
            docs.append({"prompt": filled, "target": accepted[0], "accepted": accepted, "key": key})
        return docs

    def _right(self, doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
        written = self.normalised(results[0])
        return {"exact_match": float(written in map(self.normalised, doc["accepted"]))}


@dataclass(frozen=True)
class Question:
    """A prompt, its choices, the index of the correct one, and the key of the row."""

    prompt: str
    choices: tuple[str, ...]
    gold: int
    key: str


def choice_task(
    name: str,
    questions: Sequence[Question],
    shots: Sequence[Question] | None,
    *,
    n_shots: int,
    group: str,
    **settings: Any,
) -> CustomTask:
    """Return questions as a task of lm-eval, which reads the columns without rendering them.

    Args:
        name: Name of the task.
        questions: Questions to ask.
        shots: Questions for few-shot examples; None: other ones of `questions`.
        n_shots: Few-shot examples before each question.
        group: Name shared by the modes of the task.
        **settings: More settings of lm-eval.
    """

    def docs(some: Sequence[Question]) -> list[dict[str, Any]]:
        return [{"prompt": q.prompt, "choices": list(q.choices), "gold": q.gold, "key": q.key} for q in some]

    metrics = [
        {"metric": m, "aggregation": "mean", "higher_is_better": True}
        for m in ("acc", "acc_norm", "acc_bytes")
    ]
    words = {
        "output_type": "multiple_choice",
        "doc_to_text": "prompt",
        "doc_to_choice": "choices",
        "doc_to_target": "gold",
        "metric_list": metrics,
    }
    examples = docs(shots) if shots else None
    return CustomTask(name, docs(questions), examples, words | settings, n_shots, group)


def evaluate(
    model: Checkpoint | Path,
    tasks: Sequence[Task],
    *,
    limit: int | None = None,
    chat: bool = False,
    seed: int = 0,
    prefix: Prefix = "end",
) -> list[Score]:
    """Return the scores of a model, one for each task and mode.

    Args:
        model: A checkpoint, or the directory of an exported one.
        tasks: Tasks to run.
        limit: Number of rows of each task, from the first; None: all.
        chat: Ask each question as a conversation.
        seed: Seed of the few-shot examples.
        prefix: Token that a checkpoint reads before a text.

    Raises:
        ConfigError, DataError: As read_rows, and as harness.run_tasks.
    """
    made = [each for task in tasks for each in task.own_tasks()]
    asked = [task for task, _, _ in made]
    found = run_tasks(model, asked, limit=limit, chat=chat, seed=seed, prefix=prefix)
    return [
        score(result, mode, template, task.group)
        for task, mode, template in made
        for result in found
        if result.asked == task.name
    ]


def checked_choices(row: DataRow, name: str, choices: Any) -> list[str]:
    """Return the choices. Raises DataError unless they are at least two non-empty texts."""
    if not isinstance(choices, list | tuple) or not all(isinstance(c, str) for c in choices):
        row.refuse(f"{name} is {choices!r}, not a list of texts", "write texts, in quotes")
    if len(choices) < 2:
        row.refuse(f"{len(choices)} choice(s): nothing to choose from", "give at least two")
    if empty := [i for i, choice in enumerate(choices) if not choice.strip()]:
        row.refuse(f"choice {empty[0]} is empty", "write a text, or leave the choice out")
    return list(choices)


def _right_answer(row: DataRow, name: str, choices: Sequence[str]) -> int:
    answer = row.get(name)
    if isinstance(answer, int) and not isinstance(answer, bool):
        if not 0 <= answer < len(choices):
            row.refuse(
                f"{name} is {answer}, but the {len(choices)} choices are counted 0 to {len(choices) - 1}",
                "count from 0, or write the right answer out",
            )
        return answer
    if answer not in choices:
        row.refuse(
            f"{name} is {answer!r}, which is none of the choices",
            "write one of them as it stands there, or its place counted from 0",
        )
    return choices.index(answer)
