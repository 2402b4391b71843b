"""One model against one baseline, from judged pairs: win rate, with and without length.

    logit P(model preferred) = theta + phi tanh(dlen / s)       LC = 1 / (1 + exp(-theta))

dlen   length of the model's answer minus that of the baseline's, in the caller's unit
s      standard deviation of dlen over the pairs (n - 1 in the denominator)
phi    effect of length on the judge, logits; above 0 the longer answer is preferred
LC     length-controlled win rate: the one predicted at equal lengths, dlen = 0

Every prompt has the same weight, however many pairs it has, and bootstrap replicates resample prompts,
because the pairs of one prompt are correlated. Win rates are shares, 0 to 1; summaries print percent.

Source: Dubois et al. 2024, arXiv:2404.04475, the form that AlpacaEval calls
`length_controlled_minimal` (its dlen has the other sign, LC is the same; its standard error
ignores that theta is fitted, so the bootstrap is used here). Order of the answers: Zheng et al.
2023, arXiv:2306.05685.

Not here: the pairs (judgments.py), the regression (length.py), AlpacaEval's difficulty per
instruction, which exists for its own prompts only, many models at once (ranking.py).
"""

from dataclasses import dataclass

import numpy as np

from scalelab.errors import DataError
from scalelab.evals.bootstrap import check_replicates, interval
from scalelab.evals.preference.judgments import Array, Judgments, PromptSample
from scalelab.evals.preference.length import RIDGE, LengthFit
from scalelab.evals.preference.logistic import sigmoid

Interval = list[float] | None


@dataclass(frozen=True)
class Share:
    """A share with its interval, both from 0 to 1, and how the interval was found."""

    value: float
    interval: Interval
    """None if none was requested or the pairs do not determine it."""
    level: float
    method: str

    def __str__(self) -> str:
        if self.interval is None:
            return f"{self.value:.1%} (no interval: {self.method})"
        low, high = self.interval
        return f"{self.value:.1%} ({100 * self.level:g}% interval {low:.1%} .. {high:.1%}, {self.method})"


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
        """Return two lines: the win rate and its sample."""
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
    """True if no pair has dlen <= 0, or none has dlen >= 0: equal lengths lie outside the data."""
    ridge: float | None
    """Ridge used because no finite fit exists; None if one does."""
    replicates: int
    replicates_with_ridge: int
    n_prompts: int

    def summary(self) -> str:
        """Return the length-controlled win rate, the fit and its caveats."""
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
                f"  length alone separates (almost) all verdicts: the fit needs a ridge of {self.ridge}"
            )
        elif self.replicates_with_ridge:
            lines.append(
                f"  {self.replicates_with_ridge} of {self.replicates} replicates had no finite "
                f"fit and used a ridge of {RIDGE}"
            )
        return "\n".join(lines)


@dataclass(frozen=True)
class Verbosity:
    """Gain in win rate of longer answers by the same model (-1 to 1)."""

    concise: str
    verbose: str
    baseline: str
    raw_gain: float
    """Raw win rate of the verbose answers minus that of the concise ones (measured)."""
    raw_interval: Interval
    lc_gain: float
    """Difference of the length-controlled win rates (fitted): the part that length does not explain."""
    lc_interval: Interval
    level: float
    length_ratio: float
    """Mean verbose length over mean concise length."""
    n_prompts: int
    warnings: tuple[str, ...]

    def summary(self) -> str:
        """Return the two gains with their intervals."""

        def line(label: str, gain: float, ends: Interval) -> str:
            bounds = "no interval" if ends is None else f"{ends[0]:+.1%} .. {ends[1]:+.1%}"
            return f"  {label:<18}{gain:+.1%}  ({bounds})"

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
    """Consistency of a judge when the answers are swapped (measured)."""

    consistent: float
    """Share of pairs with the same winner, or a tie, in both orders."""
    first_both: float
    """Share of pairs in which the first position won in both orders."""
    second_both: float
    half_tied: float
    """Share of pairs with a winner in one order and a tie in the other."""
    first_share: Share
    """Share of wins of the first position, ties half; .5 is no bias."""
    n_pairs: int
    n_prompts: int

    def summary(self) -> str:
        """Return the shares and the advantage of the first position."""
        return (
            f"{self.n_pairs} pairs judged in both orders: {self.consistent:.1%} consistent, "
            f"{self.first_both:.1%} first place both times, {self.second_both:.1%} second place "
            f"both times, {self.half_tied:.1%} tied once\n"
            f"  first place wins {self.first_share}; 50% is no bias"
        )


def win_rate(judgments: Judgments, *, level: float = 0.95, replicates: int = 1000, seed: int = 0) -> WinRate:
    """Return the raw win rate of the model over the baseline, ties half.

    Args:
        judgments: Judged pairs of the model and the baseline.
        level: Level of the interval, between 0 and 1.
        replicates: Bootstrap replicates over prompts; 0 for no interval.
        seed: Seed of the bootstrap.

    Raises:
        ConfigError: `level` is not a share, or replicates are too few for it.
    """
    check_replicates(level, replicates)
    sample = PromptSample.of(judgments)
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
    """Return the win rate at equal lengths; each replicate resamples prompts and fits again.

    Args:
        judgments: Judged pairs of the model and the baseline.
        level: Level of the interval, between 0 and 1.
        replicates: Bootstrap replicates over prompts; 0 for no interval.
        seed: Seed of the bootstrap.

    Raises:
        DataError: No lengths, or their difference is the same in every pair.
        ConfigError: `level` is not a share, or replicates are too few for it.
    """
    check_replicates(level, replicates)
    sample = PromptSample.of(judgments)
    fit = LengthFit.of(judgments, sample)
    drawn, n_ridge = np.empty(replicates), 0
    row = 0
    for counts in sample.replicates(replicates, seed):
        coefficients, ridged = fit.again(sample.weight * counts[:, sample.index])
        drawn[row : row + len(counts)] = sigmoid(coefficients[:, 0])
        row, n_ridge = row + len(counts), n_ridge + int(np.sum(ridged))
    if fit.ridged:
        # Replicates of separable verdicts are separable: their spread would come from the ridge alone.
        ends, method = None, "no finite fit"
    elif not replicates:
        ends, method = None, "not requested"
    else:
        ends, method = interval(drawn, level).tolist(), "bootstrap over prompts"
    return LengthControlled(
        model=judgments.model,
        baseline=judgments.baseline,
        share=Share(float(sigmoid(fit.theta)), ends, level, method),
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
    concise: Judgments, verbose: Judgments, *, level: float = 0.95, replicates: int = 1000, seed: int = 0
) -> Verbosity:
    """Return what a judge grants for length: one model, instructed to be concise and to be verbose.

    Both sets meet the same baseline on the same prompts, and each replicate resamples prompts for both at
    once, so common effects of a prompt cancel.

    Args:
        concise: Judged pairs of the concise answers.
        verbose: Judged pairs of the verbose answers.
        level: Level of the intervals, between 0 and 1.
        replicates: Bootstrap replicates over prompts; 0 for no intervals.
        seed: Seed of the bootstrap.

    Raises:
        DataError: Baselines or prompts differ, lengths are missing, or the verbose answers are not longer.
        ConfigError: `level` is not a share, or replicates are too few for it.
    """
    check_replicates(level, replicates)
    both = (concise, verbose)
    samples = [PromptSample.of(each) for each in both]
    _refuse_unpaired(concise, verbose)
    fits = [LengthFit.of(each, sample) for each, sample in zip(both, samples, strict=True)]
    lengths = [s.mean(each.length) for each, s in zip(both, samples, strict=True)]
    if not lengths[1] > lengths[0]:
        raise DataError(
            f"the verbose answers are no longer than the concise ones: {lengths[1]:.0f} against "
            f"{lengths[0]:.0f} {concise.length_unit}",
            where=f"{concise.model} and {verbose.model} against {concise.baseline}",
            fix="pass the concise answers first, and check that the model follows the instruction",
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
        short, long = (sigmoid(coefficients[:, 0]) for coefficients, _ in again)
        lc.append(long - short)
        n_ridge += [int(np.sum(ridged)) for _, ridged in again]
    warnings = []
    for each, fit, ridged in zip(both, fits, n_ridge, strict=True):
        if fit.ridged:
            warnings.append(f"{each.model}: no finite fit; LC rests on a ridge of {RIDGE}")
        elif ridged:
            warnings.append(f"{each.model}: {ridged} of {replicates} replicates used the ridge")
        if fit.extrapolates:
            warnings.append(f"{each.model}: LC is extrapolated, no pair is of equal length")
    values = [float(sigmoid(fit.theta)) for fit in fits]
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
    """Return how verdicts change when the two answers are swapped.

    Args:
        judgments: Judged pairs of the model and the baseline.
        level: Level of the interval, between 0 and 1.
        replicates: Bootstrap replicates over prompts; 0 for no interval.
        seed: Seed of the bootstrap.

    Raises:
        DataError: The pairs were judged in one order only.
        ConfigError: `level` is not a share, or replicates are too few for it.
    """
    check_replicates(level, replicates)
    if judgments.swapped is None:
        raise DataError(
            "pairs judged in one order only",
            where=f"the judged pairs of {judgments.model} against {judgments.baseline}",
            fix="judge every pair again with the answers swapped, and give it as `swapped`",
        )
    sample = PromptSample.of(judgments)
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


def _share(sample: PromptSample, value: Array, level: float, replicates: int, seed: int) -> Share:
    """Return the mean over prompts of a value between 0 and 1, with an interval."""
    by_prompt = sample.by_prompt(value)
    mean = float(np.mean(by_prompt))
    if not replicates:
        return Share(mean, None, level, "not requested")
    if np.ptp(by_prompt) > 1e-12:  # tolerance for rounding: 1/3 + 2/3 is not exactly 1
        drawn = [counts @ by_prompt for counts in sample.replicates(replicates, seed)]
        ends = interval(np.concatenate(drawn) / sample.n_prompts, level).tolist()
        return Share(mean, ends, level, "bootstrap over prompts")
    # All replicates would be equal, an interval of width zero. If every prompt is won (or lost), the
    # binomial has an exact bound: Clopper & Pearson 1934, Biometrika 26.
    far = ((1 - level) / 2) ** (1 / sample.n_prompts)
    if abs(mean - 1) < 1e-12:
        return Share(mean, [far, 1.0], level, "exact binomial: every prompt is won")
    if mean < 1e-12:
        return Share(mean, [0.0, 1 - far], level, "exact binomial: every prompt is lost")
    return Share(mean, None, level, "every prompt has the same share")


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
