"""Fitting runs on mixtures from Python: the recommended share of each domain.

    found = scalelab.fit_mixture("mixtures.csv", natural={"web": 0.8, "code": 0.2})
    found.to_frame(); found.plot_shares(); found

Not here: the laws (laws/mixture/), the study (study/mixture.py).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from scalelab.api.notebook_figures import draw
from scalelab.data.corpus.shards import tokens_of_domains
from scalelab.files import runs_directory
from scalelab.laws.mixture.recommendation import MixtureRequest
from scalelab.records.mixture_runs import read_mixture_sweep
from scalelab.records.mixture_table import read_mixture_table
from scalelab.records.table_bytes import has_table_ending
from scalelab.report.document import Document
from scalelab.report.mixture.document import mixture_document
from scalelab.report.mixture.page import write_mixture_report
from scalelab.report.mixture.plots import shares_plot
from scalelab.report.render.html import render_html
from scalelab.report.render.terminal import render_terminal
from scalelab.study.mixture import MixtureStudy, study_mixture

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


def fit_mixture(
    source: str | Path,
    *,
    natural: Mapping[str, float] | None = None,
    unique_tokens: Mapping[str, float] | None = None,
    n_tokens: float | None = None,
    replicates: int = 400,
) -> "MixtureResult":
    """Fit mixture laws to runs on mixtures and return the recommended mixture with intervals.

    Args:
        source: Name of a sweep of mixtures below runs/, or path of a table with columns weight_DOMAIN and
            loss_DOMAIN.
        natural: The mixture that the gain is measured from, by domain; None: that of a sweep's corpus, or the mean
            of the trained mixtures.
        unique_tokens: Unique tokens of domains, which cap how often they are repeated; None: those of a sweep's
            corpus, or no cap.
        n_tokens: Training tokens of the run that the mixture is for; None: those of the runs.
        replicates: Bootstrap replicates; 0 for no intervals.

    Raises:
        DataError: The table cannot be read, or the runs have no mixtures.
        TrackError: There is no such sweep.
        FitError: There are too few mixtures, or a domain is unknown.
    """
    path, root = Path(source), runs_directory()
    if has_table_ending(path) or (path.exists() and not (root / path).is_dir()):
        name, table = path.stem, read_mixture_table(path)
    else:
        name, table, corpus = read_mixture_sweep(root, str(source))
        tokens = tokens_of_domains(corpus)
        natural, unique_tokens = natural or tokens, unique_tokens or tokens
    request = MixtureRequest(
        natural=natural, unique_tokens=unique_tokens, n_tokens=n_tokens, replicates=replicates
    )
    return MixtureResult(name, study_mixture(table, request))


@dataclass(frozen=True, eq=False)
class MixtureResult:
    """A recommended mixture."""

    name: str
    """Name of the sweep or table."""
    study: MixtureStudy
    """Recommendations of every size, errors of the laws, and what was left out."""

    @property
    def weights(self) -> dict[str, float]:
        """The recommended share of each domain at the largest size, as `weights` of a recipe's data takes them."""
        found = self.study.recommendations[self.study.largest]
        return {name: float(share) for name, share in zip(found.domains, found.weights, strict=True)}

    def to_frame(self) -> "pd.DataFrame":
        """Return one row for each size and domain: recommended share, its interval, natural share, epochs."""
        import pandas as pd

        rows = [
            {
                "size": size,
                "domain": name,
                "share": float(found.weights[i]),
                "low": None if found.intervals is None else float(found.intervals[i][0]),
                "high": None if found.intervals is None else float(found.intervals[i][1]),
                "natural": float(found.natural[i]),
                "epochs": found.epochs.get(name),
                "at_bound": found.at_bound.get(name, ""),
                "level": found.level,
            }
            for size, found in self.study.recommendations.items()
            for i, name in enumerate(found.domains)
        ]
        return pd.DataFrame(rows).set_index(["size", "domain"])

    def to_document(self) -> Document:
        """Return what the command line would show, as a Document."""
        return mixture_document(self.study, self.name)

    def write_report(self, out: str | Path | None = None) -> Path:
        """Write the report as `scalelab fit` does and return its page.

        Args:
            out: Directory of the report; None: reports/NAME-mixture.

        Raises:
            RunError: A file cannot be written.
        """
        folder = Path("reports") / f"{self.name}-mixture" if out is None else Path(out)
        return write_mixture_report(self.study, self.name, folder)

    def plot_shares(self) -> "Axes":
        """Draw recommended and natural shares with intervals, and return the axes."""
        return draw("mixture_shares", shares_plot(self.study))[0]

    def __str__(self) -> str:
        return render_terminal(self.to_document())

    def _repr_html_(self) -> str:
        return render_html(self.to_document())
