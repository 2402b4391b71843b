"""What the live view prints."""

import io

import pytest
from rich.console import Console
from scripted_executor import Scripted, done

from scalelab.jobs import driver
from scalelab.jobs.base import Job, JobOutcome
from scalelab.jobs.driver import JobList, Limits, drive
from scalelab.jobs.view import JobLabels, LiveView
from scalelab.testing.executors import job
from scalelab.train.run_directory import RunDir


def printed(text, **console):
    view, file = LiveView(JobLabels()), io.StringIO()
    view._console = Console(file=file, width=80, color_system=None, **console)
    view.say(text)
    return file.getvalue()


@pytest.mark.parametrize("terminal", [True, False])
def test_escape_sequences_in_names_do_not_reach_the_terminal(terminal):
    text = printed("run \x1b[31ma\x07\x9b2J: done", force_terminal=terminal)

    assert not {"\x1b", "\x9b", "\x07"} & set(text)
    assert "[31ma" in text


def test_a_line_fits_the_terminal_and_stays_whole_in_a_log():
    text = "word " * 40

    assert max(map(len, printed(text, force_terminal=True).splitlines())) <= 80
    assert len(printed(text, force_terminal=False).splitlines()) == 1


def test_what_every_job_notes_is_printed_once(tmp_path):
    view, file = LiveView(JobLabels()), io.StringIO()
    view._console = Console(file=file, width=80, color_system=None)
    jobs = [Job(name, RunDir(tmp_path / name), "run") for name in ("a", "b", "c")]
    for each in jobs:
        each.dir.path.mkdir()
    view.added(jobs)
    for each in jobs:
        each.dir.append("note", text="trained uncompiled")
    view._read(view._rows.values(), live=True)

    assert file.getvalue().count("note: trained uncompiled") == 1


def test_one_reason_for_which_many_jobs_are_refused_is_printed_once(tmp_path):
    view, file = LiveView(JobLabels()), io.StringIO()
    view._console = Console(file=file, width=80, color_system=None)
    jobs = [Job(name, RunDir(tmp_path / name), "run") for name in ("a", "b", "c", "d")]
    view.added(jobs)
    for each, reason in zip(jobs, ["no such account"] * 3 + ["too long"], strict=True):
        view.ended(JobOutcome(each, "refused", reason), again=False)

    assert [line.split("  ", 2)[-1] for line in file.getvalue().splitlines()] == [
        "a: refused: no such account",
        "b: refused, as above",
        "c: refused, as above",
        "d: refused: too long",
    ]


@pytest.mark.parametrize("n", [1, 3])
def test_a_job_that_waits_in_a_queue_is_not_counted_as_running(n, tmp_path, monkeypatch):
    """Nor shown in the table of those that run, also where the scheduler does not answer for a while."""
    monkeypatch.setattr(driver, "POLL_S", 0.0)
    turns = iter(range(100))
    seen, tables = [], []

    class Seen(LiveView):
        def tick(self):
            next(turns)
            super().tick()
            seen.append(self._total())
            file = io.StringIO()
            Console(file=file, width=80).print(self._draw())
            tables.append(file.getvalue())

    def state(executor, each):
        turn, place = len(seen), "abc".index(each.id)
        if turn < 2 + place:
            return "queued" if turn != 1 else "unknown"
        return "running" if turn < 6 else done(executor, each)

    with Seen(JobLabels()) as view:
        drive(JobList([job(tmp_path, name) for name in "abc"[:n]]), Scripted(state, slots=3), view, Limits())

    if n == 1:
        assert [line == "queued" for line in seen[:4]] == [True, True, False, False]
        return
    counts = [line.split(" jobs, ")[1].split(", 0%")[0] for line in seen[:6]]
    assert counts == [
        *["0 running, 3 queued"] * 2,
        *("1 running, 2 queued", "2 running, 1 queued"),
        *["3 running"] * 2,
    ]
    assert [table.count("running") - 1 for table in tables[:6]] == [0, 0, 1, 2, 3, 3]
