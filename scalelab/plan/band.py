"""What the loss curve of a final run should look like, from the curves of the evidence.

    expected(s) = L + mean_i (l_i(s) - L_i)
    band(s)     = expected(s) +- (distance of the forecast's ends + t sd_i sqrt(1 + 1/n))

s  share of the steps done, 0 to 1; l_i(s) loss of run i there, L_i its final loss, L the
forecast; t Student's quantile at LEVEL with n - 1 degrees of freedom. All losses in nats per
token. The n runs are those nearest to the final one in ln N and ln D.

That what is still to be lost at a share of the schedule is carried over in nats, from smaller
runs of the same recipe to a larger one, is an assumption. On the default sweep [measured] it
moved by less than 5% over three-fold compute at 12 tokens per parameter, and more with tokens
per parameter: hence the nearest runs. Bands of its smaller budgets around the true final losses
were left at 0 of 20 points of validation and 1 of 527 of training loss of the largest.

Between the points of a curve the loss is read linearly in ln s.

Not here: when to stop a run that leaves its band (the launch room).
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.special import stdtrit  # scipy.stats takes .4 s to import

from scalelab.laws.interval import Interval

LEVEL = 0.99  # of the spread between curves: a healthy run is looked at often
NEAREST, LEAST = 8, 3  # runs whose curves are used
SHARES = tuple(float(s) for s in np.round(np.arange(0.05, 1.001, 0.05), 2))


@dataclass(frozen=True)
class RunCurve:
    """The losses of one run of the evidence on the way."""

    run: str
    n_params: float
    n_tokens: float
    n_steps: int
    loss: float
    """At the end, nats per token."""
    points: Sequence[Sequence[float]]
    """[step, n_tokens, loss], as RunResult has them; where the end is not among them, `loss` is."""


@dataclass(frozen=True)
class Band:
    """Losses to expect on the way, by share of the steps done."""

    level: float
    """Of the spread between curves; the forecast's part is at the forecast's own level."""
    runs: tuple[str, ...]
    """Whose curves it comes from."""
    share: tuple[float, ...]
    low: tuple[float, ...]
    expected: tuple[float, ...]
    high: tuple[float, ...]

    def at(self, share: float) -> tuple[float, float, float] | None:
        """Low, expected, high at a share of the steps; None outside what the curves cover."""
        if not self.share[0] <= share <= self.share[-1]:
            return None
        x = np.log(self.share)
        low, expected, high = (
            float(np.interp(np.log(share), x, line))
            for line in (self.low, self.expected, self.high)
        )
        return low, expected, high

    def leaves(self, share: float, loss: float) -> str | None:
        """Which side of the band a loss is on: "above", "below" or "not finite"; None inside."""
        if not np.isfinite(loss):
            return "not finite"
        ends = self.at(share)
        if ends is None:
            return None
        return "above" if loss > ends[2] else "below" if loss < ends[0] else None

    def to_json(self) -> dict[str, Any]:
        """The record as JSON types."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> "Band":
        """The inverse of to_json."""
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in record.items()})


def band(
    curves: Sequence[RunCurve],
    *,
    n_params: float,
    n_tokens: float,
    loss: float,
    interval: Interval,
) -> Band | str:
    """The band of a final run, or in words why there is none.

    Args:
        curves: Of the runs in evidence, all of validation or all of training loss.
        n_params: Of the final run, in the same count as the curves'.
        n_tokens: Of the same.
        loss: Forecast for its end.
        interval: Quoted for that.
    """
    if interval is None:
        return "the forecast has no interval"
    usable = [c for c in curves if c.points and np.isfinite(c.loss)]
    if len(usable) < LEAST:
        return f"{len(usable)} runs of the evidence have a loss curve; a band needs {LEAST}"
    usable.sort(
        key=lambda c: np.hypot(np.log(c.n_params / n_params), np.log(c.n_tokens / n_tokens))
    )
    chosen = usable[:NEAREST]
    begins = max(c.points[0][0] / c.n_steps for c in chosen)
    shares = np.array([s for s in SHARES if s >= begins])
    excess = np.array([_left_to_lose(c, shares) for c in chosen])
    n = len(chosen)
    spread = excess.std(axis=0, ddof=1) * np.sqrt(1 + 1 / n) * stdtrit(n - 1, (1 + LEVEL) / 2)
    expected = loss + excess.mean(axis=0)
    low, high = expected - (loss - interval[0]) - spread, expected + (interval[1] - loss) + spread
    lines = (tuple(float(v) for v in line) for line in (shares, low, expected, high))
    return Band(LEVEL, tuple(c.run for c in chosen), *lines)


def _left_to_lose(curve: RunCurve, shares: np.ndarray) -> np.ndarray:
    """Loss on the way above the final validation loss; training loss may end below it."""
    points = [(p[0] / curve.n_steps, p[2]) for p in curve.points]
    if points[-1][0] < 1:
        points.append((1.0, curve.loss))
    share, losses = np.array(points).T
    return np.interp(np.log(shares), np.log(share), losses) - curve.loss
