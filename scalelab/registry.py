"""Plug-in tables: a name leads to "module:attribute", imported only when it is asked for.

A table holds the members that come with scalelab and those that installed packages add through an
entry point in the table's group:

    [project.entry-points."scalelab.laws"]
    mine = "my_package.my_law:MyLaw"

Not here: which members there are (the tables stand in the packages that use them).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, EntryPoints, entry_points
from typing import Any

from scalelab.errors import ConfigError

LONGEST_WORD = 100
"""Longest word for which similar ones are searched; the search is quadratic in it."""


@dataclass(frozen=True)
class PluginTarget:
    """Where one member is, and which package adds it."""

    place: str
    """module:attribute"""
    package: str
    """The distribution, for messages."""


class Registry(Mapping[str, Any]):
    """A read-only table of names to "module:attribute" targets.

    Args:
        noun: What one entry is, in the singular, for messages ("law").
        targets: Name to dotted target, in the order in which people are shown them.
        group: Entry points of this group are members too ("scalelab.laws").
        base: "module:Class" that every member is a subclass of, checked when it is looked up. Of a
            Protocol every member has the public names. None where the members are functions.
    """

    def __init__(self, noun: str, targets: Mapping[str, str], *, group: str, base: str | None = None):
        self.noun, self.group, self.base = noun, group, base
        self._own = {name: PluginTarget(place, "scalelab") for name, place in targets.items()}

    @property
    def targets(self) -> dict[str, PluginTarget]:
        """Where each member is; our own first, then those of other packages by name.

        Raises:
            ConfigError: Two packages use one name.
        """
        found = dict(self._own)
        for point in sorted(_installed().select(group=self.group), key=lambda point: point.name):
            new = PluginTarget(point.value, _package(point))
            old = found.setdefault(point.name, new)
            if old != new:
                raise ConfigError(
                    f"two packages add a {self.noun} {point.name!r}: {old.package} "
                    f"({old.place}) and {new.package} ({new.place})",
                    where=f"the entry points {self.group!r}",
                    fix=f"uninstall one of them: pip uninstall {new.package}",
                )
        return found

    def __getitem__(self, name: str) -> Any:
        targets = self.targets
        if name not in targets:
            raise ConfigError(
                f"unknown {self.noun} {name!r}{did_you_mean(name, targets)}",
                where=f"the table of {self.noun}s",
                fix=f"use one of: {', '.join(targets)}",
            )
        target = targets[name]
        if target.package == "scalelab":
            return resolved(target.place)
        try:
            member = resolved(target.place)
        except Exception as error:
            raise self._unusable(name, target, f"{type(error).__name__}: {error}") from error
        if self.base is not None and (lacks := _lacks(member, resolved(self.base))):
            raise self._unusable(name, target, lacks)
        return member

    def _unusable(self, name: str, target: PluginTarget, why: str) -> ConfigError:
        return ConfigError(
            f"the {self.noun} {name!r} of the package {target.package} cannot be used: {why}",
            where=f"the entry point {self.group!r}, {target.place}",
            fix=f"correct that package, or uninstall it: pip uninstall {target.package}",
        )

    def __iter__(self) -> Iterator[str]:
        return iter(self.targets)

    def __len__(self) -> int:
        return len(self.targets)

    def __contains__(self, name: object) -> bool:  # Mapping's own would import the target
        return isinstance(name, str) and name in self.targets


@cache
def _installed() -> EntryPoints:
    return entry_points()


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else "an unknown package"


def resolved(place: str) -> Any:
    """What a "module:attribute" names, its module imported. Raises ImportError, AttributeError."""
    module, _, attribute = place.partition(":")
    return getattr(import_module(module), attribute)


def _lacks(member: Any, base: type) -> str:
    """What keeps a member from standing for a base; empty where nothing does."""
    if not isinstance(member, type):
        return f"it is no class but {type(member).__name__}"
    if getattr(base, "_is_protocol", False):
        names = {n for part in base.__mro__[:-1] for n in vars(part) if not n.startswith("_")}
        missing = sorted(name for name in names if not hasattr(member, name))
        return f"it lacks {', '.join(missing)}" if missing else ""
    if not issubclass(member, base):
        return f"{member.__name__} is no subclass of {base.__module__}.{base.__name__}"
    abstract = sorted(getattr(member, "__abstractmethods__", ()))
    return f"it does not define {', '.join(abstract)}" if abstract else ""


def did_you_mean(word: object, known: Mapping[str, Any] | list[str]) -> str:
    """Return the end of a message: the closest known word, or nothing."""
    if not isinstance(word, str) or len(word) > LONGEST_WORD:
        return ""
    close = get_close_matches(word, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
