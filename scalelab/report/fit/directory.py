"""The directory of a fit: its report, the run table of a sweep, and its copy in MLflow.

Not here: the files of the report (page.py), what they say (document.py).
"""

from collections.abc import Sequence
from pathlib import Path

from scalelab.records.external_table import write_table
from scalelab.records.provenance import code_version
from scalelab.records.runs import Runs
from scalelab.report.fit.page import write_report
from scalelab.report.plots.render_workers import RenderWorkers
from scalelab.study.conventions import ConventionRow
from scalelab.study.study import Study

REPORTS = Path("reports")
"""Parent of the directories of reports."""


def write_fit(
    study: Study,
    runs: Runs,
    root: Path,
    out: Path | None = None,
    *,
    conventions: Sequence[ConventionRow] = (),
    draws: bool = False,
    workers: RenderWorkers | None = None,
) -> Path:
    """Write the report of a fit and return its page. A fit of a sweep is copied to MLflow.

    What MLflow does not accept is a warning on stderr; the report is complete.

    Args:
        study: The fitted laws.
        runs: The runs that they were fitted to.
        root: Directory of all runs.
        out: Directory of the report; None: reports/NAME.
        conventions: The laws under other counts of parameters and FLOPs.
        draws: Whether every bootstrap replicate is written too.
        workers: Processes that draw the figures; None: this process.

    Raises:
        RunError: A file cannot be written.
    """
    out = out or REPORTS / runs.stem
    page, *_ = write_report(
        study,
        out,
        name=runs.name,
        provenance={**runs.provenance, **code_version()},
        conventions=conventions,
        draws=draws,
        workers=workers,
    )
    if runs.is_sweep:
        from scalelab.tracking.mirror_warning import warn_if_not_mirrored  # .2 s that a table need not take
        from scalelab.tracking.report_mirror import log_fit

        write_table(runs.table, out / "runs.csv")
        with warn_if_not_mirrored("the fit"):
            log_fit(root, runs.name, out, study.to_json())
    return page
