"""All checks of a recipe, from a sweep file to findings.

Not here: the checks (members/), how findings are shown (report/recipe/), flags (cli/check_recipe.py).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from scalelab.data.corpus import shards
from scalelab.errors import ConfigError
from scalelab.files import inside, place_of, refuse_link
from scalelab.recipe_check import RECIPE_CHECKS
from scalelab.recipe_check.base import CheckFinding, RecipeVerdict
from scalelab.recipe_check.runs import executor_trainer
from scalelab.recipe_check.workbench import CHECKS_DIRECTORY, RecipeWorkbench
from scalelab.sweep.file import SweepFile
from scalelab.train.parametrization import Multipliers, multipliers
from scalelab.train.recipe import Recipe
from scalelab.train.run_directory import RunDir

BUDGET = 6e11
"""FLOPs of one check by default: 20 seconds at the 3e10 FLOP/s that small models reach on one idle CPU core."""
SEEDS = 3
WIDTHS = (1, 2, 4)
"""Multiples of the reference width for which multipliers are printed, and of the reference depth."""


@dataclass(frozen=True)
class RecipeCheckRequest:
    """What to check. Refused where it cannot be.

    Args:
        checks: Names in RECIPE_CHECKS; empty for all.
        budget: FLOPs of one check.
        seeds: Seeds of every run.
    """

    checks: tuple[str, ...] = ()
    budget: float = BUDGET
    seeds: int = SEEDS
    first_seed: int = 0
    """Seeds are first_seed, first_seed + 1 and so on."""

    def __post_init__(self) -> None:
        if not 0 < self.budget < float("inf"):
            raise ConfigError(
                f"the budget of a check is {self.budget:g} FLOPs",
                where="--flops",
                fix="give a positive, finite number of FLOPs, such as 6e11",
            )
        if not 2 <= self.seeds <= 100:
            raise ConfigError(
                f"seeds = {self.seeds}", where="--seeds", fix="give 2 to 100: with one the noise is unknown"
            )
        for name in self.checks:
            RECIPE_CHECKS[name]


@dataclass(frozen=True)
class RecipeReport:
    """The findings of the checks of one recipe."""

    sweep: str
    recipe: Recipe
    request: RecipeCheckRequest
    corpus: str
    """Digest of the corpus."""
    findings: Mapping[str, CheckFinding]
    """By name of the check."""

    @property
    def verdict(self) -> RecipeVerdict:
        """Fails where a check does; else undecided where one is; else ok."""
        found = {finding.verdict for finding in self.findings.values()}
        return next((v for v in ("fails", "undecided") if v in found), "ok")

    def to_json(self) -> dict[str, Any]:
        """The report as JSON types, schema 1."""
        return {
            "schema": 1,
            "sweep": self.sweep,
            "param": self.recipe.param,
            "recipe": self.recipe.model_dump(mode="json"),
            "corpus": self.corpus,
            "flops": self.request.budget,
            "seeds": self.request.seeds,
            "verdict": self.verdict,
            "checks": {name: _finding_json(name, found) for name, found in self.findings.items()},
        }


def _finding_json(name: str, found: CheckFinding) -> dict[str, Any]:
    return {
        "verdict": found.verdict,
        "unit": RECIPE_CHECKS[name].unit,
        "settings": dict(found.settings),
        "measures": [measure.to_json() for measure in found.measures],
        "columns": list(found.columns),
        "rows": [list(row.cells) for row in found.rows],
        "n_runs": found.n_runs,
        "seconds": found.seconds,
    }


def check_recipe(
    file: SweepFile,
    root: Path,
    request: RecipeCheckRequest,
    train: Callable[[Sequence[RunDir]], None] | None = None,
) -> RecipeReport:
    """Check the recipe of a sweep file by short runs. Runs that are trained already are kept.

    Args:
        file: The sweep file; its design is not read.
        root: Directory of all runs.
        request: Checks, budget and seeds.
        train: Trains runs in directories; None: as jobs of the sweep's executor.

    Raises:
        ConfigError: A run cannot be built within the budget.
        DataError: The corpus cannot be prepared.
        LaunchError: The executor cannot start, or a run ended without a result.
        RunError: The directory of runs cannot be written.
    """
    directory = _directory(root, file.name)
    corpus = shards.prepare(file.recipe.data)
    seeds = tuple(range(request.first_seed, request.first_seed + request.seeds))
    findings = {}
    with _trainer(file, directory, train) as trainer, file.located():
        for name in request.checks or tuple(RECIPE_CHECKS):
            bench = RecipeWorkbench(file.recipe, corpus, directory, trainer, request.budget, seeds)
            found = RECIPE_CHECKS[name]().run(bench)
            seconds = sum(result.train_s + result.eval_s for result in bench.used.values())
            findings[name] = replace(found, seconds=seconds, n_runs=len(bench.used))
    return RecipeReport(file.name, file.recipe, request, corpus.digest, findings)


def _directory(root: Path, sweep: str) -> Path:
    place_of(root, sweep)  # refuses names that cannot be a directory
    refuse_link(root / CHECKS_DIRECTORY)
    return inside(root / CHECKS_DIRECTORY, sweep)


@contextmanager
def _trainer(
    file: SweepFile, home: Path, train: Callable[[Sequence[RunDir]], None] | None
) -> Iterator[Callable[[Sequence[RunDir]], None]]:
    if train is not None:
        yield train
        return
    with executor_trainer(file.launch, home) as trainer:
        yield trainer


def multiplier_table(recipe: Recipe) -> list[Multipliers]:
    """Return the multipliers of a recipe at 1, 2 and 4 times its reference width and depth."""
    exponent = getattr(recipe.optimizer, "width_exponent", 0.0)
    if not isinstance(exponent, int | float):
        raise ConfigError(
            f"the width_exponent of the optimizer is by the rule {exponent.kind}, so it has no table of multipliers",
            where="recipe.optimizer.width_exponent",
            fix="give it as a number",
        )
    return [
        multipliers(recipe.param, width=width, depth=depth, width_exponent=exponent)
        for width, depth in ((1, 1), (2, 1), (4, 1), (1, 2), (1, 4), (4, 4))
    ]
