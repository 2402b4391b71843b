"""Parametrizations: multipliers by hand, the same runs at the reference size, activations of a real model."""

import math

import pytest
import torch
from pydantic import ValidationError

from scalelab.errors import ConfigError
from scalelab.model.transformer.config import Transformer
from scalelab.model.transformer.generate import KeyValueCache
from scalelab.model.transformer.huggingface import LlamaLayout
from scalelab.train.optimizers.flat import FlatOptimizer
from scalelab.train.parametrization import multipliers
from scalelab.train.recipe import Recipe

OPTIMIZER = {"lr": 0.004, "width_ref": 16, "depth_ref": 2, "embedding_lr": 10, "head_lr": 6, "eps": 1e-7}


def recipe(param="standard", model=None, **optimizer):
    return Recipe.model_validate(
        {
            "data": {"source": {"kind": "text", "paths": ["x"]}},
            "seq_len": 32,
            "model": {"kind": "transformer", "n_layers": 2, "head_size": 8} | (model or {}),
            "optimizer": OPTIMIZER | optimizer,
            "batch": {"kind": "constant", "value": 1024},
            "param": param,
        }
    )


def model_of(width, depth=2, **changes):
    return Transformer(
        n_layers=depth,
        d_model=width,
        n_heads=width // 8,
        n_kv_heads=width // 8,
        head_size=8,
        d_ff=3 * width,
        vocab_size=64,
        **changes,
    )


def spec_of(param, width, depth=2, **optimizer):
    return recipe(param, **optimizer).spec(model_of(width, depth), 2e5, data_digest="x", seed=0)


def factors(found, field):
    return {name: getattr(group, field) for name, group in found.groups.items()}


@pytest.mark.parametrize("param", ["standard", "mup", "completep"])
def test_at_the_reference_size_every_parametrization_is_the_same_run(param):
    assert spec_of(param, 16).id == spec_of("standard", 16).id


def test_multipliers_of_mup_by_hand():
    """Yang et al. 2022, table 8: hidden rate and variance 1/m, output x 1/m; lr x decay constant."""
    x4 = multipliers("mup", width=4, depth=2)

    assert factors(x4, "lr") == {
        "embedding": 1,
        "matrix": 0.25,
        "residual": 0.25,
        "vector": 1,
        "last vector": 1,
        "head": 1,
    }
    assert factors(x4, "weight_decay")["matrix"] == 4
    assert factors(x4, "weight_decay")["embedding"] == factors(x4, "weight_decay")["head"] == 1
    assert factors(x4, "init_std")["matrix"] == 0.5
    assert factors(x4, "init_std")["residual"] == pytest.approx(1 / math.sqrt(8))
    assert set(factors(x4, "eps").values()) == {1}
    assert (x4.output, x4.residual) == (0.25, 1)


@pytest.mark.parametrize(("width", "depth"), [(2, 1), (4, 1), (1, 2), (1, 4), (4, 4)])
def test_multipliers_of_completep_by_hand(width, depth):
    """Dey et al. 2025 at alpha 1: branches 1/m_d, eps 1/(m_w m_d) in blocks and 1/m_w outside, no depth in a rate."""
    found = multipliers("completep", width=width, depth=depth)

    assert found.residual == 1 / depth
    assert found.output == 1 / width
    assert factors(found, "lr")["matrix"] == factors(found, "lr")["residual"] == 1 / width
    assert factors(found, "weight_decay")["residual"] == width
    assert factors(found, "init_std")["residual"] == factors(found, "init_std")["matrix"] == width**-0.5
    assert factors(found, "eps") == {
        "embedding": 1 / width,
        "matrix": 1 / (width * depth),
        "residual": 1 / (width * depth),
        "vector": 1 / (width * depth),
        "last vector": 1 / width,
        "head": 1 / width,
    }


def test_standard_has_the_width_exponent_alone():
    found = multipliers("standard", width=4, depth=4, width_exponent=0.5)

    assert factors(found, "lr")["matrix"] == 0.5
    assert (found.output, found.residual, factors(found, "weight_decay")["matrix"]) == (1, 1, 1)
    assert set(factors(found, "eps").values()) == {1}


def test_a_run_of_completep_has_its_multipliers_in_model_and_optimizer():
    spec = spec_of("completep", 64, depth=8)
    model, optimizer = spec.model, spec.optimizer

    assert (model.residual_multiplier, model.output_multiplier, model.residual_depth) == (0.25, 0.25, 2)
    assert optimizer.lr_matrix == pytest.approx(0.001)  # .004 x 16 / 64
    assert (optimizer.lr_embedding, optimizer.lr_head) == pytest.approx((0.04, 0.024))
    assert optimizer.weight_decay_matrix == pytest.approx(0.4)
    assert optimizer.weight_decay == 0.1
    assert optimizer.eps == pytest.approx(1e-7 / 4)
    assert optimizer.eps_blocks == pytest.approx(1e-7 / 16)


def test_the_table_of_multipliers_is_what_runs_have():
    """Rates, decays, eps and starting values of a run, over those at the reference size, group by group."""
    members = {
        "embedding": "embedding",
        "matrix": "blocks.0.qkv",
        "residual": "blocks.0.out",
        "vector": "blocks.0.norm_mlp",
        "last vector": "norm",
        "head": "head",
    }

    def measured(spec):
        network = spec.model.network()
        network.reset(0)
        named, flat = (
            dict(network.named_parameters()),
            FlatOptimizer(network, network.kinds(), spec.optimizer, torch.float32),
        )
        group_of = {name: span.group for span in flat._spans for name in span.names}
        return {
            group: (
                float(named[name].detach().square().mean().sqrt()),
                group_of[name].lr,
                group_of[name].weight_decay,
                group_of[name].eps or spec.optimizer.eps,
            )
            for group, name in members.items()
        }

    base = measured(spec_of("completep", 16))
    large = measured(spec_of("completep", 64, depth=8))
    table = multipliers("completep", width=4, depth=4).groups

    for group in members:
        for value, reference, expected in zip(
            large[group], base[group], vars(table[group]).values(), strict=True
        ):
            assert value == pytest.approx(reference * expected, rel=0.06), group  # .06: sampled weights


def test_weights_in_blocks_move_by_their_own_eps():
    """With eps much larger than gradients AdamW's step is lr x gradient / eps."""
    spec = spec_of("completep", 16, depth=8, eps=10.0)
    network = spec.model.network()
    network.reset(0)
    flat = FlatOptimizer(network, network.kinds(), spec.optimizer, torch.float32)
    named = dict(network.named_parameters())
    before = {name: weight.detach().clone() for name, weight in named.items()}
    flat.gradient.fill_(1e-2)

    flat.update(1.0, flat.norm() * 0)

    def step(name):
        return float((before[name] - named[name].detach()).mean())

    assert step("blocks.0.norm_mlp") / step("norm") == pytest.approx(4, rel=1e-2)  # depth 8 over depth_ref 2


def growth(param, width_exponent):
    """Ratio of rms at width 128 over that at width 16: last block and logits, after 3 updates at full rate."""
    found = []
    for width in (16, 128):
        changes = {} if width_exponent is None else {"width_exponent": width_exponent}
        spec = spec_of(param, width, lr=0.02, embedding_lr=1, head_lr=1, **changes)
        network = spec.model.network()
        network.reset(0)
        flat = FlatOptimizer(network, network.kinds(), spec.optimizer, torch.float32)
        draw = torch.Generator().manual_seed(1)
        tokens = (
            torch.randint(0, 8, (16, 33), generator=draw) ** 2
        )  # eight tokens of 64 alone: there is much to learn
        for _ in range(3):
            network(tokens[:, :-1], tokens[:, 1:]).backward()
            flat.gather()
            flat.step(1.0)
        with torch.no_grad():
            found.append(
                {k: float(v.square().mean().sqrt()) for k, v in network.activations(tokens[:, :-1]).items()}
            )
    return {name: found[1][name] / found[0][name] for name in ("block 2", "logits")}


def test_activations_of_a_real_model_keep_their_size_under_mup_alone():
    mup, standard, todays = growth("mup", None), growth("standard", 0.0), growth("standard", 1.0)

    assert 0.6 < mup["logits"] < 1.7
    assert 0.6 < mup["block 2"] < 1.7
    assert standard["logits"] > 3
    assert standard["block 2"] > 2
    assert todays["logits"] > 3  # the width rule of matrices alone leaves the head


def test_multipliers_enter_every_way_through_the_network():
    """Chunked loss, generation and the exported weights agree with the plain forward pass."""
    config = model_of(16, depth=3, residual_multiplier=0.4, output_multiplier=0.25, residual_depth=1)
    network = config.network()
    network.reset(0)
    torch.nn.init.normal_(network.head, generator=torch.Generator().manual_seed(2))
    tokens = torch.randint(0, 64, (2, 9), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = network(tokens[:, :-1])
        loss = network(tokens[:, :-1], tokens[:, 1:])
        network.configure(4, "sdpa")
        chunked = network(tokens[:, :-1], tokens[:, 1:])
        network.configure(None, "sdpa")
        without = config.model_copy(update={"residual_multiplier": 1.0, "output_multiplier": 1.0})
        plain, folded = without.network(), LlamaLayout(config).theirs(dict(network.named_parameters()))
        plain.load_state_dict(LlamaLayout(without).ours(folded))
        exported = plain(tokens[:, :-1])
        cached = KeyValueCache(network, tokens[:, :-1].tolist(), 1).first()

    torch.testing.assert_close(chunked, loss)
    torch.testing.assert_close(exported, logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(cached, logits[:, -1], rtol=1e-4, atol=1e-5)
    assert float((network.hidden(tokens) @ network.head.T - network(tokens)).detach().abs().max()) < 1e-5


@pytest.mark.parametrize(
    ("param", "optimizer", "words"),
    [
        ("mup", {"kind": "muon"}, "defined for adamw, and the optimizer is muon"),
        ("mup", {"width_exponent": 0.5}, "width_exponent is 0.5"),
        ("completep", {"depth_ref": None}, "needs recipe.optimizer.depth_ref"),
        ("mup", {"groups": [{"match": "*/x"}]}, "groups names others"),
        (
            "mup",
            {"lr": {"kind": "width", "base": 0.01, "width_ref": 64}},
            "changes with the size of the model",
        ),
        (
            "mup",
            {"lr": {"kind": "power", "coefficient": 1, "n_params": -0.2}},
            "changes with the size of the model",
        ),
        (
            "mup",
            {"weight_decay": {"kind": "decay_width", "base": 0.1, "width_ref": 16, "variant": "linear"}},
            "width",
        ),
        (
            "completep",
            {"beta2": {"kind": "power", "coefficient": 0.5, "depth": -0.1}},
            "changes with the depth",
        ),
        ("mup", {"lr": {"kind": "deepseek_lr"}}, "the whole rate at every size"),
    ],
)
def test_what_does_not_go_with_a_parametrization_is_refused_by_name(param, optimizer, words):
    with pytest.raises(Exception, match=words):
        recipe(param, **optimizer)


@pytest.mark.parametrize("param", ["mup", "completep"])
def test_heads_that_widen_with_the_model_are_refused(param):
    model = {"n_heads": 2, "head_size": None}
    recipe("standard", model)

    with pytest.raises(
        ValidationError, match=r"heads of one size at every width, and recipe\.model\.n_heads is 2"
    ):
        recipe(param, model)


def test_a_parametrization_needs_a_width_to_start_from():
    with pytest.raises(Exception, match=r"needs recipe\.optimizer\.width_ref"):
        Recipe.model_validate(
            {
                "data": {"source": {"kind": "text", "paths": ["x"]}},
                "seq_len": 32,
                "model": {"kind": "transformer", "n_layers": 2, "head_size": 8},
                "optimizer": {"lr": 0.004},
                "param": "mup",
            }
        )


def test_a_rule_of_the_tokens_and_a_decay_by_the_rate_go_with_mup():
    """The decay of the law is B / (lr D tau) with the rate of matrices, so it rises as 1 / that rate does."""
    rules = {
        "lr": {"kind": "horizon", "base": 0.004, "tokens_ref": 2e5},
        "weight_decay": {"kind": "decay_timescale"},
    }
    narrow, wide = (spec_of("mup", width, **rules).optimizer for width in (16, 64))

    assert wide.lr_matrix == pytest.approx(narrow.lr_matrix / 4)
    n = [model_of(width).size(32).count("total") for width in (16, 64)]
    expected = (n[1] / n[0]) ** -0.527  # tau follows D / N
    decays = [o.weight_decay_matrix or o.weight_decay for o in (narrow, wide)]
    assert decays[1] * wide.lr_matrix == pytest.approx(decays[0] * narrow.lr_matrix * expected)


def test_an_architecture_without_multipliers_refuses():
    with pytest.raises(ConfigError, match="has no multipliers"):
        super(Transformer, model_of(16)).with_multipliers(residual=0.5, output=0.5, residual_depth=None)
