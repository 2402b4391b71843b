"""The live view of a sweep: what runs, how far it is, how long it will take.

On a terminal a table that redraws itself; elsewhere (a log file, a pipe) one line whenever
a run ends, and one every half minute. All of it is read from the runs' own logs, so that
the view can be lost without losing anything.
"""

import time
from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from scalelab.launch.base import Ended
from scalelab.launch.plan import PlannedWork
from scalelab.train.rundir import read_events
from scalelab.units import duration, sci, si

QUIET_S = 30.0
SHOWN = ("running", "elsewhere")


@dataclass
class _Row:
    work: PlannedWork
    state: str
    step: int = 0
    loss: float | None = None
    tokens_per_s: float | None = None
    offset: int = 0
    tries: int = 0

    @property
    def weight(self) -> float:
        """The run's share of the work: its estimated seconds, else its FLOPs."""
        return self.work.seconds if self.work.seconds is not None else self.work.proposal.flops

    @property
    def share_done(self) -> float:
        if self.state in {"done", "finished", "diverged"}:
            return 1.0
        return self.step / self.work.proposal.spec.n_steps


@dataclass
class LiveView(AbstractContextManager["LiveView"]):
    """Shows a sweep while it runs. Feed it what the driver learns; it reads the rest itself."""

    work: list[PlannedWork]
    param_count: str
    _rows: dict[str, _Row] = field(default_factory=dict)
    _begun: float = 0.0
    _at_begin: float = 0.0
    _spoken: float = 0.0

    def __enter__(self) -> Self:
        self._console = Console(stderr=True)
        for w in self.work:
            self._rows[w.run_dir.run] = _Row(w, "done" if w.state == "done" else "waiting")
        self._read(self._rows.values())
        self._begun = self._spoken = time.monotonic()
        self._at_begin = self._share()
        self._live = Live(console=self._console, refresh_per_second=4, transient=True)
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def started(self, run: str) -> None:
        """A run was given to the executor."""
        row = self._rows[run]
        row.state, row.tries = "running", row.tries + 1

    def elsewhere(self, run: str) -> None:
        """Another process is training a run: it is waited for."""
        row = self._rows[run]
        if row.state != "elsewhere":
            row.state = "elsewhere"
            place = row.work.run_dir.path.parent.name
            text = f"{self._words(row)}: trained by another process, in {place}"
            self._console.print(f"{self._clock()}  {text}", highlight=False, soft_wrap=True)

    def ended(self, ended: Ended, again: bool) -> None:
        """A run's process ended; `again` says whether it will be tried once more."""
        row = self._rows[ended.run_dir.run]
        self._read([row])
        result = ended.run_dir.result()
        row.state = "waiting" if again else (result.status if result else ended.outcome)
        if result is not None:
            row.loss = result.loss
        words = self._words(row)
        if ended.reason or (result and result.reason):
            words += f": {ended.reason or result.reason}".split("\n")[0]
        self._console.print(f"{self._clock()}  {words}", highlight=False, soft_wrap=True)

    def tick(self) -> None:
        """Read the logs and redraw."""
        self._read(row for row in self._rows.values() if row.state in SHOWN)
        if self._console.is_terminal:
            self._live.update(self._draw())
        elif time.monotonic() - self._spoken > QUIET_S:
            self._spoken = time.monotonic()
            self._console.print(f"{self._clock()}  {self._total()}", highlight=False)

    def _read(self, rows: Iterable[_Row]) -> None:
        for row in rows:
            events, row.offset, _ = read_events(row.work.run_dir.log_path, row.offset)
            for event in events:
                self._take(row, event)

    def _take(self, row: _Row, event: dict[str, Any]) -> None:
        if event["event"] in {"step", "resume", "eval"}:
            row.step = event["step"]
        if event["event"] in {"step", "eval"}:
            row.loss = event.get("loss")
        if event["event"] == "step":
            row.tokens_per_s = event.get("tokens_per_s")

    def _share(self) -> float:
        whole = sum(row.weight for row in self._rows.values()) or 1.0
        return sum(row.weight * row.share_done for row in self._rows.values()) / whole

    def _eta(self) -> float | None:
        gained = self._share() - self._at_begin
        spent = time.monotonic() - self._begun
        return spent * (1 - self._share()) / gained if gained > 0.01 and spent > 3 else None

    def _total(self) -> str:
        rows = list(self._rows.values())
        ended = sum(row.share_done == 1 for row in rows)
        running = sum(row.state == "running" for row in rows)
        eta = self._eta()
        left = "" if eta is None else f", about {duration(eta)} left"
        return (
            f"{ended} of {len(rows)} runs, {running} running, {self._share():.0%} of the work{left}"
        )

    def _clock(self) -> str:
        spent = int(time.monotonic() - self._begun)
        return f"{spent // 60:3d}:{spent % 60:02d}"

    def _words(self, row: _Row) -> str:
        spec, p = row.work.proposal.spec, row.work.proposal
        n = spec.model.size(spec.seq_len).count(self.param_count)
        budget = "" if p.flops_planned is None else f"C={sci(p.flops_planned)} "
        loss = "" if row.loss is None else f", loss {row.loss:.4f}"
        seed = f" seed {spec.seed}"
        return f"{budget}N={si(n)} D={si(spec.n_tokens)}{seed}: {row.state}{loss}"

    def _draw(self) -> Group:
        table = Table(box=None, pad_edge=False)
        for name in ("budget", "N", "D", "progress", "", "loss", "tokens/s", "state"):
            table.add_column(name, justify="left" if name in {"progress", "state"} else "right")
        for row in self._rows.values():
            if row.state not in SHOWN:
                continue
            spec, p = row.work.proposal.spec, row.work.proposal
            table.add_row(
                sci(p.flops_planned) if p.flops_planned else "-",
                si(spec.model.size(spec.seq_len).count(self.param_count)),
                si(spec.n_tokens),
                ProgressBar(spec.n_steps, row.step, width=24),
                f"{row.share_done:.0%}",
                "" if row.loss is None else f"{row.loss:.3f}",
                "" if row.tokens_per_s is None else si(row.tokens_per_s),
                row.state + (f", try {row.tries}" if row.tries > 1 else ""),
            )
        whole = Table.grid(padding=(0, 1))
        whole.add_row(ProgressBar(1.0, self._share(), width=40), Text(self._total()))
        return Group(table, Text(), whole, Text("Ctrl-C stops; run again to go on", style="dim"))
