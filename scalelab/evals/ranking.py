"""Many models ranked from battles of two, by Bradley-Terry.

    P(i beats j) = 1 / (1 + 10^((R_j - R_i) / 400))       a tie is half a win for each

R   rating, 400 / ln 10 = 173.7 points per logit; 1000 is the mean of the models compared

Bradley-Terry fits all battles at once, in no order. Its estimate is finite if and only if, in
every group of models, each can be reached from each along "took a point from": a model that
won (or lost) everything has no finite rating, and ratings of groups that never met have no
common zero. The first is answered by a prior that the result names, the second by ranks that
stay inside the group.

Source: Bradley & Terry 1952, Biometrika 39; existence, Ford 1957, Am. Math. Monthly 64(8);
logistic fit and bootstrap for language models, Chiang et al. 2024, arXiv:2403.04132.

Not here: battles (battles.py), ratings that depend on their order (elo.py), one model against one
baseline and the length of answers (pairwise.py).
"""

from dataclasses import dataclass

import numpy as np

from scalelab.evals.battles import MEAN_RATING, POINTS_PER_LOGIT, Array, Battles, Scale, reached
from scalelab.evals.bootstrap import check_replicates, interval
from scalelab.evals.logistic import CONVERGED, climbed

PRIOR_TIES = 0.5
"""Tied battles that the prior adds to a group of models, spread evenly over its compared pairs."""

NEWTON_STEPS = 200
CHUNK = 2_000_000  # numbers in one array while replicates are fitted: 16 MB


@dataclass(frozen=True, eq=False)
class Ranking(Scale):
    """Bradley-Terry ratings (fitted) with bootstrap intervals, and what they rest on."""

    interval: Array
    """Low and high end, (models, 2); NaN where the rating rests on the prior, or none was asked."""
    level: float
    tie_share: float
    """Share of battles with outcome .5."""
    rests_on_prior: tuple[str, ...]
    """Models whose distance to the others is infinite (or anything) without the prior."""
    prior: str | None
    """The prior that was added; None where the estimate is finite without."""
    replicates: int
    replicates_with_prior: int
    """Replicates in which a rating that has an interval was finite thanks to the prior only."""
    draws: Array
    """Ratings of every replicate, shape (replicates, models)."""

    @property
    def is_finite(self) -> bool:
        """Whether the battles alone give every model a finite rating."""
        return self.prior is None

    def difference(self, one: str, other: str) -> tuple[float, list[float] | None]:
        """R_one - R_other in Elo points, and its interval; None where it rests on the prior.

        Two intervals that overlap may still differ: ratings share the battles they come from.

        Raises:
            DataError: A name is unknown, or no chain of battles joins the two.
        """
        i, j = self._pair(one, other)
        value = float(self.rating[i] - self.rating[j])
        if not self.replicates or {one, other} & set(self.rests_on_prior):
            return value, None
        return value, interval(self.draws[:, i] - self.draws[:, j], self.level).tolist()

    def summary(self) -> str:
        """A table of ratings, and below it what they rest on."""
        head = f"{100 * self.level:g}% interval"
        cells = [
            "-" if np.isnan(low) else f"{low:.1f} .. {high:.1f}" for low, high in self.interval
        ]
        head = head.ljust(max(map(len, [head, *cells])))
        lines = [
            f"Bradley-Terry, {self.n_battles} battles ({self.tie_share:.1%} ties, each half a "
            f"win), {self.replicates} bootstrap replicates over battles"
        ]
        lines += self._table(head, cells)
        if self.prior is not None:
            lines += [
                f"Not finite without a prior. Added: {self.prior}.",
                f"Rest on the prior, so no interval: {', '.join(self.rests_on_prior)}.",
            ]
        if self.replicates_with_prior:
            lines.append(
                f"{self.replicates_with_prior} of {self.replicates} replicates were not finite "
                f"and took a prior ({_prior_text()}): far ends of intervals depend on it."
            )
        return "\n".join(lines)


def bradley_terry(
    battles: Battles, *, level: float = 0.95, replicates: int = 1000, seed: int = 0
) -> Ranking:
    """Ratings that make the battles most likely, with percentile-bootstrap intervals.

    Battles are drawn again one by one, as if independent. Battles that share a prompt or a
    judge are not quite: then intervals are too narrow.

    Args:
        battles: Ties count as half a win for each side.
        level: Of the intervals, between 0 and 1.
        replicates: 0 for no intervals.
        seed: Of the bootstrap.

    Returns:
        Each group of models has mean 1000. Where a group is not finite without the prior, the
        mean is over its largest subset that is, so that a model that won everything does not
        shift the others.

    Raises:
        ConfigError: `level` is no share, or replicates are too few for it.
    """
    check_replicates(level, replicates)
    rows = np.where(
        (battles.first < battles.second)[:, None],
        np.stack([battles.first, battles.second, battles.outcome], axis=1),
        np.stack([battles.second, battles.first, 1 - battles.outcome], axis=1),
    )
    # Battles of one pair with one outcome are interchangeable: a replicate is one multinomial
    # draw over these cells, not n draws.
    cells, count = np.unique(rows, axis=0, return_counts=True)
    pair, start = np.unique(cells[:, :2].astype(int), axis=0, return_index=True)
    together = battles.component[:, None] == battles.component[None, :]
    k = len(battles.names)

    def wins(counts: Array) -> Array:
        """Points that i took from j under counts (r, cells); shape (r, models, models)."""
        table = np.zeros((len(counts), k, k))
        table[:, pair[:, 0], pair[:, 1]] = np.add.reduceat(counts * cells[:, 2], start, axis=1)
        lost = np.add.reduceat(counts * (1 - cells[:, 2]), start, axis=1)
        table[:, pair[:, 1], pair[:, 0]] = lost
        return table

    observed = wins(count[None].astype(float))
    prior = _prior(observed[0], together)
    core = _core(observed[0], battles)
    weight = (core & together) / np.sum(core & together, axis=1, keepdims=True)

    unsure = _rests_on_prior(observed[0], core, together)
    sure = together & ~unsure & ~unsure[:, None]

    def fit(counts: Array) -> tuple[Array, Array]:
        """Ratings (r, models), and in which replicates one with an interval took the prior."""
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
        drawn = rng.multinomial(len(battles), count / len(battles), size=size).astype(float)
        draws[begin : begin + size], took = fit(drawn)
        n_with_prior += int(np.sum(took))
    ends = np.full((k, 2), np.nan)
    if replicates:
        ends[~unsure] = interval(draws[:, ~unsure], level)
    return Ranking(
        names=battles.names,
        rating=rating,
        component=battles.component,
        n_battles=len(battles),
        n_by_model=battles.n_by_model,
        interval=ends,
        level=level,
        tie_share=float(np.mean(battles.outcome == 0.5)),
        rests_on_prior=tuple(np.array(battles.names)[unsure].tolist()),
        prior=_prior_text() if unsure.any() else None,
        replicates=replicates,
        replicates_with_prior=n_with_prior,
        draws=draws,
    )


def _core(wins: Array, battles: Battles) -> Array:
    """Mask of the models whose mean is 1000: in each group the largest finite subset.

    Of two such subsets of one size, the one with more battles. A group without a finite subset
    of two (two models, one won all) is its own core: the prior alone places it.
    """
    reach = reached(wins > 0)
    mutual = reach & reach.T
    core = np.zeros(len(wins), bool)
    for group in np.unique(battles.component):
        inside = battles.component == group
        size = [(row.sum(), row @ battles.n_by_model) for row in mutual[inside]]
        subset = mutual[inside][size.index(max(size))]
        core |= subset if subset.sum() > 1 else inside
    return core


def _rests_on_prior(wins: Array, core: Array, together: Array) -> Array:
    """Mask of the models that the battles alone do not place at a finite distance from the core."""
    reach = reached(wins > 0)
    mutual = reach & reach.T
    bound = np.array([np.all(mutual[i][core & together[i]]) for i in range(len(core))])
    return ~bound


def _prior(wins: Array, together: Array) -> Array:
    """Points that the prior gives i against j: ties over the compared pairs of each group."""
    met = wins + wins.T > 0
    pairs = np.array([np.sum(met & row[:, None] & row[None, :]) / 2 for row in together])
    return met * (PRIOR_TIES / 2) / pairs[:, None]


def _prior_text() -> str:
    return f"{PRIOR_TIES:g} of a tied battle, spread over the compared pairs of the group"


def _newton(wins: Array, together: Array) -> Array:
    """Logits that make wins (r, k, k) most likely; shape (r, k), mean 0 in every group.

    Wins must satisfy Ford's condition in every group. Concave, and a step that climbs too
    little is halved, so it arrives from anywhere.
    """
    games = wins + np.swapaxes(wins, 1, 2)
    # The likelihood does not know the zero of a group; this pins it there without a pull.
    anchor = together / together.sum(axis=1)
    diagonal = np.arange(wins.shape[1])

    def climb(theta: Array) -> tuple[Array, Array]:
        """Log-likelihood (r,), and the chance that i beats j (r, k, k), exact near 0 too."""
        gap = theta[:, :, None] - theta[:, None, :]
        softplus = np.logaddexp(0, -gap)
        return -np.sum(wins * softplus, axis=(1, 2)), np.exp(-softplus)

    theta = np.zeros(wins.shape[:2])
    height, p = climb(theta)
    for _ in range(NEWTON_STEPS):
        lost = np.swapaxes(p, 1, 2)
        information = games * p * lost
        hessian = anchor - information
        hessian[:, diagonal, diagonal] += information.sum(axis=2)
        slope = np.sum(wins * lost - np.swapaxes(wins, 1, 2) * p, axis=2)
        step = np.linalg.solve(hessian, slope[..., None])[..., 0]
        promised = np.sum(slope * step, axis=1)
        theta, height, p = climbed(climb, theta, height, step, promised)
        if np.all(np.abs(promised) < CONVERGED):
            return theta
    raise AssertionError(f"Newton took {NEWTON_STEPS} steps on a likelihood with a maximum")
