"""Branches of trunks as evidence: never mixed with separate runs or other cooldowns, drawn with their trunk."""

import numpy as np
import pandas as pd
import pytest

from scalelab.errors import DataError
from scalelab.laws.uncertainty.resampling_units import resampling_units
from scalelab.records.evidence import evidence
from scalelab.study.from_table import observations
from scalelab.study.quality.recipes import best_recipes

SQRT, LINEAR = "wsd, cooldown 0.3, sqrt", "wsd, cooldown 0.9, linear"


def table(**columns):
    """Six trunks, one a size, of four branches each."""
    N, k = np.repeat(10.0 ** np.arange(4, 10), 4), np.tile(np.arange(1, 5), 6)
    trunk = [f"trunk{size}" for size in range(6) for _ in range(4)]
    rows = {
        "run": [f"r{i}" for i in range(24)],
        "status": "finished",
        "n_params_total": N,
        "n_tokens": 20 * N * k,
        "loss": 2 + 50 / N**0.3 + 60 / (20 * N * k) ** 0.3,
        "trunk": trunk,
        "group": trunk,
        "schedule": SQRT,
        "validates": None,
    }
    return pd.DataFrame(rows | columns)


def some(count, value, otherwise):
    return [value] * count + [otherwise] * (24 - count)


@pytest.mark.parametrize(
    ("columns", "problem"),
    [
        (
            {"trunk": some(5, None, "a")},
            "19 of 24 runs are branches of trunks, the others were trained separately",
        ),
        ({"trunk": some(5, "", "a")}, "19 of 24 runs are branches"),
        ({"schedule": some(7, LINEAR, SQRT)}, "the runs have 2 different schedules"),
        ({"schedule": some(7, "cosine", SQRT), "trunk": None}, "the runs have 2 different schedules"),
    ],
)
def test_a_mix_is_refused_with_the_numbers(columns, problem):
    with pytest.raises(DataError, match=problem) as refused:
        evidence(table(**columns))

    assert "separately" in refused.value.fix
    if "schedules" in problem:
        assert f"{SQRT}: 17 runs" in refused.value.where


def test_one_kind_is_no_mix():
    assert len(evidence(table()).table) == 24
    assert len(evidence(table(trunk=None, group=[f"r{i}" for i in range(24)])).table) == 24
    assert len(evidence(table(schedule=None)).table) == 24  # of an older version


def test_a_schedule_beside_no_trunks_is_a_setting_of_the_recipe(tables):
    """Of an external table: the best schedule of each size and tokens is fitted, and no mix is refused."""
    rows = "".join(
        f"{n}e6,{20 * n}e6,{loss},{word}\n" for n in (1, 2, 4) for loss, word in ((3, "wsd"), (4, "cosine"))
    )
    seen = tables.read(f"n_params,n_tokens,loss,schedule\n{rows}")

    assert len(seen.table) == 6
    (found,) = best_recipes(observations(seen.table, "6ND", ["chinchilla"]))
    assert found.reason.startswith("another schedule was better at the same size and tokens")
    assert len(found.runs) == 3


def test_separate_runs_that_validate_are_left_out_with_their_reason():
    """They have no trunk, and are no mix."""
    seen = evidence(table(validates=some(3, "abc", None), trunk=some(3, None, "a")))

    assert len(seen.table) == 21
    assert [each["run"] for each in seen.excluded] == ["r0", "r1", "r2"]
    assert seen.excluded[0]["reason"] == "a separate run that validates the branch abc"


def test_branches_of_a_trunk_are_drawn_together():
    runs = observations(evidence(table()).table, "6ND", ["chinchilla"])
    units = resampling_units(runs)

    counts = units.counts(0)(0, 200)
    by_trunk = counts.reshape(200, 6, 4)
    assert units.name == "group"
    assert (by_trunk == by_trunk[:, :, :1]).all()
    assert by_trunk[:, :, 0].std() > 0.5
