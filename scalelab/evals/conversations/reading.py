"""Records of a file as conversations or preferences, all in the layout of the first one.

A record is refused if it has another layout than the first, fits two layouts, lacks a field or has an empty
one. All refused records of a file are reported together, with the reason of the first.

Not here: the layouts (layouts/), files of records (data/files).
"""

from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any

from scalelab.data.files.records import field_names
from scalelab.errors import DataError
from scalelab.evals import LAYOUTS
from scalelab.evals.conversations.layouts.base import (
    ConversationRecord,
    PreferenceRecord,
    RatedRecord,
    Record,
    RecordLayout,
)
from scalelab.evals.conversations.messages import refuse_nested

_USES = {ConversationRecord: "conversations", PreferenceRecord: "preferences", RatedRecord: "rated answers"}
_INSTEAD = {
    ConversationRecord: "use the file as `data`",
    PreferenceRecord: "use the file as `pairs` of a stage dpo or reward",
    RatedRecord: "use the file as `pairs` of a stage dpo or reward; to train on the good answers only, remove the "
    "records with label false and the field `label`",
}
_SHOWN = 5


def read_records(
    rows: Iterable[tuple[str, Mapping[str, Any]]], wanted: tuple[type[Record], ...], n: int | None = None
) -> list[Record]:
    """Return the first n records of one file, read.

    Args:
        rows: Location and fields of each record.
        wanted: What records may hold: ConversationRecord, PreferenceRecord, RatedRecord.
        n: Number of records to read; None: all.

    Raises:
        DataError: Records are not of the layout of the first one, or cannot be read; it names up to five.
    """
    layouts = {name: LAYOUTS[name]() for name in LAYOUTS}
    found: list[Record] = []
    refusals: list[DataError] = []
    n_refused = 0
    first: str | None = None
    for where, row in islice(rows, n):
        record = {name: value for name, value in row.items() if value is not None}
        try:
            refuse_nested(record, where)
            name = _checked(record, where, wanted, layouts, first)
            first = first or name
            found.append(layouts[name].read(record, where))
        except DataError as error:
            n_refused += 1
            if len(refusals) < _SHOWN:
                refusals.append(error)
            if first is None:
                break  # the layout of the file is not known
    if refusals:
        raise _together(refusals, n_refused)
    return found


def _checked(
    record: Mapping[str, Any],
    where: str,
    wanted: tuple[type[Record], ...],
    layouts: Mapping[str, RecordLayout],
    first: str | None,
) -> str:
    """Return the layout of a record, which is that of the first record of the file if there is one."""
    try:
        name = detect(record, where, wanted, layouts)
    except DataError:
        missing = [] if first is None else [name for name in layouts[first].fields if name not in record]
        if not missing:
            raise
        raise _lacking(record, first, missing, where) from None
    if first not in (None, name):
        raise DataError(
            f"the record has the layout {name}, but the first one of the file has {first}",
            where=where,
            fix="divide the file by layout, or convert its records to one",
        )
    return name


def detect(
    record: Mapping[str, Any],
    where: str,
    wanted: tuple[type[Record], ...],
    layouts: Mapping[str, RecordLayout],
) -> str:
    """Return the name of the one layout that a record has.

    Args:
        record: Its fields without those that are null.
        where: Location of the record.
        wanted: What it may hold; layouts of other kinds are not considered.
        layouts: Layouts by name.

    Raises:
        DataError: It has none, more than one, or only ones of another kind.
    """
    fitting = [name for name, layout in layouts.items() if layout.matches(record)]
    usable = [name for name in fitting if layouts[name].gives in wanted]
    if len(usable) == 1:
        return usable[0]
    words = " or ".join(_USES[kind] for kind in wanted)
    if usable:
        fields = " and ".join(f"{name} ({', '.join(layouts[name].fields)})" for name in usable)
        raise DataError(
            f"the record has the fields of two layouts: {fields}",
            where=where,
            fix="keep the fields of one of them and remove those of the others",
        )
    if fitting:
        gives = layouts[fitting[0]].gives
        raise DataError(
            f"the records are {_USES[gives]} (layout {fitting[0]}), not {words}",
            where=where,
            fix=_INSTEAD[gives],
        )
    known = "; ".join(f"{', '.join(layout.fields)}" for layout in layouts.values() if layout.gives in wanted)
    raise DataError(
        f"the record is in no known layout of {words}: it has {field_names(record)}",
        where=where,
        fix=f"give it the fields of one layout: {known}",
    )


def _lacking(record: Mapping[str, Any], layout: str, missing: list[str], where: str) -> DataError:
    return DataError(
        f"the record has no {' and no '.join(map(repr, missing))}, unlike the first one of the file (layout {layout})",
        where=where,
        fix=f"add the field, or divide the file by layout; the record has: {field_names(record)}",
    )


def _together(refusals: list[DataError], n: int) -> DataError:
    first, *others = refusals
    if not others:
        return first
    more = ", ".join(error.where for error in others) + (", ..." if n > len(refusals) else "")
    records = "record" if n == 2 else "records"
    return DataError(
        f"{first.problem} (and {n - 1} more {records} that cannot be read)",
        where=f"{first.where}; {more}",
        fix=first.fix,
    )
