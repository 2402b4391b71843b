"""Numbers that are possible one by one and not together: a plan, or a refusal, and soon."""

import copy
import time

import pytest

from scalelab.errors import ConfigError, ScalelabError
from scalelab.model.sizing import MOST_MEMBERS, members
from scalelab.model.transformer.config import TransformerFamily
from scalelab.sweep.file import MOST_RUNS, SweepFile
from scalelab.yaml_document import YamlDocument, parse_yaml

SWEEP = """
name: t
question: q
prediction: p
recipe:
  data: {source: pycode, tokenizer: {kind: bpe, vocab_size: 1024, train_bytes: 8e6}, validation: 0.1, epochs: 9}
  seq_len: 64
  param_count: matmul
  model: {kind: transformer, n_layers: 2, head_size: 8, heads_per_kv_head: 1, ff_ratio: 2, ff_multiple: 8}
  optimizer:
    kind: adamw
    lr: {kind: power, coefficient: 3e-3, n_params: -0.1, n_tokens: 0.1, least: 0, most: 1}
    width_exponent: 1
    width_ref: 64
    batch_ref: 1024
    batch_exponent: 0.5
    beta1: 0.9
    weight_decay: 0.1
    grad_clip: 1
    groups: [{match: "*gain", lr: 2, width_exponent: 1}]
  batch: {coefficient: 0.9, exponent: 0.5, min_tokens: 512, max_tokens: 4096}
  schedule: {kind: wsd, warmup: 0.1, cooldown: 0.5}
  min_steps: 20
  evaluation: {tokens: 32768, curve_points: 2, curve_tokens: 8192}
design:
  kind: isoflop
  budgets: [3e11, 9e11]
  sizes_per_budget: 3
  span: 4
  tokens_per_param: 14
  seed: 1
  replicates: 1
target_flops: 1e13
launch: {executor: {kind: local, slots: 2}, retries: 1, heartbeat_timeout_s: 9, price_per_device_hour: 1}
"""
NUMBERS = (0, -1, 7, 0.3, 1e-300, 1e12, 1e18, 1e300, 10**60)
OTHERS = (True, None, "x", "\u00e9\u2028", [], [[1]], {}, {"kind": ["x"]}, {7: 1})
SLOWEST_S = 10.0
"""Of the CPU: others may be busy too."""


def outcome(data):
    """The number of runs, or the refusal."""
    begun = time.process_time()
    try:
        file = SweepFile.parse(YamlDocument("t.yaml", data))
        found = len(file.design.study(file.recipe, vocab_size=1024, data_digest="d" * 12).ask())
    except ScalelabError as refused:
        found = refused
    assert time.process_time() - begun < SLOWEST_S
    if not isinstance(found, int):
        assert found.where
        assert found.fix
        assert len(str(found)) < 3000
    return found


def leaves(value, path=()):
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, below in inner:
        yield (*path, key)
        yield from leaves(below, (*path, key))


DATA = parse_yaml(SWEEP, "t.yaml").data


def test_the_sweep_itself_can_be_planned():
    assert outcome(DATA) == 7


@pytest.mark.parametrize("path", [*leaves(DATA)], ids=lambda path: ".".join(map(str, path)))
def test_no_value_anywhere_ends_in_a_traceback_or_a_hang(path):
    refusals = 0
    for value in (*NUMBERS, *OTHERS):
        data = copy.deepcopy(DATA)
        place = data
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value
        refusals += not isinstance(outcome(data), int)

    assert refusals >= 3  # lists and mappings are never right everywhere


def changed(*overrides):
    document = parse_yaml(SWEEP, "t.yaml")
    for override in overrides:
        document.override(override)
    return outcome(document.data)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ("recipe.model.head_size=7", "rotary positions need an even head_size, not 7"),
        ("recipe.model.ff_ratio=1e300", "its smallest model cannot be built: d_ff"),
        ("recipe.batch.exponent=1e12", "the batch cannot be computed: a result is too large"),
        ("recipe.optimizer.lr=1e308", "lr: input should be a finite number, got inf"),
        ("design.span=1.0000000000000002", "a division by zero"),
        ("design.tokens_per_param=1e300", "needs inf"),
        ("design.budgets=[1e40]", f"more than {MOST_MEMBERS:,} models"),
        ("design.replicates=1000000", "asks for 1,000,006 runs, more than 10,000"),
        ("design.sizes_per_budget=1e18", "more than 10,000"),
        ("design.seed=4294967295", "replicates after 4294967295 pass 4294967295"),
    ],
)
def test_the_refusal_says_what_cannot_be(change, problem):
    assert problem in str(changed(change))


def test_a_seed_fits_every_generator():
    single = ("design={kind: single, n_params: 1e5, n_tokens: 1e6}",)

    assert changed(*single, "design.seed=4294967295") == 1
    assert "less than or equal to 4294967295" in str(changed(*single, "design.seed=4294967296"))


def test_a_sweep_of_the_largest_size_is_planned_in_seconds():
    assert changed(f"design.replicates={MOST_RUNS - 6}") == MOST_RUNS
    assert isinstance(changed(f"design.replicates={MOST_RUNS - 5}"), ConfigError)


def test_the_search_of_a_family_ends():
    family = TransformerFamily(head_size=2, n_layers=1)

    with pytest.raises(ConfigError, match="more than 20,000 models"):
        for _ in members(family, 257):
            pass
