"""The model that is cheapest to train and to use, in FLOPs or in dollars.

    served          min f(N) D + 2 r N T  at one loss
    served_within   the best loss for which that comes to a given total
    alpha A / N^alpha = (s + 2 r N T / (f D)) beta B / D^beta     where it is least

N parameters; D training tokens; f FLOPs per training token as the runs spent them, with
s = d ln f / d ln N; T tokens read and written in use, at 2 N FLOPs each; r what a FLOP of use
costs over one of training, 1 for the objective in FLOPs. With f = 6 N this is demand.py's.

The more is asked of a model, the smaller it should be and the longer trained.

Source: Sardana et al. 2023, section 2 and, for r, section 3, arXiv:2401.00448; s is ours.
Their answers depend strongly on the constants: another published fit moves 30B and 5T tokens
of demand from 199 to 127 tokens per parameter.

Not here: the same from constants alone (demand.py).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import expit

from scalelab.errors import PlanError
from scalelab.laws.base import LawFit
from scalelab.laws.observations import Array
from scalelab.laws.study import Study
from scalelab.laws.tokencost import TokenCost
from scalelab.plan.allocate import positive
from scalelab.plan.choice import THREE_TERMS, Choice, optimum_of, three_terms, told
from scalelab.units import si


@dataclass(frozen=True)
class Prices:
    """Dollars of a FLOP, in training and in use."""

    training: float
    inference: float

    @classmethod
    def of(
        cls,
        *,
        dollars_per_device_hour: float,
        peak_flops_per_s: float,
        mfu_training: float,
        mfu_inference: float,
        inference_dollars_per_device_hour: float | None = None,
        inference_peak_flops_per_s: float | None = None,
    ) -> "Prices":
        """From rented devices; those of use are those of training where nothing else is named.

        Raises:
            PlanError: A figure is not positive, or a utilisation is above 1.
        """
        given = {
            "dollars_per_device_hour": dollars_per_device_hour,
            "peak_flops_per_s": peak_flops_per_s,
            "inference_dollars_per_device_hour": dollars_per_device_hour
            if inference_dollars_per_device_hour is None
            else inference_dollars_per_device_hour,
            "inference_peak_flops_per_s": peak_flops_per_s
            if inference_peak_flops_per_s is None
            else inference_peak_flops_per_s,
        }
        positive(**given)
        for name, mfu in (("mfu_training", mfu_training), ("mfu_inference", mfu_inference)):
            if not 0 < mfu <= 1:
                raise PlanError(
                    f"{name} is {mfu}",
                    where="the prices of the plan",
                    fix="name a share of the peak between 0 and 1",
                )
        hour, peak, hour_of_use, peak_of_use = given.values()
        return cls(
            hour / (3600 * peak * mfu_training), hour_of_use / (3600 * peak_of_use * mfu_inference)
        )


def served(
    found: Study,
    *,
    demand: float,
    flops: float | None = None,
    loss: float | None = None,
    prices: Prices | None = None,
) -> Choice:
    """The model of one loss that is cheapest to train and to use.

    `figures` has demand_tokens, inference_flops, total_flops; optimal_*, the same of the
    compute-optimal model of that loss; saved, the share of the total that it saves; with prices
    total_dollars and optimal_total_dollars, and then `saved` is of dollars.

    Args:
        found: The laws.
        demand: Tokens that will be read and written in the model's life; 0 for none.
        flops: The loss wanted is the best of this training budget; or
        loss: the loss wanted, nats per token.
        prices: Minimise dollars; None: FLOPs.

    Raises:
        PlanError: Not exactly one of flops and loss, a loss at or below the floor, a negative
            demand, or no law of three terms.
    """
    _check_demand(demand)
    if (flops is None) == (loss is None):
        raise PlanError(
            "which quality is wanted: both or neither of flops and loss are given",
            where="the model sized for use",
            fix="name a training budget whose best loss is wanted, or that loss",
        )
    law, fit = three_terms(found)
    if flops is not None:
        positive(flops=flops)
        loss = optimum_of(law, fit, flops)[2]
    floor = fit.params["E"]
    if not (np.isfinite(loss) and loss > floor):
        raise PlanError(
            f"a loss of {loss:.4g} nats per token is not above the floor of {floor:.4g} of {law}",
            where="the target loss of the plan",
            fix=f"ask for a loss above {floor:.4g}",
        )
    drawn = found.replicates[law]
    losses = None
    if drawn is not None:
        r = len(drawn.values["E"])
        losses = drawn.optimum(flops).L if flops is not None else np.full(r, loss)
    return _served(found, law, fit, demand, loss, losses, prices)


def served_within(
    found: Study, *, demand: float, total: float, prices: Prices | None = None
) -> Choice:
    """The best model whose training and use together come to a total.

    Args:
        found: The laws.
        demand: Tokens of use.
        total: FLOPs, or with prices dollars.
        prices: Of FLOPs; None: the total is in FLOPs.

    Raises:
        PlanError: A figure cannot be, or no law of three terms was fitted.
    """
    _check_demand(demand)
    positive(total=total)
    law, fit = three_terms(found)
    unit = 1.0 if prices is None else prices.training
    ratio = 1.0 if prices is None else prices.inference / prices.training
    drawn = found.replicates[law]
    loss = float(_within(fit.params, fit.cost, total / unit, ratio * demand))
    losses = None
    if drawn is not None:
        losses = _within(drawn.values, fit.cost, total / unit, ratio * demand)
    return _served(found, law, fit, demand, loss, losses, prices)


def cheapest(
    params: Mapping[str, Any], cost: TokenCost, loss: Array | float, demand: float
) -> tuple[Array, Array]:
    """N and D that reach a loss at the least f(N) D + 2 N demand; broadcasts over replicates.

    The share of the room above the floor that size takes is sought as a logit, so that both
    prices stay positive; the condition of the header rises steadily in it. NaN at or below the
    floor.
    """
    E, A, B, alpha, beta = (np.asarray(params[k], float) for k in THREE_TERMS)
    with np.errstate(all="ignore"):
        room = np.where(loss > E, loss - E, np.nan)

        def point(share: Array) -> tuple[Array, Array]:
            N = (A / (room * expit(share))) ** (1 / alpha)
            return N, (B / (room * expit(-share))) ** (1 / beta)

        low, high = np.full(room.shape, -40.0), np.full(room.shape, 40.0)
        for _ in range(70):
            middle = (low + high) / 2
            N, D = point(middle)
            use = 2 * N * demand / (cost(N) * D)
            short = np.log(alpha / beta) + middle < np.log(cost.slope(N) + use)
            low, high = np.where(short, middle, low), np.where(short, high, middle)
        return point((low + high) / 2)


def _within(params: Mapping[str, Any], cost: TokenCost, total: float, demand: float) -> Array:
    """The lowest loss whose cheapest model comes to `total` FLOPs; broadcasts."""
    E = np.asarray(params["E"], float)
    low, high = np.full(E.shape, np.log(1e-9)), np.full(E.shape, np.log(1e3))
    for _ in range(60):
        middle = (low + high) / 2
        N, D = cheapest(params, cost, E + np.exp(middle), demand)
        dear = ~(cost(N) * D + 2 * N * demand <= total)
        low, high = np.where(dear, middle, low), np.where(dear, high, middle)
    return E + np.exp((low + high) / 2)


def _served(
    found: Study,
    law: str,
    fit: LawFit,
    demand: float,
    loss: float,
    losses: Array | None,
    prices: Prices | None,
) -> Choice:
    ratio = 1.0 if prices is None else prices.inference / prices.training
    N, D = (float(v) for v in cheapest(fit.params, fit.cost, loss, ratio * demand))
    if not (N >= 1 and D >= 1):
        raise PlanError(
            f"the cheapest model of {loss:.4g} nats per token has {N:.3g} parameters and {D:.3g} "
            "tokens",
            where=f"training with {si(demand)} tokens of use",
            fix="name a larger total, a smaller demand, or a loss above the floor and below ln of "
            "the vocabulary",
        )
    N_0, D_0 = (float(v) for v in cheapest(fit.params, fit.cost, loss, 0.0))
    training, training_0 = float(fit.cost(N)) * D, float(fit.cost(N_0)) * D_0
    use, use_0 = 2 * N * demand, 2 * N_0 * demand
    weights = (1.0, 1.0) if prices is None else (prices.training, prices.inference)
    total = weights[0] * training + weights[1] * use
    total_0 = weights[0] * training_0 + weights[1] * use_0
    draws, drawn = None, found.replicates[law]
    if losses is not None:
        sizes, tokens = cheapest(drawn.values, fit.cost, losses, ratio * demand)
        draws = {"n_params": sizes, "n_tokens": tokens, "tokens_per_param": tokens / sizes}
        draws["loss"] = losses
    figures: dict[str, float | None] = {
        "demand_tokens": demand,
        "inference_flops": use,
        "total_flops": training + use,
        "optimal_n_params": N_0,
        "optimal_n_tokens": D_0,
        "optimal_total_flops": training_0 + use_0,
        "saved": 1 - total / total_0,
        "total_dollars": None if prices is None else total,
        "optimal_total_dollars": None if prices is None else total_0,
    }
    what = "FLOPs of training and use" if prices is None else "dollars of training and use"
    words = (
        f"{si(N)} parameters on {si(D)} tokens ({D / N:.3g} a parameter) reach {loss:.4f} nats per "
        f"token, and with {si(demand)} tokens of use take {1 - total / total_0:.1%} fewer {what} "
        f"than the compute-optimal {si(N_0)} on {si(D_0)}"
    )
    assumed = [f"{si(demand)} tokens of use [assumed], 2 N FLOPs each; memory and latency left out"]
    if prices is not None:
        assumed.append(f"a FLOP of use costs {ratio:.3g} times one of training [assumed]")
    return told(found, law, N, D, training, loss, words, draws, tuple(assumed), (), figures)


def _check_demand(demand: float) -> None:
    if not (np.isfinite(demand) and demand >= 0):
        raise PlanError(
            f"a demand of {demand:.4g} tokens",
            where="the demand of the plan",
            fix="name the tokens that will be read and written, 0 or more",
        )
