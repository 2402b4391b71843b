"""The ledger: every frozen forecast and its outcome, wrong ones included.

    runs/forecasts/<first 12 of the digest>.json            the frozen forecast
    runs/forecasts/<first 12 of the digest>.outcome.json    written once, when the run has ended

    planned     frozen; no run has ended (nor begun, where the caller knows)
    launched    its run has begun
    held        finished, with the loss inside the quoted interval
    missed      finished, with the loss outside
    unjudged    finished; the forecast has no interval
    failed      ended without a loss, for example diverged
    unreadable  the forecast or its outcome is damaged

Outcomes are sealed (sealed.py); those of schema 1, which has no seals, can be read.

The error of the loss is measured over predicted, less one.

Not here: the forecast itself (frozen.py), the report of an outcome (report/outcome/), the listing
(report/listing/forecasts.py).
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple, get_args

from scalelab.errors import PlanError
from scalelab.files import make_dir, matching, refuse_link
from scalelab.plan.forecast.frozen import FrozenForecast
from scalelab.sealed import Damaged, Format
from scalelab.train.spec import Status

FORECASTS = "forecasts"
"""Name of the directory of the ledger in the runs directory."""
OUTCOME_END = ".outcome.json"
STATES = ("planned", "launched", "held", "missed", "unjudged", "failed", "unreadable")
ENDS = get_args(Status)
"""Statuses of a run that has ended."""


@dataclass(frozen=True)
class Outcome:
    """The outcome of a launched forecast, measured; None where unknown."""

    digest: str
    """Digest of the forecast."""
    run: str
    """Id of the final run."""
    status: Status
    """Status in which the run ended."""
    reason: str | None
    """Reason why the run did not finish; None if it finished."""
    n_params: float
    """Parameters in the count of the forecast."""
    n_tokens: float
    """Training tokens."""
    flops: float
    """Training FLOPs in the count of the forecast."""
    loss: float | None
    """Final validation loss, nats per token."""
    seconds: float | None
    """Training time, seconds."""
    held: bool | None
    """Whether the quoted interval contains the loss."""
    held_statistical: bool | None
    """Whether the interval from noise alone contains the loss."""
    error: float | None
    """Measured loss over the forecast, less one."""
    ended: str
    """Time at which the run ended, ISO 8601, UTC."""

    @property
    def state(self) -> str:
        """State of the forecast, one of STATES."""
        if self.loss is None or self.status != "finished":
            return "failed"
        return {True: "held", False: "missed", None: "unjudged"}[self.held]


OUTCOME = Format(
    "forecast outcome",
    Outcome,
    schema=2,
    unsealed=1,
    error=PlanError,
    fix="restore the file from a copy; or delete it and run scalelab launch again, which compares the "
    "forecast with the result of its run",
)


class LedgerEntry(NamedTuple):
    """One forecast of the ledger and its outcome."""

    path: Path
    frozen: FrozenForecast | None
    """The forecast; None where it cannot be read."""
    outcome: Outcome | None
    """The outcome; None where there is none or it cannot be read."""
    problem: PlanError | None = None
    """The error in reading the forecast or its outcome; None without one."""


def enter(root: Path, frozen: FrozenForecast) -> Path:
    """Add a forecast to the ledger of a runs directory, if it is not there, and return its file.

    Raises:
        PlanError: The file exists with another content.
        RunError: The directory of the ledger is a symbolic link, or the file cannot be written.
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
    """Write the outcome of a forecast, once. An equal outcome is left unchanged.

    Args:
        root: The runs directory.
        frozen: The forecast; added to the ledger if it is not there.
        run: Id of the final run.
        status: One of ENDS.
        reason: Reason why the run did not finish; None if it finished.
        n_params: Parameters, in the count of the forecast.
        n_tokens: Training tokens.
        flops: Training FLOPs, in the count of the forecast.
        loss: Final validation loss, nats per token; None without one.
        seconds: Training time; None where unknown.
        ended: ISO 8601 time; None for now.

    Raises:
        PlanError: The forecast has another outcome or belongs to another run, or the status is
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
            f"the forecast {frozen.digest[:12]} is for run {frozen.run}, and {run} has ended",
            where=str(forecast_path(root, frozen.digest)),
            fix="make a new plan for another run: a forecast is compared with its own run only",
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
    existing = _outcome_of(root, frozen)
    if existing is None:
        raise PlanError(
            f"{path.name} was deleted while it was read", where=str(path), fix="run the same command again"
        )
    if (existing.run, existing.status, existing.loss) != (run, status, loss):
        raise PlanError(
            f"the forecast {frozen.digest[:12]} already has an outcome: run {existing.run}, "
            f"{existing.status}, loss {existing.loss}",
            where=str(path),
            fix="make a new plan for another run: a forecast is compared once",
        )
    return existing


def forecast_path(root: Path, digest: str) -> Path:
    """Return the path of a forecast in the ledger."""
    return root / FORECASTS / f"{digest[:12]}.json"


def outcome_path(root: Path, digest: str) -> Path:
    """Return the path of the outcome of a forecast in the ledger."""
    return root / FORECASTS / f"{digest[:12]}{OUTCOME_END}"


def _outcome_of(root: Path, frozen: FrozenForecast) -> Outcome | None:
    """The outcome of a forecast; None while there is none.

    Raises:
        PlanError: The file exists and is not the outcome of this forecast.
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

    Outcomes of schema 1, which have no seals, are checked too.
    """
    if outcome.digest != frozen.digest:
        raise Damaged(f"it is the outcome of forecast {outcome.digest[:12]}")
    if frozen.run not in (None, outcome.run):
        raise Damaged(f"it is the outcome of run {outcome.run}, and the forecast is for {frozen.run}")
    judged = outcome.loss if outcome.status == "finished" else None
    held = {"quoted": None, "statistical": None} if judged is None else frozen.held(judged)
    if (outcome.held, outcome.held_statistical) != (held["quoted"], held["statistical"]):
        raise Damaged("held does not follow from the loss and the intervals of the forecast")
    error = None if judged is None else judged / frozen.loss - 1
    if outcome.error != error:
        raise Damaged("its error does not follow from the loss and the forecast")


def read_forecast(path: Path) -> FrozenForecast:
    """Return the forecast of a file of the ledger.

    Raises:
        PlanError: The file cannot be read, or its name is not the digest of its forecast.
    """
    frozen = FrozenForecast.load(path)
    if path.name != f"{frozen.digest[:12]}.json":
        raise PlanError(
            f"{path.name} holds the forecast {frozen.digest[:12]}",
            where=str(path),
            fix=f"rename it to {frozen.digest[:12]}.json, or delete it if that file exists",
        )
    return frozen


def entries(root: Path) -> list[LedgerEntry]:
    """Return every forecast with its outcome, oldest first; unreadable ones last."""
    folder, found = root / FORECASTS, []
    paths = [path for path in matching(folder, "*.json") if not path.name.startswith(".")]
    for path in paths:
        if path.name.endswith(OUTCOME_END):
            forecast = path.with_name(path.name.removesuffix(OUTCOME_END) + ".json")
            if forecast not in paths:
                found.append(LedgerEntry(path, None, None, _without_forecast(path, forecast)))
            continue
        frozen, outcome, problem = None, None, None
        try:
            frozen = read_forecast(path)
            outcome = _outcome_of(root, frozen)
        except PlanError as error:
            problem = error
        found.append(LedgerEntry(path, frozen, outcome, problem))
    return sorted(found, key=_age)


def forecast_runs(root: Path) -> dict[str, str]:
    """Return the runs that readable forecasts and outcomes name, each with its forecast in words."""
    found = {}
    for entry in entries(root):
        runs = {entry.frozen and entry.frozen.run, entry.outcome and entry.outcome.run} - {None}
        found |= {str(run): f"the forecast {entry.path.name[:12]}" for run in runs}
    return found


def _age(entry: LedgerEntry) -> tuple[bool, str, str]:
    frozen = entry.frozen
    return (True, "", entry.path.name) if frozen is None else (False, frozen.created, frozen.digest)


def _without_forecast(path: Path, forecast: Path) -> PlanError:
    return PlanError(
        f"{path.name} is an outcome, and its forecast is missing",
        where=str(forecast),
        fix="restore the forecast, for example from forecast.json of its plan",
    )


def state_of(entry: LedgerEntry, launched: Collection[str]) -> str:
    """Return the state of an entry, one of STATES.

    Args:
        entry: An entry of the ledger.
        launched: Digests of the forecasts whose runs have begun.
    """
    if entry.frozen is None or entry.problem is not None:
        return "unreadable"
    if entry.outcome is not None:
        return entry.outcome.state
    return "launched" if entry.frozen.digest in launched else "planned"
