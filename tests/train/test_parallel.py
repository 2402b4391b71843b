"""The engine of many processes: the same step as one process, and two ways to validate."""

import socket
import sys
from pathlib import Path

import pytest
import torch
import torch.multiprocessing

from scalelab.hardware.device import find_device
from scalelab.train.engines.single import SingleEngine

sys.path.insert(0, str(Path(__file__).parent))  # so that other processes find the body too
from parallel_body import LAYOUTS, UNCUT_LAYOUTS, body

OTHER = {"activation": "relu2", "norm": "layer", "positions": "learned", "max_positions": 32}
MOE = {"kind": "moe", "d_ff": 16, "n_experts": 4, "top_k": 2, "n_shared": 1, "bias_step": 0.1}


@pytest.mark.parametrize(
    ("precision", "near", "model", "layouts"),
    [
        ("fp32", 1e-5, {}, LAYOUTS),
        ("bf16", 4e-3, {}, LAYOUTS),
        ("fp32", 1e-5, OTHER, LAYOUTS),
        ("fp32", 1e-5, MOE, UNCUT_LAYOUTS),
    ],
    ids=["fp32", "bf16", "other fields", "experts"],
)
def test_every_layout_makes_the_single_process_s_step(tiny_spec, precision, near, model, layouts):
    spec = tiny_spec(precision=precision, model=model)
    alone = SingleEngine(spec, find_device(), precision, 8)
    tokens = torch.randint(257, (3, 8, 33), generator=torch.Generator().manual_seed(0))
    expected = []
    for batch in tokens[:2]:
        loss = alone.gradient(batch)
        norm = alone.norm()
        expected.append((float(loss), float(norm)))
        alone.update(1.0, norm)
    judged = alone.validate(tokens[2].numpy())
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    with torch.multiprocessing.Manager() as manager:
        answers = manager.list()
        torch.multiprocessing.start_processes(
            body, (port, spec.to_yaml(), precision, answers, layouts), nprocs=4, start_method="forkserver"
        )
        answers = list(answers)

    assert [a[0] for a in answers] == list(layouts)
    for _, losses, gathered, in_place, n_timed in answers:
        assert [a for a, _ in losses] == pytest.approx([a for a, _ in expected], rel=near)
        assert [b for _, b in losses] == pytest.approx([b for _, b in expected], rel=5 * near)
        assert gathered[0] == pytest.approx(judged[0], rel=near)
        assert in_place[0] == pytest.approx(gathered[0], rel=near)
        if precision == "fp32":  # in bf16 the windows' losses differ by less than rounding
            assert in_place[1] == pytest.approx(judged[1], rel=1e-5)
        assert n_timed == 4
