"""Challengers held against a baseline, and the verdict on each: promote, tie or reject.

    found = compare_arms(baseline, challengers, CompareRequest())
    found.verdict, found.pairs[0].verdict

A challenger is promoted where its multiplier at the largest shared compute exceeds the least gain: the one-sided
p-value, adjusted by Holm for the number of challengers, is at most the level of this look (sequential.py), and the
fitted loss differs from the one that the least gain would give by at least what seeds alone give (the noise floor).
It is rejected where the same holds on the other side. All else is a tie: these runs do not decide.

Not here: one pair (pairwise.py), its report (report/comparison/).
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from numbers import Integral, Real
from typing import Any, Literal

import numpy as np

from scalelab.comparison.arms import UNITS, Arm, Metric, evaluation_differences, refuse_incomparable
from scalelab.comparison.efficiency import ALPHA, BETA, FLOOR, NAMES, PRIOR
from scalelab.comparison.further import FurtherRuns, NoiseFloor, detectable, further_runs
from scalelab.comparison.pairwise import PairComparison, PairSettings, compare_pair
from scalelab.comparison.redrawing import LEAST_UNITS, MISFIT
from scalelab.comparison.sequential import holm, nominal_level
from scalelab.errors import ConfigError, FitError
from scalelab.laws import LAWS
from scalelab.laws.base import LawFit
from scalelab.laws.observations import Array
from scalelab.units import multiple, sci

Decision = Literal["promote", "tie", "reject"]
EXIT_STATUS: dict[Decision, int] = {"promote": 0, "tie": 3, "reject": 4}
"""Exit status of the command by its verdict; 2 is an error that a person can fix."""
TUNINGS = ("small-rate", "per-arm")
"""What can be stated of the learning rates: one small rate for all, or a rate tuned for each recipe."""
LEAST_REPLICATES = 100
"""Redrawn fits below which percentiles are not known."""
ALPHA_LEVEL = 0.025
"""One-sided level of the decision, all looks together: an interval of 95% on both sides."""
FAR = 4.5  # residual over its robust standard deviation, beyond which a run is named
HELD_BY_PRIOR = 0.7  # sd after the runs over sd of the prior, above which the prior is named
AGREED = 0.1  # share of searches below which the joint fit is one search's luck
LIKELY = 0.1  # probability of a crossing that is worth a warning
BEYOND = 2.0  # factor outside the baseline's compute from which an extrapolated multiplier is a warning
SEARCHED = 1e4  # factor of compute within which separate fits are searched for the multiplier


@dataclass(frozen=True, kw_only=True)
class CompareRequest:
    """What is asked of a comparison. Checked when it is made; raises ConfigError on an impossible value."""

    metric: Metric = "loss"
    """Quantity that is compared: loss (nats per token) or bpb (bits per byte)."""
    noise: float | None = None
    """Standard deviation of that quantity between seeds, assumed; None: as measured."""
    min_gain: float = 1.0
    """Compute multiplier that a challenger has to exceed."""
    alpha: float = ALPHA_LEVEL
    """Probability of promoting a recipe that does not exceed it, over all challengers and looks."""
    level: float = 0.8
    """Level of every interval, 0 to 1."""
    look: int = 1
    """Which of the planned looks at the growing data this is, from 1."""
    looks: int = 1
    """Planned looks."""
    reach: float = 10.0
    """Largest compute at which a crossing is looked for, over the largest shared one."""
    replicates: int = 2000
    """Redrawn fits; 0 for none, and no probability of a crossing."""
    seed: int = 0
    """Seed of the redrawn fits."""
    constant: bool = False
    """Whether the multiplier is assumed not to change with compute."""
    tuning: str | None = None
    """What is stated of the learning rates, one of TUNINGS; None: nothing."""
    law: str = "chinchilla"
    """Law that is fitted to each recipe by itself, beside the joint one."""

    def __post_init__(self) -> None:
        self._check_types()
        nominal_level(self.alpha, self.look, self.looks)
        LAWS[self.law]
        if self.seed < 0:
            raise ConfigError(f"seed = {self.seed}", where="--seed", fix="use 0 or a larger whole number")
        for name, least, most in (("min_gain", 0.01, 100.0), ("reach", 1.0, 1000.0), ("level", 0.01, 0.99)):
            value = getattr(self, name)
            if not least <= value <= most:
                raise ConfigError(
                    f"{name} = {value}",
                    where="the request for a comparison",
                    fix=f"give a number from {least:g} to {most:g}",
                )
        if self.noise is not None and not 0 < self.noise < 10:
            raise ConfigError(
                f"noise = {self.noise}",
                where="--noise",
                fix=f"give the standard deviation between seeds in {UNITS.get(self.metric, 'nats per token')}, "
                "such as 0.01",
            )
        if self.metric not in UNITS:
            raise ConfigError(f"metric = {self.metric!r}", where="--metric", fix=f"use {' or '.join(UNITS)}")
        if self.tuning is not None and self.tuning not in TUNINGS:
            raise ConfigError(
                f"tuning = {self.tuning!r}", where="--tuning", fix=f"use {' or '.join(TUNINGS)}"
            )
        if self.replicates and not LEAST_REPLICATES <= self.replicates <= 100_000:
            raise ConfigError(
                f"replicates = {self.replicates}",
                where="--replicates",
                fix=f"use 0, or {LEAST_REPLICATES} to 100000",
            )

    def _check_types(self) -> None:
        """Refuse values of another type than the field's."""
        wanted = {
            "a number": (
                Real,
                ("min_gain", "alpha", "level", "reach", *(("noise",) if self.noise is not None else ())),
            ),
            "a whole number": (Integral, ("look", "looks", "replicates", "seed")),
            "text": (str, ("metric", "law", *(("tuning",) if self.tuning is not None else ()))),
        }
        for what, (kind, names) in wanted.items():
            for name in names:
                value = getattr(self, name)
                if not isinstance(value, kind) or isinstance(value, bool):
                    raise ConfigError(
                        f"{name} = {value!r} is not {what}",
                        where="the request for a comparison",
                        fix=f"give {what}",
                    )

    @classmethod
    def of(cls, **settings: Any) -> "CompareRequest":
        """Return the request with these settings; None means the default.

        Raises:
            ConfigError: A setting is unknown or impossible.
        """
        known = {each.name for each in fields(cls)}
        if strange := [name for name in settings if name not in known]:
            raise ConfigError(
                f"{strange[0]!r} is no setting of a comparison",
                where="the request for a comparison",
                fix=f"use these: {', '.join(sorted(known))}",
            )
        return cls(**{name: value for name, value in settings.items() if value is not None})

    @property
    def nominal_level(self) -> float:
        """Level of this look, one-sided."""
        return nominal_level(self.alpha, self.look, self.looks)

    @property
    def settings(self) -> PairSettings:
        """Settings of each pair."""
        return PairSettings(
            noise=self.noise,
            min_gain=self.min_gain,
            level=self.level,
            reach=self.reach,
            replicates=self.replicates,
            seed=self.seed,
            trend=not self.constant,
        )


@dataclass(frozen=True)
class SeparateFit:
    """A law fitted to one recipe by itself."""

    law: str
    refused: str | None
    """Why it could not be fitted; None where it was."""
    floor: float | None = None
    """Its floor E."""
    loss: float | None = None
    """Loss of its optimum at the compute of the decision."""
    slope: float | None = None
    """Exponent of its frontier there, of the loss above its floor."""
    multiplier: float | None = None
    """Compute multiplier over the baseline's own fit at the compute of the decision; None for the baseline, and
    where it lies beyond the baseline's runs."""
    broken: tuple[str, ...] = ()
    """Why it is not to be relied on."""

    def to_json(self) -> dict[str, Any]:
        """The fit as JSON types."""
        return {each.name: getattr(self, each.name) for each in fields(self)} | {"broken": list(self.broken)}


@dataclass(frozen=True, eq=False)
class JudgedPair:
    """One challenger with its verdict."""

    pair: PairComparison
    p_promote: float
    """p-value of promotion, adjusted for the number of challengers."""
    p_reject: float
    """p-value of rejection, adjusted likewise."""
    level: float
    """Level of this look."""
    verdict: Decision
    reason: str
    separate: tuple[SeparateFit, SeparateFit] | None
    """Fits of the baseline and of the challenger by themselves; None where they were not made."""
    warnings: tuple[str, ...]
    challengers: int = 1
    """Challengers that share the level."""

    @property
    def shared_level(self) -> float:
        """Level of the first step of Holm's procedure, the strictest: that of this look over the challengers."""
        return self.level / self.challengers

    @property
    def name(self) -> str:
        """Name of the challenger."""
        return self.pair.other.name

    @cached_property
    def further(self) -> tuple[FurtherRuns, ...]:
        """Further runs that would decide, the cheapest first; empty where it is decided, or none would."""
        if self.verdict != "tie":
            return ()
        pair = self.pair
        away = float(np.log(pair.multiplier / pair.settings.min_gain))
        floor = NoiseFloor(pair.floor_distance, pair.floor_rows)
        return further_runs(pair.errors, pair.z, pair.C_0, away, self.shared_level, floor)

    @property
    def detectable(self) -> float | None:
        """Smallest multiplier above the least gain that these runs promote with probability .8 at this look.

        None: one that has no number, because it lies beyond the baseline's runs.
        """
        pair = self.pair
        away = detectable(pair.errors, pair.C_0, self.shared_level, pair.floor_distance)
        found = float(pair.settings.min_gain * np.exp(away))
        return pair.within(found, [found, found], pair.C_0).value

    def to_json(self) -> dict[str, Any]:
        """The comparison as JSON types."""
        pair = self.pair
        return {
            "name": self.name,
            "verdict": self.verdict,
            "reason": self.reason,
            "decided_at_flops": pair.C_0,
            **pair.bounded(pair.C_0).to_json(),
            "kinds": pair.kinds,
            "log_standard_error": pair.se,
            "degrees_of_freedom": None if np.isinf(pair.dof) else pair.dof,
            "p_promote": self.p_promote,
            "p_reject": self.p_reject,
            "level_of_look": self.level,
            "loss_difference": pair.difference,
            "noise_floor": pair.floor,
            "noise": {
                "sd": pair.noise_sd,
                "kind": "measured" if pair.settings.noise is None else "assumed",
                "dof": pair.noise.dof if pair.settings.noise is None and pair.noise else None,
            },
            "trend": {
                "per_decade": pair.trend if pair.supports_trend else None,
                "interval": pair.trend_interval if pair.supports_trend else None,
                "p": pair.trend_p,
            },
            "rungs": [rung.to_json() for rung in pair.rungs],
            "frontiers": {
                "baseline": pair.frontier(False).to_json(),
                "challenger": pair.frontier(True).to_json(),
            },
            "crossing": pair.crossing.to_json() if pair.crossing else None,
            "joint": {
                "params": pair.fit.params,
                "fitted": list(pair.fit.names),
                "priors": {name: list(map(float, ends)) for name, ends in PRIOR.items()},
                "agreement": pair.fit.agreement,
                "misfit_p": pair.errors.misfit,
            },
            "bootstrap": {
                "replicates": pair.settings.replicates,
                "unit": pair.luck.name,
                "units": pair.errors.units,
                "pairs": pair.luck.pairs,
            },
            "separate": [each.to_json() for each in self.separate] if self.separate else None,
            "further": [each.to_json() for each in self.further],
            "detectable_multiplier": self.detectable,
            "warnings": list(self.warnings),
        }


@dataclass(frozen=True, eq=False)
class RecipeComparison:
    """All challengers against one baseline."""

    baseline: Arm
    request: CompareRequest
    pairs: tuple[JudgedPair, ...]

    @property
    def verdict(self) -> Decision:
        """Promote where a challenger is promoted, reject where all are rejected, else tie."""
        found = {each.verdict for each in self.pairs}
        if "promote" in found:
            return "promote"
        return "reject" if found == {"reject"} else "tie"

    @property
    def exit_status(self) -> int:
        """Exit status of the command."""
        return EXIT_STATUS[self.verdict]

    @property
    def kind(self) -> str:
        """Whether the runs were measured or simulated, in one word."""
        return self.baseline.kind

    def to_json(self) -> dict[str, Any]:
        """Everything, as schema 1."""
        request = self.request
        arms = [self.baseline, *(each.pair.other for each in self.pairs)]
        return {
            "schema": 1,
            "verdict": self.verdict,
            "exit_status": self.exit_status,
            "metric": request.metric,
            "unit": UNITS[request.metric],
            "runs": self.kind,
            "param_count": self.baseline.param_count,
            "flop_count": self.baseline.flop_count,
            "min_gain": request.min_gain,
            "alpha": request.alpha,
            "look": [request.look, request.looks],
            "level": request.level,
            "reach": request.reach,
            "tuning": request.tuning,
            "constant_assumed": request.constant,
            "baseline": self.baseline.name,
            "arms": [
                {
                    "name": arm.name,
                    "n_runs": len(arm.runs),
                    "excluded": [{"run": run, "reason": reason} for run, reason in arm.excluded],
                    "learning_rate": {"status": arm.tuning.status, "found": arm.tuning.words},
                }
                for arm in arms
            ],
            "challengers": [each.to_json() for each in self.pairs],
        }


def compare_arms(
    baseline: Arm, challengers: Sequence[Arm], request: CompareRequest, *, separate: bool = True
) -> RecipeComparison:
    """Compare challengers with a baseline and judge each.

    Args:
        baseline: The recipe whose compute is the unit.
        challengers: At least one other.
        request: Settings.
        separate: Whether each recipe is also fitted by itself.

    Raises:
        ConfigError: There is no challenger, or two of one name.
        DataError: The losses or counts of two recipes are different quantities.
        FitError: No shared compute, no noise estimate, or no joint law.
    """
    names = [baseline.name, *(each.name for each in challengers)]
    if not challengers or len(set(names)) < len(names):
        raise ConfigError(
            "a comparison needs two different recipes or more",
            where=", ".join(names),
            fix="name a baseline and at least one other sweep or table: scalelab compare A B",
        )
    for other in challengers:
        refuse_incomparable(baseline, other, request.noise)
    pairs = []
    for other in challengers:
        try:
            pairs.append(compare_pair(baseline, other, request.settings))
        except FitError as error:
            error.begin_place(f"{baseline.name} and {other.name}")
            raise
    up, down = (holm([getattr(pair, name) for pair in pairs]) for name in ("p_promote", "p_reject"))
    level = request.nominal_level
    own: dict[str, LawFit | str] = {}
    if separate:
        own = {arm.name: _own_fit(arm, request.law) for arm in (baseline, *challengers)}
    found = []
    for pair, p_promote, p_reject in zip(pairs, up, down, strict=True):
        verdict, reason = _decide(pair, p_promote, p_reject, level)
        judged = JudgedPair(pair, p_promote, p_reject, level, verdict, reason, None, (), len(pairs))
        if separate:
            judged = replace(judged, separate=_separate(pair, request.law, own))
        found.append(replace(judged, warnings=_warnings(judged, request)))
    return RecipeComparison(baseline, request, tuple(found))


def _decide(pair: PairComparison, p_promote: float, p_reject: float, level: float) -> tuple[Decision, str]:
    gain = multiple(pair.settings.min_gain)
    above = abs(pair.excess) >= pair.floor
    below_floor = "the difference in loss is below the noise floor of the seeds"
    if pair.settings.min_gain != 1:
        below_floor = f"the difference in loss from that of {gain} is below the noise floor of the seeds"
    if p_promote <= level:
        if above:
            return "promote", f"the multiplier exceeds {gain} (p = {p_promote:.2g}, level {level:.2g})"
        return "tie", below_floor
    if p_reject <= level:
        if above:
            return "reject", f"the multiplier is below {gain} (p = {p_reject:.2g}, level {level:.2g})"
        return "tie", below_floor
    p = min(p_promote, p_reject)
    side = "above" if p_promote < p_reject else "below"
    return "tie", f"the multiplier is not shown to be {side} {gain} (p = {p:.2g}, level {level:.2g})"


def _own_fit(arm: Arm, law: str) -> LawFit | str:
    """A law fitted to one recipe by itself; why not, in words."""
    try:
        return LAWS[law]().fit(arm.runs)
    except FitError as error:
        return error.problem


def _separate(
    pair: PairComparison, law: str, own: dict[str, LawFit | str]
) -> tuple[SeparateFit, SeparateFit]:
    """Both recipes by themselves at the compute of the decision."""
    C = pair.C_0 * np.geomspace(1 / SEARCHED, SEARCHED, 4001)
    middle = len(C) // 2
    found, losses = [], []
    for arm in (pair.baseline, pair.other):
        fit = own[arm.name]
        best = None if isinstance(fit, str) else fit.optimum(C)
        if isinstance(fit, str) or best is None:
            found.append(SeparateFit(law, fit if isinstance(fit, str) else "it allots no compute"))
            losses.append(None)
            continue
        E = fit.floor
        rest = np.log(best.L[[middle - 1, middle + 1]] - (E or 0.0))
        slope = -float(np.diff(rest)[0] / np.diff(np.log(C[[middle - 1, middle + 1]]))[0])
        found.append(SeparateFit(law, None, E, float(best.L[middle]), slope, broken=fit.broken))
        losses.append(best.L)
    if losses[0] is not None and losses[1] is not None:
        found[1] = replace(found[1], multiplier=_equal_loss(C, losses[0], losses[1][middle]) / pair.C_0)
    m = found[1].multiplier
    if m is not None and not (np.isfinite(m) and pair.within(m, [m, m], pair.C_0).value):
        found[1] = replace(found[1], multiplier=None)
    return found[0], found[1]


def _equal_loss(C: Array, losses: Array, loss: float) -> float:
    """Compute at which a frontier has a loss; NaN where it has not within C."""
    return float(np.exp(np.interp(-loss, -losses, np.log(C), left=np.nan, right=np.nan)))


def _warnings(judged: JudgedPair, request: CompareRequest) -> tuple[str, ...]:
    pair, fit, errors = judged.pair, judged.pair.fit, judged.pair.errors
    one, two = pair.baseline, pair.other
    found = []
    found += _tuning_warnings(one, two, request)
    found += _text_warnings(one, two)
    if one.trunks != two.trunks or (one.schedule and two.schedule and one.schedule != two.schedule):
        found.append(
            f"the schedules differ ({_schedule(one)} and {_schedule(two)}): the multiplier contains what that changes"
        )
    if not pair.has_trend:
        why = "assumed" if request.constant else "the shared compute spans less than 2x"
        found.append(f"the multiplier does not change with compute ({why}), so no crossing can be seen")
    if not fit.has_size:
        found.append(
            "sizes do not vary at equal compute in both recipes: the multiplier holds along their own sizes and "
            "tokens, and the best size of both is assumed to be the same (assumed)"
        )
    if errors.misfit is not None and errors.misfit < MISFIT:
        drawn = (
            "errors were drawn by whole design points"
            if errors.whole_cells
            else f"fewer than {LEAST_UNITS} design points are too few to draw, so intervals are too narrow"
        )
        found.append(
            f"the joint law does not describe the runs within the noise of their seeds (p = {errors.misfit:.1g}): "
            f"{drawn}; look at the rungs"
        )
    if pair.bounded(pair.C_0).value is None:
        found.append(
            f"the loss of {two.name} is one that {one.name} has more than {multiple(pair.settings.reach)} outside the "
            "compute of its own runs, where its floor is not known: the multiplier has a bound and no number"
        )
    elif (beyond := pair.beyond_baseline(pair.C_0)) >= BEYOND:
        found.append(
            f"the loss of {two.name} is one that {one.name} has {multiple(beyond)} outside the compute of its own "
            "runs: the multiplier is extrapolated"
        )
    if fit.agreement < AGREED:
        found.append(f"only {fit.agreement:.0%} of the searches for the joint law agree on its optimum")
    if held := _held_by_priors(pair):
        found.append(f"mostly held by priors, which are assumed: {', '.join(held)}")
    found += _far_runs(pair)
    if request.noise is not None and pair.noise is not None and pair.noise.sd > 2 * request.noise:
        found.append(
            f"the stated noise of {request.noise:g} is less than half of the measured one ({pair.noise.sd:.2g}, "
            f"{pair.noise.dof} spare runs)"
        )
    crossing = pair.crossing
    if judged.verdict == "promote" and crossing and crossing.none is not None and 1 - crossing.none > LIKELY:
        low, high = crossing.range
        found.append(
            f"the multiplier passes 1 between {sci(low)} and {sci(high)} FLOPs with probability {1 - crossing.none:.0%}"
        )
    return tuple(found)


def _tuning_warnings(one: Arm, two: Arm, request: CompareRequest) -> list[str]:
    """Whether neither a small rate nor a rate tuned for each recipe holds, or is contradicted by the rates tried."""
    by_arm = {arm.name: arm.tuning for arm in (one, two)}
    if request.tuning == "small-rate":
        near = [name for name, tuning in by_arm.items() if tuning.status == "tuned"]
        return [f"the stated small rate is the best one of {name}: {by_arm[name].words}" for name in near]
    wrong = [
        f"{name}: {tuning.words}"
        for name, tuning in by_arm.items()
        if tuning.status in ({"off"} if request.tuning else {"off", "open", None})
    ]
    if not wrong:
        return []
    if request.tuning == "per-arm":
        return [
            f"the rate is stated as tuned for each recipe, and the rates tried say otherwise; {'; '.join(wrong)}"
        ]
    return [
        "neither a small learning rate is stated, nor is the rate of each recipe known to be tuned; "
        f"{'; '.join(wrong)}. Rankings of recipes change with the rate of small models (openreview 2FZC0c06jP): tune "
        "each (scalelab tune), or state what holds: --tuning small-rate or per-arm"
    ]


def _text_warnings(one: Arm, two: Arm) -> list[str]:
    """Texts that are known to differ were refused before (arms.py)."""
    found = []
    if one.metric == "bpb" and (differ := evaluation_differences(one.text, two.text)):
        what = ", ".join(name for name, *_ in differ)
        same = one.text.source is not None and one.text.source == two.text.source
        found.append(
            f"other {what}, compared in bits per byte"
            + ("" if same else "; whether the held-out text is the same is not recorded")
        )
    if one.metric == "loss" and all(
        getattr(one.text, name) is None or getattr(two.text, name) is None
        for name in ("data_digest", "validation_digest", "data")
    ):
        found.append(
            "the evaluation tokens are not recorded and are taken to be the same (assumed): columns data_digest "
            "and tokenizer say it"
        )
    mine, theirs = one.text.seq_len, two.text.seq_len
    if mine is not None and theirs is not None and mine != theirs:
        found.append(
            f"the contexts differ ({mine} and {theirs} tokens): the multiplier contains what that changes"
        )
    return found


def _schedule(arm: Arm) -> str:
    return (arm.schedule or "not recorded") + (", trunks" if arm.trunks else "")


def _held_by_priors(pair: PairComparison) -> list[str]:
    """Shared constants that the runs hardly determine."""
    fit, errors = pair.fit, pair.errors
    free = np.flatnonzero(~fit.held)
    names = {FLOOR: "the floor E", ALPHA: "alpha", BETA: "beta"}
    after = fit.sd * np.sqrt(np.diag(errors.inverse))
    return [
        names[at]
        for at, sd in zip(free, after, strict=True)
        if at in names and sd > HELD_BY_PRIOR * PRIOR[NAMES[at]][1]
    ]


def _far_runs(pair: PairComparison) -> list[str]:
    """Runs whose loss is far from the joint law."""
    r = pair.fit.residuals
    sd = max(1.4826 * float(np.median(np.abs(r))), pair.fit.sd / 2)
    far = np.flatnonzero(np.abs(r) > FAR * sd)
    if not far.size or not sd > 1e-7:
        return []
    arms = (pair.baseline, pair.other)
    named = [
        f"{run.split(':', 1)[1]} of {arms[int(run[0])].name} ({r[k]:+.1%})"
        for k in far[:3]
        for run in [str(pair.fit.runs.run[k])]
    ]
    more = f" and {len(far) - 3} more" if len(far) > 3 else ""
    return [f"{len(far)} runs are far from the joint law and count in full: {', '.join(named)}{more}"]
