"""A run that several sweeps ask for is trained in one directory, and never twice."""

import shutil
import threading
from pathlib import Path

import pytest

from scalelab.errors import RunError
from scalelab.launch import shared_runs
from scalelab.launch.sweep_plan import place
from scalelab.sweep.base import Proposal
from scalelab.train.run_directory import RunDir

OLD = Path(__file__).parents[1] / "fixtures" / "unsealed" / "sweeps"


@pytest.fixture
def old(tmp_path):
    """A directory of runs from before, and the spec of one that is done there."""
    shutil.copytree(OLD, tmp_path / "runs")
    run_dir = RunDir(tmp_path / "runs" / "smoke" / "6930f60c79db")
    return tmp_path / "runs", run_dir.spec()


def test_a_run_from_before_is_found_and_not_trained_again(old):
    root, spec = old
    for sweep in ("smoke", "another"):
        (work,) = place((Proposal(spec, 1e9, 1e4, 1e4),), root, sweep, shared_runs.settle)

        assert work.state == "done"
        assert work.run_dir.path == root / "smoke" / "6930f60c79db"
    assert RunDir.of(spec, root, "smoke").result().loss > 0


def test_a_run_from_before_that_has_begun_goes_on_under_its_old_id(old):
    root, spec = old
    (root / "smoke" / "6930f60c79db" / "result.json").unlink()
    (work,) = place((Proposal(spec, 1e9, 1e4, 1e4),), root, "smoke", shared_runs.settle)

    assert work.state == "resumes"
    assert work.run_dir.run == "6930f60c79db"
    work.run_dir.create(spec)


def test_the_first_who_asks_decides_where_a_run_is_trained(tmp_path, tiny_spec):
    spec = tiny_spec()
    for sweep in ("a", "b"):
        (tmp_path / sweep).mkdir()

    assert shared_runs.find(spec, tmp_path, "b").path.parent.name == "b"  # only looked
    assert shared_runs.settle(spec, tmp_path, "a").path == tmp_path / "a" / spec.id
    assert shared_runs.settle(spec, tmp_path, "b").path == tmp_path / "a" / spec.id
    assert shared_runs.find(spec, tmp_path, "b").path == tmp_path / "a" / spec.id


def test_of_many_who_ask_at_once_all_get_the_same_answer(tmp_path, tiny_spec):
    names = "abcdefgh"
    for sweep in names:
        (tmp_path / sweep).mkdir()
    for seed in range(10):
        spec, at_once, answers = tiny_spec(seed=seed), threading.Barrier(len(names)), []

        def ask(sweep, spec=spec, at_once=at_once, answers=answers):
            at_once.wait()
            answers.append(shared_runs.settle(spec, tmp_path, sweep).path)

        threads = [threading.Thread(target=ask, args=(sweep,)) for sweep in names]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert len(answers) == len(names)
        assert len(set(answers)) == 1


def test_a_home_that_was_deleted_is_followed_by_another(tmp_path, tiny_spec):
    spec = tiny_spec()
    for sweep in ("a", "b", "c"):
        (tmp_path / sweep).mkdir()
    shared_runs.settle(spec, tmp_path, "a")
    (tmp_path / "a").rmdir()

    assert shared_runs.settle(spec, tmp_path, "b").path == tmp_path / "b" / spec.id
    assert shared_runs.settle(spec, tmp_path, "c").path == tmp_path / "b" / spec.id


def test_a_home_that_leads_out_is_refused(tmp_path, tiny_spec):
    spec = tiny_spec()
    (tmp_path / "a").mkdir()
    shared_runs.settle(spec, tmp_path, "a")
    (path,) = (tmp_path / ".homes").iterdir()
    path.write_text(shared_runs.HOME.text(shared_runs.RunLocation(spec.id, "../..")))

    with pytest.raises(RunError, match=r"in the sweep '\.\./\.\.'"):
        shared_runs.settle(spec, tmp_path, "b")
