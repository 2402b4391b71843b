"""The report on a mixture, written.

    OUT/
      README.md       the page
      shares.*        recommended and natural shares
      mixture.json    schema 1

Not here: what the page says (document.py).
"""

from pathlib import Path

from scalelab.files import make_dir, write_json, write_text
from scalelab.records.provenance import code_version
from scalelab.report.document import Figure
from scalelab.report.mixture.document import mixture_document
from scalelab.report.mixture.plots import shares_plot
from scalelab.report.plots.render_workers import RenderWorkers, figure_files
from scalelab.report.render.markdown import render_markdown
from scalelab.study.mixture import MixtureStudy


def write_mixture_report(study: MixtureStudy, name: str, out: Path) -> Path:
    """Write the page, its figure and mixture.json; return the path of the page.

    Raises:
        RunError: A file cannot be written.
    """
    make_dir(out)
    write_json(out / "mixture.json", study.to_json())
    RenderWorkers().draw([("mixture_shares", shares_plot(study), figure_files(out, "shares"))])
    figures = [Figure("shares", f"Recommended and natural shares at {study.largest} [fitted].")]
    write_text(out / "README.md", render_markdown(mixture_document(study, name, code_version(), figures)))
    return out / "README.md"
