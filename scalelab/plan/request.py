"""A request for a plan: the budget, the constraints on the model, the hardware, the settings.

    budget        exactly one of: budget, days with gpus, dollars, loss, params with tokens
    constraint    at most one of: params, tokens, max_params, unique_tokens (or params with tokens)

Every field has the name of the flag of `scalelab plan`, so one message fits both.

Not here: the evidence (source.py), the plan (planner.py).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from numbers import Integral, Real
from pathlib import Path
from types import UnionType
from typing import Any, cast, get_args

from scalelab.errors import PlanError
from scalelab.markup import printable
from scalelab.units import PARAM_COUNTS

CHOOSERS = ("params", "tokens", "max_params", "unique_tokens")
NEEDS = (
    ("days", "gpus"),
    ("token_price", "unique_tokens"),
    ("mfu_inference", "demand"),
    ("staff", "salary"),
    ("salary", "staff"),
    ("staff_months", "staff"),
)
LARGEST: Mapping[str, tuple[float, str]] = {
    "params": (1e18, "parameters"),
    "tokens": (1e21, "tokens"),
    "max_params": (1e18, "parameters"),
    "unique_tokens": (1e21, "tokens"),
    "tokens_available": (1e21, "tokens"),
    "loss": (1e3, "nats per token"),
    "days": (1e6, "days"),
    "dollars": (1e15, "US dollars"),
    "gpus": (1e8, "devices"),
    "staff": (1e7, "people"),
    "salary": (1e9, "US dollars a year"),
    "staff_months": (1e4, "months"),
}
"""Fields that are positive numbers, with the largest plausible value and its unit."""
LARGEST_NUMBER = 1e300
"""Larger numbers overflow in any product; integers beyond it are no floats."""
LONGEST_TEXT = 1000
"""Characters of a field of text."""
SHOWN = 60
"""Characters of a value in a message."""
WHERE = "the request for a plan"


@dataclass(frozen=True, kw_only=True)
class PlanRequest:
    """A request for a plan, checked when it is constructed; raises PlanError on a contradiction."""

    budget: str | float | None = None
    """Training compute: FLOPs, or text such as "1e21" or "300 PF-days"."""
    days: float | None = None
    """Days on `gpus` devices of type `gpu`, restarts and lost time included."""
    dollars: float | None = None
    """US dollars for devices of type `gpu`, restarts and lost time included, people not."""
    loss: float | None = None
    """Loss to reach, nats per token."""

    params: float | None = None
    """Number of parameters N. With `tokens` it fixes the model and needs no evidence."""
    tokens: float | None = None
    """Number of training tokens D."""
    max_params: float | None = None
    """Largest number of parameters, for example what fits in memory when the model is used."""
    unique_tokens: float | None = None
    """Size of the deduplicated corpus in tokens; a longer run repeats it."""
    tokens_available: float | None = None
    """Training tokens of the recipe's corpus where it is not prepared on this machine; None: counted."""
    token_price: float | None = None
    """US dollars for one more unique token."""
    demand: float | None = None
    """Tokens that the model reads and writes in its life, at 2 N FLOPs each."""

    gpu: str | None = None
    """Type of device, such as "h100"; None: the device of the sweep."""
    gpus: int | None = None
    """Number of devices; None: the fewest that hold the run."""
    mfu: float | None = None
    """Model FLOPs utilisation in training, end to end, 0 to 1; None: measured on the sweep, or estimated
    for the layout."""
    mfu_inference: float | None = None
    """Model FLOPs utilisation in use, 0 to 1; `demand` is then also priced in dollars."""
    region: str | None = None
    """Electricity grid whose carbon intensity applies, such as "france"; None: unknown."""
    rates: Path | None = None
    """File of prices, carbon intensities and accelerators; None: the shipped one."""
    price: str | float | None = None
    """US dollars per device and hour, or a range such as "2-3.5"; None: that of the rates."""
    goodput: float | None = None
    """Share of the occupied time in which devices train, 0 to 1; None: 1."""
    restart_reserve: float | None = None
    """Share of the training that is repeated after failures, 0 to 1; None: 0."""
    staff: float | None = None
    """People who work on the run, full-time equivalents; None: not counted."""
    salary: float | None = None
    """US dollars for one of them and year."""
    staff_months: float | None = None
    """Months of their work; None: the time in which the devices are occupied."""
    layout: str = ""
    """Processes along each axis, such as "shard=8,tensor=2"; empty: the cheapest that fits."""

    law: tuple[str, ...] = ()
    """Laws to fit; empty: the default ones."""
    param_count: str | None = None
    """Which count of parameters is N; None: that of the evidence."""
    replicates: int = 4000
    """Bootstrap replicates; 0 for no intervals."""
    seed: int = 0
    """Seed of the final run."""
    trials: int | None = None
    """Tuning trials assumed for the baseline cost comparison; None: 10."""
    override: str | None = None
    """Reason for planning although the gate refuses the forecast; None: do not."""
    name: str | None = None
    """Name of the plan; None: derived from the source and the budget."""

    def __post_init__(self) -> None:
        _refuse_other_types(self)
        _refuse_two_budgets(self)
        _refuse_two_constraints(self)
        _refuse_halves(self)

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> "PlanRequest":
        """Return the request with these values, from flags or a YAML mapping. None means not given.

        Args:
            values: By field; names may have dashes.

        Raises:
            PlanError: A name is unknown, or the values contradict one another.
        """
        known = {field.name for field in fields(cls)}
        named = {key.replace("-", "_"): value for key, value in values.items() if value is not None}
        if unknown := sorted(set(named) - known):
            raise PlanError(
                f"unknown: {', '.join(unknown)}", where=WHERE, fix=f"use one of: {', '.join(sorted(known))}"
            )
        if "law" in named:
            named["law"] = (named["law"],) if isinstance(named["law"], str) else tuple(named["law"])
        return cls(**named)

    @property
    def fixes_model(self) -> bool:
        """Whether both N and D are given."""
        return self.params is not None and self.tokens is not None


def flag(name: str) -> str:
    """Return the flag of a field: "--max-params"."""
    return "--" + name.replace("_", "-")


def _refuse_other_types(request: PlanRequest) -> None:
    """Refuse values that no flag could give: from Python every field takes any object."""
    for field in fields(request):
        value = getattr(request, field.name)
        kinds = get_args(field.type) if isinstance(field.type, UnionType) else (field.type,)
        if value is None or not {int, float, str} & set(kinds):
            continue
        problem, fix = f"{flag(field.name)} is {printable(repr(value))[:SHOWN]}", None
        if isinstance(value, str):
            if str not in kinds:
                fix = "give a number"
            elif len(value) > LONGEST_TEXT:
                fix = f"give at most {LONGEST_TEXT:,} characters"
        elif not {int, float} & set(kinds):
            fix = "give text"
        elif isinstance(value, bool) or not isinstance(value, Real):
            fix = "give a number"
        elif not abs(cast(float, value)) <= LARGEST_NUMBER:
            fix = "give a finite number"
        elif float not in kinds and not isinstance(value, Integral):
            fix = "give a whole number"
        if fix is not None:
            raise PlanError(problem, where=WHERE, fix=fix)
    if request.param_count is not None and request.param_count not in PARAM_COUNTS:
        raise PlanError(
            f"--param-count is {printable(repr(request.param_count))[:SHOWN]}",
            where=WHERE,
            fix=f"use one of: {', '.join(PARAM_COUNTS)}",
        )


def _refuse_two_budgets(request: PlanRequest) -> None:
    ways = {
        "--budget": request.budget is not None,
        "--gpus with --days": request.days is not None,
        "--dollars": request.dollars is not None,
        "--loss": request.loss is not None,
        "--params with --tokens": request.fixes_model,
    }
    given = [way for way, is_given in ways.items() if is_given]
    if len(given) > 1:
        raise PlanError(
            f"the budget is given in {len(given)} ways: {' and '.join(given)}",
            where=WHERE,
            fix="keep one of them; the others follow from it",
        )
    if not given:
        raise PlanError(
            "no budget is given",
            where=WHERE,
            fix='--budget 1e21, --budget "300 PF-days", --gpus 1000 --gpu h100 --days 30 --mfu '
            "0.4, --dollars 1e6 --gpu h100 --mfu 0.4, --loss 2.5, or --params N --tokens D",
        )


def _refuse_two_constraints(request: PlanRequest) -> None:
    given = [name for name in CHOOSERS if getattr(request, name) is not None]
    if len(given) > 1 and not (request.fixes_model and len(given) == 2):
        raise PlanError(
            f"{' and '.join(map(flag, given))} each decide the model",
            where=WHERE,
            fix="keep one of them, or --params with --tokens",
        )


def _refuse_halves(request: PlanRequest) -> None:
    for name, needs in NEEDS:
        if getattr(request, name) is not None and getattr(request, needs) is None:
            raise PlanError(
                f"{flag(name)} requires {flag(needs)}",
                where=WHERE,
                fix=f"add {flag(needs)}, or leave {flag(name)} out",
            )
    for name, (largest, unit) in LARGEST.items():
        value = getattr(request, name)
        if value is None:
            continue
        if isinstance(value, str) or not 0 < value < math.inf:
            raise PlanError(f"{flag(name)} is {value!r}", where=WHERE, fix="give a positive, finite number")
        if value > largest:
            raise PlanError(
                f"{flag(name)} is {value:g}, which is implausible",
                where=WHERE,
                fix=f"give a number of {unit} up to {largest:g}",
            )
