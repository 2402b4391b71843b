"""Which work a sweep, a final run or a post-training came from and led to, with links in MLflow.

    final run       planned from a sweep (its manifest says which)
    post-training   trained from a run of a sweep (the path of its base model)

Only what the manifests on the disk say counts; a damaged manifest is left out.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from scalelab.errors import ScalelabError
from scalelab.records.stage_manifest import StageManifest, list_posttrainings
from scalelab.records.sweep_manifest import SweepManifest, list_sweeps
from scalelab.tracking.chart_views import experiment_link

if TYPE_CHECKING:
    from scalelab.tracking.mlflow_store import Store

Direction = Literal["from", "to"]
NOUNS: dict[str, str] = {"sweep": "sweep", "final": "final run", "posttrain": "post-training"}


@dataclass(frozen=True)
class Relation:
    """One piece of related work."""

    direction: Direction
    """"from": this came from it; "to": it came from this."""
    kind: str
    """A key of NOUNS."""
    name: str
    """Its name, which is that of its experiment."""


def related(root: Path, name: str, source: str | None) -> list[Relation]:
    """Return the work related to a sweep or a final run.

    Args:
        root: Directory of all runs.
        name: Its name.
        source: Name of the sweep that it was planned from; None for a sweep.
    """
    found = [] if source is None else [Relation("from", "sweep", source)]
    for other in list_sweeps(root):
        try:
            is_ours = other != name and SweepManifest.load(root, other).source == name
        except ScalelabError:
            continue
        if is_ours:
            found.append(Relation("to", "final", other))
    for other in list_posttrainings(root):
        try:
            base = base_of(StageManifest.load(root, other))
        except ScalelabError:
            continue
        if base == name:
            found.append(Relation("to", "posttrain", other))
    return found


def base_of(manifest: StageManifest) -> str | None:
    """Return the name of the sweep whose run a post-training begins from; None if it is no run."""
    path, run = manifest.base.get("path"), manifest.base.get("run")
    return Path(path).parent.name if isinstance(path, str) and isinstance(run, str) else None


def relation_tags(relations: Iterable[Relation]) -> dict[str, str]:
    """Return the relations as tags such as scalelab.from_sweep; several names are joined by commas."""
    names: dict[str, list[str]] = {}
    for each in relations:
        names.setdefault(f"scalelab.{each.direction}_{each.kind}", []).append(each.name)
    return {tag: ", ".join(found) for tag, found in names.items()}


def link_lines(store: "Store", relations: Sequence[Relation]) -> list[str]:
    """Return a line of Markdown for each relation, with a link where MLflow has it."""
    lines = []
    for each in relations:
        number = store.find_experiment(each.name)
        shown = each.name if number is None else f"[{each.name}]({experiment_link(number)})"
        verb = "From the" if each.direction == "from" else "Led to the"
        lines.append(f"{verb} {NOUNS[each.kind]} {shown}.")
    return lines
