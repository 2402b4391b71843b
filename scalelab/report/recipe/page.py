"""The report of the checks of a recipe, written.

    OUT/
      README.md       the page
      checks.json     schema 1
      recipe_NAME.*   the figure of each check that has one

Not here: what the page says (document.py).
"""

from pathlib import Path

from scalelab.files import make_dir, write_json, write_text
from scalelab.recipe_check import RECIPE_CHECKS
from scalelab.recipe_check.runner import RecipeReport
from scalelab.records.provenance import code_version
from scalelab.report.plots.render_workers import RenderWorkers, figure_files, remove_figure
from scalelab.report.recipe.document import recipe_document
from scalelab.report.render.markdown import render_markdown


def write_recipe_report(report: RecipeReport, out: Path) -> Path:
    """Write the page and checks.json; return the path of the page.

    Raises:
        RunError: A file cannot be written.
    """
    make_dir(out)
    write_json(out / "checks.json", report.to_json())
    plots = {f"recipe_{name}": report.findings[name].plot for name in report.findings}
    drawn = [name for name, plot in plots.items() if plot is not None]
    for name in {f"recipe_{name}" for name in RECIPE_CHECKS} - {*drawn}:
        remove_figure(out, name)  # of an earlier page
    RenderWorkers().draw([("recipe_check", plots[name], figure_files(out, name)) for name in drawn])
    document = recipe_document(report, code_version(), drawn)
    write_text(out / "README.md", render_markdown(document))
    return out / "README.md"
