"""Published rules against values computed by hand, their scaling, and recipes that mix families."""

import pytest

from scalelab.config import parse_yaml
from scalelab.errors import ConfigError
from scalelab.model.transformer.config import Transformer
from scalelab.train import RULES
from scalelab.train.recipe import Recipe
from scalelab.train.rules import Scale

STEP = {"optimizer": {"lr": "steplaw_lr", "width_exponent": 0, "batch_exponent": 0}, "batch": "steplaw_batch"}
SEEK = {
    "optimizer": {"lr": "deepseek_lr", "width_exponent": 0, "batch_exponent": 0},
    "batch": "deepseek_batch",
}


def scale(**changes):
    known = {
        "n_params": 2e9,
        "n_tokens": 1e11,
        "width": 1024,
        "depth": 16,
        "flops": 1e21,
        "batch": 2**18,
        "body_params": 1e9,
        "body_flops": 1e20,
        "rate": 2e-3,
    }
    return Scale(**{**known, **changes})


def rule(kind, **settings):
    return RULES[kind].model_validate({"kind": kind, **settings})


@pytest.mark.parametrize(
    ("kind", "settings", "value"),
    [
        ("constant", {"value": -0.25}, -0.25),
        ("width", {"base": 0.04, "width_ref": 256}, 0.01),  # .04 x 256 / 1024
        ("width", {"base": 0.04, "width_ref": 256, "exponent": 0.5}, 0.02),
        ("horizon", {"base": 0.04, "tokens_ref": 1e9, "exponent": 0.5}, 0.004),  # .04 / sqrt(100)
        # ln: .58222 - .713 x 20.72327 + .307 x 25.32844 = -6.41764
        ("steplaw_lr", {}, 1.6325e-3),
        ("steplaw_lr", {"times": 2}, 3.265e-3),
        # ln: -.54473 + .571 x 25.32844 = 13.91781
        ("steplaw_batch", {}, 1.1077e6),
        # ln: -1.16539 - .125 x 46.05170 = -6.92185; ln: -1.23100 + .3271 x 46.05170 = 13.83251
        ("deepseek_lr", {}, 9.8600e-4),
        ("deepseek_batch", {}, 1.0171e6),
        # 2^18 tokens are 64 windows of 4096: .0063 x (2.5e9 / 1e11)^.3 = .0063 / 40^.3 = .0063 / 3.02428
        ("delphi_lr", {}, 2.08314e-3),
        ("delphi_beta2", {}, 0.9999),
        ("adamc_lr", {}, 0.33 * 8 / 1024),
        # tau = 1.084 x 50^-.527 = .137938; 262144 / (2e-3 x 1e11 x .137938)
        ("decay_timescale", {}, 9.5022e-3),
        ("decay_width", {"base": 0.1, "width_ref": 256, "variant": "linear"}, 0.4),
        ("decay_width", {"base": 0.1, "width_ref": 256, "variant": "sqrt"}, 0.2),
        ("half_life", {"tokens": 2**19}, 2**-0.5),
    ],
)
def test_a_rule_gives_the_number_that_was_computed_by_hand(kind, settings, value):
    assert rule(kind, **settings).at(scale()) == pytest.approx(value, rel=2e-4)


@pytest.mark.parametrize(
    ("kind", "changes", "ratio"),
    [
        ("steplaw_lr", {"body_params": 1.6e10}, 16**-0.713),
        ("steplaw_lr", {"n_params": 7e9, "flops": 3e21, "batch": 2**20}, 1),  # reads neither
        ("steplaw_lr", {"n_tokens": 1.6e12}, 16**0.307),
        ("steplaw_batch", {"n_tokens": 1.6e12}, 16**0.571),
        ("deepseek_lr", {"body_flops": 1.6e21}, 16**-0.125),
        ("deepseek_batch", {"body_flops": 1.6e21, "flops": 9e9}, 16**0.3271),
        ("delphi_lr", {"n_tokens": 1.6e12}, 16**-0.3),
        ("delphi_lr", {"batch": 2**20}, 2),
        ("delphi_lr", {"width": 64}, 1),
        ("delphi_lr", {"n_tokens": 1e6}, 0.01 / 2.08314e-3),  # at its upper end
        ("adamc_lr", {"width": 4096, "batch": 2**20, "n_tokens": 1e13}, 0.5),  # no horizon
        ("decay_timescale", {"batch": 2**20}, 4),
        ("decay_timescale", {"rate": 1e-3}, 2),
        ("decay_timescale", {"n_tokens": 1.6e12, "n_params": 3.2e10}, 1 / 16),  # D / N as before
    ],
)
def test_a_rule_scales_as_its_formula(kind, changes, ratio):
    mine = rule(kind)

    assert mine.at(scale(**changes)) / mine.at(scale()) == pytest.approx(ratio, rel=2e-4)


def test_moments_halve_over_the_same_tokens_whatever_the_batch():
    half, delphi = rule("half_life", tokens=1e6), rule("delphi_beta2")

    for mine in (half, delphi):
        small, large = (mine.at(scale(batch=batch)) for batch in (2**19, 2**21))
        assert large == pytest.approx(small**4, rel=1e-9)
    assert delphi.at(scale(batch=2**60)) == 0.9
    assert delphi.at(scale(batch=4096)) == 0.9999


def recipe(**changes):
    base = {
        "data": {"source": {"kind": "text", "paths": ["x"]}},
        "seq_len": 32,
        "model": {"kind": "transformer", "n_layers": 2, "head_size": 8},
        "optimizer": {"lr": 0.004},
        "batch": {"coefficient": 0.5, "exponent": 0.5, "min_tokens": 64, "max_tokens": 512},
        "min_steps": 20,
    }
    return Recipe.model_validate(base | changes)


MODEL = Transformer(n_layers=2, d_model=32, n_heads=4, n_kv_heads=4, head_size=8, d_ff=96, vocab_size=300)


def test_a_rule_that_does_not_belong_is_refused_at_its_key():
    text = recipe().to_yaml().replace("  lr: 0.004", "  lr: {kind: steplaw_lr}")
    with pytest.raises(ConfigError) as caught:
        Recipe.parse(parse_yaml(text, "r.yaml"))
    line = 1 + text[: text.index("  lr: {")].count("\n")

    assert caught.value.where == f"r.yaml:{line}: optimizer.lr"
    assert "steplaw_batch" in caught.value.problem
    assert caught.value.fix.startswith("take the rules of one family")


def test_a_warmup_longer_than_the_run_names_the_schedule():
    long = recipe(schedule={"kind": "wsd", "cooldown": 0.5, "warmup_steps": 100_000})
    with pytest.raises(ConfigError, match="a warmup of 100000 steps does not fit") as caught:
        long.spec(MODEL, 160_000, data_digest="0" * 12, seed=0)

    assert caught.value.where == "recipe.schedule"
    assert "recipe.schedule.warmup_steps" in caught.value.fix


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"optimizer": STEP["optimizer"]},
            "fitted together with steplaw_batch for batch, and the recipe has batch",
        ),
        (
            {"batch": "steplaw_batch"},
            "fitted together with steplaw_lr for optimizer.lr, and the recipe has none",
        ),
        (
            STEP | {"batch": "deepseek_batch"},
            "together with deepseek_lr for optimizer.lr, and the recipe has steplaw_lr",
        ),
        (
            STEP | {"optimizer": {"lr": "steplaw_lr", "batch_exponent": 0}},
            "the whole rate, and width_exponent 1 of the optimizer multiplies it",
        ),
        (
            {"optimizer": {"lr": "delphi_lr", "width_exponent": 0, "batch_exponent": 0}},
            r"fitted with adamh \(not included: only `override`, .*\), and the optimizer is adamw",
        ),
        (
            {
                "optimizer": {
                    "lr": "delphi_lr",
                    "beta2": "delphi_beta2",
                    "width_exponent": 0,
                    "batch_exponent": 0,
                },
                "schedule": {"kind": "wsd", "cooldown": 0.9},
            },
            "the schedule has cooldown 0.9, not 0.2",
        ),
        (
            {
                "optimizer": {
                    "lr": 0.004,
                    "width_exponent": 0.5,
                    "weight_decay": {"kind": "decay_width", "base": 0.1, "width_ref": 64, "variant": "sqrt"},
                }
            },
            r"falls as width\^-0.5, not as 1 / width",
        ),
    ],
)
def test_a_recipe_that_mixes_families_is_refused_but_for_a_reason(changes, said):
    with pytest.raises(ValueError, match=said) as caught:
        recipe(**changes)
    assert "give a reason as `override` in the recipe" in caught.value.errors()[0]["ctx"]["error"].fix
    with pytest.raises(ValueError, match=said):
        recipe(**changes, override=" ")

    given = recipe(**changes, override="an ablation of the mixture")
    notes = given.rule_notes([given.scale(MODEL, 160_000)])
    assert notes[-1].endswith("reason given: an ablation of the mixture")


def test_families_that_belong_together_count_as_they_were_published():
    """N of width 32 without embeddings: 2 x (4 x 32^2 + 3 x 32 x 96) in blocks, 5 x 32 norms."""
    n_body = 2 * (4 * 32**2 + 3 * 32 * 96) + 5 * 32
    spec = recipe(**STEP).spec(MODEL, 160_000, data_digest="d", seed=0)
    assert spec.optimizer.lr_matrix == pytest.approx(1.79 * n_body**-0.713 * 160_000**0.307)
    assert spec.batch_tokens == 512  # .58 x 160000^.571 = 543 = 32 x 17

    body = (MODEL.size(32).flops_per_token - 6 * 300 * 32) * 4e6
    spec = recipe(**SEEK).spec(MODEL, 4e6, data_digest="d", seed=0)
    assert spec.optimizer.lr_matrix == pytest.approx(0.3118 * body**-0.125)
    assert spec.batch_tokens == 2048  # body 7.4e11: .292 x body^.3271 = 2225 = 32 x 69.5


def test_the_decay_by_timescale_follows_the_rate_of_the_run():
    mine = recipe(optimizer={"lr": 0.004, "weight_decay": "decay_timescale"})
    spec = mine.spec(MODEL, 160_000, data_digest="d", seed=0)
    n_params, lr = MODEL.size(32).n_params_total, spec.optimizer.lr_matrix

    tau = 1.084 * (160_000 / n_params) ** -0.527
    assert lr == pytest.approx(0.004 * (256 / 1024) ** 0.5 * 2)
    assert spec.optimizer.weight_decay == pytest.approx(256 / (lr * 160_000 * tau))


def test_a_rate_by_the_rate_is_refused():
    mine = recipe(optimizer={"lr": "decay_timescale"})
    with pytest.raises(ConfigError, match="lr: Field required"):
        mine.spec(MODEL, 160_000, data_digest="d", seed=0)
    mine = recipe(schedule={"kind": "cosine", "warmup": "decay_timescale"})
    with pytest.raises(ConfigError, match="reads the learning rate, and cosine has none"):
        mine.spec(MODEL, 160_000, data_digest="d", seed=0)


def test_runs_outside_the_fitted_range_are_named_with_the_range():
    mine = recipe(**STEP)
    notes = mine.rule_notes([mine.scale(MODEL, n) for n in (160_000, 3e9)])

    assert "optimizer.lr by steplaw_lr is extrapolated: fitted on 6e7 to 1e9 non-embedding parameters" in str(
        notes
    )
    assert "fitted on 2e9 to 1e11 tokens, asked at 1.6e5." in str(notes)
    assert any("not checked against the source: range of non-embedding parameters" in n for n in notes)
    assert any("do not reproduce these constants" in n for n in notes)
    assert recipe().rule_notes([recipe().scale(MODEL, 160_000)]) == []


FITTED_ON = {"n_params": [2e4, 1e5], "n_tokens": [1e5, 2e5], "batch_tokens": [128, 128]}


@pytest.mark.parametrize(
    "fitted",
    [
        {"kind": "power", "coefficient": 0.1, "n_params": -0.2, "n_tokens": -0.1},
        {"kind": "constant", "value": 0.01},
    ],
    ids=lambda rule: rule["kind"],
)
def test_a_rule_of_the_recipe_is_extrapolated_beyond_what_it_was_fitted_on(fitted):
    mine = recipe(optimizer={"lr": fitted | {"fitted_on": FITTED_ON}})
    inside, beyond = mine.scale(MODEL, 160_000), mine.scale(MODEL, 1_600_000)
    assert 2e4 <= inside.n_params <= 1e5
    assert (inside.batch_tokens, beyond.batch_tokens) == (256, 512)

    said = f"optimizer.lr by {fitted['kind']} is extrapolated: fitted on "
    assert mine.rule_notes([inside]) == [f"{said}1.28e2 tokens a step, asked at 2.56e2."]
    assert mine.rule_notes([inside, beyond]) == [
        f"{said}1e5 to 2e5 tokens, asked at 1.6e6.",
        f"{said}1.28e2 tokens a step, asked at 2.56e2 to 5.12e2.",
    ]
    assert type(mine).parse(parse_yaml(mine.to_yaml(), "mine")) == mine
    unmarked = recipe(optimizer={"lr": fitted})
    assert unmarked.rule_notes([beyond]) == []
    specs = [r.spec(MODEL, 160_000, data_digest="d", seed=0) for r in (mine, unmarked)]
    assert specs[0] == specs[1]  # where it was fitted changes no run


def test_a_range_that_descends_is_refused_with_its_ends():
    text = (
        recipe()
        .to_yaml()
        .replace("  lr: 0.004", "  lr: {kind: constant, value: 0.004, fitted_on: {n_tokens: [2e5, 1e5]}}")
    )
    with pytest.raises(ConfigError) as caught:
        Recipe.parse(parse_yaml(text, "r.yaml"))
    assert "the range of n_tokens begins at 200000 and ends at 100000" in str(caught.value)
    assert "fitted_on.n_tokens" in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"optimizer": {"lr": {"kind": "constant", "value": -0.01}}},
            "give lr -0.01: Input should be greater",
        ),
        ({"batch": {"kind": "constant", "value": -64}}, "gives a batch of -64.0 tokens"),
        ({"batch": {"kind": "constant", "value": 2**18}}, "batch of 262,144 tokens is larger than the run"),
        (
            {"schedule": {"kind": "wsd", "warmup": {"kind": "constant", "value": 1.5}}},
            "give warmup 1.5: Input should be less",
        ),
        (
            {"schedule": {"kind": "wsd", "warmup": {"kind": "power", "coefficient": 625, "n_steps": -1}}},
            r"warmup 1(\.0)? and cooldown 0.2 overlap",
        ),
    ],
)
def test_what_cannot_be_trained_is_refused_with_the_number(changes, said):
    with pytest.raises(ConfigError, match=said):
        recipe(**changes).spec(MODEL, 160_000, data_digest="d", seed=0)
