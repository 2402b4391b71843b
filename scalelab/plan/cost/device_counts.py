"""Nearby numbers of devices: those that divide well, where the requested one does not.

A number with large prime factors (17, 1000 = 8 x 125, 16383 = 3 x 43 x 127) leaves few layouts, or
none. Numbers 2^a 3^b with b <= 2 are tried on both sides of it, whole nodes where there are many.

Not here: the search for a layout (layouts.py), the smallest number that fits (placement.py).
"""

from collections.abc import Callable
from dataclasses import dataclass

TRIES = 3  # numbers on either side that are evaluated
FARTHEST = 1.5  # factor between the requested number and a proposed one
BETTER = 1.03  # gain of the computing share from which another number is proposed
NODE = 8  # whole nodes are proposed to those who have several


@dataclass(frozen=True)
class DeviceCount:
    """A number of devices and the share of a step that is computing on it."""

    count: int
    computing: float
    """Share of a step, 0 to 1; 0 where unknown."""


def power_of_two_and_three(n: int) -> bool:
    """Return whether a number is 2^a 3^b with b <= 2."""
    for factor, most in ((2, n.bit_length()), (3, 2)):
        for _ in range(most):
            if n % factor == 0:
                n //= factor
    return n == 1


def nearby_counts(
    requested: int, share_on: Callable[[int], float | None], share: float = 0.0
) -> tuple[DeviceCount, ...]:
    """Return the nearest good number below and the nearest above, ascending; either may be missing.

    Args:
        requested: Number of devices of the request.
        share_on: Function that returns the computing share of a step on a number of devices; None
            where no layout works.
        share: Computing share on the requested number; 0 where no layout works.
    """
    step = NODE if requested > 2 * NODE else 1
    good = sorted(2**a * 3**b for a in range(requested.bit_length() + 1) for b in range(3))
    good = [n for n in good if n % step == 0 and requested / FARTHEST < n < requested * FARTHEST]
    sides = ([n for n in reversed(good) if n < requested], [n for n in good if n > requested])
    found = []
    for side in sides:
        for count in side[:TRIES]:
            there = share_on(count)
            if there is None:
                continue
            if there > BETTER * share:
                found.append(DeviceCount(count, there))
            break  # a farther one would differ by more than how well it divides
    return tuple(found)
