"""The report on tokenizers, written.

    OUT/
      README.md          the page
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
from scalelab.report.render.markdown import render_markdown
from scalelab.report.tokenizers.document import TrainedLoss, tokenizer_document


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
    """Write the page and tokenizers.json; return the path of the page.

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
    write_text(
        out / "README.md", render_markdown(tokenizer_document(scores, source, trained, code_version()))
    )
    return out / "README.md"
