"""Published benchmarks, by name from the Hub or from a copy on disk.

    name: hellaswag              by name: lm-eval fetches the rows
    data_files: {test: hellaswag_val.jsonl, shots: hellaswag_train.jsonl}      from a copy

    hellaswag                 ctx_a, ctx_b, activity_label, endings, label      full
    piqa                      goal, sol1, sol2, label                           full
    arc_easy, arc_challenge   question, choices {text, label}, answerKey        full
    mmlu                      question, choices, answer; one subject a copy     letter

A copy is asked as lm-eval asks the original: the same template, brackets of WikiHow taken out of
HellaSwag, MMLU's fixed examples from its dev split. Columns are those of the original files. Some
of their rows hold the same choice twice; they are kept, as lm-eval keeps them.

Source: Zellers et al. 2019, arXiv:1905.07830; Bisk et al. 2019, arXiv:1911.11641; Clark et al.
2018, arXiv:1803.05457; Hendrycks et al. 2020, arXiv:2009.03300. Templates: lm-eval 0.4.13,
tasks/{hellaswag,piqa,arc,mmlu/default}.

Not here: custom questions (multiple_choice.py).
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

from pydantic import model_validator

from scalelab.config import Config, Whole
from scalelab.evals.tasks.base import Task
from scalelab.evals.tasks.harness import CustomTask, NamedTask
from scalelab.evals.tasks.multiple_choice import LETTERS, Question, checked_choices, choice_task
from scalelab.evals.tasks.rows import DataRow, read_rows

Test = Literal["hellaswag", "piqa", "arc_easy", "arc_challenge", "mmlu"]
TEMPLATES: Mapping[str, str] = {
    "hellaswag": "{activity_label}: {ctx_a} {ctx_b}",
    "piqa": "Question: {goal}\nAnswer:",
    "arc_easy": "Question: {question}\nAnswer:",
    "arc_challenge": "Question: {question}\nAnswer:",
    "mmlu": "{question}\n{options}\nAnswer:",
}


class DataFiles(Config):
    """A copy on disk, as files of records: .jsonl, .json, .csv, .tsv or .parquet."""

    test: str
    """File of the questions."""
    shots: str | None = None
    """File of the few-shot examples: the train split, or the dev split of MMLU. None: other rows of
    `test`."""


class BenchmarkTask(Task):
    """A benchmark that lm-eval has under this name."""

    kind: Literal["known"] = "known"
    name: Test
    subject: str | None = None
    """Subject of mmlu, such as high_school_physics. None: all 57, only without `data_files`."""
    data_files: DataFiles | None = None
    """A copy on disk; None downloads it from the Hub."""
    shots: Whole = 0

    @model_validator(mode="after")
    def _subject_fits(self) -> Self:
        if self.name != "mmlu" and self.subject is not None:
            raise ValueError(f"{self.name} has no subjects")
        if self.name == "mmlu" and self.data_files and self.subject is None:
            raise ValueError("a copy of mmlu holds one subject: say which")
        return self

    def files(self) -> tuple[str, ...]:
        """Return the files that it names; their contents affect the result."""
        named = self.data_files and (self.data_files.test, self.data_files.shots)
        return tuple(path for path in named or () if path is not None)

    def own_tasks(self) -> list[tuple[NamedTask | CustomTask, str, str]]:
        """Return the task, its mode and its template.

        Raises:
            DataError: A file is missing, or a row is not of the original's columns.
        """
        mode = "letter" if self.name == "mmlu" else "full"
        name = f"{self.name}_{self.subject}" if self.subject else self.name
        if self.data_files is None:
            return [(NamedTask(name, self.shots), mode, TEMPLATES[self.name])]
        shots = None if self.data_files.shots is None else self._questions(self.data_files.shots)
        settings: dict[str, Any] = {}
        if self.subject is not None:
            settings = {
                "description": "The following are multiple choice questions (with answers) about "
                f"{self.subject.replace('_', ' ')}.\n\n",
                "fewshot_config": {"sampler": "first_n"},
            }
        task = choice_task(
            f"{name}.copy",
            self._questions(self.data_files.test),
            shots,
            n_shots=self.shots,
            group=name,
            **settings,
        )
        return [(task, mode, TEMPLATES[self.name])]

    def _questions(self, file: str) -> list[Question]:
        return [_READERS[self.name](row) for row in read_rows(file, self.name)]


def _hellaswag(row: DataRow) -> Question:
    context = f"{row.get('ctx_a')} {str(row.get('ctx_b')).capitalize()}"
    prompt = _without_brackets(f"{row.text('activity_label')}: {context}")
    endings = [_without_brackets(e) for e in checked_choices(row, "endings", row.get("endings"))]
    return _question(row, prompt, endings, row.place_of("label", str(row.get("label")), "0123"))


def _piqa(row: DataRow) -> Question:
    both = checked_choices(row, "sol1, sol2", [row.get("sol1"), row.get("sol2")])
    prompt = f"Question: {row.text('goal')}\nAnswer:"
    return _question(row, prompt, both, row.place_of("label", str(row.get("label")), "01"))


def _arc(row: DataRow) -> Question:
    choices = row.get("choices")
    if not isinstance(choices, Mapping) or {"text", "label"} - set(choices):
        row.refuse(f"choices is {choices!r}, without text and label", "take the original columns")
    texts = checked_choices(row, "choices", list(choices["text"]))
    gold = row.place_of("answerKey", row.get("answerKey"), list(choices["label"]))
    return _question(row, f"Question: {row.text('question')}\nAnswer:", texts, gold)


def _mmlu(row: DataRow) -> Question:
    texts = checked_choices(row, "choices", row.get("choices"))
    options = "\n".join(f"{LETTERS[i]}. {text}" for i, text in enumerate(texts))
    prompt = f"{row.text('question').strip()}\n{options}\nAnswer:"
    gold = row.place_of("answer", row.get("answer"), list(range(len(texts))))
    key = json.dumps([row.get("question"), texts, gold], ensure_ascii=False)
    return Question(prompt, tuple(LETTERS[: len(texts)]), gold, key)


_READERS = {"hellaswag": _hellaswag, "piqa": _piqa, "arc_easy": _arc, "arc_challenge": _arc, "mmlu": _mmlu}


def _question(row: DataRow, prompt: str, choices: Sequence[str], gold: int) -> Question:
    key = json.dumps([prompt, list(choices), gold], ensure_ascii=False)
    return Question(prompt, tuple(choices), gold, key)


def _without_brackets(text: str) -> str:
    """Return text cleaned as lm-eval cleans HellaSwag: without WikiHow marks; titles end a sentence."""
    text = re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". "))
    return text.replace("  ", " ")
