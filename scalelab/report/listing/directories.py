"""`scalelab runs --all` as a Document: every run directory, and what differs in those that nothing uses.

Not here: the directories (records/run_directories.py), the listing of sweeps (runs.py).
"""

from collections.abc import Sequence
from pathlib import Path

from scalelab.errors import TrackError
from scalelab.records.run_directories import RunDirectory
from scalelab.report.document import Block, Bullets, Code, Content, Document, Number, Paragraph, Strong, Table
from scalelab.units import size_text

SHOWN = 6
"""Differences that are listed of one directory."""


def directories_document(root: Path, every: Sequence[RunDirectory], name: str | None = None) -> Document:
    """Return the table of run directories, with notes on those that nothing uses.

    Args:
        root: Directory of all runs.
        every: The directories.
        name: Sweep or post-training whose directories are shown; None: all.

    Raises:
        TrackError: Nothing of that name has a directory.
    """
    shown = [each for each in every if name in (None, each.name)]
    if not shown and name is not None:
        raise TrackError(
            f"no run directory belongs to {name!r}",
            where=f"{root}, which holds: {', '.join(sorted({each.name for each in every})) or 'none'}",
            fix="name one of these, or leave the name out",
        )
    if not shown:
        return Document(
            "Run directories", [Paragraph(["There are no run directories in ", Code(str(root)), "."])]
        )
    unused = [each for each in shown if not each.users]
    rows: list[list[Content]] = [
        [
            each.dir,
            each.state,
            ", ".join(each.users) or "nothing",
            "" if each.loss is None else Number(f"{each.loss:.4f}", "measured"),
            size_text(each.n_bytes),
        ]
        for each in shown
    ]
    caption = "loss in nats per token, measured."
    columns = ["directory", "state", "used by", "loss", "size"]
    blocks: list[Block] = [Table(columns, rows, align="lllrr", caption=caption, optional=["loss", "size"])]
    if unused:
        blocks += [*unused_blocks(unused), Paragraph(["Remove them: ", Code(_command(unused))])]
    else:
        blocks.append(Paragraph("Every directory is in use."))
    return Document("Run directories", blocks)


def unused_blocks(unused: Sequence[RunDirectory]) -> list[Block]:
    """Return a summary of directories that nothing uses, and what differs in each."""
    size = size_text(sum(each.n_bytes for each in unused))
    count = f"{len(unused)} director{'ies' if len(unused) > 1 else 'y'}"
    return [
        Paragraph(f"{count} ({size}) that no sweep, post-training or forecast names now:"),
        Bullets([[Strong(each.dir), f" ({each.state}): {_difference(each)}"] for each in unused]),
    ]


def _difference(each: RunDirectory) -> str:
    if each.differences:
        more = len(each.differences) - SHOWN
        return "; ".join(each.differences[:SHOWN]) + (f"; and {more} more" if more > 0 else "")
    if each.problem is not None:
        return each.problem
    return "nothing that is named now to compare with"


def _command(unused: Sequence[RunDirectory]) -> str:
    return f"scalelab clean {' '.join(sorted({each.name for each in unused}))}"
