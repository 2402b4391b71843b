"""The report of a study: a directory with the figures, the words, the numbers, and a page.

    OUT/
      README.md     the page: verdict first, figures, the whole text, where it came from
      fit.json      schema 1, for programs
      summary.txt   what the terminal showed
      draws.csv     every bootstrap draw, where asked for: law, replicate, quantity, value
      *.png *.svg   FIGURES, those that can be drawn; LAW.FIGURE where a law has one of its own

Only files of this study are written; what stands beside them is left alone, except a figure
or draws of an earlier study that this one does not have, which are removed.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from scalelab.files import make_dir, matching, whole, write_json, write_text, writing
from scalelab.laws import LAWS
from scalelab.report.document import Figure
from scalelab.report.fit import captions, diagnostics, plot_data
from scalelab.report.fit.document import fit_document
from scalelab.report.plots.render_workers import RenderWorkers, figure_files, remove_figure
from scalelab.report.render.markdown import render_markdown
from scalelab.report.render.terminal import render_terminal
from scalelab.study.conventions import ConventionRow
from scalelab.study.study import Study

CAPTIONS: dict[str, Callable[[Study, Any], str]] = {
    "valleys": captions.valleys,
    "allocation": captions.allocation,
    "frontier": captions.frontier,
    "choice": captions.choice,
    "holdout": captions.holdout,
    "surface": captions.surface,
    "residuals": captions.residuals,
    "conventions": captions.conventions,
}
FIGURES = tuple(CAPTIONS)
"""Figures of a study in the order of the page."""
SUMMARY_COLUMNS = 100
"""Width of summary.txt, characters."""


def write_report(
    study: Study,
    out: Path,
    *,
    name: str,
    provenance: dict[str, Any],
    conventions: Sequence[ConventionRow] = (),
    draws: bool = False,
    workers: RenderWorkers | None = None,
) -> list[Path]:
    """Every file of the report, written whole; their paths, the page first.

    Args:
        study: What was found.
        out: The directory; made if it is not there.
        name: Of the sweep or table, for the title.
        provenance: What the numbers came from (commit, config digest, data digest, ...), shown
            as it is handed over.
        conventions: The laws under other counts of parameters and FLOPs.
        draws: Whether every bootstrap draw is written too.
        workers: Who draws; this process without any.
    """
    workers = workers or RenderWorkers()
    make_dir(out)
    found = figure_data(study, conventions)
    captioned = {title: CAPTIONS[title](study, found[title]) for title in FIGURES if found[title]}
    jobs = [(title, found[title], figure_files(out, title)) for title in captioned]
    for law, fit in study.fits.items():
        for picture in fit.pictures():
            title = f"{law}.{picture.figure}"
            captioned[title] = picture.caption
            jobs.append((picture.figure, picture.data, figure_files(out, title)))
    of_laws = {path.stem for path in matching(out, "*.*.png") if path.name.split(".")[0] in LAWS}
    for title in {*FIGURES, *of_laws} - {*captioned}:
        remove_figure(out, title)
    workers.draw(jobs)
    written = [path for _, _, paths in jobs for path in paths]
    write_json(out / "fit.json", study.to_json())
    document = fit_document(study, name, conventions=conventions)
    write_text(out / "summary.txt", render_terminal(document, SUMMARY_COLUMNS) + "\n")
    wanted = [title for title in FIGURES if conventions or title != "conventions"]
    page = fit_document(
        study,
        name,
        conventions=conventions,
        figures=[Figure(title, caption) for title, caption in captioned.items()],
        absent=[
            f"No {title} figure: {captions.absent(study, title)}."
            for title in wanted
            if title not in captioned
        ],
        provenance=provenance,
        draws=draws,
        forecast_first=True,
    )
    write_text(out / "README.md", render_markdown(page))
    if draws:
        with whole(out / "draws.csv") as file:
            lines = (f"{law},{k},{key},{value!r}\n" for law, k, key, value in study.draws())
            file.write(("law,replicate,quantity,value\n" + "".join(lines)).encode())
        written.append(out / "draws.csv")
    else:
        with writing(out / "draws.csv"):
            (out / "draws.csv").unlink(missing_ok=True)
    return [out / "README.md", out / "fit.json", out / "summary.txt", *written]


def figure_data(study: Study, conventions: Sequence[ConventionRow]) -> dict[str, Any]:
    """The numbers of every figure, None where there are none."""
    along = plot_data.along_compute(study)
    return {
        "valleys": plot_data.valleys(study),
        "allocation": plot_data.allocation(study, along),
        "frontier": plot_data.frontier(study, along),
        "choice": diagnostics.choice(study),
        "holdout": diagnostics.tests(study),
        "surface": plot_data.surface(study, along),
        "residuals": diagnostics.residuals(study),
        "conventions": diagnostics.conventions(study, conventions),
    }
