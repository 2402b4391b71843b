"""What the mirror sends, made from run directories alone: metrics, params, words.

A run that was resumed logs some steps again. Of each metric and step the first one counts:
that is a rule about the journal and nothing else, so a mirror made anew is the same mirror.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scalelab.errors import RunError
from scalelab.sealed import record_of
from scalelab.track.manifest import PlannedRun, SweepManifest
from scalelab.train.rundir import RunDir, is_event
from scalelab.train.spec import RunResult
from scalelab.units import sci, si

JOURNALED = {
    "step": {"loss": "train_loss", "lr": "lr", "grad_norm": "grad_norm",
             "tokens_per_s": "tokens_per_s", "mfu": "mfu"},
    "eval": {"loss": "val_loss"},
    "forecast": {"expected": "forecast_loss", "low": "forecast_low", "high": "forecast_high"},
    "alarm": {"loss": "alarm_loss"},
}  # fmt: skip
"""Event, its field, the metric's name."""
FINAL = (
    "loss", "bpb", "loss_se", "flops", "flops_6nd", "flops_per_token", "n_params_total",
    "n_params_non_embedding", "n_params_matmul", "n_params_active", "n_tokens",
    "n_tokens_unique", "train_s", "eval_s",
)  # fmt: skip
"""Results that become single metrics under their own names."""
LONGEST_NOTE = 7500  # MLflow cuts tags at 8000 characters, and says nothing


@dataclass(frozen=True)
class Point:
    """One value of one metric."""

    name: str
    value: float
    t: int
    """Milliseconds since 1970, as journaled."""
    step: int


def journal_points(events: Iterable[dict[str, Any]], seen: dict[str, int]) -> Iterator[Point]:
    """Metrics of a run's journal; see first_points."""
    return first_points(events, seen, _named)


def _named(event: dict[str, Any]) -> dict[str, Any]:
    """The metrics of one event by name."""
    names = JOURNALED.get(event["event"], {})
    return {name: event.get(key) for key, name in names.items()}


def first_points(
    events: Iterable[dict[str, Any]],
    seen: dict[str, int],
    metrics: Callable[[dict[str, Any]], Mapping[str, Any]],
) -> Iterator[Point]:
    """Metrics of journal events, each step of each once; `seen` is brought forward.

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
                yield Point(name, float(value), event["t"], event["step"])


def final_points(result: RunResult) -> list[Point]:
    """What a run came to, as single metrics at its end."""
    values = {name: getattr(result, name) for name in FINAL}
    values |= {"mean_tokens_per_s": result.tokens_per_s, "mean_mfu": result.mfu}
    return [
        Point(name, float(value), result.finished_ms, result.n_steps)
        for name, value in values.items()
        if value is not None
    ]


def final_tags(result: RunResult) -> dict[str, str]:
    """What a run came to, in words that a search can use."""
    names = ("data_digest", "tokenizer", "device", "precision", "n_resumes")
    return {f"scalelab.{name}": str(getattr(result, name)) for name in names}


def planned_tags(planned: PlannedRun, manifest: SweepManifest) -> dict[str, str]:
    """What was asked for. Tags and not params: the same run may be asked for differently later."""
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
    """A name that tells runs apart in a list: budget, size, seed."""
    budget = "" if planned.flops_planned is None else f"C{sci(planned.flops_planned)}-"
    return f"{budget}N{si(planned.n_params)}-s{planned.seed}"


def flat(value: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """A nested record as dotted names and texts: {"a": {"b": 1}} gives ("a.b", "1")."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from flat(inner, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, str(value)


def note(manifest: SweepManifest, results: Mapping[str, RunResult | None]) -> str:
    """The sweep in Markdown: its question, what was expected, and what its runs came to."""
    head = (
        f"**{manifest.question.strip()}**\n\nExpected: {manifest.prediction.strip()}\n\n"
        f"| budget (FLOPs) | N ({manifest.param_count}) | D (tokens) | seed "
        "| loss (nats/token) | run |\n|---|---|---|---|---|---|\n"
    )
    rows = []
    for planned in manifest.runs:
        result, other = results[planned.run], Path(planned.dir).parent.name
        loss = "" if result is None or result.loss is None else f"{result.loss:.4f}"
        ended = result.status if result is not None and result.status != "finished" else loss
        shared = "" if other == manifest.sweep else f" (of {other})"
        rows.append(
            f"| {sci(planned.flops_planned)} | {si(planned.n_params)} | {si(planned.n_tokens)} "
            f"| {planned.seed} | {ended} | {planned.run}{shared} |\n"
        )
    return fitted(head, rows, "a run")


def fitted(head: str, rows: list[str], each: str) -> str:
    """A note of as many rows as MLflow keeps; it says how many it leaves out.

    Args:
        head: What stands before the rows.
        rows: Lines of a Markdown table.
        each: What a row is, as "a run".
    """
    if len(head) + sum(map(len, rows)) <= LONGEST_NOTE:
        return head + "".join(rows)
    fit, space = 0, LONGEST_NOTE - len(head) - 60
    while fit < len(rows) and (space := space - len(rows[fit])) >= 0:
        fit += 1
    return head + "".join(rows[:fit]) + f"\nand {len(rows) - fit} more, each {each} below"


def began_ms(run_dir: RunDir, finished_ms: int | None) -> int | None:
    """When a run's journal began; its end where the journal is gone; None before either.

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
        raise RunError(
            f"{run_dir.log_path.name} cannot be read: {error.strerror}",
            where=str(run_dir.log_path),
            fix="give yourself permission to read it, or move away what stands in its place",
        ) from error
    return finished_ms


def last_heard_ms(run_dir: RunDir, began: int) -> int:
    """When a run was last heard of."""
    return max((event["t"] for event in run_dir.events()), default=began)


def journal_size(run_dir: RunDir) -> int:
    """Bytes of a run's journal."""
    return run_dir.log_path.stat().st_size if run_dir.log_path.exists() else 0
