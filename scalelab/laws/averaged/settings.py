"""Several settings of the soft-max law fitted to the same runs at once.

They share runs, coordinates and starts, and differ in the weights of the runs and in the prior. So each
stage of softmax.py is one batch for all of them: the short search from every start, the fit without a prior
that shows the noise, and the fit with it.

Not here: one setting by itself (forms/softmax.py), how settings are weighed (origins.py).
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from scalelab.laws import levenberg
from scalelab.laws.forms.softmax import (
    COARSE_DELTA,
    COARSE_STEPS,
    FIRST,
    FIRST_STEPS,
    KEPT,
    LAST_STEPS,
    Softmax,
    SoftmaxFit,
    best_end,
    noise_around,
)
from scalelab.laws.levenberg import LevenbergEnds, Prior
from scalelab.laws.observations import Array, Observations
from scalelab.laws.token_cost import TokenCost


def fit_settings(
    laws: Sequence[Softmax], part: Observations, total: int, cost: TokenCost
) -> tuple[SoftmaxFit, ...]:
    """The fit of every setting.

    Args:
        laws: Settings that agree in their share of the runs and in huber_delta.
        part: Runs that count.
        total: Runs that were handed over.
        cost: FLOPs per token.
    """
    surfaces = {law.power: law.bind(part) for law in laws}
    powers, delta = list(surfaces), laws[0].huber_delta
    plain = replace(next(iter(surfaces.values())), weight=np.ones(len(part)))
    weight = np.array([surface.weight for surface in surfaces.values()])
    begins = np.array([surface.starts() for surface in surfaces.values()])

    def ends(
        thetas: Array, own: Array, delta: float, steps: int, prior: Prior | None = None
    ) -> LevenbergEnds:
        """Searches from thetas (g, s, 6), with weights (g, n) for each group of s."""
        rows = np.repeat(own, thetas.shape[1], axis=0)
        flat = thetas.reshape(-1, thetas.shape[2])
        return levenberg.descend(plain, flat, delta=delta, weights=rows, prior=prior, steps=steps)

    coarse = ends(begins, weight, COARSE_DELTA, COARSE_STEPS)
    order = np.argsort(coarse.objective.reshape(len(powers), -1), axis=1, kind="stable")[:, :KEPT]
    kept = np.take_along_axis(coarse.theta.reshape(begins.shape), order[:, :, None], axis=1)
    first = ends(kept[:, :FIRST], weight, delta, FIRST_STEPS)
    best = np.argmin(first.objective.reshape(len(powers), FIRST), axis=1)
    noise = {
        power: noise_around(surfaces[power], first.theta[k * FIRST + best[k]], part)
        for k, power in enumerate(powers)
    }
    at = [powers.index(law.power) for law in laws]
    priors = [law.prior(surfaces[law.power], noise[law.power]) for law in laws]
    precision = np.repeat([prior.precision for prior in priors], KEPT, axis=0)
    last = ends(kept[at], weight[at], delta, LAST_STEPS, Prior(priors[0].mean, precision))
    found = []
    for k, (law, prior) in enumerate(zip(laws, priors, strict=True)):
        rows = slice(k * KEPT, (k + 1) * KEPT)
        mine = LevenbergEnds(last.theta[rows], last.objective[rows], last.gradient_norm[rows])
        surface = surfaces[law.power]
        theta, solver = best_end(surface, mine)
        found.append(
            SoftmaxFit(
                law,
                part,
                surface,
                theta,
                float(mine.objective.min()) / delta**2,
                solver,
                cost,
                prior=prior,
                noise=noise[law.power],
                total=total,
            )
        )
    return tuple(found)
