"""Which column of a table is taken for which of ours.

    match_columns(table, {"loss": "eval/loss"}, known=KNOWN, where="runs.csv") -> ColumnMatching

A column under our own name is that column. For the others the names decide (column_names.py): exactly
one column whose name can only mean one thing is taken and reported; where two can be meant or a
name says too little, a column that every table needs is asked for with a line to copy, and any other
is left as it is and noted.

Not here: reading files (table_file.py), values of cells (cells.py).
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import pandas as pd

from scalelab.errors import DataError
from scalelab.records.column_names import CANONICAL, NEEDED, Match, meaning_of, plain_name
from scalelab.records.run_states import KNOWN as KNOWN_STATES
from scalelab.records.run_states import states
from scalelab.registry import did_you_mean

SHOWN = 20
"""Columns that a message lists."""
NO_COLUMN = "none"
"""What --columns names for a column that the table does not have: --columns flops=none."""
_COUNTS = 1e4
"""Parameters or tokens below which the unit of a column called params or tokens is asked for: the
smallest published models of language have a hundred thousand parameters."""
_USUAL = {"n_params": "M", "n_tokens": "B"}
"""Units that a suggestion names: sizes are usually given in millions, tokens in billions."""
_BARE = ("params", "parameters", "tokens", "size")


@dataclass(frozen=True)
class ColumnMatching:
    """Names of a table by ours, and how they were found."""

    names: Mapping[str, str]
    """Name in the table by our name, where the two differ."""
    matched: tuple[str, ...] = ()
    """Our names of the columns that were found by their names and not stated."""
    scales: Mapping[str, float] = field(default_factory=dict)
    """Units that names give, by our name: 1e6 for "params (M)"."""
    others: Mapping[str, str] = field(default_factory=dict)
    """Plain name by the table's own name, of the columns that mean nothing to us."""
    notes: tuple[str, ...] = ()
    """Columns that may have been meant and were not taken, one sentence each."""


def match_columns(
    table: pd.DataFrame,
    stated: Mapping[str, str],
    known: Sequence[str],
    where: str,
    with_units: Collection[str] = (),
) -> ColumnMatching:
    """Return which column of a table is which of ours.

    Args:
        table: The table as it was read.
        stated: Names in the table by our names, as a person gave them.
        known: Our names of every column that is used.
        where: Name of the table in messages.
        with_units: Our columns whose unit is stated, and so not in doubt.

    Raises:
        DataError: A stated name is not there, or a column that every table needs is not, or is not
            certain; the fix is a line to copy.
    """
    every = [*dict.fromkeys((*known, *CANONICAL))]
    _check_stated(table, stated, every, where)
    names = [str(name) for name in table.columns]
    absent = {ours for ours, theirs in stated.items() if theirs == NO_COLUMN and NO_COLUMN not in names}
    found = {ours: theirs for ours, theirs in stated.items() if ours not in absent}
    taken = set(found.values())
    own = [n for n in names if n in every and n not in taken and n not in absent and n not in found]
    taken |= set(own)
    free = [name for name in names if name not in taken]
    lower = frozenset(name.strip().casefold() for name in names)
    candidates: dict[str, list[tuple[str, Match]]] = {}
    for name in free:
        match = meaning_of(name, lower)
        if match is not None and match.of_unit and match.ours in with_units:
            match = replace(match, sure=True)
        if match is not None and match.ours not in (*absent, *found) and match.ours in every:
            candidates.setdefault(match.ours, []).append((name, match))
    if "loss" in own:
        _refuse_two_losses(table, candidates.get("loss", []), where)
    _refuse_two_states(table, own, candidates.get("status", []), where)
    chosen: dict[str, tuple[str, Match]] = {}
    notes = []
    for ours, each in candidates.items():
        if ours in own:
            continue
        sure = _best(table, ours, [(name, match) for name, match in each if match.sure])
        if len(sure) == 1 and (ours in with_units or not _unit_in_doubt(table, *sure[0])):
            chosen[ours] = sure[0]
        elif ours not in NEEDED:
            notes.append(_unused(ours, sure or each))
    there = {*own, *found, *chosen}
    counted = any(name.startswith("n_params") for name in there)
    missing = [n for n in NEEDED if n not in there and not (n == "n_params" and counted)]
    if missing:
        _ask(names, missing, {n: candidates.get(n, []) for n in missing}, chosen, found, where)
    used = {*found.values(), *own, *(name for name, _ in chosen.values())}
    return ColumnMatching(
        {ours: theirs for ours, theirs in found.items() if ours != theirs}
        | {ours: name for ours, (name, _) in chosen.items()},
        tuple(chosen),
        {ours: match.scale for ours, (_, match) in chosen.items() if match.scale != 1.0},
        _plain([name for name in names if name not in used], {*there, *every}),
        tuple(notes),
    )


def _check_stated(table: pd.DataFrame, stated: Mapping[str, str], known: Sequence[str], where: str) -> None:
    for ours in stated:
        if ours not in known:
            raise DataError(
                f"{ours!r} is not a column that we use{did_you_mean(ours, list(known))}",
                where=f"the new names for the columns of {where}",
                fix=f"name these: {', '.join(known)}",
            )
    missing = [name for name in stated.values() if name not in table and name != NO_COLUMN]
    if missing:
        raise DataError(
            f"the table has no column {', '.join(map(repr, missing))}"
            + did_you_mean(missing[0], [str(name) for name in table.columns]),
            where=listed_columns(table, where),
            fix="name columns that are there: --columns n_params=N,n_tokens=D,loss=L",
        )
    given = [name for name in stated.values() if name != NO_COLUMN]
    if twice := [name for name in given if given.count(name) > 1]:
        raise DataError(
            f"the column {twice[0]!r} is named for two of ours",
            where=f"the new names for the columns of {where}",
            fix="name each column once",
        )


def listed_columns(table: pd.DataFrame, where: str) -> str:
    """Return a table and its columns for a message."""
    names = [str(name)[:40] for name in table.columns]
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{where}, whose columns are {', '.join(names[:SHOWN])}{more}"


def _best(table: pd.DataFrame, ours: str, each: list[tuple[str, Match]]) -> list[tuple[str, Match]]:
    """Return the candidates that are left where equal ones count once, and a run has one name."""
    if len(each) < 2:
        return each
    if ours == "run":
        ranked = sorted(each, key=lambda pair: pair[1].rank)
        by_name = [pair for pair in ranked if "name" in plain_name(pair[0])] or ranked
        return [next((p for p in (*by_name, *ranked) if _is_unique(table[p[0]])), by_name[0])]
    if ours == "status":  # those with states agree, or the table was refused
        return sorted(each, key=lambda pair: not states(table[pair[0]]).isin(KNOWN_STATES).any())[:1]
    first = table[each[0][0]]
    return each[:1] if all(table[name].equals(first) for name, _ in each[1:]) else each


def _is_unique(column: pd.Series) -> bool:
    return bool(column.astype(str).is_unique)


def _unit_in_doubt(table: pd.DataFrame, name: str, match: Match) -> bool:
    """Return whether a column is called params or tokens, and its numbers are too small for a count."""
    if match.scale != 1.0 or plain_name(name).split("_")[-1] not in _BARE or match.ours not in NEEDED:
        return False
    numbers = pd.to_numeric(table[name].astype(str), errors="coerce")
    return bool(numbers.median() < _COUNTS)


def _refuse_two_losses(table: pd.DataFrame, each: list[tuple[str, Match]], where: str) -> None:
    """Refuse a table with a column loss and another that is a validation loss by its name."""
    other = [name for name, match in each if match.sure and not table[name].equals(table["loss"])]
    if other:
        raise DataError(
            f"two columns may be the validation loss: 'loss' and {other[0]!r}",
            where=listed_columns(table, where),
            fix=f"name one of them: --columns loss={_quoted(other[0])}, or --columns loss=loss",
        )


def _refuse_two_states(
    table: pd.DataFrame, own: Sequence[str], each: Sequence[tuple[str, Match]], where: str
) -> None:
    """Refuse a table with two columns of states that differ: a run that failed by one would be fitted."""
    names = [name for name in ("status",) if name in own] + [name for name, match in each if match.sure]
    found = {name: states(table[name]) for name in names}
    found = {name: column for name, column in found.items() if column.isin(KNOWN_STATES).any()}
    first = next(iter(found.values()), None)
    if any(not column.equals(first) for column in found.values()):
        one, other = list(found)[:2]
        raise DataError(
            f"two columns may be the status of the runs: {one!r} and {other!r}",
            where=listed_columns(table, where),
            fix=f"name one of them: --columns status={_quoted(one)}, or --columns status={_quoted(other)}",
        )


def _ask(
    names: Sequence[str],
    missing: Sequence[str],
    candidates: Mapping[str, list[tuple[str, Match]]],
    chosen: Mapping[str, tuple[str, Match]],
    stated: Mapping[str, str],
    where: str,
) -> None:
    """Refuse a table in which a needed column is not certain, with a line to copy."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    there = f"{where}, whose columns are {', '.join(n[:40] for n in names[:SHOWN])}{more}"
    reasons, units = [], []
    for ours in missing:
        each = candidates[ours]
        sure = [name for name, match in each if match.sure]
        if len(sure) > 1:
            reasons.append(f"{ours} may be {' or '.join(map(repr, sure))}")
        elif sure:
            reasons.append(f"{ours} may be {sure[0]!r}, whose numbers are too small for a plain count")
            units.append(f"{ours}={_USUAL[ours]}")
        elif each:
            each = sorted(each, key=lambda pair: "val" not in pair[0].lower())
            reasons.append(f"{ours} may be " + " or ".join(f"{name!r} ({m.why})" for name, m in each[:4]))
    lacking = [ours for ours in missing if not candidates[ours]]
    if lacking:
        reasons.insert(0, f"the table has no column {', '.join(lacking)}")
    line = {**stated, **{o: n for o, (n, _) in chosen.items() if o in NEEDED}}
    for ours in missing:
        each = sorted(candidates[ours], key=lambda pair: (not pair[1].sure, "val" not in pair[0].lower()))
        line[ours] = each[0][0] if each else "NAME"
        units += [f"loss={m.unit}" for name, m in each[:1] if m.unit in ("bits", "perplexity")]
    pairs = ",".join(f"{ours}={_quoted(name)}" for ours, name in line.items())
    pairs += f" --units {','.join(units)}" if units else ""
    say = "say what it calls them" if lacking else "if this is what they mean, repeat the command with"
    raise DataError("; ".join(reasons), where=there, fix=f"{say}: --columns {pairs}")


def _unused(ours: str, each: list[tuple[str, Match]]) -> str:
    """Return the note on columns that may be an optional one of ours and are not used."""
    listed = " or ".join(f"{name!r}" + (f" ({match.why})" if match.why else "") for name, match in each)
    return f"{ours} may be {listed}; not used. To use it: --columns {ours}={_quoted(each[0][0])}"


def _quoted(name: str) -> str:
    """Return a name as a shell takes it."""
    return name if all(c.isalnum() or c in "_./:-" for c in name) else f"'{name}'"


def _plain(names: Sequence[str], taken: set[str]) -> dict[str, str]:
    """Return a plain name for each column, each once and none of ours."""
    found: dict[str, str] = {}
    for name in names:
        plain = base = plain_name(name)
        k = 2
        while plain in taken:
            plain, k = f"{base}_{k}", k + 1
        taken.add(plain)
        found[name] = plain
    return found
