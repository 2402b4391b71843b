"""The judge `gold`: the gold score of the source of conversations, optionally with label noise."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from scalelab.config import Fraction
from scalelab.data.hashing import drawn_share
from scalelab.errors import DataError
from scalelab.evals.conversations.base import Conversations
from scalelab.evals.preference.judges.base import Judge, JudgeSession


class GoldJudge(Judge):
    """Prefer the answer with the higher gold score."""

    kind: Literal["gold"] = "gold"
    """Name of this judge in JUDGES."""
    flips: Fraction = 0.0
    """Share of verdicts that are flipped, 0 to 1: simulated label noise."""

    def open_session(
        self, conversations: Conversations, paths: Mapping[str, Path], seed: int
    ) -> JudgeSession:
        """See Judge."""
        del paths

        def decide(prompts, first, second, before):
            verdicts = []
            for i, (prompt, one, two) in enumerate(zip(prompts, first, second, strict=True)):
                a, b = conversations.gold(prompt, one), conversations.gold(prompt, two)
                if a is None or b is None:
                    raise DataError(
                        "these conversations have no gold score",
                        where=f"data: {conversations.model_dump_json()}",
                        fix="choose another judge: reward, model or person",
                    )
                verdict = 0.5 if abs(a - b) < 1e-9 else float(a > b)
                is_flipped = drawn_share(f"flips-{seed}", before + i) < self.flips
                verdicts.append(1 - verdict if is_flipped else verdict)
            return verdicts

        return JudgeSession(decide)
