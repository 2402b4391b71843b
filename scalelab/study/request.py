"""A request for a fit, and the fit of checked evidence.

Not here: the table of runs (records/), what is reported (report/fit/), flags (cli/fit.py).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from scalelab.errors import ConfigError, within
from scalelab.laws import LAWS
from scalelab.records.evidence import Evidence
from scalelab.study.conventions import Convention, ConventionRow, compare
from scalelab.study.from_table import count_of_flops, observations
from scalelab.study.quality.control import quality_control
from scalelab.study.quality.unit_checks import unit_findings
from scalelab.study.study import DEFAULT_LAWS, LEVEL, Study, study


@dataclass(frozen=True, kw_only=True)
class FitRequest:
    """What is asked of a fit. Checked when it is made; raises ConfigError on an impossible value."""

    target_flops: float | None = None
    """Training compute of the forecast, FLOPs; None: ten times the largest budget."""
    laws: tuple[str, ...] = DEFAULT_LAWS
    """Laws to fit; the first that can be fitted makes the forecast."""
    flop_count: Literal["exact", "6ND"] = "exact"
    """Which count of training FLOPs is C: as recorded where it is, or 6 N D."""
    level: float = LEVEL
    """Level of every interval, 0 to 1."""
    replicates: int = 4000
    """Bootstrap replicates; 0 for no intervals."""
    profile: bool = False
    """Whether intervals by profile likelihood are added, which takes seconds."""

    def __post_init__(self) -> None:
        if self.flop_count not in ("exact", "6ND"):
            raise ConfigError(
                f"flop_count is {self.flop_count!r}", where="the request for a fit", fix="use exact or 6ND"
            )
        for name in self.laws:
            LAWS[name]  # refused here if it is unknown

    @classmethod
    def of(cls, laws: Any = None, **settings: Any) -> "FitRequest":
        """Return the request with these settings.

        Args:
            laws: Names of laws; None or empty for the default ones.
            settings: Other fields; None means the default.
        """
        given = {name: value for name, value in settings.items() if value is not None}
        named = (laws,) if isinstance(laws, str) else tuple(laws or DEFAULT_LAWS)
        return cls(laws=named, **given)


def fit_evidence(evidence: Evidence, request: FitRequest) -> Study:
    """Return the study of checked evidence.

    Args:
        evidence: The runs, and how they were chosen.
        request: Target, laws and settings.

    Raises:
        FitError: No law can be fitted to these runs.
        DataError: The runs are no evidence for a law.
    """
    flop_count = "6ND" if request.flop_count == "6ND" else count_of_flops(evidence.table)
    with within(evidence.where):
        findings = unit_findings(evidence, "exact" if request.flop_count == "exact" else "6ND")
        found = study(
            observations(evidence.table, flop_count, request.laws),
            target_flops=request.target_flops,
            param_count=evidence.param_count,
            flop_count=flop_count,
            kind=evidence.kind,
            level=request.level,
            replicates=request.replicates,
            laws=request.laws,
            excluded=[(item["run"], item["reason"]) for item in evidence.excluded],
            findings=findings,
            with_profiles=request.profile,
        )
    return replace(found, reading=evidence.reading)


def compare_conventions(tables: Mapping[str, Any], request: FitRequest) -> tuple[ConventionRow, ...]:
    """Return the laws fitted under every count of parameters and FLOPs that the runs recorded.

    Args:
        tables: The table of evidence under each count of parameters, by its name.
        request: Its laws, replicates and level are used.
    """
    different: dict[str, Any] = {}
    for count, table in tables.items():
        if not any(table["n_params"].equals(other["n_params"]) for other in different.values()):
            different[count] = table
    counted = [
        Convention(count, flop_count, quality_control(observations(table, flop_count, request.laws))[0])
        for count, table in different.items()
        for flop_count in ("exact", "6ND")
        if flop_count == "6ND" or count_of_flops(table) == "exact"
    ]
    return compare(counted, request.laws, replicates=request.replicates, level=request.level)
