"""Does a schedule keep its contract? For members of SCHEDULES, of any package.

    check_schedule("mine", {"warmup": 0.05})

Every check is an AssertionError that says what does not hold.

Not here: what a schedule is (train/schedule.py).
"""

import math
from collections.abc import Mapping
from typing import Any

from scalelab.config import parse_yaml
from scalelab.train import SCHEDULES

LENGTHS = (1, 2, 7, 100, 1013)
SHORT, LONG = 1000, 8000
NEAR = 0.04
"""Tolerance of two factors at one share of a short and a long run: steps are whole."""


def check_schedule(name: str, settings: Mapping[str, Any]) -> None:
    """Factors are in [0, 1] and follow the run's own length, and phases fit into it.

    Args:
        name: In SCHEDULES.
        settings: Without `kind`.
    """
    member = SCHEDULES[name]
    schedule = member.model_validate({"kind": name, **settings})
    assert schedule.kind == name == member.model_fields["kind"].default, "kind is not its name"
    assert member.parse(parse_yaml(schedule.to_yaml(), name)) == schedule, "lost in YAML"
    for n_steps in LENGTHS:
        factors = [schedule.factor(step, n_steps) for step in range(n_steps)]
        assert all(math.isfinite(f) and 0 <= f <= 1 for f in factors), f"not in [0, 1]: {factors}"
        assert factors == [schedule.factor(step, n_steps) for step in range(n_steps)]
        phases = schedule.phases(n_steps)
        assert all(isinstance(n, int) and 0 <= n <= n_steps for n in phases.values()), phases
        assert sum(phases.values()) <= n_steps + 1, f"phases of {n_steps} steps: {phases}"
    for share in (0.03, 0.3, 0.55, 0.85, 0.95):
        short = schedule.factor(int(share * SHORT), SHORT)
        long = schedule.factor(int(share * LONG), LONG)
        assert abs(short - long) <= NEAR, (
            f"at {share:.0%} of {SHORT} steps the factor is {short:.3f}, of {LONG} {long:.3f}: a "
            "schedule follows the run's length, or small runs are trained otherwise"
        )
