"""What to train when N, D or the loss is given, or memory is short; the door to all variants.

    at              the loss of any N and D
    fixed_params    N is given: D = C / f(N)
    fixed_tokens    D is given: f(N) = C / D
    at_most         N may be no larger than fits: the optimum, or that N
    for_loss        the least compute whose optimum reaches a loss (the inverse problem)
    limited_data    only so many tokens are new (limited.py)
    served, served_within    use costs too (use.py)

N parameters; D training tokens; C training FLOPs; f FLOPs per training token as the runs spent
them; L loss, nats per token. for_loss asks the law that speaks for the forecast, all others a
surface.

Not here: what a choice is (choice.py), the unconstrained optimum and what missing it costs
(allocate.py).
"""

import numpy as np

from scalelab.errors import PlanError
from scalelab.laws.base import LawFit, Replicates
from scalelab.laws.interval import trusted
from scalelab.laws.observations import Array
from scalelab.laws.study import Study
from scalelab.laws.tokencost import TokenCost
from scalelab.plan.allocate import positive, refuted
from scalelab.plan.choice import COMPUTE, Choice, beyond, compute_for, optimum_of, surface, told
from scalelab.plan.limited import limited_data as limited_data
from scalelab.plan.use import Prices as Prices
from scalelab.plan.use import served as served
from scalelab.plan.use import served_within as served_within
from scalelab.units import sci, si


def at(found: Study, *, n_params: float, n_tokens: float) -> Choice:
    """The loss to expect of a model of any size and length.

    Raises:
        PlanError: A figure is not positive, or no surface was fitted.
    """
    positive(n_params=n_params, n_tokens=n_tokens)
    law, fit = surface(found)
    flops = float(fit.cost(n_params)) * n_tokens
    loss = float(fit.loss_at(n_params, n_tokens))
    return told(
        found,
        law,
        n_params,
        n_tokens,
        flops,
        loss,
        f"{si(n_params)} parameters on {si(n_tokens)} tokens: {loss:.4f} nats per token "
        f"for {sci(flops)} FLOPs",
        draws=_losses(found, law, n_params, n_tokens),
    )


def fixed_params(found: Study, *, n_params: float, flops: float) -> Choice:
    """What a given size reaches with a budget.

    Raises:
        PlanError: A figure is not positive, or no surface was fitted.
    """
    positive(n_params=n_params, flops=flops)
    law, fit = surface(found)
    n_tokens = flops / float(fit.cost(n_params))
    return _beside_the_optimum(found, law, n_params, n_tokens, flops, "N is given")


def fixed_tokens(found: Study, *, n_tokens: float, flops: float) -> Choice:
    """The size that a budget can train on a given number of tokens.

    Raises:
        PlanError: A figure is not positive, no surface was fitted, or no size costs that little.
    """
    positive(n_tokens=n_tokens, flops=flops)
    law, fit = surface(found)
    n_params = _size_of(fit.cost, flops / n_tokens)
    if n_params < 1:
        raise PlanError(
            f"{sci(flops)} FLOPs are {flops / n_tokens:.3g} a token, less than one parameter costs",
            where=f"a budget with {si(n_tokens)} tokens",
            fix="name fewer tokens or a larger budget",
        )
    return _beside_the_optimum(found, law, n_params, n_tokens, flops, "D is given")


def at_most(found: Study, *, largest: float, flops: float) -> Choice:
    """The best model of a budget with no more parameters than fit.

    Args:
        found: The laws.
        largest: The most parameters that the memory holds, in the study's own count.
        flops: The budget.

    Raises:
        PlanError: A figure is not positive, or no surface was fitted.
    """
    positive(largest=largest, flops=flops)
    law, fit = surface(found)
    best = optimum_of(law, fit, flops)
    if best[0] > largest:
        why = f"N may be at most {si(largest)}, and the best would be {si(best[0])}"
        n_tokens = flops / float(fit.cost(largest))
        return _beside_the_optimum(found, law, largest, n_tokens, flops, why)
    N, D, loss = best
    words = f"the best size, {si(N)} on {si(D)} tokens, is no larger than {si(largest)} and fits"
    return told(found, law, N, D, flops, loss, words, draws=_losses(found, law, N, D))


def for_loss(found: Study, *, loss: float) -> Choice:
    """The least compute at which the optimum reaches a loss, on the law that speaks.

    The interval of the compute is of the noise; `by_law` has what other laws ask for, None for
    one that never comes so low.

    Raises:
        PlanError: The loss is at or below the floor, or beyond any compute worth the name.
    """
    positive(loss=loss)
    law = found.forecast.law
    fit, drawn = found.fits[law], found.replicates[law]
    flops = compute_for(fit, loss)
    if flops is None:
        _refuse_loss(law, fit, loss)
    best = fit.optimum(flops)
    N, D = float(np.ravel(best.N)[0]), float(np.ravel(best.D)[0])
    draws, notes = _compute_draws(drawn, flops, loss)
    intervals = {k: trusted(drawn, v, found.level) for k, v in draws.items()} if draws else {}
    by_law = {
        name: compute_for(other, loss)
        for name, other in found.fits.items()
        if name != law and refuted(found, name) is None and other.optimum(flops) is not None
    }
    reach = flops / fit.evidence_end
    return Choice(
        N,
        D,
        loss,
        flops,
        law,
        "extrapolated" if reach > 1 else "fitted",
        f"{loss:.4g} nats per token take {sci(flops)} FLOPs: {si(N)} parameters on {si(D)} tokens",
        assumptions=(f"the optimum of the {law} law, training alone",),
        warnings=tuple(notes + beyond(found, N, D)),
        level=found.level,
        intervals=intervals,
        figures={"reach": reach},
        by_law=by_law,
    )


def _beside_the_optimum(
    found: Study, law: str, N: float, D: float, flops: float, why: str
) -> Choice:
    """A point on a budget, against the best one of the same law."""
    fit = found.fits[law]
    best, loss = optimum_of(law, fit, flops), float(fit.loss_at(N, D))
    enough = compute_for(fit, loss)
    wasted = None if enough is None else max(0.0, 1 - enough / flops)
    told_wasted = "nearly all" if wasted is None else f"{wasted:.1%}"
    return told(
        found,
        law,
        N,
        D,
        flops,
        loss,
        f"{why}: {si(N)} parameters on {si(D)} tokens ({D / N:.3g} a parameter) reach {loss:.4f} "
        f"nats per token; the best of {sci(flops)} FLOPs reaches {best[2]:.4f} with "
        f"{si(best[0])} on {si(best[1])}, so {told_wasted} of the compute is wasted",
        draws=_losses(found, law, N, D),
        figures={
            "optimal_n_params": best[0],
            "optimal_n_tokens": best[1],
            "optimal_loss": best[2],
            "wasted": wasted,
        },
    )


def _refuse_loss(law: str, fit: LawFit, loss: float) -> None:
    """Say why no compute has an optimum of this loss."""
    lowest, highest = (
        float(np.ravel(fit.optimum(fit.evidence_end * step).L)[0])
        for step in (COMPUTE, 1 / COMPUTE)
    )
    if fit.floor is not None and loss <= fit.floor:
        problem = f"not above the floor of {fit.floor:.4g} that {law} sees"
    else:
        side = "below" if loss < highest else "above"
        problem = (
            f"{side} all that {law} expects within {COMPUTE:.0e} times the evidence, "
            f"{lowest:.4g} to {highest:.4g}"
        )
    raise PlanError(
        f"a loss of {loss:.4g} nats per token is {problem}",
        where="the target loss of the plan",
        fix=f"ask for a loss between {lowest:.4g} and {highest:.4g}",
    )


def _losses(found: Study, law: str, N: float, D: float) -> dict[str, Array] | None:
    drawn = found.replicates[law]
    return None if drawn is None else {"loss": found.fits[law].loss_at(N, D, drawn.values)}


def _size_of(cost: TokenCost, flops_per_token: float) -> float:
    """N with f(N) = p N + q N^(1/2) of that many FLOPs per token."""
    root = (-cost.q + np.sqrt(cost.q**2 + 4 * cost.p * flops_per_token)) / (2 * cost.p)
    return float(root**2)


def _compute_draws(
    drawn: Replicates | None, flops: float, loss: float
) -> tuple[dict[str, Array] | None, list[str]]:
    """C, N and D at which each replicate reaches a loss, read between a grid of compute.

    Infinite for those that never do, and then an interval that reaches them is None.
    """
    if drawn is None:
        return None, []
    ln_C = np.log(flops) + np.linspace(-np.log(1e4), np.log(1e6), 300)
    best = [drawn.optimum(float(np.exp(x))) for x in ln_C]
    N, D, L = (np.stack([getattr(o, k) for o in best], axis=1) for k in "NDL")
    r = len(L)
    under = loss >= L
    first = np.argmax(under, axis=1)
    reached = under.any(axis=1) & (first > 0)
    i, j = np.arange(r), np.maximum(first, 1)
    with np.errstate(all="ignore"):
        part = (L[i, j - 1] - loss) / (L[i, j - 1] - L[i, j])
        lines = {"flops": np.broadcast_to(ln_C, L.shape), "n_params": np.log(N)}
        lines["n_tokens"] = np.log(D)
        draws = {k: np.exp(v[i, j - 1] + part * (v[i, j] - v[i, j - 1])) for k, v in lines.items()}
    draws = {
        k: np.where(reached, v, np.where(under.any(axis=1), 0.0, np.inf)) for k, v in draws.items()
    }
    never = float(np.mean(~under.any(axis=1)))
    notes = []
    if never > 0:
        notes.append(
            f"{never:.0%} of replicates reach this loss with no compute up to 1e6 times as much: "
            "the floor may lie above it"
        )
    return draws, notes
