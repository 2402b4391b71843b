"""Promises about imports and names, checked by reading the source and by starting Python.

Data flows one way: a package imports only what MAY allows, and MAY only points upstream.
No two files import one another, however long the way around.
Every heavy package has a home: it is imported nowhere else, not even inside a function.
What must start at once, or run without torch, does.
No dimension of an architecture is named outside of its folder, and no class of a fit is asked for.
"""

import ast
import functools
import re
import subprocess
import sys

import source_tree
from source_tree import PACKAGE

SHARED = {
    "errors",
    "units",
    "registry",
    "files",
    "sealed",
    "system",
    "network_files",
    "leases",
    "screen",
    "config",
    "config_errors",
    "example_files",
    "extendable",
    "file_kinds",
    "markup",
    "yaml_builder",
    "yaml_document",
}
MAY = {  # in the order in which data flows
    "hardware": set(),
    "data": set(),
    "model": set(),
    "train": {"hardware", "data", "model"},
    "jobs": {"hardware", "train"},
    "sweep": {"data", "model", "train", "jobs"},
    "records": {"train"},
    "tracking": {"train", "records"},
    "laws": set(),
    "study": {"laws", "records"},
}
MAY["plan"] = set(MAY) - {"tracking"}
MAY["launch"] = set(MAY) - {"study"}
MAY["evals"] = {"hardware", "data", "model", "train", "jobs", "records", "laws", "plan"}
MAY["posttrain"] = set(MAY) - {"laws", "study", "sweep"}
MAY["bench"] = {"hardware", "data", "model", "train"}
MAY["backtest"] = {"laws", "records", "study"}
MAY["recipe_check"] = {"hardware", "data", "model", "train", "jobs", "sweep", "evals"}
MAY["comparison"] = {"laws", "records", "study"}
MAY["report"] = set(MAY)
MAY["testing"] = set(MAY)  # suites for plug-ins of every kind
MAY["api"] = set(MAY) - {"testing"}
MAY["cli"] = set(MAY) - {"testing"}
HOMES = {
    "torch": {"hardware", "model", "train", "bench", "evals", "posttrain", "recipe_check", "testing"},
    "tokenizers": {"data"},
    "datasets": {"data", "evals", "posttrain"},
    "lm_eval": {"evals"},
    "trl": {"posttrain"},
    "transformers": {"posttrain", "evals"},
    "peft": {"posttrain"},
    "pyarrow": {"data", "records"},
    "openpyxl": {"records"},
    "zstandard": {"data", "records"},
    "safetensors": {"model", "train", "evals", "posttrain"},
    "fastwarc": {"data"},
    "resiliparse": {"data"},
    "trafilatura": {"data"},
    "py3langid": {"data"},
    "lingua": {"data"},
    "sklearn": {"data"},
    "scipy": {"data", "laws", "study", "plan", "evals", "comparison", "recipe_check", "report"},
    "pandas": {"records", "api"},
    "mlflow": {"tracking"},
    "optuna": {"sweep"},
    "matplotlib": {"report", "api", "testing"},
    "rich": {"screen", "jobs", "tracking"},
    "pydantic": {
        "jobs",
        "sealed",
        "system",
        "network_files",
        "config",
        "config_errors",
        "data",
        "model",
        "train",
        "sweep",
        "plan",
        "launch",
        "evals",
        "posttrain",
        "backtest",
    },
    "ruamel": {"config", "yaml_builder"},
    "xxhash": {"sealed"},
    "ray": {"jobs"},
}
FILES = [path for path in source_tree.FILES if path not in {PACKAGE / "__init__.py", PACKAGE / "__main__.py"}]


def package_of(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def named(path):
    return str(path.relative_to(PACKAGE))


@functools.cache
def imported(path):
    """Absolute dotted names that a file imports, wherever in the file it does so."""
    found = []
    for node in source_tree.nodes(path):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: write imports in full, not relative"
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return found


def loaded_by(statement):
    """Top-level packages in memory after a fresh Python ran one statement."""
    code = f"import sys; {statement}; print(*{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_every_package_is_on_the_map():
    assert {package_of(path) for path in FILES} == set(MAY) | SHARED


def test_the_map_has_no_loops():
    for i, package in enumerate(MAY):
        assert MAY[package] <= set(list(MAY)[:i])


def test_data_flows_one_way():
    against = {}
    for path in FILES:
        names = [name.split(".") for name in imported(path)]
        packages = {name[1] for name in names if name[0] == "scalelab" and len(name) > 1}
        may = SHARED | MAY.get(package_of(path), set()) | {package_of(path), "__version__"}
        against[named(path)] = sorted(packages - may)

    assert not {path: packages for path, packages in against.items() if packages}


def test_heavy_packages_stay_home():
    away = {}
    for path in FILES:
        packages = {name.split(".")[0] for name in imported(path)} & set(HOMES)
        away[named(path)] = [p for p in sorted(packages) if package_of(path) not in HOMES[p]]

    assert not {path: packages for path, packages in away.items() if packages}


DIMENSIONS = re.compile(r"\b(d_model|n_layers|n_heads|n_kv_heads|head_size|d_ff|qk_norm)\b")
OWN = (
    PACKAGE / "model" / "transformer",
    PACKAGE / "model" / "moe",  # a transformer, its feed-forward another
    PACKAGE / "model" / "kernels.py",
    PACKAGE / "testing" / "stages.py",  # makes a small base of a known size
)
ELSEWHERE = [path for path in FILES if not {path, *path.parents} & set(OWN)]


def test_no_dimension_is_named_outside_of_its_architecture():
    assert {named(path): found for path in ELSEWHERE if (found := DIMENSIONS.findall(path.read_text()))} == {}


def test_no_files_import_one_another():
    assert source_tree.cycles() == []


def test_flags_are_parsed_by_the_command_line_alone():
    assert {package_of(path) for path in FILES if "argparse" in imported(path)} == {"cli"}


def test_what_is_printed_passes_the_screen():
    """Names and data can hold escape sequences, which screen.echo and screen.ask replace."""
    found = [
        f"{named(path)}:{node.lineno}: {node.func.id}"
        for path in FILES
        if path != PACKAGE / "screen.py"
        for node in source_tree.nodes(path)
        if isinstance(node, ast.Call) and getattr(node.func, "id", None) in {"print", "input"}
    ]

    assert not found


def test_help_imports_nothing_heavy():
    heavy = {*HOMES, "numpy"}

    assert not heavy & loaded_by("import scalelab.cli.main; scalelab.cli.main.parser()")


def test_laws_run_without_torch_or_the_tracker():
    assert not {"torch", "mlflow", "pandas"} & loaded_by("import scalelab.study.study")


def test_a_fit_is_drawn_without_torch():
    figures = "[FIGURES[name] for name in FIGURES if not name.startswith('post_')]"
    loaded = loaded_by(f"from scalelab.report.plots.figure_file import FIGURES; {figures}")

    assert "matplotlib" in loaded
    assert "torch" not in loaded


def test_a_sweep_is_planned_without_torch():
    assert "torch" not in loaded_by(
        "import scalelab.launch.sweep, scalelab.sweep.isoflop, scalelab.launch.tune"
    )


def test_training_needs_no_mlflow_and_a_run_of_a_sweep_no_sharded_checkpoints():
    """Torch's checkpoints over several processes load sympy, which takes as long as half of torch."""
    assert not {"mlflow", "pandas", "sympy"} & loaded_by("import scalelab.launch.training")


ASKS_THE_CLASS = re.compile(r"isinstance\([^)]*\b(Formula|IsoFlop|Envelope|Frontier)(Fit|\b)")


def test_a_fit_says_itself_what_it_can_do():
    found = {named(path): ASKS_THE_CLASS.findall(path.read_text()) for path in FILES}

    assert {path for path, hits in found.items() if hits} <= {"testing/laws.py"}


SUITES = {  # by the noun of a registry
    "architecture": "architectures",
    "law": "laws",
    "mixture law": "mixture_laws",
    "source": "sources",
    "tokenizer": "tokenizers",
    "source of pages": "page_sources",
    "curation stage": "curation_stages",
    "optimizer": "optimizers",
    "rule": "rules",
    "schedule": "schedules",
    "design": "designs",
    "kind of job": "jobs",
    "executor": "executors",
    "source of conversations": "conversations",
    "layout of records": "layouts",
    "judge": "judges",
    "task": "tasks",
    "measurement": "measurements",
    "stage": "stages",
    "figure": "figures",
    "check": "checks",
    "benchmark": "benchmarks",
    "forecasting method": "methods",
    "recipe check": "recipe_checks",
}


def test_every_registry_has_a_conformance_suite():
    nouns = {
        node.args[0].value
        for path in FILES
        for node in source_tree.nodes(path)
        if isinstance(node, ast.Call) and getattr(node.func, "id", None) == "Registry"
    }

    assert nouns == set(SUITES)
    assert all((PACKAGE / "testing" / f"{suite}.py").exists() for suite in SUITES.values())
