"""The best model when only so many tokens are new: epochs, what repeats are worth, what data buys.

    min over N of  L(N', D'),   D = C / f(N),   D' and N' of laws/repeated.py

N parameters; D training tokens; U unique tokens; C training FLOPs; f FLOPs per training token
as the runs spent them; L loss, nats per token. D' = U + U R_D (1 - e^(-(D / U - 1) / R_D)): what
D tokens are worth as new ones; the next one is worth e^(-(D / U - 1) / R_D).

Source: Muennighoff et al. 2023, arXiv:2305.16264. Where no run repeats, its R_D = 15.387756
and R_N = 5.309743 stand in (C4, 2023, exponents tied), and the choice says so.

Not here: the law and its fit (laws/repeated.py).
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from scipy.optimize import brentq, minimize_scalar

from scalelab.laws.observations import Array
from scalelab.laws.repeated import Repeated, effective
from scalelab.laws.study import Study
from scalelab.laws.tokencost import TokenCost
from scalelab.plan.allocate import positive
from scalelab.plan.choice import Choice, compute_for, optimum_of, three_terms, told
from scalelab.units import si

WORTH = {key: Repeated.published[key] for key in ("R_N", "R_D")}  # literature, 2023
MANY_EPOCHS = 4.0  # up to here repeating is nearly as good as new (Muennighoff et al. 2023)
MORE = 0.01  # share of the compute that the exchange with data is told for
SIZES = 400  # sizes tried for each replicate, over FARTHEST either way
FARTHEST = 1e3
_EXCHANGE = (
    "tokens_for_one_percent",
    "flops_per_unique_token",
    "loss_with_compute",
    "loss_with_data",
    "break_even_dollars_per_token",
)


def limited_data(
    found: Study,
    *,
    unique_tokens: float,
    flops: float,
    dollars_per_flop: float | None = None,
    dollars_per_token: float | None = None,
) -> Choice:
    """The best size and number of epochs when only so many tokens are new.

    `figures` has: epochs; effective_tokens, what the tokens are worth as new ones, and
    worth_of_tokens, their share of D; marginal_worth, what the next token is worth;
    unlimited_loss, with all tokens new; compute_wasted, the share that the repeats cost. Where
    the data are the limit: loss_with_compute, of 1% more compute; tokens_for_one_percent, new
    tokens that lower the loss as much (None where none do); flops_per_unique_token, that exchange
    per token; with a price per FLOP break_even_dollars_per_token, below which data is the better
    buy; with both prices loss_with_data, for the money of 1% more compute.

    Args:
        found: The laws; a fitted `repeated` law speaks for repeats.
        unique_tokens: That there are.
        flops: The budget.
        dollars_per_flop: Of training; None for unknown.
        dollars_per_token: Of a new unique token; None for unknown.

    Raises:
        PlanError: A figure is not positive, or no law of three terms was fitted.
    """
    positive(unique_tokens=unique_tokens, flops=flops)
    for name, price in (("per_flop", dollars_per_flop), ("per_token", dollars_per_token)):
        if price is not None:
            positive(**{f"dollars_{name}": price})
    law, fit = three_terms(found, prefer="repeated")
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
        "al. 2023, C4, exponents tied]; no run of this evidence fits them"
    )
    warnings = []
    if epochs > MANY_EPOCHS:
        warnings.append(
            f"{epochs:.1f} epochs: beyond {MANY_EPOCHS:g} repeats lose their worth, and models may "
            "overfit, which this law does not know"
        )
    words = (
        f"{si(unique_tokens)} unique tokens are enough: the best model reads {si(D)} once"
        if enough
        else f"{si(N)} parameters, {epochs:.2f} epochs of {si(unique_tokens)} unique tokens, worth "
        f"{worth / D:.0%} of as many new ones: {loss:.4f} nats per token, against "
        f"{unlimited[2]:.4f} with unlimited data"
    )
    draws = _limited_draws(found, law, flops, unique_tokens, N)
    choice = told(
        found,
        law,
        N,
        D,
        flops,
        loss,
        f"{words}{_bought(figures)}",
        draws,
        () if enough else (source,),
        tuple(warnings),
        figures,
    )
    # No other law of the evidence knows of repeats.
    return choice if enough else replace(choice, by_law={})


def _bought(figures: Mapping[str, float | None]) -> str:
    """The exchange of data and compute as a clause; empty where there is none."""
    tokens, with_data = figures["tokens_for_one_percent"], figures["loss_with_data"]
    if tokens is None:
        return ""
    told_price = ""
    if with_data is not None:
        better = "data" if with_data < figures["loss_with_compute"] else "compute"
        told_price = (
            f"; for the same money {better} is the better buy ({with_data:.4f} with data, "
            f"{figures['loss_with_compute']:.4f} with compute)"
        )
    return f"; {si(tokens)} new tokens are worth {MORE:.0%} more compute{told_price}"


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
    """What 1% more compute is worth in new tokens, and which is the better buy.

    Without an exchange where even unlimited data brings less than that compute.
    """
    with_compute = best(flops * (1 + MORE), unique)[2]

    def left(x: float) -> float:
        return best(flops, unique * np.exp(x))[2] - with_compute

    found: dict[str, float | None] = {"loss_with_compute": with_compute}
    high = 10.0
    if left(high) > 0:  # even unlimited data brings less than the compute
        return found
    tokens = unique * float(np.expm1(brentq(left, 0.0, high, xtol=1e-12)))
    found |= {
        "tokens_for_one_percent": tokens,
        "flops_per_unique_token": MORE * flops / tokens,
    }
    if per_flop is not None:
        money = MORE * flops * per_flop
        found["break_even_dollars_per_token"] = money / tokens
        if per_token is not None:
            found["loss_with_data"] = best(flops, unique + money / per_token)[2]
    return found


def _limited(params: Mapping[str, Any], N: Array, D: Array, U: float) -> Array:
    """Loss where at most U tokens are new; infinite for sizes that the budget cannot train."""
    with np.errstate(all="ignore"):
        loss = Repeated().loss(params, N=N, D=D, U=np.minimum(D, U))
    return np.where(np.isfinite(loss), loss, np.inf)


def _bracket(
    params: Mapping[str, Any], cost: TokenCost, C: float, U: float, middle: float
) -> tuple[float, float]:
    """The ln N on both sides of the lowest loss among SIZES."""
    x = middle + np.linspace(-np.log(FARTHEST), np.log(FARTHEST), SIZES)
    k = int(np.argmin(_limited(params, np.exp(x), C / cost(np.exp(x)), U)))
    return float(x[max(k - 1, 0)]), float(x[min(k + 1, SIZES - 1)])


def _limited_draws(found: Study, law: str, C: float, U: float, N: float) -> dict[str, Array] | None:
    """The best size, its epochs and loss for every replicate, by a parabola on a grid of sizes."""
    drawn, cost = found.replicates[law], found.fits[law].cost
    if drawn is None:
        return None
    params = {k: v[:, None] for k, v in drawn.values.items()}
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
    return {
        "n_params": size,
        "n_tokens": D,
        "loss": b - step * (a - c) / 4,
        "epochs": D / np.minimum(D, U),
    }
