"""Does a rule keep its contract? For members of RULES, of any package.

    check_rule("mine", {"coefficient": 0.3})
    check_rule_of_batch("mine", {"coefficient": 500})

Every check is an AssertionError that says what does not hold.

Not here: what a rule is (train/rules.py).
"""

import math
from collections.abc import Mapping
from itertools import product
from typing import Any

from scalelab.config import parse_yaml
from scalelab.train import RULES
from scalelab.train.rules import PublishedFit, Rule, Scale, whole_batch

SCALES = tuple(
    Scale(
        n_params=n,
        n_tokens=n * ratio,
        width=width,
        depth=depth,
        flops=6 * n * n * ratio,
        body_params=0.8 * n,
        body_flops=4.8 * n * n * ratio,
    )
    for (n, width, depth), ratio in product(
        ((1e3, 8, 1), (1e6, 64, 4), (1e9, 1024, 24), (1e12, 16384, 128)), (5, 20, 1000)
    )
)
"""From a model of a thousand weights to one of 10^12; the batch is not settled."""
BATCHES = (512, 2**17, 2**24)
SEQ_LENS = (32, 1000, 8192)
RATE = 2e-3
"""Peak rate of matrices for rules that read it."""


def check_rule(name: str, settings: Mapping[str, Any]) -> None:
    """A rule gives a number at every scale, the same again, and is read back as it was written.

    Args:
        name: In RULES.
        settings: Without `kind`.
    """
    rule = made(name, settings)
    for before, batch in product(SCALES, BATCHES):
        scale = before.with_batch(batch)
        if rule.reads_rate:
            scale = scale.with_rate(RATE)
        if scale.n_steps == 0:
            continue
        value = rule.at(scale)
        assert isinstance(value, int | float), f"{value!r} is no number"
        assert math.isfinite(value), f"{value} for {scale.words()}"
        assert value == made(name, settings).at(scale), "another number again"


def check_rule_of_batch(name: str, settings: Mapping[str, Any]) -> None:
    """A rule does for the batch: it reads what is settled before, and gives whole windows."""
    rule = made(name, settings)
    for scale, seq_len in product(SCALES, SEQ_LENS):
        batch = whole_batch(rule, scale, seq_len)
        rows = batch // seq_len
        assert batch == rows * seq_len, f"{batch} tokens are no whole windows"
        assert rows & (rows - 1) == 0, f"{rows} windows are no power of two"


def made(name: str, settings: Mapping[str, Any]) -> Rule:
    """The rule, once it is found to be what its name says."""
    member = RULES[name]
    rule = member.model_validate({"kind": name, **settings})
    assert rule.kind == name == member.model_fields["kind"].default, "kind is not its name"
    assert member.parse(parse_yaml(rule.to_yaml(), name)) == rule, "lost in YAML"
    if rule.published is not None:
        check_published(rule.published)
    return rule


def check_published(fit: PublishedFit) -> None:
    """A published rule says where it is from, with every constant, and ranges that a scale has."""
    for name in ("family", "formula", "source"):
        assert getattr(fit, name).strip(), f"published.{name} is empty"
    assert fit.constants, "published.constants is empty"
    for name, constant in fit.constants.items():
        assert math.isfinite(constant.value), f"the constant {name} is {constant.value}"
    known = SCALES[0].with_batch(BATCHES[0]).with_rate(RATE)
    for fitted in fit.ranges:
        assert fitted.low < fitted.high, f"the range of {fitted.quantity} is empty"
        assert hasattr(known, fitted.quantity), f"a scale has no {fitted.quantity}"
    assert set(fit.partners.values()) <= set(RULES), f"unknown partners {sorted(fit.partners.values())}"
    places = {place.split(".")[0] for place in fit.partners}
    assert places <= {"batch", "optimizer", "schedule"}, f"partners at {sorted(places)}"
