"""The frontier alone: how the best loss that C FLOPs can buy falls with C.

    frontier    L*(C) = E + K C^-gamma        a floor E, nats per token
    kaplan_c    L(C) = (C_c / C)^alpha_C      a straight line in ln L, ln C

Both go through the minima of isoFLOP slices, at the FLOPs that the runs spent there. Where no
run names a budget they go through the efficient runs: those that no run of as little compute
beats. These lie above the true frontier, by as much as the sizes are sparse. Errors count as
shares of the loss. Neither law allots anything: N and D are no part of it.

On a Chinchilla surface the first is exact, with gamma = alpha beta / (alpha + beta). The second
is its limit without a floor, and its C_c has no meaning beyond the tokenizer and the text.

Source: Kaplan et al. 2020, eq. 1.3 and section 6, arXiv:2001.08361; the floor, Hoffmann et al.
2022, eq. 4 and section 3.3, arXiv:2203.15556.

Not here: where the minima lie (isoflop/law.py), the trend itself (trend.py).
"""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from scalelab.errors import FitError
from scalelab.laws.base import Law, LawFit, Replicates
from scalelab.laws.isoflop.law import IsoFlopFit, IsoFlopLaw
from scalelab.laws.isoflop.trend import FloorLaw, PowerLaw
from scalelab.laws.observations import Array, Observations


@dataclass(frozen=True)
class _LossOfCompute(Law):
    """A curve L(C) through the best losses."""

    names: ClassVar[tuple[str, ...]]
    """Its constants, as in the formula. One point more is asked for, to see the error by."""

    @abstractmethod
    def curve(self, C: Array, L: Array, C0: float | None = None) -> FloorLaw | PowerLaw:
        """The curve through C, L (r, m)."""

    @abstractmethod
    def constants(self, curve: FloorLaw | PowerLaw) -> dict[str, Array]:
        """Its constants for C in FLOPs, each (r,); not finite where there are none."""

    @abstractmethod
    def faults(self, curve: FloorLaw | PowerLaw) -> tuple[str, ...]:
        """Why the best curve is not of the form that the law claims; empty where it is."""

    def fit(self, runs: Observations) -> "FrontierFit":
        slices = IsoFlopLaw().fit(runs) if runs.budgets.size else None
        if slices is not None:
            C, L = np.array([[s.spent, s.L] for s in slices.minima]).T
            what = "minima of isoFLOP slices"
        else:
            best = efficient(runs)
            C, L = best.C, best.L
            what = "efficient runs"
        name, least = type(self).__name__, len(self.names) + 1
        if len(C) < least:
            raise FitError(
                f"{len(C)} {what} cannot show the {len(self.names)} constants of the "
                f"{name} law and their error",
                where=f"FLOPs {', '.join(f'{c:.4g}' for c in C)}",
                fix=f"finish budgets until {least} have an interior minimum"
                if slices is not None
                else "add runs of more compute, at sizes near the best",
            )
        if C.max() < 2 * C.min():
            raise FitError(
                f"compute spans only {C.max() / C.min():.2f}x, too little to see a slope",
                where=f"{what} from {C.min():.4g} to {C.max():.4g} FLOPs",
                fix="add runs of at least twice the compute",
            )
        curve = self.curve(C[None], L[None])
        constants = {k: float(v[0]) for k, v in self.constants(curve).items()}
        if not np.isfinite(list(constants.values())).all():
            raise FitError(
                "the best loss hardly falls with compute, so its constants cannot be written down",
                where=f"loss from {L[0]:.4g} to {L[-1]:.4g} over {C.max() / C.min():.3g}x FLOPs",
                fix="add budgets that are further apart, or fit another law",
            )
        return FrontierFit(self, runs, slices, C, L, curve, constants)


@dataclass(frozen=True)
class FrontierLaw(_LossOfCompute):
    """The best loss with a floor."""

    formula = "L*(C) = E + K C^-gamma"
    source = "Hoffmann et al. 2022, section 3.3, arXiv:2203.15556"
    names = ("E", "K", "gamma")

    def curve(self, C: Array, L: Array, C0: float | None = None) -> FloorLaw:
        return FloorLaw.of(C, L, C0)

    def constants(self, curve: FloorLaw) -> dict[str, Array]:
        return {"E": curve.E, "K": curve.K * curve.C0**curve.gamma, "gamma": curve.gamma}

    def faults(self, curve: FloorLaw) -> tuple[str, ...]:
        if curve.at_bound[0]:
            return (
                f"gamma stopped at the edge of the search ({curve.gamma[0]:.3g}): the points do "
                "not determine it",
            )
        if not curve.is_floor[0]:
            return (
                f"the points show no floor: best E = {curve.E[0]:.3g} nats per token, "
                f"gamma = {curve.gamma[0]:.3g}",
            )
        return ()


@dataclass(frozen=True)
class KaplanC(_LossOfCompute):
    """The best loss as a pure power of compute."""

    formula = "L(C) = (C_c / C)^alpha_C"
    source = "Kaplan et al. 2020, eq. 1.3, arXiv:2001.08361"
    names = ("C_c", "alpha_C")

    def curve(self, C: Array, L: Array, C0: float | None = None) -> PowerLaw:
        return PowerLaw.of(C, L, C0)

    def constants(self, curve: PowerLaw) -> dict[str, Array]:
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
            C_c = curve.C0 * curve.level ** (-1 / curve.slope)
        return {"C_c": np.where(C_c > 0, C_c, np.nan), "alpha_C": -curve.slope}

    def faults(self, curve: PowerLaw) -> tuple[str, ...]:
        if curve.slope[0] < 0:
            return ()
        return (f"the best loss does not fall with compute: alpha_C = {-curve.slope[0]:.3g}",)


@dataclass(frozen=True, eq=False)
class FrontierFit(LawFit):
    """The curve through the best losses."""

    law: _LossOfCompute
    runs: Observations
    through: IsoFlopFit | None
    """Law whose minima these are; None if they are efficient runs."""
    C: Array
    L: Array
    curve: FloorLaw | PowerLaw
    params: Mapping[str, float]

    exponents = {}

    @property
    def broken(self) -> tuple[str, ...]:
        return self.law.faults(self.curve)

    @property
    def warnings(self) -> tuple[str, ...]:
        found = list(self.broken)
        if self.through is None:
            found.append(
                f"no run names a budget: the curve goes through {len(self.C)} efficient runs, "
                "which lie above the true frontier where sizes are sparse"
            )
        else:
            lost = len(self.through.slices) - len(self.through.minima)
            if lost:
                found.append(f"{lost} budgets refused: no interior minimum")
        if len(self.C) == len(self.law.names) + 1:
            found.append(f"{len(self.C)} points leave one to see the error by")
        return tuple(found)

    @property
    def miss(self) -> float:
        """Root mean square error of the points, as a share of the loss."""
        return float(np.sqrt(np.mean((self.curve(self.C) / self.L - 1) ** 2)))

    @property
    def evidence_end(self) -> float:
        return float(self.C.max())

    def predict(self, *, C: Array | float) -> Array:
        """The best loss that C FLOPs buy, nats per token; broadcasts."""
        return self.curve(np.asarray(C, float)[..., None])[..., 0]

    def frontiers(self, C: float) -> dict[str, float]:
        form = "floor" if isinstance(self.curve, FloorLaw) else "power"
        return {form: float(self.predict(C=C))}

    def replicates(self, count: int, seed: int) -> Replicates | None:
        """Through the minima of every replicate; None for efficient runs.

        Which runs are efficient is decided by the lowest losses, and these cannot come out
        lower when runs are drawn again: every replicate would lie above the fit.
        """
        drawn = None if self.through is None else self.through.drawn(count, seed)
        if drawn is None:
            return None
        C, _, _, L = drawn
        enough = np.sum(np.isfinite(L), axis=1) >= len(self.law.names)
        values = self.law.constants(self.law.curve(C[enough], L[enough], self.curve.C0))
        good = np.all(np.isfinite(list(values.values())), axis=0)
        return Replicates(
            asked=count,
            failed=int(count - good.sum()),
            unit="residual of the parabolas, pooled over budgets",
            values={k: v[good] for k, v in values.items()},
            optimum=lambda C: None,
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "formula": self.law.formula,
            "source": self.law.source,
            "params": dict(self.params),
            "exponents": {},
            "points": [{"flops": float(c), "loss": float(x)} for c, x in zip(self.C, self.L, strict=True)],
            "points_are": "efficient runs" if self.through is None else "minima of isoFLOP slices",
            "rms_rel_miss": self.miss,
            "warnings": list(self.warnings),
        }


def efficient(runs: Observations) -> Observations:
    """The runs that no run of as little compute beats, ascending in compute."""
    order = np.lexsort((runs.L, runs.C))
    so_far = np.minimum.accumulate(runs.L[order])
    better = np.append(True, so_far[1:] < so_far[:-1])
    return runs.take(order[better])
