"""The forecast of a final run as a file, written before the launch and never changed after.

    predict(study, ...) -> FrozenForecast     the record, which may be shown
    freeze(study, ...) -> FrozenForecast      the record, refused where gate() refuses
    frozen.write(path)                        never over another forecast
    FrozenForecast.load(path)                 refused if the content has changed

The loss is that of the model to be launched, at its own N and D, not at the optimum before
rounding. The digest is the SHA-256 of the record as canonical JSON, without the digest itself. It
reveals a change; it does not prevent a change with a new digest.

Since schema 2 a forecast has the id of its run. Forecasts of schema 1 are read unchanged and keep
their digests.

Source: that forecasts be registered before the run, and how far they have held (about 300
times the evidence): the Delphi runs of Marin, 2026; bounds in study/verdict.py.

Not here: the gate (gate.py), the outcome (ledger.py), the band of the loss curve (band.py).
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
from scalelab.files import check_answered, read_regular, write_new
from scalelab.laws.columns import BATCH_TOKENS, STEPS, UNIQUE_TOKENS
from scalelab.laws.description import Interval
from scalelab.laws.observations import Observations
from scalelab.laws.uncertainty.model_uncertainty import QUANTITIES
from scalelab.plan.choose.allocate import allocate, expected
from scalelab.plan.forecast.band import LossBand, RunCurve, band
from scalelab.plan.forecast.gate import gate, gate_warnings
from scalelab.sealed import Damaged, typed
from scalelab.study.holdout import HoldOut
from scalelab.study.study import Study
from scalelab.study.verdict import MISSED
from scalelab.train.spec import ParamCount

SCHEMA = 2
WITHOUT_RUN = 1
"""Schema of forecasts without the id of their run."""
_KEYS = {
    "planned": ("n_params", "n_tokens", "loss", "tokens_per_param"),
    "actual": ("n_params", "n_tokens", "flops", "tokens_per_param"),
    "evidence": ("digest", "n_runs", "kind"),
}
"""Required keys of records within the record."""
_FIX = "restore the file from a copy, or plan again"


@dataclass(frozen=True)
class FrozenForecast:
    """The forecast of one final run, with its evidence. Plain JSON types throughout."""

    schema: int
    name: str
    created: str
    """Time of freezing, ISO 8601, UTC."""
    target_flops: float
    planned: Mapping[str, float]
    """Optimum at the target: n_params, n_tokens, loss, tokens_per_param."""
    actual: Mapping[str, float]
    """Model to be launched: n_params, n_tokens, flops, tokens_per_param."""
    loss: float
    """Forecast for the actual model, nats per token."""
    quoted: Interval
    """Quoted interval: at each end the farthest of noise and of the calibrated interval or the choice of law."""
    statistical: Interval
    """Interval from noise alone."""
    level: float
    law: str
    """Primary law."""
    laws: Mapping[str, Mapping[str, float | None]]
    """Predictions of every fitted law at the target."""
    wasted: float | None
    """Share of the compute that the actual size wastes; None where unknown."""
    evidence: Mapping[str, Any]
    """Digest of the runs, n_runs, kind, and ranges of flops, n_params, n_tokens, loss."""
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
    """Warnings of the gate."""
    override: str | None
    """Reason for a launch that the gate refuses; None without one."""
    code: Mapping[str, str]
    """Version and commit of the code."""
    data_digest: str | None
    """Digest of the corpus; None where the runs record none."""
    band: Mapping[str, Any] | None
    """Band of the validation loss during training."""
    band_absent: str | None
    train_band: Mapping[str, Any] | None
    """Band of the training loss during training."""
    run: str | None = None
    """Id of the run to be launched; None without a recipe, and in forecasts of schema 1."""

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the record, hexadecimal."""
        return _digest(self._record())

    @property
    def stop_band(self) -> LossBand | None:
        """Band of the validation loss; None without one."""
        return None if self.band is None else LossBand.from_json(dict(self.band))

    @property
    def stop_train_band(self) -> LossBand | None:
        """Band of the training loss; None without one."""
        return None if self.train_band is None else LossBand.from_json(dict(self.train_band))

    def to_json(self) -> dict[str, Any]:
        """Return the record as JSON types, its digest last."""
        return {**self._record(), "digest": self.digest}

    def write(self, path: Path) -> None:
        """Write the file; if it has the same forecast already, it is left unchanged.

        Raises:
            PlanError: The file exists with another content.
            RunError: The file cannot be written.
        """
        if write_new(path, json.dumps(self.to_json(), indent=1, allow_nan=False) + "\n"):
            return
        existing = FrozenForecast.load(path).digest
        if existing != self.digest:
            raise PlanError(
                f"the file has another forecast, {existing[:12]}; a forecast is never replaced",
                where=str(path),
                fix="write this one to another directory: --out DIR",
            )

    @classmethod
    def load(cls, path: Path) -> "FrozenForecast":
        """Return the forecast of a file.

        Raises:
            PlanError: The file is missing, cannot be read, or was changed after freezing.
        """
        record = _read(path)
        digest, schema = record.pop("digest", None), record.get("schema")
        if schema not in (WITHOUT_RUN, SCHEMA) or isinstance(schema, bool) or digest is None:
            raise PlanError(
                f"{path.name} is not a frozen forecast of schema {SCHEMA}",
                where=f"{path}: schema {schema!r}, digest {digest!r}",
                fix="give the forecast.json of a plan, or plan again",
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
        # `typed` reads a 1 as 1.0, which has another digest, so the record is used as it was read.
        return cls(**{**record, "warnings": tuple(record["warnings"])})

    def held(self, loss: float) -> dict[str, bool | None]:
        """Return whether each interval contains a measured loss; None without an interval."""
        return {
            name: None if ends is None else bool(ends[0] <= loss <= ends[1])
            for name, ends in (("quoted", self.quoted), ("statistical", self.statistical))
        }

    def _record(self) -> dict[str, Any]:
        record = {**asdict(self), "warnings": list(self.warnings)}
        if self.schema == WITHOUT_RUN:
            del record["run"]
        return record


def freeze(study: Study, **settings: Any) -> FrozenForecast:
    """Return the forecast of one final run, refused where the gate refuses it.

    Args:
        study: The study whose target is the compute of the run.
        **settings: Those of `predict`.

    Raises:
        PlanError: The gate refuses, or the target of the study is another compute.
    """
    record = predict(study, **settings)
    gate(record.reach, record.grade, None, record.override)
    return record


def predict(
    study: Study,
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
    """Return the forecast of one final run, whether or not it may be frozen.

    Args:
        study: The study whose target is the compute of the run.
        name: Name of the plan.
        n_params: Parameters of the model to be launched, in the count of the study.
        n_tokens: Training tokens.
        flops: Training FLOPs, in the count of the study.
        code: Version and commit of the code.
        data_digest: Digest of the corpus; None where the runs record none.
        curves: Validation loss curves of the runs in evidence.
        train_curves: Training loss curves of the same runs.
        override: Reason to freeze it although the gate refuses; None for no override.
        created: ISO 8601 time; None for now.
        run: Id of the run to be launched; None without a recipe.

    Raises:
        PlanError: The target of the study is another compute.
    """
    best = allocate(study)
    loss = expected(study, n_params=n_params, n_tokens=n_tokens, flops=flops)
    reach = flops / study.fits[best.law].evidence_end
    holdout, absent = _holdout(study)
    failed = None if holdout is None else not holdout["passed"]
    warnings = gate_warnings(reach, best.grade, failed, override)
    final = {"n_params": n_params, "n_tokens": n_tokens, "loss": loss.loss}
    validation_band = band(curves, **final, interval=loss.quoted)
    training_band = band(train_curves, **final, interval=loss.quoted)
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
        level=study.level,
        law=best.law,
        laws={row.law: {key: getattr(row, key) for key in QUANTITIES} for row in best.laws},
        wasted=loss.wasted,
        evidence=_evidence(study),
        param_count=study.param_count,
        flop_count=study.flop_count,
        reach=float(reach),
        holdout=holdout,
        holdout_absent=absent,
        grade=best.grade,
        verdict=best.verdict,
        warnings=warnings,
        override=override,
        code=dict(code),
        data_digest=data_digest,
        band=validation_band.to_json() if isinstance(validation_band, LossBand) else None,
        band_absent=validation_band if isinstance(validation_band, str) else None,
        train_band=training_band.to_json() if isinstance(training_band, LossBand) else None,
        run=run,
    )


def runs_digest(runs: Observations) -> str:
    """Return the SHA-256 of the runs in evidence, independent of their order, in hexadecimal."""
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


def _evidence(study: Study) -> dict[str, Any]:
    runs = study.runs
    ranges = (("flops", runs.C), ("n_params", runs.N), ("n_tokens", runs.D), ("loss", runs.L))
    return {
        "digest": runs_digest(runs),
        "n_runs": len(runs),
        "kind": study.kind,
        **{key: [float(value.min()), float(value.max())] for key, value in ranges},
    }


def _holdout(study: Study) -> tuple[dict[str, Any] | None, str | None]:
    """The last hold-out of the primary law, or why there is none."""
    tested, law = study.holdout, study.forecast.law
    if not isinstance(tested, HoldOut):
        return None, tested
    last = tested.last.get(law)
    if last is None:
        return None, tested.refused.get(law, f"{law} was not held out")
    return {
        "held_out": tested.held_out,
        "fold": last.fold,
        "error": last.error,
        "passed": last.error <= MISSED,
    }, None


def _check(record: Mapping[str, Any]) -> None:
    """Refuse a record with missing or inconsistent parts. Raises Damaged."""
    for part, needed in _KEYS.items():
        if missing := [key for key in needed if key not in record[part]]:
            raise Damaged(f"its {part} has no {', '.join(missing)}")
    for name in ("quoted", "statistical"):
        if record[name] is not None and len(record[name]) != 2:
            raise Damaged(f"{name} has {len(record[name])} ends, not 2")
    for name in ("band", "train_band"):
        if record[name] is None:
            continue
        ends = typed(LossBand, record[name])
        if len({len(ends.share), len(ends.low), len(ends.expected), len(ends.high)}) > 1:
            raise Damaged(f"the lines of its {name} differ in length")
        if not ends.share or not all(0 < share <= 1 for share in ends.share):
            raise Damaged(f"the shares of its {name} are not all between 0 and 1")


def _read(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(read_regular(path).decode("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        check_answered(path, error)
        raise PlanError(
            f"{path.name} cannot be read as a forecast: {error}",
            where=str(path),
            fix="give the forecast.json of a plan, restore the file, or plan again",
        ) from None
    if not isinstance(record, dict):
        raise PlanError(
            f"{path.name} holds no forecast",
            where=str(path),
            fix="give the forecast.json of a plan, restore the file, or plan again",
        )
    return record


def _digest_or_none(record: Mapping[str, Any]) -> str | None:
    """Digest of a record that was read; None if it contains NaN, which no valid record does."""
    try:
        return _digest(record)
    except (ValueError, RecursionError):
        return None


def _digest(record: Mapping[str, Any]) -> str:
    text = json.dumps(record, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _plain(value: Any) -> Any:
    """One cell as a JSON type; NaN, which means unknown, becomes None."""
    value = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(value, float) and np.isnan(value) else value
