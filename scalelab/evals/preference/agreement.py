"""Agreement of raters on labels beyond chance; raters are judges or people.

    kappa = (P_o - P_e) / (1 - P_e)        Cohen, Fleiss; P_o agreement seen, P_e by chance
    alpha = 1 - D_o / D_e                  Krippendorff, nominal; D disagreement

All are 1 for perfect agreement and about 0 for chance. They differ in the model of chance: Cohen gives
each of two raters a distribution of labels, Fleiss and Krippendorff pool all raters into one.
Krippendorff corrects for small samples and allows missing ratings.

Source: Cohen 1960, Educ. Psychol. Meas. 20; Fleiss 1971, Psychol. Bull. 76; Krippendorff 2011,
"Computing Krippendorff's Alpha-Reliability", whose examples are the tests. Intervals
resample items and compute the measure again; Krippendorff's own interval resamples pairs of ratings.

Not here: ordered labels (all disagreements count the same), position bias (pairwise.py).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from scalelab.errors import DataError
from scalelab.evals.bootstrap import check_replicates, interval

Array = np.ndarray

TOO_MANY_UNDEFINED = 0.2  # share of replicates without a value beyond which no interval is given
CHUNK = 2_000_000  # numbers in one array of replicates: 16 MB


@dataclass(frozen=True)
class Agreement:
    """One measure of agreement (measured), with its interval over items."""

    measure: str
    value: float
    interval: list[float] | None
    """None if none was requested or the items do not determine it."""
    level: float
    n_items: int
    """Items used: those with at least two ratings."""
    n_items_left_out: int
    """Items with fewer than two ratings, which are ignored."""
    n_raters: int
    labels: tuple[str, ...]
    replicates: int
    replicates_undefined: int
    """Replicates in which all ratings were the same label, so the measure is undefined."""

    def summary(self) -> str:
        """Return the value, its interval and its sample."""
        bounds = f"no {100 * self.level:g}% interval"
        if self.interval is not None:
            bounds = f"{100 * self.level:g}% interval {self.interval[0]:.3f} .. {self.interval[1]:.3f}"
        line = (
            f"{self.measure} {self.value:.3f} ({bounds}): {self.n_raters} raters, {self.n_items} "
            f"items, labels {', '.join(self.labels)}"
        )
        if self.n_items_left_out:
            line += f"\n  {self.n_items_left_out} item(s) with fewer than two ratings left out"
        if self.replicates_undefined:
            line += f"\n  undefined in {self.replicates_undefined} of {self.replicates} replicates"
        return line


def raw_agreement(ratings: Array, *, level: float = 0.95, replicates: int = 1000, seed: int = 0) -> Agreement:
    """Return the share of agreeing pairs of raters, mean over items with at least two ratings.

    Args:
        ratings: Labels, numbers or text, shape (items, raters); NaN or None if missing.
        level: Level of the interval, between 0 and 1.
        replicates: Bootstrap replicates over items; 0 for no interval.
        seed: Seed of the bootstrap.

    Raises:
        DataError: Fewer than two raters, or than two items that two raters rated.
        ConfigError: `level` is not a share, or replicates are too few for it.
    """
    table = _Table.of(ratings)
    return table.measure(
        "raw agreement",
        table.agreeing[:, None],
        lambda sums, n: sums[:, 0] / n,
        level=level,
        replicates=replicates,
        seed=seed,
    )


def cohen_kappa(ratings: Array, *, level: float = 0.95, replicates: int = 1000, seed: int = 0) -> Agreement:
    """Return Cohen's kappa of two raters.

    Args:
        ratings: Labels, numbers or text, shape (items, raters); NaN or None if missing.
        level: Level of the interval, between 0 and 1.
        replicates: Bootstrap replicates over items; 0 for no interval.
        seed: Seed of the bootstrap.

    Raises:
        DataError: Not exactly two raters, a missing rating, or one label throughout.
        ConfigError: `level` is not a share, or replicates are too few for it.
    """
    table = _Table.of(ratings)
    if table.codes.shape[1] != 2:
        _refuse(
            f"{table.codes.shape[1]} raters; Cohen's kappa is of two",
            "use fleiss_kappa or krippendorff_alpha, or pass two columns",
        )
    if table.n_left_out:
        _refuse(
            f"{table.n_left_out} item(s) with a missing rating; Cohen's kappa needs all ratings",
            "use krippendorff_alpha, or leave the items out and report how many",
        )
    k = len(table.labels)
    one, other = table.codes.T

    def kappa(sums: Array, n: int) -> Array:
        joint = sums.reshape(-1, k, k) / n
        chance = np.sum(joint.sum(axis=2) * joint.sum(axis=1), axis=1)
        return _ratio(np.trace(joint, axis1=1, axis2=2) - chance, 1 - chance)

    cell = np.eye(k * k)[one * k + other]
    return table.measure("Cohen's kappa", cell, kappa, level=level, replicates=replicates, seed=seed)


def fleiss_kappa(ratings: Array, *, level: float = 0.95, replicates: int = 1000, seed: int = 0) -> Agreement:
    """Return Fleiss' kappa.

    Every item has the same number of ratings, not necessarily by the same raters.

    Args:
        ratings: Labels, numbers or text, shape (items, raters); NaN or None if missing.
        level: Level of the interval, between 0 and 1.
        replicates: Bootstrap replicates over items; 0 for no interval.
        seed: Seed of the bootstrap.

    Raises:
        DataError: Fewer than two raters or items, unequal counts, or one label throughout.
        ConfigError: `level` is not a share, or replicates are too few for it.
    """
    table = _Table.of(ratings)
    n_ratings = np.sum(table.codes >= 0, axis=1)
    if table.n_left_out or np.ptp(n_ratings):
        low = "fewer than 2" if table.n_left_out else n_ratings.min()
        _refuse(
            f"items with {low} to {n_ratings.max()} ratings; Fleiss' kappa needs the same number for all",
            "use krippendorff_alpha, which takes unequal counts",
        )

    def kappa(sums: Array, n: int) -> Array:
        chance = np.sum((sums[:, 1:] / (n * n_ratings[0])) ** 2, axis=1)
        return _ratio(sums[:, 0] / n - chance, 1 - chance)

    features = np.column_stack([table.agreeing, table.counts])
    return table.measure("Fleiss' kappa", features, kappa, level=level, replicates=replicates, seed=seed)


def krippendorff_alpha(
    ratings: Array, *, level: float = 0.95, replicates: int = 1000, seed: int = 0
) -> Agreement:
    """Return Krippendorff's alpha for nominal labels.

    Args:
        ratings: Labels, numbers or text, shape (items, raters); NaN or None if missing.
        level: Level of the interval, between 0 and 1.
        replicates: Bootstrap replicates over items; 0 for no interval.
        seed: Seed of the bootstrap.

    Raises:
        DataError: Fewer than two raters, or than two items that two raters rated, or one
            label throughout.
        ConfigError: `level` is not a share, or replicates are too few for it.
    """
    table = _Table.of(ratings)

    def alpha(sums: Array, n: int) -> Array:
        totals = sums[:, 1:]
        total = totals.sum(axis=1)
        differing = total**2 - np.sum(totals**2, axis=1)  # ordered pairs of unlike labels
        return 1 - _ratio((total - 1) * sums[:, 0], differing)

    # Each item's disagreeing pairs over its ratings minus one: a rating counts once.
    disagreeing = (1 - table.agreeing) * table.counts.sum(axis=1)
    return table.measure(
        "Krippendorff's alpha (nominal)",
        np.column_stack([disagreeing, table.counts]),
        alpha,
        level=level,
        replicates=replicates,
        seed=seed,
    )


@dataclass(frozen=True, eq=False)
class _Table:
    """Ratings of the items that at least two raters have rated."""

    codes: Array
    """Label of each rating, -1 if missing; (items, raters)."""
    labels: tuple[str, ...]
    n_left_out: int

    @classmethod
    def of(cls, ratings: Array) -> "_Table":
        ratings = np.asarray(ratings)
        if ratings.ndim != 2:
            _refuse(f"ratings of shape {ratings.shape}", "give a table of shape (items, raters)")
        if ratings.shape[1] < 2:
            _refuse(
                f"{ratings.shape[1]} rater(s); agreement needs two",
                "one column per rater; transpose a table of (raters, items)",
            )
        rated = np.array(  # NaN is not equal to itself
            [[label is not None and label == label for label in item] for item in ratings.tolist()],
            dtype=bool,
        ).reshape(ratings.shape)
        kept = np.sum(rated, axis=1) >= 2
        if np.sum(kept) < 2:
            _refuse(
                f"{np.sum(kept)} item(s) of {len(ratings)} with two ratings or more",
                "have at least two items rated by two raters, preferably fifty",
            )
        labels: dict[object, int] = {}
        codes = np.full(ratings.shape, -1)
        for place in np.argwhere(rated & kept[:, None]):
            codes[tuple(place)] = labels.setdefault(ratings[tuple(place)], len(labels))
        return cls(codes[kept], tuple(map(str, labels)), int(np.sum(~kept)))

    @property
    def counts(self) -> Array:
        """Number of raters who gave each label to each item, (items, labels)."""
        return np.stack([np.sum(self.codes == k, axis=1) for k in range(len(self.labels))], axis=1)

    @property
    def agreeing(self) -> Array:
        """Share of agreeing pairs of ratings of each item, (items,)."""
        n = self.counts.sum(axis=1)
        return np.sum(self.counts * (self.counts - 1), axis=1) / (n * (n - 1))

    def measure(
        self,
        name: str,
        features: Array,
        statistic: Callable[[Array, int], Array],
        *,
        level: float,
        replicates: int,
        seed: int,
    ) -> Agreement:
        """Return a measure with its interval.

        All measures here are functions of sums of features over items, so the sums of all replicates are
        one matrix product.

        Args:
            name: Name of the measure.
            features: Features of each item, (items, f).
            statistic: Function of sums (r, f) and the number of items to values (r,).
            level: Level of the interval, between 0 and 1.
            replicates: Bootstrap replicates over items; 0 for no interval.
            seed: Seed of the bootstrap.
        """
        check_replicates(level, replicates)
        n = len(self.codes)
        value = float(statistic(features.sum(axis=0)[None].astype(float), n)[0])
        if np.isnan(value):
            _refuse(
                f"every rating is {self.labels[0]!r}: chance alone gives full agreement, {name} is undefined",
                "report the raw agreement; rate items on which labels can differ",
            )
        rng = np.random.default_rng(seed)
        drawn = np.empty(replicates)
        rows = max(1, CHUNK // n)
        for begin in range(0, replicates, rows):
            size = min(rows, replicates - begin)
            chosen = rng.integers(n, size=(size, n)) + n * np.arange(size)[:, None]
            counts = np.bincount(chosen.ravel(), minlength=size * n).reshape(size, n)
            drawn[begin : begin + size] = statistic(counts @ features.astype(float), n)
        defined = drawn[~np.isnan(drawn)]
        # Identical replicates (perfect agreement) do not determine an interval.
        enough = replicates > 0 and defined.size >= (1 - TOO_MANY_UNDEFINED) * replicates
        has_interval = enough and np.ptp(defined) > 1e-12
        return Agreement(
            measure=name,
            value=value,
            interval=interval(defined, level).tolist() if has_interval else None,
            level=level,
            n_items=n,
            n_items_left_out=self.n_left_out,
            n_raters=self.codes.shape[1],
            labels=tuple(sorted(self.labels)),
            replicates=replicates,
            replicates_undefined=replicates - defined.size,
        )


def _ratio(above: Array, below: Array) -> Array:
    """Return the quotient; NaN if the denominator is 0 up to rounding."""
    zero = below < 1e-12
    return np.where(zero, np.nan, above / np.where(zero, 1.0, below))


def _refuse(problem: str, fix: str) -> None:
    raise DataError(problem, where="the ratings, shape (items, raters)", fix=fix)
