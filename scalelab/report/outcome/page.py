"""The report of an outcome, written: page, figure, outcome.json.

    OUT/
      README.md       the page
      outcome.json    schema 1
      course.png .svg the loss during training and the band that was frozen before

Not here: the numbers (comparison.py), what the page says (document.py).
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from scalelab.files import make_dir, write_json, write_text
from scalelab.plan.forecast.frozen import FrozenForecast
from scalelab.plan.forecast.ledger import Outcome
from scalelab.plan.plan import Plan
from scalelab.report.outcome.comparison import NAMED, LossTrajectory, compared, course, record
from scalelab.report.outcome.document import outcome_document
from scalelab.report.plots.render_workers import draw_figures
from scalelab.report.render.markdown import render_markdown
from scalelab.train.spec import RunResult


def write_outcome(
    plan: Plan,
    frozen: FrozenForecast,
    result: RunResult,
    outcome: Outcome,
    events: Iterable[Mapping[str, Any]],
    out: Path,
) -> Path:
    """Write the page, the figure and outcome.json; return the path of the page.

    Args:
        plan: The plan that was launched.
        frozen: Its forecast, as it was frozen.
        result: The result of the run.
        outcome: The entry of the ledger.
        events: Events of the run's log.
        out: The directory; made if it does not exist.
    """
    make_dir(out)
    notable = [event for event in events if event["event"] in NAMED]
    rows = compared(plan, frozen, result, outcome)
    write_json(out / "outcome.json", record(plan, frozen, result, outcome, rows, notable))
    drawn = _draw(course(frozen, result), out)
    document = outcome_document(plan, frozen, result, outcome, events=notable, has_figure=drawn)
    write_text(out / "README.md", render_markdown(document))
    return out / "README.md"


def _draw(data: LossTrajectory, out: Path) -> bool:
    """Draw the loss curve if there is one; otherwise remove that of an earlier outcome."""
    is_empty = not data.measured and data.band is None
    return bool(draw_figures(out, {"course": None if is_empty else data}))
