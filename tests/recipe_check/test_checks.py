"""Every recipe check keeps its contract on real runs, and catches a fault that was planted."""

import math
import random
from types import SimpleNamespace

import numpy as np
import pytest

from scalelab.errors import ConfigError
from scalelab.recipe_check.members.coordinate import CoordinateCheck
from scalelab.recipe_check.members.horizon import HorizonCheck
from scalelab.recipe_check.members.transfer import TransferCheck
from scalelab.recipe_check.runs import train_here
from scalelab.recipe_check.workbench import RecipeWorkbench
from scalelab.testing.recipe_checks import check_recipe_check
from scalelab.train.run_directory import RunDir

BUDGET = {"coordinate": 1.2e9, "transfer": 2.4e9, "horizon": 2.1e9}


@pytest.fixture
def bench(tiny_recipe, synthetic_corpus, tmp_path):
    """A function that makes a workbench with small runs."""

    def make(name, seeds=(0, 1), workbench=RecipeWorkbench, **changes):
        return workbench(
            tiny_recipe(**changes),
            synthetic_corpus,
            tmp_path / ".checks" / "tiny",
            train_here,
            BUDGET[name],
            seeds,
        )

    return make


def contract(name, tiny_recipe, synthetic_corpus, tmp_path):
    """The finding of a check that keeps its contract, and the specs of its runs."""
    directory = tmp_path / ".checks" / "tiny"
    found = check_recipe_check(name, tiny_recipe(), synthetic_corpus, directory, train_here, BUDGET[name])
    return found, [RunDir(path).spec() for path in directory.iterdir()]


def test_coordinate_keeps_its_contract_at_one_batch_and_three_widths(tiny_recipe, synthetic_corpus, tmp_path):
    found, specs = contract("coordinate", tiny_recipe, synthetic_corpus, tmp_path)

    assert {spec.model.width() for spec in specs} == {8, 16, 32}
    assert len({spec.batch_tokens for spec in specs}) == 1
    assert {spec.n_steps for spec in specs} == {1, 4, 8, 64}
    assert len(found.measures) == 8  # one block and the logits, at four places
    for measure, curve in zip(found.measures, found.plot.curves, strict=True):
        assert measure.name.startswith(f"{curve.name}, step")
        slopes = np.polyfit(np.log(curve.x), np.log(curve.y), 1)[0]
        assert slopes.mean() == pytest.approx(measure.value)


def test_transfer_keeps_its_contract_at_thirds_and_triples_of_equal_runs(
    tiny_recipe, synthetic_corpus, tmp_path
):
    _, specs = contract("transfer", tiny_recipe, synthetic_corpus, tmp_path)

    assert len({(spec.n_steps, spec.batch_tokens) for spec in specs}) == 1
    by_width = {}
    for spec in specs:
        by_width.setdefault(spec.model.width(), set()).add(round(spec.optimizer.lr_head / 0.03, 3))
    assert sorted(by_width) == [8, 32]
    assert all({0.333, 1.0, 3.0} <= rates for rates in by_width.values())


def test_horizon_keeps_its_contract_at_8_times_the_tokens(tiny_recipe, synthetic_corpus, tmp_path):
    found, specs = contract("horizon", tiny_recipe, synthetic_corpus, tmp_path)

    short, long = (int(n) for n in found.settings["tokens"].split(", "))
    assert long / short == pytest.approx(8, rel=0.02)
    assert {spec.n_tokens for spec in specs} == {short, long}


class InvertedWidth(RecipeWorkbench):
    """The rate of matrices rises with the width as it should fall: at 4 times the width it is 16 times too high."""

    def spec(self, model, n_tokens, seed, batch_tokens=None):
        spec = super().spec(model, n_tokens, seed, batch_tokens)
        times = (model.width() / 16) ** 2
        optimizer = spec.optimizer.model_copy(update={"lr_matrix": spec.optimizer.lr_matrix * times})
        return spec.model_copy(update={"optimizer": optimizer})


class FlatHead(RecipeWorkbench):
    """The multiplier of the logits does not follow the width: at 4 times the width it is 4 times too large."""

    def spec(self, model, n_tokens, seed, batch_tokens=None):
        spec = super().spec(model, n_tokens, seed, batch_tokens)
        return spec.model_copy(update={"model": spec.model.model_copy(update={"output_multiplier": 1.0})})


@pytest.mark.parametrize("fault", [InvertedWidth, FlatHead])
def test_the_coordinate_check_catches_a_fault_of_width(fault, bench):
    found = CoordinateCheck().run(bench("coordinate", seeds=(0, 1, 2), workbench=fault))

    assert found.verdict == "fails"
    name = "logits" if fault is FlatHead else "block"
    assert any(m.verdict == "fails" and m.name.startswith(name) for m in found.measures)


class PretendedRuns(RecipeWorkbench):
    """Runs whose loss is a valley in the rate with its best at .01 x 16 / width x tokens^-`follows`; noise of .004."""

    follows = 0.0

    def trained(self, specs):
        return [self.pretended(spec) for spec in specs]

    def pretended(self, spec):
        best = 0.01 * 16 / spec.model.width() * (spec.n_tokens / 1e4) ** -self.follows
        steps = math.log(spec.optimizer.lr_matrix / best) / math.log(3)
        noise = random.Random(f"{spec.id}").gauss(0, 0.004)
        return SimpleNamespace(loss=3 + 0.05 * steps**2 + 0.02 * spec.seed + noise)


class PretendedInverted(InvertedWidth, PretendedRuns):
    pass


class PretendedHorizon(PretendedRuns):
    follows = 0.75  # a factor of 4.8, 1.4 steps, at 8 times the tokens


@pytest.mark.parametrize(
    ("check", "workbench", "verdict", "move"),
    [
        (TransferCheck, PretendedRuns, "ok", 0.0),
        (TransferCheck, PretendedInverted, "fails", -math.log(16, 3)),
        (HorizonCheck, PretendedRuns, "ok", 0.0),
        (HorizonCheck, PretendedHorizon, "fails", -0.75 * math.log(8, 3)),
    ],
)
def test_moves_of_the_best_rate_are_measured_and_judged(check, workbench, verdict, move, bench):
    """The grid is extended where the best rate lies at its end, as 16 times too high a rate needs."""
    name = "transfer" if check is TransferCheck else "horizon"

    found = check().run(bench(name, workbench=workbench))

    assert found.verdict == verdict
    assert found.measures[0].value == pytest.approx(move, abs=0.2)
    first, second = found.plot.curves
    if None not in (first.best, second.best):
        assert math.log(second.best / first.best, 3) == pytest.approx(found.measures[0].value)
    assert (first.best is None or second.best is None) == ("end of the grid" in found.measures[0].reason)
    for curve in (first, second):
        tried = [times for _, times, *losses in (row.cells for row in found.rows) if tuple(losses) in curve.y]
        assert list(curve.x) == tried


def test_a_rule_of_the_tokens_corrects_what_the_horizon_check_found(bench):
    rule = {"kind": "horizon", "base": 0.01, "tokens_ref": 1e4, "exponent": 0.75}

    found = HorizonCheck().run(bench("horizon", workbench=PretendedHorizon, lr=rule))

    assert found.verdict == "ok"


def test_a_budget_that_pays_for_nothing_is_refused(tiny_recipe, synthetic_corpus, tmp_path):
    poor = RecipeWorkbench(tiny_recipe(), synthetic_corpus, tmp_path / "x" / "y", train_here, 1e6, (0, 1))

    with pytest.raises(ConfigError, match="do not pay for runs"):
        TransferCheck().run(poor)
