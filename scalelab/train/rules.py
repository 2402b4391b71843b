"""Rules: a number of a recipe as a function of the scale of a run.

    N, D, width, depth, C  ->  batch  ->  steps  ->  rates, decays, betas, warmup

Wherever a recipe's optimizer or schedule has a number, a rule may stand instead:

    optimizer:
      lr: {kind: power, coefficient: 1.79, n_params: -0.713, n_tokens: 0.307}

What a rule may read is settled before it is asked: a rule of the batch that reads the batch, or
what follows from it, is refused. No rule reads another.

Not here: the recipe (recipe.py), schedules (schedule.py), what an optimizer's numbers mean
(optimizers/).
"""

import math
from abc import abstractmethod
from dataclasses import dataclass, replace
from functools import cache
from typing import Annotated, Any, ClassVar, Literal, Self, get_args

from pydantic import (
    BeforeValidator,
    Field,
    TypeAdapter,
    ValidationError,
    create_model,
    model_validator,
)
from pydantic.fields import FieldInfo

from scalelab.config import Choice, Config, Count, NonNegative, Number, Positive
from scalelab.errors import ConfigError
from scalelab.registry import Registry
from scalelab.train import RULES
from scalelab.units import sci, si

QUANTITIES = ("n_params", "n_tokens", "width", "depth", "flops", "batch_tokens", "n_steps")
"""Of a Scale, that a rule may read."""


@dataclass(frozen=True)
class Scale:
    """The scale of one run, as far as it is settled."""

    n_params: float
    """N, by the recipe's count."""
    n_tokens: float
    """D, as asked for: the run's own is whole steps of it."""
    width: int
    depth: int
    flops: float
    """C = FLOPs per training token, exact, x D."""
    batch: int | None = None
    """Tokens per step; None before it is settled. Rules read batch_tokens."""

    @property
    def batch_tokens(self) -> int:
        """Tokens per step. Raises ConfigError where it is this that is being settled."""
        if self.batch is None:
            raise ConfigError(
                "the rule of the batch reads the batch, or what follows from it",
                where="recipe.batch",
                fix="let it read n_params, n_tokens, width, depth or flops",
            )
        return self.batch

    @property
    def n_steps(self) -> int:
        """Whole steps that come nearest to n_tokens. Raises ConfigError likewise."""
        return round(self.n_tokens / self.batch_tokens)

    def with_batch(self, batch_tokens: int) -> "Scale":
        """The same, once the batch is settled."""
        return replace(self, batch=batch_tokens)

    def words(self) -> str:
        """N and D, for a message."""
        return f"{si(self.n_params)} parameters on {si(self.n_tokens)} tokens"


class Rule(Config):
    """A number as a function of the scale of a run. The base of all members of RULES.

    A subclass has a field `kind`, which is always its name in the registry.
    """

    kind: str

    @abstractmethod
    def at(self, scale: Scale) -> float:
        """The number at a scale."""


class Power(Rule):
    """coefficient x n_params^a x n_tokens^b x ..., within [least, most].

    Such are the published ones: rate and batch as powers of N and D, Li et al. 2025 (Step law),
    arXiv:2503.04715; as powers of C, Bi et al. 2024 (DeepSeek LLM), arXiv:2401.02954.
    """

    kind: Literal["power"] = "power"
    coefficient: Positive
    n_params: Number = 0.0
    """Exponent of N; so are the others of theirs."""
    n_tokens: Number = 0.0
    width: Number = 0.0
    depth: Number = 0.0
    flops: Number = 0.0
    batch_tokens: Number = 0.0
    n_steps: Number = 0.0
    least: NonNegative = 0.0
    most: Positive | None = None

    def at(self, scale: Scale) -> float:
        """The product, within its limits."""
        value = self.coefficient
        for name in QUANTITIES:
            if exponent := getattr(self, name):
                value *= float(getattr(scale, name)) ** exponent
        return max(self.least, value if self.most is None else min(value, self.most))


class BatchRule(Rule):
    """Tokens per optimizer step as a power of the tokens of the run.

    Source: Bergsma et al. 2025, arXiv:2505.13738.
    """

    kind: Literal["batch"] = Field("batch", json_schema_extra={"since": 2})
    coefficient: Positive = 0.9
    exponent: NonNegative = 0.5
    min_tokens: Count = 512
    max_tokens: Count = 2**22

    @model_validator(mode="after")
    def _range(self) -> Self:
        if self.min_tokens > self.max_tokens:
            raise ValueError(f"min_tokens {self.min_tokens} is over max_tokens {self.max_tokens}")
        return self

    def at(self, scale: Scale) -> float:
        """The power of D, in [min_tokens, max_tokens]."""
        wanted = self.coefficient * scale.n_tokens**self.exponent
        return min(max(wanted, self.min_tokens), self.max_tokens)


def whole_batch(rule: Rule, scale: Scale, seq_len: int) -> int:
    """Tokens per step by a rule, to the nearest power of two of whole windows.

    Raises:
        ConfigError: The rule gives no positive number.
    """
    wanted = rule.at(scale)
    if not 0 < wanted < math.inf:
        raise ConfigError(
            f"the rule {rule.kind!r} gives a batch of {wanted} tokens",
            where=f"recipe.batch, for {scale.words()}",
            fix="change the rule so that it gives a positive number there",
        )
    return seq_len * 2 ** max(0, round(math.log2(wanted / seq_len)))


class Undecided(Config):
    """A member of a registry in a recipe, some of whose numbers are rules."""

    decides: ClassVar[type[Config]]

    def decided(self, scale: Scale) -> Config:
        """The member with its numbers at a scale.

        Raises:
            ConfigError: A rule gives a number that the member cannot have.
        """
        values = {name: getattr(self, name) for name in self.model_fields_set}
        rules = {name: rule for name, rule in values.items() if isinstance(rule, Rule)}
        given = {name: rule.at(scale) for name, rule in rules.items()}
        try:
            return self.decides.model_validate(values | given)
        except ValidationError as error:
            said = "; ".join(f"{name} {value:g}" for name, value in given.items())
            reason = error.errors()[0]["msg"].removeprefix("Value error, ")
            raise ConfigError(
                f"the rules of {self.decides.model_fields['kind'].default} give {said}: {reason}",
                where=f"the recipe, for {scale.words()}",
                fix=f"change the rule of {' or '.join(given)}",
            ) from None

    def summary(self) -> str:
        """The rate, and which numbers are rules, for a plan."""
        values = {name: getattr(self, name) for name in type(self).model_fields}
        words = {name: f"by {v.kind}" for name, v in values.items() if isinstance(v, Rule)}
        if "lr" in values and "lr" not in words:
            words = {"lr": sci(values["lr"])} | words
        return ", ".join(f"{name} {word}" for name, word in words.items())


def decided(member: Config, scale: Scale) -> Any:
    """What a recipe's part is at a scale."""
    return member.decided(scale) if isinstance(member, Undecided) else member


def ruled(registry: Registry, part: str | None = None, default: str | None = None) -> Any:
    """The type of a field like plugin()'s, in which a rule may stand for any number."""
    return Annotated[Any, BeforeValidator(_RuledChoice(registry, part, default))]


class _RuledChoice(Choice):
    def __call__(self, value: object) -> object:
        if isinstance(value, dict) and self.has(value.get("kind")):
            member = self.member(value.get("kind"))
            numbers = value.keys() & {n for n, i in member.model_fields.items() if _is_number(i)}
            if any(_is_rule(value[name]) for name in numbers):
                return _undecided(member).model_validate(value)
        return super().__call__(value)


def _is_number(field: FieldInfo) -> bool:
    """Whether a field is a number, or a number or nothing."""
    kinds = (field.annotation, *get_args(field.annotation))  # those of "number or nothing" too
    return not {int, float}.isdisjoint(next(iter(get_args(kind)), kind) for kind in kinds)


def _is_rule(value: object) -> bool:
    """Whether a value is meant for a rule. Other text is a number in quotes, as elsewhere."""
    return isinstance(value, Rule | dict) or value in RULES


@cache
def _undecided(member: type[Config]) -> type[Undecided]:
    """The config like `member` whose numbers may be rules."""
    fields: dict[str, Any] = {}
    for name, info in member.model_fields.items():
        kind = Annotated[info.annotation, *info.metadata] if info.metadata else info.annotation
        if _is_number(info):
            kind = Annotated[Any, BeforeValidator(_NumberOrRule(kind))]
        default = ... if info.is_required() else info.get_default(call_default_factory=True)
        fields[name] = (kind, default)
    made = create_model(member.__name__, __base__=Undecided, **fields)
    made.decides = member
    return made


class _NumberOrRule:
    def __init__(self, kind: Any):
        self._number, self._rule = TypeAdapter(kind), Choice(RULES)

    def __call__(self, value: object) -> object:
        return self._rule(value) if _is_rule(value) else self._number.validate_python(value)
