"""An evaluation on executors: the rows of one in this process, whatever is killed."""

import json
import os

import pytest
from scripted_executor import InProcess, Scripted, done, given, killed_after

from scalelab.cli.main import main
from scalelab.evals import jobs
from scalelab.evals.evaluation_runner import evaluate
from scalelab.evals.file import EvalFile, file_type
from scalelab.evals.request import EvalRequest
from scalelab.jobs import driver
from scalelab.jobs.lost import JobsLost
from scalelab.testing.stages import tiny_base


@pytest.fixture(scope="module")
def models(tmp_path_factory, tiny_corpus):
    folder = tmp_path_factory.mktemp("models")
    return [tiny_base(folder / "one", tiny_corpus.digest), tiny_base(folder / "two", seq_len=64)]


@pytest.fixture
def request_of(models, tiny_text, tmp_path, monkeypatch):
    """A function that makes a request in a directory of runs."""
    monkeypatch.setattr(driver, "POLL_S", 0.002)
    monkeypatch.chdir(tmp_path)
    paths = [os.path.relpath(path) for path in models]  # as people write them
    sets = [
        {"name": f"set{i}", "source": {"kind": "text", "paths": [f"{tiny_text}/0{i}.txt"]}} for i in range(3)
    ]
    plain = {"name": "e", "models": dict(zip(("one", "two"), paths, strict=True)), "perplexity": sets}

    def make(folder, executor=None, **changes):
        return EvalRequest(
            file_type().model_validate(plain | {"executor": executor} | changes), folder / "runs"
        )

    return make


@pytest.fixture
def expected(request_of, tmp_path):
    return rows(evaluate(request_of(tmp_path / "expected")))


def rows(result):
    return json.dumps(result.to_json(), sort_keys=True)


def test_an_executor_has_no_part_in_the_identity_of_a_file(request_of, tmp_path):
    plain, other = request_of(tmp_path).file, request_of(tmp_path, "local").file
    assert plain.digest == other.digest
    assert plain != other


@pytest.mark.parametrize("kills", [False, True])
def test_jobs_give_the_same_rows_and_measure_each_once(kills, request_of, expected, tmp_path, monkeypatch):
    executor, measured = InProcess(kills=kills), []
    real = jobs.rows_of_item
    monkeypatch.setattr(jobs, "rows_of_item", lambda *args: (measured.append(args[1].id), real(*args))[1])
    found = evaluate(request_of(tmp_path, given(executor)))

    assert rows(found) == expected
    assert len(measured) == len(set(measured)) == 6
    assert [name.split("-")[0] for name in dict.fromkeys(executor.submitted)] == ["model.one", "model.two"]
    # Measured already: no executor is needed, and started.
    assert rows(evaluate(request_of(tmp_path, given(None)))) == expected


@pytest.mark.parametrize("damage", ["deleted", "damaged", "edited"])
def test_jobs_measure_again_what_is_gone_or_has_changed(damage, request_of, tiny_text, tmp_path):
    test_set = tmp_path / "set.txt"
    test_set.write_text((tiny_text / "00.txt").read_text())
    sets = [{"name": "own", "source": {"kind": "text", "paths": [str(test_set)]}}]
    executor = InProcess()
    evaluate(request_of(tmp_path, given(executor), perplexity=sets))
    before = len(executor.submitted)
    stored = sorted((tmp_path / "runs/e/evals").glob("*.json"))
    if damage == "deleted":
        stored[0].unlink()
    elif damage == "damaged":
        stored[0].write_text("{")
    else:
        test_set.write_text((tiny_text / "01.txt").read_text())

    evaluate(request_of(tmp_path, given(executor), perplexity=sets))
    assert len(executor.submitted) - before == (2 if damage == "edited" else 1)


def test_what_compares_models_is_a_job_behind_those_of_each(request_of, tmp_path, monkeypatch):
    begun = []
    monkeypatch.setattr("scalelab.evals.evaluation_runner.measure_all", lambda context: [])
    pairwise = {"baseline": "one", "data": "skills", "judge": "gold", "prompts": 4}
    executor = Scripted(lambda executor, each: begun.append(each) or done(executor, each))

    evaluate(request_of(tmp_path, given(executor), pairwise=pairwise))

    assert [each.id.split("-")[0] for each in begun] == ["model.one", "model.two", "together"]
    assert begun[-1].after == tuple(each.id for each in begun[:-1])


def test_what_a_person_judges_is_left_to_the_command(request_of, tmp_path):
    pairwise = {"baseline": "one", "data": "skills", "judge": "person", "prompts": 4}
    request = request_of(tmp_path, "inline", pairwise=pairwise)

    found = list(jobs.evaluation_jobs(request, request.context()))

    assert [job.id.split("-")[0] for job in found] == ["model.one", "model.two"]


def test_a_lost_job_ends_the_evaluation_and_keeps_what_was_measured(
    request_of, expected, tmp_path, monkeypatch
):
    def lose(context, item):
        raise ValueError("a bug")

    with monkeypatch.context() as patch:
        patch.setattr(jobs, "rows_of_item", lose)
        with pytest.raises(JobsLost, match=r"\(error\): ValueError: a bug"):
            evaluate(request_of(tmp_path, "inline"))
    assert rows(evaluate(request_of(tmp_path, "inline"))) == expected


def test_the_command_killed_again_and_again_gives_the_same_rows(request_of, expected, tmp_path):
    def n_rows():
        return len(list((tmp_path / "runs/e/evals").glob("*.json")))

    for n in (1, 4):
        killed_after(n, n_rows, lambda: evaluate(request_of(tmp_path, "inline")))
    assert 4 <= n_rows() < 6
    assert rows(evaluate(request_of(tmp_path, "inline"))) == expected


def test_the_command_takes_an_executor(request_of, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("scalelab.tracking.report_mirror.log_evaluation", lambda *args: None)
    file = request_of(tmp_path).file
    assert isinstance(file, EvalFile)
    (tmp_path / "e.yaml").write_text(file.to_yaml())
    assert main(["eval", "e.yaml", "--set", "executor=inline"]) == 0
    assert len(list((tmp_path / "runs/e/evals/jobs").glob("model.*/job.json"))) == 2
    assert main(["eval", "e.yaml", "--set", "executor=inlin"]) == 2
    assert "unknown executor 'inlin'; did you mean 'inline'" in capsys.readouterr().err


def test_on_slurm(slurm_cluster, request_of, expected, tmp_path):
    executor = {"kind": "slurm", "gpus": 0, "cpus": 2, "workers": 1, "minutes": 30, "poll_s": 0.5}
    found = evaluate(request_of(tmp_path, executor))
    assert rows(found) == expected
    assert len(list((tmp_path / "runs/e/evals/jobs").glob("model.*/job.json"))) == 2
