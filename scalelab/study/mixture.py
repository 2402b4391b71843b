"""The study of runs on mixtures: laws compared on unseen mixtures, and a recommended mixture for every size.

Not here: the laws (laws/mixture/), how tables are read (records/mixture_table.py), words (report/mixture/).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from scalelab.errors import FitError
from scalelab.laws.mixture import MIXTURE_LAWS
from scalelab.laws.mixture.base import MixtureRuns
from scalelab.laws.mixture.recommendation import MixtureRequest, Recommendation, recommend
from scalelab.laws.mixture.validation import Transfer, compare_laws, transfers
from scalelab.records.mixture_table import MixtureTable

LAW = "log_log"
"""Law that recommends."""
ONE_SIZE = "all"
TOKENS_TOLERANCE = 0.01
"""How far training tokens of one size may differ, as a part of the most: losses then differ by well under 0.1%."""
HELD_OUT, LEFT_OUT = "held-out mixtures", "mixtures left out one by one"
"""What the errors of a size are on."""


@dataclass(frozen=True, eq=False)
class MixtureStudy:
    """What the runs of a table say about mixtures."""

    source: str
    law: str
    request: MixtureRequest
    sizes: dict[str, MixtureRuns]
    """Fitted runs by size, in the order of the table."""
    held_out: dict[str, MixtureRuns]
    """Held-out runs of those sizes that have some."""
    errors: dict[str, dict[str, float | None]]
    """Mean absolute relative error by size and law, on the held-out mixtures, or each mixture left out once."""
    recommendations: dict[str, Recommendation]
    transfers: tuple[Transfer, ...]
    refused: dict[str, str]
    """Why sizes have no recommendation."""
    left_out: tuple[str, ...]
    """Runs and sizes that are not used, each with the reason."""

    @property
    def errors_on(self) -> dict[str, str]:
        """What the errors of each size are on."""
        return {size: HELD_OUT if size in self.held_out else LEFT_OUT for size in self.sizes}

    @property
    def largest(self) -> str:
        """Name of the last size that has a recommendation: tables go from small to large."""
        return list(self.recommendations)[-1]

    def to_json(self) -> dict[str, Any]:
        """Return the study as JSON types."""
        targets = next(iter(self.sizes.values())).targets
        return {
            "schema": 1,
            "kind": "mixture",
            "source": self.source,
            "law": self.law,
            "formula": MIXTURE_LAWS[self.law].formula,
            "domains": list(next(iter(self.sizes.values())).domains),
            "targets": list(targets),
            "errors_on": self.errors_on,
            "errors": self.errors,
            "n_mixtures": {size: runs.n_mixtures for size, runs in self.sizes.items()},
            "recommendations": {size: one.to_json(targets) for size, one in self.recommendations.items()},
            "transfers": [one.to_json() for one in self.transfers],
            "refused": self.refused,
            "left_out": list(self.left_out),
        }


def study_mixture(table: MixtureTable, request: MixtureRequest, law: str = LAW) -> MixtureStudy:
    """Return the study of a table.

    Args:
        table: Runs on mixtures.
        request: What the mixture is for. Without training tokens, those of each size's own runs count.
        law: Name of the law that recommends.

    Raises:
        FitError: No size has enough mixtures, or runs of one size differ in their training tokens.
    """
    names = table.sizes or (ONE_SIZE,) * len(table.weights)
    order = sorted(dict.fromkeys(names), key=_magnitude)
    sizes, held_out, tokens, left_out = {}, {}, {}, list(table.left_out)
    for size in order:
        here = np.array([name == size for name in names])
        for side, is_side in ((sizes, here & ~table.is_held_out), (held_out, here & table.is_held_out)):
            if (rows := np.flatnonzero(is_side)).size:
                side[size] = _runs(table, rows)
        tokens[size] = _tokens(table, size, np.flatnonzero(here))
        if size not in sizes:
            left_out.append(
                f"{size}: all {len(held_out.pop(size))} runs are held out, so none is left to fit"
            )
    if not sizes:
        raise FitError(
            "every run of the table is held out", where=table.source, fix="leave runs for the fit: split"
        )
    errors = {size: compare_laws(runs, held_out.get(size)) for size, runs in sizes.items()}
    found, refused = {}, {}
    for size, runs in sizes.items():
        try:
            found[size] = recommend(MIXTURE_LAWS[law](), runs, _with_tokens(request, tokens[size]))
        except FitError as error:
            refused[size] = error.problem
            last = error
    if not found:
        raise last
    usable = {size: sizes[size] for size in found}
    moved, not_judged = transfers(MIXTURE_LAWS[law](), usable, _with_tokens(request, tokens[list(found)[-1]]))
    left_out += not_judged
    return MixtureStudy(
        table.source, law, request, sizes, held_out, errors, found, tuple(moved), refused, tuple(left_out)
    )


def _runs(table: MixtureTable, rows: np.ndarray) -> MixtureRuns:
    names = [table.names[i] for i in rows]
    return MixtureRuns.of(
        table.weights[rows], table.losses[rows], table.domains, table.targets, names, table.source
    )


def _tokens(table: MixtureTable, size: str, rows: np.ndarray) -> float:
    """Return the training tokens of the runs of a size. Raises FitError where they differ."""
    tokens = table.n_tokens[rows]
    least, most = rows[np.argmin(tokens)], rows[np.argmax(tokens)]
    if table.n_tokens[least] < (1 - TOKENS_TOLERANCE) * table.n_tokens[most]:
        where = f"{table.source}, size {size}" if table.sizes else table.source
        raise FitError(
            f"runs of one size have different training tokens: {table.names[least]} {table.n_tokens[least]:,.0f}, "
            f"{table.names[most]} {table.n_tokens[most]:,.0f}",
            where=where,
            fix="give runs of other training tokens a size of their own (column group), or remove them",
        )
    return float(table.n_tokens[most])


def _with_tokens(request: MixtureRequest, n_tokens: float) -> MixtureRequest:
    if request.n_tokens is not None or not np.isfinite(n_tokens):
        return request
    return replace(request, n_tokens=n_tokens)


def _magnitude(size: str) -> tuple[float, str]:
    """Sort key of a size: its number with k, M, B or T; sizes without one come last, by name."""
    scale: Mapping[str, float] = {"k": 1e3, "m": 1e6, "b": 1e9, "g": 1e9, "t": 1e12}
    text = size.strip().lower()
    factor = scale.get(text[-1:], 1.0)
    try:
        return float(text[:-1] if text[-1:] in scale else text) * factor, size
    except ValueError:
        return float("inf"), size
