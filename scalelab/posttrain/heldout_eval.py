"""Evaluation on a few held-out prompts while a stage is running.

Not here: prompts and grading (evals/generation.py), the full grade (stages/grade.py).
"""

from dataclasses import replace
from functools import cached_property

from scalelab.evals.checkpoint import Checkpoint
from scalelab.evals.conversations.base import Prompt
from scalelab.evals.generation import grade
from scalelab.model.network import Network
from scalelab.posttrain.base import StageContext, StepResult

QUICK = 100
"""Number of prompts in an evaluation during a stage."""


class HeldoutPrompts:
    """A few held-out prompts, for evaluations during a stage.

    Args:
        context: Context of the stage.
        start: Start model of the stage, for its tokenizer and context length.
    """

    def __init__(self, context: StageContext, start: Checkpoint):
        self.context, self.start = context, start

    @cached_property
    def _prompts(self) -> list[Prompt]:
        tests = self.context.conversations.tests(QUICK)
        return next(iter(tests.values()), [])

    def as_checkpoint(self, network: Network) -> Checkpoint:
        """Return a network under training as a model that can generate answers."""
        return replace(self.start, network=network)

    def evaluate(self, model: Checkpoint) -> StepResult:
        """Grade greedy answers to prompts of the first test set; metrics begin with "held_out."."""
        if not self._prompts:
            return StepResult()
        graded = grade(self.context.conversations, model, self._prompts)
        n = sum(len(model.chat.prompt(p.messages)) for p in self._prompts)
        n += sum(len(model.chat.answer(answer)) for answer in graded.answers)
        numbers = {f"held_out.{k}": v for k, v in graded.numbers().items() if k != "ended_se"}
        return StepResult(numbers, flops=n * model.forward_flops)
