"""Conversations made by program (data/skills.py): every answer can be checked."""

import hashlib
from typing import Literal

from scalelab.config import Whole
from scalelab.data.chat import Message
from scalelab.data.skills import SPLITS, Task, gold, is_right, styles, tasks
from scalelab.evals.conversations import Conversations, Prompt


class Skilled(Conversations):
    """Ten skills on lists of words, with exact checkers and a programmatic preference."""

    kind: Literal["skills"] = "skills"
    """Names this source in CONVERSATIONS."""
    seed: Whole = 0
    """Decides the tasks, beside the seed of the file."""

    def fingerprint(self) -> str:
        """Of the tasks that the settings lead to now."""
        some = [t for split in ("train", *SPLITS) for t in tasks(50, split=split, seed=self.seed)]
        return hashlib.sha256(repr([(t.question, t.answer) for t in some]).encode()).hexdigest()

    def training(self, n: int | None, seed: int) -> list[tuple[Message, ...]]:
        """Instructions with right answers in three styles."""
        wanted = tasks(10_000 if n is None else n, seed=self._seed(seed, "sft"))
        said = styles(wanted, seed=self._seed(seed, "styles"))
        return [
            (_asked(task)[0], {"role": "assistant", "content": answer})
            for task, answer in zip(wanted, said, strict=True)
        ]

    def prompts(self, n: int, seed: int, purpose: str) -> list[Prompt]:
        """Instructions of the training kind, other ones for every purpose."""
        return [_prompt(task) for task in tasks(n, seed=self._seed(seed, purpose))]

    def tests(self, n: int) -> dict[str, list[Prompt]]:
        """The four held-out sets. They do not depend on the file's seed."""
        return {
            split: [_prompt(task) for task in tasks(n, split=split, seed=self.seed)]
            for split in SPLITS
        }

    def gold(self, prompt: Prompt, answer: str) -> float:
        """Right, then short."""
        return gold(prompt.task, answer)

    def is_right(self, prompt: Prompt, answer: str) -> bool:
        """By the task's own checker."""
        return is_right(prompt.task, answer)

    def _seed(self, seed: int, purpose: str) -> str:
        return f"{self.seed}-{seed}-{purpose}"


def _asked(task: Task) -> tuple[Message, ...]:
    return ({"role": "user", "content": task.question},)


def _prompt(task: Task) -> Prompt:
    return Prompt(_asked(task), task.answer, task)
