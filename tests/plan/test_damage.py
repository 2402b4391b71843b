"""No damage or edit of a plan, a forecast or an outcome is believed; none is a traceback."""

import json
import shutil
from dataclasses import replace
from itertools import islice

import pytest

from scalelab.errors import PlanError, RunError, ScalelabError
from scalelab.launch.final_run import ready
from scalelab.plan.forecast.frozen import FrozenForecast, _digest
from scalelab.plan.forecast.ledger import OUTCOME, close, enter, entries, forecast_path, outcome_path
from scalelab.plan.plan import PLAN, Plan
from scalelab.report.outcome.document import outcome_document
from scalelab.report.render.terminal import render_terminal
from scalelab.train.run_directory import RESULT


@pytest.fixture
def old(unsealed, tmp_path):
    """The directory of a plan from before the seals."""
    path = tmp_path / "plans" / "smoke-4e11"
    shutil.copytree(unsealed / "plans" / "smoke-4e11", path)
    return path


@pytest.fixture
def new(old):
    """The same plan as it is written now, with a forecast that names its run."""
    plan, frozen = Plan.load(old), FrozenForecast.load(old / "forecast.json")
    frozen = replace(frozen, schema=2, run=plan.spec.id)
    (old / "forecast.json").unlink()
    frozen.write(old / "forecast.json")
    replace(plan, forecast={"digest": frozen.digest, "file": "forecast.json"}).write(old)
    return old


@pytest.fixture
def judged(new, unsealed, tmp_path):
    """A ledger with that forecast and its outcome: (its root, the entry)."""
    frozen = FrozenForecast.load(new / "forecast.json")
    record = json.loads((unsealed / "sweeps" / "forecasts" / "14d075e3d7c2.outcome.json").read_text())
    names = ("status", "reason", "n_params", "n_tokens", "flops", "loss", "seconds", "ended")
    close(tmp_path / "runs", frozen, run=frozen.run, **{name: record[name] for name in names})
    (entry,) = entries(tmp_path / "runs")
    return tmp_path / "runs", entry


def told(error):
    """Whether an error is one that a person can act on."""
    assert isinstance(error, ScalelabError)
    assert len(str(error).splitlines()) == 3, error
    assert error.where
    assert error.fix
    return True


def edit(path, **changes):
    """A plan.json with values of its run changed: "n_steps", or "optimizer.lr_matrix"."""
    record = json.loads(path.read_text())
    for name, value in changes.items():
        place, *keys = [record["run"], *name.split("__")]
        for key in keys[:-1]:
            place = place[key]
        place[keys[-1]] = value
    path.write_text(json.dumps(record))


def test_a_plan_from_before_the_seals_is_read_and_its_forecast_keeps_its_digest(old, tmp_path):
    frozen = FrozenForecast.load(old / "forecast.json")

    final = ready(old, tmp_path / "runs", "", None)

    assert final.plan.spec.n_steps == 1693
    assert frozen.digest == "14d075e3d7c29073c574bc387e14c1ea19bff67a8a2d74600a49a631dc5041ce"
    assert frozen.run is None
    assert frozen.to_json() == json.loads((old / "forecast.json").read_text())


def test_a_plan_written_again_is_sealed_and_says_the_same(old, tmp_path):
    before = Plan.load(old)
    before.write(old)

    assert json.loads((old / "plan.json").read_text())["schema"] == 2
    assert Plan.load(old) == before
    assert ready(old, tmp_path / "runs", "", None).plan == before


@pytest.mark.parametrize("name", ["plan.json", "forecast.json"])
@pytest.mark.parametrize("age", ["old", "new"])
def test_no_damage_is_believed(request, age, name, damages, tmp_path):
    """A plan from before the seals has no digest: there, only what decides the run is checked."""
    path = request.getfixturevalue(age) / name
    before = ready(path.parent, tmp_path / "runs", "", None)
    is_sealed = (age, name) != ("old", "plan.json")
    believed = 0
    for data in damages(path.read_bytes(), 150):
        path.write_bytes(data)
        try:
            found = ready(path.parent, tmp_path / "runs", "", None)
        except ScalelabError as error:
            told(error)
            continue
        assert found.frozen == before.frozen
        assert found.plan.spec.n_tokens == before.plan.spec.n_tokens
        assert found.plan.spec.model == before.plan.spec.model
        if is_sealed:
            assert found.plan == before.plan
            believed += 1
    assert believed <= 5  # white space alone was changed
    path.unlink()
    with pytest.raises(PlanError) as error:
        ready(path.parent, tmp_path / "runs", "", None)
    assert told(error.value)


@pytest.mark.parametrize("age", ["old", "new"])
def test_the_steps_of_a_run_are_those_that_were_forecast(request, age, tmp_path):
    path = request.getfixturevalue(age) / "plan.json"
    edit(path, n_steps=30)

    with pytest.raises(PlanError) as error:
        ready(path.parent, tmp_path / "runs", "", None)

    assert told(error.value)
    what = "n_tokens is 61440, the forecast's 3467264" if age == "old" else "the seal does not"
    assert what in error.value.problem


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"n_steps": 30}, "its n_tokens is 61440"),
        ({"n_steps": 1694}, "its n_tokens is 3469312"),
        ({"n_steps": 3386, "batch_tokens": 1024}, "its n_steps is 3386"),
        ({"optimizer__lr_matrix": 0.5}, "its optimizer is"),
        ({"model__n_layers": 2}, "its n_params is"),
        ({"model__rope_theta": 500.0}, "its shape is"),
        ({"data_digest": "0123456789ab"}, "its corpus is 0123456789ab"),
        ({"seq_len": 64}, "its flops is"),
        ({"schedule__cooldown": 0.5}, "its cooldown_steps is"),
    ],
)
def test_the_run_of_an_old_plan_agrees_with_its_forecast_and_its_model(old, tmp_path, changes, problem):
    edit(old / "plan.json", **changes)

    with pytest.raises(PlanError, match="is not the run of its forecast") as error:
        ready(old, tmp_path / "runs", "", None)

    assert told(error.value)
    assert problem in error.value.problem


@pytest.mark.parametrize("changes", [{"n_steps": 30}, {"seed": 7}, {"precision": "fp32"}])
def test_a_plan_with_a_seal_computed_anew_is_held_to_its_forecast(new, tmp_path, changes):
    plan = Plan.load(new)
    replace(plan, spec=plan.spec.model_copy(update=changes)).write(new)

    with pytest.raises(PlanError, match=r"its id is \w+, the forecast's") as error:
        ready(new, tmp_path / "runs", "", None)

    assert told(error.value)


def test_another_forecast_beside_a_plan_is_refused(new, tmp_path):
    path = new / "forecast.json"
    other = replace(FrozenForecast.load(path), loss=1.0)
    path.unlink()
    other.write(path)

    with pytest.raises(PlanError, match="the plan was made with forecast") as error:
        ready(new, tmp_path / "runs", "", None)

    assert told(error.value)


def test_wrong_types_in_a_plan_from_before_the_seals_are_no_traceback(old, tmp_path, wrong_types):
    path, root = old / "plan.json", tmp_path / "runs"
    frozen = FrozenForecast.load(old / "forecast.json")
    result = RESULT.parse(json.dumps(_result()))
    outcome = close(
        root,
        frozen,
        run="r",
        status="finished",
        reason=None,
        n_params=1,
        n_tokens=1,
        flops=1,
        loss=1.7,
        seconds=1.0,
    )
    record = json.loads(path.read_text())
    for name in ("choices", "laws", "regret", "near_optimal", "intervals", "statistical"):
        record[name] = type(record[name])()  # less to go through
    del record["cost"]["project"]
    refused = 0
    for changed in islice(wrong_types(record), None, None, 5):  # all would take seconds
        path.write_text(json.dumps(changed))
        try:
            found = ready(old, root, "", None)
        except ScalelabError as error:
            refused += told(error)
        else:
            assert found.plan.spec.n_tokens == 3467264
            render_terminal(outcome_document(found.plan, frozen, result, outcome))
    assert refused > 50


def test_wrong_types_under_a_digest_computed_anew_are_no_traceback(old, wrong_types):
    path = old / "forecast.json"
    record = json.loads(path.read_text())
    del record["digest"]
    for name in ("band", "train_band"):
        record[name] = {k: v if k == "level" else v[:2] for k, v in record[name].items()}
    refused = 0
    for changed in islice(wrong_types(record), None, None, 3):
        path.write_text(json.dumps({**changed, "digest": _digest(changed)}))
        try:
            found = FrozenForecast.load(path)
        except PlanError as error:
            refused += told(error)
        else:
            for band in (found.stop_band, found.stop_train_band):
                if band is not None:
                    band.leaves(0.4, 1.7)
            found.held(1.7)
    assert refused > 50


def test_no_damage_of_the_ledger_is_believed(judged, damages):
    root, before = judged
    frozen = before.frozen
    for path in (forecast_path(root, frozen.digest), outcome_path(root, frozen.digest)):
        whole = path.read_bytes()
        for data in damages(whole, 150):
            path.write_bytes(data)
            (entry,) = entries(root)
            if entry.problem is None:
                assert entry == before
            else:
                assert told(entry.problem)
                assert path.name in entry.problem.where
        path.write_bytes(whole)
    assert entries(root) == [before]


def test_wrong_types_in_an_outcome_from_before_the_seals_are_no_traceback(judged, wrong_types):
    root, before = judged
    path = outcome_path(root, before.frozen.digest)
    record = {"schema": 1, **vars(before.outcome)}
    for changed in wrong_types(record):
        path.write_text(json.dumps(changed))
        (entry,) = entries(root)
        if entry.problem is not None:
            told(entry.problem)
        else:
            assert entry.outcome.loss == before.outcome.loss
            assert entry.outcome.state == before.outcome.state


def test_the_outcome_of_another_run_is_refused(judged):
    root, before = judged
    path = outcome_path(root, before.frozen.digest)
    OUTCOME.write(path, replace(before.outcome, run="0123456789ab"))

    (entry,) = entries(root)
    assert "it is the outcome of run 0123456789ab" in entry.problem.problem


@pytest.mark.parametrize("name", ["../../x", "a/b", ".hidden", "", "a b"])
def test_a_plan_is_launched_below_the_runs_and_nowhere_else(new, tmp_path, name):
    plan = Plan.load(new)
    replace(plan, name=name).write(new)

    with pytest.raises(PlanError, match="is not a plain name") as error:
        ready(new, tmp_path / "runs", "", None)

    assert told(error.value)


def test_a_plan_under_another_name_than_its_forecast_is_refused(new, tmp_path):
    """Its run would lie among those of a sweep, in the place of its manifest."""
    replace(Plan.load(new), name="smoke").write(new)

    with pytest.raises(PlanError, match="the plan's name is 'smoke', the forecast's 'smoke-4e11'"):
        ready(new, tmp_path / "runs", "", None)


@pytest.mark.parametrize("place", ["smoke-4e11", "smoke-4e11/lock-000001.json"])
def test_nothing_is_launched_through_a_link(new, tmp_path, place):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    link = tmp_path / "runs" / place
    link.parent.mkdir(parents=True)
    link.symlink_to(elsewhere)

    with pytest.raises(RunError, match="is a symbolic link") as error:
        ready(new, tmp_path / "runs", "", None)

    assert told(error.value)


def test_the_ledger_is_not_written_through_a_link(new, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "forecasts").symlink_to(elsewhere)

    with pytest.raises(RunError, match="forecasts is a symbolic link"):
        enter(tmp_path, FrozenForecast.load(new / "forecast.json"))

    assert not list(elsewhere.iterdir())


def test_a_link_in_the_place_of_a_plan_is_replaced(old, tmp_path):
    target = tmp_path / "mine.json"
    shutil.move(old / "plan.json", target)
    before = target.read_bytes()
    (old / "plan.json").symlink_to(target)

    Plan.load(old).write(old)

    assert target.read_bytes() == before
    assert not (old / "plan.json").is_symlink()


def _result():
    """A result from before the seals, for a page about it."""
    numbers = dict.fromkeys(
        (
            "n_params_total",
            "n_params_non_embedding",
            "n_params_matmul",
            "n_params_active",
            "n_tokens",
            "n_tokens_planned",
            "n_tokens_unique",
            "n_steps",
            "batch_tokens",
            "micro_batch_tokens",
            "seq_len",
            "threads",
            "n_resumes",
            "finished_ms",
            "seed",
        ),
        1,
    )
    return {
        "schema": 1,
        "run": "r",
        "status": "finished",
        "reason": None,
        **numbers,
        "flops_per_token": 1.0,
        "flops": 1.0,
        "flops_6nd": 1.0,
        "loss": 1.7,
        "loss_se": None,
        "bpb": None,
        "curve": [],
        "train_curve": [],
        "tokens_per_s": None,
        "mfu": None,
        "train_s": 1.0,
        "eval_s": 0.0,
        "device": "cpu",
        "precision": "fp32",
        "tokenizer": "bytes",
        "data_digest": "d",
        "versions": {},
    }


def test_a_sealed_plan_is_of_this_format_alone(new):
    """A seal is of one kind of file: no other sealed record passes for a plan."""
    record = json.loads((new / "plan.json").read_text())
    seal = record.pop("seal")

    assert seal == PLAN._seal(record)
    assert seal != OUTCOME._seal(record)
