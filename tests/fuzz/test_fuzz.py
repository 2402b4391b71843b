"""Mutated files of every kind are read right or refused: no traceback, no hang, no silent wrong answer.

The inputs and the check are in tests/fuzzing; analysis/fuzz.py runs many more of them.
"""

import pytest
from fuzzing.campaign import groups
from fuzzing.check import check

GROUPS = {group.name: group for group in groups(seed=0, scale=0.15)}


@pytest.mark.parametrize("name", GROUPS)
def test_every_input_is_read_right_or_refused(name, tmp_path):
    group = GROUPS[name]
    outcomes = [check(case, group.reader, tmp_path / "input") for case in group.cases()]

    faults = [str(outcome)[:1000] for outcome in outcomes if outcome.kind == "fault"]
    assert not faults, f"{len(faults)} of {len(outcomes)}\n" + "\n".join(faults)
    assert outcomes
