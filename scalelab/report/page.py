"""The report of a study: a directory with the figures, the words, the numbers, and a page.

    OUT/
      README.md     the page: verdict first, figures, the whole text, where it came from
      fit.json      schema 1, for programs
      summary.txt   what the terminal showed
      *.png *.svg   valleys, allocation, frontier, surface

Only files of this study are written; what stands beside them is left alone, except a figure
of an earlier study that this one cannot draw, which is removed.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from scalelab.files import make_dir, whole, write_json, write_text, writing
from scalelab.laws.study import Study
from scalelab.report import figures, numbers

CAPTIONS = {
    "valleys": "Loss against size, one colour per compute budget. Within a budget a larger model "
    "sees fewer tokens. The cross is the fitted minimum N*, the bar its interval; open marks "
    "are runs that the parabola does not use: too far from the minimum, or of a refused budget.",
    "allocation": "The best size and token count against compute. Points are the minima of the "
    "budgets, the band is the interval (noise only), dashes are extrapolation. Dotted: what "
    "another law says of the same runs.",
    "frontier": "The lowest loss against compute. All laws and forms that these runs allow are "
    "drawn, because beyond the evidence they differ by more than the noise.",
    "surface": "One formula through all runs. Triangles are runs, larger where the formula misses "
    "more; the line is the best use of compute, dashed beyond the evidence.",
}


def write_report(study: Study, out: Path, *, name: str, provenance: dict[str, Any]) -> list[Path]:
    """Every file of the report, written whole; their paths, the page first.

    Args:
        study: What was found.
        out: The directory; made if it is not there.
        name: Of the sweep or table, for the title.
        provenance: What the numbers came from (commit, config digest, data digest, ...), shown
            as it is handed over.
    """
    make_dir(out)
    drawings: dict[str, tuple[Any, Callable[..., Figure]]] = {
        "valleys": (numbers.valleys(study), figures.draw_valleys),
        "allocation": (numbers.allocation(study), figures.draw_allocation),
        "frontier": (numbers.frontier(study), figures.draw_frontier),
        "surface": (numbers.surface(study), figures.draw_surface),
    }
    written = []
    for title, (data, draw) in drawings.items():
        paths = [out / f"{title}.png", out / f"{title}.svg"]
        if data is None:
            for path in paths:
                with writing(path):
                    path.unlink(missing_ok=True)
            continue
        written += _save(draw(data), paths)
    drawn = [title for title, (data, _) in drawings.items() if data is not None]
    write_json(out / "fit.json", study.to_json())
    write_text(out / "summary.txt", study.summary() + "\n")
    write_text(out / "README.md", page(study, name, provenance, drawn))
    return [out / "README.md", out / "fit.json", out / "summary.txt", *written]


def page(study: Study, name: str, provenance: dict[str, Any], drawn: list[str]) -> str:
    """The page as Markdown."""
    missing = [
        f"No {title} figure: {_why(study, title)}." for title in CAPTIONS if title not in drawn
    ]
    shown = [f"![{title}]({title}.png)\n\n{CAPTIONS[title]}" for title in drawn]
    rows = [f"| {key} | {_cell(value)} |" for key, value in provenance.items()]
    runs = ", ".join(f"`{run}`" for run in study.runs.run)
    left_out = [f"- `{run}`: {reason}" for run, reason in study.excluded] or ["None."]
    return (
        "\n\n".join(
            [
                f"# Scaling study: {name}",
                f"**Verdict: {study.verdict}.**",
                *shown,
                *missing,
                "## In words",
                f"```text\n{study.summary()}\n```",
                "## Where this comes from",
                "\n".join(["| what | value |", "|---|---|", *rows])
                if rows
                else "Nothing was recorded.",
                f"Bootstrap seed {study.seed}, {study.count} replicates, intervals at "
                f"{study.level:.0%}. "
                "Every number in full: [fit.json](fit.json).",
                f"### Runs used ({len(study.runs)})",
                runs,
                f"### Runs left out ({len(study.excluded)})",
                "\n".join(left_out),
            ]
        )
        + "\n"
    )


def _save(figure: Figure, paths: list[Path]) -> list[Path]:
    for path in paths:
        with whole(path) as file, matplotlib.rc_context(figures.STYLE):
            kind = path.suffix.removeprefix(".")
            # Without a date the same study gives the same bytes.
            metadata = {"Date": None} if kind == "svg" else {"Software": None}
            figure.savefig(file, format=kind, dpi=200, metadata=metadata)
    return paths


def _why(study: Study, title: str) -> str:
    law = {"valleys": "isoflop", "surface": "chinchilla"}[title]
    return study.refused.get(law, f"the law {law} was not asked for")


def _cell(value: Any) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")
