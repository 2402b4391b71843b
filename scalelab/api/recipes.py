"""Checking a recipe from Python: scalelab.check_recipe("sweeps/isoflop.yaml")."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from scalelab.files import runs_directory
from scalelab.recipe_check.runner import RecipeCheckRequest, RecipeReport
from scalelab.recipe_check.runner import check_recipe as checked
from scalelab.report.document import Document
from scalelab.report.recipe.document import recipe_document
from scalelab.report.recipe.page import write_recipe_report
from scalelab.report.render.html import render_html
from scalelab.report.render.terminal import render_terminal
from scalelab.sweep.file import SweepFile

if TYPE_CHECKING:
    import pandas as pd


def check_recipe(file: SweepFile | str | Path, checks: Sequence[str] = ()) -> "CheckedRecipe":
    """Check by short runs that the recipe of a sweep file scales, and return what was measured.

    Args:
        file: A sweep file of load_sweep, or its path.
        checks: Names of checks; empty for all.

    Raises:
        ConfigError: The file cannot be used, or a run cannot be built within the budget.
        LaunchError: A run ended without a result.
    """
    file = file if isinstance(file, SweepFile) else SweepFile.load(Path(file))
    return CheckedRecipe(checked(file, runs_directory(), RecipeCheckRequest(tuple(checks))))


@dataclass(frozen=True, eq=False)
class CheckedRecipe:
    """The findings of the checks of one recipe."""

    report: RecipeReport
    """Every measure, in full."""

    @property
    def verdict(self) -> str:
        """ok, fails or undecided."""
        return self.report.verdict

    def to_frame(self) -> "pd.DataFrame":
        """Return one row a measure: check, measure, value, low, high, threshold, verdict."""
        import pandas as pd

        rows = [
            {"check": name, **measure.to_json()}
            for name, found in self.report.findings.items()
            for measure in found.measures
        ]
        return pd.DataFrame(rows)

    def write_report(self, out: str | Path) -> Path:
        """Write the page and checks.json into a directory, and return the path of the page."""
        return write_recipe_report(self.report, Path(out))

    def to_document(self) -> Document:
        """Return what the command line would show, as a Document."""
        return recipe_document(self.report)

    def __str__(self) -> str:
        return render_terminal(self.to_document())

    def _repr_html_(self) -> str:
        return render_html(self.to_document())
