"""A judge that prefers the shorter answer: what a reward for brevity alone would teach."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from scalelab.config import Whole
from scalelab.evals.conversations.base import Conversations
from scalelab.evals.preference.judges.base import Judge, JudgeSession


class Shorter(Judge):
    """The answer with fewer words wins."""

    kind: Literal["shorter"] = "shorter"
    margin: Whole = 0
    """Words by which it has to be shorter; else it is a tie."""

    def open_session(
        self, conversations: Conversations, paths: Mapping[str, Path], seed: int
    ) -> JudgeSession:
        """See Judge."""

        def decide(prompts, first, second, before):
            gaps = [len(b.split()) - len(a.split()) for a, b in zip(first, second, strict=True)]
            return [0.5 if abs(gap) <= self.margin else float(gap > 0) for gap in gaps]

        return JudgeSession(decide)
