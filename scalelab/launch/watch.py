"""The view of a final run while it trains, and its alarm.

Every logged loss is held against the forecast's band. Three training losses in a row outside it,
or one validation loss, raise the alarm: a line here, an event in the run's log, a metric in
MLflow. Nothing is stopped: that is for a person to decide.

On a terminal one line that redraws itself, elsewhere a line every half minute.
"""

import time
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from scalelab.plan.band import Band
from scalelab.plan.frozen import FrozenForecast
from scalelab.train.layout import Layout
from scalelab.train.rundir import RunDir, read_events
from scalelab.train.spec import RunSpec
from scalelab.units import duration, si

QUIET_S = 30.0
IN_A_ROW = 3
"""Training losses outside the band before the alarm: single ones are noise."""
TOLD = {"lost", "resume", "batch_skipped", "went_back", "checkpoint_passed_over", "straggler",
        "out_of_memory"}  # fmt: skip


class FinalView(AbstractContextManager["FinalView"]):
    """Shows a run from its own log, and writes the forecast's band and the alarm into it.

    Args:
        run_dir: Of the run.
        spec: Of the same.
        frozen: The forecast that it is held against.
        layout: How it is spread.
    """

    def __init__(self, run_dir: RunDir, spec: RunSpec, frozen: FrozenForecast, layout: Layout):
        self.run_dir, self.spec, self.layout = run_dir, spec, layout
        self.bands = {"eval": frozen.stop_band, "step": frozen.stop_train_band}
        self.forecast = frozen
        self.alarms = 0
        self._outside, self._offset = 0, 0
        self._step, self._loss, self._pace, self._mfu = 0, None, None, None
        self._marks: list[tuple[float, int]] = []

    def __enter__(self) -> Self:
        self._console = Console(stderr=True)
        events, self._offset, _ = read_events(self.run_dir.log_path)
        said = {e["step"] for e in events if e["event"] == "forecast"}
        self._foretold = said
        for event in events:
            self._take(event, live=False)
        self._begun = self._spoken = time.monotonic()
        self._marks = [(self._begun, self._step)]
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

    def tick(self) -> None:
        """Read the log, judge what is new, redraw."""
        events, self._offset, _ = read_events(self.run_dir.log_path, self._offset)
        for event in events:
            self._take(event, live=True)
        if self._console.is_terminal:
            self._live.update(self._draw())
        elif time.monotonic() - self._spoken > QUIET_S:
            self._spoken = time.monotonic()
            self._say(self._words())

    def _take(self, event: dict[str, Any], live: bool) -> None:
        kind = event["event"]
        if kind in {"step", "eval", "resume"}:
            self._step = event["step"]
        if kind == "step":
            self._loss, self._pace, self._mfu = map(event.get, ("loss", "tokens_per_s", "mfu"))
            self._marks = [*self._marks[-20:], (time.monotonic(), event["step"])]
        if kind == "resume":
            self._marks = []
        if live and kind in {"step", "eval"}:
            self._judge(kind, event)
        if live and kind in TOLD:
            values = {k: v for k, v in event.items() if k not in {"t", "event"}}
            self._say(f"{kind}: " + ", ".join(f"{k} {v}" for k, v in values.items()))

    def _judge(self, kind: str, event: dict[str, Any]) -> None:
        band: Band | None = self.bands[kind]
        loss, step = event.get("loss"), event["step"]
        ends = band.at(step / self.spec.n_steps) if band and loss is not None else None
        if ends is None or step == self.spec.n_steps:
            return
        low, expected, high = ends
        if kind == "eval" and step not in self._foretold:
            self._foretold.add(step)
            self.run_dir.append("forecast", step=step, expected=expected, low=low, high=high)
        side = band.leaves(step / self.spec.n_steps, loss)
        self._outside = self._outside + 1 if side and kind == "step" else self._outside
        if side is None and kind == "step":
            self._outside = 0
        if side and (kind == "eval" or self._outside == IN_A_ROW):
            self.alarms += 1
            what = "validation" if kind == "eval" else "training"
            self.run_dir.append(
                "alarm", step=step, what=what, side=side, loss=loss, low=low, high=high
            )
            self._say(
                f"ALARM at step {step}: {what} loss {loss:.4f} is {side} the forecast's band "
                f"[{low:.4f}, {high:.4f}]; the forecast may not hold. Ctrl-C saves and stops"
            )

    def _say(self, text: str) -> None:
        spent = int(time.monotonic() - self._begun)
        clock = f"{spent // 60:3d}:{spent % 60:02d}"
        self._console.print(f"{clock}  {text}", highlight=False, soft_wrap=True)

    def _eta(self) -> float | None:
        if len(self._marks) < 2:
            return None
        (t0, s0), (t1, s1) = self._marks[0], self._marks[-1]
        return (self.spec.n_steps - s1) * (t1 - t0) / (s1 - s0) if s1 > s0 else None

    def _words(self) -> str:
        n = self.spec.n_steps
        parts = [f"step {self._step} of {n} ({self._step / n:.0%})"]
        if self._loss is not None:
            band = self.bands["step"]
            ends = band.at(self._step / n) if band else None
            within = "" if ends is None else f" (forecast {ends[0]:.3f} to {ends[2]:.3f})"
            parts.append(f"training loss {self._loss:.3f}{within}")
        if self._pace is not None:
            parts.append(f"{si(self._pace)} tokens/s")
        parts.append("MFU unknown" if self._mfu is None else f"MFU {self._mfu:.1%}")
        eta = self._eta()
        if eta is not None:
            parts.append(f"about {duration(eta)} left")
        return ", ".join(parts)

    def _draw(self) -> Group:
        whole = Table.grid(padding=(0, 1))
        whole.add_row(ProgressBar(self.spec.n_steps, self._step, width=40), Text(self._words()))
        return Group(whole, Text("Ctrl-C saves and stops; run again to go on", style="dim"))
