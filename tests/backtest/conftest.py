"""Tables of simulated runs whose law is a soft maximum, written without the laws' own code."""

from pathlib import Path

import numpy as np
import pytest

from scalelab.backtest.tables import BacktestTable
from scalelab.laws.observations import Observations

SHARED = Path(__file__).parents[2].parent / "shared" / "data"
NOISE = 0.004
BUDGETS = tuple(10.0 ** np.arange(17, 22))


def soft_max_loss(N, D, *, E=1.7, a=0.22, b=0.25, k=0.4):
    """Skaling, arXiv:2608.07222: ln(L - E) = k ln(exp(x / k) + exp(z / k))."""
    x, z = 4.0 - a * np.log(N), 5.2 - b * np.log(D)
    return E + np.exp(k * np.logaddexp(x / k, z / k))


@pytest.fixture(scope="session")
def soft_max():
    """The loss that simulated tables were drawn around."""
    return soft_max_loss


@pytest.fixture(scope="session")
def table_of():
    """A function that makes a table of five sizes at each of five budgets, a decade apart."""

    def make(seed=0, noise=NOISE, name=None, sizes=5, budgets=BUDGETS, width=3.0):
        C = np.repeat(budgets, sizes)
        N = np.sqrt(C / 120) * np.tile(np.geomspace(1 / width, width, sizes), len(budgets))
        D = C / (6 * N)
        rng = np.random.default_rng(seed)
        L = soft_max_loss(N, D) * np.exp(noise * rng.standard_normal(len(N)))
        name = name or f"table{seed}"
        runs = Observations.of(N, D, L, C=C)
        return BacktestTable(
            name, name, runs, "0" * 64, f"{name}.csv", np.zeros(len(N), bool), kind="simulated"
        )

    return make


@pytest.fixture(scope="session")
def write_table():
    """A function that writes a simulated table into a directory, as CSV."""

    def into(table, directory, columns=("n_params", "n_tokens", "loss"), more=""):
        path = directory / f"{table.name}.csv"
        directory.mkdir(exist_ok=True)
        head = ",".join(columns) + (f",{more.split('=')[0]}" if more else "")
        tail = f",{more.split('=')[1]}" if more else ""
        rows = np.stack([table.runs.N, table.runs.D, table.runs.L], axis=1).tolist()
        path.write_text("\n".join([head, *(",".join(map(repr, row)) + tail for row in rows)]) + "\n")
        return path

    return into


@pytest.fixture
def write(write_table, tmp_path):
    """The same, into a directory of this test."""
    return lambda table, **settings: write_table(table, tmp_path / "tables", **settings)


@pytest.fixture(scope="session")
def shared():
    """The directory of public tables beside the project."""
    if not SHARED.is_dir():
        pytest.skip("no public tables beside the project")
    return SHARED
