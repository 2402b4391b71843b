"""The soft-max law averaged over its settings, each weighted by how it forecast larger compute.

    ln L(N, D) = sum_m w_m ln L_m(N, D)
    ln N*(C) = sum_m w_m ln N*_m(C),  D* = C / f(N*),  N* ~ C^a with a = sum_m w_m a_m

L  validation loss, nats per token
N  parameters; D  training tokens; C  training FLOPs; f  FLOPs per token
m  setting: a soft-max law with its own weight of runs by compute and its own strength of the prior
w  weights, from rolling origins inside the evidence (origins.py)

One form with a free softness in place of several forms: what is averaged is only what the runs leave
open, how much small runs should count and how firmly the prior should hold.

Source: the soft-max law, arXiv:2608.07222; averages of forecasts, Bates & Granger 1969,
doi:10.1057/jors.1969.103. The settings were chosen on public tables (analysis/backtest.md).

Not here: the law that is averaged (forms/softmax.py), intervals for a target (uncertainty/conformal.py).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from scalelab.laws.averaged.origins import Origin, rate, splits, weights
from scalelab.laws.averaged.refits import AverageRefits
from scalelab.laws.base import Bend, Convergence, Law, LawFigure, LawFit, Optimum, Replicates
from scalelab.laws.description import Fact, FitContext, Influence
from scalelab.laws.forms.softmax import LEAST_RUNS, REFIT_STEPS, Softmax, SoftmaxFit, fit_together
from scalelab.laws.forms.softmax_profile import profile_figure
from scalelab.laws.forms.softmax_surface import NAMES
from scalelab.laws.formula import HUBER_DELTA
from scalelab.laws.observations import Array, Observations
from scalelab.laws.token_cost import TokenCost
from scalelab.laws.uncertainty.conformal import CalibratedWidth, calibrated_width
from scalelab.laws.uncertainty.influence import influence
from scalelab.laws.uncertainty.resampling_units import ResamplingUnits, resampling_units
from scalelab.units import sci


@dataclass(frozen=True)
class Averaged(Law):
    """An average of soft-max laws with different weights of runs and strengths of the prior."""

    formula = "ln L = sum of w_m ln L_m, L_m = E + ((A / N^alpha_N)^(1/k) + (B / D^alpha_D)^(1/k))^k"
    source = "Skaling, arXiv:2608.07222, averaged by rolling-origin error"

    least_runs = LEAST_RUNS

    share: float = 0.5
    """Share of the runs that counts, those of the most compute; 1 for all."""
    least_counted: int = 10
    """Runs that count at least, however small their share is."""
    powers: tuple[float, ...] = (0.0, 0.5)
    """p of the weight (C / C_max)^p of a run, one setting each."""
    prior_scales: tuple[float, ...] = (1.0, 3.0)
    """Times the noise of the table, in the weight of the prior, one setting each."""
    ratio_sd: float = 0.3
    """Standard deviation of the prior on ln alpha_N - ln alpha_D; infinite for none."""
    huber_delta: float = HUBER_DELTA
    """Error of ln L beyond which the weight of a run stops growing."""
    weighed: bool = True
    """Whether settings are weighed by their forecasts inside the evidence; otherwise all count the same."""

    @property
    def settings(self) -> tuple[Softmax, ...]:
        """The laws that are averaged, those of one power together."""
        return tuple(
            Softmax(self.share, self.least_counted, power, scale, self.ratio_sd, self.huber_delta)
            for power in self.powers
            for scale in self.prior_scales
        )

    def quick(self) -> "Averaged":
        return replace(self, weighed=False)

    @property
    def quick_differs(self) -> str | None:
        return "all settings count the same" if self.weighed else None

    def fit(self, runs: Observations) -> "AveragedFit":
        self.settings[0].refuse(runs)
        cost = TokenCost.of(runs)
        origins = tuple(self._asked(runs)) if self.weighed else ()
        members = self._members(runs, cost)
        found = weights(origins, len(members))
        sound = np.array([not member.broken for member in members])
        if sound.any():
            found = found * sound / np.sum(found * sound)
        return AveragedFit(self, members[0].runs, members, found, runs, origins, cost)

    def _members(self, runs: Observations, cost: TokenCost) -> tuple[SoftmaxFit, ...]:
        """Every setting fitted to the runs that count."""
        part = runs.take(self.settings[0].used(runs))
        return fit_together(self.settings, part, len(runs), cost)

    def _asked(self, runs: Observations) -> list[Origin]:
        """The tests inside the evidence."""
        found = []
        cost = TokenCost.of(runs)
        for train, asked in splits(runs):
            known, far = runs.take(train), runs.take(asked)
            errors = [np.log(m.loss_at(far.N, far.D) / far.L) for m in self._members(known, cost)]
            end = float(known.C.max())
            found.append(Origin(end, len(known), far.C / end, np.array(errors)))
        return found


@dataclass(frozen=True, eq=False)
class AveragedFit(LawFit):
    """Every setting fitted to the same runs, with its weight."""

    law: Averaged
    runs: Observations
    members: tuple[SoftmaxFit, ...]
    """One for each setting."""
    weights: Array
    """Shape (m,), sum 1."""
    everything: Observations
    """All runs that were handed over; `runs` are those of them that count."""
    origins: tuple[Origin, ...]
    """The tests from which the weights come, the nearest first; empty where the runs allow none."""
    cost: TokenCost
    shown_params = ()
    is_surface = True

    @property
    def params(self) -> dict[str, float]:
        """The constants of every setting, numbered from 1."""
        return {
            _numbered(name, k): value
            for k, member in enumerate(self.members)
            for name, value in member.params.items()
        }

    @property
    def exponents(self) -> dict[str, float]:
        a = float(self.weights @ [member.exponents["a"] for member in self.members])
        return {"a": a, "b": 1 - a}

    @property
    def determined_by(self) -> tuple[int, int]:
        """Those of one setting: all are fitted to the same runs."""
        return self.members[0].determined_by

    @property
    def floor(self) -> None:
        """None: an average of surfaces has no floor of its own."""
        return None

    @property
    def heaviest(self) -> int:
        """The setting of the largest weight, counted from 0; the first of several."""
        return int(np.argmax(self.weights))

    @property
    def rate(self) -> float | None:
        """Error of ln L per unit of ln(1 + reach) inside the evidence; None without origins."""
        return rate(self.origins, len(self.members))

    @property
    def broken(self) -> tuple[str, ...]:
        """Those of the members, if none of them is sound: one that is not has no weight."""
        if any(not member.broken for member in self.members):
            return ()
        return tuple(dict.fromkeys(reason for member in self.members for reason in member.broken))

    @property
    def warnings(self) -> tuple[str, ...]:
        found = [*self.broken]
        lost = sum(bool(member.broken) for member in self.members)
        if lost and not self.broken:
            found.append(f"{lost} of {len(self.members)} settings did not converge and have no weight")
        if self.law.weighed and not self.origins:
            found.append("the runs allow no test inside the evidence: all settings count the same")
        counted = (m for m, w in zip(self.members, self.weights, strict=True) if w > 0)
        found += [
            warning for member in counted for warning in member.warnings if warning not in member.broken
        ]
        return tuple(dict.fromkeys(found))

    def predict(self, **inputs: Array | float) -> Array:
        return self.loss_at(inputs["N"], inputs["D"])

    def loss_at(self, N: Array | float, D: Array | float, params: Mapping[str, Any] | None = None) -> Array:
        values = self.params if params is None else params
        N, D = np.asarray(N, float), np.asarray(D, float)
        log_loss = 0.0
        with np.errstate(all="ignore"):
            for k, (member, weight) in enumerate(zip(self.members, self.weights, strict=True)):
                if weight:
                    own = {name: values[_numbered(name, k)] for name in NAMES}
                    log_loss = log_loss + weight * np.log(member.law.loss(own, N=N, D=D))
        return np.exp(log_loss)

    def expected(self, runs: Observations) -> Array:
        return self.loss_at(runs.N, runs.D)

    def optimum(self, C: Array | float) -> Optimum:
        return self._optimum(self.params, C)

    def _optimum(self, values: Mapping[str, Any], C: Array | float) -> Optimum:
        """The optimum of constants by number, each a value or an array that broadcasts with C."""
        C = np.asarray(C, float)
        ln_N = 0.0
        with np.errstate(all="ignore"):
            for k, (member, weight) in enumerate(zip(self.members, self.weights, strict=True)):
                if weight:
                    own = {name: values[_numbered(name, k)] for name in NAMES}
                    ln_N = ln_N + weight * np.log(member.law.optimum(own, C, self.cost).N)
            N = np.exp(ln_N)
            D = C / self.cost(N)
        return Optimum(C, N, D, self.loss_at(N, D, values))

    @cached_property
    def units(self) -> ResamplingUnits:
        """Which runs are drawn again together."""
        return resampling_units(self.runs, np.log(self.expected(self.runs) / self.runs.L))

    @property
    def not_redrawn(self) -> str | None:
        return self.units.too_few

    def replicates(self, count: int, seed: int) -> Replicates | None:
        """Every member fitted again to the same draws; the weights stay."""
        counts = self.units.counts(seed)
        if counts is None:
            return None
        ends = [m.refitted(np.tile(m.theta, (count, 1)), counts, REFIT_STEPS) for m in self.members]
        rests = [end.converged for end, weight in zip(ends, self.weights, strict=True) if weight]
        good = np.all(rests, axis=0)
        values: dict[str, Array] = {}
        a = np.zeros(int(good.sum()))
        for k, (member, end) in enumerate(zip(self.members, ends, strict=True)):
            own = member.surface.constants(end.theta[good])
            values |= {_numbered(name, k): value for name, value in own.items()}
            a = a + self.weights[k] * member.law.exponents(own)["a"]
        return Replicates(
            asked=count,
            failed=int(np.sum(~good)),
            unit=self.units.drawn,
            values=values | {"a": a, "b": 1 - a},
            optimum=lambda C: self._optimum(values, np.full(len(a), float(C))),
            notes=self.units.notes,
        )

    @property
    def refits(self) -> AverageRefits:
        """What makes the fit again with other weights of its runs; its settings keep their weights."""
        counted = [k for k, weight in enumerate(self.weights) if weight > 0]
        weights = self.weights[counted]

        def named(values: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
            a = weights @ np.array([each["a"] for each in values])
            constants = {
                _numbered(name, k): each[name]
                for k, each in zip(counted, values, strict=True)
                for name in NAMES
            }
            return {"a": a, "b": 1 - a, **constants}

        return AverageRefits([self.members[k].refits for k in counted], weights, named)

    def influence(self) -> tuple[Influence, ...] | None:
        return None if self.broken else influence(self)

    def bends(self) -> tuple[Bend, ...]:
        """Those of one soft-max law fitted to all runs: the half that counts shows a bend half as well."""
        return self._bends

    @cached_property
    def _bends(self) -> tuple[Bend, ...]:
        whole = replace(self.members[self.heaviest].law, share=1.0)
        return whole.fit(self.everything).bends()

    def profiles(self, target: float, level: float) -> dict[str, list[float | None]] | None:
        """Those of E and k of the heaviest setting: an average has no likelihood of its own."""
        found = self.members[self.heaviest].profiles(target, level)
        return found and {_numbered(name, self.heaviest): ends for name, ends in found.items()}

    def pictures(self) -> tuple[LawFigure, ...]:
        found = self.members[self.heaviest].profiled
        if found is None:
            return ()
        law, weight = self.members[self.heaviest].law, self.weights[self.heaviest]
        whose = (
            f"the heaviest setting (C^{law.power:g}, prior {law.prior_scale:g} x noise, weight {weight:.0%})"
        )
        return (profile_figure(found, whose),)

    def calibrated(self, C: float, level: float) -> CalibratedWidth | None:
        if self.runs.C.min() * (1 - 1e-9) > C:
            return None  # below the runs that count nothing was tested, and the law extrapolates downwards
        best = self.optimum(float(C))
        losses, sizes = [], []
        for member in self.members:
            losses.append(np.log(member.loss_at(best.N, best.D)))
            sizes.append(np.log(member.optimum(float(C)).N))
        spread = np.std(losses), np.std(sizes)
        if not np.isfinite(spread).all():
            return None
        return calibrated_width(
            level=level,
            reach=float(C) / self.evidence_end,
            rate=self.rate,
            loss_spread=float(spread[0]),
            size_spread=float(spread[1]),
            origins=len(self.origins),
        )

    @property
    def convergence(self) -> Convergence:
        """The worst of the members that count."""
        counted = [m.solver for m, w in zip(self.members, self.weights, strict=True) if w > 0]
        return max(counted, key=lambda found: (not found.converged, found.gradient_norm))

    @property
    def objective_text(self) -> str:
        return f"average of {len(self.members)} settings"

    @property
    def median_error(self) -> float:
        return float(np.median(np.abs(self.expected(self.runs) / self.runs.L - 1)))

    def facts(self, context: FitContext) -> tuple[Fact, ...]:
        first = self.members[0]
        found = [
            Fact(
                "runs that count", f"{len(self.runs)} of {first.total}, those of the most compute", "assumed"
            ),
            Fact("noise of ln L", f"{first.noise:.2%}, robust, of a first fit without a prior", "fitted"),
            Fact("prior", f"sd of ln alpha_N - ln alpha_D {self.law.ratio_sd:g}", "assumed"),
        ]
        for member, weight in zip(self.members, self.weights, strict=True):
            p, constants = member.params, member.law
            label = f"C^{constants.power:g}, prior {constants.prior_scale:g} x noise"
            shown = ", ".join(f"{name} {p[name]:.3g}" for name in ("E", "alpha_N", "alpha_D", "k"))
            text = f"weight {weight:.0%}; {shown}"
            found.append(Fact(label, text))
        for origin in self.origins:
            ahead = f"{np.exp(np.mean(np.log(origin.reach))):.3g}x"
            text = f"{origin.count} runs, error {origin.error(self.weights):.2%} at {ahead}"
            found.append(Fact(f"fitted up to {sci(origin.flops)} FLOPs", text, "extrapolated"))
        if self.rate is not None:
            found.append(
                Fact("error per unit of ln(1 + reach)", f"{self.rate:.2%}, inside the evidence", "fitted")
            )
        return tuple(found)

    def to_json(self) -> dict[str, Any]:
        return super().to_json() | {
            "weights": [float(weight) for weight in self.weights],
            "settings": [
                {"power": m.law.power, "prior_scale": m.law.prior_scale, "noise": m.noise}
                for m in self.members
            ],
            "runs_that_count": len(self.runs),
            "origins": [
                {
                    "flops": origin.flops,
                    "train": origin.count,
                    "reach": [float(x) for x in origin.reach],
                    "errors": origin.errors.tolist(),
                }
                for origin in self.origins
            ],
            "rate": self.rate,
            "flops_per_token": str(self.cost),
            "median_abs_rel_miss": self.median_error,
        }


def _numbered(name: str, k: int) -> str:
    """The name of a constant of setting k, counted from 0."""
    return f"{name}_{k + 1}"
