"""The evidence, looked at before any law is fitted: what is left out, what is doubtful, and why.

    quality_control(runs) -> (the runs that a law may see, every finding)

A run is left out only where it cannot be what it claims to be, the same run twice or compute
spent that is not the compute planned, or where another recipe did better at its size and tokens.
Where the recipes of a size and token count make a surface, its lowest point is the loss of the one run
that stays (tuning.py).
Everything else stays in and is reported with its run ids:
the laws refuse or resist what they cannot use (slices.py refuses edges and hills and leaves out
ruined runs; Huber's penalty resists them), and a reader decides.

Source: that these are what goes wrong: METHODS of Porian et al. 2024, arXiv:2406.19146 (counts,
warmup, checkpoints before the cooldown); Czech et al. 2026, arXiv:2603.22339 (off-centre grids).

Not here: statuses, tokenizers and counts, which are columns of a table (records/); runs
that one law cannot explain (influence.py).
"""

from collections.abc import Iterable

import numpy as np

from scalelab.laws.observations import Observations
from scalelab.study.quality.budgets import realised_budgets, spent_otherwise
from scalelab.study.quality.consistency import mixed_counts, rising, unfinished
from scalelab.study.quality.finding import QualityFinding
from scalelab.study.quality.recipes import best_recipes
from scalelab.study.quality.replication import duplicates, repeats
from scalelab.study.quality.tuning import tuned_cells
from scalelab.study.quality.valleys import valley_findings


def quality_control(runs: Observations) -> tuple[Observations, tuple[QualityFinding, ...]]:
    """The runs that a law may see, and all findings, those that leave out runs first."""
    found = [*duplicates(runs)]
    runs = _without(runs, found)
    runs, about_budgets, given = realised_budgets(runs)
    found += about_budgets
    if given:
        off = [*spent_otherwise(runs)]
        runs, found = _without(runs, off), found + off
    runs, about_tuning, tuned = tuned_cells(runs)
    about_recipes = [*best_recipes(runs.take(~tuned))]
    found += about_tuning
    runs, found = _without(runs, about_recipes), found + about_recipes
    return runs, (*found, *inspect(runs))


def _without(runs: Observations, found: Iterable[QualityFinding]) -> Observations:
    """The runs that no finding excludes."""
    out = {run for finding in found if finding.excluded for run in finding.runs}
    return runs.take(~np.isin(runs.run, list(out))) if out else runs


def inspect(runs: Observations) -> tuple[QualityFinding, ...]:
    """What is doubtful about runs that all stay in."""
    if not len(runs):
        return ()
    found = [*repeats(runs), *mixed_counts(runs), *unfinished(runs), *rising(runs)]
    return (*found, *valley_findings(runs))
