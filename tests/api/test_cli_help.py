"""Help of every command: units and defaults, the width of the terminal, examples that are accepted and run."""

import re
import shlex
import subprocess
import sys

import pytest

from scalelab.cli.main import COMMANDS, main, parser

CHEAP = ("simulate", "plan --params")
"""Examples that need no runs: executed, not only parsed."""


def shown(name, monkeypatch, columns=80):
    monkeypatch.setenv("COLUMNS", str(columns))
    root = parser([name])
    return next(a for a in root._actions if a.dest == "command").choices[name].format_help()


def examples(name):
    root = parser([name])
    text = next(a for a in root._actions if a.dest == "command").choices[name].epilog
    return [line.strip() for line in text.splitlines()[1:]]


@pytest.mark.parametrize("columns", [60, 80, 200])
@pytest.mark.parametrize("name", COMMANDS)
def test_no_line_of_help_is_wider_than_the_terminal(name, columns, monkeypatch):
    lines = shown(name, monkeypatch, columns).split("\n")
    body = lines[: next(i for i, line in enumerate(lines) if line.startswith("examples:"))]

    assert max(map(len, body)) <= columns
    if columns == 80:
        assert max(map(len, lines)) <= 80


@pytest.mark.parametrize("name", COMMANDS)
def test_every_flag_says_what_it_is_and_its_default(name, monkeypatch):
    root = parser([name])
    command = next(a for a in root._actions if a.dest == "command").choices[name]

    for action in command._actions:
        if action.option_strings and "--help" not in action.option_strings:
            assert re.search(r"\(default: .+\)", action.help), (
                f"{name} {action.option_strings}: {action.help}"
            )
        else:
            assert action.help


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_ends_with_two_examples_that_are_accepted(name):
    found = examples(name)

    assert len(found) >= 2
    for line in found:
        program, command, *arguments = shlex.split(line)
        assert (program, command) == ("scalelab", name)
        parser([name]).parse_args([command, *arguments])


@pytest.mark.parametrize(
    "line",
    [
        line
        for name in COMMANDS
        for line in examples(name)
        if line.startswith(tuple(f"scalelab {c}" for c in CHEAP))
    ],
)
def test_examples_run(line, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    assert main(shlex.split(line)[1:]) == 0
    assert capsys.readouterr().out


def test_the_example_of_a_table_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["simulate", "runs.csv", "--noise", "gaussian:0.003"]) == 0
    (line,) = [line for line in examples("fit") if ".csv" in line]
    table = (tmp_path / "runs.csv").read_text().replace("n_params", "N").replace("n_tokens,", "D,")
    (tmp_path / "runs.csv").write_text(table)

    assert main([*shlex.split(line)[1:], "--replicates", "50"]) == 0
    out = capsys.readouterr().out
    assert "Forecast (extrapolated)" in out
    assert max(map(len, out.splitlines())) <= 100


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command_imports_nothing_heavy(name):
    file, _ = COMMANDS[name]
    code = (
        f"import sys, scalelab.cli.{file}; "
        "print(*{m.split('.')[0] for m in sys.modules} & {'numpy', 'torch', 'pandas', 'mlflow', 'scipy'})"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout

    assert found.split() == []


def test_errors_of_names_cannot_control_the_terminal(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    assert main(["fit", "a\x1b[31mb.csv"]) == 2
    assert "\x1b" not in capsys.readouterr().err
