"""Answers are made once, kept, and made again where they do not hold."""

import numpy as np
import pytest

from scalelab.backtest import runner
from scalelab.backtest.cases import loss_cases
from scalelab.backtest.runner import ANSWERS, answered, run_tasks, tasks


@pytest.fixture
def todo(table_of):
    return tasks(["persistence", "log_linear"], loss_cases(table_of()), 0.8)


@pytest.fixture
def made(monkeypatch):
    """Keys of the answers that were made, not read."""
    keys, make = [], runner.make
    monkeypatch.setattr(runner, "make", lambda task: keys.append(task.key) or make(task))
    return keys


def test_nothing_is_made_twice(todo, made, tmp_path):
    first = run_tasks(todo, tmp_path)
    second = run_tasks(todo, tmp_path)

    assert sorted(made) == sorted(task.key for task in todo)
    assert first == second


def test_an_interrupted_backtest_goes_on(todo, made, tmp_path):
    def stop(there, total):
        if there == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_tasks(todo, tmp_path, report=stop)
    run_tasks(todo, tmp_path)

    assert len(made) == len(set(made)) == len(todo)


def test_an_answer_that_does_not_hold_is_made_again(todo, made, tmp_path):
    first = run_tasks(todo, tmp_path)
    path = tmp_path / ANSWERS / f"{todo[0].key}.json"
    path.write_text(path.read_text().replace("0.8", "0.7"))

    second = run_tasks(todo, tmp_path)

    assert made.count(todo[0].key) == 2
    assert second[todo[0].key].loss == first[todo[0].key].loss


def test_other_evidence_or_another_level_is_another_answer(table_of):
    (one, *_), (other, *_), (later, *_) = (
        tasks(["persistence"], loss_cases(table_of(seed)), level)
        for seed, level in ((0, 0.8), (1, 0.8), (0, 0.7))
    )

    assert len({one.key, other.key, later.key}) == 3


def test_other_code_makes_another_answer(table_of, monkeypatch):
    (one, *_) = tasks(["persistence"], loss_cases(table_of()), 0.8)
    monkeypatch.setattr(runner, "_versions", lambda name: ("other",))

    (other, *_) = tasks(["persistence"], loss_cases(table_of()), 0.8)

    assert one.key != other.key


def test_processes_make_the_same_answers(todo, tmp_path):
    alone = run_tasks(todo, tmp_path / "one")
    together = run_tasks(todo, tmp_path / "two", jobs=2)

    assert {k: v.loss for k, v in alone.items()} == {k: v.loss for k, v in together.items()}
    assert len(list((tmp_path / "two" / ANSWERS).glob("*.json"))) == len(todo)


def test_a_refusal_is_kept_with_its_reason(table_of, made, tmp_path):
    todo = tasks(["isoflop"], loss_cases(table_of(sizes=4, width=40.0))[:1], 0.8)

    for _ in range(2):
        (stored,) = run_tasks(todo, tmp_path).values()

    assert "isoFLOP budget" in stored.refused
    assert stored.answer is None
    assert answered(todo[0], stored) is None
    assert len(made) == 1


def test_an_answer_is_read_as_it_was_written(table_of, tmp_path):
    todo = tasks(["chinchilla"], loss_cases(table_of())[:1], 0.65)

    (stored,) = run_tasks(todo, tmp_path).values()
    (again,) = run_tasks(todo, tmp_path).values()

    assert again.answer.levels == (0.5, 0.6, 0.65, 0.7, 0.8, 0.9)
    assert np.array_equal(again.answer.low, stored.answer.low)
    assert again.answer.low.shape == (6, 5)
    assert again.seconds == stored.seconds > 0
