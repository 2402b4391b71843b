"""A sweep file that extends another: what is joined, what is replaced, where errors point."""

import pytest

from scalelab.errors import ConfigError
from scalelab.sweep.file import SweepFile

BASE = """\
name: base
question: Which?
prediction: The first of the two, by some margin.
recipe:
  data: {source: pycode}
  seq_len: 64
  model: {kind: transformer, n_layers: 2, n_heads: 3}
  optimizer: {lr: 6e-3, beta2: 0.9}
design: {kind: isoflop, budgets: [1e11, 2e11], sizes_per_budget: 3}
"""


@pytest.fixture
def write(tmp_path, monkeypatch):
    """A function that writes a file beside base.yaml and returns its path."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base.yaml").write_text(BASE)

    def write(text, name="arm.yaml"):
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return write


def test_mappings_are_joined_and_the_file_itself_wins(write):
    arm = SweepFile.load(
        write(
            "extends: base.yaml\nname: arm\nrecipe:\n  optimizer: {lr: 1e-2}\n"
            "  model: {n_layers: 4}\ndesign: {budgets: [3e11]}\n"
        )
    )
    base = SweepFile.load(write(BASE, "base.yaml"))

    assert (arm.name, arm.question) == ("arm", base.question)
    assert (arm.recipe.optimizer.lr, arm.recipe.optimizer.beta2) == (1e-2, 0.9)
    assert (arm.recipe.model.n_layers, arm.recipe.model.n_heads) == (4, 3)
    assert arm.design.budgets == (3e11,)
    assert SweepFile.load(write(arm.to_yaml(), "whole.yaml")) == arm


def test_another_kind_replaces_the_whole_mapping(write):
    arm = SweepFile.load(write("extends: base.yaml\nname: arm\nrecipe: {model: {kind: lstm, layers: 2}}\n"))

    assert arm.recipe.model.kind == "lstm"
    assert arm.recipe.optimizer.lr == 6e-3


def test_files_extend_one_another_in_a_row(write):
    write("extends: base.yaml\nname: one\nrecipe: {seq_len: 128}\n", "one.yaml")
    two = SweepFile.load(write("extends: one.yaml\nname: two\nrecipe: {optimizer: {beta2: 0.95}}\n"))

    assert (two.name, two.recipe.seq_len, two.recipe.optimizer.beta2) == ("two", 128, 0.95)


def test_overrides_are_laid_over_both(write):
    arm = SweepFile.load(write("extends: base.yaml\nname: arm\n"), ["recipe.optimizer.lr=3e-3"])

    assert arm.recipe.optimizer.lr == 3e-3


def test_an_error_points_into_the_file_that_has_it(write):
    arm = write("extends: base.yaml\nname: arm\nrecipe:\n  seq_len: -1\n")
    write(BASE.replace("n_layers: 2", "n_layers: 0"), "base.yaml")

    with pytest.raises(ConfigError) as refused:
        SweepFile.load(arm)

    assert "arm.yaml:4: recipe.seq_len" in str(refused.value)
    assert "base.yaml:7: recipe.model.n_layers" in str(refused.value)


@pytest.mark.parametrize(
    ("extends", "problem"),
    [
        ("nowhere.yaml", "there is no file nowhere.yaml"),
        (f"{'n' * 300}.yaml", "there is no file nnn"),
        ("[base.yaml]", "no path"),
        ("arm.yaml", "arm.yaml extends arm.yaml"),
        ("loop.yaml", "extends loop.yaml which extends"),
    ],
)
def test_what_cannot_be_extended_is_refused_with_its_line(write, extends, problem):
    write("extends: arm.yaml\nname: loop\n", "loop.yaml")

    with pytest.raises(ConfigError) as refused:
        SweepFile.load(write(f"name: arm\nextends: {extends}\n"))

    assert problem in str(refused.value)
    assert ":2" in refused.value.where or ":1" in refused.value.where
