"""The text on which the losses of a source were measured, as far as it is recorded.

    evaluated_on(runs, root) -> EvaluationText

A sweep records the digests of its corpus and of the validation tokens in it, the tokenizer and the sweep file, which
has the number of validation tokens; a table has what its columns tokenizer, data_digest, validation_digest and data
say. What is not recorded is None. Recipes with other training text have other digests of the corpus and may have
the same of the validation tokens.

Not here: whether two sources may be compared (comparison/arms.py).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scalelab.config import parse_yaml
from scalelab.records.runs import Runs

COLUMNS = ("data_digest", "validation_digest", "tokenizer", "data")
"""Columns of a table that say on which text it was evaluated."""


@dataclass(frozen=True)
class EvaluationText:
    """What is known of the validation tokens of a source."""

    data_digest: str | None = None
    """Digest of the corpus in tokens, whose held-out part is evaluated."""
    validation_digest: str | None = None
    """Digest of the validation tokens themselves."""
    tokenizer: str | None = None
    data: str | None = None
    """Name of the text, where a table gives one."""
    tokens: int | None = None
    """Validation tokens of the final loss."""
    seq_len: int | None = None
    """Tokens that a model sees at once."""
    source: str | None = None
    """Source of the text and how much of it is held out, before it is cut into tokens."""


def evaluated_on(runs: Runs, root: Path) -> EvaluationText:
    """Return what is recorded of the validation tokens.

    Args:
        runs: The runs of one source.
        root: Directory of all runs.

    Raises:
        TrackError: The manifest of a sweep cannot be read.
    """
    table = runs.evidence.table
    known = {name: _only(table, name) for name in COLUMNS}
    if not runs.is_sweep:
        return EvaluationText(**known)
    from scalelab.records.sweep_manifest import SweepManifest

    manifest = SweepManifest.load(root, runs.name)
    recipe = _part(parse_yaml(manifest.config_yaml, f"the sweep file of {runs.name}").data, "recipe")
    data = _part(recipe, "data")
    text = {key: data[key] for key in ("source", "validation") if key in data}
    if data.get("held_out") is not None:
        text["source"] = data["held_out"]
    if manifest.validation_digest is not None:
        known["validation_digest"] = manifest.validation_digest
    return EvaluationText(
        **known,
        tokens=_number(_part(recipe, "evaluation").get("tokens")),
        seq_len=_number(recipe.get("seq_len")),
        source=str(text) if text else None,
    )


def _only(table: Any, name: str) -> str | None:
    """The one value of a column; None where it is not there, or blank."""
    if name not in table:
        return None
    values = table[name].dropna().astype(str).unique()
    return str(values[0]) if len(values) == 1 else None


def _part(value: Any, key: str) -> Mapping[str, Any]:
    found = value.get(key) if isinstance(value, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def _number(value: Any) -> int | None:
    try:
        return None if value is None else int(float(value))
    except (TypeError, ValueError):
        return None
