"""Coordinate check: activations do not grow or shrink with the width.

    slope = d ln rms / d ln width    at widths x1, x2, x4, least squares, a value a seed

of the output of each block and of the logits, after the first steps and after the warmup. Batch and tokens are
those of the base model at every width. The head starts at zero, so logits of the first steps are what its
updates made: they show a rate or a multiplier of the head that does not fit the width, and later losses hide it.
The first steps are read at the end of runs of so many steps, over which the rate rises to its peak.

Source: Yang et al. 2022 (muP), arXiv:2203.03466, appendix D.1.
"""

import math
from typing import ClassVar

import numpy as np
from scipy.stats import t as student

from scalelab.model.base import Architecture
from scalelab.recipe_check.base import (
    LEVEL,
    CheckCurve,
    CheckFinding,
    CheckPlot,
    RecipeCheck,
    RecipeMeasure,
    RecipeRow,
)
from scalelab.recipe_check.workbench import RecipeWorkbench
from scalelab.train.schedule import WSD
from scalelab.train.spec import RunSpec
from scalelab.units import sci

FACTORS = (1, 2, 4)
STAGES = {1: 1.0, 4: 1.0, 8: 1.0, 64: 0.5}
"""Steps after which activations are measured, each with the share of them that is warmup."""
TOKENS_PER_PARAM = 20.0
"""Tokens per parameter of the base model, for which rates and batch are taken."""
HIDDEN, LOGITS = 0.5, 0.5
"""Largest |slope| of the blocks' outputs and of the logits. A right recipe has up to .5 at widths of 8 to 64, which
are finite, and faults of an exponent of 1 have .7 or more (analysis/check_recipe.md)."""
USUAL = 0.05
"""Limit at widths of hundreds and more, where a right recipe has almost no slope. Here right recipes exceed it."""
NOTE = (
    f"The limit is {HIDDEN:g}, not {USUAL:g} as for models hundreds of units wide: at the widths of this check right "
    "recipes measured up to 0.5, and recipes with an exponent of the width off by one 0.7 and more "
    "(analysis/check_recipe.md). A smaller fault is not seen."
)


class CoordinateCheck(RecipeCheck):
    """Activations at widths x1, x2 and x4."""

    title: ClassVar[str] = "activations against width"
    question: ClassVar[str] = (
        "Do the outputs of the blocks and the logits keep their size at widths x1, x2 and x4, in the first steps "
        "and after the warmup?"
    )
    unit: ClassVar[str] = "d ln rms / d ln width"

    def run(self, bench: RecipeWorkbench) -> CheckFinding:
        """See RecipeCheck."""
        models = bench.widths(FACTORS, lambda found: _flops(bench, found) <= bench.budget)
        horizon = _horizon(bench, models[0])
        batch = bench.batch_at(models[0], horizon)
        seeds = bench.seeds
        specs = {
            (model.width(), seed, steps): _at(bench.spec(model, horizon, seed, batch), steps, warmup)
            for model in models
            for seed in seeds
            for steps, warmup in STAGES.items()
        }
        bench.trained(specs.values())
        rms = {key: bench.activations(spec) for key, spec in specs.items()}
        measures, rows, curves = [], [], []
        for steps in STAGES:
            found = {(m.width(), seed): rms[m.width(), seed, steps] for m in models for seed in seeds}
            lost = sum(activations is None for activations in found.values())
            name_of = "first steps" if STAGES[steps] == 1.0 else "after warmup"
            for name in _names([found[m.width(), seeds[0]] for m in models]):
                label = f"{name}, step {steps} ({name_of})"
                threshold = LOGITS if name == "logits" else HIDDEN
                if lost:
                    measures.append(
                        RecipeMeasure(label, None, None, None, threshold, f"{lost} runs diverged")
                    )
                    continue
                values = np.array([[_value(found[m.width(), seed], name) for m in models] for seed in seeds])
                measures.append(_width_slope(label, values, models, threshold))
                rows.append(RecipeRow((label, *(float(v) for v in np.exp(np.log(values).mean(axis=0))))))
                panel, widths = f"step {steps}, {name_of}", tuple(float(m.width()) for m in models)
                curves.append(CheckCurve(panel, name, widths, tuple(tuple(map(float, v)) for v in values.T)))
        return CheckFinding(
            measures,
            {
                "widths": ", ".join(f"{m.width()}" for m in models),
                "depths": ", ".join(f"{m.depth()}" for m in models),
                "batch tokens": batch,
                "steps": ", ".join(map(str, STAGES)),
                "rates for a run of": f"{sci(horizon)} tokens",
                "seeds": len(seeds),
            },
            ("rms of", *(f"width {m.width()}" for m in models)),
            rows,
            notes=(NOTE,),
            plot=CheckPlot("width", "rms", True, tuple(curves)) if curves else None,
        )


def _horizon(bench: RecipeWorkbench, base: Architecture) -> float:
    return min(TOKENS_PER_PARAM * base.size(1).count(bench.recipe.param_count), bench.most_tokens())


def _flops(bench: RecipeWorkbench, models: list[Architecture]) -> float:
    batch = bench.batch_at(models[0], _horizon(bench, models[0]))
    per_token = sum(bench.flops_per_token(model) for model in models)
    return per_token * batch * sum(STAGES) * len(bench.seeds)


def _at(spec: RunSpec, steps: int, warmup: float) -> RunSpec:
    """The first steps of a run, without cooldown."""
    return spec.model_copy(update={"n_steps": steps, "schedule": WSD(warmup=warmup, cooldown=0.0)})


def _names(found: list[dict[str, float] | None]) -> list[str]:
    """Activations that are compared: those that all models have, else the last block of each and the logits."""
    names = [list(activations) for activations in found if activations is not None]
    if not names or all(n == names[0] for n in names):
        return names[0] if names else ["logits"]
    return ["first block", "last block", "logits"]


def _value(activations: dict[str, float] | None, name: str) -> float:
    assert activations is not None, "runs that diverged are left out before"
    inner = list(activations.values())[:-1]
    value = {"first block": inner[0], "last block": inner[-1]}.get(name) or activations[name]
    return max(value, 1e-30)


def _width_slope(
    name: str, values: np.ndarray, models: list[Architecture], threshold: float
) -> RecipeMeasure:
    """Return the mean slope over seeds with its interval; values have shape (seeds, models)."""
    x = np.log([model.width() for model in models])
    x = x - x.mean()
    slopes = np.log(values) @ x / (x @ x)
    mean, n = float(slopes.mean()), len(slopes)
    if n < 2:
        return RecipeMeasure(name, mean, None, None, threshold, "one seed says nothing about noise")
    half = float(student.ppf(0.5 + LEVEL / 2, n - 1)) * float(slopes.std(ddof=1)) / math.sqrt(n)
    return RecipeMeasure(name, mean, mean - half, mean + half, threshold)
