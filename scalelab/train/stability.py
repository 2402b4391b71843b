"""What to do when a long run's loss leaps or is no number: skip, go back, lower the rate.

    loss or gradient not finite    the batch is skipped: no update
    three skipped in a row         go back
    loss over the median of the last 128 steps by 8 robust deviations and .5 nats,
    three steps in a row           go back

Going back means: the newest checkpoint from before the trouble, past the batches in between, as
for PaLM (Chowdhery et al. 2022, section 5.1, arXiv:2204.02311). Going back again before the run
has come past the earlier trouble also halves the rate, for the rest of the run. Whatever was
done is recorded: the sweep was trained without it, so a forecast is no longer of exactly the
same recipe.

Decisions depend on losses alone, which are the same in every process.
"""

import math
import statistics
from collections import deque
from typing import Literal

from scalelab.config import Config, Count, Fraction, Positive, Whole

Action = Literal["go", "skip", "back"]

HISTORY, ENOUGH = 128, 32
SLOW, SLOW_IN_A_ROW = 1.5, 3
"""A process is a straggler once it took so many times the median, so often in a row."""
NORMAL = 1.4826
"""Standard deviations in a median absolute deviation of normal noise."""


class Stability(Config):
    """The rules, each with its reason in the module's text."""

    spike_deviations: Positive = 8.0
    spike_nats: Positive = 0.5
    patience: Count = 3
    """Bad steps in a row before going back."""
    lower_rate: Fraction = 0.5
    """Factor on the rate when one place gives trouble twice."""
    most_returns: Whole = 6
    """Going back more often ends the run as diverged."""


class StabilityMonitor:
    """Judges every step of a run by those before it."""

    def __init__(self, rules: Stability):
        self.rules = rules
        self._losses: deque[float] = deque(maxlen=HISTORY)
        self._bad = 0

    def judge(self, loss: float, norm: float) -> Action:
        """What to do with a step of this loss and gradient norm, before its update."""
        finite = math.isfinite(loss) and math.isfinite(norm)
        if finite and not self._leaps(loss):
            self._losses.append(loss)
            self._bad = 0
            return "go"
        self._bad += 1
        if self._bad >= self.rules.patience:
            return "back"
        return "go" if finite else "skip"

    @property
    def bad_steps(self) -> int:
        """How many steps of trouble there have been in a row."""
        return self._bad

    def _leaps(self, loss: float) -> bool:
        if len(self._losses) < ENOUGH:
            return False
        middle = statistics.median(self._losses)
        spread = NORMAL * statistics.median(abs(x - middle) for x in self._losses)
        return loss > middle + max(self.rules.spike_deviations * spread, self.rules.spike_nats)


class StragglerMonitor:
    """Which processes hold the others up, by how long each takes for the same work."""

    def __init__(self) -> None:
        self._slow: dict[int, int] = {}

    def observe(self, seconds: list[float]) -> dict[int, float]:
        """Processes that have just become stragglers, and how many times slower they are."""
        middle = statistics.median(seconds)
        found = {}
        for rank, value in enumerate(seconds):
            ratio = value / middle
            self._slow[rank] = self._slow.get(rank, 0) + 1 if ratio > SLOW else 0
            if self._slow[rank] == SLOW_IN_A_ROW:
                found[rank] = ratio
        return found
