"""The engine of many processes: the same step as one process, and two ways to validate.

One start of four processes serves all cases, since it takes longer than most of what they do.
"""

import socket
import sys
from pathlib import Path

import pytest
import torch
import torch.multiprocessing

from scalelab.hardware.device import find_device
from scalelab.jobs.executors.forkserver import fork_server
from scalelab.train.engines.single import SingleEngine

sys.path.insert(0, str(Path(__file__).parent))  # so that other processes find the body too
from parallel_body import LAYOUTS, UNCUT_LAYOUTS, body

OTHER = {"activation": "relu2", "norm": "layer", "positions": "learned", "max_positions": 32}
MOE = {"kind": "moe", "d_ff": 16, "n_experts": 4, "top_k": 2, "n_shared": 1, "bias_step": 0.1}
CASES = {
    "fp32": ("fp32", 1e-5, {}, LAYOUTS),
    "bf16": ("bf16", 4e-3, {}, LAYOUTS),
    "other fields": ("fp32", 1e-5, OTHER, LAYOUTS),
    "experts": ("fp32", 1e-5, MOE, UNCUT_LAYOUTS),
}
"""Precision, relative rounding of another order of sums, fields of the model, layouts."""
IMPORTED = ("scalelab.train.engines.parallel", "torch.distributed.fsdp")
"""By the server that the processes are forked from, where no earlier test has started one."""


@pytest.fixture(scope="module")
def found():
    """Space for what one start of the processes gave."""
    return {}


@pytest.fixture
def answers(found, tiny_spec):
    """What the first of the processes answered, by case: one answer for each layout."""
    if not found:
        cases = {
            name: (tiny_spec(precision=precision, model=model).to_yaml(), precision, layouts)
            for name, (precision, _, model, layouts) in CASES.items()
        }
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
        fork_server(IMPORTED)
        with torch.multiprocessing.Manager() as manager:
            given = manager.list()
            torch.multiprocessing.start_processes(
                body, (port, cases, given), nprocs=4, start_method="forkserver"
            )
            for name, *answer in given:
                found.setdefault(name, []).append(answer)
    return found


@pytest.mark.parametrize("name", CASES)
def test_every_layout_makes_the_single_process_s_step(answers, tiny_spec, name):
    precision, near, model, layouts = CASES[name]
    alone = SingleEngine(tiny_spec(precision=precision, model=model), find_device(), precision, 8)
    tokens = torch.randint(257, (3, 8, 33), generator=torch.Generator().manual_seed(0))
    expected = []
    for batch in tokens[:2]:
        loss = alone.gradient(batch)
        norm = alone.norm()
        expected.append((float(loss), float(norm)))
        alone.update(1.0, norm)
    judged = alone.validate(tokens[2].numpy())

    assert [layout for layout, *_ in answers[name]] == list(layouts)
    for _, losses, gathered, in_place, n_timed in answers[name]:
        assert [a for a, _ in losses] == pytest.approx([a for a, _ in expected], rel=near)
        assert [b for _, b in losses] == pytest.approx([b for _, b in expected], rel=5 * near)
        assert gathered[0] == pytest.approx(judged[0], rel=near)
        assert in_place[0] == pytest.approx(gathered[0], rel=near)
        if precision == "fp32":  # in bf16 the windows' losses differ by less than rounding
            assert in_place[1] == pytest.approx(judged[1], rel=1e-5)
        assert n_timed == 4
