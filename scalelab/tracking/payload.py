"""Metrics, params, tags and notes that the mirror sends, from run directories alone.

A resumed run logs some steps again. The first value of each metric and step counts; the rule depends
on the journal only, so a mirror that is made again is identical.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scalelab.errors import RunError
from scalelab.files import check_answered, looking
from scalelab.markup import escape_markdown
from scalelab.records.sweep_manifest import PlannedRun, SweepManifest
from scalelab.sealed import record_of
from scalelab.train.run_directory import RunDir, is_event
from scalelab.train.spec import RunResult
from scalelab.units import sci, si

N_TOKENS, FLOPS = "n_tokens", "flops"
"""Metrics that count the training data and compute up to a step. MLflow's charts take them as the
horizontal axis ("X-axis: Metric"); their last value is that of the result."""
JOURNALED = {
    "step": {
        "loss": "train_loss",
        "lr": "lr",
        "grad_norm": "grad_norm",
        "tokens_per_s": "tokens_per_s",
        "mfu": "mfu",
        "n_tokens": N_TOKENS,
        "expert_load_max": "expert_load_max",
        "expert_load_min": "expert_load_min",
        "expert_load_entropy": "expert_load_entropy",
    },
    "eval": {"loss": "val_loss", "bpb": "bpb", "n_tokens": N_TOKENS},
    "forecast": {"expected": "forecast_loss", "low": "forecast_low", "high": "forecast_high"},
    "alarm": {"loss": "alarm_loss"},
}
"""Event to field to name of the metric."""
TIMINGS = {
    "train_s": "train_s",
    "first_steps_s": "first_steps_s",
    "eval_s": "eval_s",
    "tokens_per_s": "mean_tokens_per_s",
    "mfu": "mean_mfu",
    "steady_tokens_per_s": "steady_tokens_per_s",
    "steady_mfu": "steady_mfu",
}
"""Fields of a result that become metrics system/NAME: MLflow shows these on a page of their own."""
CONSTANTS = (
    "flops_6nd",
    "flops_per_token",
    "n_params_total",
    "n_params_non_embedding",
    "n_params_matmul",
    "n_params_active",
    "n_tokens_unique",
)
"""Fields of a result that follow from the spec: they become params, not charts of one point."""
LONGEST_NOTE = 7500  # MLflow silently cuts tags at 8000 characters


@dataclass(frozen=True)
class MetricPoint:
    """One value of one metric."""

    name: str
    value: float
    t: int
    """Milliseconds since 1970, as journaled."""
    step: int


def journal_points(
    events: Iterable[dict[str, Any]], seen: dict[str, int], flops_per_token: float | None = None
) -> Iterator[MetricPoint]:
    """Metrics of a run's journal; see first_points.

    Args:
        events: In the order of the journal.
        seen: The last step of each metric in the journal before these events.
        flops_per_token: Training FLOPs of one token; None leaves out the compute.
    """

    def named(event: dict[str, Any]) -> dict[str, Any]:
        names = JOURNALED.get(event["event"], {})
        values = {name: event.get(key) for key, name in names.items()}
        n_tokens = values.get(N_TOKENS)
        if isinstance(n_tokens, int | float) and flops_per_token is not None:
            values[FLOPS] = flops_per_token * n_tokens
        return values

    return first_points(events, seen, named)


def first_points(
    events: Iterable[dict[str, Any]],
    seen: dict[str, int],
    metrics: Callable[[dict[str, Any]], Mapping[str, Any]],
) -> Iterator[MetricPoint]:
    """Metrics of journal events, each step of each metric once; `seen` is updated.

    Args:
        events: In the order of the journal.
        seen: The last step of each metric in the journal before these events.
        metrics: The metrics of an event by name; None is unknown. An event that has any has
            a step.
    """
    for event in events:
        for name, value in metrics(event).items():
            if value is not None and event["step"] > seen.get(name, -1):
                seen[name] = event["step"]
                yield MetricPoint(name, float(value), event["t"], event["step"])


def final_points(result: RunResult, seen: Mapping[str, int]) -> list[MetricPoint]:
    """Return a run's result as metrics at its end.

    Args:
        result: The result.
        seen: The last step of each metric of the journal: a series that has its last point gets no other.
    """
    values = {"loss": result.loss}
    values |= {f"system/{name}": getattr(result, field) for field, name in TIMINGS.items()}
    values |= {f"domain_loss/{name}": loss for name, loss in (result.domain_losses or {}).items()}
    counts = {N_TOKENS: result.n_tokens, FLOPS: result.flops, "bpb": result.bpb}
    values |= {name: value for name, value in counts.items() if seen.get(name, -1) < result.n_steps}
    return [
        MetricPoint(name, float(value), result.finished_ms, result.n_steps)
        for name, value in values.items()
        if value is not None
    ]


def final_params(result: RunResult) -> dict[str, str]:
    """Return what a result repeats of its spec, as params."""
    values = {name: getattr(result, name) for name in CONSTANTS}
    return {name: str(value) for name, value in values.items() if value is not None}


def final_tags(result: RunResult) -> dict[str, str]:
    """Return a run's result as searchable tags."""
    names = ("data_digest", "tokenizer", "device", "precision", "n_resumes", "loss_se")
    values = {name: getattr(result, name) for name in names}
    return {f"scalelab.{name}": str(value) for name, value in values.items() if value is not None}


def planned_tags(planned: PlannedRun, manifest: SweepManifest) -> dict[str, str]:
    """Return the requested size and budget as tags: unlike params, they may change later."""
    values = {
        "sweep": manifest.sweep,
        "dir": planned.dir,
        "flops_planned": planned.flops_planned,
        "n_params_planned": planned.n_params_planned,
        "n_tokens_planned": planned.n_tokens_planned,
        "param_count": manifest.param_count,
    }
    return {f"scalelab.{name}": str(v) for name, v in values.items() if v is not None}


def run_name(planned: PlannedRun) -> str:
    """Return a name that identifies a run in a list: budget, size, seed."""
    budget = "" if planned.flops_planned is None else f"C{sci(planned.flops_planned)}-"
    return f"{budget}N{si(planned.n_params)}-s{planned.seed}"


def flat(value: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """A nested record as dotted names and texts: {"a": {"b": 1}} gives ("a.b", "1")."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from flat(inner, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, str(value)


def note(manifest: SweepManifest, results: Mapping[str, RunResult | None], before: str = "") -> str:
    """A sweep in Markdown: its question, the expected answer, and the result of each run.

    Args:
        manifest: The sweep.
        results: Result of each run by id; None without one.
        before: Text between the question and the table, ended by an empty line.
    """
    head = (
        f"**{escape_markdown(manifest.question.strip())}**\n\n"
        f"Expected: {escape_markdown(manifest.prediction.strip())}\n\n{before}"
        f"| budget (FLOPs) | N ({escape_markdown(manifest.param_count)}) | D (tokens) | seed "
        "| loss (nats/token) | run |\n|---|---|---|---|---|---|\n"
    )
    rows = []
    for planned in manifest.runs:
        result, other = results[planned.run], Path(planned.dir).parent.name
        loss = "" if result is None or result.loss is None else f"{result.loss:.4f}"
        ended = result.status if result is not None and result.status != "finished" else loss
        shared = "" if other == manifest.sweep else f" (of {escape_markdown(other)})"
        rows.append(
            f"| {sci(planned.flops_planned)} | {si(planned.n_params)} | {si(planned.n_tokens)} "
            f"| {planned.seed} | {ended} | {escape_markdown(planned.run)}{shared} |\n"
        )
    return fitted(head, rows, "a run")


def fitted(head: str, rows: list[str], each: str) -> str:
    """Return a note with as many rows as MLflow keeps and the number of omitted rows.

    Args:
        head: Text before the rows.
        rows: Lines of a Markdown table.
        each: Name of a row, such as "a run".
    """
    if len(head) + sum(map(len, rows)) <= LONGEST_NOTE:
        return head + "".join(rows)
    fit, space = 0, LONGEST_NOTE - len(head) - 60
    while fit < len(rows) and (space := space - len(rows[fit])) >= 0:
        fit += 1
    return head + "".join(rows[:fit]) + f"\nand {len(rows) - fit} more, each {each} below"


def began_ms(run_dir: RunDir, finished_ms: int | None) -> int | None:
    """Return the start of a run's journal, milliseconds; without a journal its end, if any.

    Raises:
        RunError: The journal is there and cannot be read.
    """
    try:
        with open(run_dir.log_path, "rb") as file:
            for line in file:
                event = record_of(line[:-1]) if line.endswith(b"\n") else None
                if event is not None and is_event(event):
                    return event["t"]
    except FileNotFoundError:
        pass
    except OSError as error:
        check_answered(run_dir.log_path, error)
        raise RunError(
            f"{run_dir.log_path.name} cannot be read: {error.strerror}",
            where=str(run_dir.log_path),
            fix="give yourself read permission, or move the file away",
        ) from error
    return finished_ms


def last_heard_ms(run_dir: RunDir, began: int) -> int:
    """Return the time of a run's last event, milliseconds since 1970."""
    return max((event["t"] for event in run_dir.events()), default=began)


def journal_size(run_dir: RunDir) -> int:
    """Return the size of a run's journal, bytes; 0 without one. Raises NoAnswer."""
    try:
        with looking(run_dir.log_path):
            return run_dir.log_path.stat().st_size
    except FileNotFoundError:
        return 0
