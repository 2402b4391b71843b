"""What `fit` and `plan` say about how a table was read, on the terminal, in the report and as JSON."""

import json

import numpy as np
import pandas as pd
import pytest

import scalelab
from scalelab.cli.main import main
from scalelab.records.external_table import parse_columns


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SCALELAB_RUNS", raising=False)
    return tmp_path


def runs():
    """Four budgets of seven sizes on a known surface: N, D, loss, budget."""
    for C in np.geomspace(1e18, 1e20, 4):
        best = 0.1 * (C / 6) ** 0.51
        for N in best * np.geomspace(0.25, 4, 7):
            D = C / 6 / N
            yield N, D, 1.8 + 480 / N**0.35 + 2100 / D**0.37, C


def wandb(path):
    """An export of a tracker in which two runs crashed."""
    lines = ["Name,State,Tags,model.n_params,train_tokens,eval/loss,Budget"]
    lines += [
        f"run-{i},finished,t,{N!r},{D!r},{L!r},{C!r}" for i, (N, D, L, C) in enumerate(map(floats, runs()))
    ]
    path.write_text("\n".join([*lines, "run-28,crashed,t,1e8,nan,,1e20", "run-29,failed,t,,,,"]) + "\n")


def floats(row):
    return map(float, row)


def test_a_fit_says_how_the_table_was_read(here, capsys):
    wandb(here / "export.csv")

    assert main(["fit", "export.csv", "--target", "1e21", "--replicates", "0", "--json", "fit.json"]) == 0

    text = " ".join(capsys.readouterr().out.split())
    assert "table CSV, separated by commas, 30 rows" in text
    assert "n_tokens = train_tokens, loss = eval/loss, flops_planned = Budget (matched by name" in text
    assert "Left out: 2 runs. - run-28: crashed - run-29: failed" in text
    read = json.loads((here / "fit.json").read_text())["read"]
    assert read["columns"]["n_params"] == "model.n_params"
    assert read["rows"] == 30
    assert read["others"] == {"Tags": "tags"}
    assert "train\\_tokens" in (here / "reports/export/README.md").read_text()


def test_decimal_commas_give_the_numbers_of_decimal_points(here):
    lines = ["n_params{0}n_tokens{0}loss{0}flops_planned"]
    lines += [f"{N!r}{{0}}{D!r}{{0}}{L!r}{{0}}{C!r}" for N, D, L, C in map(floats, runs())]
    text = "\n".join(lines)
    (here / "point.csv").write_text(text.replace("{0}", ","))
    (here / "comma.csv").write_text(text.replace(".", ",").replace("{0}", ";"))

    point, comma = (scalelab.read_runs(here / f"{name}.csv") for name in ("point", "comma"))

    pd.testing.assert_frame_equal(point.evidence.table, comma.evidence.table, rtol=1e-14)
    assert comma.evidence.reading.decimal == ","


def test_a_plan_says_how_the_table_was_read(here, capsys):
    wandb(here / "export.csv")

    assert main(["plan", "export.csv", "--budget", "1e21", "--replicates", "100"]) == 0

    text = " ".join(capsys.readouterr().out.split())
    assert "n_tokens = train_tokens" in text
    assert "Left out: 2 runs." in text
    assert "train\\_tokens" in (here / "plans/export-1e21/README.md").read_text()


def test_a_line_to_copy_is_a_command_that_runs(here, capsys):
    wandb(here / "export.csv")
    text = (here / "export.csv").read_text()
    (here / "export.csv").write_text(text.replace("eval/loss", "final loss"))

    assert main(["fit", "export.csv", "--replicates", "0"]) == 2
    fix = capsys.readouterr().err.split("--columns ")[1].strip()
    assert fix.endswith("loss='final loss'")
    (here / "columns.txt").write_text(fix.replace("'", "").replace(",", "\n"))
    for columns in (fix.replace("'", ""), "columns.txt"):
        assert len(scalelab.read_runs("export.csv", columns=parse_columns(columns)).evidence.table) == 28


def test_two_meanings_of_a_comma_are_asked_for_by_a_flag(here, capsys):
    (here / "t.csv").write_text('n_params,n_tokens,loss\n1,"1,234",3\n')

    assert main(["fit", "t.csv", "--replicates", "0"]) == 2
    assert "--decimal point or --decimal comma" in capsys.readouterr().err
    assert main(["fit", "t.csv", "--replicates", "0", "--decimal", "point"]) == 2
    assert "1.23k tokens" in capsys.readouterr().err


@pytest.mark.parametrize("flag", [("--columns", "loss=L"), ("--decimal", "comma"), ("--units", "loss=bits")])
@pytest.mark.parametrize("command", [("fit", "isoflop"), ("plan", "isoflop", "--budget", "1e21")])
def test_how_a_table_is_read_is_no_setting_of_a_sweep(here, capsys, command, flag):
    assert main([*command, *flag]) == 2
    assert f"{flag[0]} is for tables, and the runs are those of a sweep" in capsys.readouterr().err
