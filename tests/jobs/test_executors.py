"""Every registered executor keeps its promises."""

import pytest

from scalelab.jobs import EXECUTORS
from scalelab.testing.executors import check_executor

CLUSTERS = {
    "slurm": {
        "gpus": 0,
        "cpus": 2,
        "slots": 2,
        "workers": 1,
        "minutes": 10,
        "poll_s": 0.3,
        "processes_per_node": 1,
    }
}
"""Executors that need a fixture of their name, with their settings."""


@pytest.mark.parametrize("name", sorted({*EXECUTORS} - {"ray"}))  # test_ray.py
def test_it_conforms(name, tmp_path, request):
    if name in CLUSTERS:
        request.getfixturevalue(f"{name}_cluster")
    check_executor(name, tmp_path, CLUSTERS.get(name))
