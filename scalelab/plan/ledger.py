"""Every forecast that was frozen and what came true of it. A miss stays.

    runs/forecasts/<first 12 of the digest>.json            the frozen forecast, as it was
    runs/forecasts/<first 12 of the digest>.outcome.json    written once, when the run has ended

    planned     frozen, and no run has ended (nor, where the caller knows of one, begun)
    launched    a run of it has begun
    held        finished, its loss inside the quoted interval
    missed      finished, outside
    unjudged    finished, and the forecast had no interval
    failed      ended without a loss, diverged runs among them

Error of the loss is measured over foretold, less one. Ratios of N, D and FLOPs are planned
against actual.

Not here: what a forecast is (frozen.py), the page about an outcome (the report room).
"""

import json
from collections.abc import Collection
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from scalelab.errors import PlanError
from scalelab.files import make_dir, write_json
from scalelab.plan.frozen import FrozenForecast
from scalelab.units import duration, sci, si

FORECASTS = "forecasts"
"""The directory of the ledger, below that of the runs."""
STATES = ("planned", "launched", "held", "missed", "unjudged", "failed")
ENDS = ("finished", "diverged", "failed")  # of a run, as RunResult has them


@dataclass(frozen=True)
class Outcome:
    """What a launched forecast came to. All measured; None is unknown."""

    schema: int
    digest: str
    """Of the forecast."""
    run: str
    status: str
    """How the run ended, one of ENDS."""
    reason: str | None
    """Why it did not finish."""
    n_params: float
    """In the forecast's own count."""
    n_tokens: float
    flops: float
    """In the forecast's own count."""
    loss: float | None
    """Nats per token."""
    seconds: float | None
    """Spent training."""
    held: bool | None
    """Whether the quoted interval holds the loss."""
    held_statistical: bool | None
    """Whether that of the noise alone does."""
    error: float | None
    """Loss over the foretold one, less one, a share."""
    ended: str
    """ISO 8601, UTC."""

    @property
    def state(self) -> str:
        """One of STATES."""
        if self.loss is None or self.status != "finished":
            return "failed"
        return {True: "held", False: "missed", None: "unjudged"}[self.held]

    def to_json(self) -> dict[str, Any]:
        """The record as JSON types."""
        return asdict(self)


def enter(root: Path, frozen: FrozenForecast) -> Path:
    """Put a forecast into the ledger of a runs directory; again is the same. Returns its file.

    Raises:
        PlanError: Something else stands under its name.
    """
    path = forecast_path(root, frozen.digest)
    make_dir(path.parent)
    frozen.write(path)
    return path


def close(
    root: Path,
    frozen: FrozenForecast,
    *,
    run: str,
    status: str,
    reason: str | None,
    n_params: float,
    n_tokens: float,
    flops: float,
    loss: float | None,
    seconds: float | None,
    ended: str | None = None,
) -> Outcome:
    """Write what came true, once. The same outcome again is left as it stands.

    Args:
        root: The runs directory.
        frozen: The forecast; it is entered where it was not.
        run: Id of the final run.
        status: One of ENDS.
        reason: Why it did not finish.
        n_params: Measured, in the forecast's own count.
        n_tokens: Trained on.
        flops: Spent, in the forecast's own count.
        loss: Final validation loss; None without one.
        seconds: Spent training.
        ended: ISO 8601 time; None for now.

    Raises:
        PlanError: Another outcome stands there, or the status is unknown.
    """
    if status not in ENDS:
        raise PlanError(
            f"unknown status {status!r} of a run",
            where="the outcome of a forecast",
            fix=f"use one of: {', '.join(ENDS)}",
        )
    enter(root, frozen)
    judged = loss if status == "finished" else None
    held = {"quoted": None, "statistical": None} if judged is None else frozen.held(judged)
    outcome = Outcome(
        schema=1,
        digest=frozen.digest,
        run=run,
        status=status,
        reason=reason,
        n_params=float(n_params),
        n_tokens=float(n_tokens),
        flops=float(flops),
        loss=loss,
        seconds=seconds,
        held=held["quoted"],
        held_statistical=held["statistical"],
        error=None if judged is None else judged / frozen.loss - 1,
        ended=ended or datetime.now(UTC).isoformat(timespec="seconds"),
    )
    path = outcome_path(root, frozen.digest)
    there = read_outcome(root, frozen.digest)
    if there is None:
        write_json(path, outcome.to_json())
        return outcome
    if (there.run, there.status, there.loss) != (run, status, loss):
        raise PlanError(
            f"the forecast {frozen.digest[:12]} has come to its outcome already: run {there.run}, "
            f"{there.status}, loss {there.loss}",
            where=str(path),
            fix="plan again for another run: a forecast is judged once",
        )
    return there


def forecast_path(root: Path, digest: str) -> Path:
    """Where a forecast lies."""
    return root / FORECASTS / f"{digest[:12]}.json"


def outcome_path(root: Path, digest: str) -> Path:
    """Where its outcome lies."""
    return root / FORECASTS / f"{digest[:12]}.outcome.json"


def read_outcome(root: Path, digest: str) -> Outcome | None:
    """What came true of a forecast; None while nothing has.

    Raises:
        PlanError: The file is there and is not its outcome.
    """
    path = outcome_path(root, digest)
    try:
        outcome = Outcome(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        raise PlanError(
            f"{path.name} cannot be read as an outcome: {error}",
            where=str(path),
            fix="restore the file; a forecast is judged once",
        ) from None
    if outcome.digest != digest:
        raise PlanError(
            f"{path.name} is the outcome of the forecast {outcome.digest[:12]}",
            where=str(path),
            fix="restore the file under its own name",
        )
    return outcome


def entries(root: Path) -> list[tuple[FrozenForecast, Outcome | None]]:
    """Every forecast and what came true, the oldest first.

    Raises:
        PlanError: A file has been changed or cannot be read.
    """
    paths = [p for p in (root / FORECASTS).glob("*.json") if p.suffixes == [".json"]]
    forecasts = sorted((FrozenForecast.load(p) for p in paths), key=lambda f: (f.created, f.digest))
    return [(f, read_outcome(root, f.digest)) for f in forecasts]


def listing(root: Path, launched: Collection[str] = ()) -> str:
    """The ledger for eyes: `scalelab runs --forecasts`.

    Args:
        root: The runs directory.
        launched: Digests of forecasts whose runs have begun.

    Raises:
        PlanError: A file has been changed or cannot be read.
    """
    every = entries(root)
    if not every:
        return f"no forecasts in {root / FORECASTS}; make one with: scalelab plan"
    lines = [
        f"{'forecast':<12} {'state':<9} {'created':<10} {'name':<20} {'FLOPs':>8} {'N':>7} "
        f"{'D':>7} {'foretold':>9} {'interval':>18} {'measured':>9} {'error':>7} {'reach':>7} "
        f"{'took':>12}"
    ]
    counts = dict.fromkeys(STATES, 0)
    for frozen, outcome in every:
        begun = frozen.digest in launched
        state = outcome.state if outcome else "launched" if begun else "planned"
        counts[state] += 1
        lines.append(_line(frozen, outcome, state))
    judged = counts["held"] + counts["missed"]
    told = ", ".join(f"{n} {state}" for state, n in counts.items() if n)
    lines += ["", told + (f"; {counts['held']} of {judged} intervals held" if judged else "")]
    lines.append(
        "foretold: extrapolated, with the interval quoted at its level; measured: validation loss "
        "of the final run, nats per token"
    )
    return "\n".join(lines)


def _line(frozen: FrozenForecast, outcome: Outcome | None, state: str) -> str:
    ends = frozen.quoted
    interval = (
        "unknown" if ends is None else f"{ends[0]:.4f}-{ends[1]:.4f} {frozen.level * 100:.0f}%"
    )
    loss = "" if outcome is None or outcome.loss is None else f"{outcome.loss:.4f}"
    error = "" if outcome is None or outcome.error is None else f"{outcome.error:+.2%}"
    took = "" if outcome is None else duration(outcome.seconds)
    told = outcome.reason if outcome and outcome.reason else frozen.override
    note = "" if told is None else told.splitlines()[0]
    return (
        f"{frozen.digest[:12]:<12} {state:<9} {frozen.created[:10]:<10} {frozen.name:<20} "
        f"{sci(frozen.actual['flops']):>8} {si(frozen.actual['n_params']):>7} "
        f"{si(frozen.actual['n_tokens']):>7} {frozen.loss:>9.4f} {interval:>18} {loss:>9} "
        f"{error:>7} {frozen.reach:>6.3g}x {took:>12}  {note}"
    ).rstrip()
