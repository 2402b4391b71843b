"""How a table was read, as labelled lines: format, columns, conversions, remarks; and rows left out.

Not here: the reading itself, and which rows are left out (records/).
"""

from collections import Counter
from collections.abc import Sequence

from scalelab.records.table_reading import TableReading
from scalelab.report.document import Block, Bullets, Content, Paragraph

SHOWN = 8
"""Other columns, and runs of one line, that are named; fit.json has all of them."""
LISTED = 20
"""Lines of runs left out; fit.json has all of them."""
FEW = 3
"""Runs of one reason that each have a line of their own."""


def left_out_blocks(excluded: Sequence[tuple[str, str]]) -> list[Block]:
    """Return the list of runs that were left out, each with its reason; nothing where there are none."""
    if not excluded:
        return []
    groups = _by_reason(excluded)
    lines = [f"{_names(runs)}: {why}" for runs, why in groups[:LISTED]]
    rest = Counter(why.split(":")[0] for runs, why in groups[LISTED:] for _ in runs)
    if rest:
        counted = ", ".join(f"{why} {count:,}" for why, count in rest.most_common(3))
        lines.append(f"and {rest.total():,} more ({counted}{', ...' if len(rest) > 3 else ''})")
    runs = "1 run" if len(excluded) == 1 else f"{len(excluded):,} runs"
    return [Paragraph(f"Left out: {runs}."), Bullets(lines)]


def _by_reason(excluded: Sequence[tuple[str, str]]) -> list[tuple[list[str], str]]:
    """Runs with their reason, together where more than FEW share it."""
    count = Counter(why for _, why in excluded)
    groups: dict[object, tuple[list[str], str]] = {}
    for i, (run, why) in enumerate(excluded):
        groups.setdefault(why if count[why] > FEW else i, ([], why))[0].append(run)
    return list(groups.values())


def _names(runs: Sequence[str]) -> str:
    more = f" and {len(runs) - SHOWN:,} more" if len(runs) > SHOWN else ""
    return f"{', '.join(runs[:SHOWN])}{more}"


def reading_facts(reading: TableReading | None) -> list[tuple[str, Content]]:
    """Return the lines on how a table was read; none for the runs of a sweep."""
    if reading is None:
        return []
    sign = ", decimal comma" if reading.decimal == "," else ""
    facts: list[tuple[str, Content]] = [("table", f"{reading.format}{sign}, {reading.rows:,} rows")]
    by_name = [f"{ours} = {reading.columns[ours]}" for ours in reading.matched]
    stated = [f"{ours} = {theirs}" for ours, theirs in reading.columns.items() if ours not in reading.matched]
    if by_name:
        facts.append(("columns", f"{', '.join(by_name)} (matched by name; --columns changes it)"))
    if stated:
        facts.append(("stated columns", ", ".join(stated)))
    if reading.conversions:
        facts.append(("converted", "; ".join(map(str, reading.conversions))))
    if reading.others:
        names = list(reading.others)
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        facts.append(("not used", f"{', '.join(names[:SHOWN])}{more}"))
    facts += [("note", note) for note in reading.notes]
    return facts
