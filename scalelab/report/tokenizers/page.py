"""The report on tokenizers, written.

    OUT/
      README.md          the page
      bytes_per_token.*  bytes per token by domain
      tokenizers.json    schema 1

Not here: what the page says (document.py).
"""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from scalelab.data.tokenizers.comparison import TokenizerScore
from scalelab.files import make_dir, write_json, write_text
from scalelab.records.provenance import code_version
from scalelab.report.document import Figure
from scalelab.report.plots.render_workers import RenderWorkers, figure_files
from scalelab.report.render.markdown import render_markdown
from scalelab.report.tokenizers.document import TrainedLoss, tokenizer_document
from scalelab.report.tokenizers.plots import bytes_plot


def tokenizer_json(
    scores: Mapping[str, TokenizerScore], source: str, trained: Mapping[str, TrainedLoss]
) -> dict[str, Any]:
    """Return the comparison as JSON types."""
    return {
        "schema": 1,
        "text": source,
        "tokenizers": {name: score.to_json() for name, score in scores.items()},
        "trained": {name: asdict(one) for name, one in trained.items()},
    }


def write_tokenizer_report(
    scores: Mapping[str, TokenizerScore], source: str, trained: Mapping[str, TrainedLoss], out: Path
) -> Path:
    """Write the page, its figure and tokenizers.json; return the path of the page.

    Args:
        scores: By the names that tokenizers are reported under.
        source: Description of the text.
        trained: Best trained run of sweeps with these tokenizers, by the same names.
        out: Directory of the report.

    Raises:
        RunError: A file cannot be written.
    """
    make_dir(out)
    write_json(out / "tokenizers.json", tokenizer_json(scores, source, trained))
    RenderWorkers().draw([("tokenizer_bytes", bytes_plot(scores), figure_files(out, "bytes_per_token"))])
    figures = [Figure("bytes_per_token", "Bytes per token by domain [measured].")]
    document = tokenizer_document(scores, source, trained, code_version(), figures)
    write_text(out / "README.md", render_markdown(document))
    return out / "README.md"
