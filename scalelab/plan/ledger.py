"""Every forecast that was frozen and what came true of it. A miss stays.

    runs/forecasts/<first 12 of the digest>.json            the frozen forecast, as it was
    runs/forecasts/<first 12 of the digest>.outcome.json    written once, when the run has ended

    planned     frozen, and no run has ended (nor, where the caller knows of one, begun)
    launched    a run of it has begun
    held        finished, its loss inside the quoted interval
    missed      finished, outside
    unjudged    finished, and the forecast had no interval
    failed      ended without a loss, diverged runs among them
    unreadable  the forecast or its outcome is not what was written

Outcomes are sealed (sealed.py); those from before the seals are read.

Error of the loss is measured over foretold, less one. Ratios of N, D and FLOPs are planned
against actual.

Not here: what a forecast is (frozen.py), the page about an outcome (the report room).
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple, get_args

from scalelab.errors import PlanError
from scalelab.files import make_dir, refuse_link
from scalelab.plan.frozen import FrozenForecast
from scalelab.sealed import Damaged, Format
from scalelab.train.spec import Status
from scalelab.units import duration, sci, si

FORECASTS = "forecasts"
"""The directory of the ledger, below that of the runs."""
OUTCOME_END = ".outcome.json"
STATES = ("planned", "launched", "held", "missed", "unjudged", "failed", "unreadable")
ENDS = get_args(Status)
"""How a run ends."""


@dataclass(frozen=True)
class Outcome:
    """What a launched forecast came to. All measured; None is unknown."""

    digest: str
    """Of the forecast."""
    run: str
    status: Status
    """How the run ended."""
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


OUTCOME = Format(
    "forecast outcome",
    Outcome,
    schema=2,
    unsealed=1,
    error=PlanError,
    fix="restore the file from a copy; or delete it and launch the plan again: the forecast is "
    "then judged by the result of its run",
)


class Entry(NamedTuple):
    """One forecast of the ledger, and what came true of it."""

    path: Path
    frozen: FrozenForecast | None
    """None where it cannot be read."""
    outcome: Outcome | None
    """None while there is none, or where it cannot be read."""
    problem: PlanError | None = None
    """What cannot be read, and why."""


def enter(root: Path, frozen: FrozenForecast) -> Path:
    """Put a forecast into the ledger of a runs directory; again is the same. Returns its file.

    Raises:
        PlanError: Something else stands under its name.
        RunError: The ledger's directory is a symbolic link, or the disk refuses.
    """
    path = forecast_path(root, frozen.digest)
    refuse_link(path.parent)
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
        PlanError: Another outcome stands there, the run is not the forecast's, or the status is
            unknown.
    """
    if status not in ENDS:
        raise PlanError(
            f"unknown status {status!r} of a run",
            where="the outcome of a forecast",
            fix=f"use one of: {', '.join(ENDS)}",
        )
    if frozen.run not in (None, run):
        raise PlanError(
            f"the forecast {frozen.digest[:12]} is of run {frozen.run}, and {run} has ended",
            where=str(forecast_path(root, frozen.digest)),
            fix="plan again for another run: a forecast is judged by the run that it is of",
        )
    enter(root, frozen)
    judged = loss if status == "finished" else None
    held = {"quoted": None, "statistical": None} if judged is None else frozen.held(judged)
    outcome = Outcome(
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
    if OUTCOME.write_once(path, outcome):
        return outcome
    there = _outcome_of(root, frozen)
    if there is None:
        raise PlanError(
            f"{path.name} was deleted while it was read",
            where=str(path),
            fix="run the same command again",
        )
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
    return root / FORECASTS / f"{digest[:12]}{OUTCOME_END}"


def _outcome_of(root: Path, frozen: FrozenForecast) -> Outcome | None:
    """What came true of a forecast; None while nothing has.

    Raises:
        PlanError: The file is there and is not its outcome.
    """
    path = outcome_path(root, frozen.digest)
    try:
        outcome = OUTCOME.read(path)
        _check(outcome, frozen)
    except FileNotFoundError:
        return None
    except Damaged as damage:
        raise OUTCOME.refusal(path, damage) from None
    return outcome


def _check(outcome: Outcome, frozen: FrozenForecast) -> None:
    """Refuse an outcome that does not follow from its forecast. Raises Damaged.

    Those from before the seals are held to it too: what they say of the forecast can be checked.
    """
    if outcome.digest != frozen.digest:
        raise Damaged(f"it is that of the forecast {outcome.digest[:12]}")
    if frozen.run not in (None, outcome.run):
        raise Damaged(f"it is that of run {outcome.run}, and the forecast is of {frozen.run}")
    judged = outcome.loss if outcome.status == "finished" else None
    held = {"quoted": None, "statistical": None} if judged is None else frozen.held(judged)
    if (outcome.held, outcome.held_statistical) != (held["quoted"], held["statistical"]):
        raise Damaged("whether it held does not follow from its loss and the forecast's intervals")
    error = None if judged is None else judged / frozen.loss - 1
    if outcome.error != error:
        raise Damaged("its error does not follow from its loss and the forecast's")


def read_forecast(path: Path) -> FrozenForecast:
    """The forecast of a file of the ledger.

    Raises:
        PlanError: It cannot be read, or is not the one that the file is named after.
    """
    frozen = FrozenForecast.load(path)
    if path.name != f"{frozen.digest[:12]}.json":
        raise PlanError(
            f"{path.name} holds the forecast {frozen.digest[:12]}",
            where=str(path),
            fix=f"rename it to {frozen.digest[:12]}.json, or delete it where that is there too",
        )
    return frozen


def entries(root: Path) -> list[Entry]:
    """Every forecast and what came true, the oldest first, and last what cannot be read."""
    folder, found = root / FORECASTS, []
    paths = sorted(path for path in folder.glob("*.json") if not path.name.startswith("."))
    for path in paths:
        if path.name.endswith(OUTCOME_END):
            of = path.with_name(path.name.removesuffix(OUTCOME_END) + ".json")
            if of not in paths:
                found.append(Entry(path, None, None, _without_forecast(path, of)))
            continue
        frozen, outcome, problem = None, None, None
        try:
            frozen = read_forecast(path)
            outcome = _outcome_of(root, frozen)
        except PlanError as error:
            problem = error
        found.append(Entry(path, frozen, outcome, problem))
    return sorted(found, key=_age)


def _age(entry: Entry) -> tuple[bool, str, str]:
    frozen = entry.frozen
    return (True, "", entry.path.name) if frozen is None else (False, frozen.created, frozen.digest)


def _without_forecast(path: Path, forecast: Path) -> PlanError:
    return PlanError(
        f"{path.name} is an outcome, and its forecast is missing",
        where=str(forecast),
        fix="restore the forecast, such as from forecast.json of its plan",
    )


def listing(root: Path, every: Collection[Entry], launched: Collection[str] = ()) -> str:
    """The ledger as a table: `scalelab runs --forecasts`.

    Args:
        root: The runs directory.
        every: Its entries. What cannot be read has a row with its file.
        launched: Digests of forecasts whose runs have begun.
    """
    if not every:
        return f"no forecasts in {root / FORECASTS}; make one with: scalelab plan"
    lines = [
        f"{'forecast':<12} {'state':<10} {'created':<10} {'name':<20} {'FLOPs':>8} {'N':>7} "
        f"{'D':>7} {'foretold':>9} {'interval':>18} {'measured':>9} {'error':>7} {'reach':>7} "
        f"{'took':>12}"
    ]
    counts = dict.fromkeys(STATES, 0)
    for entry in every:
        state = _state(entry, launched)
        counts[state] += 1
        if entry.frozen is None:
            lines.append(f"{entry.path.name[:12]:<12} {state:<10} {entry.path}")
        else:
            lines.append(_line(entry.frozen, entry.outcome, state))
    judged = counts["held"] + counts["missed"]
    told = ", ".join(f"{n} {state}" for state, n in counts.items() if n)
    lines += ["", told + (f"; {counts['held']} of {judged} intervals held" if judged else "")]
    lines.append(
        "foretold: extrapolated, with the interval quoted at its level; measured: validation loss "
        "of the final run, nats per token"
    )
    return "\n".join(lines)


def _state(entry: Entry, launched: Collection[str]) -> str:
    """One of STATES."""
    if entry.frozen is None or entry.problem is not None:
        return "unreadable"
    if entry.outcome is not None:
        return entry.outcome.state
    return "launched" if entry.frozen.digest in launched else "planned"


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
        f"{frozen.digest[:12]:<12} {state:<10} {frozen.created[:10]:<10} {frozen.name:<20} "
        f"{sci(frozen.actual['flops']):>8} {si(frozen.actual['n_params']):>7} "
        f"{si(frozen.actual['n_tokens']):>7} {frozen.loss:>9.4f} {interval:>18} {loss:>9} "
        f"{error:>7} {frozen.reach:>6.3g}x {took:>12}  {note}"
    ).rstrip()
