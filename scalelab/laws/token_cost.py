"""What one training token costs at N parameters: 6 N, or what the runs themselves spent.

    f(N) = p N + q N^(1/2)

The first term is the weights that multiply tokens. The second stands for what grows like
the width: attention over a fixed context, and embeddings, which N may count and which cost
nothing (then q is negative). Where every run spent exactly 6 N D, that is the relation.

Source: 6 N, Kaplan et al. 2020, arXiv:2001.08361, section 2.1. The second term is ours: an
interpolation whose worst error is reported.
"""

from dataclasses import dataclass

import numpy as np

from scalelab.errors import FitError
from scalelab.laws.observations import Array, Observations


@dataclass(frozen=True)
class TokenCost:
    """FLOPs per training token as a function of N."""

    p: float
    q: float
    miss: float
    """Largest error over the runs, as a share."""

    @classmethod
    def of(cls, runs: Observations) -> "TokenCost":
        """The relation that the runs' own FLOPs show.

        Raises:
            FitError: The relation would cost nothing or less somewhere among the runs.
        """
        cost = runs.C / runs.D
        if np.allclose(cost, 6 * runs.N, rtol=1e-6, atol=0):
            return cls(6.0, 0.0, 0.0)
        if np.ptp(np.log(runs.N)) < np.log(2):  # too narrow to separate the two terms
            p, q = float(np.exp(np.mean(np.log(cost / runs.N)))), 0.0
        else:
            terms = np.stack([runs.N, np.sqrt(runs.N)], axis=1) / cost[:, None]
            p, q = map(float, np.linalg.lstsq(terms, np.ones(len(cost)), rcond=None)[0])
        found = cls(p, q, float(np.max(np.abs((p * runs.N + q * np.sqrt(runs.N)) / cost - 1))))
        if p <= 0 or np.any(found(runs.N) <= 0) or np.any(found.log_slope(runs.N) <= 0):
            raise FitError(
                "the FLOPs per token of these runs do not grow with their parameters",
                where=f"f(N) = {p:.3g} N + {q:.3g} N^0.5, fitted to flops / n_tokens",
                fix="check the flops column, or leave it out to use 6 N D",
            )
        return found

    def __call__(self, N: Array | float) -> Array:
        """FLOPs per token at N."""
        return self.p * np.asarray(N) + self.q * np.sqrt(N)

    def log_slope(self, N: Array | float) -> Array:
        """Growth of the cost with N, d ln f / d ln N."""
        return (self.p * np.asarray(N) + self.q * np.sqrt(N) / 2) / self(N)

    def __str__(self) -> str:
        if not self.miss and not self.q and self.p == 6:
            return "6 N"
        sign = "-" if self.q < 0 else "+"
        return f"{self.p:.4g} N {sign} {abs(self.q):.4g} N^0.5 (worst error {self.miss:.1%})"
