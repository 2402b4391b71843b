"""Numbers as people write them in tables: 50M, 1.5B, 8,312, 3,1416, 8 312, 1e18 FLOPs.

    read_numbers({"n_params": column, ...}, decimal=None, where="runs.csv") -> Cells

Only what has one meaning is read, and what was converted is reported. "3,1416" has a decimal
comma and "1,234,567" commas between thousands; "1,234" alone may be either: the other cells of its
column decide, then the other columns, and where they do not the answer is asked for. K, M, B and T
after a number of parameters, tokens, steps or FLOPs are 1e3, 1e6, 1e9 and 1e12.

A cell that is no number stays as it is: the row it is in may be left out, and if not it is refused
with its place (evidence.py).

Not here: units of whole columns (column_names.py), whether a number is plausible (study/).
"""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from numbers import Real
from typing import Any, Literal

import numpy as np
import pandas as pd

from scalelab.errors import DataError
from scalelab.records.table_reading import CellConversion

Sign = Literal[".", ","]
DECIMALS: dict[str, Sign] = {"point": ".", "comma": ","}
"""Decimal signs by the words of --decimal."""
COUNTS = (
    *("n_params", "n_params_total", "n_params_non_embedding", "n_params_matmul", "n_params_active"),
    *("n_tokens", "n_tokens_unique", "n_steps", "n_steps_planned"),
)
FLOPS = ("flops", "flops_planned")
OTHERS = ("loss", "weight", "batch_tokens", "batch_size", "learning_rate", "weight_decay", "width", "depth")
LEAST_PLAIN = 1e3
"""Parameters, tokens or FLOPs below which a cell has lost the unit that others of its column have."""
NUMBER_COLUMNS = (*COUNTS, *FLOPS, *OTHERS, "seq_len", "vocab_size")
"""Our columns that hold numbers."""

_SUFFIX = {
    **dict.fromkeys(("k", "thousand"), 1e3),
    **dict.fromkeys(("m", "mn", "mio", "million"), 1e6),
    **dict.fromkeys(("b", "bn", "g", "billion"), 1e9),
    **dict.fromkeys(("t", "tn", "trillion"), 1e12),
}
_OF_FLOPS = {"k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12, "p": 1e15, "e": 1e18, "z": 1e21, "y": 1e24}
_SPACES = "\u0020\u00a0\u2009\u202f_'\u2019"
"""What may stand between groups of three digits beside comma and point."""
_GROUPS = re.compile(rf"\d{{1,3}}(?:[{_SPACES}]\d{{3}})+(?=\D|$)")
_CORE = r"(?P<core>[+-]?[\d.,]*\d[\d.,]*)(?P<power>[eE][+-]?\d+)?"
_COUNT = re.compile(
    rf"{_CORE}\s*(?P<unit>{'|'.join(sorted(_SUFFIX, key=len, reverse=True))})?\s*"
    r"(?:params?|parameters?|tokens?|toks?|steps?)?",
    re.IGNORECASE | re.ASCII,
)
_FLOP = re.compile(rf"{_CORE}\s*(?:(?P<unit>[kmgtpezy])?flops?)?", re.IGNORECASE | re.ASCII)
_PLAIN = re.compile(rf"{_CORE}(?P<unit>)(?:\s*nats?(?:\s*(?:/|per)\s*token)?)?", re.IGNORECASE | re.ASCII)


@dataclass(frozen=True, eq=False)
class Cells:
    """Columns in which text that is a number was made one."""

    columns: Mapping[str, pd.Series]
    decimal: Sign | None
    """The decimal sign that text cells decided; None where none had to."""
    conversions: tuple[CellConversion, ...]


@dataclass(frozen=True)
class _Text:
    """A number in text, in parts."""

    core: str
    power: str
    scale: float
    how: str

    @cached_property
    def sign(self) -> str:
        """The decimal sign that these digits prove ("." or ","), or the mark in doubt ("?." or "?,"), or ""."""
        found = self._sign
        return found if found not in (".", ",") or self.value(found) is not None else ""

    @property
    def _sign(self) -> str:
        points, commas = self.core.count("."), self.core.count(",")
        if not points and not commas:
            return ""
        if points and commas:
            return max(".,", key=self.core.rfind)
        mark, other = (".", ",") if points else (",", ".")
        if points + commas > 1:
            return other
        before, _, after = self.core.lstrip("+-").partition(mark)
        sure = len(after) != 3 or len(before) > 3 or before in ("", "0") or before.startswith("0")
        return mark if sure or self.power else "?" + mark

    def value(self, sign: Sign) -> float | None:
        """The number, with this decimal sign; None where the digits are not written so."""
        other = "," if sign == "." else "."
        whole, _, part = self.core.partition(sign)
        if other in part or sign in part:
            return None
        if other in whole and not re.fullmatch(rf"[+-]?\d{{1,3}}(?:{re.escape(other)}\d{{3}})+", whole):
            return None
        value = float(f"{whole.replace(other, '')}.{part}{self.power}") * self.scale
        return value if math.isfinite(value) else None


def number(value: Any) -> float:
    """Return a single value as a float; NaN where it is no real number, or text other than digits."""
    if isinstance(value, bool | np.bool_) or value is None:
        return math.nan
    if isinstance(value, str):
        text = value.strip()
        if not re.fullmatch(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?", text, re.ASCII):
            return math.nan
        return float(text)
    if isinstance(value, Real | Decimal | np.number):
        try:
            return float(value)
        except (OverflowError, TypeError, ValueError):
            return math.nan if not isinstance(value, int) else math.inf
    return math.nan


def numbers(column: pd.Series) -> pd.Series:
    """Return a column as floats, NaN where a cell is no number; dates and truth values are none."""
    if pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column):
        if pd.api.types.is_complex_dtype(column):
            return pd.Series(math.nan, column.index)
        return pd.Series(column.to_numpy(float, na_value=math.nan), column.index)
    return pd.Series([number(value) for value in column.astype(object)], column.index, dtype=float)


def decimal_comma(columns: Mapping[str, pd.Series]) -> bool:
    """Return whether a text cell proves that a table has decimal commas."""
    return any(part.sign == "," for name, column in columns.items() for _, _, part in _texts(name, column))


def read_numbers(
    columns: Mapping[str, pd.Series],
    *,
    decimal: Sign | None = None,
    fractions: bool = False,
    where: str = "the table",
) -> Cells:
    """Return columns in which text that is a number is one.

    Args:
        columns: By our names.
        decimal: The decimal sign; None: what the cells themselves decide.
        fractions: Whether columns that were read as numbers came from text with decimal points.
        where: Name of the table in messages.

    Raises:
        DataError: A cell can be read in two ways, or a column is written in two ways.
    """
    texts = {name: list(_texts(name, column)) for name, column in columns.items()}
    texts = {name: found for name, found in texts.items() if found}
    own = {name: _sign(name, found, where) for name, found in texts.items()} if decimal is None else {}
    proven = {sign for sign in own.values() if sign}
    if fractions and any(_has_fractions(columns[name]) for name in columns if name not in texts):
        proven.add(".")
    overall = next(iter(proven)) if len(proven) == 1 else None
    result, conversions = dict(columns), []
    for name, found in texts.items():
        sign = decimal or own[name] or _decide(name, found, overall, where)
        cells = list(columns[name].astype(object))
        kinds: dict[str, list[tuple[str, float]]] = {}
        for at, text, part in found:
            value = part.value(sign)
            if value is None:
                continue
            cells[at] = value
            how = " and ".join(filter(None, (part.how, _marks(part, sign))))
            if how:
                kinds.setdefault(how, []).append((text, value))
        _mark_without_unit(name, cells, found)
        column = pd.Series(cells, columns[name].index, dtype=object)
        plain = numbers(column)
        result[name] = plain if np.isfinite(plain).sum() == column.notna().sum() else column
        conversions += [CellConversion(name, how, len(c), c[0][0][:40], c[0][1]) for how, c in kinds.items()]
    signs = {decimal} if decimal else {s for s in own.values() if s}
    return Cells(result, next(iter(signs)) if len(signs) == 1 else None, tuple(conversions))


def _mark_without_unit(name: str, cells: list[Any], found: list[tuple[int, str, _Text]]) -> None:
    """Make cells text that are too small for a count and stand among cells with a unit: 2 below 1.5B.

    The row is refused with it (evidence.py), or left out for another reason.
    """
    example = {at: text for at, text, part in found if part.scale > 1}
    if name not in (*COUNTS, *FLOPS) or name.startswith("n_steps") or not example:
        return
    first = next(iter(example.values())).strip()[:12]
    for at, cell in enumerate(cells):
        if at not in example and 0 < number(cell) < LEAST_PLAIN:
            cells[at] = f"{number(cell):.6g} without a unit, beside {first}"


def _marks(part: _Text, sign: Sign) -> str:
    other = "," if sign == "." else "."
    found = ["decimal comma"] if sign == "," and "," in part.core else []
    if other in part.core:
        found.append(f"{'commas' if other == ',' else 'points'} between thousands")
    return " and ".join(found)


def _texts(name: str, column: pd.Series) -> Iterator[tuple[int, str, _Text]]:
    """Position, text and parts of each text cell of a column that is a number in some way."""
    if pd.api.types.is_numeric_dtype(column):
        return
    for at, value in enumerate(column.astype(object)):
        if isinstance(value, str) and (part := _parse(value, name)) is not None:
            yield at, value, part


def _parse(text: str, name: str) -> _Text | None:
    """Return the parts of a number in text, for the units of a column; None where it is none."""
    if len(text) > 60:
        return None
    grouped = _GROUPS.sub(lambda hit: re.sub(rf"[{_SPACES}]", "", hit[0]), text.strip())
    rule = _COUNT if name in COUNTS else _FLOP if name in FLOPS else _PLAIN
    hit = rule.fullmatch(grouped)
    if hit is None:
        return None
    unit = (hit["unit"] or "").lower()
    scale = (_OF_FLOPS if name in FLOPS else _SUFFIX).get(unit, 1.0)
    how = ["spaces between thousands"] if grouped != text.strip() else []
    rest = grouped[hit.end("power") if hit["power"] else hit.end("core") :].strip()
    how += [f"the unit {rest}"] if rest else []
    return _Text(hit["core"], hit["power"] or "", scale, " and ".join(how))


def _sign(name: str, found: list[tuple[int, str, _Text]], where: str) -> Sign | None:
    """Return the decimal sign that cells of a column prove; None where none does."""
    first: dict[str, tuple[str, str]] = {}
    for at, text, part in found:
        if part.sign in (".", ","):
            first.setdefault(part.sign, (str(at), text))
    if len(first) > 1:
        texts = " and ".join(repr(text[:40]) for _, text in first.values())
        raise DataError(
            f"{name} is written with decimal points and with decimal commas: {texts}",
            where=f"{where}, the column {name}",
            fix="write all cells of the column in one way",
        )
    return next(iter(first), None)


def _decide(name: str, found: list[tuple[int, str, _Text]], overall: Sign | None, where: str) -> Sign:
    """Return the decimal sign of a column that does not prove one itself, where another does."""
    doubtful = [(text, part) for _, text, part in found if part.sign.startswith("?")]
    if not doubtful:
        return "."
    text, part = doubtful[0]
    if part.sign == "?." and overall != ",":
        return "."
    if overall == "." or (overall == "," and part.sign == "?," and name not in (*COUNTS, *FLOPS)):
        return overall
    one, other = part.value("."), part.value(",")
    raise DataError(
        f"{text[:40]!r} of {name} can be read as {one:.10g} and as {other:.10g}",
        where=f"{where}, the column {name}, {len(doubtful)} cell{'s' if len(doubtful) > 1 else ''}",
        fix="say which sign is the decimal one: --decimal point or --decimal comma",
    )


def _has_fractions(column: pd.Series) -> bool:
    if not pd.api.types.is_float_dtype(column):
        return False
    values = column.to_numpy(float, na_value=math.nan)
    values = values[np.isfinite(values) & (np.abs(values) < 1e15)]
    return bool(np.any(values % 1))
