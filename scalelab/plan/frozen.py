"""The forecast as a file, written before the launch and never changed after.

    freeze(found, ...) -> FrozenForecast      refused where gate() refuses
    frozen.write(path)                        never over another forecast
    FrozenForecast.load(path)                 refused where a byte of its meaning has changed

The loss is that of the model to be launched, at its own N and D, not at the rounded optimum.
The digest is the SHA-256 of the record as canonical JSON, without the digest itself. It shows
a change; it does not prevent one by somebody who writes a new digest.

Since schema 2 a forecast names the run that it is of. Forecasts of schema 1 are read as they were
written, and keep their digests.

Source: that forecasts be registered before the run, and how far they have held (about 300
times the evidence): the Delphi runs of Marin, 2026; bounds in laws/verdict.py.

Not here: what came true (ledger.py), the band of the loss curve (band.py).
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from scalelab.errors import PlanError
from scalelab.files import write_new
from scalelab.laws.columns import BATCH_TOKENS, STEPS, UNIQUE_TOKENS
from scalelab.laws.holdout import HoldOut
from scalelab.laws.interval import Interval
from scalelab.laws.observations import Observations
from scalelab.laws.structural import QUANTITIES
from scalelab.laws.study import Study
from scalelab.laws.verdict import FAR, GRADES, MISSED, TOO_FAR
from scalelab.plan.allocate import allocate, expected
from scalelab.plan.band import Band, RunCurve, band
from scalelab.sealed import Damaged, typed
from scalelab.train.spec import ParamCount

SCHEMA = 2
WITHOUT_RUN = 1
"""The schema from before forecasts named their run."""
_KEYS = {
    "planned": ("n_params", "n_tokens", "loss", "tokens_per_param"),
    "actual": ("n_params", "n_tokens", "flops", "tokens_per_param"),
    "evidence": ("digest", "n_runs", "kind"),
}
"""What records within the record must have."""
_FIX = "restore the file from a copy, or plan again"


@dataclass(frozen=True)
class FrozenForecast:
    """What was foretold of one final run, and from what. Plain JSON types throughout."""

    schema: int
    name: str
    created: str
    """ISO 8601, UTC."""
    target_flops: float
    planned: Mapping[str, float]
    """The optimum at the target: n_params, n_tokens, loss, tokens_per_param."""
    actual: Mapping[str, float]
    """The model to be launched: n_params, n_tokens, flops, tokens_per_param."""
    loss: float
    """Foretold of the actual model, nats per token."""
    quoted: Interval
    """At each end the farther of noise and choice of law."""
    statistical: Interval
    """From noise alone."""
    level: float
    law: str
    """Which law speaks."""
    laws: Mapping[str, Mapping[str, float | None]]
    """What every fitted law says of the target."""
    wasted: float | None
    """Share of the compute that the actual size wastes by being off the best one."""
    evidence: Mapping[str, Any]
    """digest of the runs, n_runs, kind, and ranges of flops, n_params, n_tokens, loss."""
    param_count: ParamCount
    flop_count: Literal["exact", "6ND"]
    reach: float
    """Actual compute as a multiple of the largest in evidence."""
    holdout: Mapping[str, Any] | None
    """held_out, fold, error (a share of the loss), passed."""
    holdout_absent: str | None
    grade: str
    verdict: str
    warnings: tuple[str, ...]
    """Of the gate."""
    override: str | None
    """Why it was launched beyond where the gate refuses."""
    code: Mapping[str, str]
    """Version and commit."""
    data_digest: str | None
    """Of the corpus; None for runs that name none."""
    band: Mapping[str, Any] | None
    """Validation loss on the way."""
    band_absent: str | None
    train_band: Mapping[str, Any] | None
    """Training loss on the way."""
    run: str | None = None
    """Id of the run to be launched; None without a recipe, and in forecasts of schema 1."""

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the record, hexadecimal."""
        return _digest(self._record())

    @property
    def stop_band(self) -> Band | None:
        """The band of the validation loss."""
        return None if self.band is None else Band.from_json(dict(self.band))

    @property
    def stop_train_band(self) -> Band | None:
        """The band of the training loss."""
        return None if self.train_band is None else Band.from_json(dict(self.train_band))

    def to_json(self) -> dict[str, Any]:
        """The record as JSON types, its digest last."""
        return {**self._record(), "digest": self.digest}

    def write(self, path: Path) -> None:
        """Write the file; writing the same forecast again changes nothing.

        Raises:
            PlanError: Another forecast, or something else, stands there.
            RunError: The disk refuses.
        """
        if write_new(path, json.dumps(self.to_json(), indent=1, allow_nan=False) + "\n"):
            return
        there = FrozenForecast.load(path).digest
        if there != self.digest:
            raise PlanError(
                f"another forecast stands there, {there[:12]}; a forecast is never replaced",
                where=str(path),
                fix="write this one elsewhere: --out DIR",
            )

    @classmethod
    def load(cls, path: Path) -> "FrozenForecast":
        """The forecast in a file.

        Raises:
            PlanError: There is none, it cannot be read, or it is not what was frozen.
        """
        record = _read(path)
        digest, schema = record.pop("digest", None), record.get("schema")
        if schema not in (WITHOUT_RUN, SCHEMA) or isinstance(schema, bool) or digest is None:
            raise PlanError(
                f"{path.name} is not a frozen forecast of schema {SCHEMA}",
                where=f"{path}: schema {schema!r}, digest {digest!r}",
                fix="name the forecast.json of a plan, or plan again",
            )
        expected = {f.name for f in fields(cls)} - ({"run"} if schema == WITHOUT_RUN else set())
        if _digest_or_none(record) != digest or set(record) != expected:
            raise PlanError(
                f"the forecast {str(digest)[:12]} has been changed after it was frozen",
                where=str(path),
                fix=_FIX,
            )
        try:
            typed(cls, record)
            _check(record)
        except Damaged as damage:
            raise PlanError(
                f"{path.name} cannot be read as a forecast: {damage}", where=str(path), fix=_FIX
            ) from None
        # Not what `typed` returns: it reads a 1 as 1.0, and the digest tells the two apart.
        return cls(**{**record, "warnings": tuple(record["warnings"])})

    def held(self, loss: float) -> dict[str, bool | None]:
        """Whether each interval holds a measured loss; None where there is no interval."""
        return {
            name: None if ends is None else bool(ends[0] <= loss <= ends[1])
            for name, ends in (("quoted", self.quoted), ("statistical", self.statistical))
        }

    def _record(self) -> dict[str, Any]:
        record = {**asdict(self), "warnings": list(self.warnings)}
        if self.schema == WITHOUT_RUN:
            del record["run"]
        return record


def freeze(
    found: Study,
    *,
    name: str,
    n_params: float,
    n_tokens: float,
    flops: float,
    code: Mapping[str, str],
    data_digest: str | None,
    curves: Sequence[RunCurve] = (),
    train_curves: Sequence[RunCurve] = (),
    override: str | None = None,
    created: str | None = None,
    run: str | None = None,
) -> FrozenForecast:
    """The forecast of one final run.

    Args:
        found: The study at the compute of the run.
        name: Of the plan.
        n_params: Of the model to be launched, in the study's own count.
        n_tokens: It will be trained on.
        flops: These cost, in the study's own count.
        code: Version and commit.
        data_digest: Of the corpus; None where no run names one.
        curves: Validation losses on the way, of the runs in evidence.
        train_curves: Training losses on the way, of the same.
        override: Why to launch where the gate refuses; None for no override.
        created: ISO 8601 time; None for now.
        run: Id of the run to be launched; None without a recipe.

    Raises:
        PlanError: The gate refuses, or the study looks at another compute.
    """
    best = allocate(found)
    loss = expected(found, n_params=n_params, n_tokens=n_tokens, flops=flops)
    reach = flops / found.fits[best.law].evidence_end
    tested, absent = _holdout(found)
    warnings = gate(reach, best.grade, None if tested is None else not tested["passed"], override)
    final = {"n_params": n_params, "n_tokens": n_tokens, "loss": loss.loss}
    on_the_way = band(curves, **final, interval=loss.quoted)
    training = band(train_curves, **final, interval=loss.quoted)
    return FrozenForecast(
        schema=SCHEMA,
        name=name,
        created=created or datetime.now(UTC).isoformat(timespec="seconds"),
        target_flops=float(best.flops),
        planned={key: float(getattr(best, key)) for key in QUANTITIES},
        actual={
            "n_params": float(n_params),
            "n_tokens": float(n_tokens),
            "flops": float(flops),
            "tokens_per_param": float(n_tokens / n_params),
        },
        loss=loss.loss,
        quoted=loss.quoted,
        statistical=loss.statistical,
        level=found.level,
        law=best.law,
        laws={row.law: {key: getattr(row, key) for key in QUANTITIES} for row in best.laws},
        wasted=loss.wasted,
        evidence=_evidence(found),
        param_count=found.param_count,
        flop_count=found.flop_count,
        reach=float(reach),
        holdout=tested,
        holdout_absent=absent,
        grade=best.grade,
        verdict=best.verdict,
        warnings=warnings,
        override=override,
        code=dict(code),
        data_digest=data_digest,
        band=on_the_way.to_json() if isinstance(on_the_way, Band) else None,
        band_absent=on_the_way if isinstance(on_the_way, str) else None,
        train_band=training.to_json() if isinstance(training, Band) else None,
        run=run,
    )


def gate(
    reach: float, grade: str, holdout_failed: bool | None, override: str | None
) -> tuple[str, ...]:
    """What must be said before a launch, one sentence each.

    Args:
        reach: Compute of the run as a multiple of the largest in evidence.
        grade: Of the forecast, one of verdict.GRADES.
        holdout_failed: Whether the hold-out missed by more than MISSED; None without one.
        override: Why to launch all the same; None for no override.

    Raises:
        PlanError: The reach is beyond TOO_FAR and nobody overrides, or an override has no reason.
    """
    if override is not None and not override.strip():
        raise PlanError(
            "an override without a reason",
            where="--override",
            fix='say why, for the ledger: --override "REASON"',
        )
    if reach > TOO_FAR and override is None:
        raise PlanError(
            f"the run reaches {reach:,.0f}x beyond the largest compute in evidence; no forecast "
            f"is trusted past {TOO_FAR:,.0f}x",
            where="the gate of the forecast",
            fix=f"add a budget of at least 1/{TOO_FAR:,.0f} of the target to the sweep, or say why "
            'to launch all the same: --override "REASON"',
        )
    found = []
    if reach > TOO_FAR:
        found.append(
            f"the run reaches {reach:,.0f}x beyond the evidence, past the limit of "
            f"{TOO_FAR:,.0f}x; overridden: {override}"
        )
    elif reach > FAR:
        found.append(
            f"the run reaches {reach:,.0f}x beyond the evidence; published forecasts that held "
            "went to about 300x"
        )
    if holdout_failed is None:
        found.append("no hold-out was made: nothing shows that these laws foresee larger runs")
    elif holdout_failed:
        found.append(f"the hold-out missed its loss by more than {MISSED:.0%}")
    if grade == GRADES[2]:
        found.append("the verdict on the forecast is: do not rely on it")
    return tuple(found)


def runs_digest(runs: Observations) -> str:
    """SHA-256 of the runs in evidence, whatever their order, hexadecimal."""
    fields = ("run", *"NDLC", "flops_planned", "seed", "group")
    columns = {
        **{name: getattr(runs, name) for name in fields},
        "U": runs.columns.get(UNIQUE_TOKENS.name, runs.D),
        "S": runs.recorded(STEPS.name),
        BATCH_TOKENS.name: runs.recorded(BATCH_TOKENS.name),
        "weight": runs.weight,
    }
    columns |= runs.own_columns
    rows = sorted([_plain(value[i]) for value in columns.values()] for i in range(len(runs)))
    return _digest({"columns": [*columns], "rows": rows})


def _evidence(found: Study) -> dict[str, Any]:
    runs = found.runs
    ranges = (("flops", runs.C), ("n_params", runs.N), ("n_tokens", runs.D), ("loss", runs.L))
    return {
        "digest": runs_digest(runs),
        "n_runs": len(runs),
        "kind": found.kind,
        **{key: [float(value.min()), float(value.max())] for key, value in ranges},
    }


def _holdout(found: Study) -> tuple[dict[str, Any] | None, str | None]:
    """The last test of the law that speaks, or why there is none."""
    tested, law = found.holdout, found.forecast.law
    if not isinstance(tested, HoldOut):
        return None, tested
    last = tested.last.get(law)
    if last is None:
        return None, tested.refused.get(law, f"{law} was not asked")
    return {
        "held_out": tested.held_out,
        "fold": last.fold,
        "error": last.error,
        "passed": last.error <= MISSED,
    }, None


def _check(record: Mapping[str, Any]) -> None:
    """Refuse a record whose parts lack what is read from them. Raises Damaged."""
    for part, needed in _KEYS.items():
        if missing := [key for key in needed if key not in record[part]]:
            raise Damaged(f"its {part} has no {', '.join(missing)}")
    for name in ("quoted", "statistical"):
        if record[name] is not None and len(record[name]) != 2:
            raise Damaged(f"{name} has {len(record[name])} ends, not 2")
    for name in ("band", "train_band"):
        if record[name] is None:
            continue
        ends = typed(Band, record[name])
        if len({len(ends.share), len(ends.low), len(ends.expected), len(ends.high)}) > 1:
            raise Damaged(f"the lines of its {name} differ in length")
        if not ends.share or not all(0 < share <= 1 for share in ends.share):
            raise Damaged(f"the shares of its {name} are not all between 0 and 1")


def _read(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise PlanError(
            f"{path.name} cannot be read as a forecast: {error}",
            where=str(path),
            fix="name the forecast.json of a plan, restore the file, or plan again",
        ) from None
    if not isinstance(record, dict):
        raise PlanError(
            f"{path.name} holds no forecast",
            where=str(path),
            fix="name the forecast.json of a plan, restore the file, or plan again",
        )
    return record


def _digest_or_none(record: Mapping[str, Any]) -> str | None:
    """The digest of a record that was read; None where it holds NaN, which no record does."""
    try:
        return _digest(record)
    except (ValueError, RecursionError):
        return None


def _digest(record: Mapping[str, Any]) -> str:
    text = json.dumps(record, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _plain(value: Any) -> Any:
    """One cell as a JSON type; NaN, which stands for unknown, as None."""
    value = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(value, float) and np.isnan(value) else value
