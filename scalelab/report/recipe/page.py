"""The report of the checks of a recipe, written.

    OUT/
      README.md     the page
      checks.json   schema 1

Not here: what the page says (document.py).
"""

from pathlib import Path

from scalelab.files import make_dir, write_json, write_text
from scalelab.recipe_check.runner import RecipeReport
from scalelab.records.provenance import code_version
from scalelab.report.recipe.document import recipe_document
from scalelab.report.render.markdown import render_markdown


def write_recipe_report(report: RecipeReport, out: Path) -> Path:
    """Write the page and checks.json; return the path of the page.

    Raises:
        RunError: A file cannot be written.
    """
    make_dir(out)
    write_json(out / "checks.json", report.to_json())
    write_text(out / "README.md", render_markdown(recipe_document(report, code_version())))
    return out / "README.md"
