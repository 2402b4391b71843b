"""`scalelab runs` as a Document: every sweep and post-training, or the runs or stages of one.

Not here: the rows (records/listing.py), forecasts (forecasts.py).
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from scalelab.example_files import first_command
from scalelab.records.listing import (
    ListedPosttraining,
    ListedRun,
    ListedStage,
    ListedSweep,
    LogState,
    Summary,
    list_runs,
    list_stages,
    overview,
)
from scalelab.records.manifest_kinds import SWEEP, kinds_of
from scalelab.records.run_table import UNREADABLE
from scalelab.records.status import STATES
from scalelab.report.document import (
    Block,
    Bullets,
    Code,
    Content,
    Document,
    Facts,
    Heading,
    Number,
    Paragraph,
    Strong,
    Table,
)
from scalelab.report.listing.queue import queue_blocks
from scalelab.units import duration, sci, si

ORDER = (*STATES, UNREADABLE)
"""States in the order of columns and counts."""


def listing_document(root: Path, name: str | None) -> Document:
    """Return the listing of everything, or of one name: its sweep, its post-training, or both.

    Args:
        root: Directory of all runs.
        name: Name of a sweep or post-training; None: the overview of all.

    Raises:
        TrackError: There is neither a sweep nor a post-training of that name, or its manifest
            cannot be read.
    """
    if name is None:
        return overview_document(root, *overview(root))
    blocks: list[Block] = []
    for kind in kinds_of(root, name):
        blocks += (
            sweep_blocks(list_runs(root, name))
            if kind == SWEEP
            else posttraining_blocks(list_stages(root, name))
        )
    blocks += queue_blocks(root / name)
    return Document(name, blocks)


def overview_document(root: Path, sweeps: Sequence[Summary], posttrainings: Sequence[Summary]) -> Document:
    """Return the overview of all sweeps and post-trainings: how many runs are in which state."""
    if not sweeps and not posttrainings:
        start = Code(first_command("sweep"))
        return Document("Runs", [Paragraph(["There are no sweeps in ", Code(str(root)), ". Start: ", start])])
    blocks: list[Block] = []
    for what, unit, summaries in (("sweep", "runs", sweeps), ("post-training", "stages", posttrainings)):
        if summaries:
            blocks.append(_counts_table(what, unit, summaries))
    problems = [s for s in (*sweeps, *posttrainings) if s.problem is not None]
    if problems:
        blocks.append(Bullets([[Strong(s.name), f" is {UNREADABLE}: {s.problem}"] for s in problems]))
    units = " or ".join(["run"] * bool(sweeps) + ["stage"] * bool(posttrainings))
    blocks.append(Paragraph([f"Show every {units} of one: ", Code("scalelab runs NAME")]))
    return Document("Runs", blocks)


def _counts_table(what: str, unit: str, summaries: Sequence[Summary]) -> Table:
    present = {state for s in summaries for state in s.states}
    states = [state for state in ORDER if state in present]
    rows = []
    for s in summaries:
        counts = Counter(s.states)
        n = "?" if s.problem is not None else str(len(s.states))
        rows.append([s.name, n, *(str(counts[state] or "") for state in states)])
    return Table([what, unit, *states], rows)


def sweep_blocks(sweep: ListedSweep) -> list[Block]:
    """Return the listing of one sweep: one row per run, then notes on single runs."""
    manifest = sweep.manifest
    rows = [
        [
            r.planned.run,
            r.state,
            "" if r.flops_planned is None else Number(sci(r.flops_planned), "computed"),
            si(r.planned.n_params),
            si(r.planned.n_tokens),
            str(r.planned.seed),
            _measured(r.loss, "{:.4f}"),
            _measured(r.bpb, "{:.4f}"),
            "" if r.tokens_per_s is None else Number(si(r.tokens_per_s), "measured"),
        ]
        for r in sweep.runs
    ]
    columns = ["run", "state", "budget", "N", "D", "seed", "loss", "bpb", "tokens/s"]
    caption = (
        f"budget in FLOPs; N: {manifest.param_count} parameters; D: tokens; loss in nats per token; bpb: bits "
        "per byte. loss, bpb and tokens/s are measured."
    )
    return [
        Heading(f"Sweep {manifest.sweep}"),
        *_question(manifest.question),
        Paragraph(_counts([r.state for r in sweep.runs])),
        Table(columns, rows, align="llrrrrrrr", caption=caption, optional=["tokens/s", "seed", "bpb"]),
        *_notes([(r.planned.run, _run_note(r)) for r in sweep.runs]),
    ]


def _run_note(run: ListedRun) -> list[str]:
    if run.reason:
        first = [run.reason.splitlines()[0]]
    elif run.trained_by is not None:
        first = [f"trained by the sweep {run.trained_by}"]
    elif run.state in {"running", "interrupted"}:
        first = [f"step {run.log.step or 0} of {run.planned.n_steps}"]
    else:
        first = []
    return [*first, *_log_note(run.log)]


def posttraining_blocks(posttraining: ListedPosttraining) -> list[Block]:
    """Return the listing of one post-training: one row per stage, then notes on single stages."""
    manifest, stages = posttraining.manifest, posttraining.stages
    rows = [
        [s.planned.stage, s.planned.kind, s.state, *_totals(s), s.planned.dir.rpartition("-")[2]]
        for s in stages
    ]
    columns = ["stage", "kind", "state", "tokens", "FLOPs", "time", "id"]
    caption = f"FLOPs are computed. Directory of a stage: {manifest.name}/STAGE-ID."
    facts: list[tuple[str, Content]] = [("base model", _base(manifest.base))]
    return [
        Heading(f"Post-training {manifest.name}"),
        *_question(manifest.question),
        Facts(facts),
        Paragraph(_counts([s.state for s in stages])),
        Table(columns, rows, align="lllrrrl", caption=caption, optional=["tokens", "time", "kind"]),
        *_notes([(s.planned.stage, _stage_note(s)) for s in stages]),
    ]


def _base(base: dict[str, object]) -> str:
    return ", ".join(f"{key} {value}" for key, value in base.items())


def _totals(stage: ListedStage) -> list[Content]:
    """Tokens, FLOPs and time of a stage; unknown ones are empty."""
    result = stage.result
    if result is None:
        return ["", "", ""]
    return [
        "" if result.n_tokens is None else si(result.n_tokens),
        "" if result.flops is None else Number(sci(result.flops), "computed"),
        "" if result.seconds is None else duration(result.seconds),
    ]


def _stage_note(stage: ListedStage) -> list[str]:
    if stage.reason:
        first = [stage.reason.splitlines()[0]]
    elif stage.result is not None:
        first = [stage.result.main_metrics]
    elif stage.state != "planned" and stage.log.step is not None:
        first = [f"step {stage.log.step}"]
    else:
        first = []
    return [*filter(None, first), *_log_note(stage.log)]


def _log_note(log: LogState) -> list[str]:
    if log.problem is not None:
        return [log.problem]
    if log.n_bad:
        return [f"skipped {log.n_bad} damaged line{'' if log.n_bad == 1 else 's'} of its log"]
    return []


def _notes(notes: Iterable[tuple[str, list[str]]]) -> list[Block]:
    items = [[Strong(name), ": " + "; ".join(dict.fromkeys(parts))] for name, parts in notes if parts]
    return [Bullets(items)] if items else []


def _question(question: str) -> list[Block]:
    return [Paragraph(text)] if (text := " ".join(question.split())) else []


def _counts(states: Sequence[str]) -> str:
    counts = Counter(states)
    return ", ".join(f"{counts[state]} {state}" for state in ORDER if counts[state])


def _measured(value: float | None, form: str) -> Content:
    return "" if value is None else Number(form.format(value), "measured")
