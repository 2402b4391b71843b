"""Conformance of curation stages: every document accounted for, the same result however the work is divided."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from scalelab.config import parse_yaml
from scalelab.data.curate import CURATION_STAGES
from scalelab.data.curate.base import Arrays, CurationContext, CurationStage, StageLedger, WebDocument
from scalelab.data.curate.store import read_arrays, write_arrays


def check_curation_stage(
    stage: CurationStage, items: Sequence[Any], folder: Path, *, holdouts: dict[str, list[Path]] | None = None
) -> None:
    """Check the contract of a curation stage.

    Args:
        stage: The stage; at least one item should be kept.
        items: Documents (pages for a stage that reads pages) with names of their own.
        folder: Empty directory for intermediate files.
        holdouts: Files of hold-outs, by name, for stages that need some.

    Raises:
        AssertionError: The stage violates it, in words.
    """
    kind = type(stage)
    assert kind.parse(parse_yaml(stage.to_yaml(), "stage.yaml")) == stage, "YAML does not give the stage back"
    assert CURATION_STAGES[stage.kind] is kind
    assert isinstance(stage.implementation(), str)
    whole, halves = [list(items)], [list(items[: len(items) // 2]), list(items[len(items) // 2 :])]
    decision = _decision(stage, whole, holdouts, folder / "whole")
    divided = _decision(stage, halves, holdouts, folder / "halves")
    assert decision.keys() == divided.keys(), "the decision depends on how the corpus is divided"
    for name, value in decision.items():
        assert np.allclose(value, divided[name], rtol=1e-4, atol=1e-5), f"{name} depends on the division"
    one, ledger = _applied(stage, whole, decision)
    again, _ = _applied(stage, whole, decision)
    assert one == again, "the second time gives another result"
    assert one == _applied(stage, halves, decision)[0], "a shard's result depends on other shards"
    assert one["kept"], "nothing is kept"
    given = {item.name for item in items}
    kept = [document.name.partition("#")[0] for document in one["kept"]]
    rejected = [document.name for document, _, _ in one["rejected"]]
    held_out = [document.name for _, document in one["held out"]]
    assert set(kept) | set(rejected) | set(held_out) == given, "a document is unaccounted for"
    assert not set(kept) & set(rejected), "a document is both kept and rejected"
    assert len(rejected) + len(held_out) == len({*rejected, *held_out}), "a document is rejected twice"
    assert len({document.name for document in one["kept"]}) == len(one["kept"]), "two documents have one name"
    order = [item.name for item in items]
    places = [order.index(name) for name in kept]
    assert places == sorted(places), "the order changed"
    assert all(document.text.strip() for document in one["kept"]), "an empty document is kept"
    assert all(reason and len(reason) < 80 for _, reason, _ in one["rejected"]), "a reason is no short name"
    assert bool(held_out) <= kind.cuts_holdouts, "a stage that cuts no hold-outs held documents out"
    assert ledger.n_changed >= len(ledger.changed)


def _decision(
    stage: CurationStage, shards: list[list[Any]], holdouts: dict[str, list[Path]] | None, folder: Path
) -> Arrays:
    """Return what a stage decides, through files as in a pipeline."""
    if not stage.observes:
        return {}
    context = CurationContext(holdouts or {})
    observations = []
    for i, shard in enumerate(shards):
        path = folder / f"{i}.npz"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_arrays(path, stage.observe(iter(shard), context))
        observations.append(read_arrays(path))
    write_arrays(folder / "decision.npz", stage.decide(observations, context))
    return read_arrays(folder / "decision.npz")


def _applied(
    stage: CurationStage, shards: list[list[Any]], decision: Arrays
) -> tuple[dict[str, list[Any]], StageLedger]:
    """Return documents kept, rejected and held out."""
    found: dict[str, list[Any]] = {"kept": [], "rejected": [], "held out": []}
    ledger = StageLedger(
        lambda document, reason, detail: found["rejected"].append((document, reason, detail)),
        lambda name, document: found["held out"].append((name, document)),
    )
    for shard in shards:
        kept: list[WebDocument] = list(stage.apply(iter(shard), decision, ledger))
        found["kept"] += kept
    return found, ledger
