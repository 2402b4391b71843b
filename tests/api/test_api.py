"""The public Python API: names, laziness, types, results that show themselves, and the notebook."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import matplotlib.axes
import numpy as np
import pytest

import scalelab

ROOT = Path(__file__).parents[2]
USER = """
from pathlib import Path

import scalelab

runs: scalelab.Runs = scalelab.read_runs("runs.csv", columns={"n_params": "N"})
result: scalelab.FitResult = scalelab.fit(runs, target=1e22, laws=["isoflop"])
frame = result.to_frame()
axes = result.plot_valleys()
axes.set_title("mine")
verdict: str = result.verdict
plan: scalelab.BudgetPlan = scalelab.make_plan(runs, scalelab.PlanRequest(budget=1e22, gpu="h100"))
file = scalelab.load_sweep(Path("sweep.yaml"), ["recipe.seq_len=128"])
sizes = scalelab.plan_sweep(file).timed(limit_s=5.0).to_frame()
trained: scalelab.TrainedSweep = scalelab.run_sweep(file)
table = scalelab.simulate("kaplan", noise=0.01)
try:
    scalelab.evaluate("eval.yaml").to_frame()
except scalelab.ScalelabError as error:
    print(error)
"""
TYPED = (
    "scalelab/__init__.py",
    "scalelab/api",
    "scalelab/study/request.py",
    "scalelab/plan/request.py",
    "scalelab/evals/request.py",
    "scalelab/records/runs.py",
    "scalelab/report/document.py",
    "scalelab/report/render",
)

STRICT_FOR_USERS = """
[mypy]
follow_imports = silent
implicit_reexport = False
strict_equality = True

[mypy-user,wrong]  # --strict, as far as it can be asked for one file
disallow_any_generics = True
disallow_subclassing_any = True
disallow_untyped_calls = True
disallow_untyped_defs = True
disallow_incomplete_defs = True
check_untyped_defs = True
disallow_untyped_decorators = True
warn_unused_ignores = True
warn_return_any = True
extra_checks = True

# Large, and of no type that the public API has.
[mypy-torch.*,scipy.*,mlflow.*,transformers.*,optuna.*,sympy.*,IPython.*,sqlalchemy.*,requests.*]
follow_imports = skip

[mypy-urllib3.*,chardet.*,cryptography.*,prompt_toolkit.*,rich.*,markdown_it.*,ruamel.*,jinja2.*]
follow_imports = skip
"""


@pytest.fixture(scope="module")
def runs():
    return scalelab.read_runs(scalelab.simulate(noise=0.003, seeds=2))


@pytest.fixture(scope="module")
def fitted(runs):
    return scalelab.fit(runs, target=1e21, replicates=400)


@pytest.fixture(scope="module")
def planned(runs):
    return scalelab.make_plan(runs, budget=1e21, replicates=400)


@pytest.mark.parametrize("name", scalelab.__all__)
def test_every_name_is_there_and_documented(name):
    assert getattr(scalelab, name).__doc__


def test_no_name_is_that_of_a_package():
    packages = {path.name for path in Path(scalelab.__file__).parent.iterdir() if path.is_dir()}

    assert not packages & set(scalelab.__all__)
    assert set(scalelab.__all__) <= set(dir(scalelab))
    assert (Path(scalelab.__file__).parent / "py.typed").exists()


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'fitt'"):
        scalelab.fitt  # noqa: B018


def test_importing_costs_nothing():
    code = "import sys, scalelab; print(*sorted(m for m in sys.modules if m.split('.')[0] == 'scalelab'))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout

    assert found.split() == ["scalelab"]


def test_the_forecast_is_the_truth_of_the_simulation(fitted):
    """Chinchilla's published constants, Hoffmann et al. 2022 as corrected by Besiroglu et al. 2024."""
    from scalelab.study.simulate.simulation import KnownLaw

    frame, truth = fitted.to_frame(), KnownLaw.of("chinchilla").truth(1e21)

    assert frame.loc["n_params", "quoted_low"] < float(truth.N) < frame.loc["n_params", "quoted_high"]
    assert frame.loc["loss", "best"] == pytest.approx(float(truth.L), rel=0.02)
    assert set(frame["kind"]) == {"extrapolated"}
    assert fitted.verdict.startswith(fitted.study.verdict.grade)


def test_figures_are_axes(fitted, planned):
    drawn = [fitted.plot_valleys(), fitted.plot_frontier(), *fitted.plot_allocation(), planned.plot_regret()]

    assert all(isinstance(axes, matplotlib.axes.Axes) for axes in drawn)
    assert "parameters" in fitted.plot_valleys().get_xlabel()


def test_a_figure_that_cannot_be_drawn_is_refused(runs):
    alone = scalelab.fit(runs, laws=["chinchilla"], replicates=0)

    with pytest.raises(scalelab.ScalelabError, match="no valleys figure"):
        alone.plot_valleys()


@pytest.mark.parametrize("shown", ["fitted", "planned"])
def test_results_show_themselves(shown, request):
    result = request.getfixturevalue(shown)
    page = result._repr_html_()

    assert page.startswith("<div>")
    assert "<table>" in page
    assert max(map(len, str(result).split("\n"))) <= 100


def test_the_command_line_and_the_api_agree(runs, fitted, tmp_path, monkeypatch, capsys):
    from scalelab.cli.main import main

    monkeypatch.chdir(tmp_path)
    runs.table.to_csv("t.csv", index=False)

    assert main(["fit", "t.csv", "--target", "1e21", "--replicates", "400", "--json", "fit.json"]) == 0
    capsys.readouterr()
    stored = json.loads((tmp_path / "fit.json").read_text())["forecast"]
    for key in ("n_params", "n_tokens", "loss"):
        assert stored[key] == pytest.approx(fitted.to_frame().loc[key, "best"], rel=1e-12)


def test_a_plan_and_a_report_are_written_as_by_the_command_line(runs, planned, tmp_path, monkeypatch, capsys):
    from scalelab.cli.main import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SCALELAB_RUNS", raising=False)
    runs.table.to_csv("table.csv", index=False)
    assert main(["plan", "table.csv", "--budget", "1e21", "--replicates", "400", "--out", "theirs/mine"]) == 0
    capsys.readouterr()

    out = planned.write("plans/mine")
    page = scalelab.fit(runs, target=1e21, laws="isoflop", replicates=0).write_report(draws=True)

    def numbers(folder):
        found = {p.name: json.loads(p.read_text()) for p in folder.glob("*.json")}
        for name in ("created", "digest", "forecast", "sweep", "seal", "notes"):
            for record in found.values():
                record.pop(name, None)
        return found

    assert out == Path("plans/mine")
    assert planned.not_frozen == ()
    assert {p.name for p in out.iterdir()} == {p.name for p in Path("theirs/mine").iterdir()}
    assert numbers(out) == numbers(Path("theirs/mine"))
    assert page == Path("reports/table/README.md")
    assert {"fit.json", "summary.txt", "draws.csv", "valleys.png"} <= {p.name for p in page.parent.iterdir()}
    with pytest.raises(scalelab.ScalelabError, match="cannot be the name of a plan"):
        planned.write("plans/a b")
    with pytest.raises(scalelab.ScalelabError, match="has another forecast"):
        scalelab.make_plan(runs, budget=2e21, replicates=0).write("plans/mine")
    with pytest.raises(scalelab.ScalelabError, match="the cost of a model alone"):
        scalelab.make_plan(params=7e9, tokens=1.4e11).write("plans/mine")


def test_the_recipes_count_is_used_where_nobody_asked_for_one(tmp_path, monkeypatch):
    """A DataFrame is read as the total count unless it names one; only a request may contradict a recipe."""
    monkeypatch.setenv("SCALELAB_CACHE", str(tmp_path))  # without the corpus, which is looked for last
    recipe, frame = ROOT / "sweeps" / "isoflop.yaml", scalelab.simulate()

    with pytest.raises(scalelab.ScalelabError, match="the corpus of the recipe is not prepared"):
        scalelab.make_plan(frame.drop(columns="param_count", errors="ignore"), budget=1e22, recipe=recipe)
    asked = scalelab.read_runs(frame.drop(columns="param_count", errors="ignore"), param_count="total")
    with pytest.raises(scalelab.ScalelabError, match="--param-count is total"):
        scalelab.make_plan(asked, budget=1e22, recipe=recipe)


def test_a_plan_of_given_sizes_needs_no_runs():
    plan = scalelab.make_plan(params=7e9, tokens=1.4e11, gpu="h100", gpus=64, mfu=0.4)

    assert plan.to_frame().loc["n_params", "best"] == 7e9
    assert plan.result.plan.cost["gpu_hours"] == pytest.approx(6 * 7e9 * 1.4e11 / (0.4 * 989e12) / 3600)
    with pytest.raises(scalelab.ScalelabError, match="no figure"):
        plan.plot_regret()


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({}, "no budget is given"),
        ({"budget": 1e22, "loss": 2.0}, "2 ways: --budget and --loss"),
        ({"budgte": 1e22}, "unknown: budgte"),
        ({"budget": 1e22, "mfu_inference": 0.1}, "--mfu-inference requires --demand"),
        ({"params": -1.0, "tokens": 1e9}, "--params is -1"),
    ],
)
def test_a_request_that_contradicts_itself_is_refused(settings, problem):
    with pytest.raises(scalelab.ScalelabError, match=problem):
        scalelab.make_plan(None, **settings)


def test_runs_that_are_no_table_are_refused(tmp_path):
    with pytest.raises(scalelab.ScalelabError, match="there is no such file"):
        scalelab.read_runs(tmp_path / "nothing.csv")
    frame = scalelab.simulate().drop(columns="loss")
    with pytest.raises(scalelab.ScalelabError, match="no column loss"):
        scalelab.read_runs(frame)


def test_a_sweep_file_is_loaded_with_overrides():
    file = scalelab.load_sweep(ROOT / "sweeps" / "smoke.yaml", ["recipe.seq_len=96"])

    assert file.recipe.seq_len == 96


def test_a_sweep_is_planned_at_once_and_timed_when_asked(tmp_path, monkeypatch):
    monkeypatch.setenv("SCALELAB_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("SCALELAB_CACHE", str(tmp_path / "cache"))
    file = scalelab.load_sweep(ROOT / "sweeps" / "smoke.yaml", ["launch.executor=inline"])

    planned = scalelab.plan_sweep(file)
    timed = planned.timed(limit_s=30)

    assert planned.to_frame()["seconds_estimated"].isna().all()
    assert (timed.to_frame()["seconds_estimated"] > 0).all()
    assert planned.to_frame()["n_tokens"].equals(timed.to_frame()["n_tokens"])
    assert "Time: about" in str(timed)
    assert "Time:" not in str(planned)
    assert "<table>" in timed._repr_html_()
    assert not (tmp_path / "runs").exists()


@pytest.fixture(scope="module")
def type_errors(tmp_path_factory):
    """What mypy prints about files of a user and about TYPED: one call, as reading the libraries
    takes nearly all of its time.
    """
    folder = tmp_path_factory.mktemp("typed")
    (folder / "mypy.ini").write_text(STRICT_FOR_USERS)
    (folder / "user.py").write_text(USER)
    (folder / "wrong.py").write_text(USER.replace("verdict: str", "verdict: int"))
    files = (str(folder / "user.py"), str(folder / "wrong.py"), *TYPED)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file", str(folder / "mypy.ini"), *files],
        cwd=ROOT,
        env=os.environ | {"MYPYPATH": str(ROOT), "MYPY_CACHE_DIR": str(ROOT / ".pytest_cache" / "mypy")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    return [line for line in done.stdout.splitlines() if ": error: " in line]


def test_a_program_that_uses_it_passes_a_strict_type_checker(type_errors):
    assert not [line for line in type_errors if "user.py" in line]


def test_a_wrong_type_in_such_a_program_is_found(type_errors):
    (found,) = [line for line in type_errors if "wrong.py" in line]

    assert 'expression has type "str", variable has type "int"' in found


def test_its_own_files_pass_a_type_checker(type_errors):
    assert not [line for line in type_errors if "scalelab/" in line]


def test_the_notebook_runs_and_imports_scalelab_alone(tmp_path):
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(ROOT / "analysis" / "notebook.ipynb", as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    imported = {
        alias.name if isinstance(node, ast.Import) else node.module
        for cell in cells
        for node in ast.walk(ast.parse(cell.source))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    assert imported == {"scalelab"}

    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}}).execute()

    pictures = [o for cell in cells for o in cell.outputs if "image/png" in o.get("data", {})]
    frames = [
        o for cell in cells for o in cell.outputs if "dataframe" in o.get("data", {}).get("text/html", "")
    ]
    assert len(pictures) == 3
    assert len(frames) == 3
    assert "N* =" in cells[-1].outputs[0]["text"]
    assert np.isfinite(float(cells[-1].outputs[0]["text"].split()[2]))
