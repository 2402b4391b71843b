"""Trials of a tuning: which values are asked for, and who asks for them where several processes do."""

import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import optuna
import pytest

from scalelab.sweep.trial_journal import TrialJournal
from scalelab.sweep.trials import TrialSession, quasi_random
from scalelab.sweep.tune_file import TuneFile

ROOT = Path(__file__).parents[2]
DIGEST = "0123456789ab"


@pytest.fixture
def file(monkeypatch):
    monkeypatch.chdir(ROOT)
    return TuneFile.load(ROOT / "sweeps/tune.yaml", ["trials=9"])


def session(file, directory=None):
    journal = None if directory is None else TrialJournal(directory)
    storage = optuna.storages.InMemoryStorage() if journal is None else journal.storage
    return TrialSession(file, file.cells(1024)[:2], storage, DIGEST, journal)


def rate(proposal):
    return proposal.spec.optimizer.lr_matrix


def result(proposal, best=8e-3):
    """A run whose loss is lowest at a rate."""
    loss = 3 + 0.1 * math.log(rate(proposal) / best) ** 2
    return SimpleNamespace(status="finished", loss=loss)


def run(one, answer=result):
    """Every run that a session asks for, in order, each answered before the next question."""
    asked, open_ = [], []
    while True:
        open_ += one.ask()
        if not open_:
            return asked
        asked.append(open_.pop(0))
        one.tell(asked[-1], answer(asked[-1]))


def test_the_sequence_of_one_field_is_that_of_the_golden_ratio():
    golden = (math.sqrt(5) - 1) / 2

    np.testing.assert_allclose(quasi_random(5, 1)[:, 0], (0.5 + golden * np.arange(5)) % 1, atol=1e-12)
    for k in (1, 2, 3):
        points = quasi_random(64, k)
        assert points[0] == pytest.approx(0.5)
        np.testing.assert_allclose(points.mean(axis=0), 0.5, atol=0.03)  # even to about 1 / n


def test_first_come_the_recipes_own_values_and_values_round_them(file):
    first = session(file).ask()
    own = file.recipe.optimizer.lr
    ratios = np.array([t.values["optimizer.lr"] / own for t in _trials(session(file))])

    assert len(first) == 2 * file.n_spread == 12
    assert ratios[0] == ratios[6] == 1
    assert ratios.min() > 1 / file.spread
    assert ratios.max() < file.spread
    assert max(np.diff(np.sort(np.log(ratios[:6])))) < 0.4 * 2 * math.log(file.spread)


def _trials(one):
    one.ask()
    return list(one.trials.values())


def test_every_cell_gets_its_trials_and_tpe_goes_where_the_loss_is_low(file):
    one = session(file.model_copy(update={"trials": 24}))
    asked = run(one)
    by_cell = [[t for t in one.trials.values() if t.cell == k] for k in (0, 1)]

    assert [len(trials) for trials in by_cell] == [24, 24]
    assert len({p.spec.id for p in asked}) == 48
    away = [[abs(math.log(rate(t.proposal) / 8e-3)) for t in trials] for trials in by_cell]
    assert np.median([a[16:] for a in away]) < 0.7 * np.median([a[:16] for a in away])


def test_the_same_results_lead_to_the_same_trials(file):
    assert [p.spec.id for p in run(session(file))] == [p.spec.id for p in run(session(file))]


def test_a_study_that_was_left_goes_on_and_asks_for_nothing_twice(file, tmp_path):
    first = session(file, tmp_path)
    asked = list(first.ask())
    for proposal in asked[:5]:
        first.tell(proposal, result(proposal))

    second = session(file, tmp_path)
    again = run(second)

    assert {p.spec.id for p in asked} <= {p.spec.id for p in again}
    assert len(again) == len({p.spec.id for p in again}) == 18
    third = {p.spec.id for p in run(session(file, tmp_path))}
    assert third == {p.spec.id for p in again}  # known results, so nothing new


def test_two_processes_share_the_trials_of_one_study(file, tmp_path):
    one, two = session(file, tmp_path), session(file, tmp_path)
    told, open_ = {}, {id(one): [], id(two): []}
    for turn in range(200):
        me = (one, two)[turn % 2]
        open_[id(me)] += me.ask()
        if open_[id(me)]:
            proposal = open_[id(me)].pop(0)
            told[proposal.spec.id] = result(proposal)
            me.tell(proposal, told[proposal.spec.id])

    assert not open_[id(one)]
    assert not open_[id(two)]
    assert one.trials.keys() == two.trials.keys() == told.keys()
    assert len(told) == 18


def test_a_diverged_trial_is_known_to_tpe_as_bad_and_is_not_repeated(file):
    def answer(proposal):
        return result(proposal) if rate(proposal) < 1e-2 else SimpleNamespace(status="diverged", loss=None)

    storage = optuna.storages.InMemoryStorage()
    one = TrialSession(file, file.cells(1024)[:1], storage, DIGEST)
    asked = run(one, answer)
    states = [t.state.name for t in optuna.load_study(study_name=None, storage=storage).trials]

    assert len({p.spec.id for p in asked}) == 9
    hot = sum(rate(p) >= 1e-2 for p in asked)
    assert hot > 0
    assert sorted(states) == ["COMPLETE"] * (9 - hot) + ["PRUNED"] * hot


def test_a_lost_trial_is_tried_again_by_the_next_command_only(file, tmp_path):
    lost = run(session(file, tmp_path), lambda proposal: None)
    assert len(lost) == 18

    again = run(session(file, tmp_path))

    assert {p.spec.id for p in again} >= {p.spec.id for p in lost}
    assert len({p.spec.id for p in again}) == len(again)
    repeated = session(file, tmp_path)
    run(repeated)
    assert len(repeated.trials) == len(again)


def test_equal_runs_are_trained_once(file):
    batches = file.model_validate(
        file.model_dump() | {"fields": {"batch": {"low": 512, "high": 1024}}, "extends": file.extends}
    )
    one = session(batches)
    asked = run(one, lambda p: SimpleNamespace(status="finished", loss=3 + p.spec.batch_tokens / 1e4))

    assert {p.spec.batch_tokens for p in asked} == {512, 1024}
    assert len(asked) == 4  # two cells
