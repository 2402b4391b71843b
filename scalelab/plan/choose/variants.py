"""Variants of a plan in which N, D or the loss is given, or the size is limited.

    evaluate        the loss of any N and D
    fixed_params    N is given: D = C / f(N)
    fixed_tokens    D is given: f(N) = C / D
    size_limit      N is limited: the optimum, or the limit
    for_loss        the least compute whose optimum reaches a loss (the inverse problem)
    limited_data    the number of unique tokens is limited (data_constrained.py)
    inference_optimal, inference_optimal_within    use is counted too (inference_cost.py)

N parameters; D training tokens; C training FLOPs; f FLOPs per training token as measured on the
runs; L loss, nats per token. for_loss uses the primary law of the forecast, all others a surface.

Not here: the record of a variant (constrained_optimum.py), the optimum without constraints and
the cost of a wrong size (allocate.py).
"""

import numpy as np

from scalelab.errors import PlanError
from scalelab.laws.base import LawFit, Replicates
from scalelab.laws.observations import Array
from scalelab.laws.token_cost import TokenCost
from scalelab.laws.uncertainty.bootstrap import trusted
from scalelab.plan.choose.allocate import kind_at, positive, refuted
from scalelab.plan.choose.constrained_optimum import (
    COMPUTE,
    ConstrainedOptimum,
    beyond,
    compute_for,
    constrained_optimum,
    noise_alone,
    optimum_of,
    surface,
)
from scalelab.plan.choose.data_constrained import limited_data as limited_data
from scalelab.plan.choose.inference_cost import inference_optimal as inference_optimal
from scalelab.plan.choose.inference_cost import inference_optimal_within as inference_optimal_within
from scalelab.study.study import Study
from scalelab.units import sci, si


def evaluate(study: Study, *, n_params: float, n_tokens: float) -> ConstrainedOptimum:
    """Return the expected loss of a model of any size and length.

    Args:
        study: The fitted laws.
        n_params: Parameters N.
        n_tokens: Training tokens D.

    Raises:
        PlanError: A figure is not positive, or no surface was fitted.
    """
    positive(n_params=n_params, n_tokens=n_tokens)
    law, fit = surface(study)
    flops = float(fit.cost(n_params)) * n_tokens
    loss = float(fit.loss_at(n_params, n_tokens))
    return constrained_optimum(
        study,
        law,
        n_params,
        n_tokens,
        flops,
        loss,
        f"{si(n_params)} parameters on {si(n_tokens)} tokens: {loss:.4f} nats per token "
        f"for {sci(flops)} FLOPs",
        draws=_losses(study, law, n_params, n_tokens),
    )


def fixed_params(study: Study, *, n_params: float, flops: float) -> ConstrainedOptimum:
    """Return the loss of a given size trained with a budget.

    Args:
        study: The fitted laws.
        n_params: Parameters N.
        flops: Training FLOPs.

    Raises:
        PlanError: A figure is not positive, or no surface was fitted.
    """
    positive(n_params=n_params, flops=flops)
    law, fit = surface(study)
    n_tokens = flops / float(fit.cost(n_params))
    return _compare_with_optimum(study, law, n_params, n_tokens, flops, "N is given")


def fixed_tokens(study: Study, *, n_tokens: float, flops: float) -> ConstrainedOptimum:
    """Return the size that a budget can train on a given number of tokens.

    Args:
        study: The fitted laws.
        n_tokens: Training tokens D.
        flops: Training FLOPs.

    Raises:
        PlanError: A figure is not positive, no surface was fitted, or no size costs that little.
    """
    positive(n_tokens=n_tokens, flops=flops)
    law, fit = surface(study)
    n_params = _size_of(fit.cost, flops / n_tokens)
    if n_params < 1:
        raise PlanError(
            f"{sci(flops)} FLOPs are {flops / n_tokens:.3g} a token, less than one parameter costs",
            where=f"a budget with {si(n_tokens)} tokens",
            fix="give fewer tokens or a larger budget",
        )
    return _compare_with_optimum(study, law, n_params, n_tokens, flops, "D is given")


def size_limit(study: Study, *, largest: float, flops: float) -> ConstrainedOptimum:
    """Return the best model of a budget with a limited number of parameters.

    Args:
        study: The fitted laws.
        largest: Largest number of parameters, in the count of the study.
        flops: Training FLOPs.

    Raises:
        PlanError: A figure is not positive, or no surface was fitted.
    """
    positive(largest=largest, flops=flops)
    law, fit = surface(study)
    best = optimum_of(law, fit, flops)
    if best[0] > largest:
        why = f"N is limited to {si(largest)} and the optimum is {si(best[0])}"
        n_tokens = flops / float(fit.cost(largest))
        return _compare_with_optimum(study, law, largest, n_tokens, flops, why)
    N, D, loss = best
    words = f"the optimum, {si(N)} on {si(D)} tokens, is within the limit of {si(largest)}"
    return constrained_optimum(study, law, N, D, flops, loss, words, draws=_losses(study, law, N, D))


def for_loss(study: Study, *, loss: float) -> ConstrainedOptimum:
    """Return the least compute whose optimum reaches a loss, on the primary law.

    The sentence has the floor of the law. The intervals are from noise alone, which `assumptions` says; `by_law` has
    the compute that other laws need, None for a law that never reaches the loss.

    Args:
        study: The fitted laws.
        loss: Loss to reach, nats per token.

    Raises:
        PlanError: The loss is at or below the floor, or needs more than COMPUTE times the evidence.
    """
    positive(loss=loss)
    law = study.forecast.law
    fit, replicates = study.fits[law], study.replicates[law]
    flops = compute_for(fit, loss)
    if flops is None:
        _refuse_loss(law, fit, loss)
    best = fit.optimum(flops)
    N, D = float(np.ravel(best.N)[0]), float(np.ravel(best.D)[0])
    draws, notes = _compute_draws(replicates, flops, loss)
    intervals = {k: trusted(replicates, v, study.level) for k, v in draws.items()} if draws else {}
    by_law = {
        name: compute_for(other, loss)
        for name, other in study.fits.items()
        if name != law and refuted(study, name) is None and other.optimum(flops) is not None
    }
    reach = flops / fit.evidence_end
    floor = (
        f"no floor of {law} shows in these runs"
        if not fit.floor
        else f"the floor of {law} is {fit.floor:.4g}"
    )
    return ConstrainedOptimum(
        N,
        D,
        loss,
        flops,
        law,
        kind_at(study, flops),
        f"{loss:.4g} nats per token take {sci(flops)} FLOPs: {si(N)} parameters on {si(D)} tokens; {floor}",
        assumptions=(
            f"the optimum of the {law} law, for training alone",
            *noise_alone([key for key, interval in intervals.items() if interval is not None]),
        ),
        warnings=tuple(notes + beyond(study, N, D)),
        level=study.level,
        intervals=intervals,
        figures={"reach": reach, "floor": fit.floor or None},
        by_law=by_law,
        doubt=refuted(study, law),
    )


def _compare_with_optimum(
    study: Study, law: str, N: float, D: float, flops: float, why: str
) -> ConstrainedOptimum:
    """A point on a budget, compared with the optimum of the same law."""
    fit = study.fits[law]
    best, loss = optimum_of(law, fit, flops), float(fit.loss_at(N, D))
    enough = compute_for(fit, loss)
    wasted = None if enough is None else max(0.0, 1 - enough / flops)
    wasted_text = "nearly all" if wasted is None else f"{wasted:.1%}"
    return constrained_optimum(
        study,
        law,
        N,
        D,
        flops,
        loss,
        f"{why}: {si(N)} parameters on {si(D)} tokens ({D / N:.3g} a parameter) reach {loss:.4f} "
        f"nats per token; the optimum of {sci(flops)} FLOPs reaches {best[2]:.4f} with "
        f"{si(best[0])} on {si(best[1])}, so {wasted_text} of the compute is wasted",
        draws=_losses(study, law, N, D),
        figures={
            "optimal_n_params": best[0],
            "optimal_n_tokens": best[1],
            "optimal_loss": best[2],
            "wasted": wasted,
        },
    )


def _refuse_loss(law: str, fit: LawFit, loss: float) -> None:
    """Raise the error that no compute has an optimum of this loss."""
    lowest, highest = (
        float(np.ravel(fit.optimum(fit.evidence_end * step).L)[0]) for step in (COMPUTE, 1 / COMPUTE)
    )
    fix = f"choose a loss between {lowest:.6g} and {highest:.6g}"
    if fit.floor is not None and loss <= fit.floor:
        problem = f"not above the floor of the {law} law, {fit.floor:.6g}"
        fix = f"choose a loss above {fit.floor:.6g}"
    else:
        side = "below" if loss < highest else "above"
        problem = (
            f"{side} the losses of the {law} law within {sci(COMPUTE)} times the compute of the evidence, "
            f"{lowest:.6g} to {highest:.6g}"
        )
    raise PlanError(
        f"a loss of {loss:.6g} nats per token is {problem}", where="the target loss of the plan", fix=fix
    )


def _losses(study: Study, law: str, N: float, D: float) -> dict[str, Array] | None:
    replicates = study.replicates[law]
    return None if replicates is None else {"loss": study.fits[law].loss_at(N, D, replicates.values)}


def _size_of(cost: TokenCost, flops_per_token: float) -> float:
    """N with f(N) = p N + q N^(1/2) of that many FLOPs per token."""
    root = (-cost.q + np.sqrt(cost.q**2 + 4 * cost.p * flops_per_token)) / (2 * cost.p)
    return float(root**2)


def _compute_draws(
    replicates: Replicates | None, flops: float, loss: float
) -> tuple[dict[str, Array] | None, list[str]]:
    """C, N and D at which each replicate reaches a loss, interpolated on a grid of compute.

    Infinite for replicates that never reach it; an interval that includes them is None.
    """
    if replicates is None:
        return None, []
    ln_C = np.log(flops) + np.linspace(-np.log(1e4), np.log(1e6), 300)
    best = [replicates.optimum(float(np.exp(x))) for x in ln_C]
    N, D, L = (np.stack([getattr(o, k) for o in best], axis=1) for k in "NDL")
    r = len(L)
    below = loss >= L
    first = np.argmax(below, axis=1)
    reached = below.any(axis=1) & (first > 0)
    i, j = np.arange(r), np.maximum(first, 1)
    with np.errstate(all="ignore"):
        part = (L[i, j - 1] - loss) / (L[i, j - 1] - L[i, j])
        lines = {"flops": np.broadcast_to(ln_C, L.shape), "n_params": np.log(N)}
        lines["n_tokens"] = np.log(D)
        draws = {k: np.exp(v[i, j - 1] + part * (v[i, j] - v[i, j - 1])) for k, v in lines.items()}
    draws = {k: np.where(reached, v, np.where(below.any(axis=1), 0.0, np.inf)) for k, v in draws.items()}
    never = float(np.mean(~below.any(axis=1)))
    notes = []
    if never > 0:
        notes.append(
            f"{never:.0%} of replicates do not reach this loss with up to 1e6x the compute: "
            "the floor may be above it"
        )
    return draws, notes
