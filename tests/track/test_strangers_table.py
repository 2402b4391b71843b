"""Anybody's table: what is read, and every refusal with its rows."""

import pandas as pd
import pytest

from scalelab.errors import DataError
from scalelab.track.table import read_table

GOOD = "n_params,n_tokens,loss\n1e6,2e7,3.5\n2e6,4e7,3.25\n"


@pytest.fixture
def table(tmp_path):
    def write(text, name="theirs.csv"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def refused(path, columns=None):
    with pytest.raises(DataError) as error:
        read_table(path, columns)
    assert str(path) in error.value.where
    return error.value


def test_a_good_table_is_read_as_numbers(table):
    read = read_table(table(GOOD))

    assert read.to_dict("list") == {
        "n_params": [1e6, 2e6], "n_tokens": [2e7, 4e7], "loss": [3.5, 3.25],
    }  # fmt: skip


def test_columns_can_be_called_anything(table):
    read = read_table(table(GOOD.replace("n_params", "N")), {"n_params": "N"})

    assert list(read["n_params"]) == [1e6, 2e6]


def test_parquet_is_read_too(tmp_path):
    path = tmp_path / "theirs.parquet"
    pd.DataFrame({"n_params": [1], "n_tokens": [2], "loss": [3.0]}).to_parquet(path)

    assert read_table(path)["n_params"].tolist() == [1.0]


def test_a_run_outside_any_slice_may_have_no_budget(table):
    read = read_table(table("n_params,n_tokens,loss,flops_planned\n1,2,3,4\n1,2,3,\n"))

    assert read["flops_planned"].isna().tolist() == [False, True]


def test_blank_lines_are_passed_over_and_lines_keep_their_numbers(table):
    assert len(read_table(table(GOOD.replace("\n2e6", "\n\n2e6") + "\n\n"))) == 2

    error = refused(table(GOOD.replace("\n2e6,4e7", "\n\n2e6,-1")))
    assert "rows 4 (-1.0)" in error.where


@pytest.mark.parametrize(
    ("value", "shown"),
    [("", "nan"), ("0", "0.0"), ("-3", "-3.0"), ("many", "many"), ("inf", "inf"), ("1;5", "1;5")],
)
@pytest.mark.parametrize("column", [0, 2])
def test_what_is_no_positive_number_is_named_with_its_row(table, value, shown, column):
    name = ("n_params", "n_tokens", "loss")[column]
    rows = [["1e6", "2e7", "3.5"] for _ in range(3)]
    rows[1][column] = value
    error = refused(table("n_params,n_tokens,loss\n" + "\n".join(map(",".join, rows))))

    assert error.problem == f"{name} must be a positive number in every row"
    assert error.where.endswith(f"rows 3 ({shown})")


def test_many_bad_rows_are_counted(table):
    error = refused(table("n_params,n_tokens,loss\n" + "0,1,1\n" * 9))

    assert error.where.endswith("6 (0) and 4 more")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "the file is empty"),
        ("n_params,n_tokens,loss\n", "the table has no rows"),
        ("n_params,n_tokens\n1,2\n", "the table has no column loss"),
        ("n_params;n_tokens;loss\n1;2;3\n", "the table has no column n_params, n_tokens, loss"),
        ("n_params,n_tokens,loss,loss\n1,2,3,4\n", "the column 'loss' stands twice"),
        ('n_params,n_tokens,"loss","loss"\n1,2,3,4\n', "the column 'loss' stands twice"),
        ("n_params,n_tokens,loss\n1,2,3,4\n", "the rows have more fields than the header"),
        ("n_params,n_tokens,loss\n1,2,3,\n", "the rows have more fields than the header"),
        ("n_params,n_tokens,loss\n1,2,3\n1,2,3,4\n", "it cannot be read as a table"),
        (b"\xff\xfe\x00\x01\x80", "the file is not text"),
        (b'n_params,n_tokens,loss\n1,2,"3\n', "it cannot be read as a table"),
    ],
)
def test_a_file_that_is_no_table_is_refused(table, text, problem):
    assert problem in refused(table(text)).problem


def test_a_parquet_that_is_none_is_refused(table):
    assert "cannot be read as a table" in refused(table("PAR1", "theirs.parquet")).problem


def test_a_missing_file_and_a_directory_are_refused(tmp_path):
    assert refused(tmp_path / "none.csv").problem == "there is no such file"
    assert "cannot be read" in refused(tmp_path).problem


def test_a_new_name_for_a_column_that_is_not_there(table):
    error = refused(table(GOOD), {"n_params": "N"})

    assert error.problem == "the table has no column 'N'"
    assert "n_params, n_tokens, loss" in error.where


def test_a_new_name_that_means_nothing_to_us(table):
    error = refused(table(GOOD), {"flop": "loss"})

    assert "'flop' is not a column that we use; did you mean 'flops'?" in error.problem


def test_a_new_name_that_is_taken(table):
    error = refused(table("N,n_params,n_tokens,loss\n1,2,3,4\n"), {"n_params": "N"})

    assert error.problem == "the column 'n_params' stands twice"


def test_our_own_counts_have_to_be_chosen_from(table):
    error = refused(table("n_params_total,n_params_active,n_tokens,loss\n1,1,2,3\n"))

    assert error.problem == "the table has no column n_params"
    assert error.fix.endswith("--columns n_params=n_params_total")
