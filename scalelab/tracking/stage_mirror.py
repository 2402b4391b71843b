"""The mirror of a post-training: each of its stages is an MLflow run.

    experiment = its name     parent run = the post-training     child runs = its stages

    metrics by step   every number of a `step` event under its own name, of an `eval` event as
                      eval.<name>; the journal's own running totals as step.<total>
    single metrics    flops, seconds, n_tokens, and what the result names as final.<name>
    artifacts         spec.yaml, result.json, and small texts and figures; weights never

Not here: how a mirror is kept (journal_mirror.py), sweeps (sweep_mirror.py).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scalelab.files import is_file, matching
from scalelab.markup import escape_markdown
from scalelab.records.stage_manifest import TOTALS, StageManifest, StageResult, is_number, stage_result
from scalelab.records.status import state_of
from scalelab.tracking.chart_views import run_link
from scalelab.tracking.journal_mirror import FinalRecord, JournalMirror, MirroredRun, ParentRecord
from scalelab.tracking.payload import MetricPoint, first_points, fitted
from scalelab.tracking.relations import Relation, base_of, link_lines, relation_tags
from scalelab.train.run_directory import RunDir
from scalelab.units import duration, sci, si

KEPT = {".md", ".png", ".json", ".csv"}
LARGEST_KEPT = 1_000_000
"""Bytes of an output that is copied into MLflow; a larger one is named by a tag instead."""
LABELS = {"step", "t", "event"}
"""Fields of an event that are no metrics."""


class StageMirror(JournalMirror[StageManifest, StageResult]):
    """One post-training's mirror in one store."""

    noun, prefix, state_file = "stage", "posttrain", ".sync-posttrain.json"

    def _load(self) -> StageManifest:
        return StageManifest.load(self.root, self.name)

    def _children(self, manifest: StageManifest) -> list[MirroredRun]:
        children = []
        for planned in manifest.stages:
            tags = {
                "scalelab.posttrain": manifest.name,
                "scalelab.stage": planned.stage,
                "scalelab.kind": planned.kind,
                "scalelab.dir": planned.dir,
            }
            label, run_dir = f"stage {planned.stage}", RunDir(self.root / planned.dir)
            children.append(MirroredRun(planned.id, label, planned.stage, run_dir, tags))
        return children

    def _is_ours(self, child: MirroredRun) -> bool:
        return True  # a stage belongs to one post-training

    def _read(self, run_dir: RunDir) -> StageResult | None:
        return stage_result(run_dir.path)

    def _points(
        self, child: MirroredRun, events: list[dict[str, Any]], seen: dict[str, int]
    ) -> list[MetricPoint]:
        return list(first_points(events, seen, _named))

    def _ending(self, child: MirroredRun, result: StageResult, seen: Mapping[str, int]) -> FinalRecord:
        files, left_out = _outputs(child.dir)
        values = {name: getattr(result, name) for name in TOTALS}
        values |= {f"final.{name}": value for name, value in result.metrics.items()}
        step = max(seen.values(), default=0)
        points = [
            MetricPoint(name, float(value), result.finished_ms, step)
            for name, value in values.items()
            if value is not None
        ]
        words = {"device": result.device, "n_resumes": result.n_resumes}
        words["not_copied"] = ", ".join(left_out) or None
        tags = {f"scalelab.{name}": str(word) for name, word in words.items() if word is not None}
        return FinalRecord(points, tags, files)

    def _overview(
        self, manifest: StageManifest, results: Mapping[str, StageResult | None], last: bool
    ) -> ParentRecord:
        states = [
            self._stands(RunDir(self.root / planned.dir), results[planned.id], last)
            for planned in manifest.stages
        ]
        tags = {
            "scalelab.posttrain": self.name,
            "scalelab.digest": manifest.digest,
            "mlflow.note.content": _note(manifest, states, results, self._links(manifest)),
            **relation_tags(_relations(manifest)),
        }
        done = [result for result in results.values() if result is not None]
        return ParentRecord(_state_of_all(states, last), tags, total_points(done))

    def _links(self, manifest: StageManifest) -> list[str]:
        """Lines about the sweep that the base model comes from, and about reports."""
        reports = [
            f"[{key.partition(':')[0]}]({run_link(self._experiment, run)})"
            for key, run in self._reports.items()
        ]
        lines = link_lines(self.store, _relations(manifest))
        return lines + ([f"Reports: {', '.join(reports[-20:])}"] if reports else [])

    def _stands(self, run_dir: RunDir, result: StageResult | None, last: bool) -> str:
        """State of one stage; before the last pass, a started stage counts as running."""
        if result is None and run_dir.is_done:
            return "unreadable"
        if last or result is not None:
            return state_of(run_dir, result)[0]
        return "running" if run_dir.is_begun else "planned"


def _named(event: dict[str, Any]) -> dict[str, Any]:
    """The metrics of one event by name."""
    if event["event"] not in {"step", "eval"}:
        return {}
    numbers = {k: v for k, v in event.items() if k not in LABELS and is_number(v)}
    if event["event"] == "eval":
        return {f"eval.{name}": value for name, value in numbers.items()}
    # A total of the result goes by its plain name: what the journal counts on the way is another.
    return {f"step.{name}" if name in TOTALS else name: value for name, value in numbers.items()}


def _outputs(run_dir: RunDir) -> tuple[list[Path], list[str]]:
    """Files of a finished stage to copy; and such as are too large, with their sizes."""
    always = [run_dir.spec_path, run_dir.result_path]
    files, left_out = list(always), []
    for path in matching(run_dir.path):
        if path.suffix not in KEPT or not is_file(path) or path in always:
            continue
        if (size := path.stat().st_size) <= LARGEST_KEPT:
            files.append(path)
        else:
            left_out.append(f"{path.name} ({size / 1e6:.1f} MB)")
    return files, left_out


def _state_of_all(states: list[str], last: bool) -> str:
    """The post-training's state: one stage that failed fails it, as others may build on it."""
    if all(state == "finished" for state in states):
        return "finished"
    if not last or "running" in states:
        return "running"
    return "failed" if {"diverged", "failed"} & set(states) else "interrupted"


def _relations(manifest: StageManifest) -> list[Relation]:
    """The sweep or final run that the base model comes from, if it is a run."""
    base = base_of(manifest)
    return [] if base is None else [Relation("from", "sweep", base)]


def total_points(results: Sequence[StageResult]) -> list[MetricPoint]:
    """Return the FLOPs, seconds and tokens of all stages that have ended, by the number of these."""
    end = max((result.finished_ms for result in results), default=0)
    totals = {
        name: [value for result in results if (value := getattr(result, name)) is not None] for name in TOTALS
    }
    return [MetricPoint(name, float(sum(v)), end, len(results)) for name, v in totals.items() if v]


def _note(
    manifest: StageManifest,
    states: list[str],
    results: Mapping[str, StageResult | None],
    links: Sequence[str] = (),
) -> str:
    """A post-training in Markdown: its question, the expected answer, and the result of each stage.

    Args:
        manifest: The post-training.
        states: State of each stage, in order.
        results: Result of each stage by id; None without one.
        links: Lines about related work.
    """
    base = ", ".join(f"{name} {value}" for name, value in manifest.base.items())
    question, prediction = (
        escape_markdown(text.strip()) for text in (manifest.question, manifest.prediction)
    )
    head = (
        (f"**{question}**\n\n" if question else "")
        + (f"Expected: {prediction}\n\n" if prediction else "")
        + f"Base model: {escape_markdown(base[:1000])}\n\n"
        + "".join(f"{line}\n\n" for line in links)
        + "| stage | kind | state | tokens | FLOPs | time | metrics |\n"
        "|---|---|---|---|---|---|---|\n"
    )
    rows = []
    for planned, state in zip(manifest.stages, states, strict=True):
        cells, end = [planned.stage, planned.kind, state], results[planned.id]
        if end is None:
            cells += [""] * 4
        else:
            cells += [si(end.n_tokens), sci(end.flops), duration(end.seconds), end.main_metrics]
        rows.append(f"| {' | '.join(map(escape_markdown, cells))} |\n")
    return fitted(head, rows, "a stage")
