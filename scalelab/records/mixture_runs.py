"""Runs of a sweep on mixtures, from their run directories.

Not here: tables of such runs (mixture_table.py).
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from scalelab.errors import DataError, ScalelabError
from scalelab.records.mixture_table import MixtureTable
from scalelab.records.runs import only_sweep
from scalelab.records.sweep_manifest import SweepManifest
from scalelab.train.run_directory import RunDir
from scalelab.units import si


def is_mixture_sweep(root: Path, name: str | None) -> bool:
    """Return whether the runs of a sweep differ in their mixture; False where there is no such sweep."""
    try:
        planned = SweepManifest.load(root, name or only_sweep(root, "fit")).runs
        mixtures = (RunDir(root / run.dir).spec().data.weights for run in planned)
        first = next(mixtures, None)
        return first is not None and any(mixture != first for mixture in mixtures)
    except ScalelabError:
        return False


def read_mixture_sweep(root: Path, name: str | None) -> tuple[str, MixtureTable, str]:
    """Return the name of a sweep, its runs and the digest of their corpus.

    Args:
        root: Directory of all runs.
        name: Name of the sweep; None: the only one.

    Raises:
        TrackError: There is no such sweep.
        DataError: No run has finished, or the runs have no mixtures.
    """
    name = name or only_sweep(root, "fit")
    weights, losses, n_params, tokens, names, left_out = [], [], [], [], [], []
    digest = ""
    for planned in SweepManifest.load(root, name).runs:
        run_dir = RunDir(root / planned.dir)
        spec, result = run_dir.spec(), run_dir.result()
        if spec.data.weights is None:
            raise DataError(
                f"the run {planned.run} of {name} has no mixture",
                where=str(run_dir.path),
                fix="fit it without --law mixture, or train a sweep with design: {kind: mixture}",
            )
        if result is None or result.domain_losses is None:
            left_out.append(f"{planned.run}: {'not finished' if result is None else result.status}")
            continue
        weights.append(spec.data.weights)
        losses.append(result.domain_losses)
        n_params.append(planned.n_params)
        tokens.append(float(result.n_tokens))
        names.append(planned.run)
        digest = spec.data_digest
    if not names:
        raise DataError(
            f"no run of {name} has finished",
            where=str(root / name),
            fix="train its runs: scalelab sweep FILE.yaml",
        )
    domains = tuple(losses[0])
    return (
        name,
        MixtureTable(
            source=f"the sweep {name}",
            domains=domains,
            targets=domains,
            weights=np.array([[one.get(domain, 0.0) for domain in domains] for one in weights]),
            losses=np.array([[one[domain] for domain in domains] for one in losses]),
            sizes=size_names(n_params),
            is_held_out=np.zeros(len(names), bool),
            n_tokens=np.array(tokens),
            names=tuple(names),
            left_out=tuple(left_out),
        ),
        digest,
    )


def size_names(n_params: Sequence[int]) -> tuple[str, ...]:
    """Return a name for the size of each run, such as 1.05M, of as many digits as different sizes need to differ."""
    different = set(n_params)
    digits = next(d for d in range(3, 20) if len({si(n, d) for n in different}) == len(different))
    return tuple(si(n, digits) for n in n_params)
