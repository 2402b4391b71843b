"""States of trackers, and rows that were read before the end of their run."""

import numpy as np
import pandas as pd
import pytest

from scalelab.records.run_states import BLANK, states

HEADER = "n_params,n_tokens,loss,"


def left_out(seen):
    return [(each["run"], each["reason"]) for each in seen.excluded]


@pytest.mark.parametrize(
    "word", ["finished", "FINISHED", "Finished ", "completed", "COMPLETE", "success", "done"]
)
def test_runs_that_ended_well_are_evidence(tables, word):
    assert len(tables.read(f"{HEADER}State\n1,2,3,{word}\n").table) == 1


@pytest.mark.parametrize(
    "word",
    [
        "crashed",
        "FAILED",
        "KILLED",
        "Running",
        "SCHEDULED",
        "preempted",
        "pending",
        "OUT_OF_MEMORY",
        "cancelled",
    ],
)
@pytest.mark.parametrize("numbers", ["1,2,3", ",,", "nan,1,oops", "-1,0,inf"])
def test_other_runs_are_left_out_and_listed_whatever_their_numbers(tables, word, numbers):
    seen = tables.read(f"Name,{HEADER}status\na,1,2,3,finished\nb,{numbers},{word}\n")

    assert seen.table["run"].tolist() == ["a"]
    assert left_out(seen) == [("b", word.lower())]


def test_a_blank_status_is_left_out_and_listed(tables):
    seen = tables.read(f"{HEADER}status\n1,2,3,finished\n1,2,3,\n1,2,3,-\n")

    assert left_out(seen) == [("row 3", "its status cell is blank"), ("row 4", "its status cell is blank")]


def test_a_blank_status_where_no_row_says_finished_is_asked(tables):
    error = tables.refuse(f"{HEADER}status\n1,2,3,\n1,2,3,failed\n")

    assert error.problem == "no row says that its run finished, and 1 rows have a blank status"
    assert len(tables.read(f"{HEADER}status\n1,2,3,\n1,2,3,failed\n", columns={"status": "none"}).table) == 2


def test_a_column_of_blanks_says_nothing(tables):
    seen = tables.read(f"{HEADER}status\n1,2,3,\n1,3,3,\n")

    assert len(seen.table) == 2
    assert seen.reading.notes == ("every status cell is blank, so the column is not used",)


def test_two_columns_of_states_are_asked_about(tables):
    text = f"{HEADER}status,State\n1,2,3,finished,finished\n1,3,3,finished,crashed\n"

    assert "two columns may be the status of the runs: 'status' and 'State'" in tables.refuse(text).problem
    assert "two columns" in tables.refuse(text.replace("status", "run_state")).problem
    same = text.replace("crashed", "Finished")
    assert len(tables.read(same).table) == 2
    assert tables.read(same.replace("status", "run_state")).reading.columns["status"] == "run_state"
    assert len(tables.read(text, columns={"status": "State"}).table) == 1


def test_an_unknown_status_is_refused_with_its_row(tables):
    error = tables.refuse(f"{HEADER}status\n1,2,3,finished\n1,2,3,finnished\n")

    assert "did you mean 'finished'?" in error.problem
    assert error.where.endswith("rows 3 (finnished)")


def test_blanks_of_every_kind():
    assert set(states(pd.Series([None, np.nan, "", " ", "NaN", pd.NA, "n/a"], dtype=object))) == {BLANK}


def test_runs_short_of_their_planned_steps_are_left_out(tables):
    rows = ["a,1,2,3,100,100", "b,1,3,2.9,50,100", "c,2,3,3,99,100", "d,2,4,3,10,-1", "e,2,5,3,10,"]

    seen = tables.read("run,n_params,n_tokens,loss,step,max_steps\n" + "\n".join(rows))

    assert left_out(seen) == [("b", "stopped at step 50 of 100")]


@pytest.mark.parametrize(
    ("header", "rows", "first"),
    [
        ("run,n_params,n_tokens,loss", ["a/step-1,1,2,3", "a/step-2,1,3,2.9", "b/step-2,2,3,3"], "a/step-1"),
        ("run,n_params,n_tokens,loss", ["a-ckpt-1,1,2,3", "a-ckpt-2,1,3,2.9", "b,2,3,3"], "a-ckpt-1"),
        ("run,n_params,n_tokens,loss,step", ["a,1,2,3,10", "a,1,3,2.9,20", "b,2,3,3,20"], "a"),
        ("run,n_params,n_tokens,loss,checkpoint", ["a,1,2,3,x", "a,1,3,2.9,y", "b,2,3,3,z"], "a"),
    ],
)
def test_the_last_of_several_checkpoints_is_kept(tables, header, rows, first):
    seen = tables.read("\n".join([header, *rows]))

    assert seen.table["loss"].tolist() == [2.9, 3.0]
    assert left_out(seen) == [(first, "a checkpoint of a before its end (row 3 has more tokens)")]


@pytest.mark.parametrize("names", ["aa", ("a-step-1", "a-step-2")])
def test_several_token_counts_of_one_name_are_asked_about(tables, names):
    text = f"run,n_params,n_tokens,loss\n{names[0]},1,2,3\n{names[1]},1,3,2.9\nb,2,3,3\n"

    error = tables.refuse(text)

    assert error.problem == "the run 'a' stands at 2 numbers of tokens"
    assert error.where.endswith("rows 2, 3")
    assert len(tables.read(text, columns={"run": "none"}).table) == 3


@pytest.mark.parametrize(
    "rows",
    [
        ["Name,n_params,n_tokens,loss,seed", "a,1,2,3,1", "a,1,3,2,2"],
        ["Name,n_params,n_tokens,loss,lr", "a,1,2,3,1", "a,1,3,2,2"],
        ["Name,n_params,n_tokens,loss", "a,1,2,3", "a,2,3,2"],
        ["Name,n_params,n_tokens,loss", "a,1,2,3", "a,1,2,2"],
    ],
)
def test_rows_that_share_a_label_are_named_by_their_line(tables, rows):
    seen = tables.read("\n".join(rows))

    assert seen.table["run"].tolist() == ["a (row 2)", "a (row 3)"]
    assert "2 rows share a name" in seen.reading.notes[-1]


def test_a_row_written_twice_counts_once(tables):
    seen = tables.read("run,n_params,n_tokens,loss,lr\na,1,2,3,1\na,1,2,3,1\na,1,2,3,2\n")

    assert left_out(seen) == [("a", "the same run stands in the table already")]
    assert len(seen.table) == 2


@pytest.mark.parametrize("name", ["mean", "Total", " AVERAGE "])
def test_a_row_of_means_is_no_run(tables, name):
    seen = tables.read(f"run,n_params,n_tokens,loss\na,1,2,3\nb,2,3,3\n{name},1.5,2.5,3\n")

    assert left_out(seen) == [(name, "a row of totals or means, not a run")]
    assert seen.table["run"].tolist() == ["a", "b"]


def test_a_table_without_a_finished_run_says_why_each_was_left_out(tables):
    error = tables.refuse(
        "run,n_params,n_tokens,loss,state\na,1,2,3,crashed\nb,2,3,3,killed\nc,2,3,3,crashed\n"
    )

    assert "no row of the table is a finished run" in error.problem
    assert "left out: a (crashed" in error.problem
    assert "2 rows: crashed" in error.where
    assert "scalelab sweep" not in error.fix
    again = "run,n_params,n_tokens,loss,n_steps,n_steps_planned\na,1,2,3,5,10\nb,2,3,3,5,10\n"
    assert "stopped at step 5 of 10" in tables.refuse(again).problem
    assert len(tables.read(again, columns={"status": "none", "n_steps_planned": "none"}).table) == 2
