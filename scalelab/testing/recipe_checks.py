"""Conformance of recipe checks: members of RECIPE_CHECKS, of any package."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from scalelab.data.corpus.shards import Corpus
from scalelab.recipe_check import RECIPE_CHECKS
from scalelab.recipe_check.base import CheckFinding, RecipeCheck
from scalelab.recipe_check.workbench import RecipeWorkbench
from scalelab.train.recipe import Recipe
from scalelab.train.run_directory import RunDir


def check_recipe_check(
    name: str,
    recipe: Recipe,
    corpus: Corpus,
    directory: Path,
    train: Callable[[Sequence[RunDir]], None],
    budget: float,
) -> CheckFinding:
    """Check the contract of a recipe check, and return its finding.

    Args:
        name: Name in the table of recipe checks.
        recipe: A recipe of small models.
        corpus: Its corpus, prepared.
        directory: Directory for its runs.
        train: Trains runs, such as train_here.
        budget: FLOPs that it is given.

    Raises:
        AssertionError: It does not say what it checks, trains more than the budget, repeats a run, or measures
            what JSON cannot hold.
    """
    member = RECIPE_CHECKS[name]
    assert issubclass(member, RecipeCheck), f"{name} is no RecipeCheck"
    assert member.title, f"{name} has no title"
    assert member.question.endswith("?"), f"{name} asks no question"
    assert member.unit, f"{name} has no unit"

    bench = RecipeWorkbench(recipe, corpus, directory, train, budget, (0, 1))
    found = member().run(bench)
    assert found.measures, f"{name} measures nothing"
    names = [measure.name for measure in found.measures]
    assert len(set(names)) == len(names), f"{name} has two measures of one name"
    for measure in found.measures:
        assert measure.threshold > 0, f"{measure.name} has no limit"
        known = None not in (measure.value, measure.low, measure.high)
        assert known or measure.reason, f"{measure.name} is not known, without a reason"
        if known:
            assert measure.low <= measure.value <= measure.high, f"{measure.name} lies outside its interval"
        json.dumps(measure.to_json(), allow_nan=False)
    assert found.verdict in {"ok", "fails", "undecided"}
    assert found.settings, f"{name} does not say its settings"
    assert all(len(row.cells) == len(found.columns) for row in found.rows), (
        f"{name} has a row of another length"
    )
    spent = sum(result.flops for result in bench.used.values())
    assert 0 < spent <= budget, f"{name} spends {spent:.3g} of {budget:.3g} FLOPs"

    def refuse(dirs: Sequence[RunDir]) -> None:
        raise AssertionError(f"{name} repeats {len(dirs)} runs")

    again = member().run(RecipeWorkbench(recipe, corpus, directory, refuse, budget, (0, 1)))
    assert again.measures == found.measures, f"{name} measures something else the second time"
    return found
