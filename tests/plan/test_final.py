"""The concrete model hits its budget; a plan read back is the plan; every refusal is read."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from scalelab.errors import PlanError
from scalelab.hardware.layout import Layout
from scalelab.plan.plan import PLAN, Plan, assumed_shape, final_model, flops_per_token, phases
from scalelab.sweep.file import SweepFile
from scalelab.train.recipe import RunRequest
from scalelab.train.rules import BatchRule

DEFAULT = Path(__file__).parents[2] / "sweeps" / "isoflop.yaml"


@pytest.fixture(scope="module")
def recipe():
    return SweepFile.load(DEFAULT).recipe


@pytest.fixture
def built(recipe):
    def build(n_params=1e5, **wanted):
        settings = {"vocab_size": 1024, "data_digest": "d", "seed": 0, "flops": 6.4e12} | wanted
        return final_model(recipe, n_params=n_params, **settings)

    return build


@pytest.fixture
def plan(built):
    final = built()
    return Plan(
        name="ours",
        target={"flops": 6.4e12, "words": "6.4e12 FLOPs"},
        n_params=1e5,
        n_tokens=9e6,
        param_count="matmul",
        flop_count="exact",
        cost={"pf_days": 7.4e-8, "dollars": None},
        layout=Layout(replicate=2),
        loss=3.1,
        intervals={"loss": [3.0, 3.2], "n_params": None},
        level=0.8,
        regret={"0.5": 0.16, "2": 0.16},
        spec=final.spec,
        model=final.to_json(),
        recipe_yaml="name: x\n",
        data_digest="d",
        forecast={"digest": "abc", "file": "forecast.json"},
        laws=({"law": "isoflop"},),
        notes=("mind the gap",),
    )


@pytest.mark.parametrize("n_params", [3e4, 1e5, 2.5e5, 7e5])
@pytest.mark.parametrize("flops", [2e12, 6.4e12, 3e13])
def test_the_budget_is_met_to_half_a_step(built, n_params, flops):
    final = built(n_params, flops=flops)

    step = final.size.flops_per_token * final.spec.batch_tokens
    assert abs(final.flops - flops) <= step / 2 * (1 + 1e-9)
    assert final.flops == final.size.flops_per_token * final.n_tokens
    assert final.planned["flops"] == flops


def test_a_size_that_cannot_be_built_is_made_good_in_tokens(built):
    final = built(1e5)

    assert final.n_params == 104_448  # blocks and head of width 48
    assert final.n_tokens == pytest.approx(6.4e12 / final.size.flops_per_token, rel=1e-3)
    assert final.planned["n_params"] == 1e5


def test_given_tokens_are_kept_and_the_budget_follows(built):
    final = built(1e5, flops=None, n_tokens=8e6)

    assert final.n_tokens == pytest.approx(8e6, abs=final.spec.batch_tokens / 2)
    assert final.planned["flops"] == 8e6 * final.size.flops_per_token


def test_compute_is_in_the_count_of_the_evidence(built):
    by_6nd = built(1e5, flop_count="6ND")

    assert by_6nd.flops == 6.0 * by_6nd.n_params * by_6nd.n_tokens
    assert by_6nd.flops == pytest.approx(6.4e12, rel=1e-3)
    size = by_6nd.size
    assert flops_per_token(size, "total", "6ND") == 6.0 * size.n_params_total
    assert flops_per_token(size, "total", "exact") == size.flops_per_token


def test_the_rules_of_the_recipe_decide_rates_and_steps(recipe):
    """By hand from sweeps/isoflop.yaml with a batch that grows: lr .006 at width 64 and 1024 tokens, width 48 here."""
    grows = recipe.model_copy(update={"batch": BatchRule(coefficient=0.9, exponent=0.5)})
    final = final_model(grows, n_params=1e5, vocab_size=1024, data_digest="d", seed=0, flops=6.4e12)

    # Width 48: two blocks of 4 x 48^2 and 3 x 48 x 128 and a head of 1024 x 48 multiply tokens;
    # 6 FLOPs each and 12 x 2 x 48 x 64 for attention leave 9,137,427 tokens of 6.4e12 FLOPs.
    per_token = 6 * (2 * (4 * 48**2 + 3 * 48 * 128) + 1024 * 48) + 12 * 2 * 48 * 64
    assert final.size.flops_per_token == per_token == 700_416
    # .9 x sqrt(9.137e6) = 2720.5 tokens are 42.5 = 2^5.41 windows of 64: 32 of them.
    assert final.spec.batch_tokens == 2048
    assert final.spec.n_steps == round(6.4e12 / 700_416 / 2048) == 4462
    rates, base = final.spec.optimizer, 0.006 * 2**0.5  # twice the reference batch
    assert rates.lr_matrix == pytest.approx(base * 64 / 48)
    assert (rates.lr_embedding, rates.lr_head, rates.lr_vector) == pytest.approx((10 * base, 6 * base, base))
    assert phases(final.spec) == {"warmup_steps": 446, "cooldown_steps": 1339}


def test_the_final_run_comes_down_as_the_branches_of_its_evidence_do(recipe, built):
    """It shares nothing, so its warmup is a share of its own steps; cooldown and shape are theirs."""
    final = built(1e5).spec
    asked = [RunRequest(final.model, tokens, 0) for tokens in (1e6, 2e6)]
    for branch in recipe.specs(asked, data_digest="d"):
        assert branch.trunk_id is not None
        assert branch.schedule.alone() == final.schedule
        ours, theirs = final.schedule.phases(final.n_steps), branch.schedule.phases(branch.n_steps)
        assert ours["cooldown"] / final.n_steps == pytest.approx(
            theirs["cooldown"] / branch.n_steps, abs=1e-3
        )
    assert (final.schedule.cooldown, final.schedule.shape) == (0.3, "sqrt")
    assert final.trunk_id is None


def test_every_count_is_recorded(built):
    final = built(1e5)

    for count in ("total", "non_embedding", "matmul"):
        assert final.to_json()[f"n_params_{count}"] == final.size.count(count)
    assert final.n_params / final.planned["n_params"] == pytest.approx(1.044, abs=5e-4)


@pytest.mark.parametrize(
    ("wanted", "problem"),
    [
        ({"n_tokens": 1e6}, "both or neither of flops and n_tokens"),
        ({"flops": None}, "both or neither of flops and n_tokens"),
        ({"n_params": -1.0}, "n_params is -1.0"),
        ({"flops": float("inf")}, "flops is inf"),
    ],
)
def test_refuses_what_is_no_target(built, wanted, problem):
    with pytest.raises(PlanError, match=problem):
        built(**wanted)


@pytest.mark.parametrize(("n_params", "layers", "width"), [(8.03e9, 32, 4096), (70.6e9, 80, 8192)])
def test_the_assumed_shape_of_a_known_size_is_llamas(n_params, layers, width):
    """Llama 3 8B and 70B, Grattafiori et al. 2024, table 3."""
    shape = assumed_shape(n_params, "total")

    assert (shape.model.n_layers, shape.model.d_model) == (layers, width)
    assert (shape.model.n_kv_heads, shape.model.d_ff) == (8, round(3.5 * width))
    assert shape.is_assumed


@pytest.mark.parametrize("n_params", [1e6, 1e7, 1e8, 1e9, 3e10, 4.05e11, 2e12])
def test_an_assumed_shape_comes_within_a_tenth(n_params):
    assert assumed_shape(n_params, "total").model.size(1).n_params_total == pytest.approx(n_params, rel=0.11)


def test_no_shape_is_assumed_for_a_toy():
    assert assumed_shape(100.0, "total") is None


def test_a_plan_read_back_is_the_plan(plan, tmp_path):
    plan.write(tmp_path)

    assert Plan.load(tmp_path) == plan
    assert Plan.load(tmp_path / "plan.json").spec.digest == plan.spec.digest
    record = json.loads((tmp_path / "plan.json").read_text())
    assert record["schema"] == 2
    assert record["tokens_per_param"] == 90
    assert record["layout"]["replicate"] == 2
    assert record["run"]["n_steps"] == plan.spec.n_steps


def test_a_plan_without_a_run_has_none(plan, tmp_path):
    replace(plan, spec=None, forecast=None).write(tmp_path)

    there = Plan.load(tmp_path)
    assert there.spec is None
    assert there.forecast_digest is None


def test_there_must_be_a_plan(tmp_path):
    with pytest.raises(PlanError, match="there is no plan here") as error:
        Plan.load(tmp_path)

    assert error.value.where == str(tmp_path / "plan.json")
    assert "scalelab plan" in error.value.fix


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda r: r | {"schema": 7}, "its schema is 7"),
        (lambda r: r | {"layout": {"replicate": 0}}, "replicate is 0"),
        (lambda r: r | {"layout": {"replicate": "2"}}, "replicate: Input should be a valid int"),
        (lambda r: r | {"layout": {"sideways": 2}}, "sideways"),
        (lambda r: {k: v for k, v in r.items() if k != "cost"}, "it has no cost"),
        (lambda r: r | {"cost": {"days": "3"}}, r"cost\.days is '3', not a number"),
        (lambda r: r | {"run": r["run"] | {"n_steps": -3}}, "its run: "),
        (lambda r: r | {"recipe": None}, "it has a run and no recipe"),
        (lambda r: r | {"forecast": {}}, "its forecast has no digest"),
        (lambda r: r | {"name": "../../x"}, "'../../x' is not a plain name"),
        (lambda r: r | {"name": ".x"}, "'.x' is not a plain name"),
        (lambda r: r | {"level": True}, "level: Input should be a valid number"),
        (lambda r: r | {"param_count": "all"}, "param_count"),
        (lambda r: [r], "not a record"),
    ],
)
@pytest.mark.parametrize("schema", [1, 2])
def test_a_broken_plan_is_told_in_three_lines(plan, tmp_path, change, problem, schema):
    """Under the old schema as it stands; under the new one with a seal computed anew."""
    path = plan.write(tmp_path)
    record = {k: v for k, v in json.loads(path.read_text()).items() if k != "seal"}
    record = change(record | {"schema": schema})
    if schema == 2 and isinstance(record, dict):
        record["seal"] = PLAN._seal(record)
    path.write_text(json.dumps(record))

    with pytest.raises(PlanError, match=problem) as error:
        Plan.load(tmp_path)

    assert str(path) in error.value.where
    assert "plan" in error.value.fix


def test_what_is_no_json_is_no_plan(tmp_path):
    (tmp_path / "plan.json").write_text("{half")

    with pytest.raises(PlanError, match="cannot be read as a plan"):
        Plan.load(tmp_path)


def test_an_edited_plan_is_refused(plan, tmp_path):
    path = plan.write(tmp_path)
    path.write_text(path.read_text().replace('"ours"', '"hers"'))

    with pytest.raises(PlanError, match="the seal does not match"):
        Plan.load(tmp_path)
