"""Plain values from the events of a YAML parser, within limits.

    text -> events of ruamel's parser -> limits and checks -> dicts, lists and scalars

Files follow the core schema of YAML 1.2, so `1e12` is a number and `no` is text. What other readers
of YAML take for something else (`no`, `012`, `2024-01-31`) becomes a BareWord, which a name refuses.

Nothing is built before it is counted: an alias counts as everything that it stands for, and depth,
nodes and digits have limits, so no file can exhaust memory, time or the interpreter's stack. Control
characters and surrogates are refused in every key and value.

Not here: files, overrides and places of errors (yaml_document.py).
"""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    Event,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)

from scalelab.errors import ConfigError

Place = tuple[str | int, ...]

MAX_DEPTH = 50
"""Deepest nesting. Those of this program have seven levels; pydantic and ruamel recurse."""
MAX_NODES = 50_000
"""Most keys and values, with everything that aliases stand for: a second of work."""
MAX_DIGITS = 100
"""Longest number, in characters. A double has 17 significant digits."""
SHOWN = 60
"""Longest part of a value in a message."""

_INT = re.compile(r"[-+]?(0|[1-9][0-9_]*)|0o[0-7][0-7_]*|0x[0-9a-fA-F][0-9a-fA-F_]*|0b[01][01_]*")
_FLOAT = re.compile(
    r"[-+]?[0-9][0-9_]*\.[0-9_]*([eE][-+]?[0-9]+)?|[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+"
    r"|[-+]?\.[0-9][0-9_]*([eE][-+]?[0-9]+)?"
)
_CONSTANTS: Mapping[str, bool | float | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **{sign + word: float(sign + "inf") for sign in ("", "+", "-") for word in (".inf", ".Inf", ".INF")},
    **dict.fromkeys((".nan", ".NaN", ".NAN"), math.nan),
}
_NOT_TEXT_ELSEWHERE = re.compile(
    r"(y|n|yes|no|on|off)|[-+]?0[0-9_]+|[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?"
    r"|[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}([Tt\s].*)?|[-+]?\.[0-9][0-9_]*[eE][0-9]+",
    re.IGNORECASE,
)
"""Unquoted words that YAML 1.1 reads as booleans, octal or base-60 numbers, and dates; and `.5e3`, which is a
number in YAML 1.2 but text to ruamel."""
UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
_TAGS = {f"tag:yaml.org,2002:{name}": name for name in ("str", "int", "float", "bool", "null", "seq", "map")}


_MERGE = object()
"""The key `<<`."""


class BareWord(str):
    """Text that stands without quotes in a file and that other readers of YAML take for something else."""

    __slots__ = ()


def shortened(value: object, *, quotes: bool = True) -> str:
    """Return a value for a message, its middle left out where it is long."""
    text = repr(value) if quotes or not isinstance(value, str) else value
    return text if len(text) <= 2 * SHOWN else f"{text[:SHOWN]} ... {text[-SHOWN // 3 :]}"


def is_ambiguous(text: str) -> bool:
    """Return whether text has to be quoted so that every reader of YAML takes it for text."""
    return _NOT_TEXT_ELSEWHERE.fullmatch(text) is not None


def too_deep(where: str) -> ConfigError:
    """Return the refusal of deep nesting."""
    return ConfigError(
        f"nested more than {MAX_DEPTH} deep", where=where, fix="write fewer levels; no file needs ten"
    )


def build(text: str, name: str) -> "YamlBuilder":
    """Return the builder that has read a YAML text.

    Args:
        text: The YAML text.
        name: Name of its file in messages.

    Raises:
        ConfigError: The text is not YAML, is over a limit, or has a key twice.
    """
    builder = YamlBuilder(name)
    try:
        for event in _events(text):
            builder.take(event)
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError(
            f"not YAML: {error.problem or error.context}",
            where=f"{name}:{line}",
            fix="correct the line: indent with spaces, and put a space after each colon",
        ) from None
    except Exception as error:
        # ruamel raises its own ReaderError, and bare ValueErrors and IndexErrors, for odd characters.
        if type(error).__module__.startswith("ruamel") or isinstance(error, ValueError | LookupError):
            position = getattr(error, "position", None)
            line = builder.line if position is None else text.count("\n", 0, position) + 1
            raise ConfigError(
                f"not YAML: {shortened(str(error).partition(chr(10))[0], quotes=False)}",
                where=f"{name}:{line}",
                fix="correct the line, or name a YAML file",
            ) from None
        raise
    return builder


def _events(text: str) -> Iterator[Event]:
    return YAML(typ="safe", pure=True).parse(text)


@dataclass
class _Open:
    """A mapping or sequence whose end has not been read."""

    node: dict | list
    path: Place
    anchor: str | None
    begun: int
    """Nodes counted before it."""
    key: Any = None
    has_key: bool = False
    merged: Any = None
    """Value of `<<`: a mapping, or a list of them in order of precedence."""
    depth: int = 0
    """Levels below it."""


@dataclass
class _Anchored:
    """A finished node that aliases can stand for."""

    node: Any
    nodes: int
    depth: int


class YamlBuilder:
    """Builds plain values from events, without recursion, and refuses what is over a limit."""

    def __init__(self, name: str):
        self.name = name
        self.root: Any = None
        self.marks: dict[Place, int] = {}
        """Line of each key and item, counted from 1."""
        self.written: dict[Place, str] = {}
        """Characters of each value that is not text."""
        self._stack: list[_Open] = []
        self._anchors: dict[str, _Anchored | None] = {}
        self._nodes = 0
        self._documents = 0
        self.line = 1

    def take(self, event: Event) -> None:
        """Add one event. Raises ConfigError."""
        self.line = event.start_mark.line + 1
        match event:
            case DocumentStartEvent():
                self._begin(event)
            case MappingStartEvent() | SequenceStartEvent():
                self._open({} if isinstance(event, MappingStartEvent) else [], event)
            case MappingEndEvent() | SequenceEndEvent():
                self._close()
            case ScalarEvent():
                self._scalar(event)
            case AliasEvent():
                self._alias(event.anchor)

    def _refuse(self, problem: str, fix: str) -> NoReturn:
        raise ConfigError(problem, where=f"{self.name}:{self.line}", fix=fix)

    def _begin(self, event: DocumentStartEvent) -> None:
        self._documents += 1
        if self._documents > 1:
            self._refuse("the file has a second document (`---`)", "write one document in one file")
        if event.version is not None and tuple(event.version) != (1, 2):
            found = ".".join(map(str, event.version))
            self._refuse(f"%YAML {found}: files are read as YAML 1.2", "remove the %YAML line")

    def _count(self, nodes: int) -> None:
        self._nodes += nodes
        if self._nodes > MAX_NODES:
            self._refuse(
                f"more than {MAX_NODES:,} keys and values, counting what aliases stand for",
                "write a smaller file, or fewer aliases",
            )

    def _deep(self, levels: int) -> None:
        if len(self._stack) + levels > MAX_DEPTH:
            raise too_deep(f"{self.name}:{self.line}")
        for i, outer in enumerate(self._stack):
            outer.depth = max(outer.depth, len(self._stack) - i + levels)

    def _open(self, node: dict | list, event: Any) -> None:
        self._tag(event.tag, {"map"} if isinstance(node, dict) else {"seq"})
        if self._is_at_key():
            self._refuse("a key that is a list or a mapping", "write a word as the key")
        self._deep(1)
        begun = self._nodes
        self._count(1)
        path = self._add(node)
        if event.anchor is not None:
            self._anchors[event.anchor] = None  # until its end, an alias to it would contain itself
        self._stack.append(_Open(node, path, event.anchor, begun))

    def _close(self) -> None:
        closed = self._stack.pop()
        if closed.merged is not None:
            self._merge(closed)
        if closed.anchor is not None:
            nodes = self._nodes - closed.begun
            self._anchors[closed.anchor] = _Anchored(closed.node, nodes, 1 + closed.depth)

    def _merge(self, closed: _Open) -> None:
        """Add the keys of `<<` that the mapping does not have itself."""
        sources = closed.merged if isinstance(closed.merged, list) else [closed.merged]
        for source in sources:
            if not isinstance(source, dict):
                self._refuse(
                    f"`<<` merges mappings, not {shortened(source)}", "write `<<: *name` of a mapping"
                )
            for key, value in source.items():
                closed.node.setdefault(key, value)

    def _alias(self, name: str) -> None:
        if name not in self._anchors:
            self._refuse(f"not YAML: the alias *{shortened(name, quotes=False)} has no anchor", "remove it")
        target = self._anchors[name]
        if target is None:
            self._refuse(f"the alias *{name} is inside what it stands for", "remove the alias")
        self._deep(target.depth)
        self._count(target.nodes)
        if self._is_at_key():
            self._set_key(target.node)
            return
        self._add(_copied(target.node))

    def _scalar(self, event: ScalarEvent) -> None:
        self._count(1)
        plain = event.style is None
        tag = self._tag(event.tag, set(_TAGS.values()) - {"seq", "map"})
        if hit := UNSAFE.search(event.value):
            self._refuse(
                f"the character U+{ord(hit.group()):04X} in {shortened(event.value)}",
                "remove it: control characters and surrogates are no text",
            )
        at_key = self._is_at_key()
        if at_key and plain and event.value == "<<":
            if self._stack[-1].merged is not None:
                self._refuse("the key '<<' is given twice", "write `<<: [*one, *other]`")
            self._stack[-1].key, self._stack[-1].has_key = _MERGE, True
            return
        value = event.value if tag == "str" or not (plain or tag) else self._resolved(event.value, tag)
        if at_key:
            self._set_key(value)
        else:
            path = self._add(value)
            if not isinstance(value, str):
                self.written[path] = event.value
        if event.anchor is not None:
            self._anchors[event.anchor] = _Anchored(value, 1, 0)

    def _tag(self, tag: str | None, allowed: set[str]) -> str | None:
        """Return the short name of an explicit tag; None without one."""
        if tag is None:
            return None
        short = "str" if tag == "!" else _TAGS.get(tag)
        if short not in allowed:
            self._refuse(f"the tag {shortened(tag, quotes=False)} is not supported", "remove the tag")
        return short

    def _resolved(self, text: str, tag: str | None) -> Any:
        value = self._by_core_schema(text)
        kind = {bool: "bool", int: "int", float: "float", type(None): "null"}.get(type(value), "str")
        if tag is not None and tag != kind:
            if (tag, kind) == ("float", "int"):
                return float(value)
            self._refuse(f"{shortened(text)} is not of the type of its tag !!{tag}", "remove the tag")
        return value

    def _by_core_schema(self, text: str) -> Any:
        """Return the value of a plain scalar."""
        if text in _CONSTANTS:
            return _CONSTANTS[text]
        if text[0] not in "-+.0123456789yYnNoO":
            return text
        is_int = _INT.fullmatch(text)
        if not (is_int or _FLOAT.fullmatch(text)):
            return BareWord(text) if is_ambiguous(text) else text
        if len(text) > MAX_DIGITS:
            self._refuse(
                f"a number of {len(text):,} characters: {shortened(text, quotes=False)}",
                "write it as 1e12, or in quotes where it is text",
            )
        if is_int:
            return int(text.replace("_", ""), 0)
        value = float(text.replace("_", ""))
        if math.isinf(value) or (value == 0 and re.search("[1-9]", re.split("[eE]", text)[0])):
            size = "large" if value else "small"
            self._refuse(f"the number {text} is too {size}", "write one between 1e-307 and 1e308")
        return value

    def _is_at_key(self) -> bool:
        return bool(self._stack) and isinstance(self._stack[-1].node, dict) and not self._stack[-1].has_key

    def _set_key(self, key: Any) -> None:
        top = self._stack[-1]
        if isinstance(key, dict | list):
            self._refuse("a key that is a list or a mapping", "write a word as the key")
        if key in top.node:
            self._refuse(f"the key {shortened(key)} is given twice", "keep one of the two")
        top.key, top.has_key = key, True
        self.marks[(*top.path, key)] = self.line

    def _add(self, value: Any) -> Place:
        """Put a value into the innermost open node and return its path."""
        if not self._stack:
            self.root = value
            return ()
        top = self._stack[-1]
        if isinstance(top.node, list):
            path: Place = (*top.path, len(top.node))
            self.marks[path] = self.line
            top.node.append(value)
            return path
        key, top.has_key = top.key, False
        if key is _MERGE:
            top.merged = [] if value is None else value
            return (*top.path, "<<")
        top.node[key] = value
        return (*top.path, key)


def _copied(node: Any) -> Any:
    """Return a copy of a node, so that an override of one use of an alias leaves the others."""
    if isinstance(node, dict):
        return {key: _copied(value) for key, value in node.items()}
    return [_copied(value) for value in node] if isinstance(node, list) else node
