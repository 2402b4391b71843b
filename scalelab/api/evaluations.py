"""Evaluating models from Python: scalelab.evaluate("eval.yaml")."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from scalelab.errors import ConfigError
from scalelab.evals.evaluation_runner import EvalResult
from scalelab.evals.evaluation_runner import evaluate as measured
from scalelab.evals.request import EvalRequest
from scalelab.report.document import Document
from scalelab.report.evaluation.document import result_document
from scalelab.report.render.html import render_html
from scalelab.report.render.terminal import render_terminal

if TYPE_CHECKING:
    import pandas as pd


def evaluate(request: EvalRequest | str | Path, overrides: Sequence[str] = ()) -> "EvaluationResult":
    """Make every measurement of an evaluation file that is not kept yet, and return all of them.

    Args:
        request: The request, or the path of an evaluation file.
        overrides: Values that replace those of the file, such as "seed=1".

    Raises:
        ConfigError: The file cannot be used, or a model does not exist.
        LaunchError: Another process makes this evaluation.
    """
    if not isinstance(request, EvalRequest):
        request = EvalRequest.load(request, overrides)
    elif overrides:
        raise ConfigError(
            f"a request and overrides are given: {', '.join(overrides)}",
            where="evaluate",
            fix="give the path of the file with the overrides, or the request alone",
        )
    return EvaluationResult(measured(request))


@dataclass(frozen=True, eq=False)
class EvaluationResult:
    """The measurements of an evaluation."""

    result: EvalResult
    """Every row, in full."""

    def to_frame(self) -> "pd.DataFrame":
        """Return every value, one row a value: kind, model, name, key, value."""
        import pandas as pd

        rows = [
            {"kind": row.kind, "model": row.model, "name": row.name, "key": key, "value": value}
            for row in self.result.rows
            for key, value in row.values.items()
        ]
        return pd.DataFrame(rows, columns=["kind", "model", "name", "key", "value"])

    def to_document(self) -> Document:
        """Return what the command line would show, as a Document."""
        return result_document(self.result)

    def __str__(self) -> str:
        return render_terminal(self.to_document())

    def _repr_html_(self) -> str:
        return render_html(self.to_document())
