"""The report of a curation, written beside its documents.

    OUT/
      README.md        the page
      retention.*      text behind each stage
      stages.json      what each stage did, schema 1

Not here: what the page says (document.py), the documents (data/curate/publish.py).
"""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from scalelab.data.curate.pipeline import CurationResult
from scalelab.files import make_dir, write_json, write_text
from scalelab.records.provenance import code_version
from scalelab.report.curation.document import curation_document
from scalelab.report.curation.plots import retention_plot
from scalelab.report.document import Figure
from scalelab.report.plots.render_workers import RenderWorkers, figure_files
from scalelab.report.render.markdown import render_markdown


def write_curation(result: CurationResult, out: Path, tokens: Sequence[float | None] | None = None) -> Path:
    """Write the page, its figure and stages.json; return the path of the page.

    Args:
        result: The curation.
        out: The directory of the curated corpus.
        tokens: Tokens of what each stage kept, estimated; None: not estimated.

    Raises:
        RunError: A file cannot be written.
    """
    make_dir(out)
    RenderWorkers().draw([("curation_retention", retention_plot(result), figure_files(out, "retention"))])
    caption = "Text behind each stage, and what the stage took away [measured]."
    document = curation_document(
        result, tokens=tokens, figures=[Figure("retention", caption)], provenance=code_version()
    )
    write_json(out / "stages.json", curation_json(result, tokens))
    write_text(out / "README.md", render_markdown(document))
    return out / "README.md"


def curation_json(result: CurationResult, tokens: Sequence[float | None] | None) -> dict[str, Any]:
    """Return what each stage did, as JSON types.

    Args:
        result: The curation.
        tokens: Tokens of what each stage kept, estimated; None: not estimated.
    """
    stages = []
    for i, report in enumerate(result.reports):
        found = asdict(report)
        found["tokens_estimated"] = tokens[i] if tokens is not None else None
        stages.append(found)
    return {
        "schema": 1,
        "name": result.config.name,
        "is_sample": result.is_sample,
        "source": {"fingerprint": result.fingerprint, **result.source_facts},
        "stages": stages,
    }
