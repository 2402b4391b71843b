"""Online Elo: ratings updated match by match.

    R_i += k (outcome - P(i beats j))        outcome 1, .5 or 0; P as in ranking.py

R   rating, Elo points, 1000 at the start
k   points at stake in one match

Source: Elo's rule as Chatbot Arena ran it, Chiang et al. 2024, arXiv:2403.04132; its dependence on
order, Boubdir et al. 2023, arXiv:2311.17295.
"""

from dataclasses import dataclass

import numpy as np

from scalelab.errors import ConfigError
from scalelab.evals.preference.logistic import sigmoid
from scalelab.evals.preference.matches import MEAN_RATING, POINTS_PER_LOGIT, Array, Matches, RatingScale


@dataclass(frozen=True, eq=False)
class EloRanking(RatingScale):
    """Online Elo (measured, not fitted): mean rating over shuffled orders and its spread."""

    spread: Array
    """Standard deviation over orders, Elo points, (models,): the effect of order alone."""
    as_given: Array
    """Ratings after the matches in the given order, (models,)."""
    k: float
    orders: int

    def summary(self) -> str:
        """Return a table of mean ratings with their spread over orders."""
        head = "sd over orders  as given"
        cells = [f"{s:>14.1f}  {g:>8.1f}" for s, g in zip(self.spread, self.as_given, strict=True)]
        top = f"Online Elo, k = {self.k:g}, {self.n_matches} matches, mean of {self.orders} orders"
        return "\n".join([top, *self._table(head, cells)])


def elo(matches: Matches, *, k: float = 4.0, orders: int = 100, seed: int = 0) -> EloRanking:
    """Return ratings updated match by match, R_i += k (outcome - P(i beats j)), from 1000 each.

    The result depends on the order of the matches, so it is averaged over shuffled orders and reported
    with the spread over them. With few matches and a small k, ratings are still closer to 1000 than those
    of Bradley-Terry.

    Args:
        matches: Matches; ties count as half a win for each side.
        k: Elo points at stake in one match; 4 is Chatbot Arena's choice, chess takes 10 to 40.
        orders: Shuffled orders to average over.
        seed: Seed of the shuffles.

    Raises:
        ConfigError: k is not positive, or fewer than two orders.
    """
    if not (k > 0 and np.isfinite(k)) or orders < 2:
        raise ConfigError(
            f"k = {k}, orders = {orders}",
            where="the settings of online Elo",
            fix="k positive and finite, at least two orders: one order has no spread",
        )
    rng = np.random.default_rng(seed)
    n, lanes = len(matches), np.arange(1 + orders)
    turns = np.tile(np.arange(n, dtype=np.int32), (len(lanes), 1))
    turns[1:] = rng.permuted(turns[1:], axis=1)  # lane 0 stays as given
    rating = np.full((len(matches.names), len(lanes)), MEAN_RATING)
    for turn in np.ascontiguousarray(turns.T):
        i, j = matches.first[turn], matches.second[turn]
        expected = sigmoid((rating[i, lanes] - rating[j, lanes]) / POINTS_PER_LOGIT)
        moved = k * (matches.outcome[turn] - expected)
        rating[i, lanes] += moved
        rating[j, lanes] -= moved
    return EloRanking(
        names=matches.names,
        rating=rating[:, 1:].mean(axis=1),
        component=matches.component,
        n_matches=n,
        n_by_model=matches.n_by_model,
        spread=rating[:, 1:].std(axis=1, ddof=1),
        as_given=rating[:, 0],
        k=k,
        orders=orders,
    )
