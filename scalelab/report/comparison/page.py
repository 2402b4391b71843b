"""The report of a comparison, written: page, figures, numbers.

    OUT/
      README.md            the page
      compare.json         schema 1
      multiplier.K.*       compute multiplier of challenger K by compute
      frontiers.K.*        lowest loss by compute of challenger K and the baseline

Not here: what the page says (document.py), the comparison (comparison/).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scalelab.comparison.verdict import RecipeComparison
from scalelab.files import make_dir, matching, write_json, write_text
from scalelab.records.provenance import code_version
from scalelab.report.comparison.document import comparison_document, figure_suffix
from scalelab.report.comparison.plot_data import multiplier_curve, recipe_frontiers
from scalelab.report.document import Figure
from scalelab.report.plots.render_workers import RenderWorkers, figure_files, remove_figure
from scalelab.report.render.markdown import render_markdown


def write_comparison(
    found: RecipeComparison,
    out: Path,
    *,
    provenance: Mapping[str, Any] | None = None,
    workers: RenderWorkers | None = None,
) -> Path:
    """Write the page, the figures and compare.json; return the path of the page.

    Args:
        found: The comparison.
        out: The directory; made if it does not exist.
        provenance: Sources of the runs.
        workers: Processes that draw the figures; None: this process.

    Raises:
        RunError: A file cannot be written.
    """
    make_dir(out)
    jobs, figures = [], []
    for judged in found.pairs:
        k = figure_suffix(found, judged)
        names = f"{judged.name} against {found.baseline.name}"
        for title, data, caption in (
            (
                "compare_multiplier",
                multiplier_curve(found, judged),
                f"Compute multiplier of {names}: line and band fitted to all rungs [fitted; dashed: extrapolated], "
                f"dots from the runs of one rung [{found.kind}], {found.request.level:.0%} intervals.",
            ),
            (
                "compare_frontiers",
                recipe_frontiers(found, judged),
                f"Lowest loss by compute, {names} [lines fitted, dashed: extrapolated; marks {found.kind}].",
            ),
        ):
            name = f"{title.removeprefix('compare_')}.{k}"
            jobs.append((title, data, figure_files(out, name)))
            figures.append(Figure(name, caption))
    earlier = {path.stem for title in ("multiplier", "frontiers") for path in matching(out, f"{title}.*.*g")}
    for name in earlier - {figure.name for figure in figures}:
        remove_figure(out, name)
    (workers or RenderWorkers()).draw(jobs)
    write_json(out / "compare.json", found.to_json())
    document = comparison_document(
        found, figures=figures, provenance={**(provenance or {}), **code_version()}
    )
    write_text(out / "README.md", render_markdown(document))
    return out / "README.md"
