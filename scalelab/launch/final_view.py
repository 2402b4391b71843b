"""Labels of a final run in the live view, and the alarm if its loss leaves the forecast's band.

Every logged loss is compared with the forecast's band. Three consecutive training losses outside it,
or one validation loss, raise the alarm: a printed line, an event in the run's journal, a metric in
MLflow. The run continues; stopping it is left to a person.
"""

from collections.abc import Mapping
from typing import Any

from scalelab.jobs.base import Job, JobOutcome
from scalelab.jobs.view import JobDisplay, JobLabels
from scalelab.plan.forecast.band import LossBand
from scalelab.plan.forecast.frozen import FrozenForecast
from scalelab.train.spec import RunSpec
from scalelab.units import si

IN_A_ROW = 3
"""Consecutive training losses outside the band that raise the alarm; single ones are noise."""
REPORTED = {"resume", "batch_skipped", "went_back", "checkpoint_passed_over", "straggler", "out_of_memory"}


class FinalRunLabels(JobLabels):
    """Logs the forecast's band and alarms to the run's journal and prints notable events.

    Args:
        spec: Spec of the run.
        frozen: Forecast that the run is compared with.
    """

    hint = "Ctrl-C saves and stops; run again to resume"

    def __init__(self, spec: RunSpec, frozen: FrozenForecast):
        self.spec = spec
        self.bands = {"eval": frozen.stop_band, "step": frozen.stop_train_band}
        self.alarms = 0
        self._outside = 0
        self._with_forecast: set[int] = set()

    def display(self, job: Job) -> JobDisplay:
        """Return the job's id and number of steps."""
        return JobDisplay(job.id, n_steps=self.spec.n_steps)

    def state(self, ended: JobOutcome) -> str:
        """Return the outcome; empty for a finished run, whose outcome is reported in full."""
        return "" if ended.outcome == "done" else ended.outcome

    def heard(self, job: Job, event: Mapping[str, Any], live: bool) -> list[str]:
        """Return lines about problems during training, and the alarm."""
        kind = event["event"]
        if kind == "forecast":
            self._with_forecast.add(event["step"])
        if not live:
            return []
        if kind in {"step", "eval"}:
            return self._judge(job, kind, event)
        if kind in REPORTED:
            values = {k: v for k, v in event.items() if k not in {"t", "event"}}
            return [f"{kind}: " + ", ".join(f"{k} {v}" for k, v in values.items())]
        return []

    def _judge(self, job: Job, kind: str, event: Mapping[str, Any]) -> list[str]:
        band: LossBand | None = self.bands[kind]
        loss, step = event.get("loss"), event["step"]
        ends = band.at(step / self.spec.n_steps) if band and loss is not None else None
        if ends is None or step == self.spec.n_steps:
            return []
        low, expected, high = ends
        if kind == "eval" and step not in self._with_forecast:
            self._with_forecast.add(step)
            job.dir.append("forecast", step=step, expected=expected, low=low, high=high)
        side = band.leaves(step / self.spec.n_steps, loss)
        self._outside = self._outside + 1 if side and kind == "step" else self._outside
        if side is None and kind == "step":
            self._outside = 0
        if not side or (kind == "step" and self._outside != IN_A_ROW):
            return []
        self.alarms += 1
        what = "validation" if kind == "eval" else "training"
        job.dir.append("alarm", step=step, what=what, side=side, loss=loss, low=low, high=high)
        return [
            f"ALARM at step {step}: {what} loss {loss:.4f} is {side} the forecast's band "
            f"[{low:.4f}, {high:.4f}]; the forecast may not hold. Ctrl-C saves and stops"
        ]

    def standing(self, job: Job, step: int, event: Mapping[str, Any]) -> str:
        """Return the loss with the forecast for this step, and the throughput."""
        parts = []
        if event.get("loss") is not None:
            band = self.bands["step"]
            ends = band.at(step / self.spec.n_steps) if band else None
            within = "" if ends is None else f" (forecast {ends[0]:.3f} to {ends[2]:.3f})"
            parts.append(f"training loss {event['loss']:.3f}{within}")
        if event.get("tokens_per_s") is not None:
            parts.append(f"{si(event['tokens_per_s'])} tokens/s")
        mfu = event.get("mfu")
        parts.append("MFU unknown" if mfu is None else f"MFU {mfu:.1%}")
        return ", ".join(parts)
