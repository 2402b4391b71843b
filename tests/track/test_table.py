"""The run table from run directories in every state, and what of it is evidence."""

from dataclasses import replace

import pandas as pd
import pytest
from listing_text import listing, notes

from scalelab.errors import DataError, RunError, TrackError
from scalelab.leases import claim
from scalelab.records.evidence import evidence
from scalelab.records.external_table import read_table, write_table
from scalelab.records.listing import list_runs
from scalelab.records.run_table import COLUMNS, every_run, run_table
from scalelab.report.document import Document
from scalelab.report.listing.runs import sweep_blocks
from scalelab.report.render.terminal import render_terminal

STATES = ["finished", "diverged", "failed", "interrupted", "interrupted", "running", "planned"]


@pytest.fixture
def states(tmp_path, family_in):
    """One run in each state: run04 was killed without a word."""
    family, _ = family_in(tmp_path)
    family.plan(7)
    for i in range(6):
        family.train(f"run{i:02d}", range(12))
    family.end("run00")
    family.end("run01", "diverged", "the loss is not a number")
    family.log("run02", "lost", 99, outcome="killed", reason="killed by signal 9")
    family.log("run03", "interrupted", 99, step=11)
    lease = claim(family.dir("run05").path)
    yield family
    lease.release()


def finished(family, n, **changes):
    for run in family.plan(n):
        family.train(run, range(3))
        family.end(run, **changes)
    return family


def test_every_state_is_read_from_the_directory(states):
    table = run_table(states.root, "fam")

    assert list(table["status"]) == STATES
    assert list(table.columns) == list(COLUMNS)


def test_what_is_unknown_is_none_or_nan_and_never_a_word(states):
    table = run_table(states.root, "fam")

    reasons = ["the loss is not a number", "killed by signal 9"]
    assert list(table["reason"]) == [None, *reasons, None, None, None, None]
    assert table["loss"].isna().sum() == 6
    assert table["loss"].dtype == "float64"
    assert table["mfu"].dtype == "float64"


def test_planned_and_spent_stand_side_by_side(states):
    row = run_table(states.root, "fam").iloc[0]

    assert (row["flops_planned"], row["flops"], row["flops_6nd"]) == (1e12, 1e12, 9.6e11)
    assert (row["n_tokens_planned"], row["n_tokens"], row["dir"]) == (1.6e6, 1.6e6, "fam/run00")


def test_asking_does_not_take_the_lease(states):
    run_table(states.root, "fam")

    lease = claim(states.dir("run04").path)
    assert lease.held.attempt == 1
    lease.release()


def test_an_end_without_a_result_is_an_interruption(tmp_path, family_in):
    """The process died between its last event and its result: it goes on from a checkpoint."""
    family, _ = family_in(tmp_path)
    family.plan(1)
    family.train("run00", range(3))
    family.log("run00", "end", 99, status="finished", reason=None)

    assert list(run_table(tmp_path, "fam")["status"]) == ["interrupted"]


def test_a_result_that_cannot_be_read_is_not_passed_over(states):
    """A fit without it would be of other runs; the listing says which one and why."""
    states.dir("run00").result_path.write_text("{}")

    with pytest.raises(RunError, match=r"result\.json cannot be read"):
        run_table(states.root, "fam")
    with pytest.raises(RunError, match=r"result\.json cannot be read"):
        every_run(states.root, None)
    text = listing(states.root, "fam")
    assert "1 diverged, 1 failed, 2 interrupted, 1 running, 1 planned, 1 unreadable" in text
    assert ["run00", "unreadable"] in [line.split()[:2] for line in text.splitlines()]
    assert "result.json cannot be read as a run result: it carries no seal" in notes(text)["run00"]
    head, fam = (line.split() for line in listing(states.root, None).splitlines()[:2])
    assert dict(zip(head, fam, strict=True)) == {
        "sweep": "fam",
        "runs": "7",
        "diverged": "1",
        "failed": "1",
        "interrupted": "2",
        "running": "1",
        "planned": "1",
        "unreadable": "1",
    }


def test_a_log_that_cannot_be_read_is_shown_and_the_others_are_listed(states):
    log = states.dir("run03").log_path
    log.unlink()
    log.mkdir()

    text = listing(states.root, "fam")
    assert ["run03", "unreadable"] in [line.split()[:2] for line in text.splitlines()]
    assert notes(text)["run03"].endswith("log.jsonl cannot be read: it is a directory, not a regular file")
    with pytest.raises(RunError, match="it is a directory"):
        run_table(states.root, "fam")


def test_the_listing_notes_the_lines_of_a_log_that_were_skipped(states):
    with open(states.dir("run03").log_path, "a") as log:
        log.write("torn\n" + '{"t":1,"event":"step","crc":"00000000"}\n')
    with open(states.dir("run00").log_path, "a") as log:
        log.write("\x00\x00\n")

    found = notes(listing(states.root, "fam"))
    assert found["run03"] == "step 11 of 60; skipped 2 damaged lines of its log"
    assert found["run00"] == "skipped 1 damaged line of its log"
    assert list(run_table(states.root, "fam")["status"]) == STATES


def test_a_manifest_that_cannot_be_read_does_not_hide_the_other_sweeps(states, family_in):
    second, _ = family_in(states.root, "second")
    second.plan(1, dir="fam/run00")
    path = states.root / "second" / "sweep.json"
    path.write_text(path.read_text().replace("1e12", "2e12").replace("What", "Which"))

    lines = listing(states.root, None).splitlines()
    assert lines[1].split()[:2] == ["fam", "7"]
    assert lines[2].split() == ["second", "?"]
    assert any(line.startswith("  - second is unreadable: ") for line in lines)
    assert "the seal does not match" in "\n".join(lines)
    with pytest.raises(TrackError, match="the seal does not match"):
        listing(states.root, "second")


def test_a_run_of_another_sweep_has_its_row_and_its_own_budget(states, family_in):
    second, _ = family_in(states.root, "second")
    second.plan(1, dir="fam/run00", flops_planned=3e12)

    row = run_table(states.root, "second").iloc[0]
    assert (row["status"], row["flops_planned"], row["loss"]) == ("finished", 3e12, 3.0)


def test_all_sweeps_together_and_none(states, tmp_path):
    assert len(every_run(states.root, None)) == 7
    assert list(every_run(tmp_path / "nowhere", None).columns) == list(COLUMNS)


def test_evidence_is_what_finished_and_the_rest_is_named(states):
    used, excluded, count, kind, *_ = evidence(run_table(states.root, "fam"), "non_embedding")

    assert (count, kind) == ("non_embedding", "measured")
    assert list(used["run"]) == ["run00"]
    assert list(used["n_params"]) == [60_000]
    assert excluded == [
        {"run": "run01", "reason": "diverged: the loss is not a number"},
        {"run": "run02", "reason": "failed: killed by signal 9"},
        {"run": "run03", "reason": "interrupted"},
        {"run": "run04", "reason": "interrupted"},
        {"run": "run05", "reason": "running"},
        {"run": "run06", "reason": "planned"},
    ]


def test_a_run_off_its_budget_is_left_to_the_laws_to_judge(tmp_path, family_in):
    family = finished(family_in(tmp_path)[0], 2)
    family.replace_result("run01", flops=2e12)

    assert len(evidence(run_table(tmp_path, "fam"), "total").table) == 2


def test_runs_outside_any_slice_are_evidence(tmp_path, family_in):
    family = family_in(tmp_path)[0]
    family.plan(1, flops_planned=None)
    family.end("run00")

    assert len(evidence(run_table(tmp_path, "fam"), "total")[0]) == 1


@pytest.mark.parametrize("column", ["data_digest", "tokenizer"])
def test_runs_on_different_text_are_never_points_of_one_law(tmp_path, family_in, column):
    family = finished(family_in(tmp_path)[0], 3)
    family.replace_result("run01", **{column: "other"})

    with pytest.raises(DataError, match=f"2 different values of {column}") as error:
        evidence(run_table(tmp_path, "fam"), "total")

    assert "2 runs" in error.value.where
    assert "other: 1 runs" in error.value.where


def test_a_run_that_stands_twice_counts_once(tmp_path, family_in):
    table = run_table(tmp_path, finished(family_in(tmp_path)[0], 2).sweep)
    twice = pd.concat([table, table.iloc[:1]], ignore_index=True)

    used, excluded, *_ = evidence(twice, "total")

    assert len(used) == 2
    assert excluded == [{"run": "run00", "reason": "the same run stands in the table already"}]


def test_nothing_finished_is_nothing_to_fit(tmp_path, family_in):
    family_in(tmp_path)[0].plan(2)

    with pytest.raises(DataError, match="no run has finished yet"):
        evidence(run_table(tmp_path, "fam"), "total")


def test_our_own_table_written_and_read_back_is_the_same_evidence(states, tmp_path):
    table = run_table(states.root, "fam")
    write_table(table, tmp_path / "runs.csv")

    own, back = evidence(table, "matmul"), evidence(read_table(tmp_path / "runs.csv").table, "matmul")

    assert back.excluded == own.excluded
    assert list(back.table["n_params"]) == list(own.table["n_params"]) == [80_000]
    assert list(back.table["n_tokens_unique"]) == [1_600_000]


@pytest.mark.parametrize(("suffix", "read"), [("csv", pd.read_csv), ("parquet", pd.read_parquet)])
def test_a_written_table_reads_back(states, tmp_path, suffix, read):
    table = run_table(states.root, "fam")
    write_table(table, tmp_path / f"out.{suffix}")

    back = read(tmp_path / f"out.{suffix}")
    assert list(back.columns) == list(COLUMNS)
    assert list(back["status"]) == STATES
    assert back["loss"].iloc[0] == 3.0


def test_a_table_needs_a_name_that_says_its_format(states, tmp_path):
    with pytest.raises(TrackError, match=r"unknown format of out\.xlsx"):
        write_table(run_table(states.root, "fam"), tmp_path / "out.xlsx")

    assert not list(tmp_path.glob("*out*"))


def test_the_listing_says_how_every_run_stands(states):
    text = listing(states.root, "fam")

    assert text.startswith("Sweep fam\nWhat is best?\n\n1 finished, 1 diverged, 1 failed, 2 interrupted")
    rows = {line.split()[0]: line.split() for line in text.splitlines() if line.startswith("  run0")}
    assert rows["run00"][1:8] == ["finished", "1e12", "100k", "1.6M", "0", "3.0000", "1.5000"]
    found = notes(text)
    assert found["run01"] == "the loss is not a number"
    assert found["run05"] == "step 11 of 60"
    assert "nan" not in text
    assert "N: total parameters" in text


def test_a_listing_fits_80_columns_as_a_table(states):
    lines = listing(states.root, "fam", 80).splitlines()

    assert max(map(len, lines)) <= 80
    assert [line.split()[0] for line in lines if line.startswith("  run0")] == [f"run0{i}" for i in range(7)]


def test_a_narrow_terminal_keeps_the_runs_and_their_loss_in_a_table(states):
    lines = listing(states.root, "fam", 60).splitlines()

    assert max(map(len, lines)) <= 60
    rows = [line.split() for line in lines]
    assert ["run00", "finished", "1e12", "100k", "1.6M", "3.0000", "1.5000"] in rows
    assert "  (no room for: tokens/s, seed)" in lines


def test_escape_sequences_of_a_run_do_not_reach_the_terminal(states):
    found = list_runs(states.root, "fam")
    planned = replace(found.runs[1].planned, run="\x1b[31mrun")
    bad = replace(found.runs[1], planned=planned, reason="\x1b]0;title\x07 and \x1b[2J\x9b31m")

    text = render_terminal(Document("fam", sweep_blocks(replace(found, runs=[bad]))), 80)

    assert not {c for c in text if c != "\n" and not c.isprintable()}


def test_the_listing_of_all_sweeps_counts_and_says_where_to_look(states, family_in, tmp_path):
    second, _ = family_in(states.root, "second")
    second.plan(1, dir="fam/run00")

    assert listing(states.root, None).splitlines()[2].split() == ["second", "1", "1"]
    assert "trained by the sweep fam" in listing(states.root, "second")
    assert "There are no sweeps in" in listing(tmp_path / "nowhere", None)
