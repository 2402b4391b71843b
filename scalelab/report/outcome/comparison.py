"""A forecast compared with the measured loss, as numbers.

A forecast holds if the measured loss lies inside the interval that was quoted before the run. A run
that ended without a loss neither confirms nor refutes its forecast.

Not here: the ledger (plan/forecast/ledger.py), the run (launch/final_run.py), the text (document.py).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scalelab.laws.description import Interval
from scalelab.plan.forecast.band import LossBand
from scalelab.plan.forecast.frozen import FrozenForecast
from scalelab.plan.forecast.ledger import Outcome
from scalelab.plan.plan import Plan
from scalelab.train.spec import RunResult
from scalelab.units import decimals, duration, interval_text, multiple, sci, si

SCHEMA = 1
NAMED = ("alarm", "batch_skipped", "went_back", "resume", "lost", "straggler", "out_of_memory")
"""Events of a run that are counted."""


_loss = decimals(4)


@dataclass(frozen=True)
class ForecastComparison:
    """One quantity, predicted or planned beside measured; None is unknown."""

    key: str
    name: str
    unit: str
    predicted: float | None
    kind: str
    """Kind of the prediction: extrapolated, planned, estimated or assumed."""
    actual: float | None
    write: Callable[[float], str]

    @property
    def error(self) -> float | None:
        """Measured over predicted, less one; None if either is unknown."""
        if self.predicted is None or self.actual is None or self.predicted == 0:
            return None
        return self.actual / self.predicted - 1


@dataclass(frozen=True, eq=False)
class LossTrajectory:
    """Loss during a run beside its forecast: the data of a figure."""

    n_tokens: float
    """Planned training tokens."""
    measured: Sequence[tuple[float, float]]
    """Validation loss during training: (n_tokens, loss)."""
    training: Sequence[tuple[float, float]]
    loss: float | None
    """Validation loss at the end, nats per token."""
    predicted: float
    quoted: Interval
    level: float
    band: LossBand | None
    held: bool | None
    reach: float


def sentence(frozen: FrozenForecast, outcome: Outcome) -> str:
    """Return whether the forecast held, in one sentence."""
    quoted = f"the {frozen.level:.0%} interval {interval_text(frozen.quoted, _loss)}"
    where = f"{multiple(frozen.reach)} beyond the evidence"
    if outcome.state == "failed":
        why = f": {outcome.reason}" if outcome.reason else ""
        return (
            f"The run ended without a final loss ({outcome.status}{why}), so the forecast of "
            f"{frozen.loss:.4f} was neither confirmed nor refuted."
        )
    side = "worse" if outcome.error > 0 else "better"
    measured = (
        f"the measured loss is {outcome.loss:.4f} nats per token, {abs(outcome.error):.2%} {side} than the "
        f"forecast of {frozen.loss:.4f} ({where})"
    )
    if outcome.held is None:
        return f"The forecast has no interval to compare with: {measured}."
    if outcome.held:
        return f"The forecast held: {measured} and inside {quoted}."
    distance = min(abs(outcome.loss - end) for end in frozen.quoted)
    return f"The forecast did not hold: {measured} and outside {quoted} by {distance:.4f}."


def compared(
    plan: Plan, frozen: FrozenForecast, result: RunResult, outcome: Outcome
) -> list[ForecastComparison]:
    """Return predicted or planned beside measured quantities, the loss first.

    Args:
        plan: The plan that was launched.
        frozen: Its forecast.
        result: The result of the run.
        outcome: The entry of the ledger.
    """
    cost, devices = plan.cost, plan.layout.devices
    days, price = cost.get("days"), cost.get("dollars_per_device_hour")
    finished = outcome.state != "failed"
    seconds = result.train_s if finished else None
    dollars = None if price is None or seconds is None else price * devices * seconds / 3600
    time_kind = str(plan.status.get("cost", "assumed"))
    time_kind = "estimated" if time_kind == "measured" else time_kind  # from a measured throughput
    return [
        ForecastComparison(
            "loss",
            "loss",
            "nats per token",
            frozen.loss,
            "extrapolated",
            outcome.loss if finished else None,
            _loss,
        ),
        ForecastComparison(
            "n_params",
            "N",
            f"parameters ({frozen.param_count})",
            frozen.actual["n_params"],
            "planned",
            outcome.n_params,
            si,
        ),
        ForecastComparison(
            "n_tokens", "D", "tokens", frozen.actual["n_tokens"], "planned", outcome.n_tokens, si
        ),
        ForecastComparison(
            "flops",
            "C",
            f"FLOPs ({frozen.flop_count})",
            frozen.actual["flops"],
            "planned",
            outcome.flops,
            lambda v: sci(v, 4),
        ),
        ForecastComparison(
            "seconds",
            "training time",
            "",
            None if days is None else 86400.0 * days,
            time_kind,
            seconds,
            duration,
        ),
        ForecastComparison(
            "dollars",
            "cost",
            "" if price is None else f"at ${price:g} per device-hour",
            cost.get("dollars"),
            "assumed",
            dollars,
            lambda v: f"${v:,.2f}",
        ),
    ]


def record(
    plan: Plan,
    frozen: FrozenForecast,
    result: RunResult,
    outcome: Outcome,
    rows: Sequence[ForecastComparison],
    notable: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """Return schema 1 of outcome.json.

    Args:
        plan: The plan that was launched.
        frozen: Its forecast.
        result: The result of the run.
        outcome: The entry of the ledger.
        rows: Predicted beside measured.
        notable: Events of the run that are counted.
    """
    return {
        "schema": SCHEMA,
        "plan": plan.name,
        "forecast": frozen.digest,
        "run": result.run,
        "state": outcome.state,
        "status": outcome.status,
        "reason": outcome.reason,
        "sentence": sentence(frozen, outcome),
        "held": outcome.held,
        "held_statistical": outcome.held_statistical,
        "level": frozen.level,
        "quoted": frozen.quoted,
        "statistical": frozen.statistical,
        "reach": frozen.reach,
        "law": frozen.law,
        "compared": {
            row.key: {
                "predicted": row.predicted,
                "predicted_is": row.kind,
                "actual": row.actual,
                "actual_is": "measured",
                "error": row.error,
            }
            for row in rows
        },
        "loss_se": result.loss_se,
        "bpb": result.bpb,
        "device": result.device,
        "precision": result.precision,
        "tokens_per_s": result.tokens_per_s,
        "mfu": result.mfu,
        "steady_tokens_per_s": result.steady_tokens_per_s,
        "steady_mfu": result.steady_mfu,
        "layout": result.layout,
        "events": {kind: sum(e["event"] == kind for e in notable) for kind in NAMED},
        "interventions": result.interventions,
        "left_band": outside_band(frozen, result),
        "ended": outcome.ended,
    }


def course(frozen: FrozenForecast, result: RunResult) -> LossTrajectory:
    """Return the data of the figure."""
    return LossTrajectory(
        n_tokens=float(frozen.actual["n_tokens"]),
        measured=tuple((point[1], point[2]) for point in result.curve),
        training=tuple((point[1], point[2]) for point in result.train_curve),
        loss=result.loss,
        predicted=frozen.loss,
        quoted=frozen.quoted,
        level=frozen.level,
        band=frozen.stop_band,
        held=None if result.loss is None else frozen.held(result.loss)["quoted"],
        reach=frozen.reach,
    )


def outside_band(frozen: FrozenForecast, result: RunResult) -> list[dict[str, Any]] | None:
    """Return the points of the validation curve outside the band, except the end; None without a band."""
    band = frozen.stop_band
    if band is None:
        return None
    found = []
    for step, _, loss in result.curve:
        share = step / result.n_steps
        side = band.leaves(share, loss) if share < 1 else None
        if side is not None:
            found.append({"step": step, "loss": loss, "side": side})
    return found
