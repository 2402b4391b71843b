"""Units of a table that its numbers give away: N in millions, FLOPs of the forward pass, perplexity.

    unit_findings(evidence, flop_count) -> findings; raises DataError where a unit is certainly wrong

A wrong unit of N, D or C moves a forecast by powers of ten and leaves the fit as good as before, so
nothing later can show it. What cannot be training of a language model is refused, with the flag that
converts it; what is merely unlikely is a finding. A unit that the reader stated is taken at its word,
and runs of our own sweeps have known units.

Symbols: f = C / (6 N D), FLOPs as a share of the shorthand. With the head and attention counted f lies
above 1 in small models and falls toward it as they grow; with an embedding in N it may lie below.

Source: 6 N D, Kaplan et al. 2020, arXiv:2001.08361; a backward pass costs two forward passes, and
recomputation one more: Korthikanti et al. 2022, arXiv:2205.05198.

Not here: converting (records/table_units.py); counts that jump between equal sizes (consistency.py).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any, NoReturn

import numpy as np

from scalelab.errors import DataError
from scalelab.laws.observations import Array
from scalelab.records.cells import numbers
from scalelab.records.evidence import Evidence
from scalelab.study.quality.finding import QualityFinding
from scalelab.study.quality.flop_factor import QUESTIONED, FlopFactor
from scalelab.units import sci, si

LEAST_N, FEW_N = 1e3, 3e3  # a bigram model of 32 characters has 1,024; our smallest toys have 5e3 and more
LEAST_D, FEW_D = 1e4, 1e5  # tokens; a page of text has 1e3, and the shortest toy run saw 1e5
RATIOS, LIKELY_RATIOS = (1e-3, 1e6), (1e-2, 1e5)  # D / N; published families lie in .1 to 2e4
GUESSING = 12.5  # nats; ln 256,000, the largest vocabularies: guessing uniformly is no worse
UNIGRAM = 8.0  # nats; token frequencies alone give 7 to 7.7 with 50,000 tokens
TRAINED = 6.0  # nats; with TRAINED_N parameters and TRAINED_D tokens models reach 3 to 4.5, any vocabulary
TRAINED_N, TRAINED_D = 1e7, 1e9
UNLIKELY_LOSS = 1.0  # nats per token; web text stays above 1.5 at any size that was trained
PADDED = 1.05  # ratio of vocabularies; padding to a multiple of 128 adds less
BYTES = 512  # a vocabulary of bytes or characters, where less than 1 nat is usual
GAP = 30.0  # ratio between rows in two units; a factor of 1,000 leaves it on families that span 30x
SCALES = (1.0, 1e3, 1e6, 1e9, 1e12)
USUAL_N, USUAL_D = (1e7, 3e11), (1e9, 3e13)  # of published families; decides between units that fit
SUFFIX = dict(zip(SCALES, ("1", "k", "M", "B", "T"), strict=True))


def unit_findings(seen: Evidence, flop_count: str) -> tuple[QualityFinding, ...]:
    """What the numbers of an external table say about their units.

    Args:
        seen: The runs; those of a sweep have no units to doubt.
        flop_count: "exact" where the column flops is used, "6ND" where it is not.

    Raises:
        DataError: A unit is certainly not ours.
    """
    if seen.units is None or seen.table.empty:
        return ()
    table = _Columns.of(seen)
    found = [*_stated(seen), *_of_vocabularies(seen)]
    if seen.kind != "simulated":  # a law far below its evidence has any loss, in the unit of its constants
        found += _of_loss(table)
    sizes = [*_of_sizes(table)]
    found += sizes
    if flop_count == "exact" and "flops" in seen.table and not sizes and "flops" not in table.stated:
        found += _of_flops(table)
    return tuple(found)


def _stated(seen: Evidence) -> Iterator[QualityFinding]:
    """The units that were stated, so that an answer says how its numbers were read."""
    if seen.units.names:
        pairs = ", ".join(f"{column} in {unit}" for column, unit in seen.units.names.items())
        yield QualityFinding(
            "units stated", (), f"units as stated, numbers in another unit than ours converted: {pairs}"
        )


@dataclass(frozen=True, eq=False)
class _Columns:
    """The columns whose units are looked at."""

    where: str
    stated: frozenset[str]
    run: Array
    N: Array
    D: Array
    L: Array
    C: Array | None
    """Recorded FLOPs, or those planned; None where there are neither."""
    vocabulary: float | None
    """Size of the smallest vocabulary, where the table has it."""
    has_bpb: bool

    @classmethod
    def of(cls, seen: Evidence) -> "_Columns":
        t = seen.table
        flops = next((t[name].to_numpy(float) for name in ("flops", "flops_planned") if name in t), None)
        V = _smallest(t["vocab_size"]) if "vocab_size" in t else None
        return cls(
            seen.where,
            frozenset(seen.units.names),
            t["run"].to_numpy(str),
            *(t[name].to_numpy(float) for name in ("n_params", "n_tokens", "loss")),
            C=flops if flops is not None and np.isfinite(flops).any() else None,
            vocabulary=V,
            has_bpb="bpb" in t,
        )

    def finding(self, column: str, reason: str, rows: Array | None = None, **how: bool) -> QualityFinding:
        """A finding about the unit of a column."""
        runs = self.run if rows is None else self.run[rows]
        return QualityFinding(f"unit of {column}", tuple(map(str, runs)), reason, grave=True, **how)

    def refuse(self, column: str, problem: str, fix: str) -> NoReturn:
        """Raise DataError."""
        noun = "columns" if " and " in column else "column"
        raise DataError(problem, where=f"{self.where}, the {noun} {column}", fix=fix)


def _smallest(column: Any) -> float | None:
    """The smallest vocabulary in a column; None where it has none."""
    try:
        sizes = column.dropna().to_numpy(float)
    except (TypeError, ValueError):
        return None
    sizes = sizes[np.isfinite(sizes) & (sizes > 1)]
    return float(sizes.min()) if sizes.size else None


def _of_sizes(table: _Columns) -> Iterator[QualityFinding]:
    """N and D by their own size, by tokens per parameter, and by the FLOPs beside them."""
    free = [name for name in ("n_params", "n_tokens") if name not in table.stated]
    if not free:
        return
    N, D = float(np.median(table.N)), float(np.median(table.D))
    ratio = D / N
    wrong, odd = [], []
    for column, text, value, (least, low), (high, most) in (
        ("n_params", "parameters", N, (LEAST_N, FEW_N), (np.inf, np.inf)),
        ("n_tokens", "tokens", D, (LEAST_D, FEW_D), (np.inf, np.inf)),
        (
            "both",
            "tokens per parameter",
            ratio,
            (RATIOS[0], LIKELY_RATIOS[0]),
            LIKELY_RATIOS[1:] + RATIOS[1:],
        ),
    ):
        if column != "both" and column in table.stated:
            continue
        if not low <= value <= high:
            certain = not least <= value <= most
            (wrong if certain else odd).append((column, f"the median run has {si(value)} {text}"))
    if not wrong and not odd:
        _refuse_rows_apart(table, free)
        return
    columns = free if any(column == "both" for column, _ in wrong + odd) else [c for c, _ in wrong + odd]
    units = _units_that_fit(N, D, table, free)
    guess = f"--units {units}" if units else "--units n_params=M,n_tokens=B, each with its unit"
    reason = " and ".join(text for _, text in wrong + odd)
    as_it_is = ",".join(f"{name}=1" for name in columns)
    if wrong:
        table.refuse(
            " and ".join(columns),
            f"{reason}, which no language model has: the unit is not ours",
            f"state it: {guess}; if the numbers are right as they stand, --units {as_it_is}",
        )
    yield table.finding(
        " and ".join(columns),
        f"{reason}: is the unit right? If not, state it: {guess}; if so, --units {as_it_is}",
        disqualifying=True,
    )


def _refuse_rows_apart(table: _Columns, free: list[str]) -> None:
    """Refuse single rows that no language model has, where the median run is right: N in millions in some."""
    for column, text, values, least in (
        ("n_params", "parameters", table.N, LEAST_N),
        ("n_tokens", "tokens", table.D, LEAST_D),
    ):
        apart = values < least
        if column in free and apart.any() and values[apart].max() * GAP < values[~apart].min():
            rows = ", ".join(f"{table.run[i]} ({values[i]:.4g})" for i in np.flatnonzero(apart)[:5])
            table.refuse(
                column,
                f"{apart.sum()} of {len(values)} runs have fewer than {si(least)} {text}, which no language model "
                f"has, and the others are in another range: {rows}",
                f"write all rows in one unit, or leave these out; if they are right as they stand, --units {column}=1",
            )


def _units_that_fit(N: float, D: float, table: _Columns, free: list[str]) -> str:
    """The units with which sizes and tokens are those of a usual family; empty where none do."""
    cost = None if table.C is None else float(np.nanmedian(table.C / (6 * table.N * table.D)))
    best, choice = np.inf, ""
    for n, d in product(SCALES[:-1], SCALES):
        if (n != 1 and "n_params" not in free) or (d != 1 and "n_tokens" not in free):
            continue
        usual = 1e5 <= n * N <= 1e13 and 1e7 <= d * D <= 1e14 and 0.1 <= d * D / (n * N) <= 1e4
        known = cost is None or 1 / 3 <= cost / (n * d) <= 3
        # Usual sizes, twenty tokens a parameter, and of two units that fit the smaller.
        score = _decades_outside(n * N, USUAL_N) + _decades_outside(d * D, USUAL_D)
        score += abs(np.log10(d * D / (n * N) / 20)) + 0.1 * np.log10(n * d)
        if usual and known and score < best:
            pairs = (("n_params", n), ("n_tokens", d))
            best, choice = score, ",".join(f"{name}={SUFFIX[scale]}" for name, scale in pairs if scale != 1)
    return choice


def _decades_outside(value: float, usual: tuple[float, float]) -> float:
    low, high = usual
    return max(0.0, float(np.log10(low / value)), float(np.log10(value / high)))


def _of_flops(table: _Columns) -> Iterator[QualityFinding]:
    """The column flops beside 6 N D."""
    factor = FlopFactor.of(table.N, table.D, table.C)
    if factor is None:
        return
    keep = "if it is right as it stands, --units flops=FLOPs"
    if factor.apart is not None:
        names = ", ".join(table.run[factor.apart][:5])
        table.refuse(
            "flops",
            f"flops of {factor.apart.sum()} of {len(table.N)} runs are in another unit than the others: "
            f"{factor.value:.3g} times 6 N D ({names})",
            "write all rows in FLOPs",
        )
    row = int(np.argmax(table.N))
    spent, shorthand = table.C[row], 6 * table.N[row] * table.D[row]
    recorded = sci(spent) if spent >= 1e4 else f"{spent:.3g}"
    example = f"{table.run[row]}: {recorded} beside 6 N D = {sci(shorthand)}"
    how = f"flops is {factor.value:.3g} times 6 N D{'' if factor.constant else ' in the largest models'}"
    cause = f": {factor.cause}" if factor.cause else ", for no known reason"
    if factor.certain:
        table.refuse("flops", f"{how}{cause} ({example})", f"--units flops={factor.unit}; {keep}")
    yield table.finding(
        "flops",
        f"{how}{cause} ({example}). To correct it: --units flops={factor.unit}; {keep}",
        disqualifying=not QUESTIONED[0] <= factor.value <= QUESTIONED[1],
    )


def _of_loss(table: _Columns) -> Iterator[QualityFinding]:
    """The loss beside that of guessing, and beside what text allows."""
    if "loss" in table.stated:
        return
    middle = float(np.median(table.L))
    guessing = GUESSING if table.vocabulary is None else float(np.log(table.vocabulary))
    of = "the largest vocabularies" if table.vocabulary is None else f"{table.vocabulary:,.0f} tokens"
    worse = guessing * (1 + 1e-6) < table.L
    if middle > guessing:
        table.refuse(
            "loss",
            f"the median loss is {middle:.4g}, above the {guessing:.3g} nats per token of guessing among {of}",
            f"{_conversions(middle, guessing)}; if these are nats, --units loss=nats",
        )
    if worse.any():
        reason = (
            f"{worse.sum()} of {len(worse)} runs have a loss above the {guessing:.3g} nats per token of guessing "
            f"among {of}: diverged, or in another unit?"
        )
        yield table.finding("loss", reason, worse)
    if middle > UNIGRAM:
        yield table.finding(
            "loss",
            f"the median loss is {middle:.3g}, and the frequencies of tokens alone give less than {UNIGRAM:g} "
            "nats per token: perplexity? Then --units loss=perplexity; if these are nats, --units loss=nats",
        )
    elif middle > TRAINED and np.median(table.N) >= TRAINED_N and np.median(table.D) >= TRAINED_D:
        yield table.finding(
            "loss",
            f"the median loss is {middle:.3g}, and models of {si(TRAINED_N)} parameters and {si(TRAINED_D)} "
            "tokens reach 3 to 4.5 nats per token: perplexity or bits? Then --units loss=perplexity or "
            "--units loss=bits; if these are nats, --units loss=nats",
        )
    by_character = table.vocabulary is not None and table.vocabulary <= BYTES
    if middle < UNLIKELY_LOSS and not by_character and not table.has_bpb:
        yield table.finding(
            "loss",
            f"the median loss is {middle:.3g}, and language models stay above {UNLIKELY_LOSS:g} nat per token "
            "on most text: bits per byte? Exponents and sizes are the same in any unit of loss; L* is then in "
            "that unit. To convert, --units loss=NUMBER (nats per token for each); if these are nats, "
            "--units loss=nats",
        )


def _of_vocabularies(seen: Evidence) -> Iterator[QualityFinding]:
    """Vocabularies of different sizes: losses per token of different tokenizers are different quantities."""
    if "vocab_size" not in seen.table:
        return
    sizes = numbers(seen.table["vocab_size"])
    sizes = sizes[np.isfinite(sizes) & (sizes > 1)]
    if len(sizes) and sizes.max() > PADDED * sizes.min():
        yield QualityFinding(
            "vocabularies",
            tuple(map(str, seen.table["run"])),
            f"the runs have vocabularies of {sizes.min():,.0f} to {sizes.max():,.0f} tokens, and losses per token "
            "of different tokenizers cannot be compared: fit each by itself",
            grave=True,
            disqualifying=True,
        )


def _conversions(loss: float, guessing: float) -> str:
    """The units of a loss that make it better than guessing, as a flag."""
    found = [
        f"--units loss={unit} (then the median is {nats:.3g} nats)"
        for unit, nats in (("perplexity", np.log(loss)), ("bits", loss * np.log(2)))
        if nats <= guessing
    ]
    return f"state its unit: {' or '.join(found)}" if found else "give the validation loss in nats per token"
