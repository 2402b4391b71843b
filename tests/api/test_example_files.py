"""Hints outside of a checkout: no file is named that is not there, and the example can be written."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from scalelab.cli.main import main, parser
from scalelab.example_files import EXAMPLE_FILES, SHIPPED
from scalelab.sweep.file import SweepFile

ROOT = Path(__file__).parents[2]


@pytest.fixture
def outside(tmp_path, monkeypatch):
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SCALELAB_RUNS", raising=False)
    return tmp_path


def run_python(*argv, cwd):
    return subprocess.run([sys.executable, *argv], capture_output=True, text=True, cwd=cwd)


def test_the_package_runs_by_its_name(outside):
    found = run_python("-m", "scalelab", "--version", cwd=outside)

    assert found.returncode == 0, found.stderr
    assert re.fullmatch(r"\d+\.\d+.*\n", found.stdout)
    assert run_python("-m", "scalelab", "fit", "nothing.csv", cwd=outside).returncode == 2


def test_examples_are_the_files_of_the_repository():
    for name in set(EXAMPLE_FILES.values()):
        assert (SHIPPED / Path(name).name).read_text() == (ROOT / name).read_text()


def test_help_names_the_command_that_writes_the_file(outside, monkeypatch):
    assert "scalelab sweep --example" in parser().epilog
    for name in EXAMPLE_FILES:
        found = run_python("-m", "scalelab", name, "--help", cwd=outside).stdout
        assert f"  scalelab {name} --example\n" in found
    monkeypatch.chdir(ROOT)
    assert "--example" not in parser().epilog


@pytest.mark.parametrize("command", EXAMPLE_FILES)
def test_an_example_that_is_not_here_is_refused_with_the_way_to_get_it(outside, command, capsys):
    assert main([command, EXAMPLE_FILES[command]]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: there is no file '{EXAMPLE_FILES[command]}'")
    assert f"scalelab {command} --example" in said.partition("fix:")[2]
    assert main([command]) == 2
    assert "error: no file is given" in capsys.readouterr().err

    assert main([command, "--example"]) == 0

    path = outside / EXAMPLE_FILES[command]
    assert path.read_text() == (ROOT / EXAMPLE_FILES[command]).read_text()
    assert f"next: scalelab {command} {EXAMPLE_FILES[command]}" in capsys.readouterr().out
    assert main([command, "--example"]) == 0  # it is there already
    path.write_text("name: mine\n")
    assert main([command, "--example"]) == 2
    assert path.read_text() == "name: mine\n"


def test_the_written_example_is_a_sweep(outside, capsys):
    assert main(["sweep", "--example"]) == 0

    assert SweepFile.load(outside / "sweeps" / "isoflop.yaml").name == "isoflop"
    del capsys


def test_the_first_step_works_where_there_are_no_runs(outside, capsys):
    assert main(["runs"]) == 0
    assert "Start: scalelab sweep --example" in " ".join(capsys.readouterr().out.split())


def test_an_example_in_a_place_that_is_no_directory_is_refused(outside, capsys):
    (outside / "sweeps").write_text("a file")

    assert main(["sweep", "--example"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n  where: ") == said.count("\n  fix:   ") == 1
