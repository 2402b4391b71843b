"""scalelab: plan large training runs from small ones.

    import scalelab

    runs = scalelab.read_runs("isoflop")          # a sweep, a table or a DataFrame
    fit = scalelab.fit(runs, target=1e22)         # laws, forecast, hold-out, verdict
    plan = scalelab.make_plan(runs, budget=1e22)  # the model to train, and its cost

Names are imported when they are first used, so `import scalelab` costs nothing. Everything else in
the package may change between versions.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scalelab.api.comparisons import ComparisonResult, compare
    from scalelab.api.evaluations import EvaluationResult, evaluate
    from scalelab.api.fits import FitResult, fit, read_runs
    from scalelab.api.mixtures import MixtureResult, fit_mixture
    from scalelab.api.plans import BudgetPlan, make_plan
    from scalelab.api.recipes import CheckedRecipe, check_recipe
    from scalelab.api.sweeps import PlannedSweep, TrainedSweep, load_sweep, plan_sweep, run_sweep, simulate
    from scalelab.comparison.verdict import CompareRequest
    from scalelab.errors import ScalelabError
    from scalelab.plan.request import PlanRequest
    from scalelab.records.runs import Runs
    from scalelab.study.request import FitRequest

__version__ = "0.1.0"
__all__ = [
    "BudgetPlan",
    "CheckedRecipe",
    "CompareRequest",
    "ComparisonResult",
    "EvaluationResult",
    "FitRequest",
    "FitResult",
    "MixtureResult",
    "PlanRequest",
    "PlannedSweep",
    "Runs",
    "ScalelabError",
    "TrainedSweep",
    "check_recipe",
    "compare",
    "evaluate",
    "fit",
    "fit_mixture",
    "load_sweep",
    "make_plan",
    "plan_sweep",
    "read_runs",
    "run_sweep",
    "simulate",
]
_PLACES = {
    "BudgetPlan": "scalelab.api.plans",
    "CheckedRecipe": "scalelab.api.recipes",
    "CompareRequest": "scalelab.comparison.verdict",
    "ComparisonResult": "scalelab.api.comparisons",
    "EvaluationResult": "scalelab.api.evaluations",
    "FitRequest": "scalelab.study.request",
    "FitResult": "scalelab.api.fits",
    "MixtureResult": "scalelab.api.mixtures",
    "PlanRequest": "scalelab.plan.request",
    "PlannedSweep": "scalelab.api.sweeps",
    "Runs": "scalelab.records.runs",
    "ScalelabError": "scalelab.errors",
    "TrainedSweep": "scalelab.api.sweeps",
    "check_recipe": "scalelab.api.recipes",
    "compare": "scalelab.api.comparisons",
    "evaluate": "scalelab.api.evaluations",
    "fit": "scalelab.api.fits",
    "fit_mixture": "scalelab.api.mixtures",
    "load_sweep": "scalelab.api.sweeps",
    "make_plan": "scalelab.api.plans",
    "plan_sweep": "scalelab.api.sweeps",
    "read_runs": "scalelab.api.fits",
    "run_sweep": "scalelab.api.sweeps",
    "simulate": "scalelab.api.sweeps",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'scalelab' has no attribute {name!r}")
    return getattr(import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
