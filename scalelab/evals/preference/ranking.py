"""Ranking of models from pairwise matches by Bradley-Terry.

    P(i beats j) = 1 / (1 + 10^((R_j - R_i) / 400))       a tie is half a win for each

R   rating, 400 / ln 10 = 173.7 points per logit; 1000 is the mean of the models compared

Bradley-Terry fits all matches at once; their order does not matter. The estimate is finite if and only
if, in every group of models, each can be reached from each along "took a point from": a model that won
(or lost) everything has no finite rating, and groups that never met have no common zero. In the first
case a prior is added and named in the result; in the second, models are ranked within their group.

Source: Bradley & Terry 1952, Biometrika 39; existence, Ford 1957, Am. Math. Monthly 64(8);
logistic fit and bootstrap for language models, Chiang et al. 2024, arXiv:2403.04132.

Not here: matches (matches.py), order-dependent ratings (elo.py), one model against one
baseline and the length of answers (pairwise.py).
"""

from dataclasses import dataclass

import numpy as np

from scalelab.evals.bootstrap import check_replicates, interval
from scalelab.evals.preference.logistic import CONVERGED, line_search
from scalelab.evals.preference.matches import (
    MEAN_RATING,
    POINTS_PER_LOGIT,
    Array,
    Matches,
    RatingScale,
    reached,
)

PRIOR_TIES = 0.5
"""Tied matches that the prior adds to a group, spread evenly over its compared pairs."""

NEWTON_STEPS = 200
CHUNK = 2_000_000  # numbers in one array while replicates are fitted: 16 MB


@dataclass(frozen=True, eq=False)
class Ranking(RatingScale):
    """Bradley-Terry ratings (fitted) with bootstrap intervals."""

    interval: Array
    """Low and high end, (models, 2); NaN if the rating depends on the prior or no interval was requested."""
    level: float
    tie_share: float
    """Share of matches with outcome .5."""
    rests_on_prior: tuple[str, ...]
    """Models whose distance to the others is infinite or undetermined without the prior."""
    prior: str | None
    """Description of the prior that was added; None if the estimate is finite without one."""
    replicates: int
    replicates_with_prior: int
    """Replicates in which a rating with an interval was finite only because of the prior."""
    draws: Array
    """Ratings of every replicate, shape (replicates, models)."""

    @property
    def is_finite(self) -> bool:
        """Whether the matches alone give every model a finite rating."""
        return self.prior is None

    def difference(self, one: str, other: str) -> tuple[float, list[float] | None]:
        """Return R_one - R_other in Elo points and its interval; None if it depends on the prior.

        Two intervals that overlap may still differ: ratings share the matches they come from.

        Raises:
            DataError: A name is unknown, or no chain of matches connects the two.
        """
        i, j = self._pair(one, other)
        value = float(self.rating[i] - self.rating[j])
        if not self.replicates or {one, other} & set(self.rests_on_prior):
            return value, None
        return value, interval(self.draws[:, i] - self.draws[:, j], self.level).tolist()

    def summary(self) -> str:
        """Return a table of ratings, and notes on the prior."""
        head = f"{100 * self.level:g}% interval"
        cells = ["-" if np.isnan(low) else f"{low:.1f} .. {high:.1f}" for low, high in self.interval]
        head = head.ljust(max(map(len, [head, *cells])))
        lines = [
            f"Bradley-Terry, {self.n_matches} matches ({self.tie_share:.1%} ties, each half a "
            f"win), {self.replicates} bootstrap replicates over matches"
        ]
        lines += self._table(head, cells)
        if self.prior is not None:
            lines += [
                f"Not finite without a prior. Added: {self.prior}.",
                f"Depend on the prior, so no interval: {', '.join(self.rests_on_prior)}.",
            ]
        if self.replicates_with_prior:
            lines.append(
                f"{self.replicates_with_prior} of {self.replicates} replicates were not finite "
                f"and used a prior ({_prior_text()}): the outer ends of intervals depend on it."
            )
        return "\n".join(lines)


def bradley_terry(matches: Matches, *, level: float = 0.95, replicates: int = 1000, seed: int = 0) -> Ranking:
    """Return maximum-likelihood ratings with percentile-bootstrap intervals.

    Matches are resampled as if independent. Matches that share a prompt or a judge are correlated, which
    makes the intervals too narrow.

    Args:
        matches: Matches; ties count as half a win for each side.
        level: Level of the intervals, between 0 and 1.
        replicates: Bootstrap replicates; 0 for no intervals.
        seed: Seed of the bootstrap.

    Returns:
        Ratings; each group of models has mean 1000. If a group is not finite without the prior, the mean
        is over its largest finite subset, so that a model that won everything does not shift the others.

    Raises:
        ConfigError: `level` is not a share, or replicates are too few for it.
    """
    check_replicates(level, replicates)
    rows = np.where(
        (matches.first < matches.second)[:, None],
        np.stack([matches.first, matches.second, matches.outcome], axis=1),
        np.stack([matches.second, matches.first, 1 - matches.outcome], axis=1),
    )
    # Matches of one pair with one outcome are interchangeable: a replicate is one multinomial
    # draw over these cells, not n draws.
    cells, count = np.unique(rows, axis=0, return_counts=True)
    pair, start = np.unique(cells[:, :2].astype(int), axis=0, return_index=True)
    together = matches.component[:, None] == matches.component[None, :]
    k = len(matches.names)

    def wins(counts: Array) -> Array:
        """Return the points of i against j under counts (r, cells); shape (r, models, models)."""
        table = np.zeros((len(counts), k, k))
        table[:, pair[:, 0], pair[:, 1]] = np.add.reduceat(counts * cells[:, 2], start, axis=1)
        lost = np.add.reduceat(counts * (1 - cells[:, 2]), start, axis=1)
        table[:, pair[:, 1], pair[:, 0]] = lost
        return table

    observed = wins(count[None].astype(float))
    prior = _prior(observed[0], together)
    core = _core(observed[0], matches)
    weight = (core & together) / np.sum(core & together, axis=1, keepdims=True)

    unsure = _rests_on_prior(observed[0], core, together)
    sure = together & ~unsure & ~unsure[:, None]

    def fit(counts: Array) -> tuple[Array, Array]:
        """Return ratings (r, models), and the replicates in which one with an interval used the prior."""
        table = wins(counts)
        torn = ~reached(table > 0) & together
        infinite = torn.any(axis=2) @ together  # Ford's condition fails for the model's group
        logits = _newton(table + infinite[:, :, None] * prior, together)
        rating = MEAN_RATING + POINTS_PER_LOGIT * (logits - logits @ weight.T)
        return rating, np.any(torn & sure, axis=(1, 2))

    (rating,), _ = fit(count[None].astype(float))
    rng = np.random.default_rng(seed)
    draws, n_with_prior = np.empty((replicates, k)), 0
    chunk = max(1, CHUNK // max(k * k, len(cells)))
    for begin in range(0, replicates, chunk):
        size = min(chunk, replicates - begin)
        drawn = rng.multinomial(len(matches), count / len(matches), size=size).astype(float)
        draws[begin : begin + size], took = fit(drawn)
        n_with_prior += int(np.sum(took))
    ends = np.full((k, 2), np.nan)
    if replicates:
        ends[~unsure] = interval(draws[:, ~unsure], level)
    return Ranking(
        names=matches.names,
        rating=rating,
        component=matches.component,
        n_matches=len(matches),
        n_by_model=matches.n_by_model,
        interval=ends,
        level=level,
        tie_share=float(np.mean(matches.outcome == 0.5)),
        rests_on_prior=tuple(np.array(matches.names)[unsure].tolist()),
        prior=_prior_text() if unsure.any() else None,
        replicates=replicates,
        replicates_with_prior=n_with_prior,
        draws=draws,
    )


def _core(wins: Array, matches: Matches) -> Array:
    """Return a mask of the models whose mean is 1000: in each group the largest finite subset.

    Of two such subsets of one size, the one with more matches. A group without a finite subset
    of two (two models, one won all) is its own core: the prior alone places it.
    """
    reach = reached(wins > 0)
    mutual = reach & reach.T
    core = np.zeros(len(wins), bool)
    for group in np.unique(matches.component):
        inside = matches.component == group
        size = [(row.sum(), row @ matches.n_by_model) for row in mutual[inside]]
        subset = mutual[inside][size.index(max(size))]
        core |= subset if subset.sum() > 1 else inside
    return core


def _rests_on_prior(wins: Array, core: Array, together: Array) -> Array:
    """Return a mask of the models without a finite distance from the core in the matches alone."""
    reach = reached(wins > 0)
    mutual = reach & reach.T
    bound = np.array([np.all(mutual[i][core & together[i]]) for i in range(len(core))])
    return ~bound


def _prior(wins: Array, together: Array) -> Array:
    """Return the points that the prior gives i against j: ties over the compared pairs of each group."""
    met = wins + wins.T > 0
    pairs = np.array([np.sum(met & row[:, None] & row[None, :]) / 2 for row in together])
    return met * (PRIOR_TIES / 2) / pairs[:, None]


def _prior_text() -> str:
    return f"{PRIOR_TIES:g} of a tied match, spread over the compared pairs of the group"


def _newton(wins: Array, together: Array) -> Array:
    """Return the maximum-likelihood logits of wins (r, k, k); shape (r, k), mean 0 in every group.

    Wins must satisfy Ford's condition in every group. The objective is concave and steps with too little
    gain are halved, so it converges from any start.
    """
    games = wins + np.swapaxes(wins, 1, 2)
    # The likelihood does not determine the zero of a group; this fixes it without adding a penalty.
    anchor = together / together.sum(axis=1)
    diagonal = np.arange(wins.shape[1])

    def evaluate(theta: Array) -> tuple[Array, Array]:
        """Return the log-likelihood (r,) and P(i beats j) (r, k, k), accurate near 0 too."""
        gap = theta[:, :, None] - theta[:, None, :]
        softplus = np.logaddexp(0, -gap)
        return -np.sum(wins * softplus, axis=(1, 2)), np.exp(-softplus)

    theta = np.zeros(wins.shape[:2])
    height, p = evaluate(theta)
    for _ in range(NEWTON_STEPS):
        lost = np.swapaxes(p, 1, 2)
        information = games * p * lost
        hessian = anchor - information
        hessian[:, diagonal, diagonal] += information.sum(axis=2)
        gradient = np.sum(wins * lost - np.swapaxes(wins, 1, 2) * p, axis=2)
        step = np.linalg.solve(hessian, gradient[..., None])[..., 0]
        expected_gain = np.sum(gradient * step, axis=1)
        theta, height, p = line_search(evaluate, theta, height, step, expected_gain)
        if np.all(np.abs(expected_gain) < CONVERGED):
            return theta
    raise AssertionError(f"Newton took {NEWTON_STEPS} steps on a likelihood with a maximum")
