"""The concrete model of a plan, and the plan as a file.

    model   the member of the family nearest to the requested size
    D       C / f(model), in whole steps of the recipe's batch
    Plan    the decisions and the forecast, as plan.json; a launch reads only this file and the
            forecast beside it, and refuses a plan that contradicts its forecast

plan.json is sealed (sealed.py); plans of schema 1, which has no seals, can be read.

C training FLOPs of the budget; D training tokens; f FLOPs per training token of the model as
built, in the count of the study (exact, or 6 N). Rounding the size is thus compensated in tokens:
the budget is met to half a step. Planned and actual values are both recorded.

Without a recipe there is no run, and memory is computed for an assumed shape
(model/transformer/assumed_shape.py).

Not here: what to train (choose/), what it costs (cost/), the forecast (forecast/frozen.py).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, make_dataclass
from pathlib import Path
from typing import Any, Literal

from scalelab.config import YamlDocument
from scalelab.errors import ConfigError, LaunchError, PlanError
from scalelab.files import is_component, is_dir
from scalelab.hardware.layout import Layout
from scalelab.laws.description import Interval
from scalelab.model.base import Architecture, ModelSize
from scalelab.model.transformer.assumed_shape import llama_like
from scalelab.plan.forecast.frozen import FrozenForecast
from scalelab.sealed import Damaged, Format, typed
from scalelab.train.recipe import Recipe
from scalelab.train.spec import CrossEntropy, CudaGraphs, Matmul, ParamCount, RunSpec
from scalelab.units import PARAM_COUNTS

PLAN_FILE, FORECAST_FILE = "plan.json", "forecast.json"
CLOSE = 1e-12  # share by which sums of the same numbers may differ between machines


@dataclass(frozen=True)
class RunShape:
    """Model, context, batch and optimizer of a run, which determine its memory."""

    model: Architecture
    seq_len: int
    batch_tokens: int
    is_assumed: bool
    """Whether the shape is assumed because there is no recipe."""
    optimizer_bytes: int | None = None
    """Bytes of optimizer state per parameter; None where unknown."""
    n_params: float = 0.0
    """Every parameter: of the model, or the number that an assumed shape stands for."""
    cross_entropy: CrossEntropy = "auto"
    """See RunSpec."""
    cuda_graphs: CudaGraphs = "auto"
    """See RunSpec."""
    matmul: Matmul = "plain"
    """See RunSpec."""

    def __post_init__(self) -> None:
        if not self.n_params:
            object.__setattr__(self, "n_params", float(self.model.size(self.seq_len).n_params_total))


@dataclass(frozen=True)
class FinalModel:
    """A run of a recipe that meets a budget, with planned and actual sizes."""

    spec: RunSpec
    param_count: str
    """Which count N is; a key of units.PARAM_COUNTS."""
    flop_count: str
    """Which count C is; a key of FLOP_COUNTS."""
    planned: Mapping[str, float]
    """Planned n_params, n_tokens and flops, before sizes were rounded."""
    requested_tokens: float = 0.0
    """Tokens that the recipe was asked for; the run has the nearest whole steps."""

    @property
    def size(self) -> ModelSize:
        """Parameter counts and FLOPs per token of the model as built."""
        return self.spec.model.size(self.spec.seq_len)

    @property
    def shape(self) -> RunShape:
        """Shape that determines the memory of the run."""
        spec = self.spec
        return RunShape(
            spec.model,
            spec.seq_len,
            spec.batch_tokens,
            is_assumed=False,
            optimizer_bytes=spec.optimizer.state_bytes(1),
            cross_entropy=spec.cross_entropy,
            cuda_graphs=spec.cuda_graphs,
            matmul=spec.matmul,
        )

    @property
    def n_params(self) -> int:
        """Parameters N in the count of the plan."""
        return self.size.count(self.param_count)

    @property
    def n_tokens(self) -> int:
        """Training tokens D in whole steps."""
        return self.spec.n_tokens

    @property
    def flops(self) -> float:
        """Training FLOPs C in the count of the plan."""
        return flops_per_token(self.size, self.param_count, self.flop_count) * self.n_tokens

    def to_json(self) -> dict[str, Any]:
        """Return the record as JSON types."""
        size, spec = self.size, self.spec
        return {
            "planned": dict(self.planned),
            "actual": {"n_params": self.n_params, "n_tokens": self.n_tokens, "flops": self.flops},
            "param_count": self.param_count,
            "flop_count": self.flop_count,
            **{f"n_params_{count}": size.count(count) for count in PARAM_COUNTS},
            "flops_per_token": size.flops_per_token,
            "flops": size.flops_per_token * spec.n_tokens,
            "flops_6nd": 6.0 * size.n_params_active * spec.n_tokens,
            "n_steps": spec.n_steps,
            "batch_tokens": spec.batch_tokens,
            "seq_len": spec.seq_len,
            **phases(spec),
            "optimizer": spec.optimizer.model_dump(mode="json"),
            "shape": spec.model.model_dump(mode="json"),
        }


def final_model(
    recipe: Recipe,
    *,
    n_params: float,
    vocab_size: int,
    data_digest: str,
    seed: int,
    flops: float | None = None,
    n_tokens: float | None = None,
    flop_count: str = "exact",
) -> FinalModel:
    """Return the run of a recipe nearest to a size, on a budget of FLOPs or on given tokens.

    Args:
        recipe: Recipe of the model family and its training.
        n_params: Requested parameters, in the count of the recipe.
        vocab_size: Size of the vocabulary.
        data_digest: Digest of the corpus.
        seed: Seed of the weights and the order of the data.
        flops: Training FLOPs, from which the tokens follow; None if n_tokens is given.
        n_tokens: Training tokens; None if flops is given.
        flop_count: Count of the FLOPs, a key of FLOP_COUNTS.

    Raises:
        PlanError: Both or neither of flops and n_tokens are given, or a value is not positive.
        ConfigError: The family has no such size, or the run would be too short.
    """
    if (flops is None) == (n_tokens is None):
        raise PlanError(
            "both or neither of flops and n_tokens are given",
            where="the final run of the plan",
            fix="give flops or n_tokens, not both",
        )
    for name, value in (("n_params", n_params), ("flops", flops), ("n_tokens", n_tokens)):
        if value is not None and not 0 < value < float("inf"):
            raise PlanError(
                f"{name} is {value}", where="the final run of the plan", fix=f"give a positive, finite {name}"
            )
    model = recipe.model_at(n_params, vocab_size)
    per_token = flops_per_token(model.size(recipe.seq_len), recipe.param_count, flop_count)
    wanted = flops / per_token if n_tokens is None else n_tokens
    spec = recipe.spec(model, wanted, data_digest=data_digest, seed=seed)
    planned = {
        "n_params": float(n_params),
        "n_tokens": float(wanted),
        "flops": float(wanted * per_token if flops is None else flops),
    }
    return FinalModel(spec, recipe.param_count, flop_count, planned, float(wanted))


def flops_per_token(size: ModelSize, param_count: str, flop_count: str) -> float:
    """Return the training FLOPs per token: every matrix product, or 6 N in a count of N."""
    return size.flops_per_token if flop_count == "exact" else 6.0 * size.count(param_count)


def phases(spec: RunSpec) -> dict[str, int | None]:
    """Return the steps of warmup and cooldown; None for a phase that the schedule does not have."""
    steps = {"warmup": None, "cooldown": None} | spec.schedule.phases(spec.n_steps)
    return {f"{name}_steps": n for name, n in steps.items()}


def assumed_shape(n_params: float, param_count: str) -> RunShape | None:
    """Return a shape like Llama's near a size, to compute memory; None if there is none.

    Args:
        n_params: Parameters of the model.
        param_count: Count of these parameters, a key of PARAM_COUNTS.
    """
    found = llama_like(n_params, param_count)
    if found is None:
        return None
    return RunShape(*found, is_assumed=True, n_params=n_params if param_count == "total" else 0.0)


@dataclass(frozen=True)
class Plan:
    """A plan: the model to train, its cost, its forecast. JSON types, except for layout and run."""

    name: str
    target: Mapping[str, Any]
    """flops, the budget in words, and gpus, days, mfu or other fields that it was given in."""
    n_params: float
    """Planned parameters in the count `param_count`, before sizes were rounded."""
    n_tokens: float
    param_count: ParamCount
    flop_count: Literal["exact", "6ND"]
    cost: Mapping[str, Any]
    """pf_days, gpu_hours, days, dollars, kwh, co2_kg, and the project in parts; None where unknown."""
    layout: Layout
    loss: float | None = None
    """Forecast loss, nats per token; None without evidence."""
    intervals: Mapping[str, Interval] = field(default_factory=dict)
    """Quoted intervals: at each end the farthest of noise and of the calibrated interval or the choice of law."""
    statistical: Mapping[str, Interval] = field(default_factory=dict)
    """Intervals from noise alone."""
    level: float | None = None
    regret: Mapping[str, float] = field(default_factory=dict)
    """Share of the compute that a size wastes, by its multiple of the best size."""
    near_optimal: Mapping[str, Any] | None = None
    reach: float | None = None
    """Training compute as a multiple of the largest in evidence."""
    memory: Mapping[str, Any] | None = None
    """Bytes on the fullest device by part; None where the shape is unknown."""
    verdict: str | None = None
    spec: RunSpec | None = None
    """Run to be launched; None without a recipe."""
    model: Mapping[str, Any] | None = None
    recipe_yaml: str | None = None
    """Full text of the sweep file that contains the recipe."""
    sweep: str | None = None
    """Source of the evidence: name of the sweep or of the table."""
    data_digest: str | None = None
    accelerator: str | None = None
    forecast: Mapping[str, str] | None = None
    """Digest and file name of the frozen forecast."""
    laws: tuple[Mapping[str, Any], ...] = ()
    choices: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Constrained variants of the request, by name."""
    layouts: tuple[Mapping[str, Any], ...] = ()
    """Layouts that were evaluated, the cheapest that fits first."""
    old_pipeline: Mapping[str, Any] | None = None
    notes: tuple[str, ...] = ()
    """Remarks for the reader."""
    status: Mapping[str, str] = field(default_factory=dict)
    """Kind of each part: measured, fitted, extrapolated, assumed or literature."""

    @property
    def tokens_per_param(self) -> float:
        """Training tokens per parameter, a result of the plan."""
        return self.n_tokens / self.n_params

    @property
    def forecast_digest(self) -> str | None:
        """Digest of the frozen forecast; None without one."""
        return None if self.forecast is None else self.forecast["digest"]

    def write(self, out: Path) -> Path:
        """Write plan.json into a directory and return its path."""
        return self.write_file(out / PLAN_FILE)

    def write_file(self, path: Path) -> Path:
        """Write the plan to a file and return its path."""
        same = {name: getattr(self, name) for name in _SAME}
        record = PlanRecord(
            **same,
            tokens_per_param=self.tokens_per_param,
            layout=self.layout.to_json(),
            recipe=self.recipe_yaml,
            run=None if self.spec is None else self.spec.model_dump(mode="json"),
        )
        PLAN.write(path, record)
        return path

    @classmethod
    def load(cls, path: Path) -> "Plan":
        """Return the plan of a directory or of a plan.json.

        Raises:
            PlanError: The file is missing, cannot be read, or has another schema.
        """
        file = path / PLAN_FILE if is_dir(path) else path
        try:
            return cls._of(PLAN.read(file), file)
        except FileNotFoundError:
            raise PlanError(
                "there is no plan here",
                where=str(file),
                fix="give the directory that `scalelab plan` wrote, or make a plan: scalelab plan NAME",
            ) from None
        except LaunchError as error:
            raise PLAN.refusal(file, error.problem) from None
        except Damaged as damage:
            raise PLAN.refusal(file, damage) from None

    @classmethod
    def _of(cls, record: "PlanRecord", file: Path) -> "Plan":
        if not is_component(record.name):
            raise Damaged(f"its name {record.name!r} is not a plain name")
        for name in ("days", "dollars", "dollars_per_device_hour"):
            value = record.cost.get(name)
            if not isinstance(value, float | int | None) or isinstance(value, bool):
                raise Damaged(f"cost.{name} is {value!r}, not a number")
        if record.forecast is not None and "digest" not in record.forecast:
            raise Damaged("its forecast has no digest")
        spec = None
        if record.run is not None:
            needed = ("recipe", "model", "forecast", "data_digest")
            if missing := [name for name in needed if getattr(record, name) is None]:
                raise Damaged(f"it has a run and no {', '.join(missing)}")
            try:
                spec = RunSpec.parse(YamlDocument(str(file), record.run))
            except ConfigError as error:
                raise Damaged(f"its run: {error.problem}") from None
        same = {name: getattr(record, name) for name in _SAME}
        layout = typed(Layout, record.layout)
        return cls(**same, layout=layout, recipe_yaml=record.recipe, spec=spec)

    def refuse_contradiction(self, frozen: FrozenForecast, where: Path) -> None:
        """Refuse a plan whose run is not the one in its forecast.

        Args:
            frozen: The forecast in the directory of the plan.
            where: The directory of the plan.

        Raises:
            PlanError: The forecast has another digest, or describes another run.
        """
        digest = self.forecast_digest or "none"
        if digest != frozen.digest:
            raise PlanError(
                f"the plan was made with forecast {digest[:12]}, and its directory has {frozen.digest[:12]}",
                where=str(where / FORECAST_FILE),
                fix="restore the forecast of the plan, or plan again",
            )
        if (problem := self._contradiction(frozen)) is not None:
            raise PlanError(
                f"the run of the plan is not the run of its forecast: {problem}",
                where=str(where / PLAN_FILE),
                fix=f"restore {PLAN_FILE} from a copy, or plan again: scalelab plan",
            )

    def _contradiction(self, frozen: FrozenForecast) -> str | None:
        """The first difference of the run from the forecast or from other parts of the plan; None without."""
        spec = self.spec
        assert spec is not None
        if self.name != frozen.name:
            return f"the plan's name is {self.name!r}, the forecast's {frozen.name!r}"
        if frozen.run is not None and frozen.run not in spec.ids:
            return f"its id is {spec.id}, the forecast's {frozen.run}"
        if spec.data_digest != frozen.data_digest:
            return f"its corpus is {spec.data_digest}, the forecast's {frozen.data_digest}"
        final = FinalModel(spec, frozen.param_count, frozen.flop_count, frozen.planned)
        for name in ("n_params", "n_tokens", "flops"):
            planned, forecast = getattr(final, name), frozen.actual[name]
            if not math.isclose(planned, forecast, rel_tol=CLOSE):
                return f"its {name} is {planned:.12g}, the forecast's {forecast:.12g}"
        built = {key: value for key, value in final.to_json().items() if key != "planned"}
        for key in ("n_steps", "batch_tokens", "seq_len", "shape", "optimizer"):
            if key not in self.model:
                return f"the plan's model has no {key}"
        for key, value in built.items():
            if key in self.model and not _holds(value, self.model[key]):
                return f"its {key} is {value}, the plan's model has {self.model[key]}"
        return None


_SAME = tuple(f.name for f in fields(Plan) if f.name not in {"layout", "spec", "recipe_yaml"})
"""Fields of a plan that are JSON types."""
PlanRecord = make_dataclass(
    "PlanRecord",
    [
        *((f.name, f.type) for f in fields(Plan) if f.name in _SAME),
        ("tokens_per_param", float),
        ("layout", dict[str, Any]),
        ("recipe", str | None),
        ("run", dict[str, Any] | None),
    ],
    frozen=True,
)
"""Content of plan.json: the fields of a plan, with layout and run as JSON types, without defaults."""
PLAN = Format(
    "plan",
    PlanRecord,
    schema=2,
    unsealed=1,
    error=PlanError,
    fix="restore the file from a copy, or plan again: scalelab plan",
)


def _holds(built: Any, recorded: Any) -> bool:
    """Whether the recorded values equal those built; newer fields may be absent from the record."""
    if isinstance(built, Mapping) and isinstance(recorded, Mapping):
        return all(key in built and _holds(built[key], value) for key, value in recorded.items())
    if isinstance(built, float):
        number = isinstance(recorded, float | int) and not isinstance(recorded, bool)
        return number and math.isclose(built, recorded, rel_tol=CLOSE)
    return built == recorded
