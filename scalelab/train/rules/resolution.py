"""From a recipe's part with rules in it to the part at a scale.

    member with rules  ->  rules that read N, D, batch  ->  its rate  ->  rules that read the rate

Not here: what a rule is (base.py), the rules.
"""

from functools import cache
from typing import Annotated, Any, ClassVar, get_args

from pydantic import BeforeValidator, TypeAdapter, ValidationError, create_model
from pydantic.fields import FieldInfo

from scalelab.config import Config, PluginField
from scalelab.errors import ConfigError
from scalelab.registry import Registry
from scalelab.train import RULES
from scalelab.train.rules.base import Rule, Scale
from scalelab.train.rules.power import ConstantRule
from scalelab.units import sci


class UnresolvedPlugin(Config):
    """A member of a registry in a recipe, some of whose numbers are rules."""

    decides: ClassVar[type[Config]]

    def decided(self, scale: Scale) -> Config:
        """The member with its numbers at a scale.

        Raises:
            ConfigError: A rule gives a number that the member cannot have.
        """
        values = {name: getattr(self, name) for name in self.model_fields_set}
        rules = {name: rule for name, rule in values.items() if isinstance(rule, Rule)}
        late = {name for name, rule in rules.items() if rule.reads_rate}
        given = {name: rule.at(scale) for name, rule in rules.items() if name not in late}
        stated = {name: value for name, value in values.items() if name not in late}
        member = self._with(stated, given, scale)
        if late:
            scale = scale.with_rate(_rate_of(member, scale, late))
            given |= {name: rules[name].at(scale) for name in late}
            member = self._with(values, given, scale)
        return member

    def _with(self, values: dict[str, Any], given: dict[str, float], scale: Scale) -> Config:
        """The member with numbers in place of rules. Raises ConfigError where one cannot be."""
        try:
            return self.decides.model_validate(values | given)
        except ValidationError as error:
            said = "; ".join(f"{name} {value:g}" for name, value in given.items())
            reason = error.errors()[0]["msg"].removeprefix("Value error, ")
            place = ".".join(str(part) for part in error.errors()[0]["loc"])
            reason = reason if place in given else f"{place}: {reason}" if place else reason
            raise ConfigError(
                f"the rules of {self.decides.model_fields['kind'].default} give {said}: {reason}",
                where=f"recipe: for {scale.words()}",
                fix=f"change the rule of {' or '.join(given) or place}",
            ) from None

    def summary(self) -> str:
        """The rate, and which numbers are rules, for a plan."""
        values = {name: getattr(self, name) for name in type(self).model_fields}
        words = {name: _named(v) for name, v in values.items() if isinstance(v, Rule)}
        if "lr" in values and "lr" not in words:
            words = {"lr": sci(values["lr"])} | words
        return ", ".join(f"{name} {word}" for name, word in words.items())


def _named(rule: Rule) -> str:
    """A constant as its value, another rule by its kind."""
    return sci(rule.value) if isinstance(rule, ConstantRule) else f"by {rule.kind}"


def rule_words(rule: Rule) -> str:
    """A rule and its constants in words, the same for equal rules."""
    constants = rule.model_dump(exclude={"kind"}, exclude_defaults=True)
    said = ", ".join(f"{name} {value}" for name, value in constants.items())
    return f"{rule.kind} ({said})" if said else rule.kind


def _rate_of(member: Any, scale: Scale, late: set[str]) -> float:
    """The peak rate of matrices of an optimizer's recipe.

    Raises:
        ConfigError: It has none, or one of zero.
    """
    rate = member.at(scale).rates().get("lr", 0.0) if hasattr(member, "at") else 0.0
    if rate > 0:
        return rate
    names = " and ".join(sorted(late))
    raise ConfigError(
        f"the rule of {names} reads the learning rate, and {member.kind} has none",
        where=f"recipe: for {scale.words()}",
        fix=f"give {names} as a number, or by a rule that does not read the rate",
    )


def decided(member: Config, scale: Scale) -> Any:
    """What a recipe's part is at a scale."""
    return member.decided(scale) if isinstance(member, UnresolvedPlugin) else member


def ruled(registry: Registry, part: str | None = None, default: str | None = None) -> Any:
    """The type of a field like plugin()'s, in which a rule may stand for any number."""
    return Annotated[Any, BeforeValidator(_RuledChoice(registry, part, default))]


class _RuledChoice(PluginField):
    def __call__(self, value: object) -> object:
        if isinstance(value, dict) and self.has(value.get("kind")):
            member = self.member(value.get("kind"))
            numbers = value.keys() & {n for n, i in member.model_fields.items() if _is_number(i)}
            if any(_is_rule(value[name]) for name in numbers):
                return _undecided(member).model_validate(value)
        return super().__call__(value)


def number_fields(config: Config) -> dict[str, type]:
    """Fields of a recipe's part for which a rule can stand, with int for whole numbers and float for others."""
    member = config.decides if isinstance(config, UnresolvedPlugin) else type(config)
    return {
        name: float if float in _kinds(info) else int
        for name, info in member.model_fields.items()
        if _is_number(info)
    }


def _is_number(field: FieldInfo) -> bool:
    """Whether a field is a number, or a number or nothing."""
    return not {int, float}.isdisjoint(_kinds(field))


def _kinds(field: FieldInfo) -> set[Any]:
    """Types of a field, those of "number or nothing" too."""
    kinds = (field.annotation, *get_args(field.annotation))
    return {next(iter(get_args(kind)), kind) for kind in kinds}


def _is_rule(value: object) -> bool:
    """Whether a value is meant for a rule. Other text is a number in quotes, as elsewhere."""
    return isinstance(value, Rule | dict) or value in RULES


@cache
def _undecided(member: type[Config]) -> type[UnresolvedPlugin]:
    """The config like `member` whose numbers may be rules."""
    fields: dict[str, Any] = {}
    for name, info in member.model_fields.items():
        kind = Annotated[info.annotation, *info.metadata] if info.metadata else info.annotation
        if _is_number(info):
            kind = Annotated[Any, BeforeValidator(_NumberOrRule(kind))]
        default = ... if info.is_required() else info.get_default(call_default_factory=True)
        fields[name] = (kind, default)
    made = create_model(member.__name__, __base__=UnresolvedPlugin, **fields)
    made.decides = member
    return made


class _NumberOrRule:
    def __init__(self, kind: Any):
        self._number, self._rule = TypeAdapter(kind), PluginField(RULES)

    def __call__(self, value: object) -> object:
        return self._rule(value) if _is_rule(value) else self._number.validate_python(value)
