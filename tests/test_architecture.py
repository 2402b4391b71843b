"""Promises about imports and names, checked by reading the source and by starting Python.

Data flows one way: a room imports only what MAY allows, and MAY only points upstream.
Every heavy package has a home: elsewhere nobody imports it, not even inside a function.
What must start at once, or run without torch, does.
No dimension of an architecture is named outside of its folder, and no class of a fit is asked for.
"""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import scalelab

SHARED = {"accelerators", "errors", "units", "registry", "files", "sealed", "leases", "screen"}
MAY = {  # in the order in which data flows
    "config": set(),
    "data": {"config"},
    "model": {"config"},
    "train": {"config", "data", "model"},
    "jobs": {"config", "train"},
    "sweep": {"config", "model", "train"},
    "track": {"config", "train"},
    "laws": set(),
    "plan": {"config", "model", "train", "laws"},
    "launch": {"config", "data", "model", "train", "jobs", "sweep", "track", "plan"},
    "evals": {"config", "data", "model", "train", "laws"},
    "posttrain": {
        "config",
        "data",
        "model",
        "train",
        "jobs",
        "track",
        "plan",
        "launch",
        "evals",
    },
    "report": {
        "config",
        "data",
        "model",
        "train",
        "jobs",
        "sweep",
        "track",
        "laws",
        "plan",
        "launch",
        "evals",
        "posttrain",
    },
}
MAY["testing"] = set(MAY)  # suites for plug-ins of every kind
MAY["cli"] = set(MAY) - {"testing"}  # the front door alone sees every room
HOMES = {
    "torch": {"model", "train", "evals", "posttrain", "testing"},
    "tokenizers": {"data"},
    "datasets": {"data", "evals", "posttrain"},
    "lm_eval": {"evals"},
    "trl": {"posttrain"},
    "transformers": {"posttrain", "evals"},
    "peft": {"posttrain"},
    "pyarrow": {"data"},
    "zstandard": {"data"},
    "safetensors": {"model", "train", "evals", "posttrain"},
    "scipy": {"laws", "plan", "evals", "report"},
    "pandas": {"track"},
    "mlflow": {"track"},
    "matplotlib": {"report"},
    "rich": {"screen", "jobs", "track"},
    "pydantic": {
        "sealed",
        "config",
        "data",
        "model",
        "train",
        "sweep",
        "plan",
        "launch",
        "evals",
        "posttrain",
    },
    "ruamel": {"config"},
    "xxhash": {"sealed"},
}
HOUSE = Path(scalelab.__file__).parent
FILES = [path for path in sorted(HOUSE.rglob("*.py")) if path != HOUSE / "__init__.py"]


def room_of(path):
    return path.relative_to(HOUSE).parts[0].removesuffix(".py")


def imported(path):
    """Absolute dotted names that a file imports, wherever in the file it does so."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: write imports in full, not relative"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def loaded_by(statement):
    """Top-level packages in memory after a fresh Python ran one statement."""
    code = f"import sys; {statement}; print(*{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_every_room_is_on_the_map():
    assert {room_of(path) for path in FILES} == set(MAY) | SHARED


def test_the_map_has_no_loops():
    for i, room in enumerate(MAY):
        assert MAY[room] <= set(list(MAY)[:i])


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(HOUSE)))
def test_data_flows_one_way(path):
    names = [name.split(".") for name in imported(path)]
    rooms = {name[1] for name in names if name[0] == "scalelab" and len(name) > 1}

    assert rooms - {"__version__"} <= SHARED | MAY.get(room_of(path), set()) | {room_of(path)}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(HOUSE)))
def test_heavy_packages_stay_home(path):
    packages = {name.split(".")[0] for name in imported(path)}

    assert not {p for p in packages & set(HOMES) if room_of(path) not in HOMES[p]}


DIMENSIONS = re.compile(r"\b(d_model|n_layers|n_heads|n_kv_heads|head_size|d_ff|qk_norm)\b")
OWN = (
    HOUSE / "model" / "transformer",
    HOUSE / "model" / "kernels.py",
    HOUSE / "testing" / "stages.py",  # makes a small base of a known size
)
ELSEWHERE = [path for path in FILES if not {path, *path.parents} & set(OWN)]


@pytest.mark.parametrize("path", ELSEWHERE, ids=lambda p: str(p.relative_to(HOUSE)))
def test_no_dimension_is_named_outside_of_its_architecture(path):
    assert not DIMENSIONS.findall(path.read_text())


def test_help_imports_nothing_heavy():
    heavy = {*HOMES, "numpy", "optuna"}

    assert not heavy & loaded_by("import scalelab.cli; scalelab.cli.parser()")


def test_laws_run_without_torch_or_the_tracker():
    assert not {"torch", "mlflow", "pandas"} & loaded_by("import scalelab.laws.study")


def test_a_fit_is_drawn_without_torch():
    figures = "[FIGURES[name] for name in FIGURES if not name.startswith('post_')]"
    loaded = loaded_by(f"from scalelab.report.paint import FIGURES; {figures}")

    assert "matplotlib" in loaded
    assert "torch" not in loaded


def test_a_sweep_is_planned_without_torch():
    assert "torch" not in loaded_by("import scalelab.launch.commands, scalelab.sweep.isoflop")


def test_training_needs_no_mlflow():
    assert not {"mlflow", "pandas"} & loaded_by("import scalelab.launch.training")


ASKS_THE_CLASS = re.compile(r"isinstance\([^)]*\b(Formula|IsoFlop|Envelope|Frontier)(Fit|\b)")


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(HOUSE)))
def test_a_fit_says_itself_what_it_can_do(path):
    found = ASKS_THE_CLASS.search(path.read_text())

    assert found is None or path == HOUSE / "testing" / "laws.py", found.group()
