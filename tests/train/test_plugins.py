"""Every optimizer, rule and schedule of this package keeps its contract; suites notice faults."""

from typing import ClassVar, Literal

import pytest
import torch

from scalelab.config import parse_yaml
from scalelab.errors import ConfigError
from scalelab.posttrain.stages.ppo import Ppo
from scalelab.registry import PluginTarget
from scalelab.testing import optimizers, rules, schedules
from scalelab.train import OPTIMIZERS, RULES, SCHEDULES
from scalelab.train.optimizers.adamw import AdamW
from scalelab.train.optimizers.base import ParamGroup, grouped
from scalelab.train.rules import BatchRule, PowerRule
from scalelab.train.schedule import WSD, Cosine

OPTIMIZER_CASES = {
    "adamw": [
        {"lr": 0.02},
        {"lr": 0.02, "beta1": 0.8, "beta2": 0.99, "weight_decay": 0.3, "grad_clip": None},
        {"lr": 0.02, "groups": [{"match": "*/first", "lr": 0.5, "weight_decay": 0.0}]},
    ],
    "muon": [
        {"lr": 0.02},
        {"lr": 0.02, "momentum": 0.8, "weight_decay": 0.3, "grad_clip": None},
        {"lr": 0.02, "hold_norm": True},
    ],
}
RULE_CASES = {
    "power": [
        {"coefficient": 1.79, "n_params": -0.713, "n_tokens": 0.307},
        {"coefficient": 3, "width": -1, "depth": -0.5, "batch_tokens": 0.5, "n_steps": -0.1},
        {"coefficient": 0.3118, "flops": -0.125, "least": 1e-4, "most": 1e-2},
    ],
    "batch": [{}, {"coefficient": 5.8, "exponent": 0.4}],
    "constant": [{"value": 0.3}],
    "width": [{"base": 0.02, "width_ref": 64}, {"base": 0.02, "width_ref": 64, "exponent": 0.5}],
    "horizon": [{"base": 0.02, "tokens_ref": 1e6}],
    "steplaw_lr": [{}, {"times": 0.5}],
    "steplaw_batch": [{}],
    "deepseek_lr": [{}],
    "deepseek_batch": [{}, {"times": 2}],
    "delphi_lr": [{}],
    "delphi_beta2": [{}],
    "adamc_lr": [{}],
    "decay_timescale": [{}],
    "decay_width": [{"base": 0.1, "width_ref": 64, "variant": v} for v in ("linear", "sqrt")],
    "half_life": [{"tokens": 1e7}],
}
SCHEDULE_CASES = {
    "wsd": [{}, {"warmup": 0.0, "cooldown": 1.0}, {"shape": "sqrt"}, {"warmup": 1, "cooldown": 0}],
    "cosine": [{}, {"warmup": 0.0, "final": 0.1}],
}


def cases(table):
    return [(name, settings) for name, all_ in table.items() for settings in all_]


def test_every_member_has_cases_here():
    assert set(OPTIMIZER_CASES) == set(OPTIMIZERS)
    assert set(RULE_CASES) == set(RULES)
    assert set(SCHEDULE_CASES) == set(SCHEDULES)


@pytest.mark.parametrize(("name", "settings"), cases(OPTIMIZER_CASES))
def test_optimizer_conforms(name, settings):
    optimizers.check_optimizer(name, settings)


@pytest.mark.parametrize(("name", "settings"), cases(RULE_CASES))
def test_rule_conforms(name, settings):
    rules.check_rule(name, settings)


def test_rules_of_the_batch_conform():
    rules.check_rule_of_batch("batch", {})
    rules.check_rule_of_batch("power", {"coefficient": 0.58, "n_tokens": 0.571})
    rules.check_rule_of_batch("steplaw_batch", {})
    rules.check_rule_of_batch("deepseek_batch", {})


@pytest.mark.parametrize(("name", "settings"), cases(SCHEDULE_CASES))
def test_schedule_conforms(name, settings):
    schedules.check_schedule(name, settings)


UPDATE = AdamW.update


def always_at_the_peak(self, weights, gradients, state, *, group, lr, step):
    UPDATE(self, weights, gradients, state, group=group, lr=group.lr, step=step)


def without_its_number(self, weights, gradients, state, *, group, lr, step):
    self.__dict__["n"] = n = self.__dict__.get("n", 0) + 1
    UPDATE(self, weights, gradients, state, group=group, lr=lr, step=n)


def by_its_shape(self, weights, gradients, state, *, group, lr, step):
    gradients = [g / (g.norm() + 1e-9) + g for g in gradients]
    UPDATE(self, weights, gradients, state, group=group, lr=lr, step=step)


def uphill(self, weights, gradients, state, *, group, lr, step):
    UPDATE(self, weights, [-g for g in gradients], state, group=group, lr=lr, step=step)


def elsewhere(self, weights, gradients, state, **settings):
    copies = {name: [t.clone() for t in tensors] for name, tensors in state.items()}
    UPDATE(self, weights, gradients, copies, **settings)
    for name in state:
        state[name][:] = copies[name]


BROKEN_OPTIMIZERS = {
    "no schedule": (AdamW, "update", always_at_the_peak, "at a rate of zero"),
    "a counter of its own": (AdamW, "update", without_its_number, "the same updates end otherwise"),
    "a norm of all it is given": (AdamW, "update", by_its_shape, "elementwise is False"),
    "the wrong sign": (AdamW, "update", uphill, "does not fall"),
    "less memory than it takes": (AdamW, "state_bytes", lambda self, n: 4 * n, "state_bytes"),
    "no rate for the log": (AdamW, "rates", lambda self: {}, '"lr"'),
}


@pytest.mark.parametrize("fault", BROKEN_OPTIMIZERS)
def test_a_broken_optimizer_is_noticed(fault, monkeypatch):
    monkeypatch.setattr(*BROKEN_OPTIMIZERS[fault][:3])

    with pytest.raises(AssertionError, match=BROKEN_OPTIMIZERS[fault][3]):
        optimizers.check_optimizer("adamw", {"lr": 0.02, "weight_decay": 0.0})


def test_broken_rules_and_schedules_are_noticed(monkeypatch):
    monkeypatch.setattr(PowerRule, "at", lambda self, scale: float("inf"))
    with pytest.raises(AssertionError, match="inf for"):
        rules.check_rule("power", {"coefficient": 1})
    monkeypatch.setattr(WSD, "factor", lambda self, step, n: min(1.0, step / 100))
    with pytest.raises(AssertionError, match="follows the run's length"):
        schedules.check_schedule("wsd", {})
    monkeypatch.setattr(Cosine, "factor", lambda self, step, n: 1.5)
    with pytest.raises(AssertionError, match=r"not in \[0, 1\]"):
        schedules.check_schedule("cosine", {})


class Rowwise(AdamW):
    """An optimizer whose update depends on the shapes of weights: rows of gradients of norm 1."""

    elementwise: ClassVar = False
    kind: Literal["rowwise"] = "rowwise"

    def update(self, weights, gradients, state, *, group, lr, step):
        rows = [torch.nn.functional.normalize(g, dim=-1) for g in gradients]
        super().update(weights, rows, state, group=group, lr=lr, step=step)


def test_an_optimizer_may_depend_on_the_shapes_of_weights(monkeypatch):
    monkeypatch.setitem(OPTIMIZERS._own, "rowwise", PluginTarget(f"{__name__}:Rowwise", "scalelab"))
    rate = 0.02
    settings = {f"lr_{role}": rate for role in ("matrix", "embedding", "head", "vector")}

    optimizers.check_optimizer("rowwise", settings)


def test_the_first_group_that_matches_has_a_weight():
    groups = [ParamGroup(match=match, lr=0.1) for match in ("*/a.*", "matrix/*", "none/*", "*")]
    kinds = {"b.1": "matrix", "a.1": "matrix", "c": "vector", "a.2": "vector"}

    found = [(group.match, names) for group, names in grouped(groups, kinds)]

    assert found == [("*/a.*", ["a.1", "a.2"]), ("matrix/*", ["b.1"]), ("*", ["c"])]
    with pytest.raises(ConfigError, match="no group of the optimizer matches the weight vector/c"):
        grouped(groups[:3], kinds)


def test_weights_of_own_groups_have_their_rates():
    """A rate of .5 x .02 at the reference batch, and half of that at twice the width."""
    recipe = AdamW.recipe(
        lr=0.02,
        batch_ref=1024,
        weight_decay=0.3,
        groups=({"match": "*/first", "lr": 0.5, "width_exponent": 1.0, "weight_decay": 0.0},),
    )
    spec = recipe.at(optimizers.SCALE)
    wide = recipe.at(rules.SCALES[0].with_batch(1024))

    ((group, names), *others) = grouped(spec.groups(), optimizers.ROLES)
    assert (names, group.lr, group.weight_decay) == (["first"], 0.01, 0.0)
    assert [(group.match, names) for group, names in others] == [
        ("matrix/*", ["second"]),
        ("embedding/*", ["embedding"]),
        ("head/*", ["head"]),
        ("vector/*", ["gain"]),
    ]
    assert wide.own_groups[0].lr == pytest.approx(0.01 * 64 / 8)
    assert "first 0.01" in spec.words()


def test_the_batch_of_a_run_is_settled_before_anything_reads_it():
    with pytest.raises(ConfigError, match="reads the batch, or what follows from it") as caught:
        rules.check_rule_of_batch("power", {"coefficient": 1, "n_steps": 0.5})
    assert "let it read n_params, n_tokens" in str(caught.value)


def test_a_batch_that_cannot_be_is_refused_with_the_scale(monkeypatch):
    monkeypatch.setattr(BatchRule, "at", lambda self, scale: 0.0)

    with pytest.raises(ConfigError, match=r"'batch' gives a batch of 0\.0 tokens"):
        rules.check_rule_of_batch("batch", {})


def test_a_mistake_in_an_optional_optimizer_is_answered_with_the_keys_that_there_are():
    text = "kind: ppo\nname: p\nstart: sft\nreward: gold\nrates: {lr: 1}\ncritic_rates: {lrr: 1}"

    with pytest.raises(ConfigError, match=r"x\.yaml:6: critic_rates\.lrr: unknown key 'lrr'") as no:
        Ppo.parse(parse_yaml(text, "x.yaml"))

    assert "keys here: kind, lr, beta2, weight_decay, grad_clip" in str(no.value)
