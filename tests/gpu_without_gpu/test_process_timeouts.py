"""How long the processes of a launched run wait for one another: two on a CPU, one of them slow."""

import sys
from pathlib import Path

import pytest
import torch.multiprocessing

from scalelab.train.checkpoints.shard_files import INDEX_FILE, Chunk, StoredTensor, TensorIndex, files_by_rank
from scalelab.train.run_directory import RunDir

sys.path.insert(0, str(Path(__file__).parent))  # so that other processes find the body too
from timeout_body import TIMEOUTS, body
from two_processes import free_port, run_both

CASES = ("stopped", "hashing", "compilation", "hung")
"""In this order, in the same two processes: to start them takes longer than all of these runs."""


@pytest.fixture(scope="module")
def answers():
    """What both processes came to by case and rank, and the run directories."""
    return {}


@pytest.fixture
def both(answers, tmp_path_factory, tiny_spec):
    """A function that returns the run directory of a case and what both processes came to, by rank."""
    if not answers:
        spec, folder = tiny_spec(n_steps=20), tmp_path_factory.mktemp("cases")
        dirs = {case: RunDir(folder / case / spec.id) for case in CASES}
        dirs["hashing"] = dirs["stopped"]
        for run_dir in dirs.values():
            run_dir.create(spec)
        ports = {case: free_port() for case in CASES}
        paths = {case: str(run_dir.path) for case, run_dir in dirs.items()}
        with torch.multiprocessing.Manager() as manager:
            reports = manager.list()
            run_both(body, ports, paths, reports)
            found = {(case, rank): answer for case, rank, *answer in reports}
        answers.update({case: (dirs[case], found.get((case, 0)), found.get((case, 1))) for case in CASES})
    return answers.__getitem__


def test_a_run_resumes_though_hashing_takes_longer_than_a_step_may(both):
    run_dir, first, second = both("hashing")

    assert [event["step"] for event in run_dir.events() if event["event"] == "resume"] == [10]
    assert first[0] == second[0] == run_dir.result().loss


def test_a_first_step_and_a_first_evaluation_may_take_longer_than_a_step(both):
    run_dir, first, second = both("compilation")

    assert first[0] == second[0] == run_dir.result().loss
    allowed = first[1]
    assert allowed.count(TIMEOUTS.first_step_s) == 4  # the first step, two evaluations, and the last
    assert 0.0 in allowed


def test_a_process_that_hangs_in_a_later_step_is_given_up_after_the_timeout_of_a_step(both):
    run_dir, (problem, (seconds,)), _ = both("hung")

    assert "timed out" in problem.lower() or "timeout" in problem.lower()
    assert seconds >= TIMEOUTS.step_s
    assert not run_dir.is_done


def index(**sizes):
    """An index of one tensor, with a chunk of so many bytes in each file."""
    chunks = tuple(Chunk((0,), (1,), name, 0, size) for name, size in sizes.items())
    return TensorIndex({"w": StoredTensor("float32", (1,), chunks)})


@pytest.mark.parametrize("n", [1, 2, 3, 4, 8])
def test_every_file_is_verified_once_and_by_the_process_that_wrote_it_where_there_is_one(n):
    sizes = {f"__{i}_0.distcp": 100 + i for i in range(4)}
    parts = files_by_rank(index(**sizes), {*sizes, INDEX_FILE}, n)

    assert sorted(name for part in parts for name in part) == sorted(sizes)
    assert all(f"__{rank}_0.distcp" in parts[rank] for rank in range(min(n, 4)))
    assert max(map(len, parts)) == -(-4 // min(n, 4))


def test_files_of_processes_that_are_gone_are_shared_by_their_size():
    sizes = {f"__{i}_0.distcp": size for i, size in enumerate([1, 1, 900, 300, 300, 300])}
    parts = files_by_rank(index(**sizes), sizes, 2)

    assert sorted(sum(sizes[name] for name in part) for part in parts) == [901, 901]
