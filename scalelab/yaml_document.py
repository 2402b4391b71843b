"""YAML files that a person writes, and overrides of their values, with the place of everything.

Every YAML file that a user names is read here. Only regular files are read, up to a size.

Not here: how text becomes values, and the limits of that (yaml_builder.py); which keys a file has (the
configs); how errors in its values are reported (config.py).
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scalelab.errors import ConfigError
from scalelab.files import read_regular
from scalelab.yaml_builder import MAX_DEPTH, UNSAFE, Place, build, shortened, too_deep

MAX_BYTES = 1 << 20
"""Largest file. Those of this program have a few kilobytes."""


@dataclass
class YamlDocument:
    """Contents of a YAML file, and the place of each key and value."""

    name: str
    """Name of the file in messages."""
    data: dict[str, Any]
    marks: dict[Place, int] = field(default_factory=dict)
    """Line of each key and item, counted from 1."""
    notes: dict[Place, str] = field(default_factory=dict)
    """Origin of a value that is not from the file."""
    written: dict[Place, str] = field(default_factory=dict)
    """Characters of each value that is not text, as they are in the file."""

    def place(self, path: Place) -> str:
        """Return `file:line` of a key or item, or of the nearest one that encloses it.

        Overrides of values inside of it are named too, because any of them may be what is wrong.
        """
        for end in range(len(path), 0, -1):
            if path[:end] in self.notes:
                return self.notes[path[:end]]
            if path[:end] in self.marks:
                break
        inside = [note for at, note in self.notes.items() if at[: len(path)] == path]
        return " with ".join([f"{self.name}:{self.marks.get(path[:end], 1) if path else 1}", *inside[:3]])

    def override(self, text: str) -> None:
        """Replace or add one value, `a.b=value`; the value is read as YAML.

        Raises:
            ConfigError: The text is no assignment, its value cannot be read, or there is no such place.
        """
        dotted, equals, written = text.partition("=")
        keys = dotted.strip().split(".")
        if not equals or not all(keys) or UNSAFE.search(dotted):
            raise ConfigError(
                f"cannot read the override {shortened(text)}",
                where="--set",
                fix="write it as --set a.b=value",
            )
        path: Place = tuple(int(key) if _is_index(key) else key for key in keys)
        if len(path) > MAX_DEPTH:
            raise too_deep(f"--set {shortened(text)}")
        value = _read_value(text, written)
        here: Any = self.data
        for i, part in enumerate(path[:-1]):
            if isinstance(here, list) and isinstance(part, int) and part < len(here):
                here = here[part]
            elif isinstance(here, dict):
                if here.setdefault(part, {}) is None:
                    here[part] = {}
                here = here[part]
            else:
                self._no_place(text, path[: i + 1])
        try:
            here[path[-1]] = value.data
        except (IndexError, TypeError):
            self._no_place(text, path)
        self.notes[path] = f"--set {shortened(text, quotes=False)}"
        self.marks = _without(self.marks, path)
        self.written = _without(self.written, path)
        self.written |= {(*path, *rest): raw for rest, raw in value.written.items()}

    def extend(self, base: "YamlDocument") -> None:
        """Take from another document what this one does not have.

        Mappings are joined key by key. One that names another `kind` than that of the base replaces it whole, and so
        does every list and value.
        """
        self._join(self.data, base.data, base, ())

    def _join(self, mine: dict[str, Any], theirs: dict[str, Any], base: "YamlDocument", path: Place) -> None:
        for key, value in theirs.items():
            at = (*path, key)
            if key not in mine:
                mine[key] = value
                self.notes[at] = base.place(at)
                self.written |= {to: raw for to, raw in base.written.items() if to[: len(at)] == at}
                self.notes |= {
                    to: base.place(to) for to in base.marks.keys() | base.notes.keys() if to[: len(at)] == at
                }
            elif isinstance(mine[key], dict) and isinstance(value, dict) and _same_kind(mine[key], value):
                self._join(mine[key], value, base, at)

    def _no_place(self, text: str, path: Place) -> None:
        raise ConfigError(
            f"the override {shortened(text)} leads nowhere",
            where=f"{self.name} has no {'.'.join(map(str, path))}",
            fix="name a key that the file has, or could have",
        ) from None


def read(path: Path) -> YamlDocument:
    """Return the contents of a YAML file with the line of everything in it.

    Raises:
        ConfigError: The file is missing, unreadable, no regular file, too large, not YAML, over a
            limit, or has a key twice.
    """
    try:
        text = read_regular(Path(path), MAX_BYTES).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise ConfigError(
            f"cannot read {path}: {reason}", where=str(path), fix="name a readable YAML file"
        ) from None
    return parse_yaml(text, str(path))


def parse_yaml(text: str, name: str) -> YamlDocument:
    """Return the document of a YAML text; `name` is its name in messages.

    Raises:
        ConfigError: The text is not YAML, is over a limit, has a key twice, or is no mapping.
    """
    builder = build(text, name)
    if not isinstance(builder.root, dict):
        what = "empty" if builder.root is None else "not made of keys and values"
        raise ConfigError(f"the file is {what}", where=f"{name}:1", fix="write `key: value` lines")
    return YamlDocument(name, builder.root, builder.marks, {}, builder.written)


def _same_kind(one: dict[str, Any], base: dict[str, Any]) -> bool:
    """Whether a mapping can be joined with one below it: it names no kind, or the same."""
    return "kind" not in one or one["kind"] == base.get("kind")


def _is_index(key: str) -> bool:
    return key.isascii() and key.isdigit() and len(key) < 10


def _without(table: dict[Place, Any], path: Place) -> dict[Place, Any]:
    return {at: value for at, value in table.items() if at[: len(path)] != path}


@dataclass
class _Value:
    data: Any
    written: dict[Place, str]


def _read_value(text: str, written: str) -> _Value:
    """Return the value of an override."""
    try:
        built = build(written or "null", f"--set {shortened(text, quotes=False)}")
    except ConfigError as error:
        raise ConfigError(
            f"cannot read the value of {shortened(text)}: {error.problem.removeprefix('not YAML: ')}",
            where="--set",
            fix="write the value as YAML: a number, a word, [a, list]",
        ) from None
    return _Value(built.root, built.written)
