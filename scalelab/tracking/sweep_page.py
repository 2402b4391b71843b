"""What MLflow's page of a sweep shows: its description, its metrics, its newest forecast and figures.

    best_loss    the lowest loss of the runs so far, by number of runs, in the order of their ends
    flops        training FLOPs of these runs
    forecast.*   FLOPs, N* (n_params), D* (n_tokens) and loss of the newest fit

Not here: runs (payload.py), fits (report_mirror.py), related work (relations.py).
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from scalelab.markup import escape_markdown
from scalelab.records.sweep_manifest import SweepManifest
from scalelab.tracking.chart_views import chart_links, run_link
from scalelab.tracking.payload import FLOPS, MetricPoint, note
from scalelab.tracking.report_mirror import FORECAST, VERDICT
from scalelab.tracking.report_record import ReportRecord
from scalelab.train.spec import RunResult
from scalelab.units import sci, si

if TYPE_CHECKING:
    from scalelab.tracking.mlflow_store import Store

FIGURES = ("valleys.png", "frontier.png", "allocation.png")
"""Figures of a fit that the sweep's own run has too; the first one that is there is in its description."""
SETTLED_MS = 5000
"""Age from which a result is counted while others are being trained: later ends come later."""


def newest_fit(reports: Sequence[ReportRecord]) -> ReportRecord | None:
    """Return the newest fit among reports; None without one."""
    fits = [report for report in reports if report.kind == "fit"]
    return fits[-1] if fits else None


def frontier_points(results: Iterable[RunResult | None], last: bool) -> list[MetricPoint]:
    """Return the best loss and the compute after each run that has ended, in the order of the ends.

    Args:
        results: Results of the runs; None for runs without one.
        last: Whether no other run may end meanwhile.
    """
    settled = time.time_ns() // 1_000_000 - SETTLED_MS
    ended = [r for r in results if r is not None and (last or r.finished_ms < settled)]
    points, best, spent = [], float("inf"), 0.0
    for step, result in enumerate(sorted(ended, key=lambda r: (r.finished_ms, r.run)), start=1):
        spent += result.flops
        best = min(best, float("inf") if result.loss is None else result.loss)
        points.append(MetricPoint(FLOPS, spent, result.finished_ms, step))
        if best < float("inf"):
            points.append(MetricPoint("best_loss", best, result.finished_ms, step))
    return points


def forecast_points(fit: ReportRecord) -> list[MetricPoint]:
    """Return the forecast of a fit as metrics of its sweep."""
    found = {name: value for name, value in fit.metrics.items() if name.startswith(FORECAST)}
    return [MetricPoint(name, value, fit.last_ms, 0) for name, value in found.items()]


@dataclass(frozen=True)
class SweepPage:
    """The description of one sweep in one store."""

    store: "Store"
    experiment: str
    parent: str
    """MLflow's id of the sweep's own run."""
    manifest: SweepManifest

    def text(
        self,
        results: Mapping[str, RunResult | None],
        fit: ReportRecord | None,
        reports: Mapping[str, str],
        links: Sequence[str],
        root: Path,
    ) -> str:
        """Return the description: forecast, figure, links, then the question and every run.

        Args:
            results: Result of each run by id.
            fit: The newest fit; None without one.
            reports: MLflow's ids of reports by key.
            links: Lines about related work.
            root: Directory of all runs.
        """
        parts = []
        if fit is not None:
            parts.append(self._forecast(fit, reports.get(fit.key)))
            names = {path.name for path in fit.paths(root)}
            if figure := next((name for name in FIGURES if name in names), None):
                stem = figure.partition(".")[0]
                parts.append(f"![{stem}](get-artifact?path={figure}&run_uuid={self.parent})")
        others = [
            f"[{key.partition(':')[0]}]({run_link(self.experiment, run)})"
            for key, run in reports.items()
            if fit is None or key != fit.key
        ]
        if others:
            parts.append("Reports: " + ", ".join(others[-20:]))
        parts += links
        parts.append(f"Charts of all runs: {chart_links(self.experiment)}")
        head = "".join(f"{part}\n\n" for part in parts)
        return note(self.manifest, results, head)

    def _forecast(self, fit: ReportRecord, run_id: str | None) -> str:
        value = {
            name: fit.metrics.get(f"{FORECAST}{name}") for name in ("flops", "n_params", "n_tokens", "loss")
        }
        verdict = escape_markdown(fit.tags.get(VERDICT, "")) or "no verdict"
        shown = (
            "the newest fit" if run_id is None else f"[the newest fit]({run_link(self.experiment, run_id)})"
        )
        if None in value.values():
            return f"No forecast in {shown}: {fit.words[:300]}"
        return (
            f"**Forecast at {sci(value['flops'])} FLOPs: N\\* {si(value['n_params'])}, "
            f"D\\* {si(value['n_tokens'])}, loss {value['loss']:.4f} nats/token: {verdict}** ({shown})"
        )
