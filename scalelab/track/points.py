"""What passes between the mirror and a store: values of metrics, and the word that it is down."""

from dataclasses import dataclass


class StoreDown(Exception):
    """The store did not take a call: unreachable, read-only, busy or broken. Come again."""


@dataclass(frozen=True)
class Point:
    """One value of one metric."""

    name: str
    value: float
    t: int
    """Milliseconds since 1970, as journaled."""
    step: int
