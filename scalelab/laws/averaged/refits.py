"""The average fitted again with other weights of its runs: every setting from where it stands.

The weights of the settings and the runs that count stay, as they do in its replicates.

Not here: one setting (uncertainty/refits.py), what is left out (uncertainty/influence.py).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from scalelab.laws.observations import Array
from scalelab.laws.uncertainty.refits import RunWeights, SurfaceRefits


@dataclass(frozen=True, eq=False)
class AverageRefits:
    """Settings that have weight, their places side by side."""

    parts: Sequence[SurfaceRefits]
    weights: Array
    """Shape (m,), sum 1."""
    named: Callable[[Sequence[Mapping[str, Array]]], dict[str, Array]]
    """Returns the exponents and constants of the average from those of each part."""

    @property
    def searches(self) -> int:
        """See `Refits`."""
        return len(self.parts)

    @property
    def free(self) -> int:
        """See `Refits`; those of one setting, as all are fitted to the same runs."""
        return self.parts[0].free

    @property
    def place(self) -> Array:
        """See `Refits`."""
        return np.concatenate([part.place for part in self.parts])

    def again(self, places: Array, weights: RunWeights) -> Array:
        """See `Refits`."""
        found = [part.again(own, weights) for part, own in zip(self.parts, self._split(places), strict=True)]
        return np.concatenate(found, axis=1)

    def step_without(self, place: Array, members: list[Array], kept: Array) -> Array:
        """See `Refits`."""
        own = (columns[0] for columns in self._split(place[None]))
        found = [part.step_without(theta, members, kept) for part, theta in zip(self.parts, own, strict=True)]
        return np.concatenate(found, axis=1)

    def values(self, places: Array) -> dict[str, Array]:
        """See `Refits`."""
        return self.named(
            [part.values(own) for part, own in zip(self.parts, self._split(places), strict=True)]
        )

    def errors(self, place: Array) -> tuple[Array, Array]:
        """See `Refits`."""
        own = (columns[0] for columns in self._split(place[None]))
        each = [part.errors(theta)[0] for part, theta in zip(self.parts, own, strict=True)]
        error = self.weights @ np.array(each)
        return error, error

    def _split(self, places: Array) -> list[Array]:
        return np.split(places, np.cumsum([len(part.place) for part in self.parts])[:-1], axis=1)
