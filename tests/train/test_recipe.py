"""The rules of a recipe against rates, batches and steps that were computed by hand.

Every constant differs from the others and from its default, so that no rule can take another's.
"""

import pytest

from scalelab.config import parse_yaml
from scalelab.errors import ConfigError
from scalelab.model.transformer.config import Transformer
from scalelab.train.optimizers.adamw import AdamWRecipe
from scalelab.train.recipe import Recipe, RunRequest
from scalelab.train.rules import BatchRule, Scale, whole_batch

RULE = AdamWRecipe(
    lr=0.004,
    width_ref=64,
    width_exponent=1.0,
    batch_ref=1024,
    batch_exponent=0.5,
    embedding_lr=10,
    head_lr=6,
    vector_lr=3,
    beta1=0.8,
    beta2=0.97,
    eps=1e-7,
    weight_decay=0.2,
    grad_clip=0.5,
)


@pytest.fixture
def recipe():
    """Batches of .5 sqrt(D) tokens, from 64 to 512, at a context of 32."""
    return Recipe.model_validate(
        {
            "data": {"source": {"kind": "text", "paths": ["x"]}},
            "seq_len": 32,
            "model": {"kind": "transformer", "n_layers": 2, "head_size": 8},
            "optimizer": RULE.model_dump(),
            "batch": {"coefficient": 0.5, "exponent": 0.5, "min_tokens": 64, "max_tokens": 512},
            "min_steps": 20,
        }
    )


def scale(width, batch_tokens, n_tokens=1e6):
    return Scale(n_params=1e4, n_tokens=n_tokens, width=width, depth=2, flops=6e10, batch=batch_tokens)


def model_of_width(width):
    return Transformer(
        n_layers=2,
        d_model=width,
        n_heads=width // 8,
        n_kv_heads=width // 8,
        head_size=8,
        d_ff=3 * width,
        vocab_size=300,
    )


def test_at_the_reference_width_and_batch_every_kind_has_its_multiple_of_lr():
    rates = RULE.at(scale(64, 1024))

    assert rates.lr_matrix == pytest.approx(0.004)
    assert rates.lr_embedding == pytest.approx(0.04)  # 10 x .004
    assert rates.lr_head == pytest.approx(0.024)  # 6 x .004
    assert rates.lr_vector == pytest.approx(0.012)  # 3 x .004


def test_a_model_four_times_as_wide_has_a_quarter_of_the_matrix_rate_and_the_same_of_all_else():
    """As muP for Adam: hidden matrices 1 / width; input, output and vectors unchanged."""
    rates = RULE.at(scale(256, 1024))

    assert rates.lr_matrix == pytest.approx(0.001)  # .004 x 64 / 256
    assert (rates.lr_embedding, rates.lr_head, rates.lr_vector) == pytest.approx((0.04, 0.024, 0.012))


def test_a_batch_four_times_as_large_doubles_every_rate():
    """The square-root rule of Adam, Malladi et al. 2022."""
    rates = RULE.at(scale(64, 4096))

    assert (rates.lr_matrix, rates.lr_embedding) == pytest.approx((0.008, 0.08))
    assert (rates.lr_head, rates.lr_vector) == pytest.approx((0.048, 0.024))


def test_width_and_batch_together():
    rates = RULE.at(scale(16, 256))

    assert rates.lr_matrix == pytest.approx(0.008)  # .004 x (256/1024)^.5 x 64/16 = .004/2 x 4
    assert rates.lr_head == pytest.approx(0.012)  # 6 x .002


@pytest.mark.parametrize(("exponent", "rate"), [(0.0, 0.004), (0.5, 0.002), (2.0, 0.00025)])
def test_the_width_exponent_is_the_power_with_which_the_rate_falls(exponent, rate):
    rule = RULE.model_copy(update={"width_exponent": exponent})

    assert rule.at(scale(256, 1024)).lr_matrix == pytest.approx(rate)  # .004 / 4^exponent


def test_everything_else_is_passed_on_as_it_stands():
    rates = RULE.at(scale(256, 64))

    assert (rates.beta1, rates.beta2, rates.eps) == (0.8, 0.97, 1e-7)
    assert (rates.weight_decay, rates.grad_clip) == (0.2, 0.5)


@pytest.mark.parametrize(
    ("n_tokens", "batch"),
    [
        (1e4, 64),  # .5 x 100 = 50, raised to min_tokens 64
        (4e4, 128),  # .5 x 200 = 100 = 32 x 3.125; 2^1.64 is nearer to 2^2
        (3e4, 64),  # .5 x 173.2 = 86.6 = 32 x 2.706; 2^1.436 is nearer to 2^1
        (1.6e5, 256),  # .5 x 400 = 200 = 32 x 6.25; 2^2.644 is nearer to 2^3
        (1e6, 512),  # .5 x 1000 = 500 = 32 x 15.6; 2^3.97
        (1e8, 512),  # .5 x 10000 = 5000, lowered to max_tokens 512
    ],
)
def test_the_batch_grows_with_the_root_of_the_tokens_to_the_nearest_power_of_two(n_tokens, batch):
    rule = BatchRule(coefficient=0.5, exponent=0.5, min_tokens=64, max_tokens=512)

    assert whole_batch(rule, scale(64, None, n_tokens), 32) == batch


def test_a_batch_is_one_window_at_least():
    rule = BatchRule(coefficient=1.0, exponent=0.0, min_tokens=1, max_tokens=8)

    assert whole_batch(rule, scale(64, None), 64) == 64


@pytest.mark.parametrize(
    ("n_tokens", "batch", "n_steps"),
    [
        (40_000, 128, 312),  # 40000 / 128 = 312.5, half to even
        (40_060, 128, 313),  # 312.97
        (40_010, 128, 313),  # 312.58
        (39_940, 128, 312),  # 312.03
    ],
)
def test_steps_are_the_nearest_whole_number(recipe, n_tokens, batch, n_steps):
    spec = recipe.spec(model_of_width(64), n_tokens, data_digest="d", seed=3)

    assert (spec.batch_tokens, spec.n_steps) == (batch, n_steps)
    assert spec.n_tokens == batch * n_steps


def test_a_run_gets_the_rates_of_its_own_width_and_batch(recipe):
    spec = recipe.spec(model_of_width(32), 160_000, data_digest="d", seed=3)

    # Batch .5 x 400 = 200, so 256 tokens: half of the base rate. Width 32: twice the matrices'.
    assert spec.batch_tokens == 256
    assert spec.optimizer.lr_matrix == pytest.approx(0.004)  # .004 x (256/1024)^.5 x 64/32
    assert spec.optimizer.lr_embedding == pytest.approx(0.02)  # 10 x .002
    assert spec.optimizer.lr_head == pytest.approx(0.012)  # 6 x .002
    assert spec.optimizer.lr_vector == pytest.approx(0.006)  # 3 x .002
    assert (spec.optimizer.beta2, spec.optimizer.weight_decay) == (0.97, 0.2)


def with_rules(recipe, **changes):
    """The recipe with other parts, as read from a file."""
    return Recipe.model_validate(recipe.model_dump() | changes)


def test_a_rule_may_stand_for_any_number_of_the_optimizer_and_the_schedule(recipe):
    """N for width 32 by hand: 2 x (4 x 32^2 + 3 x 32 x 96) and 2 x 300 x 32, norms 5 x 32."""
    ruled = with_rules(
        recipe,
        optimizer={
            "lr": {"kind": "power", "coefficient": 2.0, "n_params": -0.5, "n_tokens": 0.25},
            "width_exponent": 0.0,
            "batch_exponent": 0.0,
            "weight_decay": {"kind": "power", "coefficient": 1e-3, "batch_tokens": 0.5},
            "beta2": {"kind": "power", "coefficient": 0.9, "depth": 0.05},
        },
        schedule={"kind": "cosine", "warmup": {"kind": "power", "coefficient": 50, "n_steps": -1}},
    )
    n_params = 2 * (4 * 32**2 + 3 * 32 * 96) + 2 * 300 * 32 + 5 * 32

    spec = ruled.spec(model_of_width(32), 160_000, data_digest="d", seed=3)

    assert spec.model.size(32).n_params_total == n_params
    assert spec.optimizer.lr_matrix == pytest.approx(2 * n_params**-0.5 * 160_000**0.25)
    assert spec.optimizer.lr_head == spec.optimizer.lr_matrix
    assert spec.optimizer.weight_decay == pytest.approx(1e-3 * 16)  # 256 tokens a step
    assert spec.optimizer.beta2 == pytest.approx(0.9 * 2**0.05)
    assert spec.schedule.warmup == pytest.approx(50 / 625)
    assert ruled.describe().endswith("lr by power, beta2 by power, weight_decay by power")
    assert type(spec.schedule) is type(with_rules(recipe, schedule={"kind": "cosine"}).schedule)


def test_a_recipe_with_rules_is_read_back_as_it_was_written(recipe):
    ruled = with_rules(recipe, optimizer={"lr": {"kind": "power", "coefficient": 0.1}})

    again = Recipe.parse(parse_yaml(ruled.to_yaml(), "recipe"))

    assert again == ruled
    assert again.spec(model_of_width(32), 160_000, data_digest="d", seed=3).id == (
        ruled.spec(model_of_width(32), 160_000, data_digest="d", seed=3).id
    )


def test_a_rule_for_the_batch_reads_n_and_d_alone(recipe):
    law = {"kind": "power", "coefficient": 0.58, "n_tokens": 0.571}
    scale = with_rules(recipe, batch=law).scale(model_of_width(32), 160_000)

    assert scale.batch_tokens == 512  # .58 x 160000^.571 = 543 = 32 x 17
    with pytest.raises(ConfigError, match="reads the batch, or what follows from it"):
        with_rules(recipe, batch=law | {"n_steps": 0.1}).scale(model_of_width(32), 160_000)


@pytest.mark.parametrize(
    ("line", "said", "fix"),
    [
        ("lr: {kind: powr, coefficient: 1}", "optimizer.lr: unknown rule 'powr'; did you mean", ""),
        ("lr: {kind: power, coefficent: 1}", "optimizer.lr.coefficent: unknown key", ""),
        ("lr: {kind: power, coefficient: -1}", "optimizer.lr.coefficient: input should", ""),
        ("lr: {kind: power, coefficient: 1}, beta2: 7", "optimizer.beta2: input should", ""),
        ('lr: "1e-3"', "optimizer.lr: '1e-3' is text, not a number", "write 1e-3 without quotes"),
        ("lr: [1]", "optimizer.lr: input should be a valid number", ""),
        ("kind: adamx, lr: 1", "optimizer: unknown optimizer 'adamx'; did you mean 'adamw'", ""),
        ("lr: 0.1, betta2: 0.9", "unknown key 'betta2'; did you mean 'beta2'?", "width_ref"),
    ],
)
def test_mistakes_in_rules_and_optimizers_have_their_places(recipe, line, said, fix):
    text = recipe.to_yaml()
    begin, end = text.index("optimizer:"), text.index("batch:\n")
    document = parse_yaml(text[:begin] + f"optimizer: {{{line}}}\n" + text[end:], "x.yaml")

    with pytest.raises(ConfigError) as caught:
        Recipe.parse(document)

    assert said in str(caught.value)
    assert fix in str(caught.value)


def test_a_rule_that_gives_what_cannot_be_names_the_scale(recipe):
    ruled = with_rules(
        recipe, optimizer={"lr": 0.1, "beta1": {"kind": "power", "coefficient": 3, "depth": 1}}
    )

    with pytest.raises(ConfigError, match="rules of adamw give beta1 6: Input should") as caught:
        ruled.spec(model_of_width(32), 160_000, data_digest="d", seed=3)

    assert "parameters on 160k tokens" in str(caught.value)
    assert "lr 1e-1, beta1 by power" in ruled.describe()
    assert "change the rule of beta1" in str(caught.value)


def test_a_run_of_just_min_steps_is_allowed_and_one_step_less_is_refused(recipe):
    """At 64 tokens a step, 20 steps are 1280 tokens."""
    assert recipe.spec(model_of_width(64), 1280, data_digest="d", seed=0).n_steps == 20

    with pytest.raises(ConfigError, match="has 19 steps, fewer than min_steps 20"):
        recipe.spec(model_of_width(64), 1216, data_digest="d", seed=0)


def trunk_recipe(recipe, **schedule):
    schedule = {"kind": "wsd", "trunk": True, "cooldown": 0.3, "shape": "sqrt", **schedule}
    return Recipe.model_validate(recipe.model_dump() | {"schedule": schedule})


def test_branches_of_a_size_share_all_but_their_length(recipe):
    """At 10,000 and 160,000 tokens the batch is that of 40,000: .5 sqrt(40,000) = 100, so 128."""
    asked = [RunRequest(model_of_width(32), tokens, seed) for tokens in (1e4, 1.6e5, 4e4) for seed in (0, 1)]
    asked.append(RunRequest(model_of_width(64), 1e6, 0))
    specs = trunk_recipe(recipe).specs(asked, data_digest="d" * 12)

    assert [s.batch_tokens for s in specs] == [128] * 6 + [512]
    assert [s.n_steps for s in specs] == [78, 78, 1250, 1250, 312, 312, 1953]
    assert {s.schedule.warmup_steps for s in specs[:6]} == {8}  # a tenth of 78
    assert len({s.optimizer for s in specs[:6]}) == 1
    trunks = [s.trunk_id for s in specs]
    assert trunks[0] == trunks[2] == trunks[4] != trunks[1] == trunks[3] == trunks[5]
    assert len(set(trunks)) == 3
    assert len({s.id for s in specs}) == 7
    for spec in specs[:6:2]:
        assert specs[2].trunk(70) == spec.trunk(70)


def test_whatever_decides_a_trunk_changes_the_ids_of_its_branches(recipe):
    asked = [RunRequest(model_of_width(32), tokens, 0) for tokens in (4e4, 8e4)]
    first = trunk_recipe(recipe).specs(asked, data_digest="d" * 12)
    longer = trunk_recipe(recipe, warmup=0.2).specs(asked, data_digest="d" * 12)
    sooner = trunk_recipe(recipe, cooldown=0.4).specs(asked, data_digest="d" * 12)

    assert {s.trunk_id for s in first}.isdisjoint(s.trunk_id for s in longer)
    assert {s.id for s in first}.isdisjoint(s.id for s in longer)
    assert [s.trunk_id for s in sooner] == [s.trunk_id for s in first]
    assert {s.id for s in first}.isdisjoint(s.id for s in sooner)


def test_a_run_by_itself_and_a_recipe_without_trunks_share_nothing(recipe):
    alone = trunk_recipe(recipe).spec(model_of_width(32), 4e4, data_digest="d" * 12, seed=0)
    asked = [RunRequest(model_of_width(32), tokens, 0) for tokens in (4e4, 8e4)]
    separate = trunk_recipe(recipe, trunk=False).specs(asked, data_digest="d" * 12)

    assert alone == separate[0]
    assert (alone.trunk_id, alone.branch_step, alone.schedule.warmup_steps) == (None, None, None)


def test_a_branch_that_is_too_short_is_refused_with_its_numbers(recipe):
    asked = [RunRequest(model_of_width(32), tokens, 0) for tokens in (1e3, 1.6e5)]

    with pytest.raises(ConfigError, match="1k tokens has 16 steps, fewer than min_steps 20"):
        trunk_recipe(recipe).specs(asked, data_digest="d" * 12)
