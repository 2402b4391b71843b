"""Which runs of a table are forecast from which: the split rule, the same for every table.

    case       a table, a top and a ratio r
    top        1: the whole table; 8: the runs up to Cmax / 8, as if there were no others
    evidence   runs with C <= Cmax / r for r in RATIOS: at least 8 runs, 3 sizes and 3 token counts
    asked      of the runs with C > max(Cmax / r, Cmax / 5) the five of lowest loss
    reach      C of a run asked for over the largest C in evidence

Cases of equal evidence and equal runs asked for are one. The runs asked for lie near the frontier,
where a plan would put its run; choosing the lowest losses makes forecasts look a little high.

Repeated tokens count as effective tokens, U + U R (1 - exp(-(epochs - 1) / R)), with that R of
EPOCHS_WORTH with which a Chinchilla law describes the evidence best.

    budget     a published or a planned one, or runs whose C agrees within 22% from lowest to highest
    N* there   the vertex of a parabola of ln L in ln N through at least 7 sizes within a factor of 6
               of the lowest, inside of them and open upward
    evidence   runs with C <= budget / r: at least 12 runs

Symbols: N parameters, D training tokens, U unique tokens, C training FLOPs, L loss.

Source: effective tokens, Muennighoff et al. 2023, arXiv:2305.16264.

Not here: reading tables (tables.py), what methods answer (base.py).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from scalelab.backtest.tables import BacktestTable
from scalelab.errors import FitError
from scalelab.laws.columns import UNIQUE_TOKENS
from scalelab.laws.forms.chinchilla import Chinchilla
from scalelab.laws.observations import Array, Observations

RATIOS = (2, 4, 10, 30, 100)
TOPS = (1, 8)
LEAST_RUNS, LEAST_KINDS = 8, 3
"""Runs, and different sizes and token counts, that evidence has at least."""
ASKED = 5
"""Runs that are asked for in one case, at most."""
NEAR = 5.0
"""Factor of compute below the largest run within which runs are asked for."""
REPEATED = 1.2
"""Epochs from which a run counts as one of repeated tokens."""
EPOCHS_WORTH = (4.0, 8.0, 15.0, 30.0)
"""Candidates of R, the epochs after which repeating is worth little more."""
LEAST_SIZES, WINDOW = 7, 6.0
LEAST_BEFORE_BUDGET = 12
AGREE, OFF = 1.2222, 0.1
"""Largest over smallest compute of one budget that is found; distance from a published one, as a share."""


@dataclass(frozen=True)
class ObservedSize:
    """The best size at one budget, read from the runs there."""

    flops: float
    """Geometric mean of the compute of its runs, FLOPs."""
    n_params: float
    curvature: float
    """Curvature of ln L in ln N: a size off by x costs curvature x^2 of the loss."""


@dataclass(frozen=True, eq=False)
class BacktestCase:
    """Evidence, and what is asked of it."""

    table: str
    family: str
    label: str
    """How it was cut, in words: "top 1, r 10"."""
    kind: str
    """split, published (the runs that the publication held out) or size (best sizes of budgets)."""
    evidence: Observations
    asked: Observations
    """Runs whose loss is asked for; empty for best sizes."""
    budgets: tuple[ObservedSize, ...] = ()
    decline: float = 0.0
    """How ln L of the best sizes falls per factor e of compute in this table; 0 where nothing is asked of sizes."""

    @property
    def reach(self) -> Array:
        """Compute of each run asked for over the largest in evidence."""
        return self.asked.C / self.evidence.C.max()

    @property
    def size_reach(self) -> Array:
        """Each budget over the largest compute in evidence."""
        return np.array([budget.flops for budget in self.budgets]) / self.evidence.C.max()


def loss_cases(table: BacktestTable) -> list[BacktestCase]:
    """Return the cases of a table that the split rule makes, each evidence and runs asked for once."""
    found: list[BacktestCase] = []
    seen: set[tuple[bytes, bytes]] = set()
    for top in TOPS:
        part = table.runs.C.max() / top >= table.runs.C if top > 1 else np.ones(len(table.runs), bool)
        if not part.any():  # every run is within the factor of the largest
            continue
        most = table.runs.C[part].max()
        for ratio in RATIOS:
            known = part & (most / ratio >= table.runs.C)
            asked = _near_the_frontier(table, part & (max(most / ratio, most / NEAR) < table.runs.C))
            key = known.tobytes(), np.sort(asked).tobytes()
            if _too_thin(table.runs, known) or not asked.size or key in seen:
                continue
            seen.add(key)
            found.append(_case(table, f"top {top}, r {ratio}", "split", known, asked))
    return found


def published_case(table: BacktestTable) -> BacktestCase | None:
    """Return the case of the runs that the publication held out; None without any."""
    if not table.held_out.any() or _too_thin(table.runs, ~table.held_out):
        return None
    return _case(
        table, "held out by the publication", "published", ~table.held_out, np.flatnonzero(table.held_out)
    )


def size_cases(table: BacktestTable) -> list[BacktestCase]:
    """Return the cases that ask for the best size of budgets; those of equal evidence are one case."""
    if table.config is not None and table.config.epochs == "repeated":
        return []
    runs = table.runs
    observed = observed_sizes(runs, table.config.budgets if table.config else tuple(runs.budgets))
    decline = _decline(runs, observed)
    by_evidence: dict[bytes, tuple[Array, list[ObservedSize]]] = {}
    for budget in observed if decline is not None else ():
        seen: set[bytes] = set()
        for ratio in RATIOS:
            known = budget.flops / ratio >= runs.C
            key = known.tobytes()
            if known.sum() < LEAST_BEFORE_BUDGET or _too_thin(runs, known) or key in seen:
                continue
            seen.add(key)
            by_evidence.setdefault(key, (known, []))[1].append(budget)
    none = np.zeros(0, int)
    return [
        replace(
            _case(table, f"budgets above {runs.C[known].max():.3g} FLOPs", "size", known, none),
            budgets=tuple(budgets),
            decline=decline or 0.0,
        )
        for known, budgets in by_evidence.values()
    ]


def observed_sizes(runs: Observations, published: Sequence[float] = ()) -> list[ObservedSize]:
    """Return the best size at each budget that shows one, by compute.

    Args:
        runs: The runs of a table.
        published: Its budgets, FLOPs; empty: found where the compute of runs agrees.
    """
    spans = [(C * (1 - OFF), C * (1 + OFF)) for C in published] or list(_agreeing(np.sort(runs.C)))
    found = []
    for low, high in spans:
        mine = runs.take((low <= runs.C) & (high >= runs.C))
        if len(mine) and (best := _vertex(mine)) is not None:
            found.append(best)
    return found


def effective_tokens(D: Array, unique: Array, worth: float) -> Array:
    """Return tokens as if none were repeated; broadcasts.

    Args:
        D: Tokens seen.
        unique: Unique tokens among them.
        worth: R, epochs.
    """
    more = np.maximum(D / unique, 1.0) - 1
    return unique + unique * worth * (1 - np.exp(-more / worth))


def _case(table: BacktestTable, label: str, kind: str, known: Array, asked: Array) -> BacktestCase:
    evidence, wanted = table.runs.take(known), table.runs.take(asked)
    if table.config is not None and table.config.epochs == "repeated":
        evidence, wanted = _without_repetition(evidence, wanted)
    return BacktestCase(table.name, table.family, label, kind, evidence, wanted)


def _near_the_frontier(table: BacktestTable, among: Array) -> Array:
    """Rows of the lowest losses."""
    runs = table.runs
    if table.config is not None and table.config.epochs == "repeated":
        among = among & (runs.D / runs.recorded(UNIQUE_TOKENS.name) > REPEATED)
    rows = np.flatnonzero(among)
    return rows[np.argsort(runs.L[rows], kind="stable")[:ASKED]]


def _too_thin(runs: Observations, known: Array) -> bool:
    kinds = min(len(np.unique(runs.N[known])), len(np.unique(runs.D[known])))
    return bool(known.sum() < LEAST_RUNS or kinds < LEAST_KINDS)


def _without_repetition(evidence: Observations, asked: Observations) -> tuple[Observations, Observations]:
    """Both with effective tokens, R by the error of a Chinchilla law on the evidence."""
    best: tuple[float, float] | None = None
    for worth in EPOCHS_WORTH:
        try:
            fit = Chinchilla().fit(_effective(evidence, worth))
        except FitError:
            continue
        if best is None or fit.objective < best[0]:
            best = fit.objective, worth
    worth = EPOCHS_WORTH[-2] if best is None else best[1]
    return _effective(evidence, worth), _effective(asked, worth)


def _effective(runs: Observations, worth: float) -> Observations:
    return replace(runs, D=effective_tokens(runs.D, runs.recorded(UNIQUE_TOKENS.name), worth), columns={})


def _agreeing(C: Array) -> Iterator[tuple[float, float]]:
    """Lowest and highest of ascending C that agree, from below."""
    i = 0
    while i < len(C):
        j = int(np.searchsorted(C, C[i] * AGREE, side="right"))
        yield float(C[i]), float(C[j - 1])
        i = j


def _vertex(runs: Observations) -> ObservedSize | None:
    """The best size of runs of one budget; None where they do not show one."""
    lowest = runs.N[np.argmin(runs.L)]
    runs = runs.take(np.abs(np.log(runs.N / lowest)) <= np.log(WINDOW) + 1e-9)
    sizes = np.unique(runs.N)
    if len(sizes) < LEAST_SIZES or not sizes[0] < lowest < sizes[-1]:
        return None
    x = np.log(runs.N / lowest)
    bend, slope, _ = np.polyfit(x, np.log(runs.L), 2)
    if bend <= 0 or not x.min() < -slope / (2 * bend) < x.max():
        return None
    flops = float(np.exp(np.mean(np.log(runs.C))))
    return ObservedSize(flops, float(lowest * np.exp(-slope / (2 * bend))), float(bend))


def _decline(runs: Observations, observed: Sequence[ObservedSize]) -> float | None:
    """-d ln L / d ln C along the lowest losses of a table; None where it cannot be seen."""
    if not observed:
        return None
    order = np.argsort(runs.C, kind="stable")
    lowest = np.minimum.accumulate(runs.L[order])
    best = runs.L[order] <= lowest
    x, y = np.log(runs.C[order][best]), np.log(lowest[best])
    if len(np.unique(x)) < 2:
        return None
    slope = -float(np.polyfit(x, y, 1)[0])
    return slope if slope > 0 else None
