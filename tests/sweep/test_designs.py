"""Every registered design keeps its promises."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from scalelab.sweep import DESIGNS
from scalelab.sweep.file import SweepFile
from scalelab.testing.designs import check_design

SWEEPS = Path(__file__).parents[2] / "sweeps"
MAKE = {
    "isoflop": {"budgets": [3e11, 1e12], "sizes_per_budget": 5, "replicates": 1},
    "ladder": {"sizes": [6e4, 2e5], "tokens_per_param": [10, 20], "seeds": 2},
    "mixture": {"sizes": [6e4], "n_tokens": 1e6, "mixtures_per_domain": 3, "small_proxies": True},
    "single": {"n_params": 3e5, "n_tokens": 1e6, "seed": 3},
}


def test_every_design_can_be_made_here():
    assert set(MAKE) == set(DESIGNS)


@pytest.mark.parametrize("kind", [*DESIGNS])
def test_it_conforms(kind):
    design = DESIGNS[kind].model_validate({"kind": kind, **MAKE[kind]})
    trunk = "false" if kind in ("single", "mixture") else "true"  # such runs share nothing
    changes = [f"recipe.schedule.trunk={trunk}"]
    if kind == "mixture":
        changes.append(
            "recipe.data.source={kind: mix, names: [a, b], parts: [pycode, {kind: text, paths: [x]}]}"
        )
    recipe = SweepFile.load(SWEEPS / "isoflop.yaml", changes).recipe
    check_design(design, recipe, lambda spec: SimpleNamespace(loss=1.0 / spec.n_tokens))
