"""The engine over two processes, compiled and not: the step of one process, and what it costs.

One start of two processes serves all tests, since it takes longer than most of what they do.
"""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.multiprocessing

from scalelab.hardware.device import find_device
from scalelab.train.engines.single import SingleEngine

sys.path.insert(0, str(Path(__file__).parent))  # so that other processes find the body too
from engine_body import COUNTED, OWN_SECONDS, SHORT
from layouts_body import CASES, CHUNK, STEPS, TIMEOUT_S, body
from two_processes import PROCESSES, free_port, run_both

NORM, LOSS = 1e-4, 1e-5
"""Relative rounding of another order of sums."""


@pytest.fixture(scope="module")
def found():
    """Space for what one start of the processes gave."""
    return {}


@pytest.fixture
def answers(found, tiny_spec):
    """What both processes answered by name and rank."""
    if not found:
        with torch.multiprocessing.Manager() as manager:
            given = manager.dict()
            run_both(body, free_port(), tiny_spec().to_yaml(), given)
            found.update(given)
    return found


@pytest.fixture
def alone(tiny_spec):
    """Starting weights, losses and norms of the steps, and validation loss of one process."""
    engine = SingleEngine(tiny_spec(), find_device(), "fp32", 8)
    began = {name: weight.clone().numpy() for name, weight in engine.weights().items()}
    tokens = torch.randint(257, (3, 8, 33), generator=torch.Generator().manual_seed(0))
    steps = []
    for batch in tokens[:STEPS]:
        loss = engine.gradient(batch)
        norm = engine.norm()
        steps.append((float(loss), float(norm)))
        engine.update(1.0, norm)
    return began, steps, engine.validate(tokens[2].numpy())[0]


def check_steps(losses, expected):
    assert [a for a, _ in losses] == pytest.approx([a for a, _ in expected], rel=LOSS)
    assert [b for _, b in losses] == pytest.approx([b for _, b in expected], rel=NORM)


@pytest.mark.parametrize("case", range(len(CASES)))
def test_every_layout_computes_the_same_compiled(answers, alone, case):
    _, expected, judged = alone
    losses, validated, graphs, _, is_sharded_again, loss_rows = answers["layout", case, 0]

    check_steps(losses, expected)
    assert validated == pytest.approx(judged, rel=LOSS)
    assert graphs > 0
    assert loss_rows == (CHUNK if CASES[case][2] == "chunked" else None)
    assert is_sharded_again  # a checkpoint after a validation has the shards, in fp32


@pytest.mark.parametrize("case", range(len(CASES)))
def test_every_layout_starts_from_the_weights_of_one_process_which_the_first_alone_holds(
    answers, alone, case
):
    began = answers["layout", case, 0][3]

    assert set(began) == set(alone[0])
    assert all(np.array_equal(began[name], weight) for name, weight in alone[0].items())
    assert answers["layout", case, 1][3] == {}


@pytest.mark.parametrize("case", COUNTED)
def test_gradients_that_are_held_are_the_same(answers, alone, case):
    losses, *_ = answers["counted", *case, 0]

    check_steps(losses, alone[1])


@pytest.mark.parametrize("axis", ["shard", "replicate"])
def test_collective_operations_of_a_step_do_not_depend_on_the_number_of_micro_batches(answers, axis):
    (_, first_1, later_1, _), (_, first_4, later_4, _) = (
        answers["counted", True, axis, n, 0] for n in (1, 4)
    )

    assert first_1 == first_4
    assert later_1 == later_4
    assert sum(later_1.values()) > 1


def test_gradients_that_are_not_held_are_summed_in_every_micro_batch(answers):
    (_, _, once, _), (_, _, often, _) = (answers["counted", False, "shard", n, 0] for n in (1, 4))
    sums = "c10d::_reduce_scatter_base_"

    assert often[sums] == 4 * once[sums] > 0


@pytest.mark.parametrize("case", COUNTED)
def test_no_number_is_read_in_a_step_but_those_agreed_on(answers, case):
    assert answers["counted", *case, 0][3] == 0


@pytest.mark.parametrize("case", SHORT)
def test_memory_that_one_process_lacks_halves_the_micro_batch_of_all(answers, alone, case):
    for rank in range(PROCESSES):
        losses, micro_rows, freed, halved = answers["short", *case, rank]
        check_steps(losses, alone[1])
        assert micro_rows == 2
        assert freed == [[True]] if rank == 1 else [[]]  # what the failed pass held is gone
        assert halved == ([2 * 32] if rank == 0 else [])


def test_a_window_that_does_not_fit_one_process_is_refused_in_all(answers):
    (problem, other), (same, own) = (answers["no room", rank] for rank in range(PROCESSES))

    assert problem == same == "one window of 32 tokens does not fit in the device's memory"
    assert own.endswith("no room")
    assert other.endswith("another process ran out of memory")


def test_memory_that_one_process_lacks_in_the_update_ends_the_try_of_all(answers):
    (of_memory, waited_s), (own, _) = (answers["update", rank] for rank in range(PROCESSES))

    assert own
    assert not of_memory
    assert waited_s < TIMEOUT_S / 2


def test_a_starting_process_holds_its_shards_and_one_weight_at_a_time(answers):
    for rank in range(PROCESSES):
        most, shards, largest, whole = answers["bytes", rank]
        assert shards == pytest.approx(whole / 2, rel=0.01)
        assert shards < most < shards + 3 * largest < 0.8 * whole


def test_all_processes_know_the_seconds_and_the_flags_of_each(answers):
    for rank in range(PROCESSES):
        agreed = answers["slow", rank]
        assert agreed.own_seconds == list(OWN_SECONDS)
        assert agreed.flags == (True, False)
