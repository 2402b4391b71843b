"""A tuning file: its cells, its trials as runs of the recipe, and what it refuses."""

from pathlib import Path

import pytest

from scalelab.errors import ConfigError
from scalelab.launch.tune import plan_tune
from scalelab.sweep.file import SweepFile
from scalelab.sweep.tune_file import TuneFile
from scalelab.train.rules import PowerRule

ROOT = Path(__file__).parents[2]
KNOWN = {"vocab_size": 1024, "data_digest": "0123456789ab"}


@pytest.fixture(autouse=True)
def _at_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def load(*overrides):
    return TuneFile.load(ROOT / "sweeps/tune.yaml", overrides)


def rates(low, high, more=""):
    return f"fields={{optimizer.lr: {{low: {low}, high: {high}{more}}}}}"


def test_a_trial_is_a_run_of_the_recipe_with_its_value():
    file = load()
    cell = file.check(**KNOWN)[-1]

    trial = file.proposal(cell, {"optimizer.lr": 1.5e-2}, 3, KNOWN["data_digest"]).spec
    base = SweepFile.load(ROOT / "sweeps/isoflop.yaml", ["recipe.optimizer.lr=1.5e-2"]).recipe

    assert trial == base.spec(cell.model, cell.n_tokens, data_digest=KNOWN["data_digest"], seed=3)
    assert (
        file.proposal(cell, {}, 3, KNOWN["data_digest"]).spec.optimizer.lr_matrix != trial.optimizer.lr_matrix
    )


def test_cells_are_every_size_on_every_token_count():
    file = load()
    found = file.cells(1024)

    assert len(found) == 4
    assert [c.n_tokens for c in found] == [*file.tokens, *file.tokens]
    assert found[0].n_params == found[1].n_params < found[2].n_params


def test_the_batch_can_be_tuned_and_a_rule_written_for_it():
    file = load("fields={batch: {low: 512, high: 2048}}")
    cell = file.check(**KNOWN)[0]

    spec = file.proposal(cell, {"batch": 1100.0}, 0, KNOWN["data_digest"]).spec
    ruled = file.recipe_with({"batch": {"kind": "power", "coefficient": 2.0, "n_tokens": 0.5}})

    assert spec.batch_tokens == 1024
    assert file.own_values(cell) == {"batch": 1024.0}
    assert isinstance(ruled.batch, PowerRule)


def test_a_recipe_of_published_rules_keeps_a_reason_for_what_replaces_them():
    rules = ("steplaw_lr", "steplaw_batch")
    base = SweepFile.load(
        ROOT / "sweeps/isoflop.yaml",
        [
            f"recipe.optimizer={{kind: adamw, lr: {rules[0]}, width_exponent: 0, batch_exponent: 0}}",
            f"recipe.batch={rules[1]}",
        ],
    )
    file = load()
    file = file.model_copy(update={"extends": base})

    assert file.recipe_with({"optimizer.lr": 1e-3}).override == "optimizer.lr tuned by tune"


def test_more_trials_keep_the_search_and_other_ranges_do_not():
    cell = load().cells(1024)[0]
    first = load().search_digest(cell, "d")

    assert load("trials=20").search_digest(cell, "d") == first
    assert load(rates(7.5e-4, 3e-2)).search_digest(cell, "d") != first


REFUSED = [
    ((rates(-1e-3, 4.8e-2),), "low -0.001 has no logarithm"),
    (
        (rates(-1e-3, 1e-2, ", log: false"),),
        "optimizer.lr cannot be -0.001: optimizer: lr: input should be greater than 0",
    ),
    ((rates(5e-2, 4.8e-2),), "low 0.05 is not below high 0.048"),
    (("sizes=[4e4]",), "sizes has 1 value: how the best values change with N needs two or more"),
    (("tokens=[4e5]",), "tokens has 1 value: how the best values change with D needs two or more"),
    (("tokens=[4e5, 4e5]",), "tokens must rise without repeats"),
    (
        ("fields={optimizer.lrr: {low: 1, high: 2}}",),
        "no number 'optimizer.lrr' that a rule can give; did you mean",
    ),
    (("fields={seq_len: {low: 32, high: 64}}",), "'seq_len' cannot be tuned: no rule can stand there"),
    (("fields={optimizer.kind: {low: 1, high: 2}}",), "no number 'optimizer.kind'"),
    (
        ("fields={schedule.warmup: {low: 0.01, high: 0.8}}",),
        "schedule.warmup cannot be 0.8: .*together over 1",
    ),
    (("fields={}",), "fields"),
    (("extends=sweeps/absent.yaml",), "there is no file sweeps/absent.yaml in "),
]


@pytest.mark.parametrize(("changes", "problem"), REFUSED)
def test_a_file_that_cannot_be_is_refused(changes, problem):
    with pytest.raises(ConfigError, match=problem) as refused:
        load(*changes)

    assert refused.value.where
    assert refused.value.fix


IMPOSSIBLE = [
    (
        ("fields={batch: {low: 512, high: 1e6}}",),
        "batch 1e.06 is no run of 26.2k parameters on 400k tokens: "
        "the batch of 1,048,576 tokens is larger than the run",
    ),
    ((rates(7e-3, 4.8e-2),), "the recipe's own optimizer.lr at 26.2k .* is 0.006, outside 0.007 to 0.048"),
    (("sizes=[5.8e4, 5.9e4]",), "sizes 58k and 59k come out as the same model"),
    (("trials=7",), "7 trials of each cell are too few: a surface over 1 fields needs 8"),
    (("tokens=[4e3, 4e5]",), "fewer than min_steps 100"),
]


@pytest.mark.parametrize(("changes", "problem"), IMPOSSIBLE)
def test_cells_that_cannot_be_trained_are_refused_before_anything_is(changes, problem, monkeypatch):
    monkeypatch.setattr("scalelab.data.corpus.shards.find", lambda data: None)
    with pytest.raises(ConfigError, match=problem) as refused:
        plan_tune(load(*changes))

    assert refused.value.where
    assert refused.value.fix
