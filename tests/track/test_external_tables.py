"""Anybody's table: what is read, and every refusal with its rows."""

import os
import time
from pathlib import Path

import pandas as pd
import pytest

from scalelab.errors import DataError
from scalelab.records.evidence import evidence
from scalelab.records.external_table import read_table

GOOD = "n_params,n_tokens,loss\n1e6,2e7,3.5\n2e6,4e7,3.25\n"


@pytest.fixture
def table(tmp_path):
    def write(text, name="theirs.csv"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def read(path, columns=None, count=None):
    table, reading = read_table(path, columns)
    return evidence(table, count, str(path), reading)


def refused(path, columns=None, count=None):
    with pytest.raises(DataError) as error:
        read(path, columns, count)
    assert str(path) in error.value.where
    assert len(str(error.value)) < 1500
    return error.value


def test_a_good_table_is_read_as_numbers(table):
    seen = read(table(GOOD))

    assert seen.table.to_dict("list") == {
        "n_params": [1e6, 2e6],
        "n_tokens": [2e7, 4e7],
        "loss": [3.5, 3.25],
        "run": ["row 2", "row 3"],
    }
    assert seen[1:4] == ([], "total", "measured")


def test_columns_can_be_called_anything(table):
    seen = read(table(GOOD.replace("n_params", "N")), {"n_params": "N"})

    assert list(seen.table["n_params"]) == [1e6, 2e6]


def test_parquet_is_read_too(tmp_path):
    path = tmp_path / "theirs.parquet"
    pd.DataFrame({"n_params": [1], "n_tokens": [2], "loss": [3.0]}).to_parquet(path)

    assert read(path).table["n_params"].tolist() == [1.0]


def test_a_run_outside_any_slice_may_have_no_budget(table):
    seen = read(table("n_params,n_tokens,loss,flops_planned\n1,2,3,4\n1,2,3,\n"))

    assert seen.table["flops_planned"].isna().tolist() == [False, True]


def test_blank_lines_are_passed_over_and_lines_keep_their_numbers(table):
    assert len(read(table(GOOD.replace("\n2e6", "\n\n2e6") + "\n\n")).table) == 2

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
    assert error.where.endswith(f"rows 3 ({shown})"), error.where


def test_many_bad_rows_are_counted(table):
    error = refused(table("n_params,n_tokens,loss\n" + "0,1,1\n" * 9))

    assert error.where.endswith("6 (0) and 4 more")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "the file is empty"),
        ("n_params,n_tokens,loss\n", "the table has no rows"),
        ("n_params,n_tokens\n1,2\n", "the table has no column loss"),
        ("n_params,n_tokens,loss,loss\n1,2,3,4\n", "the column 'loss' stands twice"),
        ('n_params,n_tokens,"loss","loss"\n1,2,3,4\n', "the column 'loss' stands twice"),
        ("n_params,n_tokens,loss\n1,2,3,4\n", "a row has 4 fields, more than the header"),
        ("n_params,n_tokens,loss\n1,2,3,\n", "a row has 4 fields, more than the header"),
        ("n_params,n_tokens,loss\n1,2,3\n1,2,3,4\n", "a row has 4 fields, more than the header"),
        ("n_params,n_tokens,loss\n1,2,3\n1,2\n", "a row has 2 fields, fewer than the header"),
        (b"\xff\xfe\x00\x01\x80", "the file is not text"),
        (b'n_params,n_tokens,loss\n1,2,"3\n', "it cannot be read as a table"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "the file is not text"),
        ('{"n_params": [1, 2]}', "the table has no column n_tokens, loss"),
        ('[{"n_params": 1}]', "the table has no column n_tokens, loss"),
        (b"x" * (1 << 20) + b"\n", "its first line is longer than 1 MB"),
        (",".join(f"c{i}" for i in range(99_999)) + "\n1\n", "the first line has 99999 fields"),
        (
            ",".join(f"c{i}" for i in range(999)) + "\n" + 998 * "," + "1\n",
            "the table has no column n_params",
        ),
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


def test_a_stated_name_goes_before_our_own(table):
    seen = read(table("N,n_params,n_tokens,loss\n1,2,3,4\n"), {"n_params": "N"})

    assert seen.table["n_params"].tolist() == [1.0]
    assert seen.table["n_params_2"].tolist() == [2]


COUNTS = "n_params_total,n_params_matmul,n_tokens,loss\n9,8,2,3\n9,8,3,2\n"


@pytest.mark.parametrize(("count", "n_params"), [(None, 9), ("total", 9), ("matmul", 8)])
def test_our_own_counts_are_chosen_from(table, count, n_params):
    assert list(read(table(COUNTS), None, count).table["n_params"]) == [n_params] * 2


def test_a_count_that_is_not_there_is_refused_with_those_that_are(table):
    error = refused(table(COUNTS), None, "active")

    assert error.problem == "the table has no column n_params_active"
    assert error.fix == "choose a count that is there: --param-count total"


def test_the_tables_own_word_for_its_count_is_taken(table):
    text = "n_params,n_tokens,loss,param_count\n1,2,3,matmul\n2,2,3,matmul\n"

    assert read(table(text)).param_count == "matmul"
    assert "'matmul', not 'total'" in refused(table(text), None, "total").problem


@pytest.mark.parametrize(
    ("column", "values", "problem"),
    [
        ("tokenizer", ("gpt2", "llama"), "the runs have 2 different values of tokenizer"),
        ("data_digest", ("d1", "d2"), "the runs have 2 different values of data_digest"),
        ("precision", ("bf16", "bf16+fp8"), "1 of 2 runs multiplied matrices in fp8"),
        ("param_count", ("total", "matmul"), "the runs count their parameters in 2 ways"),
        ("param_count", ("bytes", "bytes"), "the table's param_count is 'bytes'"),
        ("status", ("finished", "simulated"), "1 of 2 runs are simulated, the others measured"),
        ("simulated", ("true", "false"), "1 of 2 runs are simulated, the others measured"),
        ("simulated", ("true", "perhaps"), "the column simulated must say true or false"),
        ("status", ("finished", "finnished"), "did you mean 'finished'?"),
        ("status", ("failed", "planned"), "no row of the table is a finished run"),
        ("flops", ("1e9", "-1"), "flops must be a positive number in every row"),
        ("flops_planned", ("1e9", "0"), "flops_planned must be a positive number"),
        ("weight", ("1", ""), "weight must be a positive number in every row"),
        ("n_tokens_unique", ("1", "none"), "n_tokens_unique must be a positive number"),
    ],
)
def test_columns_that_contradict_themselves_are_refused(table, column, values, problem):
    text = f"n_params,n_tokens,loss,{column}\n1,2,3,{values[0]}\n2,2,3,{values[1]}\n"

    error = refused(table(text))

    assert problem in error.problem
    if column in ("tokenizer", "data_digest"):
        assert f"{values[0]}: 1 runs; {values[1]}: 1 runs" in error.where


def test_rows_that_are_no_evidence_are_left_out_before_their_numbers_are_asked_for(table):
    rows = [
        "1,2,3,finished,",
        "1,2,,Diverged,step 12",
        "1,2,,planned,",
        "1,2,3,intermediate,",
        "1,,3,interrupted,",
        "2,2,3,un-annealed,",
        "2,4,3,FINISHED,",
    ]

    seen = read(table("n_params,n_tokens,loss,status,reason\n" + "\n".join(rows)))

    assert list(seen.table["run"]) == ["row 2", "row 8"]
    assert [(e["run"], e["reason"]) for e in seen.excluded] == [
        ("row 3", "diverged: step 12"),
        ("row 4", "planned"),
        ("row 5", "intermediate: its loss was read before the cooldown"),
        ("row 6", "interrupted"),
        ("row 7", "un-annealed: its loss was read before the cooldown"),
    ]


@pytest.mark.parametrize("column", ["status\n1,2,3,simulated", "simulated\n1,2,3,True"])
def test_simulated_rows_say_so(table, column):
    assert read(table(f"n_params,n_tokens,loss,{column}\n")).kind == "simulated"


def test_a_run_without_a_group_is_a_group_of_its_own(table):
    seen = read(table("n_params,n_tokens,loss,group\n1,2,3,a\n2,2,3,a\n3,2,3,\n"))

    assert list(seen.table["group"]) == ["a", "a", "row 4"]


def test_a_file_that_is_too_large_is_refused_by_its_size(tmp_path):
    path = tmp_path / "corpus.csv"
    with open(path, "wb") as file:
        file.truncate(10_000_000_000)

    assert refused(path).problem == "the file has 10000 MB, and a run table at most 500 MB"


def test_pipes_and_devices_are_refused_and_never_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.csv")

    for path in (tmp_path / "pipe.csv", Path("/dev/zero")):
        assert ", not a regular file" in refused(path).problem


def test_a_file_that_may_not_be_read(table):
    path = table(GOOD)
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read everything")

    assert "Permission denied" in refused(path).problem


def test_a_hundred_thousand_rows_are_read_in_a_moment(table):
    rows = "\n".join(f"r{i},{i + 1},2e9,3.{i:06d},1e18,finished" for i in range(100_000))

    began = time.process_time()
    seen = read(table("run,n_params,n_tokens,loss,flops_planned,status\n" + rows))

    assert len(seen.table) == 100_000
    assert time.process_time() - began < 4  # .6 s when nothing else runs
