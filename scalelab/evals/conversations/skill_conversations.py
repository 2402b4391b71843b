"""Generated conversations (data/sources/skills.py) whose answers can all be checked."""

import hashlib
from typing import Literal

from scalelab.config import Whole
from scalelab.data.chat import Message
from scalelab.data.sources.skills import SPLITS, SkillTask, gold, is_right, styles, tasks
from scalelab.evals.conversations.base import Conversations, Prompt


class SkillConversations(Conversations):
    """Ten skills on lists of words, with exact checkers and a gold score."""

    kind: Literal["skills"] = "skills"
    """Name of this source in CONVERSATIONS."""
    seed: Whole = 0
    """Seed of the tasks, combined with the seed of the file."""

    def fingerprint(self) -> str:
        """Return a digest of sample tasks generated with these settings."""
        some = [t for split in ("train", *SPLITS) for t in tasks(50, split=split, seed=self.seed)]
        return hashlib.sha256(repr([(t.question, t.answer) for t in some]).encode()).hexdigest()

    def training(self, n: int | None, seed: int) -> list[tuple[Message, ...]]:
        """Return instructions with correct answers in three styles."""
        wanted = tasks(10_000 if n is None else n, seed=self._seed(seed, "sft"))
        answers = styles(wanted, seed=self._seed(seed, "styles"))
        return [
            (_question(task)[0], {"role": "assistant", "content": answer})
            for task, answer in zip(wanted, answers, strict=True)
        ]

    def prompts(self, n: int, seed: int, purpose: str) -> list[Prompt]:
        """Return instructions from the training distribution, different ones for each purpose."""
        return [_prompt(task) for task in tasks(n, seed=self._seed(seed, purpose))]

    def tests(self, n: int) -> dict[str, list[Prompt]]:
        """Return the four held-out sets, which do not depend on the file's seed."""
        return {split: [_prompt(task) for task in tasks(n, split=split, seed=self.seed)] for split in SPLITS}

    def gold(self, prompt: Prompt, answer: str) -> float:
        """Return the gold score: correct answers first, then short ones."""
        return gold(prompt.task, answer)

    def is_right(self, prompt: Prompt, answer: str) -> bool:
        """Return the result of the task's checker."""
        return is_right(prompt.task, answer)

    def _seed(self, seed: int, purpose: str) -> str:
        return f"{self.seed}-{seed}-{purpose}"


def _question(task: SkillTask) -> tuple[Message, ...]:
    return ({"role": "user", "content": task.question},)


def _prompt(task: SkillTask) -> Prompt:
    return Prompt(_question(task), task.answer, task)
