"""The grammar of everything that a person writes down: typed, frozen, hashed, no extras.

Files are YAML 1.2, so `1e12` is a number and `no` is a word. Every mistake in a file is
answered at once, each with its line. Rooms declare their own configs beside the code that
they configure; this file knows only how a config behaves.

    scalelab sweep isoflop.yaml --set recipe.seq_len=128

reads the file, lays the override over it, validates, and hashes what came out.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Annotated, Any, Self, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.constructor import DuplicateKeyError
from ruamel.yaml.error import MarkedYAMLError

from scalelab.errors import ConfigError
from scalelab.registry import Registry, did_you_mean

# Strict, so that "1e12" in quotes, `true` or 2.5 cannot pass for a count. A whole number may
# be written as 1e6, because that is how people write token counts.
Number = Annotated[float, Field(strict=True)]
Positive = Annotated[float, Field(strict=True, gt=0)]
NonNegative = Annotated[float, Field(strict=True, ge=0)]
Flops = Positive
Fraction = Annotated[float, Field(strict=True, ge=0, le=1)]


def _whole(value: object) -> object:
    return int(value) if isinstance(value, float) and value.is_integer() else value


Whole = Annotated[int, BeforeValidator(_whole), Field(strict=True, ge=0)]
Count = Annotated[int, BeforeValidator(_whole), Field(strict=True, gt=0)]
Switch = Annotated[bool, Field(strict=True)]
Name = Annotated[str, Field(strict=True, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]

Path_ = tuple[str | int, ...]


class Config(BaseModel):
    """Base of every config. Frozen, so that a run's hash cannot drift from its contents."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True
    )

    @classmethod
    def load(cls, path: Path, overrides: Sequence[str] = ()) -> Self:
        """The config that `path` describes, with `a.b=value` overrides laid over it.

        Raises:
            ConfigError: Naming every mistake at once, each with its file and line.
        """
        document = read(path)
        for override in overrides:
            document.override(override)
        return cls.parse(document)

    @classmethod
    def parse(cls, document: "Document") -> Self:
        """The config that a document describes. Raises ConfigError naming every mistake."""
        try:
            return cls.model_validate(document.data)
        except ValidationError as error:
            wrong = [_explain(e, document, cls) for e in error.errors()]
            wrong.sort(key=lambda w: w.problem.endswith("is missing"))  # a typo explains a gap
            count = "1 mistake" if len(wrong) == 1 else f"{len(wrong)} mistakes"
            raise ConfigError(
                f"{count} in {document.name}: {wrong[0].problem}"
                + (" (and others, below)" if len(wrong) > 1 else ""),
                where="\n         ".join(f"{w.place}: {w.path}: {w.problem}" for w in wrong),
                fix="; ".join(dict.fromkeys(w.fix for w in wrong)),
            ) from None

    @property
    def digest(self) -> str:
        """Twelve hex digits that name the contents: equal configs, equal digests."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:12]

    def to_yaml(self) -> str:
        """The config as YAML text; parsing it gives an equal config."""
        out = StringIO()
        yaml = YAML(typ="safe", pure=True)
        yaml.default_flow_style = False
        yaml.sort_base_mapping_type_on_output = False
        yaml.dump(self.model_dump(mode="json"), out)
        return out.getvalue()


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
    return Annotated[Any, BeforeValidator(Choice(registry, part, default))]


class Choice:
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
                f"unknown {registry.noun} {kind!r}{did_you_mean(kind, registry)}"
                f" (there are: {', '.join(registry)})"
            )
        return self.member(kind).model_validate(value)


@dataclass
class Document:
    """What a YAML file says, and where it says it."""

    name: str
    data: dict[str, Any]
    marks: dict[Path_, int] = field(default_factory=dict)
    """Line of each key and item, counted from 1."""
    notes: dict[Path_, str] = field(default_factory=dict)
    """Where a value came from when it was not the file."""

    def place(self, path: Path_) -> str:
        """`file:line` of the nearest enclosing thing that was written."""
        for end in range(len(path), -1, -1):
            if path[:end] in self.notes:
                return self.notes[path[:end]]
            if path[:end] in self.marks:
                return f"{self.name}:{self.marks[path[:end]]}"
        return f"{self.name}:1"

    def override(self, text: str) -> None:
        """Lay one `a.b=value` over the data. The value is read as YAML."""
        dotted, equals, written = text.partition("=")
        keys = dotted.strip().split(".")
        if not equals or not all(keys):
            raise ConfigError(
                f"cannot read the override {text!r}",
                where="--set",
                fix="write it as --set a.b=value",
            )
        parts: Path_ = tuple(int(key) if key.isdigit() else key for key in keys)
        here: Any = self.data
        for i, part in enumerate(parts[:-1]):
            if isinstance(here, list) and isinstance(part, int) and part < len(here):
                here = here[part]
            elif isinstance(here, dict):
                if here.setdefault(part, {}) is None:
                    here[part] = {}
                here = here[part]
            else:
                self._no_place(text, parts[: i + 1])
        try:
            here[parts[-1]] = _plain(_yaml().load(written or "null"), (), {})
        except MarkedYAMLError as error:
            raise ConfigError(
                f"cannot read the value of {text!r}: {error.problem}",
                where="--set",
                fix="write the value as YAML: a number, a word, [a, list]",
            ) from None
        except (IndexError, TypeError):
            self._no_place(text, parts)
        self.notes[parts] = f"--set {text}"
        self.marks = {
            path: line for path, line in self.marks.items() if path[: len(parts)] != parts
        }

    def _no_place(self, text: str, parts: Path_) -> None:
        raise ConfigError(
            f"the override {text!r} leads nowhere",
            where=f"{self.name} has no {'.'.join(map(str, parts))}",
            fix="name a key that the file has, or could have",
        ) from None


def read(path: Path) -> Document:
    """The contents of a YAML file with the line of everything in it.

    Raises:
        ConfigError: The file is missing, unreadable, not YAML, or says a key twice.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise ConfigError(
            f"cannot read {path}: {reason}", where=str(path), fix="name a readable YAML file"
        ) from None
    return parse_yaml(text, str(path))


def parse_yaml(text: str, name: str) -> Document:
    """The same, from text that is already in hand; `name` is what messages call it."""
    try:
        loaded = _yaml().load(text)
    except DuplicateKeyError as error:
        line = error.problem_mark.line + 1
        found = re.search(r'duplicate key "(.*?)"', error.problem or "")
        key = found[1] if found else "a key"
        raise ConfigError(
            f"the key {key!r} is given twice", where=f"{name}:{line}", fix="keep one of the two"
        ) from None
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError(
            f"not YAML: {error.problem or error.context}",
            where=f"{name}:{line}",
            fix="mend the line; indent with spaces, and put a space after each colon",
        ) from None
    except Exception as error:
        # ruamel raises its own ReaderError, and bare ValueErrors, for bytes that are not text.
        if type(error).__module__.startswith("ruamel") or isinstance(error, ValueError):
            raise ConfigError(f"not YAML: {error}", where=name, fix="name a YAML file") from None
        raise
    if not isinstance(loaded, dict):
        what = "empty" if loaded is None else "not made of keys and values"
        raise ConfigError(f"the file is {what}", where=f"{name}:1", fix="write `key: value` lines")
    marks: dict[Path_, int] = {}
    return Document(name, _plain(loaded, (), marks), marks)


def _yaml() -> YAML:
    return YAML(typ="rt", pure=True)  # round-trip: it alone remembers lines


def _plain(node: Any, path: Path_, marks: dict[Path_, int]) -> Any:
    """The node as plain Python values, its lines noted in `marks`."""
    if isinstance(node, CommentedMap):
        for key in node:
            marks[(*path, key)] = _line(node.lc.key, key)
        return {key: _plain(value, (*path, key), marks) for key, value in node.items()}
    if isinstance(node, CommentedSeq):
        for i in range(len(node)):
            marks[(*path, i)] = _line(node.lc.item, i)
        return [_plain(value, (*path, i), marks) for i, value in enumerate(node)]
    if isinstance(node, bool) or node is None:
        return node
    for kind in (int, float, str):
        if isinstance(node, kind):
            return kind(node)
    return node


def _line(find: Any, key: object) -> int:
    """The line of a key or an item; what came in by a merge or a tag has none, and gets 1."""
    try:
        return find(key)[0] + 1
    except (TypeError, KeyError):
        return 1


@dataclass(frozen=True)
class _Mistake:
    place: str
    path: str
    problem: str
    fix: str


def _explain(error: Any, document: Document, model: type[BaseModel]) -> _Mistake:
    """One mistake in words a person can act on."""
    path: Path_ = tuple(error["loc"])
    owner, shown, value = _owner(model, path, document.data), path, error["input"]
    place, dotted = document.place(path), ".".join(map(str, shown)) or "(file)"
    if error["type"] == "extra_forbidden":
        hint = did_you_mean(path[-1], list(owner))
        fix = f"keys here: {', '.join(owner)}" if owner else "remove it"
        return _Mistake(place, dotted, f"unknown key {path[-1]!r}{hint}", fix)
    if error["type"] == "missing":
        return _Mistake(place, dotted, f"{path[-1]!r} is missing", f"add `{path[-1]}: ...`")
    if error["type"] in {"float_type", "int_type"} and isinstance(value, str):
        problem = f"{value!r} is text, not a number"
        fix = "write a number, such as 3 or 1e12"
        return _Mistake(
            place, dotted, problem, f"write {value} without quotes" if _number(value) else fix
        )
    problem = error["msg"].removeprefix("Value error, ")
    if error["type"] != "value_error":
        problem = f"{problem[0].lower()}{problem[1:]}, got {value!r}"
    return _Mistake(place, dotted, problem, f"change {dotted}" if path else "change the file")


def _number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _owner(model: type[BaseModel] | None, path: Path_, data: Any) -> Sequence[str]:
    """Names of the fields that may stand beside the last part of `path`."""
    for part in path[:-1]:
        info = model.model_fields.get(str(part)) if model else None
        kinds = (info.annotation, *get_args(info.annotation)) if info else ()
        model = next((k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel)), None)
        try:
            data = data[part]
        except (LookupError, TypeError):
            data = None
        if model is None and isinstance(data, dict):
            model = _plugin_called(data.get("kind"), info)
    return list(model.model_fields) if model else []


def _plugin_called(name: object, info: Any) -> type[BaseModel] | None:
    """The config that a plug-in field holds, from the registry its validator was made with."""
    kinds = get_args(info.annotation) if info else ()  # of "a plug-in or nothing" too
    beside = [extra for kind in kinds for extra in getattr(kind, "__metadata__", ())]
    for extra in (*info.metadata, *beside) if info else ():
        choice = getattr(extra, "func", None)
        if isinstance(choice, Choice) and choice.has(name):
            return choice.member(name)
    return None
