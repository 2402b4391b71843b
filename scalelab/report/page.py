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

from scalelab.files import make_dir, whole, write_json, write_text, writing
from scalelab.laws import LAWS
from scalelab.laws.conventions import Row, comparison_text
from scalelab.laws.forecast import CHOICE
from scalelab.laws.interval import Interval
from scalelab.laws.study import Study
from scalelab.report import captions, doubts, numbers
from scalelab.report.painters import Painters
from scalelab.units import sci, si

TELL: dict[str, Callable[[Study, Any], str]] = {
    "valleys": captions.valleys,
    "allocation": captions.allocation,
    "frontier": captions.frontier,
    "choice": captions.choice,
    "holdout": captions.holdout,
    "surface": captions.surface,
    "residuals": captions.residuals,
    "conventions": captions.conventions,
}
FIGURES = tuple(TELL)  # in the order of the page
NAMED = 200  # runs that the page names; fit.json has all
ROWS = 40  # findings and runs left out, likewise

QUANTITIES: tuple[tuple[str, str, Callable[[float], str], str], ...] = (
    ("n_params", "N*", si, "parameters"),
    ("n_tokens", "D*", si, "tokens"),
    ("tokens_per_param", "D*/N*", lambda v: f"{v:.3g}", "tokens per parameter"),
    ("loss", "L*", lambda v: f"{v:.3f}", "nats per token"),
    ("a", "a", lambda v: f"{v:.3f}", "exponent of N* ~ C^a"),
)


def write_report(
    study: Study,
    out: Path,
    *,
    name: str,
    provenance: dict[str, Any],
    conventions: Sequence[Row] = (),
    draws: bool = False,
    painters: Painters | None = None,
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
        painters: Who draws; this process without any.
    """
    painters = painters or Painters()
    make_dir(out)
    found = figure_data(study, conventions)
    told = {title: TELL[title](study, found[title]) for title in FIGURES if found[title]}
    jobs = [(title, found[title], _files(out, title)) for title in told]
    for law, fit in study.fits.items():
        for picture in fit.pictures():
            title = f"{law}.{picture.figure}"
            told[title] = picture.caption
            jobs.append((picture.figure, picture.data, _files(out, title)))
    of_laws = {path.stem for path in out.glob("*.*.png") if path.name.split(".")[0] in LAWS}
    for title in {*FIGURES, *of_laws} - {*told}:
        for path in _files(out, title):
            _remove(path)
    painters.draw(jobs)
    written = [path for _, _, paths in jobs for path in paths]
    write_json(out / "fit.json", study.to_json())
    write_text(out / "summary.txt", study.summary() + "\n")
    write_text(out / "README.md", page(study, name, provenance, told, conventions, draws))
    if draws:
        with whole(out / "draws.csv") as file:
            lines = (f"{law},{k},{key},{value!r}\n" for law, k, key, value in study.draws())
            file.write(("law,replicate,quantity,value\n" + "".join(lines)).encode())
        written.append(out / "draws.csv")
    else:
        _remove(out / "draws.csv")
    return [out / "README.md", out / "fit.json", out / "summary.txt", *written]


def figure_data(study: Study, conventions: Sequence[Row]) -> dict[str, Any]:
    """The numbers of every figure, None where there are none."""
    along = numbers.along_compute(study)
    return {
        "valleys": numbers.valleys(study),
        "allocation": numbers.allocation(study, along),
        "frontier": numbers.frontier(study, along),
        "choice": doubts.choice(study),
        "holdout": doubts.tests(study),
        "surface": numbers.surface(study, along),
        "residuals": doubts.residuals(study),
        "conventions": doubts.conventions(study, conventions),
    }


def page(
    study: Study,
    name: str,
    provenance: dict[str, Any],
    told: dict[str, str],
    conventions: Sequence[Row] = (),
    draws: bool = False,
) -> str:
    """The page as Markdown; `told` has the caption of every figure that was drawn."""
    shown = [
        f"![{title}]({title}.png)\n\n{caption} ([{title}.svg]({title}.svg))"
        for title, caption in told.items()
    ]
    wanted = [title for title in FIGURES if conventions or title != "conventions"]
    missing = [
        f"No {title} figure: {captions.absent(study, title)}."
        for title in wanted
        if title not in told
    ]
    rows = [f"| {key} | {_cell(value)} |" for key, value in provenance.items()]
    data = ["Every number in full: [fit.json](fit.json)."]
    data += ["Every bootstrap draw: [draws.csv](draws.csv)."] if draws else []
    parts = [
        f"# Scaling study: {name}",
        _verdict(study),
        _forecast(study),
        *shown,
        *missing,
        "## In words",
        f"```text\n{study.summary()}\n```",
        *([f"```text\n{comparison_text(conventions, study.level)}\n```"] if conventions else []),
        "## Where this comes from",
        "\n".join(["| what | value |", "|---|---|", *rows]) if rows else "Nothing was recorded.",
        f"Losses are {study.kind}. N is the {study.param_count} count, C the {study.flop_count} "
        f"count. Bootstrap seed {study.seed}, {study.count} replicates, intervals at "
        f"{study.level:.0%}. " + " ".join(data),
        f"### Runs used ({len(study.runs):,})",
        _ids(list(map(str, study.runs.run)), NAMED),
        f"### Runs left out ({len(study.excluded):,})",
        _listed([f"`{run}`: {reason}" for run, reason in study.excluded], NAMED),
        f"### Quality control ({len(study.findings):,} findings)",
        _findings(study),
    ]
    return "\n\n".join(parts) + "\n"


def _verdict(study: Study) -> str:
    reasons = "\n".join(f"- {reason}" for reason in study.verdict.reasons)
    grade = f"**Verdict: {study.verdict.grade}.**"
    return (
        f"{grade}\n\n{reasons}"
        if reasons
        else f"{grade} Nothing in the evidence speaks against it."
    )


def _forecast(study: Study) -> str:
    """The answer as a table: best value, both doubts, and what to quote."""
    f = study.forecast
    state = "extrapolated" if f.reach > 1 else "fitted"
    lines = [
        f"Forecast [{state}] at {sci(f.flops)} FLOPs, {f.reach:.3g}x the evidence "
        f"[{study.kind}], by {f.law}:",
        "",
        f"| | best | {study.level:.0%} noise | choice of law | quoted | larger doubt | unit |",
        "|---|---|---|---|---|---|---|",
    ]
    for key, symbol, write, unit in QUANTITIES:
        if key not in f.values:
            continue
        larger = {CHOICE: "choice of law", None: ""}.get(f.dominates.get(key), "noise")
        ends = (f.statistical[key], f.structural.get(key), f.intervals[key])
        cells = " | ".join(_between(interval, write) for interval in ends)
        lines.append(f"| {symbol} | {write(f.values[key])} | {cells} | {larger} | {unit} |")
    return "\n".join(lines)


def _between(interval: Interval, write: Callable[[float], str]) -> str:
    return "none" if interval is None else f"{write(interval[0])} to {write(interval[1])}"


def _findings(study: Study) -> str:
    lines = []
    for finding in study.findings:
        fate = "left out" if finding.excluded else "kept"
        about = f" ({_ids(list(finding.runs), 10)})" if finding.runs else ""
        lines.append(f"{finding.code}, {fate}: {finding.reason}{about}")
    return _listed(lines, ROWS)


def _ids(runs: list[str], most: int) -> str:
    named = ", ".join(f"`{run}`" for run in runs[:most])
    return named + (f" and {len(runs) - most:,} more" if len(runs) > most else "")


def _listed(lines: list[str], most: int) -> str:
    shown = [f"- {line}" for line in lines[:most]] or ["None."]
    more = [f"- and {len(lines) - most:,} more"] if len(lines) > most else []
    return "\n".join(shown + more)


def _files(out: Path, title: str) -> list[Path]:
    return [out / f"{title}.png", out / f"{title}.svg"]


def _remove(path: Path) -> None:
    with writing(path):
        path.unlink(missing_ok=True)


def _cell(value: Any) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")
