"""The journal of trials: what a killed writer leaves is repaired, and nothing else that is wrong is believed."""

import json
import math
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from scalelab.errors import RunError
from scalelab.sweep.trial_journal import JOURNAL, TrialJournal
from scalelab.sweep.trials import TrialSession
from scalelab.sweep.tune_file import TuneFile

ROOT = Path(__file__).parents[2]
DIGEST = "0123456789ab"


@pytest.fixture(scope="module")
def file():
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        return TuneFile.load(ROOT / "sweeps/tune.yaml", ["trials=6", "seeds=2"])


def session(file, directory):
    journal = TrialJournal(directory)
    return TrialSession(file, file.cells(1024)[:1], journal.storage, DIGEST, journal)


def result(proposal):
    rate = proposal.spec.optimizer.lr_matrix
    if rate > 0.025:
        return SimpleNamespace(status="diverged", loss=None)
    return SimpleNamespace(status="finished", loss=3 + 0.1 * math.log(rate / 8e-3) ** 2)


def run(one, answer=result):
    open_ = []
    while True:
        open_ += one.ask()
        if not open_:
            return
        proposal = open_.pop(0)
        one.tell(proposal, answer(proposal))


@pytest.fixture(scope="module")
def ended(file, tmp_path_factory):
    """Directory of a tuning all of whose trials have ended; one was lost and tried again."""
    directory = tmp_path_factory.mktemp("ended")
    first = session(file, directory)
    first.ask()
    (lost,) = [t.proposal for t in first.trials.values() if t.number == 1]
    first.tell(lost, None)
    run(session(file, directory))
    return directory


@pytest.fixture
def journal(ended, tmp_path):
    shutil.copy(ended / JOURNAL, tmp_path / JOURNAL)
    return tmp_path / JOURNAL


def records(journal):
    return [json.loads(line) for line in journal.read_bytes().splitlines()]


def write(journal, lines):
    journal.write_text("".join(json.dumps(line) + "\n" for line in lines))


def refusal(file, journal):
    with pytest.raises(RunError, match="the journal of trials is damaged") as refused:
        run(session(file, journal.parent))
    error = refused.value
    assert str(journal) in error.where
    assert error.fix == f"remove {journal} and run the same command again: runs that are trained are kept"
    return error


def test_what_a_tuning_writes_is_believed_as_it_stands(file, journal):
    before = journal.read_bytes()

    again = session(file, journal.parent)
    run(again)

    assert len(again.trials) == 6
    added = records(journal)[len(before.splitlines()) :]
    assert journal.read_bytes().startswith(before)
    assert {record["op_code"] for record in added} <= {0}  # a study that is there is named again


@pytest.mark.parametrize("cut", [1, 20, -1])
def test_a_last_line_without_an_end_is_removed(file, journal, cut):
    whole = journal.read_bytes()
    last = whole.splitlines(keepends=True)[-1]
    journal.write_bytes(whole + last[:cut])

    run(session(file, journal.parent))

    assert journal.read_bytes().startswith(whole)
    assert all(line.startswith(b"{") and line.endswith(b"}") for line in journal.read_bytes().splitlines())


def test_a_line_that_a_killed_process_left_is_removed_by_one_that_is_at_work(file, tmp_path):
    one = session(file, tmp_path)
    asked = one.ask()
    with open(tmp_path / JOURNAL, "ab") as other:
        other.write(b'{"op_code":6,"worker_id":"gone","tri')

    for proposal in asked:
        one.tell(proposal, result(proposal))

    run(session(file, tmp_path))
    assert b"gone" not in (tmp_path / JOURNAL).read_bytes()


def test_a_line_that_another_process_added_is_checked_by_one_that_is_at_work(file, tmp_path):
    one = session(file, tmp_path)
    asked = one.ask()
    n_lines = len(records(tmp_path / JOURNAL))
    with open(tmp_path / JOURNAL, "ab") as other:
        other.write(b'{"op_code":6,"worker_id":"other","trial_id":99,"state":3,"values":null}\n')

    with pytest.raises(RunError, match="has trial_id 99, and there are 4 trials above it") as refused:
        one.tell(asked[0], result(asked[0]))
    assert refused.value.where.endswith(f"{JOURNAL}:{n_lines + 1}")


DAMAGE = {
    "no JSON": (0, "{#", "is not JSON"),
    "no mapping": (0, [1], "is no record"),
    "no op_code": (0, {"worker_id": "w"}, "is no record"),
    "a study deleted": (0, {"op_code": 1, "worker_id": "w", "study_id": 0}, "has op_code 1"),
    "another name": (0, {"study_name": "mine"}, "has study_name 'mine'"),
    "maximized": (0, {"directions": [2]}, "has directions.0 2"),
    "no such study": (4, {"study_id": 7}, "has study_id 7, and there are 1 studies above it"),
    "a negative study": (4, {"study_id": -1}, "has study_id -1"),
    "born complete": (4, {"state": 1, "value": 0.1}, "has state 1"),
    "no number": (
        4,
        {"system_attrs": {"fixed_params": {"optimizer.lr": "x"}}},
        "has system_attrs.fixed_params",
    ),
    "NaN": (5, {"param_value_internal": math.nan}, "has param_value_internal nan"),
    "outside": (5, {"param_value_internal": 9.0}, "has optimizer.lr 9, outside 0.001 to 0.036"),
    "no distribution": (5, {"distribution": "{}"}, "has distribution '{}'"),
    "a distribution of words": (
        5,
        {"distribution": '{"type": "categorical", "choices": ["a"]}'},
        "has distribution",
    ),
    "no such trial": (5, {"trial_id": 50}, "has trial_id 50"),
    "text for a trial": (6, {"trial_id": "0"}, "has trial_id '0'"),
    "no such state": (6, {"state": 9}, "has state 9"),
    "complete without a loss": (6, {"state": 1, "values": None}, "has state 1 with values None"),
    "an infinite loss": (6, {"state": 1, "values": [math.inf]}, "has values.0 inf"),
    "no time": (6, {"datetime_start": "yesterday"}, "has datetime_start 'yesterday'"),
}


@pytest.mark.parametrize(("op_code", "change", "said"), DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_record_is_refused_with_its_line(file, journal, op_code, change, said):
    lines = records(journal)
    n = next(i for i, record in enumerate(lines) if record["op_code"] == op_code)
    text = journal.read_text().splitlines()
    whole = isinstance(change, dict) and "op_code" not in change and "worker_id" not in change
    text[n] = change if isinstance(change, str) else json.dumps(lines[n] | change if whole else change)
    journal.write_text("\n".join(text) + "\n")
    before = journal.read_bytes()

    error = refusal(file, journal)

    assert f"line {n + 1} {said}" in error.problem
    assert error.where == f"{journal}:{n + 1}"
    assert journal.read_bytes() == before


def trial_of(lines, op_code, n=0):
    return [record for record in lines if record["op_code"] == op_code][n]


def other_range(lines):
    for record in lines:
        if record["op_code"] == 5:
            record["distribution"] = record["distribution"].replace("0.036", "0.05")


def other_point(lines):
    trial_of(lines, 4, 2)["user_attrs"]["point"] = 3


def no_point(lines):
    trial_of(lines, 4)["user_attrs"]["point"] = -4


def other_seed(lines):
    trial_of(lines, 4)["user_attrs"]["seed"] = 17


def other_field(lines):
    trial_of(lines, 4)["system_attrs"]["fixed_params"] = {"optimizer.beta1": 0.9}


def beyond_the_range(lines):
    trial_of(lines, 4)["system_attrs"]["fixed_params"] = {"optimizer.lr": 0.5}


def no_lost_trial(lines):
    next(r for r in lines if "again" in r.get("user_attrs", {}))["user_attrs"]["again"] = 0


def other_loss(lines):
    next(r for r in lines if r["op_code"] == 6 and r["values"])["values"] = [0.5]


def loss_of_a_diverged_run(lines):
    next(r for r in lines if r["op_code"] == 6 and r["state"] == 2).update(state=1, values=[2.0])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (other_range, "and the tuning file has"),
        (other_point, "and place 3 of the spread is"),
        (no_point, "its number in the spread is -4"),
        (other_seed, "its seed is 17, and the tuning's are 0 to 1"),
        (other_field, "it waits with values of optimizer.beta1, and the fields are optimizer.lr"),
        (beyond_the_range, "its optimizer.lr is 0.5, which is not in the tuning file's range"),
        (no_lost_trial, "it repeats trial 0, which is no lost trial of the same values"),
        (other_loss, "the journal has loss 0.5, and the run"),
        (loss_of_a_diverged_run, "has that it diverged"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_trial_that_is_not_of_this_tuning_is_refused(file, journal, change, said):
    lines = records(journal)
    change(lines)
    if change in (
        other_field,
        beyond_the_range,
    ):  # it waits: nothing below it, so that its values are those of the queue
        del lines[lines.index(next(r for r in lines if r["op_code"] == 6)) :]
    write(journal, lines)

    error = refusal(file, journal)

    assert said in error.problem
    assert "trial" in error.where


def test_a_journal_that_became_shorter_is_refused(file, tmp_path):
    one = session(file, tmp_path)
    asked = one.ask()
    (tmp_path / JOURNAL).write_bytes((tmp_path / JOURNAL).read_bytes()[:100])

    with pytest.raises(RunError, match="it has become shorter: 100 bytes"):
        one.tell(asked[0], result(asked[0]))


def test_studies_of_another_version_of_the_file_stay(file, journal):
    wider = file.model_copy(update={"spread": 3.0})

    run(session(wider, journal.parent))
    run(session(file, journal.parent))

    assert len({record["study_name"] for record in records(journal) if record["op_code"] == 0}) == 2
