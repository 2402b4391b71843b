"""The ledger as a Document: every frozen forecast with its outcome.

Not here: the files of the ledger (plan/forecast/ledger.py).
"""

from collections.abc import Collection
from pathlib import Path

from scalelab.errors import ScalelabError
from scalelab.plan.forecast.frozen import FrozenForecast
from scalelab.plan.forecast.ledger import FORECASTS, STATES, LedgerEntry, Outcome, entries, state_of
from scalelab.records.sweep_manifest import SweepManifest, list_sweeps
from scalelab.report.document import Block, Code, Content, Document, Number, Paragraph, Table
from scalelab.train.run_directory import RunDir
from scalelab.units import duration, multiple, sci, si


def read_ledger(root: Path) -> tuple[list[LedgerEntry], set[str], list[ScalelabError]]:
    """Return every entry, the digests of forecasts whose runs have begun, and what cannot be read.

    Args:
        root: Directory of all runs.
    """
    every = entries(root)
    known = {entry.frozen.digest[:12]: entry.frozen.digest for entry in every if entry.frozen}
    problems: list[ScalelabError] = [entry.problem for entry in every if entry.problem]
    begun = set()
    for name in list_sweeps(root):
        try:
            manifest = SweepManifest.load(root, name)
        except ScalelabError as error:
            problems.append(error)  # the sweep may be a launched plan
            continue
        started = any(RunDir(root / run.dir).is_begun for run in manifest.runs)
        if manifest.digest in known and started:
            begun.add(known[manifest.digest])
    return every, begun, problems


def forecasts_document(root: Path, every: Collection[LedgerEntry], begun: Collection[str] = ()) -> Document:
    """Return the ledger as a table.

    Args:
        root: Directory of all runs.
        every: Entries of the ledger. One that cannot be read has a row with its file.
        begun: Digests of forecasts whose runs have begun.
    """
    if not every:
        text = f"No forecasts in {root / FORECASTS}. Make one: "
        return Document("Forecasts", [Paragraph([text, Code("scalelab plan")])])
    counts = dict.fromkeys(STATES, 0)
    rows: list[list[Content]] = []
    unreadable = []
    for entry in every:
        state = state_of(entry, begun)
        counts[state] += 1
        if entry.frozen is None:
            unreadable.append(str(entry.path))
            rows.append([entry.path.name[:12], state, *[""] * 11])
        else:
            rows.append(_row(entry.frozen, entry.outcome, state))
    judged = counts["held"] + counts["missed"]
    total = ", ".join(f"{n} {state}" for state, n in counts.items() if n)
    blocks: list[Block] = [
        Table(
            [
                "digest",
                "state",
                "created",
                "name",
                "FLOPs",
                "N",
                "D",
                "forecast",
                "interval",
                "measured",
                "error",
                "reach",
                "time",
            ],
            rows,
            align="llllrrrrlrrrr",
            caption="Forecast: extrapolated loss with its quoted interval. Measured: validation loss of the final "
            "run. Both in nats per token.",
            optional=["created", "time", "D", "N", "FLOPs", "reach", "error", "interval"],
        ),
        Paragraph(total + (f"; {counts['held']} of {judged} intervals held." if judged else ".")),
    ]
    notes = [
        f"{entry.frozen.name}: {note.splitlines()[0]}"
        for entry in every
        if entry.frozen is not None and (note := _note(entry.frozen, entry.outcome))
    ]
    blocks += [Paragraph(text) for text in notes]
    blocks += [Paragraph(f"unreadable: {path}") for path in unreadable]
    return Document("Forecasts", blocks)


def _note(frozen: FrozenForecast, outcome: Outcome | None) -> str | None:
    return outcome.reason if outcome and outcome.reason else frozen.override


def _row(frozen: FrozenForecast, outcome: Outcome | None, state: str) -> list[Content]:
    ends = frozen.quoted
    return [
        frozen.digest[:12],
        state,
        frozen.created[:10],
        frozen.name,
        Number(sci(frozen.actual["flops"]), "computed"),
        Number(si(frozen.actual["n_params"]), "computed"),
        Number(si(frozen.actual["n_tokens"]), "computed"),
        Number(f"{frozen.loss:.4f}", "extrapolated"),
        "unknown" if ends is None else f"{ends[0]:.4f}-{ends[1]:.4f} {frozen.level * 100:.0f}%",
        "" if outcome is None or outcome.loss is None else Number(f"{outcome.loss:.4f}", "measured"),
        "" if outcome is None or outcome.error is None else Number(f"{outcome.error:+.2%}", "measured"),
        multiple(frozen.reach),
        "" if outcome is None else duration(outcome.seconds),
    ]
