"""Studies whose answer is known, and one of public runs, made once for the room."""

import csv
from pathlib import Path

import numpy as np
import pytest

from scalelab.laws.observations import Observations
from scalelab.study.simulate.designs import PerSeedNoise, SimulatedGrid, SimulatedIsoFlop
from scalelab.study.simulate.simulation import simulate
from scalelab.study.study import study

SHARED = Path(__file__).parents[2].parent / "shared" / "data"


@pytest.fixture(scope="session")
def truth():
    return {"E": 1.8, "A": 480.0, "B": 2100.0, "alpha": 0.35, "beta": 0.37}


@pytest.fixture(scope="session")
def sardana():
    """Constants that reproduce Sardana et al. 2023 exactly (arXiv:2401.00448)."""
    return {"E": 1.69, "A": 406.4, "B": 410.7, "alpha": 0.336, "beta": 0.283}


@pytest.fixture(scope="session")
def slices(truth):
    """Five isoFLOP budgets, three seeds, .2% noise, asked for three times the largest; isoFLOP forecasts."""
    runs = simulate("chinchilla", truth, SimulatedIsoFlop(seeds=3), PerSeedNoise(0.005), seed=5)
    return study(
        runs,
        target_flops=3e20,
        param_count="total",
        kind="simulated",
        level=0.8,
        replicates=400,
        laws=("isoflop", "chinchilla", "kaplan"),
    )


@pytest.fixture(scope="session")
def usual(slices):
    """The same runs by the laws that are fitted unless others are named: the average forecasts."""
    return study(
        slices.runs, target_flops=3e20, param_count="total", kind="simulated", level=0.8, replicates=400
    )


@pytest.fixture(scope="session")
def exact():
    """A function: the study of noise-free runs of a Chinchilla law, the surface speaking."""

    def of(params, target=1e24, law="chinchilla", **settings):
        design = SimulatedGrid(tuple(np.geomspace(1e9, 3e11, 7)), tuple(np.geomspace(1e10, 3e13, 7)))
        runs = simulate("chinchilla", params, design)
        return study(
            runs,
            target_flops=target,
            param_count="total",
            kind="simulated",
            level=0.8,
            replicates=settings.pop("replicates", 0),
            laws=(law,),
            **settings,
        )

    return of


@pytest.fixture(scope="session")
def known(exact, truth):
    return exact(truth)


@pytest.fixture(scope="session")
def attending(truth):
    """A surface whose runs spent 6 N + 40000 N^.5 FLOPs a token, noise-free."""
    N, D = (v.ravel() for v in np.meshgrid(np.geomspace(1e7, 1e9, 6), np.geomspace(1e9, 1e11, 6)))
    L = truth["E"] + truth["A"] / N ** truth["alpha"] + truth["B"] / D ** truth["beta"]
    runs = Observations.of(N, D, L, C=(6 * N + 4e4 * np.sqrt(N)) * D)
    return study(
        runs, target_flops=1e21, param_count="total", kind="simulated", replicates=0, laws=("chinchilla",)
    )


@pytest.fixture(scope="session")
def hoffmann():
    """The 240 points of Hoffmann et al. 2022, fig. 4, at the compute of Gopher."""
    path = SHARED / "hoffmann2022_fig4_points.csv"
    if not path.exists():
        pytest.skip("the public points are not beside the repository")
    with open(path, encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    N, C, L = (np.array([float(r[k]) for r in rows]) for k in ("Model Size", "Training FLOP", "loss"))
    kept = np.argsort(L)[:-5]
    runs = Observations.of(N[kept], (C / (6 * N))[kept], L[kept], C=C[kept])
    laws = ("isoflop", "chinchilla", "kaplan")
    return study(runs, target_flops=5.76e23, param_count="total", level=0.8, replicates=1000, laws=laws)
