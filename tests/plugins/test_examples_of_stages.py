"""A stage, a judge and a measurement of another package: their contracts, and the command line."""

import json
import os
import re

import observe
import pytest

from scalelab.evals.conversations.skill_conversations import SkillConversations
from scalelab.testing.judges import check_judge
from scalelab.testing.layouts import check_layout
from scalelab.testing.measurements import check_measurement
from scalelab.testing.stages import check_stage, tiny_assistant, tiny_base

POSTTRAIN = """
name: outside
base: base
data: skills
grades: {prompts: 4, sampled: false, retention_tokens: 0}
stages:
- {kind: sft, name: sft, sizes: [8, 16], batch: 8, rates: {lr: 1e-2}}
- {kind: average, name: mean, first: sft, second: sft-8, share: 0.25}
- {kind: preferences, name: pairs, first: mean, judge: shorter, others: [gold], prompts: 20,
   n_new: 12}
"""
EVAL = """
name: repeated
models: {base: base, mean: outside/mean, sft: outside/sft}
repetition: [{name: loops, prompts: ["the model", "what it"], n: 2, n_new: 16}]
pairwise: {baseline: sft, data: skills, judge: {kind: shorter, margin: 1}, prompts: 6}
"""
SFT = {"kind": "sft", "name": "sft", "sizes": [8, 16], "batch": 8, "rates": {"lr": 1e-2}}


@pytest.fixture
def command(examples, tmp_path, cache):
    """The command line in a directory with a base model."""
    tiny_base(tmp_path / "base")
    world = observe.World(tmp_path, cache)
    world.environ["PYTHONPATH"] = os.environ["PYTHONPATH"]
    world.forget_mlflow()  # the mirror takes longer than the rest, and is not looked at

    def run(*argv):
        done = world(*argv)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    return run


def test_they_work_through_the_command_line(command, tmp_path):
    (tmp_path / "outside.yaml").write_text(POSTTRAIN)
    (tmp_path / "repeated.yaml").write_text(EVAL)

    said = command("posttrain", "outside.yaml", "--json", "grades.json")

    assert re.search(r"mean.* done in .*: distance \d", said)
    grades = json.loads((tmp_path / "grades.json").read_text())
    assert [model["model"] for model in grades["models"]] == ["base", "sft-8", "sft", "mean"]
    assert grades["models"][-1]["wins"]["baseline"] == "sft"
    pairs = next(stage for stage in grades["stages"] if stage["stage"] == "pairs")
    assert "agreement.1-gold.raw" in pairs["metrics"]
    page = (tmp_path / "reports" / "outside" / "README.md").read_text()
    assert "### mean: distance between the two models" in page
    assert "| blocks.0.qkv | " in page
    assert (tmp_path / "reports" / "outside" / "mean-distance.png").stat().st_size > 5000

    said = command("eval", "repeated.yaml", "--json", "evals.json")

    assert "repetition on: loops" in said
    assert "judged by shorter" in said
    found = json.loads((tmp_path / "evals.json").read_text())["measured"]
    assert [one["model"] for one in found if one["kind"] == "repetition"] == ["base", "mean", "sft"]
    assert "mean win rate" in [one["name"] for one in found if one["kind"] == "aggregate"]
    page = (tmp_path / "reports" / "repeated" / "README.md").read_text()
    assert r"| Repeated n-grams \[measured\] | loops |" in page
    assert "## Repetition" in page
    assert "measured: repetition" not in command("eval", "repeated.yaml")


def test_they_keep_their_contracts(examples, tmp_path):
    stage = {"kind": "average", "name": "mean", "first": "sft", "second": "sft-8"}
    models = {"one": tiny_assistant(tmp_path / "one")}
    asked = {"repetition": [{"name": "loops", "prompts": ["a b"]}]}

    check_stage(stage, [SFT], base=tiny_base(tmp_path / "base"), root=tmp_path / "runs")
    check_judge({"kind": "shorter"}, SkillConversations())
    check_measurement("repetition", asked, models=models, folder=tmp_path)


@pytest.mark.usefixtures("examples")
def test_a_layout_of_another_package_is_found_and_read(tmp_path):
    from scalelab.evals.conversations.file_conversations import FileConversations

    check_layout("question_answer")
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"question": "3+3?", "answer": "6", "id": 1}) + "\n")

    (found,) = FileConversations(train=(str(path),)).training(None, 0)

    assert [m["content"] for m in found] == ["3+3?", "6"]
