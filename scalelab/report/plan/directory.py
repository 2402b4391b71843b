"""The directory of a plan: plan.json, forecast.json, the page and its figure; and the entry in the ledger.

A directory that has a forecast keeps it: a plan made again from the same runs gets the forecast that
is there, another one is refused. A plan has the name of its directory, under which it is launched.

Not here: the plan (plan/planner.py), what the page says (document.py, page.py).
"""

from dataclasses import replace
from pathlib import Path

from scalelab.errors import PlanError
from scalelab.files import exists, make_dir, write_text
from scalelab.plan.forecast.frozen import FrozenForecast
from scalelab.plan.forecast.ledger import enter
from scalelab.plan.forecast.same import same_forecast
from scalelab.plan.plan import FORECAST_FILE, PLAN_FILE
from scalelab.plan.planner import PlanResult, plan_name
from scalelab.plan.run_settings import RUN_FILE, run_yaml_of
from scalelab.records.sweep_manifest import list_sweeps
from scalelab.report.plan.document import plan_document
from scalelab.report.plan.page import write_page
from scalelab.report.render.markdown import render_markdown
from scalelab.tracking.mirror_warning import warn_if_not_mirrored
from scalelab.tracking.report_mirror import record_plan

PLANS = Path("plans")
"""Parent of the directories of plans."""


def write_plan(planned: PlanResult, root: Path, out: Path | None = None) -> tuple[PlanResult, Path]:
    """Write the directory of a plan, enter its forecast in the ledger, and return the plan and the directory.

    An equal forecast in the directory is kept. Only the forecast of a run is entered.

    Args:
        planned: The plan.
        root: Directory of all runs.
        out: The directory; None: plans/NAME.

    Raises:
        PlanError: The directory has another forecast, or its name cannot be that of a plan.
        RunError: A file cannot be written.
    """
    out = out or PLANS / planned.plan.name
    path = out / FORECAST_FILE
    if planned.forecast is None:
        _refuse_forecast(path, "this is the cost of a model alone")
        planned.plan.write(make_dir(out))
        return planned, out
    refuse_taken(root, out)
    planned = _named(planned, plan_name(out))
    if exists(path):
        planned = _kept(planned, FrozenForecast.load(path))
    if planned.not_frozen:
        _refuse_forecast(path, "the forecast of this one is not frozen")
    make_dir(out)
    if not planned.not_frozen:
        planned.forecast.write(path)
    planned.plan.write(out)
    if (text := run_yaml_of(planned)) is not None:
        write_text(out / RUN_FILE, text)
    write_page(planned, out)
    if planned.plan.spec is not None:
        enter(root, planned.forecast)
        with warn_if_not_mirrored("the plan"):
            _record(planned, root, out)
    return planned, out


def _record(planned: PlanResult, root: Path, out: Path) -> None:
    """Record the plan for MLflow beside the sweep that it was made from; `scalelab sync` sends it."""
    plan = planned.plan
    if plan.sweep not in list_sweeps(root):
        return
    values = {
        "plan.loss": plan.loss,
        "plan.n_params": plan.n_params,
        "plan.n_tokens": plan.n_tokens,
        "plan.flops": plan.target.get("flops"),
        "plan.days": plan.cost.get("days"),
        "plan.dollars": plan.cost.get("dollars"),
    }
    document = render_markdown(plan_document(planned), title=False, detail=False)
    record_plan(root, plan.sweep, out, plan.name, values, document)


def refuse_taken(root: Path, out: Path) -> None:
    """Refuse a directory whose forecast was changed, or whose name is that of a sweep.

    Args:
        root: Directory of all runs.
        out: Directory of the plan.

    Raises:
        PlanError: The forecast was changed, or the name is taken or cannot be that of a plan.
    """
    name = plan_name(out)
    if exists(out / FORECAST_FILE):
        FrozenForecast.load(out / FORECAST_FILE)
    if name in list_sweeps(root) and not exists(out / PLAN_FILE):
        raise PlanError(
            f"{name!r} is already the name of a sweep",
            where=f"{root / name}",
            fix="write the plan to another directory: --out plans/ANOTHER-NAME",
        )


def _named(planned: PlanResult, name: str) -> PlanResult:
    """The plan under the name of its directory, which is part of its forecast."""
    if planned.plan.name == name:
        return planned
    forecast = planned.forecast and replace(planned.forecast, name=name)
    planned = replace(planned, plan=replace(planned.plan, name=name), forecast=forecast)
    return planned if planned.not_frozen or forecast is None else planned.freeze(forecast)


def _kept(planned: PlanResult, existing: FrozenForecast) -> PlanResult:
    """The plan with the forecast that was frozen before, where it has the same numbers; else the plan."""
    can_run = all(refusal.overridable for refusal in planned.not_frozen)
    return planned.freeze(existing) if can_run and same_forecast(existing, planned.forecast) else planned


def _refuse_forecast(path: Path, why: str) -> None:
    if exists(path):
        raise PlanError(
            f"the directory has a plan with another forecast, which is frozen, and {why}",
            where=str(path),
            fix="write this one to another directory: --out DIR",
        )
