"""Learning rates that were tried for the recipe of a sweep, read from all runs in a directory.

    tried_rates(root, sweep) -> cells, each a size and token count at which several rates were trained

Tunings and sweeps count whose recipe differs from that of the sweep in the learning rate alone, or in that and in
whether runs share trunks. Branches of trunks are left out: they are evaluated after another schedule.

Not here: what these rates say (comparison/tuned_rates.py).
"""

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scalelab.config import changed, parse_yaml
from scalelab.errors import ScalelabError
from scalelab.records.sweep_manifest import SweepManifest, list_sweeps

RATE = "optimizer.lr"
"""Field of a recipe that is the learning rate."""


@dataclass(frozen=True)
class RateCell:
    """One size and token count at which several rates were trained."""

    n_params: int
    """Parameters, in the count of the sweep that trained it."""
    n_tokens: int
    own: float
    """Rate of the sweep's own recipe there."""
    rates: tuple[float, ...]
    """Rates that were tried, rising."""
    losses: tuple[float, ...]
    """Mean loss at each over seeds, nats per token."""
    sources: tuple[str, ...]
    """Names of the sweeps and tunings that trained it."""


def tried_rates(root: Path, sweep: str) -> tuple[RateCell, ...]:
    """Return the cells at which at least two rates were tried for the recipe of a sweep.

    Args:
        root: Directory of all runs.
        sweep: Name of the sweep.

    Raises:
        TrackError: There is no such sweep.
    """
    from scalelab.train.recipe import Recipe

    recipe = _recipe(SweepManifest.load(root, sweep))
    try:
        own = Recipe.model_validate(recipe)
    except ValueError:
        return ()  # of an older version, or with a plug-in that is not here
    found: dict[tuple[str, int], dict[float, list[float]]] = {}
    about: dict[tuple[str, int], tuple[int, float, set[str]]] = {}
    for name in list_sweeps(root):
        try:
            manifest = SweepManifest.load(root, name)
        except ScalelabError:
            continue
        if set(manifest.tuned) - {RATE} or _same(_recipe(manifest)) != _same(recipe):
            continue
        for spec, result, planned in _separate_runs(root, manifest):
            at = spec.model_dump_json(include={"model", "data_digest", "batch_tokens"}), spec.n_tokens
            found.setdefault(at, {}).setdefault(spec.optimizer.rates()["lr"], []).append(result.loss)
            if at not in about:
                mine = own.spec(spec.model, planned.n_tokens_planned, data_digest=spec.data_digest, seed=0)
                about[at] = (planned.n_params, mine.optimizer.rates()["lr"], set())
            about[at][2].add(name)
    cells = []
    for at, by_rate in found.items():
        if len(by_rate) > 1:
            n_params, rate, names = about[at]
            rates = tuple(sorted(by_rate))
            losses = tuple(sum(by_rate[each]) / len(by_rate[each]) for each in rates)
            cells.append(RateCell(n_params, at[1], rate, rates, losses, tuple(sorted(names))))
    return tuple(sorted(cells, key=lambda cell: (cell.n_params, cell.n_tokens)))


def _separate_runs(root: Path, manifest: SweepManifest) -> Any:
    """Spec, result and plan of each finished run that is no branch."""
    from scalelab.train.run_directory import RunDir

    for planned in manifest.runs:
        if planned.trunk is not None:
            continue
        run_dir = RunDir(root / planned.dir)
        try:
            result = run_dir.result()
            spec = run_dir.spec() if result is not None and result.status == "finished" else None
        except ScalelabError:
            continue
        if spec is not None and "lr" in spec.optimizer.rates():
            yield spec, result, planned


def _recipe(manifest: SweepManifest) -> dict[str, Any]:
    """The recipe of a sweep, or of the sweep that a tuning extends; empty where there is none."""
    data: Any = parse_yaml(manifest.config_yaml, f"the sweep file of {manifest.sweep}").data
    for part in ("extends", "recipe") if "extends" in data else ("recipe",):
        data = data.get(part) if isinstance(data, Mapping) else None
    return dict(data) if isinstance(data, Mapping) else {}


def _same(recipe: Mapping[str, Any]) -> str:
    """What of a recipe has to be equal, as text: fields that came since it was written have their defaults."""
    from scalelab.train.recipe import Recipe

    with suppress(ValueError):  # of an older version, or with a plug-in that is not here: as it stands
        recipe = changed(Recipe.model_validate(recipe))
    plain = json.loads(json.dumps(recipe, default=str))
    for part, name in (("optimizer", "lr"), ("schedule", "trunk")):
        if isinstance(plain.get(part), dict):
            plain[part].pop(name, None)
    if isinstance(plain.get("evaluation"), dict):
        plain["evaluation"] = plain["evaluation"].get("tokens")
    return json.dumps(plain, sort_keys=True)
