"""The mirror of a post-training: each of its stages is an MLflow run.

    experiment = its name     parent run = the post-training     child runs = its stages

    metrics by step   every number of a `step` event under its own name, of an `eval` event as
                      eval.<name>; the journal's own running totals as step.<total>
    single metrics    flops, seconds, n_tokens, and what the result names as final.<name>
    artifacts         spec.yaml, result.json, and small texts and figures; weights never

Not here: how a mirror is kept (journal_mirror.py), sweeps (mirror.py).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scalelab.track.journal_mirror import Child, Ending, JournalMirror
from scalelab.track.points import Point, first_points, fitted
from scalelab.track.stages import TOTALS, StageManifest, StageResult, is_number, stage_result
from scalelab.track.state import state_of
from scalelab.train.rundir import RunDir
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

    def _children(self, asked: StageManifest) -> list[Child]:
        children = []
        for planned in asked.stages:
            tags = {
                "scalelab.posttrain": asked.name,
                "scalelab.stage": planned.stage,
                "scalelab.kind": planned.kind,
                "scalelab.dir": planned.dir,
            }
            label, run_dir = f"stage {planned.stage}", RunDir(self.root / planned.dir)
            children.append(Child(planned.id, label, planned.stage, run_dir, tags))
        return children

    def _is_ours(self, child: Child) -> bool:
        return True  # a stage belongs to one post-training

    def _read(self, run_dir: RunDir) -> StageResult | None:
        return stage_result(run_dir.path)

    def _points(self, events: list[dict[str, Any]], seen: dict[str, int]) -> list[Point]:
        return list(first_points(events, seen, _named))

    def _ending(self, child: Child, result: StageResult, seen: Mapping[str, int]) -> Ending:
        files, left_out = _outputs(child.dir)
        values = {name: getattr(result, name) for name in TOTALS}
        values |= {f"final.{name}": value for name, value in result.metrics.items()}
        step = max(seen.values(), default=0)
        points = [
            Point(name, float(value), result.finished_ms, step)
            for name, value in values.items()
            if value is not None
        ]
        words = {"device": result.device, "n_resumes": result.n_resumes}
        words["not_copied"] = ", ".join(left_out) or None
        tags = {f"scalelab.{name}": str(word) for name, word in words.items() if word is not None}
        return Ending(points, tags, files)

    def _words(
        self, asked: StageManifest, results: Mapping[str, StageResult | None], last: bool
    ) -> tuple[str, dict[str, str]]:
        states = [
            self._stands(RunDir(self.root / planned.dir), results[planned.id], last)
            for planned in asked.stages
        ]
        tags = {
            "scalelab.posttrain": self.name,
            "scalelab.digest": asked.digest,
            "mlflow.note.content": _note(asked, states, results),
        }
        return _state_of_all(states, last), tags

    def _stands(self, run_dir: RunDir, result: StageResult | None, last: bool) -> str:
        """One stage's state; until the last pass, what has begun runs."""
        if result is None and run_dir.is_done:
            return "unreadable"
        if last or result is not None:
            return state_of(run_dir, result)[0]
        return "running" if run_dir.log_path.exists() else "planned"


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
    for path in sorted(run_dir.path.iterdir()):
        if path.suffix not in KEPT or not path.is_file() or path in always:
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


def _note(
    asked: StageManifest, states: list[str], results: Mapping[str, StageResult | None]
) -> str:
    """The post-training in Markdown: its question, what was expected, what its stages came to."""
    base = ", ".join(f"{name} {value}" for name, value in asked.base.items())
    question, prediction = asked.question.strip(), asked.prediction.strip()
    head = (
        (f"**{question}**\n\n" if question else "")
        + (f"Expected: {prediction}\n\n" if prediction else "")
        + f"Base model: {base[:1000]}\n\n"
        "| stage | kind | state | tokens | FLOPs | time | metrics |\n"
        "|---|---|---|---|---|---|---|\n"
    )
    rows = []
    for planned, state in zip(asked.stages, states, strict=True):
        cells, end = [planned.stage, planned.kind, state], results[planned.id]
        if end is None:
            cells += [""] * 4
        else:
            cells += [si(end.n_tokens), sci(end.flops), duration(end.seconds), end.main_metrics]
        rows.append(f"| {' | '.join(cells)} |\n")
    return fitted(head, rows, "a stage")
