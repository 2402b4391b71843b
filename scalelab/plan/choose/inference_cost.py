"""The model that is cheapest to train and to use, in FLOPs or in dollars.

    inference_optimal           min f(N) D + 2 r N T  at a given loss
    inference_optimal_within    the lowest loss for which that equals a given total
    alpha A / N^alpha = (s + 2 r N T / (f D)) beta B / D^beta     at the minimum

N parameters; D training tokens; f FLOPs per training token as measured on the runs, with
s = d ln f / d ln N; T tokens read and written in use, at 2 N FLOPs each; r price of a FLOP in use
over one in training, 1 if the objective is FLOPs. With f = 6 N this equals inference_demand.py.

The larger the demand, the smaller the best model and the longer its training.

Source: Sardana et al. 2023, section 2 and, for r, section 3, arXiv:2401.00448; s is ours.
Their results depend strongly on the constants: another published fit moves 30B parameters and 5T
tokens of demand from 199 to 127 tokens per parameter.

Not here: the same from constants alone (inference_demand.py).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import expit

from scalelab.errors import PlanError
from scalelab.laws.base import LawFit
from scalelab.laws.observations import Array
from scalelab.laws.token_cost import TokenCost
from scalelab.plan.choose.allocate import positive
from scalelab.plan.choose.constrained_optimum import (
    THREE_TERMS,
    ConstrainedOptimum,
    constrained_optimum,
    optimum_of,
    three_terms,
)
from scalelab.study.study import Study
from scalelab.units import multiple, si


@dataclass(frozen=True)
class InferencePrices:
    """US dollars for a FLOP, in training and in use."""

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
    ) -> "InferencePrices":
        """Return the prices from rented devices.

        Args:
            dollars_per_device_hour: US dollars for one training device and hour.
            peak_flops_per_s: Dense peak of one training device, FLOP/s.
            mfu_training: Share of the peak reached in training, 0 to 1.
            mfu_inference: Share of the peak reached in use, 0 to 1.
            inference_dollars_per_device_hour: US dollars for one device in use and hour; None for
                that of training.
            inference_peak_flops_per_s: Dense peak of one device in use; None for that of training.

        Raises:
            PlanError: A value is not positive, or a utilisation is above 1.
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
                    fix="give a share of the peak between 0 and 1",
                )
        hour, peak, hour_of_use, peak_of_use = given.values()
        return cls(hour / (3600 * peak * mfu_training), hour_of_use / (3600 * peak_of_use * mfu_inference))


def inference_optimal(
    study: Study,
    *,
    demand: float,
    flops: float | None = None,
    loss: float | None = None,
    prices: InferencePrices | None = None,
) -> ConstrainedOptimum:
    """Return the model of a given loss that is cheapest to train and to use.

    `figures` has demand_tokens, inference_flops, total_flops; optimal_*, the same for the
    compute-optimal model of that loss; saved, the share of the total that is saved; with prices
    total_dollars and optimal_total_dollars, and then `saved` is the share of dollars.

    Args:
        study: The fitted laws.
        demand: Tokens that the model reads and writes in its life; 0 for none.
        flops: Training FLOPs whose optimum has the loss; None if loss is given.
        loss: Loss to reach, nats per token; None if flops is given.
        prices: Prices, to minimise dollars; None to minimise FLOPs.

    Raises:
        PlanError: Both or neither of flops and loss are given, the loss is at or below the floor,
            the demand is negative, or no law of three terms was fitted.
    """
    _check_demand(demand)
    if (flops is None) == (loss is None):
        raise PlanError(
            "both or neither of flops and loss are given",
            where="the model sized for its use",
            fix="give the training FLOPs whose best loss is to be reached, or that loss",
        )
    law, fit = three_terms(study)
    if flops is not None:
        positive(flops=flops)
        loss = optimum_of(law, fit, flops)[2]
    floor = fit.params["E"]
    if not (np.isfinite(loss) and loss > floor):
        raise PlanError(
            f"a loss of {loss:.4g} nats per token is not above the floor of the {law} law, {floor:.4g}",
            where="the target loss of the plan",
            fix=f"choose a loss above {floor:.4g}",
        )
    replicates = study.replicates[law]
    losses = None
    if replicates is not None:
        r = len(replicates.values["E"])
        losses = replicates.optimum(flops).L if flops is not None else np.full(r, loss)
    return _cheapest_model(study, law, fit, demand, loss, losses, prices)


def inference_optimal_within(
    study: Study, *, demand: float, total: float, prices: InferencePrices | None = None
) -> ConstrainedOptimum:
    """Return the best model whose training and use together cost a given total.

    Args:
        study: The fitted laws.
        demand: Tokens that the model reads and writes in its life.
        total: Total cost in FLOPs, or with prices in US dollars.
        prices: Prices of FLOPs; None if the total is in FLOPs.

    Raises:
        PlanError: A value is out of range, or no law of three terms was fitted.
    """
    _check_demand(demand)
    positive(total=total)
    law, fit = three_terms(study)
    unit = 1.0 if prices is None else prices.training
    ratio = 1.0 if prices is None else prices.inference / prices.training
    replicates = study.replicates[law]
    loss = float(_within(fit.params, fit.cost, total / unit, ratio * demand))
    losses = None
    if replicates is not None:
        losses = _within(replicates.values, fit.cost, total / unit, ratio * demand)
    return _cheapest_model(study, law, fit, demand, loss, losses, prices)


def cheapest(
    params: Mapping[str, Any], cost: TokenCost, loss: Array | float, demand: float
) -> tuple[Array, Array]:
    """Return N and D that reach a loss at the least f(N) D + 2 N demand; broadcasts over replicates.

    The share of the reducible loss that the size term takes is found as a logit by bisection, so
    that both terms stay positive; the condition of the header is monotonic in it.

    Args:
        params: E, A, B, alpha, beta, each a number or an array over replicates.
        cost: Training FLOPs per token of a size.
        loss: Loss to reach, nats per token.
        demand: Tokens in use, weighted by the price ratio.

    Returns: N and D; NaN at or below the floor.
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
            too_low = np.log(alpha / beta) + middle < np.log(cost.log_slope(N) + use)
            low, high = np.where(too_low, middle, low), np.where(too_low, high, middle)
        return point((low + high) / 2)


def _within(params: Mapping[str, Any], cost: TokenCost, total: float, demand: float) -> Array:
    """The lowest loss whose cheapest model costs `total` FLOPs; broadcasts."""
    E = np.asarray(params["E"], float)
    low, high = np.full(E.shape, np.log(1e-9)), np.full(E.shape, np.log(1e3))
    for _ in range(60):
        middle = (low + high) / 2
        N, D = cheapest(params, cost, E + np.exp(middle), demand)
        too_expensive = ~(cost(N) * D + 2 * N * demand <= total)
        low, high = np.where(too_expensive, middle, low), np.where(too_expensive, high, middle)
    return E + np.exp((low + high) / 2)


def _cheapest_model(
    study: Study,
    law: str,
    fit: LawFit,
    demand: float,
    loss: float,
    losses: Array | None,
    prices: InferencePrices | None,
) -> ConstrainedOptimum:
    ratio = 1.0 if prices is None else prices.inference / prices.training
    N, D = (float(v) for v in cheapest(fit.params, fit.cost, loss, ratio * demand))
    if not (N >= 1 and D >= 1):
        raise PlanError(
            f"the cheapest model of {loss:.4g} nats per token has {N:.3g} parameters and {D:.3g} tokens",
            where=f"training with {si(demand)} tokens in use",
            fix="give a larger total, a smaller demand, or a loss above the floor and below ln of "
            "the vocabulary size",
        )
    N_0, D_0 = (float(v) for v in cheapest(fit.params, fit.cost, loss, 0.0))
    training, training_0 = float(fit.cost(N)) * D, float(fit.cost(N_0)) * D_0
    use, use_0 = 2 * N * demand, 2 * N_0 * demand
    weights = (1.0, 1.0) if prices is None else (prices.training, prices.inference)
    total = weights[0] * training + weights[1] * use
    total_0 = weights[0] * training_0 + weights[1] * use_0
    draws, replicates = None, study.replicates[law]
    if losses is not None:
        sizes, tokens = cheapest(replicates.values, fit.cost, losses, ratio * demand)
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
        f"{si(N)} parameters on {si(D)} tokens ({D / N:.3g} per parameter) reach {loss:.4f} nats per "
        f"token and, with {si(demand)} tokens in use, take {1 - total / total_0:.1%} fewer {what} "
        f"than the compute-optimal {si(N_0)} on {si(D_0)}"
    )
    assumed = [f"{si(demand)} tokens in use [assumed], 2 N FLOPs each, without memory and latency"]
    if prices is not None:
        assumed.append(f"a FLOP in use costs {multiple(ratio)} one in training [assumed]")
    return constrained_optimum(study, law, N, D, training, loss, words, draws, tuple(assumed), (), figures)


def _check_demand(demand: float) -> None:
    if not (np.isfinite(demand) and demand >= 0):
        raise PlanError(
            f"a demand of {demand:.4g} tokens",
            where="the demand of the plan",
            fix="give the number of tokens read and written, 0 or more",
        )
