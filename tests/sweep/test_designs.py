"""Every registered design keeps its promises."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from scalelab.launch.sweepfile import SweepFile
from scalelab.sweep import DESIGNS
from scalelab.testing.designs import check_design

SWEEPS = Path(__file__).parents[2] / "sweeps"
MAKE = {"isoflop": {"budgets": [3e11, 1e12], "sizes_per_budget": 5, "replicates": 1}}


def test_every_design_can_be_made_here():
    assert set(MAKE) == set(DESIGNS)


@pytest.mark.parametrize("kind", [*DESIGNS])
def test_it_conforms(kind):
    design = DESIGNS[kind].model_validate({"kind": kind, **MAKE[kind]})
    recipe = SweepFile.load(SWEEPS / "isoflop.yaml").recipe
    check_design(design, recipe, lambda spec: SimpleNamespace(loss=1.0 / spec.n_tokens))
