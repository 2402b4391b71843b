"""The runs of one recipe, ready to be compared, and what makes two recipes incomparable.

    arm = arm_of(runs, text, metric)
    refuse_incomparable(baseline, challenger, noise)

Not here: reading runs (records/), the comparison (pairwise.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any, Literal

import numpy as np

from scalelab.comparison.further import TOP
from scalelab.comparison.tuned_rates import ArmTuning
from scalelab.errors import DataError, FitError, within
from scalelab.laws.observations import Array, Observations
from scalelab.records.evaluation_text import EvaluationText
from scalelab.records.runs import Runs
from scalelab.study.forecast import SeedNoise
from scalelab.study.from_table import count_of_flops, observations
from scalelab.study.quality.control import quality_control
from scalelab.study.quality.finding import QualityFinding
from scalelab.units import sci

Metric = Literal["loss", "bpb"]
UNITS = {"loss": "nats per token", "bpb": "bits per byte"}
"""Unit of each metric."""
LEAST_NOISE = 2
"""Runs beyond one a design point, of both recipes, below which the noise between seeds is unknown."""
LEAST_RUNS = 2
WRITTEN = 4  # decimals of a loss up to which runs of two recipes may agree by chance
BLANK_SEEDS = ("", "nan", "none", "<na>", "nat")
NO_NOISE = 1e-10  # sd between seeds over the loss, at or below which losses were copied


@dataclass(frozen=True, eq=False)
class Arm:
    """One recipe."""

    name: str
    runs: Observations
    """The runs that are compared."""
    param_count: str = "total"
    flop_count: str = "exact"
    kind: str = "measured"
    """measured or simulated."""
    metric: Metric = "loss"
    text: EvaluationText = field(default_factory=EvaluationText)
    schedule: str | None = None
    """How the rate comes down, in words; None: not recorded."""
    trunks: bool = False
    """Whether its runs are branches of trunks."""
    excluded: tuple[tuple[str, str], ...] = ()
    """Runs that were left out, each with its reason."""
    findings: tuple[QualityFinding, ...] = ()
    tuning: ArmTuning = field(default_factory=ArmTuning)
    """What the rates that were tried say of its learning rate."""

    @property
    def least_flops(self) -> float:
        """Least compute of its runs, FLOPs."""
        return float(self.runs.C.min())

    @property
    def most_flops(self) -> float:
        """Largest compute of its runs, FLOPs."""
        return float(self.runs.C.max())


def arm_of(runs: Runs, text: EvaluationText, metric: Metric = "loss") -> Arm:
    """Return the runs of a source as one recipe.

    Args:
        runs: The runs of a sweep or a table.
        text: Text on which they were evaluated.
        metric: Quantity that is compared.

    Raises:
        DataError: The runs have no such quantity, or too few are left.
    """
    table = runs.evidence.table
    where = runs.evidence.where
    if metric == "bpb":
        table = table.assign(loss=_bits_per_byte(table, where))
    flop_count = count_of_flops(table)
    with within(where):
        kept, findings = quality_control(observations(table, flop_count, ()))
        kept = replace(kept, seed=_seeds(kept.seed if "seed" in table else None, len(kept)))
        if len(kept) < LEAST_RUNS:
            raise DataError(
                f"{len(kept)} runs are too few to compare: fewer than {LEAST_RUNS}",
                where=f"{len(runs.table)} rows",
                fix="finish more runs: two seeds of one rung beside a baseline are the least",
            )
    excluded = [(item["run"], item["reason"]) for item in runs.evidence.excluded]
    excluded += [(run, each.reason) for each in findings if each.excluded for run in each.runs]
    trunk = table["trunk"].astype(object).fillna("").astype(str) if "trunk" in table else None
    return Arm(
        runs.name,
        kept,
        runs.evidence.param_count,
        flop_count,
        runs.evidence.kind,
        metric,
        text,
        _word(table, "schedule"),
        bool(trunk is not None and (trunk != "").any()),
        tuple(excluded),
        findings,
    )


def refuse_incomparable(baseline: Arm, other: Arm, noise: float | None) -> None:
    """Refuse recipes whose losses or compute are different quantities.

    Args:
        baseline: The recipe that the other is compared with.
        other: The other.
        noise: Stated noise between seeds; None: it has to be measured.

    Raises:
        DataError: Other evaluation tokens (for bits per byte: another text), or another count of parameters or
            FLOPs; simulated and measured runs.
        FitError: No shared compute, no noise, or one trunk.
    """
    both = f"{baseline.name} and {other.name}"
    for what, mine, theirs, fix in (
        (
            "counts of parameters",
            baseline.param_count,
            other.param_count,
            "choose one for both: --param-count total",
        ),
        (
            "counts of FLOPs",
            baseline.flop_count,
            other.flop_count,
            "record the FLOPs of both in the same way, or leave them out of both",
        ),
        ("kinds of runs", baseline.kind, other.kind, "compare measured runs with measured ones"),
    ):
        if mine != theirs:
            raise DataError(f"{both} have different {what}", where=f"{mine} and {theirs}", fix=fix)
    if other.metric == "loss":
        for what, mine, theirs in evaluation_differences(baseline.text, other.text):
            raise DataError(
                f"{both} were evaluated on other tokens: their {what} differ",
                where=f"{mine} and {theirs}",
                fix="evaluate both on the same tokens; or, where the text is the same and the tokenizer is not, "
                "compare bits per byte: --metric bpb",
            )
    else:
        for what, mine, theirs in _other_texts(baseline.text, other.text):
            raise DataError(
                f"{both} were evaluated on other texts, so bits per byte differ without either being better: their "
                f"{what} differ",
                where=f"{mine} and {theirs}",
                fix="evaluate both on the same text",
            )
    low, high = max(baseline.least_flops, other.least_flops), min(baseline.most_flops, other.most_flops)
    if low > high * TOP:
        raise FitError(
            f"{both} share no compute range, so every multiplier would be extrapolated",
            where=f"{_range(baseline)} and {_range(other)} FLOPs",
            fix="train a rung of one within the compute of the other",
        )
    if noise is None:
        _refuse_one_trunk(baseline, other)
        found = pooled_noise(baseline.runs, other.runs)
        if found is None or found.dof < LEAST_NOISE:
            raise FitError(
                f"{both} have no noise estimate: {0 if found is None else found.dof} runs repeat a size and token "
                f"count with another seed, and {LEAST_NOISE} are needed",
                where=f"{len(baseline.runs)} and {len(other.runs)} runs",
                fix=f"train a second and third seed of one rung, or state the noise: --noise 0.01 "
                f"({UNITS[other.metric]}, standard deviation between seeds)",
            )
        _refuse_copies((baseline, other), found)


def _refuse_one_trunk(*arms: Arm) -> None:
    """Refuse to measure errors of a recipe all of whose runs share their luck."""
    for arm in arms:
        if len(np.unique(np.asarray(arm.runs.group).astype(str))) == 1:
            raise FitError(
                f"the noise between trunks of {arm.name} cannot be measured: it has one",
                where=f"{len(arm.runs)} runs of one trunk or group, {arm.runs.group[0]}",
                fix=f"train a second trunk, or state the noise between trunks: --noise 0.01 ({UNITS[arm.metric]})",
            )


def _refuse_copies(arms: Sequence[Arm], pooled: SeedNoise) -> None:
    """Refuse repeats whose losses are all equal: no noise was measured."""
    for arm in arms:
        found = SeedNoise.of(arm.runs)
        for each in (pooled, found):
            if (
                each is not None
                and each.dof >= LEAST_NOISE
                and each.sd <= NO_NOISE * float(arm.runs.L.mean())
            ):
                raise FitError(
                    f"runs of different seeds of {arm.name} have the same loss",
                    where=f"{each.dof} runs that repeat a size and token count",
                    fix="remove rows that were written twice, or state the noise: --noise 0.01 "
                    f"({UNITS[arm.metric]}, standard deviation between seeds)",
                )


def evaluation_differences(one: EvaluationText, other: EvaluationText) -> list[tuple[str, str, str]]:
    """Return what differs between two evaluation texts where both record it: name, value and value."""
    names = {
        "tokenizer": "tokenizers",
        "data_digest": "data digests",
        "validation_digest": "digests of validation tokens",
        "data": "texts",
        "tokens": "numbers of validation tokens",
    }
    if one.validation_digest is not None and other.validation_digest is not None:
        del names["data_digest"]  # of the training tokens too, which may differ
    else:
        del names["validation_digest"]
    found = []
    for name, plural in names.items():
        mine, theirs = getattr(one, name), getattr(other, name)
        if mine is not None and theirs is not None and mine != theirs:
            found.append((plural, str(mine), str(theirs)))
    return found


def _other_texts(one: EvaluationText, other: EvaluationText) -> list[tuple[str, str, str]]:
    """What shows that two texts differ before they are cut into tokens: name, value and value."""
    found = [each for each in evaluation_differences(one, other) if each[0] == "texts"]
    if one.source is not None and other.source is not None and one.source != other.source:
        found.append(("sources", one.source, other.source))
    if one.tokenizer is not None and one.tokenizer == other.tokenizer:
        found += [each for each in evaluation_differences(one, other) if "digests" in each[0]]
    return found


def pooled_noise(*runs: Observations) -> SeedNoise | None:
    """Return the noise between seeds, pooled over recipes; None where no design point was repeated."""
    found = [each for each in map(SeedNoise.of, runs) if each is not None]
    dof = sum(each.dof for each in found)
    if not dof:
        return None
    return SeedNoise(float(np.sqrt(sum(each.sd**2 * each.dof for each in found) / dof)), dof)


def together(baseline: Observations, other: Observations) -> tuple[Observations, np.ndarray]:
    """Return the runs of two recipes as one, and 1 for those of the second, shape (n,)."""
    z = np.repeat([0.0, 1.0], [len(baseline), len(other)])
    both = {
        name: np.concatenate([np.asarray(getattr(baseline, name)), np.asarray(getattr(other, name))])
        for name in ("N", "D", "L", "C", "flops_planned", "weight")
    }
    seed = [str(each) for runs in (baseline, other) for each in runs.seed]
    runs = [f"{arm}:{run}" for arm, each in enumerate((baseline, other)) for run in each.run]
    groups = [f"{arm}:{label}" for arm, each in enumerate((baseline, other)) for label in each.group]
    merged = Observations.of(
        both["N"],
        both["D"],
        both["L"],
        run=np.array(runs),
        C=both["C"],
        flops_planned=both["flops_planned"],
        seed=np.array(seed),
        group=np.array(groups),
        weight=both["weight"],
    )
    return merged, z


def shared_runs(one: Arm, other: Arm, *, by_id: bool) -> int:
    """Return how many runs stand in both recipes.

    Losses that are written with few digits agree by chance, so rows of such losses count only where half of the
    smaller recipe agrees.

    Args:
        one: A recipe.
        other: Another.
        by_id: Whether run ids name the same run in both, as those of sweeps do; else runs of equal size, tokens,
            loss, compute and seed are the same.
    """
    if by_id:
        return len(set(one.runs.run) & set(other.runs.run))
    mine, theirs = (
        set(
            zip(
                *(np.asarray(getattr(arm.runs, name)).tolist() for name in ("N", "D", "L", "C", "seed")),
                strict=True,
            )
        )
        for arm in (one, other)
    )
    equal = mine & theirs
    exact = any(round(row[2], WRITTEN) != row[2] for row in equal)
    return len(equal) if exact or 2 * len(equal) >= min(len(mine), len(theirs)) else 0


def refuse_shared(arms: Sequence[Arm], sweeps: Sequence[bool]) -> None:
    """Refuse recipes that have runs in common: their difference has less noise than the test assumes.

    Args:
        arms: All recipes.
        sweeps: Whether each is a sweep.

    Raises:
        DataError: Two of them share runs.
    """
    for (one, is_sweep), (other, is_too) in combinations(zip(arms, sweeps, strict=True), 2):
        if count := shared_runs(one, other, by_id=is_sweep and is_too):
            raise DataError(
                f"{count} runs stand in both {one.name} and {other.name}",
                where=f"{len(one.runs)} and {len(other.runs)} runs",
                fix="name two different sources, and leave shared runs out of one of them",
            )


def _seeds(seed: Array | None, count: int) -> Array:
    """Seeds as text that agrees between tables, shape (n,); blank where none is recorded."""
    if seed is None:
        return np.full(count, "")
    words = [str(each).strip() for each in np.asarray(seed).tolist()]
    return np.array(["" if word.lower() in BLANK_SEEDS else word.removesuffix(".0") for word in words])


def _bits_per_byte(table: Any, where: str) -> Any:
    if "bpb" not in table:
        raise DataError(
            "the runs have no bits per byte",
            where=f"{where}, column bpb",
            fix="add a column bpb, or compare the loss: --metric loss",
        )
    values = np.array([_number(cell) for cell in table["bpb"]])
    if not (values > 0).all() or np.isinf(values).any():
        raise DataError(
            f"bpb must be a positive number in every row; {int((~(values > 0)).sum())} are not",
            where=f"{where}, column bpb",
            fix="give the bits per byte of every finished run, or compare the loss: --metric loss",
        )
    return values


def _number(cell: Any) -> float:
    """A cell as a number; NaN where it is none."""
    try:
        return float(cell)
    except (TypeError, ValueError):
        return float("nan")


def _word(table: Any, name: str) -> str | None:
    if name not in table:
        return None
    words = table[name].dropna().astype(str).unique()
    return str(words[0]) if len(words) == 1 else None


def _range(arm: Arm) -> str:
    return f"{arm.name} {sci(arm.least_flops)} to {sci(arm.most_flops)}"
