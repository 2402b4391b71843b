"""Every registered stage keeps the contract; a file that confuses what stages leave is refused."""

import importlib.util

import pytest
from pydantic import ValidationError

from scalelab.posttrain import STAGES
from scalelab.posttrain.pipeline import PosttrainFile, plan_stages
from scalelab.posttrain.run import PosttrainPlan
from scalelab.report.document import Paragraph
from scalelab.report.posttrain.document import plan_document
from scalelab.testing.stages import check_stage

RATES = {"lr": 1e-2}
SFT = {"kind": "sft", "name": "sft", "examples": 24, "batch": 8, "rates": RATES}
PAIRS = {
    "kind": "preferences",
    "name": "pairs",
    "first": "sft",
    "judge": "gold",
    "prompts": 40,
    "batch": 8,
    "n_new": 12,
}
REWARD = {"kind": "reward", "name": "judge", "start": "sft", "pairs": "pairs", "batch": 8, "rates": RATES}
GROUPS = {
    "start": "sft",
    "reward": "judge",
    "steps": 2,
    "batch": 4,
    "group": 2,
    "n_new": 8,
    "rates": {"lr": 1e-3},
}
ASKED = {
    "sft": ((), {"start": "base", "examples": 16, "batch": 8, "epochs": 2, "rates": RATES}),
    "preferences": ((SFT,), {k: v for k, v in PAIRS.items() if k not in ("kind", "name")}),
    "reward": ((SFT, PAIRS), {"start": "sft", "pairs": "pairs", "batch": 8, "rates": RATES}),
    "dpo": ((SFT, PAIRS), {"start": "sft", "pairs": "pairs", "batch": 8, "rates": RATES}),
    "ppo": (
        (SFT, PAIRS, REWARD),
        {"start": "sft", "reward": "judge", "steps": 4, "batch": 8, "n_new": 12, "rates": {"lr": 1e-3}},
    ),
    "rloo": ((SFT, PAIRS, REWARD), GROUPS),
    "grpo": ((SFT, PAIRS, REWARD), GROUPS),
    "best_of": (
        (SFT, PAIRS, REWARD),
        {"start": "sft", "proxy": "judge", "prompts": 5, "draws": 4, "n": [1, 2, 4], "n_new": 12},
    ),
    "grade": ((SFT,), {"model": "sft", "prompts": 4, "retention_tokens": 1024}),
}
"""Stages that one of each kind needs, and its settings."""
BY_TRL = ("rloo", "grpo")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.mark.parametrize("kind", STAGES)
def test_a_stage_keeps_its_contract(kind, base, root):
    if kind in BY_TRL and importlib.util.find_spec("trl") is None:
        pytest.skip("the extra `post` is not installed")
    before, settings = ASKED[kind]

    result = check_stage({"kind": kind, "name": f"a-{kind}"} | settings, before, base=base, root=root)

    assert result.kind == kind


def test_a_grade_that_is_asked_for_by_name_is_described(base, root):
    grade = {"kind": "grade", "name": "mine", "model": "base"}
    file = {"name": "t", "base": "b", "data": "skills", "grades": None, "stages": [grade]}
    file = PosttrainFile.model_validate(file)

    plan = PosttrainPlan(file, root, {"path": "b"}, plan_stages(file, base, root))

    assert plan_document(plan).blocks[-1] == Paragraph("1 model is graded.")


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"pairs": "sft"}, "stage 'dpo' reads pairs of answers from 'sft', whose output is a model"),
        ({"start": "pairs"}, "reads a model that answers from 'pairs', whose output is pairs of"),
        ({"start": "best"}, "whose output is nothing that other stages can read"),
        ({"pairs": "peers"}, "needs 'peers', which is not an earlier stage"),
    ],
)
def test_what_a_stage_leaves_has_to_be_what_is_read(changed, problem):
    best = {"kind": "best_of", "name": "best", "start": "sft", "proxy": "judge", "n": [1, 2]}
    dpo = {"kind": "dpo", "name": "dpo", "start": "sft", "pairs": "pairs", "rates": RATES}
    stages = [SFT, PAIRS, REWARD, best, dpo | changed]

    with pytest.raises(ValidationError, match=problem):
        PosttrainFile.model_validate({"name": "t", "base": "b", "data": "skills", "stages": stages})
