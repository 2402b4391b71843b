"""What an evaluation or a post-training file names and is not there: refused with the line of its key."""

import pytest

from scalelab.errors import ConfigError
from scalelab.evals.request import EvalRequest
from scalelab.posttrain.pipeline import PosttrainFile
from scalelab.posttrain.run import plan_posttrain

EVAL = "name: e\nmodels:\n  base: nowhere\n  my-2.b: gone\nperplexity: [{name: v, corpus: validation}]\n"
POSTTRAIN = (
    "name: p\ndata: skills\nstages: [{kind: sft, name: sft, start: base, rates: {lr: 1e-3}}]\nbase: nowhere\n"
)


def test_a_model_of_an_evaluation_that_is_not_there(tmp_path):
    (tmp_path / "e.yaml").write_text(EVAL)
    request = EvalRequest.load(tmp_path / "e.yaml", root=tmp_path)

    with pytest.raises(ConfigError, match="there is no model 'nowhere'") as refused:
        request.context()
    assert refused.value.where == f"{tmp_path / 'e.yaml'}:3: models.base: nowhere"


def test_a_base_of_a_post_training_that_is_not_there(tmp_path):
    (tmp_path / "p.yaml").write_text(POSTTRAIN)

    with pytest.raises(ConfigError, match="there is no model 'nowhere'") as refused:
        plan_posttrain(PosttrainFile.load(tmp_path / "p.yaml"), tmp_path)
    assert refused.value.where == f"{tmp_path / 'p.yaml'}:4: base"
