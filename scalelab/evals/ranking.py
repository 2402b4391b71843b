"""Many models ranked from battles of two: Bradley-Terry, and Elo as played.

    P(i beats j) = 1 / (1 + 10^((R_j - R_i) / 400))       a tie is half a win for each

R   rating, 400 / ln 10 = 173.7 points per logit; 1000 is the mean of the models compared

Bradley-Terry fits all battles at once, in no order. Its estimate is finite if and only if, in
every group of models, each can be reached from each along "took a point from": a model that
won (or lost) everything has no finite rating, and ratings of groups that never met have no
common zero. The first is answered by a prior that the result names, the second by ranks that
stay inside the group.

Source: Bradley & Terry 1952, Biometrika 39; existence, Ford 1957, Am. Math. Monthly 64(8);
logistic fit and bootstrap for language models, Chiang et al. 2024, arXiv:2403.04132; Elo's
dependence on order, Boubdir et al. 2023, arXiv:2311.17295.

Not here: one model against one baseline, and answer length (pairwise.py).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

import numpy as np

from scalelab.errors import ConfigError, DataError

Array = np.ndarray

POINTS_PER_LOGIT = 400 / np.log(10)
MEAN_RATING = 1000.0
PRIOR_TIES = 0.5
"""Tied battles that the prior adds to a group of models, spread evenly over its compared pairs."""

NEWTON_STEPS = 200
ENOUGH = 0.2  # of the climb that the slope promises, or the step is halved
CONVERGED = 1e-12  # Newton's decrement: the last step was a millionth of a standard error
CHUNK = 2_000_000  # numbers in one array while replicates are fitted: 16 MB


@dataclass(frozen=True, eq=False)
class Battles:
    """Battles of two models, one per row of three arrays of shape (n,)."""

    names: tuple[str, ...]
    """Models, each once; `first` and `second` count into them."""
    first: Array
    second: Array
    outcome: Array
    """What `first` took: 1 a win, 0 a loss, .5 a tie; a judge's probability is as good."""

    def __post_init__(self) -> None:
        if len(self.names) < 2:
            _refuse(f"{len(self.names)} model(s); a ranking needs two", "add a second model")
        if len(set(self.names)) < len(self.names):
            twice = next(name for name in self.names if self.names.count(name) > 1)
            _refuse(f"model {twice!r} stands twice among the names", "give every model one name")
        shapes = {np.shape(each) for each in (self.first, self.second, self.outcome)}
        if len(shapes) > 1 or len(next(iter(shapes))) != 1:
            _refuse(f"arrays of shapes {sorted(shapes)}", "give three arrays of one length")
        if not len(self):
            _refuse("no battle: nothing to compare", "judge some pairs of answers first")
        wrong = ~((self.outcome >= 0) & (self.outcome <= 1))  # NaN is wrong too
        if wrong.any():
            row = int(np.argmax(wrong))
            _refuse(
                f"{wrong.sum()} outcome(s) not between 0 and 1; row {row} has {self.outcome[row]}",
                "1: the first won, 0: the second won, .5: a tie; leave out what was not judged",
            )
        sides = np.stack([self.first, self.second])
        if sides.dtype.kind not in "iu" or sides.min() < 0 or sides.max() >= len(self.names):
            _refuse(
                f"`first` and `second` run from {sides.min()} to {sides.max()}, of {sides.dtype}",
                f"count into the {len(self.names)} names, from 0",
            )
        itself = np.flatnonzero(self.first == self.second)
        if itself.size:
            name = self.names[self.first[itself[0]]]
            _refuse(
                f"model {name!r} fights itself in {itself.size} battle(s)",
                f"leave out row {itself[0]} and its like, or give the two versions two names",
            )
        idle = np.setdiff1d(np.arange(len(self.names)), sides)
        if idle.size:
            _refuse(f"model {self.names[idle[0]]!r} fought no battle", "drop its name, or judge it")

    @classmethod
    def of(cls, rows: Iterable[tuple[str, str, float]]) -> Self:
        """Battles from rows (first model, second model, outcome); names as they first appear."""
        table = list(rows)
        index: dict[str, int] = {}
        for row in table:
            for name in row[:2]:
                index.setdefault(name, len(index))
        first, second = (np.array([index[row[i]] for row in table], dtype=int) for i in (0, 1))
        return cls(tuple(index), first, second, np.array([row[2] for row in table], dtype=float))

    def __len__(self) -> int:
        return len(self.outcome)

    @property
    def n_by_model(self) -> Array:
        """Battles that each model fought, shape (models,)."""
        return np.bincount(np.concatenate([self.first, self.second]), minlength=len(self.names))

    @property
    def component(self) -> Array:
        """The group of models that each belongs to, 0, 1, ...; groups never met; (models,)."""
        met = np.zeros((len(self.names),) * 2, bool)
        met[self.first, self.second] = met[self.second, self.first] = True
        # A model's group is named by its first member, then groups are counted.
        return np.unique(np.argmax(_reached(met), axis=1), return_inverse=True)[1]


def _refuse(problem: str, fix: str) -> None:
    raise DataError(problem, where="the battles to rank", fix=fix)


@dataclass(frozen=True, eq=False)
class _Scale:
    """Ratings with one zero per group: what Bradley-Terry and Elo have in common."""

    names: tuple[str, ...]
    rating: Array
    """Elo points, shape (models,)."""
    component: Array
    """Group of each model. Across groups nothing is known: they never met."""
    n_battles: int
    n_by_model: Array

    @property
    def rank(self) -> Array:
        """1 is the best of its group; equal ratings share a rank. Shape (models,)."""
        # A millionth of a point is below what any number of battles can tell.
        above = self.rating[None, :] > self.rating[:, None] + 1e-6
        return 1 + np.sum(above & (self.component[None, :] == self.component[:, None]), axis=1)

    def win_probability(self, one: str, other: str) -> float:
        """Predicted share of battles that `one` takes from `other`, ties counted half.

        Raises:
            DataError: A name is unknown, or no chain of battles joins the two.
        """
        i, j = self._pair(one, other)
        return float(_sigmoid((self.rating[i] - self.rating[j]) / POINTS_PER_LOGIT))

    def _pair(self, one: str, other: str) -> tuple[int, int]:
        for name in (one, other):
            if name not in self.names:
                raise DataError(
                    f"no model {name!r} in this ranking",
                    where="the models to compare",
                    fix=f"one of {', '.join(self.names)}",
                )
        i, j = self.names.index(one), self.names.index(other)
        if self.component[i] != self.component[j]:
            raise DataError(
                f"{one!r} and {other!r} are not comparable: no chain of battles joins them",
                where=f"groups {self._members(self.component[i])} and "
                f"{self._members(self.component[j])}",
                fix="judge at least one pair across the two groups",
            )
        return i, j

    def _members(self, component: int) -> str:
        return "{" + ", ".join(np.array(self.names)[self.component == component]) + "}"

    def _table(self, head: str, cells: list[str]) -> list[str]:
        """One line per model, best first, group by group; `cells` follow the rating."""
        wide = max(5, *map(len, self.names))
        lines = []
        groups = np.unique(self.component)
        for group in groups:
            if len(groups) > 1:
                lines.append(f"group {group + 1} of {len(groups)}, ranked on its own:")
            lines.append(f"rank  {'model':<{wide}}  rating  {head}  battles")
            members = np.flatnonzero(self.component == group)
            lines += [
                f"{self.rank[i]:>4}  {self.names[i]:<{wide}}  {self.rating[i]:>6.1f}  "
                f"{cells[i]:<{len(head)}}  {self.n_by_model[i]:>7}"
                for i in members[np.argsort(self.rank[members], kind="stable")]
            ]
        if len(groups) > 1:
            lines.append("No battle joins the groups: ratings of two groups are not comparable.")
        return lines


@dataclass(frozen=True, eq=False)
class Ranking(_Scale):
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


@dataclass(frozen=True, eq=False)
class EloRanking(_Scale):
    """Online Elo (measured, not fitted): mean rating over shuffled orders, and its spread."""

    spread: Array
    """Standard deviation over orders, Elo points, (models,): what order alone does."""
    as_given: Array
    """Ratings after the battles in the order they came in, (models,)."""
    k: float
    orders: int

    def summary(self) -> str:
        """A table of mean ratings with their spread over orders."""
        head = "sd over orders  as given"
        cells = [f"{s:>14.1f}  {g:>8.1f}" for s, g in zip(self.spread, self.as_given, strict=True)]
        top = f"Online Elo, k = {self.k:g}, {self.n_battles} battles, mean of {self.orders} orders"
        return "\n".join([top, *self._table(head, cells)])


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
        torn = ~_reached(table > 0) & together
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


def elo(battles: Battles, *, k: float = 4.0, orders: int = 100, seed: int = 0) -> EloRanking:
    """Ratings updated battle by battle, R_i += k (outcome - P(i beats j)), from 1000 each.

    What comes out depends on the order of the battles, so it is averaged over shuffled orders
    and the spread over them is part of the answer. With few battles and a small k, ratings have
    not yet travelled from 1000 to where Bradley-Terry puts them.

    Args:
        battles: Ties count as half a win for each side.
        k: Elo points at stake in one battle; 4 is Chatbot Arena's choice, chess takes 10 to 40.
        orders: Shuffled orders to average over.
        seed: Of the shuffles.

    Raises:
        ConfigError: k is not positive, or fewer than two orders.
    """
    if not (k > 0 and np.isfinite(k)) or orders < 2:
        raise ConfigError(
            f"k = {k}, orders = {orders}",
            where="the settings of online Elo",
            fix="k positive and finite, at least two orders: one has no spread",
        )
    rng = np.random.default_rng(seed)
    n, lanes = len(battles), np.arange(1 + orders)
    turns = np.tile(np.arange(n, dtype=np.int32), (len(lanes), 1))
    turns[1:] = rng.permuted(turns[1:], axis=1)  # lane 0 stays as given
    rating = np.full((len(battles.names), len(lanes)), MEAN_RATING)
    for turn in np.ascontiguousarray(turns.T):
        i, j = battles.first[turn], battles.second[turn]
        expected = _sigmoid((rating[i, lanes] - rating[j, lanes]) / POINTS_PER_LOGIT)
        moved = k * (battles.outcome[turn] - expected)
        rating[i, lanes] += moved
        rating[j, lanes] -= moved
    return EloRanking(
        names=battles.names,
        rating=rating[:, 1:].mean(axis=1),
        component=battles.component,
        n_battles=n,
        n_by_model=battles.n_by_model,
        spread=rating[:, 1:].std(axis=1, ddof=1),
        as_given=rating[:, 0],
        k=k,
        orders=orders,
    )


def check_replicates(level: float, replicates: int) -> None:
    """Nothing, if the level is a share and ten replicates lie beyond each end of an interval.

    Raises:
        ConfigError: Otherwise: an end would be one replicate's whim. No replicates are fine.
    """
    where = "the settings of a bootstrap"
    if not 0 < level < 1:
        raise ConfigError(f"level {level} is not a share", where=where, fix="say .95 for 95%")
    if replicates and replicates * (1 - level) / 2 < 10 - 1e-9:  # 1 - .9 is a little under .1
        raise ConfigError(
            f"{replicates} replicates leave {replicates * (1 - level) / 2:.1f} beyond each end",
            where=where,
            fix=f"at least {int(np.ceil(20 / (1 - level) - 1e-6))} replicates at level {level}, "
            "or 0 for no interval",
        )


def interval(draws: Array, level: float) -> Array:
    """The middle `level` of draws (r, ...) over replicates; low and high end, shape (..., 2).

    Source: the percentile method, Efron & Tibshirani 1993, chapter 13.
    """
    ends = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return np.moveaxis(ends, 0, -1)


def _sigmoid(x: Array) -> Array:
    return (1 + np.tanh(x / 2)) / 2  # overflows nowhere


def _reached(edge: Array) -> Array:
    """What can be reached from what along edges (..., k, k), itself included."""
    k = edge.shape[-1]
    reach = (edge | np.eye(k, dtype=bool)).astype(np.float32)
    for _ in range(int(np.ceil(np.log2(k)))):  # each squaring doubles the length of the paths
        reach = (reach @ reach > 0).astype(np.float32)
    return reach > 0


def _core(wins: Array, battles: Battles) -> Array:
    """Mask of the models whose mean is 1000: in each group the largest finite subset.

    Of two such subsets of one size, the one with more battles. A group without a finite subset
    of two (two models, one won all) is its own core: the prior alone places it.
    """
    reach = _reached(wins > 0)
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
    reach = _reached(wins > 0)
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
        for _ in range(40):
            reached, p = climb(theta + step)
            # Armijo's rule: merely to climb is not enough, far out all is flat.
            short = reached < height + ENOUGH * promised - 1e-9 * np.abs(height)
            if not short.any():
                break
            step[short], promised[short] = step[short] / 2, promised[short] / 2
        theta, height = theta + step, reached
        if np.all(np.abs(promised) < CONVERGED):
            return theta
    raise AssertionError(f"Newton took {NEWTON_STEPS} steps on a likelihood with a maximum")
