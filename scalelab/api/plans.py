"""Planning a run from Python: scalelab.make_plan(runs, budget=1e22).

Not here: the plan itself (plan/planner.py), what a report says (report/plan/).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scalelab.api.fits import read_runs
from scalelab.api.notebook_figures import draw
from scalelab.errors import DataError, PlanError
from scalelab.files import runs_directory
from scalelab.plan.planner import PlanResult, price
from scalelab.plan.planner import make_plan as planned
from scalelab.plan.request import PlanRequest
from scalelab.plan.source import from_runs, from_sweep
from scalelab.records.runs import Runs
from scalelab.report.document import Document
from scalelab.report.plan.directory import write_plan
from scalelab.report.plan.document import QUANTITIES, plan_document
from scalelab.report.plan.page import regret
from scalelab.report.render.html import render_html
from scalelab.report.render.terminal import render_terminal

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


def make_plan(
    runs: "Runs | str | Path | pd.DataFrame | None" = None,
    request: PlanRequest | None = None,
    *,
    recipe: str | Path | None = None,
    **settings: Any,
) -> "BudgetPlan":
    """Return the model to train for a budget: its size, tokens, cost and forecast; `write` writes it.

    Args:
        runs: Runs of read_runs, or a source that read_runs takes; None only if settings give params
            and tokens.
        request: The request; None: made of `settings`.
        recipe: Sweep file with the recipe of a table's models; None: no concrete model.
        **settings: Fields of PlanRequest, such as budget=1e22, gpu="h100", gpus=64, mfu=0.4.

    Raises:
        PlanError: A budget, a constraint or a layout that cannot be met.
        DataError: The runs are no evidence for a law.
    """
    if request is not None and settings:
        raise PlanError(
            f"a request and settings are given: {', '.join(sorted(settings))}",
            where="make_plan",
            fix="give the request or the settings, not both",
        )
    request = PlanRequest.parse(settings) if request is None else request
    if recipe is not None and (runs is None or (isinstance(runs, Runs) and runs.is_sweep)):
        raise PlanError(
            "a recipe is given, and the runs are no external table",
            where="make_plan",
            fix="leave recipe out: a sweep has its own, and a cost alone needs none",
        )
    if runs is None:
        return BudgetPlan(price(request))
    if not isinstance(runs, Runs):
        runs = read_runs(runs, param_count=request.param_count)
    if runs.is_sweep:
        source = from_sweep(runs_directory(), runs.name, request.param_count or runs.asked_count)
    else:
        source = from_runs(runs, request.param_count, None if recipe is None else Path(recipe))
    return BudgetPlan(planned(request, source))


@dataclass(frozen=True, eq=False)
class BudgetPlan:
    """A plan for a budget."""

    result: PlanResult
    """Everything that was computed, in full."""

    @property
    def not_frozen(self) -> tuple[str, ...]:
        """Reasons for which the forecast is not frozen, each with a fix; the plan then has no run."""
        return tuple(map(str, self.result.not_frozen))

    def to_frame(self) -> "pd.DataFrame":
        """Return the best use of the budget, one row a quantity, with intervals, unit and kind.

        `planned` is the model to be trained: the best one, unless a constraint moves it.
        """
        import pandas as pd

        best = self.result.best
        if best is None:
            plan = self.result.plan
            given = [("n_params", plan.n_params, "parameters"), ("n_tokens", plan.n_tokens, "tokens")]
            frame = pd.DataFrame(given, columns=["quantity", "best", "unit"])
            return frame.assign(kind="given").set_index("quantity")
        plan = self.result.plan
        chosen = {
            "n_params": plan.n_params,
            "n_tokens": plan.n_tokens,
            "tokens_per_param": plan.n_tokens / plan.n_params,
            "loss": plan.loss,
        }
        rows = []
        for key, symbol, _, unit in QUANTITIES:
            quoted, noise = best.intervals[key], best.statistical[key]
            low, high = (None, None) if quoted is None else quoted
            noise_low, noise_high = (None, None) if noise is None else noise
            rows.append(
                {
                    "quantity": key,
                    "symbol": symbol,
                    "best": getattr(best, key),
                    "planned": chosen[key],
                    "quoted_low": low,
                    "quoted_high": high,
                    "noise_low": noise_low,
                    "noise_high": noise_high,
                    "unit": unit,
                    "kind": best.kind,
                    "level": best.level,
                }
            )
        return pd.DataFrame(rows).set_index("quantity")

    def to_document(self) -> Document:
        """Return what the command line would show, as a Document."""
        return plan_document(self.result)

    def write(self, out: str | Path | None = None) -> Path:
        """Write the plan as `scalelab plan` does, enter its forecast in the ledger, and return the directory.

        Args:
            out: The directory, whose name becomes that of the plan; None: plans/NAME.

        Raises:
            PlanError: The directory has another forecast, or its name cannot be that of a plan.
            RunError: A file cannot be written.
        """
        return write_plan(self.result, runs_directory(), None if out is None else Path(out))[1]

    def plot_regret(self) -> "Axes":
        """Draw the compute that a wrong size wastes, and return the axes."""
        result = self.result
        data = None
        if result.best is not None:
            chosen = None if result.forecast is None else result.forecast.actual["n_params"]
            data = regret(result.best, chosen)
        if data is None:
            raise DataError(
                "this plan has no figure of the cost of a wrong size",
                where=result.plan.name,
                fix="plan from runs with isoFLOP budgets, or from a law of N and D",
            )
        return draw("regret", data)[0]

    def __str__(self) -> str:
        return render_terminal(self.to_document())

    def _repr_html_(self) -> str:
        return render_html(self.to_document())
