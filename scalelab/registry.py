"""Plug-in tables: a name leads to "module:attribute", imported only when it is asked for."""

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from importlib import import_module
from typing import Any

from scalelab.errors import ConfigError


class Registry(Mapping[str, Any]):
    """A read-only table of names to "module:attribute" targets.

    Args:
        noun: What one entry is, in the singular, for messages ("law").
        targets: Name to dotted target, in the order in which people are shown them.
    """

    def __init__(self, noun: str, targets: Mapping[str, str]):
        self.noun = noun
        self._targets = dict(targets)

    def __getitem__(self, name: str) -> Any:
        if name not in self._targets:
            raise ConfigError(
                f"unknown {self.noun} {name!r}{did_you_mean(name, self._targets)}",
                where=f"the table of {self.noun}s",
                fix=f"use one of: {', '.join(self._targets)}",
            )
        module, _, attribute = self._targets[name].partition(":")
        return getattr(import_module(module), attribute)

    def __iter__(self) -> Iterator[str]:
        return iter(self._targets)

    def __len__(self) -> int:
        return len(self._targets)

    def __contains__(self, name: object) -> bool:  # Mapping's own would import the target
        return isinstance(name, str) and name in self._targets


def did_you_mean(word: object, known: Mapping[str, Any] | list[str]) -> str:
    """The tail of a message: the closest known word, or nothing."""
    close = get_close_matches(str(word), list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
