"""The expected loss curve of a final run, from the curves of the evidence.

    expected(s) = L + mean_i (l_i(s) - L_i)
    band(s)     = expected(s) +- (distance of the forecast's ends + t sd_i sqrt(1 + 1/n))

s  share of the steps done, 0 to 1; l_i(s) loss of run i there, L_i its final loss, L the
forecast; t Student's quantile at LEVEL with n - 1 degrees of freedom. All losses in nats per
token. The n runs are those nearest to the final one in ln N and ln D.

The band assumes that the loss still to be reduced at a share of the schedule, in nats, is the same
for smaller runs and for a larger one of the same recipe. On the default sweep [measured] it moved
by less than 5% over three-fold compute at 12 tokens per parameter, and more with tokens per
parameter: hence the nearest runs. With bands from its smaller budgets around the true final losses,
0 of 20 points of validation and 1 of 527 of training loss of the largest were outside.

Between the points of a curve the loss is interpolated linearly in ln s.

Not here: the alarm of a run that leaves its band (launch/final_view.py).
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.special import stdtrit  # scipy.stats takes .4 s to import

from scalelab.laws.description import Interval

LEVEL = 0.99  # of the spread between curves; high, because a run is compared at many points
NEAREST, LEAST = 8, 3  # runs whose curves are used
SHARES = tuple(float(s) for s in np.round(np.arange(0.05, 1.001, 0.05), 2))


@dataclass(frozen=True)
class RunCurve:
    """Loss curve of one run of the evidence."""

    run: str
    n_params: float
    n_tokens: float
    n_steps: int
    loss: float
    """Final validation loss, nats per token."""
    points: Sequence[Sequence[float]]
    """[step, n_tokens, loss], as in RunResult; `loss` is the end where the points do not include it."""


@dataclass(frozen=True)
class LossBand:
    """Expected losses during training, by share of the steps done."""

    level: float
    """Level of the spread between curves; the part of the forecast has the level of the forecast."""
    runs: tuple[str, ...]
    """Runs whose curves the band comes from."""
    share: tuple[float, ...]
    low: tuple[float, ...]
    expected: tuple[float, ...]
    high: tuple[float, ...]

    def at(self, share: float) -> tuple[float, float, float] | None:
        """Return low, expected and high at a share of the steps; None outside the range of the curves."""
        if not self.share[0] <= share <= self.share[-1]:
            return None
        x = np.log(self.share)
        low, expected, high = (
            float(np.interp(np.log(share), x, line)) for line in (self.low, self.expected, self.high)
        )
        return low, expected, high

    def leaves(self, share: float, loss: float) -> str | None:
        """Return the side of the band that a loss is on: "above", "below" or "not finite"; None inside."""
        if not np.isfinite(loss):
            return "not finite"
        ends = self.at(share)
        if ends is None:
            return None
        return "above" if loss > ends[2] else "below" if loss < ends[0] else None

    def to_json(self) -> dict[str, Any]:
        """Return the record as JSON types."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> "LossBand":
        """Return the band of a record of to_json."""
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in record.items()})


def band(
    curves: Sequence[RunCurve], *, n_params: float, n_tokens: float, loss: float, interval: Interval
) -> LossBand | str:
    """Return the band of a final run, or the reason why there is none.

    Args:
        curves: Curves of the runs in evidence, all of validation or all of training loss.
        n_params: Parameters of the final run, in the count of the curves.
        n_tokens: Training tokens of the final run.
        loss: Forecast of its final loss, nats per token.
        interval: Quoted interval of the forecast.
    """
    if interval is None:
        return "the forecast has no interval"
    usable = [c for c in curves if c.points and np.isfinite(c.loss)]
    if len(usable) < LEAST:
        return f"{len(usable)} runs of the evidence have a loss curve; a band needs {LEAST}"
    usable.sort(key=lambda c: np.hypot(np.log(c.n_params / n_params), np.log(c.n_tokens / n_tokens)))
    chosen = usable[:NEAREST]
    begins = max(c.points[0][0] / c.n_steps for c in chosen)
    shares = np.array([s for s in SHARES if s >= begins])
    excess = np.array([_excess_loss(c, shares) for c in chosen])
    n = len(chosen)
    spread = excess.std(axis=0, ddof=1) * np.sqrt(1 + 1 / n) * stdtrit(n - 1, (1 + LEVEL) / 2)
    expected = loss + excess.mean(axis=0)
    low, high = expected - (loss - interval[0]) - spread, expected + (interval[1] - loss) + spread
    lines = (tuple(float(v) for v in line) for line in (shares, low, expected, high))
    return LossBand(LEVEL, tuple(c.run for c in chosen), *lines)


def _excess_loss(curve: RunCurve, shares: np.ndarray) -> np.ndarray:
    """Loss during training minus the final validation loss; training loss may end below it."""
    points = [(p[0] / curve.n_steps, p[2]) for p in curve.points]
    if points[-1][0] < 1:
        points.append((1.0, curve.loss))
    share, losses = np.array(points).T
    return np.interp(np.log(shares), np.log(share), losses) - curve.loss
