"""The judge `reward`: a reward model of an earlier stage."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from scalelab.evals.conversations import Conversations
from scalelab.evals.inputs import REWARD, Input
from scalelab.evals.judges.base import Court, Judge
from scalelab.evals.reward_model import RewardModel


class ByReward(Judge):
    """A reward model of an earlier stage: the higher number wins."""

    kind: Literal["reward"] = "reward"
    """Names this judge in JUDGES."""
    model: str
    """The stage that trained it."""

    def inputs(self) -> tuple[Input, ...]:
        """The reward model."""
        return (Input(self.model, REWARD),)

    def passes(self) -> int:
        """Both answers are read."""
        return 2

    def court(self, conversations: Conversations, paths: Mapping[str, Path], seed: int) -> Court:
        """See Judge."""
        del conversations, seed
        model = RewardModel.load(paths[self.model])
        chat = model.chat

        def decide(prompts, first, second, before):
            del before
            sides = [
                [chat.prompt(p.messages) + chat.answer(a) for p, a in zip(
                    prompts, answers, strict=True)]
                for answers in (first, second)
            ]  # fmt: skip
            court.flops += sum(map(len, sides[0] + sides[1])) * model.forward_flops
            scores = [model.score(rows) for rows in sides]
            return [0.5 if a == b else float(a > b) for a, b in zip(*scores, strict=True)]

        court = Court(decide)
        return court
