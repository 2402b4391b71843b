"""The best model for a limited number of unique tokens: epochs, the value of repeats and of more data.

    min over N of  L(N', D'),   D = C / f(N),   D' and N' of laws/forms/repeated.py

N parameters; D training tokens; U unique tokens; C training FLOPs; f FLOPs per training token
as measured on the runs; L loss, nats per token. D' = U + U R_D (1 - e^(-(D / U - 1) / R_D)) is the
number of new tokens equivalent to D tokens; the next token counts e^(-(D / U - 1) / R_D).

Source: Muennighoff et al. 2023, arXiv:2305.16264. Where no run repeats tokens, its
R_D = 15.387756 and R_N = 5.309743 (C4, 2023, exponents tied) are used and noted as literature.

Not here: the law and its fit (laws/forms/repeated.py).
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from scipy.optimize import brentq, minimize_scalar

from scalelab.laws.forms.repeated import Repeated, effective
from scalelab.laws.observations import Array
from scalelab.laws.token_cost import TokenCost
from scalelab.plan.choose.allocate import positive
from scalelab.plan.choose.constrained_optimum import (
    ConstrainedOptimum,
    compute_for,
    constrained_optimum,
    optimum_of,
    three_terms,
)
from scalelab.study.study import Study
from scalelab.units import si

WORTH = {key: Repeated.published[key] for key in ("R_N", "R_D")}  # literature, 2023
MANY_EPOCHS = 4.0  # up to this, repeated tokens are nearly as good as new ones (Muennighoff et al. 2023)
MORE = 0.01  # share of additional compute that is compared with additional data
SIZES = 400  # sizes of the search grid, over FARTHEST either way
FARTHEST = 1e3
_EXCHANGE = (
    "tokens_for_one_percent",
    "flops_per_unique_token",
    "loss_with_compute",
    "loss_with_data",
    "break_even_dollars_per_token",
)


def limited_data(
    study: Study,
    *,
    unique_tokens: float,
    flops: float,
    dollars_per_flop: float | None = None,
    dollars_per_token: float | None = None,
) -> ConstrainedOptimum:
    """Return the best size and number of epochs for a limited number of unique tokens.

    `figures` has: epochs; effective_tokens, the equivalent number of new tokens, and
    worth_of_tokens, its share of D; marginal_worth, the value of the next token;
    unlimited_loss, with all tokens new; compute_wasted, the share lost to repeats. Where data is
    the limit: loss_with_compute, with 1% more compute; tokens_for_one_percent, the new tokens that
    lower the loss as much (None if none do); flops_per_unique_token, this exchange per token; with
    a price per FLOP break_even_dollars_per_token, below which data is the better buy; with both
    prices loss_with_data, the loss if the money for 1% more compute buys data.

    Args:
        study: The fitted laws; a fitted `repeated` law is used for repeats.
        unique_tokens: Number of unique tokens.
        flops: Training FLOPs.
        dollars_per_flop: US dollars for a FLOP of training; None for unknown.
        dollars_per_token: US dollars for a new unique token; None for unknown.

    Raises:
        PlanError: A value is not positive, or no law of three terms was fitted.
    """
    positive(unique_tokens=unique_tokens, flops=flops)
    for name, price in (("per_flop", dollars_per_flop), ("per_token", dollars_per_token)):
        if price is not None:
            positive(**{f"dollars_{name}": price})
    law, fit = three_terms(study, prefer="repeated")
    own = "R_D" in fit.params
    params = {**fit.params} if own else {**fit.params, **WORTH}
    cost = fit.cost

    def best(C: float, U: float) -> tuple[float, float, float]:
        x = float(np.log(optimum_of(law, fit, C)[0]))
        found_at = minimize_scalar(
            lambda y: float(_limited(params, np.exp(y), C / cost(np.exp(y)), U)),
            bounds=_bracket(params, cost, C, U, x),
            method="bounded",
            options={"xatol": 1e-10},
        )
        N = float(np.exp(found_at.x))
        return N, C / float(cost(N)), float(found_at.fun)

    unlimited = optimum_of(law, fit, flops)
    enough = unlimited[1] <= unique_tokens
    N, D, loss = unlimited if enough else best(flops, unique_tokens)
    used = min(unique_tokens, D)
    epochs = D / used
    worth = float(effective(D, used, params["R_D"]))
    figures: dict[str, float | None] = {
        "unique_tokens": unique_tokens,
        "epochs": epochs,
        "effective_tokens": worth,
        "worth_of_tokens": worth / D,
        "marginal_worth": float(np.exp(-(epochs - 1) / params["R_D"])),
        "unlimited_n_tokens": unlimited[1],
        "unlimited_loss": unlimited[2],
        "compute_wasted": 0.0 if enough else _wasted(compute_for(fit, loss), flops),
        **dict.fromkeys(_EXCHANGE),
    }
    if not enough:
        figures |= _exchange(best, flops, unique_tokens, loss, dollars_per_flop, dollars_per_token)
    source = (
        f"R_D = {params['R_D']:.4g} and R_N = {params['R_N']:.4g}, fitted to repeated runs"
        if own
        else f"R_D = {WORTH['R_D']:.6f} and R_N = {WORTH['R_N']:.6f} [literature: Muennighoff et "
        "al. 2023, C4, exponents tied]; no run of this evidence repeats tokens"
    )
    warnings = []
    if epochs > MANY_EPOCHS:
        warnings.append(
            f"{epochs:.1f} epochs: beyond {MANY_EPOCHS:g} repeats lose value, and models may overfit, "
            "which this law does not describe"
        )
    words = (
        f"{si(unique_tokens)} unique tokens are enough: the optimum uses {si(D)} once"
        if enough
        else f"{si(N)} parameters on {epochs:.2f} epochs of {si(unique_tokens)} unique tokens, "
        f"equivalent to {worth / D:.0%} as many new ones, reach {loss:.4f} nats per token; unlimited data "
        f"reaches {unlimited[2]:.4f}"
    )
    draws = _limited_draws(study, law, flops, unique_tokens, N)
    choice = constrained_optimum(
        study,
        law,
        N,
        D,
        flops,
        loss,
        f"{words}{_exchange_clause(figures)}",
        draws,
        () if enough else (source,),
        tuple(warnings),
        figures,
    )
    # No other law of the evidence describes repeats.
    return choice if enough else replace(choice, by_law={})


def _exchange_clause(figures: Mapping[str, float | None]) -> str:
    """The exchange of data and compute as a clause; empty without one."""
    tokens, with_data = figures["tokens_for_one_percent"], figures["loss_with_data"]
    if tokens is None:
        return ""
    comparison = ""
    if with_data is not None:
        better = "data" if with_data < figures["loss_with_compute"] else "compute"
        comparison = (
            f"; for the same money {better} is the better buy ({with_data:.4f} with data, "
            f"{figures['loss_with_compute']:.4f} with compute)"
        )
    return f"; {si(tokens)} new tokens lower the loss as much as {MORE:.0%} more compute{comparison}"


def _wasted(enough: float | None, flops: float) -> float | None:
    return None if enough is None else 1 - enough / flops


def _exchange(
    best: Callable[[float, float], tuple[float, float, float]],
    flops: float,
    unique: float,
    loss: float,
    per_flop: float | None,
    per_token: float | None,
) -> dict[str, float | None]:
    """The new tokens that lower the loss as much as 1% more compute, and the prices at which.

    Without an exchange if even unlimited data lowers the loss by less.

    Args:
        best: Function that returns N, D and loss of the best model for FLOPs and unique tokens.
        flops: Training FLOPs.
        unique: Number of unique tokens.
        loss: Loss of the best model, nats per token.
        per_flop: US dollars per FLOP; None for unknown.
        per_token: US dollars per new unique token; None for unknown.
    """
    with_compute = best(flops * (1 + MORE), unique)[2]

    def left(x: float) -> float:
        return best(flops, unique * np.exp(x))[2] - with_compute

    found: dict[str, float | None] = {"loss_with_compute": with_compute}
    high = 10.0
    if left(high) > 0:  # even unlimited data lowers the loss by less
        return found
    tokens = unique * float(np.expm1(brentq(left, 0.0, high, xtol=1e-12)))
    found |= {"tokens_for_one_percent": tokens, "flops_per_unique_token": MORE * flops / tokens}
    if per_flop is not None:
        money = MORE * flops * per_flop
        found["break_even_dollars_per_token"] = money / tokens
        if per_token is not None:
            found["loss_with_data"] = best(flops, unique + money / per_token)[2]
    return found


def _limited(params: Mapping[str, Any], N: Array, D: Array, U: float) -> Array:
    """Loss with at most U unique tokens; infinite for sizes that the budget cannot train."""
    with np.errstate(all="ignore"):
        loss = Repeated().loss(params, N=N, D=D, U=np.minimum(D, U))
    return np.where(np.isfinite(loss), loss, np.inf)


def _bracket(
    params: Mapping[str, Any], cost: TokenCost, C: float, U: float, middle: float
) -> tuple[float, float]:
    """Ln N on both sides of the lowest loss among SIZES."""
    x = middle + np.linspace(-np.log(FARTHEST), np.log(FARTHEST), SIZES)
    k = int(np.argmin(_limited(params, np.exp(x), C / cost(np.exp(x)), U)))
    return float(x[max(k - 1, 0)]), float(x[min(k + 1, SIZES - 1)])


def _limited_draws(study: Study, law: str, C: float, U: float, N: float) -> dict[str, Array] | None:
    """Best size, its tokens, epochs and loss in every replicate, by a parabola on a grid of sizes."""
    replicates, cost = study.replicates[law], study.fits[law].cost
    if replicates is None:
        return None
    params = {k: v[:, None] for k, v in replicates.values.items()}
    params |= {k: np.float64(v) for k, v in WORTH.items() if k not in params}
    x = np.log(N) + np.linspace(-np.log(30), np.log(30), 121)
    L = _limited(params, np.exp(x)[None], (C / cost(np.exp(x)))[None], U)
    k = np.clip(np.argmin(L, axis=1), 1, len(x) - 2)
    i = np.arange(len(L))
    a, b, c = L[i, k - 1], L[i, k], L[i, k + 1]
    with np.errstate(all="ignore"):
        step = (a - c) / (2 * (a - 2 * b + c))
    step = np.where(np.isfinite(step), np.clip(step, -1, 1), 0.0)
    size = np.exp(x[k] + step * (x[1] - x[0]))
    edge = (np.argmin(L, axis=1) == 0) | (np.argmin(L, axis=1) == len(x) - 1)
    size = np.where(edge, np.nan, size)
    D = C / cost(size)
    return {"n_params": size, "n_tokens": D, "loss": b - step * (a - c) / 4, "epochs": D / np.minimum(D, U)}
