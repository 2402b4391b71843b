"""A few held-out prompts, asked while a stage is being done.

Not here: what is asked and how it is graded (evals/asking.py), the whole grade (grade.py).
"""

from dataclasses import replace
from functools import cached_property

from scalelab.evals.asking import grade
from scalelab.evals.checkpoint import Checkpoint
from scalelab.evals.conversations import Prompt
from scalelab.model.network import Network
from scalelab.posttrain.base import Given, Step

QUICK = 100
"""Prompts asked while a stage is being done."""


class Judged:
    """A few held-out prompts, for looks on the way.

    Args:
        given: Of the stage.
        start: The model that the stage begins with, for its tokenizer and context.
    """

    def __init__(self, given: Given, start: Checkpoint):
        self.given, self.start = given, start

    @cached_property
    def _prompts(self) -> list[Prompt]:
        tests = self.given.conversations.tests(QUICK)
        return next(iter(tests.values()), [])

    def of(self, network: Network) -> Checkpoint:
        """A network under training as a model that can be asked."""
        return replace(self.start, network=network)

    def quick(self, model: Checkpoint) -> Step:
        """Greedy answers to a few prompts of the first test set, under "held_out."."""
        if not self._prompts:
            return Step()
        graded = grade(self.given.conversations, model, self._prompts)
        n = sum(len(model.chat.prompt(p.messages)) for p in self._prompts)
        n += sum(len(model.chat.answer(answer)) for answer in graded.answers)
        numbers = {f"held_out.{k}": v for k, v in graded.numbers().items() if k != "ended_se"}
        return Step(numbers, flops=n * model.forward_flops)
