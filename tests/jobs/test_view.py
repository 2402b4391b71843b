"""What the live view prints."""

import io

import pytest
from rich.console import Console

from scalelab.jobs.base import Job
from scalelab.jobs.view import JobLabels, LiveView
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
    for job in jobs:
        job.dir.path.mkdir()
    view.added(jobs)
    for job in jobs:
        job.dir.append("note", text="trained uncompiled")
    view._read(view._rows.values(), live=True)

    assert file.getvalue().count("note: trained uncompiled") == 1
