"""One model against one baseline, from judged pairs: win rate, with and without length.

    logit P(model preferred) = theta + phi tanh(dlen / s)       LC = 1 / (1 + exp(-theta))

dlen   length of the model's answer minus that of the baseline's, in the caller's unit
s      standard deviation of dlen over the pairs (n - 1 in the denominator)
phi    pull of length on the judge, logits; above 0 the longer answer is preferred
LC     length-controlled win rate: the one predicted at equal lengths, dlen = 0

Every prompt counts once, however many pairs it has, and intervals draw prompts again: pairs of
one prompt share its luck. Win rates are shares, 0 to 1; summaries print percent.

Source: Dubois et al. 2024, arXiv:2404.04475, the form that AlpacaEval calls
`length_controlled_minimal` (its dlen has the other sign, LC is the same; its standard error
ignores that theta is fitted, so the bootstrap is used here). Order of the answers: Zheng et al.
2023, arXiv:2306.05685.

Not here: AlpacaEval's difficulty per instruction, which exists for its own prompts only; many
models at once (ranking.py).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from scalelab.errors import DataError
from scalelab.evals.ranking import check_replicates, interval

Array = np.ndarray
Interval = list[float] | None

RIDGE = 0.01
"""Weight of theta^2 / 2 + phi^2 / 2 where no finite fit exists, beside 1 for each prompt; the
C = 100 of a logistic regression."""

LEAST_SPREAD = 0.05
"""Least range of tanh(dlen / s): below it, equal lengths are 20 ranges away from all pairs."""

NEWTON_STEPS = 100
FLAT = 1e-12  # of what the curvature is the difference of: less is lost in rounding
ENOUGH = 0.2  # of the climb that the slope promises, or the step is halved
CONVERGED = 1e-12  # Newton's decrement: the last step was a millionth of a standard error
CHUNK = 200_000  # numbers in one array while replicates are fitted: 1.6 MB stays in the cache


@dataclass(frozen=True, eq=False)
class Judgments:
    """Judged pairs of answers, one from the model and one from the baseline; arrays (n,)."""

    model: str
    baseline: str
    prompt: Array
    """Which prompt a pair answers; a prompt may have several pairs."""
    verdict: Array
    """1 the model's answer is preferred, 0 the baseline's, .5 a tie; or a probability."""
    length: Array | None = None
    """Of the model's answers, in `length_unit`; None where length does not matter."""
    baseline_length: Array | None = None
    swapped: Array | None = None
    """The verdict, again 1 for the model, with the answers in the other order. Where it is
    given, `verdict` was passed with the model's answer in first place."""
    length_unit: str = "characters"

    def __post_init__(self) -> None:
        given = [self.verdict, self.length, self.baseline_length, self.swapped]
        shapes = [np.shape(self.prompt)] + [np.shape(each) for each in given if each is not None]
        if len(set(shapes)) > 1 or len(shapes[0]) != 1:
            self._refuse(f"arrays of shapes {sorted(set(shapes))}", "give one value per pair")
        if len(np.unique(self.prompt)) < 2:
            self._refuse(
                f"{len(np.unique(self.prompt))} prompt(s); their spread is what an interval needs",
                "judge answers to at least two prompts, better to hundreds",
            )
        for name in ("verdict", "swapped"):
            value = getattr(self, name)
            if value is not None:
                self._refuse_rows(
                    name,
                    ~((value >= 0) & (value <= 1)),  # NaN is wrong too
                    "1: the model, 0: the baseline, .5: a tie (AlpacaEval's preference minus 1); "
                    "leave out, and report, what the judge did not answer",
                )
        if (self.length is None) != (self.baseline_length is None):
            self._refuse("lengths of one side only", "give both lengths, or neither")
        for name in ("length", "baseline_length"):
            value = getattr(self, name)
            if value is not None:
                wrong = ~((value >= 0) & (value < np.inf))
                self._refuse_rows(name, wrong, f"a count of {self.length_unit}, 0 or more")

    def _refuse_rows(self, name: str, wrong: Array, fix: str) -> None:
        if np.any(wrong):
            row = int(np.argmax(wrong))
            self._refuse(
                f"{int(np.sum(wrong))} {name}(s) out of range; pair {row} has "
                f"{getattr(self, name)[row]}",
                fix,
            )

    def _refuse(self, problem: str, fix: str) -> None:
        where = f"the judged pairs of {self.model} against {self.baseline}"
        raise DataError(problem, where=where, fix=fix)

    def __len__(self) -> int:
        return len(self.verdict)

    @property
    def preference(self) -> Array:
        """The verdict for the model, both orders averaged where both were judged; (n,)."""
        verdict = np.asarray(self.verdict, float)
        return verdict if self.swapped is None else (verdict + self.swapped) / 2


@dataclass(frozen=True)
class Share:
    """A share with its interval, both from 0 to 1, and how the interval was found."""

    value: float
    interval: Interval
    """None where none was asked, or the pairs cannot say."""
    level: float
    method: str

    def __str__(self) -> str:
        if self.interval is None:
            return f"{self.value:.1%} (no interval: {self.method})"
        low, high = self.interval
        return (
            f"{self.value:.1%} ({100 * self.level:g}% interval {low:.1%} .. {high:.1%}, "
            f"{self.method})"
        )


@dataclass(frozen=True)
class WinRate:
    """Share of prompts that the model wins (measured), ties counted half."""

    model: str
    baseline: str
    share: Share
    tie_share: float
    """Share of pairs with preference exactly .5."""
    n_prompts: int
    n_pairs: int
    both_orders: bool

    def summary(self) -> str:
        """Two lines: the win rate, and what it is made of."""
        orders = "both orders averaged" if self.both_orders else "one order each"
        return (
            f"win rate of {self.model} over {self.baseline}: {self.share}\n"
            f"  {self.n_pairs} pairs of {self.n_prompts} prompts, {orders}, "
            f"{self.tie_share:.1%} ties, each half a win"
        )


@dataclass(frozen=True)
class LengthControlled:
    """The win rate predicted at equal lengths (fitted), beside the raw one (measured)."""

    model: str
    baseline: str
    share: Share
    raw: float
    theta: float
    phi: float
    scale: float
    """s, in the unit of the lengths."""
    length_unit: str
    mean_difference: float
    """Mean of dlen: how much longer the model's answers are."""
    extrapolates: bool
    """No pair has dlen <= 0, or none >= 0: equal lengths lie outside what was judged."""
    ridge: float | None
    """The ridge that was needed because no finite fit exists; None where one does."""
    replicates: int
    replicates_with_ridge: int
    n_prompts: int

    def summary(self) -> str:
        """The length-controlled win rate, the fit, and every reservation about it."""
        lines = [
            f"length-controlled win rate of {self.model} over {self.baseline}: {self.share}",
            f"  raw {self.raw:.1%}; dlen {self.mean_difference:+.0f} {self.length_unit} on average "
            f"over {self.n_prompts} prompts",
            f"  fitted: logit P = {self.theta:.3f} + {self.phi:.3f} "
            f"tanh(dlen / {self.scale:.4g} {self.length_unit})",
        ]
        if self.extrapolates:
            lines.append("  extrapolated: one side is longer in every pair, none of equal length")
        if self.ridge is not None:
            lines.append(
                f"  length alone tells (all but) all verdicts apart: finite only by a ridge of "
                f"{self.ridge}"
            )
        elif self.replicates_with_ridge:
            lines.append(
                f"  {self.replicates_with_ridge} of {self.replicates} replicates had no finite "
                f"fit and took a ridge of {RIDGE}"
            )
        return "\n".join(lines)


@dataclass(frozen=True)
class Verbosity:
    """What longer answers of the same model gain with a judge, in win rate (-1 to 1)."""

    concise: str
    verbose: str
    baseline: str
    raw_gain: float
    """Raw win rate of the verbose answers minus that of the concise ones (measured)."""
    raw_interval: Interval
    lc_gain: float
    """The same for length-controlled win rates (fitted); what length does not explain."""
    lc_interval: Interval
    level: float
    length_ratio: float
    """Mean verbose length over mean concise length."""
    n_prompts: int
    warnings: tuple[str, ...]

    def summary(self) -> str:
        """The two gains with their intervals."""

        def line(label: str, gain: float, ends: Interval) -> str:
            said = "no interval" if ends is None else f"{ends[0]:+.1%} .. {ends[1]:+.1%}"
            return f"  {label:<18}{gain:+.1%}  ({said})"

        return "\n".join(
            [
                f"gain in win rate over {self.baseline} from {self.length_ratio:.2f}x longer "
                f"answers, {self.verbose} minus {self.concise}, {self.n_prompts} prompts, "
                f"{100 * self.level:g}% intervals",
                line("raw", self.raw_gain, self.raw_interval),
                line("length-controlled", self.lc_gain, self.lc_interval),
                *(f"  {warning}" for warning in self.warnings),
            ]
        )


@dataclass(frozen=True)
class Positions:
    """Whether a judge holds to its verdict when the answers change places (measured)."""

    consistent: float
    """Share of pairs that the same side wins, or ties, in both orders."""
    first_both: float
    """Share of pairs where whatever stood first won, in both orders."""
    second_both: float
    half_tied: float
    """Share of pairs with a winner in one order and a tie in the other."""
    first_share: Share
    """How often first place wins, ties half; .5 is a judge without this bias."""
    n_pairs: int
    n_prompts: int

    def summary(self) -> str:
        """The shares, and the pull of first place."""
        return (
            f"{self.n_pairs} pairs judged in both orders: {self.consistent:.1%} consistent, "
            f"{self.first_both:.1%} first place both times, {self.second_both:.1%} second place "
            f"both times, {self.half_tied:.1%} tied once\n"
            f"  first place wins {self.first_share}; 50% is no bias"
        )


def win_rate(
    judgments: Judgments, *, level: float = 0.95, replicates: int = 1000, seed: int = 0
) -> WinRate:
    """The raw win rate of the model over the baseline, ties half.

    Raises:
        ConfigError: `level` is no share, or replicates are too few for it.
    """
    check_replicates(level, replicates)
    sample = _Sample.of(judgments)
    return WinRate(
        model=judgments.model,
        baseline=judgments.baseline,
        share=_share(sample, judgments.preference, level, replicates, seed),
        tie_share=sample.mean(judgments.preference == 0.5),
        n_prompts=sample.n_prompts,
        n_pairs=len(judgments),
        both_orders=judgments.swapped is not None,
    )


def length_controlled(
    judgments: Judgments, *, level: float = 0.95, replicates: int = 1000, seed: int = 0
) -> LengthControlled:
    """The win rate at equal lengths; the interval draws prompts again and fits again.

    Raises:
        DataError: No lengths, or their difference is the same in every pair.
        ConfigError: `level` is no share, or replicates are too few for it.
    """
    check_replicates(level, replicates)
    sample = _Sample.of(judgments)
    fit = _LengthFit.of(judgments, sample)
    drawn, n_ridge = np.empty(replicates), 0
    row = 0
    for counts in sample.replicates(replicates, seed):
        coefficients, ridged = fit.again(sample.weight * counts[:, sample.index])
        drawn[row : row + len(counts)] = _sigmoid(coefficients[:, 0])
        row, n_ridge = row + len(counts), n_ridge + int(np.sum(ridged))
    if fit.ridged:
        # A replicate of separable verdicts is separable: all its spread would be the ridge's.
        ends, method = None, "no finite fit"
    elif not replicates:
        ends, method = None, "not asked for"
    else:
        ends, method = interval(drawn, level).tolist(), "bootstrap over prompts"
    return LengthControlled(
        model=judgments.model,
        baseline=judgments.baseline,
        share=Share(float(_sigmoid(fit.theta)), ends, level, method),
        raw=sample.mean(judgments.preference),
        theta=fit.theta,
        phi=fit.phi,
        scale=fit.scale,
        length_unit=judgments.length_unit,
        mean_difference=fit.mean_difference,
        extrapolates=fit.extrapolates,
        ridge=RIDGE if fit.ridged else None,
        replicates=replicates,
        replicates_with_ridge=n_ridge,
        n_prompts=sample.n_prompts,
    )


def verbosity(
    concise: Judgments,
    verbose: Judgments,
    *,
    level: float = 0.95,
    replicates: int = 1000,
    seed: int = 0,
) -> Verbosity:
    """How much a judge gives for length: the same model, asked for short and for long answers.

    Both sets meet the same baseline on the same prompts, and replicates draw prompts for both
    at once, so what a prompt does to both cancels.

    Raises:
        DataError: Other baselines or prompts, no lengths, or the verbose answers are not longer.
        ConfigError: `level` is no share, or replicates are too few for it.
    """
    check_replicates(level, replicates)
    both = (concise, verbose)
    samples = [_Sample.of(each) for each in both]
    _refuse_unpaired(concise, verbose)
    fits = [_LengthFit.of(each, sample) for each, sample in zip(both, samples, strict=True)]
    lengths = [s.mean(each.length) for each, s in zip(both, samples, strict=True)]
    if not lengths[1] > lengths[0]:
        raise DataError(
            f"the verbose answers are no longer than the concise ones: {lengths[1]:.0f} against "
            f"{lengths[0]:.0f} {concise.length_unit}",
            where=f"{concise.model} and {verbose.model} against {concise.baseline}",
            fix="hand over the concise answers first, and check that the request for length worked",
        )
    means = [s.by_prompt(each.preference) for each, s in zip(both, samples, strict=True)]
    gain = means[1] - means[0]
    raw, lc, n_ridge = [], [], np.zeros(2, int)
    for counts in samples[0].replicates(replicates, seed):
        raw.append(counts @ gain / len(gain))
        again = [
            fit.again(sample.weight * counts[:, sample.index])
            for fit, sample in zip(fits, samples, strict=True)
        ]
        short, long = (_sigmoid(coefficients[:, 0]) for coefficients, _ in again)
        lc.append(long - short)
        n_ridge += [int(np.sum(ridged)) for _, ridged in again]
    warnings = []
    for each, fit, ridged in zip(both, fits, n_ridge, strict=True):
        if fit.ridged:
            warnings.append(f"{each.model}: no finite fit; LC rests on a ridge of {RIDGE}")
        elif ridged:
            warnings.append(f"{each.model}: {ridged} of {replicates} replicates took the ridge")
        if fit.extrapolates:
            warnings.append(f"{each.model}: LC is extrapolated, no pair is of equal length")
    values = [float(_sigmoid(fit.theta)) for fit in fits]
    fitted = replicates > 0 and not any(fit.ridged for fit in fits)
    varied = replicates > 0 and np.ptp(gain) > 1e-12
    return Verbosity(
        concise=concise.model,
        verbose=verbose.model,
        baseline=concise.baseline,
        raw_gain=float(np.mean(gain)),
        raw_interval=interval(np.concatenate(raw), level).tolist() if varied else None,
        lc_gain=values[1] - values[0],
        lc_interval=interval(np.concatenate(lc), level).tolist() if fitted else None,
        level=level,
        length_ratio=lengths[1] / lengths[0] if lengths[0] else np.inf,
        n_prompts=samples[0].n_prompts,
        warnings=tuple(warnings),
    )


def positions(
    judgments: Judgments, *, level: float = 0.95, replicates: int = 1000, seed: int = 0
) -> Positions:
    """How verdicts change when the two answers change places.

    Raises:
        DataError: The pairs were judged in one order only.
        ConfigError: `level` is no share, or replicates are too few for it.
    """
    check_replicates(level, replicates)
    if judgments.swapped is None:
        raise DataError(
            "pairs judged in one order only",
            where=f"the judged pairs of {judgments.model} against {judgments.baseline}",
            fix="judge every pair again with the answers swapped, and give it as `swapped`",
        )
    sample = _Sample.of(judgments)
    first, second = np.sign(judgments.verdict - 0.5), np.sign(judgments.swapped - 0.5)
    place = (judgments.verdict + 1 - judgments.swapped) / 2
    return Positions(
        consistent=sample.mean(first == second),
        first_both=sample.mean((first > 0) & (second < 0)),
        second_both=sample.mean((first < 0) & (second > 0)),
        half_tied=sample.mean((first == 0) != (second == 0)),
        first_share=_share(sample, place, level, replicates, seed),
        n_pairs=len(judgments),
        n_prompts=sample.n_prompts,
    )


@dataclass(frozen=True, eq=False)
class _Sample:
    """Which prompt each pair belongs to, and how much it counts."""

    index: Array
    """Prompt of each pair, into the sorted prompts; (n,)."""
    n_prompts: int
    weight: Array
    """One over the pairs of its prompt; sums to n_prompts; (n,)."""

    @classmethod
    def of(cls, judgments: Judgments) -> "_Sample":
        _, index, pairs = np.unique(judgments.prompt, return_inverse=True, return_counts=True)
        return cls(index, len(pairs), 1 / pairs[index])

    def by_prompt(self, value: Array) -> Array:
        """Mean of a value (n,) over the pairs of every prompt, (n_prompts,)."""
        return np.bincount(self.index, self.weight * value, self.n_prompts)

    def mean(self, value: Array) -> float:
        """Mean over prompts of a value (n,)."""
        return float(np.mean(self.by_prompt(value)))

    def replicates(self, n: int, seed: int) -> Iterator[Array]:
        """How often each replicate has each prompt, (rows, n_prompts), chunk by chunk."""
        rng = np.random.default_rng(seed)
        k = self.n_prompts
        rows = max(1, CHUNK // len(self.index))
        for begin in range(0, n, rows):
            size = min(rows, n - begin)
            chosen = rng.integers(k, size=(size, k)) + k * np.arange(size)[:, None]
            yield np.bincount(chosen.ravel(), minlength=size * k).reshape(size, k)


def _share(sample: _Sample, value: Array, level: float, replicates: int, seed: int) -> Share:
    """Mean over prompts of a value between 0 and 1, with an interval."""
    by_prompt = sample.by_prompt(value)
    mean = float(np.mean(by_prompt))
    if not replicates:
        return Share(mean, None, level, "not asked for")
    if np.ptp(by_prompt) > 1e-12:  # a third and two thirds do not add up to 1 exactly
        drawn = [counts @ by_prompt for counts in sample.replicates(replicates, seed)]
        ends = interval(np.concatenate(drawn) / sample.n_prompts, level).tolist()
        return Share(mean, ends, level, "bootstrap over prompts")
    # Every replicate would be equal, an interval of no width. Where all prompts are won (or
    # lost), the binomial has an exact end: Clopper & Pearson 1934, Biometrika 26.
    far = ((1 - level) / 2) ** (1 / sample.n_prompts)
    if abs(mean - 1) < 1e-12:
        return Share(mean, [far, 1.0], level, "exact binomial: every prompt is won")
    if mean < 1e-12:
        return Share(mean, [0.0, 1 - far], level, "exact binomial: every prompt is lost")
    return Share(mean, None, level, "every prompt has the same share")


@dataclass(frozen=True, eq=False)
class _LengthFit:
    """theta and phi of one set of pairs, and the means to fit them again under new weights."""

    z: Array
    """tanh(dlen / s), (n,)."""
    y: Array
    scale: float
    mean_difference: float
    extrapolates: bool
    theta: float
    phi: float
    ridged: bool

    @classmethod
    def of(cls, judgments: Judgments, sample: _Sample) -> "_LengthFit":
        where = f"the judged pairs of {judgments.model} against {judgments.baseline}"
        if judgments.length is None:
            raise DataError(
                "no lengths of answers",
                where=where,
                fix="give `length` and `baseline_length`, in characters or words",
            )
        difference = np.asarray(judgments.length, float) - judgments.baseline_length
        mean = sample.mean(difference)
        square = sample.mean((difference - mean) ** 2) * sample.n_prompts / (sample.n_prompts - 1)
        if np.ptp(difference) == 0:
            raise DataError(
                f"the lengths differ by {difference[0]:g} {judgments.length_unit} in every pair: "
                "no slope to see",
                where=where,
                fix="report the raw win rate; check that lengths are of the answers themselves",
            )
        scale = float(np.sqrt(square))
        z, y = np.tanh(difference / scale), judgments.preference
        if np.ptp(z) < LEAST_SPREAD:
            raise DataError(
                f"the lengths differ by {difference.min():g} to {difference.max():g} "
                f"{judgments.length_unit}: too alike, so far from 0, to say what length does",
                where=where,
                fix="report the raw win rate; judge against a baseline of a similar length",
            )
        (coefficients,), (ridged,) = _fit(z, y, sample.weight[None])
        return cls(
            z=z,
            y=y,
            scale=scale,
            mean_difference=mean,
            extrapolates=bool(difference.min() > 0 or difference.max() < 0),
            theta=float(coefficients[0]),
            phi=float(coefficients[1]),
            ridged=bool(ridged),
        )

    def again(self, weight: Array) -> tuple[Array, Array]:
        """Coefficients (r, 2) under weights (r, n), and which took the ridge (r,).

        s stays that of the sample: it is the unit of dlen, not an estimate.
        """
        return _fit(self.z, self.y, weight)


def _refuse_unpaired(concise: Judgments, verbose: Judgments) -> None:
    where = f"{concise.model} and {verbose.model}, to be compared prompt by prompt"
    if concise.baseline != verbose.baseline:
        raise DataError(
            f"two baselines: {concise.baseline} and {verbose.baseline}",
            where=where,
            fix="judge the concise and the verbose answers against the same baseline",
        )
    if concise.length_unit != verbose.length_unit:
        raise DataError(
            f"two units of length: {concise.length_unit} and {verbose.length_unit}",
            where=where,
            fix="count both in characters, or both in words",
        )
    odd = np.setxor1d(concise.prompt, verbose.prompt)
    if odd.size:
        raise DataError(
            f"{odd.size} prompt(s) answered by one of the two only, such as {odd[0]}",
            where=where,
            fix="judge both on the same prompts",
        )


def _separable(z: Array, y: Array, weight: Array) -> Array:
    """Whether no finite theta, phi is most likely, under weights (r, n); shape (r,).

    With one input: if a threshold on z has all shares of 1 on one side and all of 0 on the
    other, points on the threshold free. A label between 0 and 1 is on both sides.
    Source: Albert & Anderson 1984, Biometrika 71.
    """
    counts = weight > 0
    won, lost = counts & (y > 0), counts & (y < 1)
    low_won, low_lost = (np.where(side, z, np.inf).min(axis=1) for side in (won, lost))
    high_won, high_lost = (np.where(side, z, -np.inf).max(axis=1) for side in (won, lost))
    return (high_lost <= low_won) | (high_won <= low_lost)


def _fit(z: Array, y: Array, weight: Array) -> tuple[Array, Array]:
    """Coefficients (r, 2) of soft labels y (n,) under weights (r, n), and which took the ridge.

    The ridge goes to separable labels, and to those so near to it that rounding hides the rest.
    """
    ridged = _separable(z, y, weight)
    beta, arrived = _newton(z, y, weight, np.where(ridged, RIDGE, 0.0))
    rest = np.flatnonzero(~arrived)
    if rest.size:
        ridged[rest] = True
        beta[rest], arrived[rest] = _newton(z, y, weight[rest], np.full(len(rest), RIDGE))
    assert arrived.all(), "a likelihood with a ridge is curved everywhere"
    return beta, ridged


def _newton(z: Array, y: Array, weight: Array, ridge: Array) -> tuple[Array, Array]:
    """The most likely coefficients (r, 2) under a ridge (r,), and which were found; (r,)."""
    design = np.stack([np.ones_like(z), z], axis=1)
    moments = np.stack([np.ones_like(z), z, z * z], axis=1)
    won = (weight * y) @ design  # (r, 2), does not change from step to step

    def climb(beta: Array) -> tuple[Array, Array]:
        """Log-likelihood less the ridge (r,), and the chance of a win (r, n)."""
        logit = beta @ design.T
        small = np.exp(-np.abs(logit))
        softplus = np.maximum(logit, 0) + np.log1p(small)
        height = (
            np.sum(won * beta, axis=1)
            - np.einsum("rn,rn->r", weight, softplus)
            - ridge * np.sum(beta**2, axis=1) / 2
        )
        return height, np.where(logit > 0, 1.0, small) / (1 + small)

    beta = np.zeros((len(weight), 2))
    height, p = climb(beta)
    flat = np.zeros(len(weight), bool)
    for _ in range(NEWTON_STEPS):
        expected = weight * p
        slope = won - expected @ design - ridge[:, None] * beta
        h0, h1, h2 = ((expected * (1 - p)) @ moments).T
        h0, h2 = h0 + ridge, h2 + ridge
        curvature = h0 * h2 - h1 * h1
        flat |= curvature <= FLAT * h0 * h2  # stays where it is, and is not found
        across = np.stack([h2 * slope[:, 0], h0 * slope[:, 1]]) - h1 * slope.T[::-1]
        step = (across / np.where(flat, np.inf, curvature)).T
        promised = np.sum(slope * step, axis=1)
        for _ in range(40):
            reached, p = climb(beta + step)
            # Armijo's rule: merely to climb is not enough, far out all is flat.
            short = reached < height + ENOUGH * promised - 1e-9 * np.abs(height)
            if not short.any():
                break
            step[short], promised[short] = step[short] / 2, promised[short] / 2
        beta, height = beta + step, reached
        found = np.abs(promised) < CONVERGED
        if np.all(found):
            break
    return beta, found & ~flat


def _sigmoid(x: Array) -> Array:
    return (1 + np.tanh(x / 2)) / 2  # overflows nowhere
