"""The files of a post-training's report.

OUT/README.md  posttrain.json  models.png  series.png  overreach.png  looks.png  (and .svg), and
STAGE-NAME.png for every plot that a stage describes

Not here: the text (document.py), the drawing (plots.py).
"""

from pathlib import Path

from scalelab.files import make_dir, write_json, write_text
from scalelab.report.plots.render_workers import RenderWorkers, figure_files, remove_figure
from scalelab.report.posttrain.document import CAPTIONS, available_figures, result_document, stage_plots
from scalelab.report.posttrain.results import PosttrainResults, record
from scalelab.report.render.markdown import render_markdown


def write_page(data: PosttrainResults, out: Path) -> Path:
    """Write the page, its figures and posttrain.json; return the path of the page."""
    make_dir(out)
    names = available_figures(data)
    write_json(out / "posttrain.json", record(data))
    jobs = [(f"post_{name}", data, figure_files(out, name)) for name in names]
    jobs += [("post_plot", plot, figure_files(out, name)) for name, plot in stage_plots(data).items()]
    RenderWorkers().draw(jobs)
    for name in set(CAPTIONS) - set(names):
        remove_figure(out, name)
    write_text(out / "README.md", render_markdown(result_document(data)))
    return out / "README.md"
