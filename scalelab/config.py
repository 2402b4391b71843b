"""Base of all configs: typed, frozen, hashed, without unknown keys.

    scalelab sweep isoflop.yaml --set recipe.seq_len=128

reads the file, applies the override, validates, and hashes the result. All errors of a file are
reported together, each with its line. Packages declare their configs beside the code that they
configure; this file has what all configs share.

Not here: how YAML is read, and its limits (yaml_document.py, yaml_builder.py); how errors in values
are reported (config_errors.py).
"""

import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo
from ruamel.yaml import YAML
from ruamel.yaml.representer import SafeRepresenter

from scalelab.config_errors import arithmetic_reason, refusal
from scalelab.errors import ConfigError, ScalelabError
from scalelab.file_kinds import YAML_ENDINGS, refuse_other_kind, refuse_other_path, similar_path
from scalelab.registry import Registry, did_you_mean
from scalelab.yaml_builder import BareWord, is_ambiguous, shortened
from scalelab.yaml_document import YamlDocument, parse_yaml, read

__all__ = ["YamlDocument", "arithmetic_reason", "parse_yaml", "read"]

_ORIGIN = "_origin"
"""Attribute with the YamlDocument that a config was loaded from."""
_KEY = re.compile(r"[a-z_]+(\.[\w-]+)*(?=$|[:,])")
"""Dotted key at the start of a place."""
LARGEST = 2**63 - 1
"""Largest whole number of a config: that of a signed 64-bit integer, in which torch and NumPy count."""
LARGEST_SEED = 2**32 - 1
"""Largest seed that every generator takes: torch 64 bits, NumPy's legacy one and thus transformers 32."""

# Strict, so that "1e12" in quotes, `true` or 2.5 cannot pass for a count. A whole number may
# be written as 1e6, because that is how people write token counts.
Number = Annotated[float, Field(strict=True)]
Positive = Annotated[float, Field(strict=True, gt=0)]
NonNegative = Annotated[float, Field(strict=True, ge=0)]
Flops = Positive
Fraction = Annotated[float, Field(strict=True, ge=0, le=1)]


def _whole(value: object) -> object:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _name(value: object) -> object:
    if isinstance(value, BareWord):
        raise ValueError(f'{value} is not text to every reader of YAML: quote it, "{value}"')
    return value


Whole = Annotated[int, BeforeValidator(_whole), Field(strict=True, ge=0, le=LARGEST)]
Count = Annotated[int, BeforeValidator(_whole), Field(strict=True, gt=0, le=LARGEST)]
Seed = Annotated[int, BeforeValidator(_whole), Field(strict=True, ge=0, le=LARGEST_SEED)]
Switch = Annotated[bool, Field(strict=True)]
Name = Annotated[
    str, BeforeValidator(_name), Field(strict=True, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
]


def _hashable(value: Any) -> Any:
    """Return a value as one that can be hashed: equal ones of equal values."""
    if isinstance(value, dict):
        return frozenset((key, _hashable(each)) for key, each in value.items())
    return tuple(map(_hashable, value)) if isinstance(value, list | tuple) else value


class Config(BaseModel):
    """Base of every config. Frozen, so that a run's hash cannot drift from its contents."""

    file_kind: ClassVar[str | None] = None
    """Kind of file that is a whole config of this class, of file_kinds.KINDS; None: part of a file."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    @classmethod
    def load(cls, path: Path, overrides: Sequence[str] = ()) -> Self:
        """The config that `path` describes, with `a.b=value` overrides laid over it.

        Raises:
            ConfigError: Naming every mistake at once, each with its file and line.
        """
        document = cls.read_file(path)
        for override in overrides:
            document.override(override)
        config = cls.parse(document)
        # As a cached property would: it is no field, so it is neither compared, hashed nor written.
        config.__dict__[_ORIGIN] = document
        return config

    def __hash__(self) -> int:
        """Hash of the fields, of which some may be mappings or lists."""
        return hash(tuple(_hashable(self.__dict__[name]) for name in type(self).model_fields))

    @contextmanager
    def located(self) -> Iterator[None]:
        """Add file and line to errors of the body whose place is a key of this config ("design.budgets").

        Raises:
            ScalelabError: The body's own, with the place in its file where there is one.
        """
        try:
            yield
        except ScalelabError as error:
            document: YamlDocument | None = self.__dict__.get(_ORIGIN)
            key = _KEY.match(error.where)
            if document is None or key is None or key[0].split(".")[0] not in type(self).model_fields:
                raise
            path = tuple(int(part) if part.isdecimal() else part for part in key[0].split("."))
            error.begin_place(document.place(path))
            raise

    @classmethod
    def read_file(cls, path: Path) -> YamlDocument:
        """Return the contents of a file of this kind.

        Raises:
            ConfigError: The file cannot be read, or is of another kind.
        """
        if cls.file_kind is None:
            return read(path)
        if path.suffix.lower() not in YAML_ENDINGS or os.path.isdir(path):
            refuse_other_path(path, cls.file_kind)
        if not os.path.lexists(path) and (similar := similar_path(path)) is not None:
            raise ConfigError(
                f"cannot read {path}: No such file or directory",
                where=str(path),
                fix=f"did you mean {similar}?",
            )
        document = read(path)
        refuse_other_kind(document, cls.file_kind)
        return document

    @classmethod
    def parse(cls, document: "YamlDocument") -> Self:
        """The config that a document describes. Raises ConfigError naming every mistake."""
        try:
            return cls.model_validate(document.data)
        except ValidationError as error:
            raise refusal(error, document, cls) from None
        except ArithmeticError as error:
            raise ConfigError(
                f"{document.name} cannot be used: {arithmetic_reason(error)}",
                where=document.name,
                fix="correct the largest and smallest numbers of the file",
            ) from None

    @property
    def digest(self) -> str:
        """Twelve hex digits that name the contents: equal configs, equal digests."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:12]

    def to_yaml(self) -> str:
        """The config as YAML text; parsing it gives an equal config."""
        out = StringIO()
        yaml = YAML(typ="safe", pure=True)
        yaml.Representer = _Representer
        yaml.default_flow_style = False
        yaml.sort_base_mapping_type_on_output = False
        yaml.dump(self.model_dump(mode="json"), out)
        return out.getvalue()


@contextmanager
def refuse_arithmetic(what: str, where: str, fix: str) -> Iterator[None]:
    """Turn an overflow, a division by zero or an impossible config into a ConfigError.

    For code that computes settings from the numbers of a config, each of which is possible by itself.

    Args:
        what: What is computed: "the rules of the recipe".
        where: Keys whose numbers enter.
        fix: What to change.

    Raises:
        ConfigError: The body raised ArithmeticError or ValueError.
    """
    try:
        yield
    except (ArithmeticError, ValueError) as error:
        problem = f"{what} cannot be computed: {arithmetic_reason(error)}"
        raise ConfigError(problem, where=where, fix=fix) from None


class _Representer(SafeRepresenter):
    """Writes text in quotes where another reader of YAML would not read text."""


def _represent_text(representer: SafeRepresenter, text: str) -> Any:
    style = "'" if is_ambiguous(text) else None
    return representer.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Representer.add_representer(str, _represent_text)


def changed(config: Config) -> dict[str, Any]:
    """What of a config differs from the defaults, as JSON types; `kind` always.

    A field that is added with a default later on is not here, so what is hashed over this stays.
    Nor is a `kind` that came later (see digest_without): there was one kind before it.
    """
    plain, found = config.model_dump(mode="json"), {}
    for name, info in type(config).model_fields.items():
        value = getattr(config, name)
        always = info.is_required() or (name == "kind" and _since(info) == 1)
        if always or value != info.get_default(call_default_factory=True):
            found[name] = _changed(value, plain[name])
    return found


def _changed(value: Any, plain: Any) -> Any:
    if isinstance(value, Config):
        return changed(value)
    if isinstance(value, tuple | list):
        return [_changed(*pair) for pair in zip(value, plain, strict=True)]
    if isinstance(value, dict):
        return {key: _changed(inner, plain[key]) for key, inner in value.items()}
    return plain


def digest_without(config: Config, after: int) -> str:
    """`Config.digest` as it was before fields marked `since` later than schema `after` came.

    A field is marked with `Field(default, json_schema_extra={"since": 3})`.
    """
    text = config.model_dump_json(exclude=later_fields(config, after))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def later_fields(config: Config, after: int) -> dict[str, Any]:
    """Fields marked as later than a schema, and those below them; for pydantic's `exclude`.

    One that is set is not among them: nothing from before can be meant.
    """
    found: dict[str, Any] = {}
    for name, info in type(config).model_fields.items():
        value = getattr(config, name)
        if _since(info) > after and value == info.get_default(call_default_factory=True):
            found[name] = True
        elif isinstance(value, Config) and (below := later_fields(value, after)):
            found[name] = below
    return found


def _since(info: FieldInfo) -> int:
    """The schema with which a field came."""
    extra = info.json_schema_extra
    return int(extra.get("since", 1)) if isinstance(extra, dict) else 1


def short_hash(value: Any) -> str:
    """Twelve hex digits of a value of JSON types, whatever the order of its keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def plugin(registry: Registry, part: str | None = None, default: str | None = None) -> Any:
    """The type of a field whose config class is looked up in `registry` by its own `kind`.

    `source: {kind: text, paths: [...]}` becomes the config registered as "text". A bare word
    stands for a member with nothing to set: `source: pycode`.

    Args:
        registry: Holds the config classes, or classes that have them.
        part: The attribute of a member that is the config class; None: the member itself.
        default: The kind of settings that name none, as all were before there were others.
    """
    return Annotated[Any, BeforeValidator(PluginField(registry, part, default))]


class PluginField:
    """Validates a field of plugin()'s."""

    def __init__(self, registry: Registry, part: str | None = None, default: str | None = None):
        self._registry, self._part, self._default = registry, part, default

    def has(self, kind: object) -> bool:
        """Whether there is such a member; None stands for the default."""
        return (self._default if kind is None else kind) in self._registry

    def member(self, kind: str | None) -> type[Config]:
        """The config class of a kind, likewise."""
        found = self._registry[self._default if kind is None else kind]
        return found if self._part is None else getattr(found, self._part)

    def __call__(self, value: object) -> object:
        """The config that a value describes."""
        registry = self._registry
        if isinstance(value, Config):
            return value
        if isinstance(value, str):
            value = {"kind": value}
        if not isinstance(value, dict) or ("kind" not in value and self._default is None):
            raise ValueError(f"name one {registry.noun} as `kind`: {', '.join(registry)}")
        kind = value.get("kind")
        if not self.has(kind):
            raise ValueError(
                f"unknown {registry.noun} {shortened(kind)}{did_you_mean(kind, registry)}"
                f" (there are: {', '.join(registry)})"
            )
        return self.member(kind).model_validate(value)
