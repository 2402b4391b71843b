"""Which runs a simulation has, and what stands between a law and their losses.

    IsoFlopDesign   slices of equal compute, sizes even in ln N around the true optimum
    LadderDesign    sizes times tokens per parameter
    GridDesign      sizes times token counts

Symbols: N parameters, D tokens, C FLOPs as 6 N D, L loss in nats per token.

Source: designs, Hoffmann et al. 2022, section 3, arXiv:2203.15556; centres beside the optimum and
centres that drift, Czech et al. 2026, arXiv:2603.22339. The kinds of noise are ours.

Not here: the law and its truth (simulation.py).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields

import numpy as np

from scalelab.errors import DataError
from scalelab.laws.observations import Array

MOST_RUNS = 1_000_000
"""Most runs of a simulation."""
Best = Callable[[float], float]
"""The true N* at C."""


class SimulatedDesign(ABC):
    """Which runs there are. Subclasses are final frozen dataclasses of positive settings."""

    seeds: int
    """Runs of each size and token count."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = np.atleast_1d(getattr(self, field.name))
            below = -np.inf if field.name == "drift" else 0
            if not value.size or not (np.isfinite(value) & (value > below)).all():
                raise DataError(
                    f"{field.name} = {getattr(self, field.name)} of the {type(self).__name__}",
                    where="the design of a simulation",
                    fix="give positive, finite numbers",
                )
            if isinstance(field.default, int) and not (value % 1 == 0 and value <= MOST_RUNS):
                raise DataError(
                    f"{field.name} = {getattr(self, field.name)} of the {type(self).__name__}",
                    where="the design of a simulation",
                    fix=f"give a whole number up to {MOST_RUNS:,}",
                )

    @abstractmethod
    def points(self, best: Best) -> tuple[Array, Array, Array]:
        """N, D and the planned budget (NaN without one) of every point, each of shape (n,)."""


@dataclass(frozen=True)
class SimulatedIsoFlop(SimulatedDesign):
    """Slices of equal compute around the true optimum, or beside it on purpose."""

    budgets: tuple[float, ...] = (1e18, 3e18, 1e19, 3e19, 1e20)
    sizes: int = 7
    factor: float = 4.0
    """Sizes go from 1/factor to factor times the centre, evenly in ln N."""
    offset: float = 1.0
    """The centre, as a multiple of the true N*."""
    drift: float = 0.0
    """The centre moves away from N* as (C / C_middle)^drift: this much is added to its exponent."""
    seeds: int = 1

    def points(self, best: Best) -> tuple[Array, Array, Array]:
        C = np.array(self.budgets, float)
        middle = np.exp(np.mean(np.log(C)))
        centre = np.array([best(c) for c in C]) * self.offset * (C / middle) ** self.drift
        N = np.outer(centre, np.geomspace(1 / self.factor, self.factor, int(self.sizes))).ravel()
        planned = np.repeat(C, int(self.sizes))
        return N, planned / (6 * N), planned


@dataclass(frozen=True)
class SimulatedLadder(SimulatedDesign):
    """Every size at every number of tokens per parameter."""

    n_params: tuple[float, ...] = tuple(np.geomspace(1e7, 1e9, 6))
    ratios: tuple[float, ...] = (5.0, 10.0, 20.0, 40.0, 80.0)
    seeds: int = 1

    def points(self, best: Best) -> tuple[Array, Array, Array]:
        N, M = (v.ravel() for v in np.meshgrid(self.n_params, self.ratios, indexing="ij"))
        return N, M * N, np.full(N.shape, np.nan)


@dataclass(frozen=True)
class SimulatedGrid(SimulatedDesign):
    """Every size at every token count."""

    n_params: tuple[float, ...] = tuple(np.geomspace(1e7, 1e9, 6))
    n_tokens: tuple[float, ...] = tuple(np.geomspace(1e9, 1e11, 6))
    seeds: int = 1

    def points(self, best: Best) -> tuple[Array, Array, Array]:
        N, D = (v.ravel() for v in np.meshgrid(self.n_params, self.n_tokens, indexing="ij"))
        return N, D, np.full(N.shape, np.nan)


DESIGNS: Mapping[str, type[SimulatedDesign]] = {
    "isoflop": SimulatedIsoFlop,
    "ladder": SimulatedLadder,
    "grid": SimulatedGrid,
}


@dataclass(frozen=True)
class Noise(ABC):
    """What stands between the law and a measured loss. Subclasses are final."""

    size: float

    def __post_init__(self) -> None:
        if not (np.isfinite(self.size) and (self.size >= 0 or isinstance(self, DriftNoise))):
            raise DataError(f"a noise of size {self.size}", where=type(self).__name__, fix="use 0.003, or 0")

    @abstractmethod
    def __call__(self, L: Array, C: Array, rng: np.random.Generator) -> Array:
        """The losses (n,) as they are measured."""


class GaussianNoise(Noise):
    """Normal in ln L, sd `size` as a share of the loss."""

    def __call__(self, L: Array, C: Array, rng: np.random.Generator) -> Array:
        return L * np.exp(self.size * rng.standard_normal(L.shape))


class PerSeedNoise(Noise):
    """Normal, sd `size` in nats per token whatever the loss: what seeds do."""

    def __call__(self, L: Array, C: Array, rng: np.random.Generator) -> Array:
        return L + self.size * rng.standard_normal(L.shape)


class HeavyTailNoise(Noise):
    """Student's t with 3 degrees of freedom in ln L, sd `size`: now and then a run far off."""

    def __call__(self, L: Array, C: Array, rng: np.random.Generator) -> Array:
        return L * np.exp(self.size * rng.standard_t(3, L.shape) / np.sqrt(3))


class OneSidedNoise(Noise):
    """Half normal in ln L above the law: the law is the frontier, runs are tuned less well."""

    def __call__(self, L: Array, C: Array, rng: np.random.Generator) -> Array:
        return L * np.exp(self.size * np.abs(rng.standard_normal(L.shape)))


class OutlierNoise(Noise):
    """A share `size` of the runs, at least one, ends 10% to 100% above its loss."""

    def __call__(self, L: Array, C: Array, rng: np.random.Generator) -> Array:
        count = min(len(L), max(1, round(self.size * len(L)))) if self.size else 0
        raised = np.ones(len(L))
        raised[rng.choice(len(L), count, replace=False)] += np.exp(rng.uniform(np.log(0.1), 0.0, count))
        return L * raised


class DriftNoise(Noise):
    """Loss tilts by a share `size` per power of ten of compute: a recipe that scales badly."""

    def __call__(self, L: Array, C: Array, rng: np.random.Generator) -> Array:
        return L * np.exp(self.size * (np.log10(C) - np.mean(np.log10(C))))


NOISES: Mapping[str, type[Noise]] = {
    "gaussian": GaussianNoise,
    "seed": PerSeedNoise,
    "heavy": HeavyTailNoise,
    "onesided": OneSidedNoise,
    "ruined": OutlierNoise,
    "drift": DriftNoise,
}
