"""The live view of jobs: state, progress and time left.

On a terminal, a table that redraws itself; elsewhere (a log file, a pipe), one line whenever a job
ends and one every half minute. Everything is read from the journals of the jobs; the view keeps no
state that matters.

The time left is computed from recent throughput: an average since the start would include what the
machine did before it was loaded.

Not here: labels of one kind of job (subclasses of `JobLabels`, beside the jobs).
"""

import time
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from scalelab.jobs.base import Job, JobOutcome
from scalelab.markup import printable
from scalelab.train.run_directory import read_events
from scalelab.units import duration, si

QUIET_S = 30.0
RECENT_S = 60.0
"""Seconds of recent work from which the time left is computed."""
SHOWN = ("running", "elsewhere")


@dataclass(frozen=True)
class JobDisplay:
    """How one job is displayed."""

    words: str
    """Label in a line of its own: "C=1e9 N=3.2k D=40k seed 0"."""
    cells: Mapping[str, str] = field(default_factory=dict)
    """Column name to text, in the terminal's table."""
    n_steps: int | None = None
    weight: float = 1.0
    """Amount of work, in any unit that is common to all jobs."""


class JobLabels:
    """Labels of one kind of job in the live view. Subclasses override methods."""

    noun = "jobs"
    hint = "Ctrl-C stops; run again to resume"

    def display(self, job: Job) -> JobDisplay:
        """Return how the job is displayed."""
        return JobDisplay(job.id)

    def state(self, ended: JobOutcome) -> str:
        """Return the outcome and result in a few words."""
        return ended.outcome

    def heard(self, job: Job, event: Mapping[str, Any], live: bool) -> list[str]:
        """Return lines to print about a journal event; `live` if it happened under this view."""
        del job, event, live
        return []

    def standing(self, job: Job, step: int, event: Mapping[str, Any]) -> str:
        """Return a description of the newest step, or an empty string."""
        del job, step, event
        return ""


@dataclass
class _Row:
    job: Job
    display: JobDisplay
    state: str = "waiting"
    step: int = 0
    newest: dict[str, Any] = field(default_factory=dict)
    offset: int = 0
    tries: int = 0
    is_over: bool = False

    @property
    def share_done(self) -> float:
        if self.is_over:
            return 1.0
        return self.step / self.display.n_steps if self.display.n_steps else 0.0


class LiveView(AbstractContextManager["LiveView"]):
    """Displays jobs while they run: fed by the driver, details read from the journals.

    Args:
        words: Labels of the jobs.
        done: Jobs that were done before the start.
    """

    def __init__(self, words: JobLabels, done: Sequence[Job] = ()):
        self.words = words
        self._rows = {job.id: _Row(job, words.display(job), "done", is_over=True) for job in done}
        self._console = Console(stderr=True)
        self._marks: deque[tuple[float, float]] = deque()
        self._notes: set[str] = set()
        self._refusals: set[str] = set()
        self._begun = self._spoken = time.monotonic()

    def __enter__(self) -> Self:
        self._begun = self._spoken = time.monotonic()
        self._live = Live(console=self._console, refresh_per_second=4, transient=True)
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def added(self, jobs: Sequence[Job]) -> None:
        """Add jobs received from the source; their journals hold their progress."""
        rows = [_Row(job, self.words.display(job)) for job in jobs]
        self._rows |= {row.job.id: row for row in rows}
        self._read(rows, live=False)
        self._marks.clear()  # the whole has grown

    def started(self, job: Job) -> None:
        """Mark a job as given to the executor."""
        row = self._rows[job.id]
        row.state, row.tries = "running", row.tries + 1
        if job.resources.terminal and self._console.is_terminal:
            self._live.stop()  # or it would draw over the question to the person

    def waits(self, job: Job, in_queue: bool) -> None:
        """Mark a job of the executor as queued there, or as running."""
        self._rows[job.id].state = "queued" if in_queue else "running"

    def elsewhere(self, job: Job) -> None:
        """Mark a job that another process is running."""
        row = self._rows[job.id]
        if row.state != "elsewhere":
            row.state = "elsewhere"
            self.say(f"{row.display.words}: another process is running it, in {job.dir.path.parent.name}")

    def ended(self, ended: JobOutcome, again: bool) -> None:
        """A job's process ended; `again` says whether it will be tried once more."""
        row = self._rows[ended.job.id]
        self._read([row], live=True)
        row.is_over = not again and ended.outcome != "interrupted"
        if row.is_over and (ended.outcome != "done" or row.tries == 0):
            self._marks.clear()  # the share jumps without any work done
        row.state = "waiting" if again else ended.outcome
        words = ended.outcome + ", retrying" if again else self.words.state(ended)
        if words and row.tries == 0 and ended.outcome == "done":
            words += " (before)"
        reason = f": {ended.reason}".split("\n")[0] if ended.reason else ""
        if reason and ended.outcome == "refused":  # a scheduler refuses every job of a queue for one reason
            if reason in self._refusals:
                reason = ", as above"
            self._refusals.add(reason)
        if words:
            self.say(f"{row.display.words}: {words}{reason}")
        if ended.job.resources.terminal and row.tries and self._console.is_terminal:
            self._live.start()

    def tick(self) -> None:
        """Read the journals and redraw."""
        self._read((row for row in self._rows.values() if row.state in SHOWN), live=True)
        now, share = time.monotonic(), self._share()
        if not self._marks or (share != self._marks[-1][1] and now - self._marks[-1][0] >= 1.0):
            self._marks.append((now, share))
            while len(self._marks) > 2 and now - self._marks[1][0] > RECENT_S:
                self._marks.popleft()
        if self._console.is_terminal:
            self._live.update(self._draw())
        elif now - self._spoken > QUIET_S:
            self._spoken = now
            self.say(self._total())

    def say(self, text: str) -> None:
        """Print a line with the time since the start."""
        spent = int(time.monotonic() - self._begun)
        clock = f"{spent // 60:3d}:{spent % 60:02d}"
        text = f"{clock}  {printable(text)}"
        in_file = not self._console.is_terminal  # a line of a log stays one line
        self._console.print(text, highlight=False, soft_wrap=in_file, markup=False, emoji=False)

    def _read(self, rows: Iterable[_Row], live: bool) -> None:
        for row in rows:
            events, row.offset, _ = read_events(row.job.dir.log_path, row.offset)
            for event in events:
                if event["event"] in {"step", "resume", "eval"}:
                    row.step = event["step"]
                if event["event"] == "step":
                    row.newest = event
                if event["event"] == "note" and live:
                    self._say_once(str(event.get("text")))
                # A job of another process is only displayed: its journal is not ours to write to.
                for line in self.words.heard(row.job, event, live and row.state != "elsewhere"):
                    self.say(line)

    def _say_once(self, text: str) -> None:
        """Print what a job notes about its device; the other jobs on such a device note the same."""
        if text not in self._notes:
            self._notes.add(text)
            self.say(f"note: {text}")

    def _share(self) -> float:
        whole = sum(row.display.weight for row in self._rows.values()) or 1.0
        return sum(row.display.weight * row.share_done for row in self._rows.values()) / whole

    def _eta(self) -> float | None:
        """Seconds left at the rate of the last minute; None if there is too little data."""
        if len(self._marks) < 2:
            return None
        (began, before), (last, share) = self._marks[0], self._marks[-1]
        # Progress comes in steps. Silence that is longer than the step before counts as slowness.
        silent = time.monotonic() - last - (last - self._marks[-2][0])
        spent = last - began + max(0.0, silent)
        if spent < 3 or share - before <= 0:
            return None
        return spent * (1 - share) / (share - before)

    def _total(self) -> str:
        rows, eta = list(self._rows.values()), self._eta()
        left = "" if eta is None else f", about {duration(eta)} left"
        if len(rows) == 1:
            return f"{self._alone(rows[0])}{left}"
        over = sum(row.is_over for row in rows)
        n = Counter(row.state for row in rows)
        queued = f"{n['queued']} queued, " if n["queued"] else ""
        return (
            f"{over} of {len(rows)} {self.words.noun}, {n['running']} running, {queued}"
            f"{self._share():.0%} of the work{left}"
        )

    def _alone(self, row: _Row) -> str:
        """Progress line of a single job."""
        if row.state == "queued":
            return "queued"
        n = row.display.n_steps
        where = f"step {row.step}" + (f" of {n} ({row.share_done:.0%})" if n else "")
        words = self.words.standing(row.job, row.step, row.newest)
        return f"{where}, {words}" if words else where

    def _draw(self) -> Group:
        whole = Table.grid(padding=(0, 1))
        whole.add_row(ProgressBar(1.0, self._share(), width=40), Text(printable(self._total())))
        hint = Text(self.words.hint, style="dim")
        shown = [row for row in self._rows.values() if row.state in SHOWN]
        if len(self._rows) == 1:
            return Group(whole, hint)
        table = Table(box=None, pad_edge=False)
        names = list(shown[0].display.cells) if shown else []
        for name in (*names, "progress", "", "loss", "tokens/s", "state"):
            table.add_column(name, justify="left" if name in {"progress", "state"} else "right")
        for row in shown:
            loss, pace = row.newest.get("loss"), row.newest.get("tokens_per_s")
            table.add_row(
                *(Text(printable(row.display.cells.get(name, ""))) for name in names),
                ProgressBar(row.display.n_steps or 1, row.step, width=24),
                f"{row.share_done:.0%}",
                "" if loss is None else f"{loss:.3f}",
                "" if pace is None else si(pace),
                row.state + (f", try {row.tries}" if row.tries > 1 else ""),
            )
        return Group(table, Text(), whole, hint)
