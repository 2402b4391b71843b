"""What `scalelab eval` measures, one piece of work after the other, each kept as it is done.

    runs/<name>/evals/<id>.json              rows of one piece, sealed: numbers and words
    runs/<name>/evals/<id>.verdicts.jsonl    what a judge said, as it is said

The id hashes what decides the rows: the settings, the model's weights, the seed. So a piece is done
once, a killed evaluation goes on behind the last one that was kept, and a model that changed is
measured anew; so is one whose file is damaged.

Not here: the measurements (evals/measurements/), the page (eval_command.py).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scalelab.evals.aggregate import ScoreTable, mean_above_chance, mean_win_rate
from scalelab.evals.measurements.base import Bench, Kind, Measured, Piece
from scalelab.sealed import Damaged, Format, typed

AGGREGATE = Kind("aggregate", "Over everything")


@dataclass(frozen=True)
class Kept:
    """The rows of one piece of work on the disk."""

    id: str
    measured: list[Measured]


KEPT = Format("measurement", Kept, schema=1)


def everything(bench: Bench) -> list[Measured]:
    """All rows in the order of the report: model after model, then those of all models together.

    Raises:
        ScalelabError: A model or file cannot be read, or cannot be measured in this way.
    """
    sections = list(bench.file.sections.values())
    asked = [(section, name) for name in bench.models for section in sections
             if section.of_each_model]  # fmt: skip
    asked += [(section, None) for section in sections if not section.of_each_model]
    found = [
        row
        for section, name in asked
        for piece in section.pieces(bench, name)
        for row in kept(bench, piece)
    ]
    return [*found, *aggregates(found, [kind for section in sections for kind in section.kinds])]


def kept(bench: Bench, piece: Piece) -> list[Measured]:
    """The rows of a piece of work that are on the disk, or are made now and written there."""
    path = bench.folder / f"{piece.id}.json"
    rows, damage = read_kept(path)
    if rows is not None:
        return rows
    if damage is not None:
        bench.tell(f"{path.name} is measured again: {damage}")
    made = list(piece.make())
    KEPT.write(path, Kept(piece.id, made))
    for one in made:
        bench.tell(f"{one.kind} {one.name}" + (f" of {one.model}" if one.model else ""))
    return made


def read_kept(path: Path) -> tuple[list[Measured] | None, str | None]:
    """Measurements that a file keeps, or None; and what is wrong with a file that is there."""
    try:
        text = path.read_text(encoding="utf-8")
        kept = KEPT.parse(text)
        if kept.id != path.stem:
            return None, f"it holds measurement {kept.id}"
        return kept.measured, None
    except FileNotFoundError:
        return None, None
    except OSError as error:
        return None, f"it cannot be read: {error.strerror}"
    except UnicodeDecodeError:
        return None, "it is not UTF-8 text"
    except Damaged as damage:
        old = _unsealed(text)
        return old, None if old is not None else str(damage)


def _unsealed(text: str) -> list[Measured] | None:
    """Measurements of a file from before the seals, which is a bare list; None: it is none."""
    try:
        rows = json.loads(text)
        return [typed(Measured, row) for row in rows] if isinstance(rows, list) and rows else None
    except (ValueError, TypeError, Damaged, RecursionError):
        return None


def aggregates(found: Sequence[Measured], kinds: Sequence[Kind]) -> list[Measured]:
    """Means over all rows with a score, each with what it depends on."""
    scored = {kind.name: kind for kind in kinds if kind.score is not None}
    scores: dict[str, dict[str, float]] = {}
    lower, chance = set(), {}
    for one in found:
        if one.kind not in scored:
            continue
        kind = scored[one.kind]
        if kind.lower_is_better:
            lower.add(one.name)
        if kind.has_chance:
            chance[one.name] = one.chance or 0.0
        if kind.score in one.values:
            scores.setdefault(one.name, {})[one.model] = one.values[kind.score]
    models = list(dict.fromkeys(one.model for one in found if one.model is not None))
    made = []
    if len(models) > 1 and scores:
        won = mean_win_rate(_table(scores, models, lower))
        made.append(_aggregate("mean win rate", won))
    tasks = {name: row for name, row in scores.items() if name in chance}
    if tasks:
        above = mean_above_chance(_table(tasks, models, set()), {n: chance[n] for n in tasks})
        made.append(_aggregate("mean above chance", above))
    return made


def _table(scores: Mapping[str, Mapping[str, float]], models: Sequence[str], lower: set[str]):
    score = np.array([[row.get(m, np.nan) for row in scores.values()] for m in models], float)
    return ScoreTable(tuple(models), tuple(scores), score, frozenset(lower & set(scores)))


def _aggregate(name: str, found: Any) -> Measured:
    values = {
        model: None if np.isnan(value) else float(value)
        for model, value in zip(found.models, found.value, strict=True)
    }
    return Measured(AGGREGATE.name, name, None, values, found.summary())
