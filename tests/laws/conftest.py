"""Families of runs whose truth is known, made without the laws' own code."""

import csv
from pathlib import Path

import numpy as np
import pytest

from scalelab.laws.observations import Observations

TRUTH = {"E": 1.8, "A": 480.0, "B": 2100.0, "alpha": 0.35, "beta": 0.37}
SHARED = Path(__file__).parents[2].parent / "shared" / "data"


def optimal_size(C, E, A, B, alpha, beta):
    """Hoffmann et al. 2022, eq. 4."""
    return (alpha * A / (beta * B)) ** (1 / (alpha + beta)) * (C / 6) ** (beta / (alpha + beta))


def valley_family(
    budgets=(1e18, 3e18, 1e19, 3e19, 1e20),
    sizes=7,
    factor=4.0,
    noise=0.0,
    seed=0,
    drift=0.0,
    seeds=1,
    truth=TRUTH,
):
    """IsoFLOP slices around the true optimum, C = 6 N D.

    `drift` shifts every slice off-centre by a random share of ln N up to that much.
    """
    rng = np.random.default_rng(seed)
    parts = []
    for C in budgets:
        offset = np.exp(rng.uniform(-drift, drift))
        N = np.repeat(optimal_size(C, **truth) * offset * np.geomspace(1 / factor, factor, sizes), seeds)
        D = C / (6 * N)
        L = truth["E"] + truth["A"] / N ** truth["alpha"] + truth["B"] / D ** truth["beta"]
        L = L * np.exp(noise * rng.standard_normal(N.size))
        parts.append((N, D, L, np.full(N.size, C), np.tile(np.arange(seeds), sizes)))
    N, D, L, planned, seed_of = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Observations.of(N, D, L, flops_planned=planned, seed=seed_of)


# 24 runs trained on two CPU cores on the source of Python's standard library, 1,024 BPE tokens,
# context 64, 2 layers, one seed each: budget, width, N (blocks and head), D, loss.
SMALL = """
1.5e11 16 22528 1016832 4.2942
1.5e11 24 38400 602624 4.2015
1.5e11 32 57344 407040 4.2351
1.5e11 48 104448 226304 4.3769
1.5e11 64 163840 145408 4.6245
1.5e11 80 235520 101888 4.8224
4.5e11 24 38400 1808384 3.9910
4.5e11 32 57344 1220608 3.9484
4.5e11 48 104448 677888 3.9367
4.5e11 64 163840 435712 4.0141
4.5e11 80 235520 305152 4.1201
4.5e11 96 319488 226304 4.2344
1.4e12 32 57344 3796992 3.6934
1.4e12 48 104448 2109440 3.6385
1.4e12 64 163840 1356800 3.6420
1.4e12 80 235520 949248 3.6965
1.4e12 96 319488 703488 3.7549
1.4e12 128 524288 431616 3.9091
4e12 48 104448 6027264 3.3944
4e12 64 163840 3874816 3.3555
4e12 80 235520 2713600 3.3441
4e12 96 319488 2009088 3.3983
4e12 128 524288 1232896 3.4737
4e12 160 778240 834560 3.6083
"""


def small_runs():
    """FLOPs per token are 6 N + 6 layers width context, counted by hand for these models."""
    budget, width, N, D, L = np.array([line.split() for line in SMALL.split("\n")[1:-1]], float).T
    return Observations.of(N, D, L, C=D * (6 * N + 6 * 2 * width * 64), flops_planned=budget)


@pytest.fixture(scope="session")
def family():
    return valley_family


@pytest.fixture(scope="session")
def truth():
    return TRUTH


@pytest.fixture(scope="session")
def measured():
    return small_runs()


@pytest.fixture(scope="session")
def hoffmann_245():
    """The points of Hoffmann et al. 2022, fig. 4, digitised by Besiroglu et al. 2024."""
    path = SHARED / "hoffmann2022_fig4_points.csv"
    if not path.exists():
        pytest.skip("the public points are not beside the repository")
    with open(path, encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    N, C, L = (np.array([float(r[k]) for r in rows]) for k in ("Model Size", "Training FLOP", "loss"))
    return Observations.of(N, C / (6 * N), L, C=C)


@pytest.fixture(scope="session")
def hoffmann(hoffmann_245):
    """The same without the five highest losses."""
    return hoffmann_245.take(np.argsort(hoffmann_245.L)[:-5])


@pytest.fixture(scope="session")
def olmo():
    """Bhagia et al. 2024: 16 small runs, and the 7B and 13B models that they should foretell."""
    path = SHARED / "olmo2024_ladder_c4.csv"
    if not path.exists():
        pytest.skip("the public points are not beside the repository")
    with open(path, encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    N, D, cost, L = (np.array([float(r[k]) for r in rows]) for k in ("N", "D", "flops_per_tok", "c4_ce_ma5"))
    return Observations.of(N, D, L, C=cost * D)
