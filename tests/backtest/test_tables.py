"""Directories of tables: described, altered, unknown and unusable ones."""

import hashlib

import numpy as np
import pytest

from scalelab.backtest.tables import descriptions, read_tables
from scalelab.errors import ConfigError, DataError

DESCRIPTION = """
name: mine
title: Simulated
family: ours
file: table0.csv
sha256: "{digest}"
source: https://example.org/table0.csv
licence: none
columns: {{n_params: size, n_tokens: tokens, loss: nats}}
expected_runs: 25
"""


def described(path, text=DESCRIPTION, **changes):
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    text = text.format(digest=digest)
    for old, new in changes.items():
        text = "\n".join(f"{old}: {new}" if line.startswith(f"{old}:") else line for line in text.split("\n"))
    (path.parent / "mine.table.yaml").write_text(text)


def test_every_description_says_where_its_table_is_from():
    known = {config.name: config for config in descriptions()}

    assert len(known) == 11
    for config in known.values():
        assert config.source.startswith("https://")
        assert config.licence
        assert config.left_out or {"n_params", "loss"} <= set(config.columns)


def test_an_unknown_table_is_read_as_fit_reads_it(table_of, write):
    path = write(table_of(), columns=("N", "D", "val_loss"))

    (table,) = read_tables(path.parent).tables

    assert (table.name, table.family, table.config, table.kind) == ("table0", "table0", None, "measured")
    assert pytest.approx(table_of().runs.N) == table.runs.N


def test_simulated_runs_stay_simulated(table_of, write):
    path = write(table_of(), more="status=simulated")

    assert read_tables(path.parent).tables[0].kind == "simulated"


def test_a_description_beside_a_table_says_how_it_is_read(table_of, write):
    path = write(table_of(), columns=("size", "tokens", "nats"))
    described(path)

    (table,) = read_tables(path.parent).tables

    assert (table.name, table.family) == ("mine", "ours")
    assert pytest.approx(table_of().runs.L) == table.runs.L


def test_a_table_that_is_another_file_than_described_is_refused(table_of, write):
    path = write(table_of(), columns=("size", "tokens", "nats"))
    described(path)
    path.write_text(path.read_text().replace("1", "2", 1))

    with pytest.raises(DataError, match="SHA-256 differs") as refusal:
        read_tables(path.parent)

    assert "https://example.org/table0.csv" in refusal.value.fix
    assert "rename the file" in refusal.value.fix


def test_a_table_that_is_left_out_by_name_has_its_reason(table_of, write):
    path = write(table_of())
    described(path)
    other = write(table_of(seed=1))
    with open(path.parent / "mine.table.yaml", "a") as file:
        file.write("left_out: no tokens\n")

    found = read_tables(path.parent)

    assert [(each.name, each.reason) for each in found.left_out] == [("mine", "no tokens")]
    assert [table.path for table in found.tables] == [str(other)]


def test_an_unusable_table_is_listed_and_not_dropped(table_of, write):
    path = write(table_of())
    (path.parent / "notes.csv").write_text("a,b\n1,2\n")

    found = read_tables(path.parent)

    assert [each.name for each in found.left_out] == ["notes.csv"]
    assert found.left_out[0].reason
    assert len(found.tables) == 1


def test_a_description_that_does_not_hold_is_refused(table_of, write):
    path = write(table_of(), columns=("size", "tokens", "nats"))

    described(path, expected_runs="24")
    with pytest.raises(DataError, match="25 runs are left of mine, not 24"):
        read_tables(path.parent)
    described(path, columns="{n_params: size, n_tokens: D, loss: nats}")
    with pytest.raises(DataError, match="no column 'D'"):
        read_tables(path.parent)
    described(path, licence="[1]")
    with pytest.raises(ConfigError, match="licence"):
        read_tables(path.parent)


def test_a_described_cell_that_is_no_number_is_refused(table_of, write):
    path = write(table_of(), columns=("size", "tokens", "nats"))
    path.write_text(path.read_text() + "many,1,2\n")
    described(path)

    with pytest.raises(DataError, match="a cell of mine is no number"):
        read_tables(path.parent)
    path.write_text(path.read_text().replace("many", "-1"))
    described(path, expected_runs="26")
    with pytest.raises(DataError, match="N must be positive") as refusal:
        read_tables(path.parent)
    assert str(path) in refusal.value.where


def test_a_description_without_the_columns_of_a_law_is_refused(table_of, write):
    path = write(table_of(), columns=("size", "tokens", "nats"))
    described(path, columns="{n_params: size, loss: nats}")

    with pytest.raises(DataError, match="n_tokens or flops"):
        read_tables(path.parent)


def test_a_directory_with_the_name_of_a_table_is_listed(table_of, write):
    path = write(table_of())
    (path.parent / "other.csv").mkdir()

    assert [each.name for each in read_tables(path.parent).left_out] == ["other.csv"]


@pytest.mark.parametrize("there", [False, True])
def test_a_directory_without_tables_says_where_to_fetch_some(tmp_path, there):
    directory = tmp_path / "none"
    if there:
        directory.mkdir()

    with pytest.raises(DataError, match=r"hoffmann2022_fig4_points\.csv from https://") as refusal:
        read_tables(directory)

    assert str(directory) in refusal.value.where


def test_the_best_of_runs_that_differ_in_a_setting_is_used(tmp_path):
    rows = [
        (n, d, 2 + 1e9 / (n + d) + 0.1 * k, 1e-3 * (k + 1))
        for n in (1e7, 2e7)
        for d in (1e8, 2e8)
        for k in (1, 0)
    ]
    (tmp_path / "rates.csv").write_text(
        "n_params,n_tokens,loss,learning_rate\n" + "\n".join(",".join(map(repr, row)) for row in rows)
    )

    (table,) = read_tables(tmp_path).tables

    assert len(table.runs) == 4
    assert np.array_equal(table.runs.L, [row[2] for row in rows if row[3] == 1e-3])
    assert "the best run of each" in table.notes[0]
