"""Losses of two settings at the recipe's rate and multiples of it, for transfer and horizon.

    rates  3^k times the recipe's, k = -1, 0, 1; while the best of a setting lies at the end, one more there,
           up to |k| = MOST_STEPS

Every rate of the optimizer is multiplied; decays, which are multiplied by the rate, and the schedule stay. A
run that diverged counts as an untrained model: ln(vocabulary) nats per token.

Not here: where the loss is least (best_rate.py).
"""

import math
from collections.abc import Callable, Mapping

from scalelab.recipe_check.base import CheckCurve, CheckFinding, CheckPlot, RecipeRow
from scalelab.recipe_check.best_rate import BestRate, best_rate, moved
from scalelab.recipe_check.workbench import RecipeWorkbench
from scalelab.train.spec import RunSpec

STEP = 3.0
"""Ratio of neighbouring rates."""
FIRST = (-1, 0, 1)
MOST_STEPS = 2
SHARE = 0.6
"""Share of the budget for the first rates; the rest is for rates beyond them."""


def compare_rates(
    bench: RecipeWorkbench,
    settings: Mapping[str, Callable[[int], RunSpec]],
    threshold: float,
    facts: Mapping[str, str | float | int],
) -> CheckFinding:
    """Return how far the best rate moves from the first setting to the second.

    Args:
        bench: Trains the runs.
        settings: By name, the run of a seed at the recipe's own rate.
        threshold: Largest move of a recipe that transfers, in steps of the grid.
        facts: Settings for the page.
    """
    losses: dict[str, dict[int, list[float]]] = {name: {} for name in settings}
    todo = {name: list(FIRST) for name in settings}
    while any(todo.values()):
        specs = {
            (name, k, seed): _at_rate(spec(seed), k)
            for name, spec in settings.items()
            for k in todo[name]
            for seed in bench.seeds
        }
        results = dict(zip(specs, bench.trained(specs.values()), strict=True))
        for (name, k, _), result in results.items():
            untrained = math.log(bench.vocab_size)
            losses[name].setdefault(k, []).append(untrained if result.loss is None else result.loss)
        todo = {name: _beyond(losses[name]) for name in settings}
    first, second = (best_rate(losses[name]) for name in settings)
    move = moved("move of the best rate", first, second, len(bench.seeds), threshold)
    rows = [RecipeRow((name, STEP**k, *losses[name][k])) for name in settings for k in sorted(losses[name])]
    best = {
        f"best rate, {name}": _words(found) for name, found in zip(settings, (first, second), strict=True)
    }
    seeds = tuple(f"loss, seed {seed}" for seed in bench.seeds)
    facts = {**facts, "seeds": len(bench.seeds), **best}
    curves = tuple(
        CheckCurve(
            name,
            "",
            tuple(STEP**k for k in sorted(losses[name])),
            tuple(tuple(losses[name][k]) for k in sorted(losses[name])),
            None if found.side else STEP**found.at,
        )
        for name, found in zip(settings, (first, second), strict=True)
    )
    plot = CheckPlot("times the recipe's rate", "loss, nats per token", False, curves, own=1.0)
    return CheckFinding([move], facts, ("setting", "times the rate", *seeds), rows, plot=plot)


def _at_rate(spec: RunSpec, k: int) -> RunSpec:
    return spec if k == 0 else spec.model_copy(update={"optimizer": spec.optimizer.with_rates_times(STEP**k)})


def _beyond(losses: Mapping[int, list[float]]) -> list[int]:
    """The next place of the grid where the best one lies at its end."""
    side, best = best_rate(losses).side, round(best_rate(losses).at)
    return [best + side] if side and abs(best) < MOST_STEPS else []


def _words(found: BestRate) -> str:
    words = f"x{STEP**found.at:.2f}"
    return f"{words} or {'less' if found.side < 0 else 'more'}" if found.side else words
