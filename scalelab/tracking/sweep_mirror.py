"""The mirror of a sweep: each of its runs is an MLflow run below the run of the sweep.

    experiment = sweep     parent run = the sweep     child runs = its runs     + one run per report

    child    losses, rates, tokens and FLOPs by step; sizes as params; its data and model
    parent   best loss against compute, the newest forecast and its figures, links

Losing the mirror loses nothing else. A run that another sweep has trained is mirrored there; here it
is a line of the parent's note.

Not here: how a mirror is kept (journal_mirror.py), what is sent (payload.py, sweep_page.py), reports
(report_mirror.py), post-trainings (stage_mirror.py).
"""

from collections.abc import Mapping, Sequence
from typing import Any

from scalelab.files import exists
from scalelab.records.sweep_manifest import SweepManifest, manifest_path
from scalelab.tracking.chart_views import chart_views
from scalelab.tracking.journal_mirror import FinalRecord, JournalMirror, MirroredRun, ParentRecord
from scalelab.tracking.lineage import dataset_of, model_of
from scalelab.tracking.payload import (
    MetricPoint,
    final_params,
    final_points,
    final_tags,
    journal_points,
    planned_tags,
    run_name,
)
from scalelab.tracking.relations import Relation, link_lines, related, relation_tags
from scalelab.tracking.report_mirror import VERDICT
from scalelab.tracking.report_record import report_records
from scalelab.tracking.sweep_page import FIGURES, SweepPage, forecast_points, frontier_points, newest_fit
from scalelab.train.run_directory import RunDir
from scalelab.train.spec import RunResult


class Mirror(JournalMirror[SweepManifest, RunResult]):
    """One sweep's mirror in one store."""

    noun, prefix, state_file = "run", "sweep", ".sync.json"
    _related: Sequence[Relation] = ()
    _links: Sequence[str] = ()

    def _load(self) -> SweepManifest:
        self._homes: dict[str, set[str]] = {}  # manifest anew in each pass
        return SweepManifest.load(self.root, self.name)

    def _children(self, manifest: SweepManifest) -> list[MirroredRun]:
        return [
            MirroredRun(
                planned.run,
                f"run {planned.run}",
                run_name(planned),
                RunDir(self.root / planned.dir),
                planned_tags(planned, manifest),
                planned.flops / planned.n_tokens,
            )
            for planned in manifest.runs
        ]

    def _is_ours(self, child: MirroredRun) -> bool:
        home = child.dir.path.parent.name
        if home == self.name:
            return True
        if home not in self._homes:
            there = exists(manifest_path(self.root, home))
            listed = SweepManifest.load(self.root, home).runs if there else ()
            self._homes[home] = {run.run for run in listed}
        return child.key not in self._homes[home]

    def _read(self, run_dir: RunDir) -> RunResult | None:
        return run_dir.result()

    def _points(
        self, child: MirroredRun, events: list[dict[str, Any]], seen: dict[str, int]
    ) -> list[MetricPoint]:
        return list(journal_points(events, seen, child.flops_per_token))

    def _ending(self, child: MirroredRun, result: RunResult, seen: Mapping[str, int]) -> FinalRecord:
        files = (child.dir.spec_path, child.dir.result_path)
        return FinalRecord(
            final_points(result, seen),
            final_tags(result),
            files,
            final_params(result),
            dataset_of(child.dir, result),
            model_of(child.name, child.dir, result),
        )

    def _overview(
        self, manifest: SweepManifest, results: Mapping[str, RunResult | None], last: bool
    ) -> ParentRecord:
        assert self._parent is not None
        is_done = all(result is not None for result in results.values())
        fit = newest_fit(report_records(self.root, self.name))
        page = SweepPage(self.store, self._experiment, self._parent, manifest)
        tags = {
            "scalelab.sweep": self.name,
            "scalelab.digest": manifest.digest,
            "scalelab.param_count": manifest.param_count,
            **self._relations(manifest, last),
            **({} if fit is None else {name: fit.tags[name] for name in (VERDICT,) if name in fit.tags}),
        }
        links = self._links
        tags["mlflow.note.content"] = page.text(results, fit, self._reports, links, self.root)
        points = [*frontier_points(results.values(), last), *([] if fit is None else forecast_points(fit))]
        files = [] if fit is None else [path for path in fit.paths(self.root) if path.name in FIGURES]
        state = "finished" if is_done else "interrupted" if last else "running"
        return ParentRecord(state, tags, points, files)

    def _relations(self, manifest: SweepManifest, last: bool) -> dict[str, str]:
        """Tags of work that this came from and led to; looked up, like the views, in the last pass."""
        if last:
            self.store.tag_experiment(self._experiment, chart_views())
            self._related = related(self.root, self.name, manifest.source)
            self._links = link_lines(self.store, self._related)
        return relation_tags(self._related)
