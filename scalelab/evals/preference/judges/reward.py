"""The judge `reward`: a reward model trained by an earlier stage."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from scalelab.evals.conversations.base import Conversations
from scalelab.evals.inputs import REWARD, Input
from scalelab.evals.preference.judges.base import Judge, JudgeSession
from scalelab.evals.reward_model import RewardModel


class RewardJudge(Judge):
    """Prefer the answer with the higher score."""

    kind: Literal["reward"] = "reward"
    """Name of this judge in JUDGES."""
    model: str
    """The stage that trained it."""

    def inputs(self) -> tuple[Input, ...]:
        """Return the reward model."""
        return (Input(self.model, REWARD),)

    def passes(self) -> int:
        """Return 2: it reads each answer."""
        return 2

    def open_session(
        self, conversations: Conversations, paths: Mapping[str, Path], seed: int
    ) -> JudgeSession:
        """See Judge."""
        del conversations, seed
        model = RewardModel.load(paths[self.model])
        chat = model.chat

        def decide(prompts, first, second, before):
            del before
            sides = [
                [chat.prompt(p.messages) + chat.answer(a) for p, a in zip(prompts, answers, strict=True)]
                for answers in (first, second)
            ]
            session.flops += sum(map(len, sides[0] + sides[1])) * model.forward_flops
            scores = [model.score(rows) for rows in sides]
            return [0.5 if a == b else float(a > b) for a, b in zip(*scores, strict=True)]

        session = JudgeSession(decide)
        return session
