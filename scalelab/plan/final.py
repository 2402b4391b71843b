"""The concrete model of a plan, and the plan as a file.

    model   the family's member nearest to the size wanted
    D       C / f(model), in whole steps of the recipe's batch
    Plan    what was decided and foretold, as plan.json; a launch reads nothing else but the
            forecast beside it, and refuses a plan that contradicts it

plan.json is sealed (sealed.py); plans from before the seals are read.

C training FLOPs of the budget; D training tokens; f FLOPs per training token of the model as
built, in the study's own count (exact, or 6 N). So what rounding a size changes is made good
in tokens: the budget is met to half a step. Planned and actual are kept side by side.

Without a recipe there is no run, and what a model of that size takes in memory is read off an
assumed shape (model/transformer/assumed.py).

Not here: what to train (allocate.py, constrained.py), what it costs (cost.py), the forecast
(frozen.py).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, make_dataclass
from pathlib import Path
from typing import Any, Literal

from scalelab.config import Document
from scalelab.errors import ConfigError, LaunchError, PlanError
from scalelab.files import is_component
from scalelab.laws.interval import Interval
from scalelab.model.base import Architecture, ModelSize
from scalelab.model.transformer.assumed import llama_like
from scalelab.plan.frozen import FrozenForecast
from scalelab.sealed import Damaged, Format, typed
from scalelab.train.layout import Layout
from scalelab.train.recipe import Recipe
from scalelab.train.spec import ParamCount, RunSpec
from scalelab.units import PARAM_COUNTS, sci, si

PLAN_FILE, FORECAST_FILE = "plan.json", "forecast.json"
CLOSE = 1e-12  # share by which sums of the same numbers may differ between machines


@dataclass(frozen=True)
class Shape:
    """What decides the memory of a run: a model, its context, its batch and its optimizer."""

    model: Architecture
    seq_len: int
    batch_tokens: int
    is_assumed: bool
    """Whether no recipe says so."""
    optimizer_bytes: int | None = None
    """Per parameter, of what the optimizer keeps; None: not known."""


@dataclass(frozen=True)
class FinalModel:
    """One run of a recipe that meets a budget, planned and actual."""

    spec: RunSpec
    param_count: str
    """Which count N is; a key of units.PARAM_COUNTS."""
    flop_count: str
    """Which count C is; a key of FLOP_COUNTS."""
    planned: Mapping[str, float]
    """What was asked for: n_params, n_tokens, flops."""

    @property
    def size(self) -> ModelSize:
        """Every count of the model as built."""
        return self.spec.model.size(self.spec.seq_len)

    @property
    def shape(self) -> Shape:
        """What decides its memory."""
        spec = self.spec
        kept = spec.optimizer.state_bytes(1)
        return Shape(
            spec.model, spec.seq_len, spec.batch_tokens, is_assumed=False, optimizer_bytes=kept
        )

    @property
    def n_params(self) -> int:
        """N in the plan's own count."""
        return self.size.count(self.param_count)

    @property
    def n_tokens(self) -> int:
        """D in whole steps."""
        return self.spec.n_tokens

    @property
    def flops(self) -> float:
        """C in the plan's own count."""
        return flops_per_token(self.size, self.param_count, self.flop_count) * self.n_tokens

    def to_json(self) -> dict[str, Any]:
        """The record as JSON types."""
        size, spec = self.size, self.spec
        return {
            "planned": dict(self.planned),
            "actual": {"n_params": self.n_params, "n_tokens": self.n_tokens, "flops": self.flops},
            "param_count": self.param_count,
            "flop_count": self.flop_count,
            **{f"n_params_{count}": size.count(count) for count in PARAM_COUNTS},
            "flops_per_token": size.flops_per_token,
            "flops": size.flops_per_token * spec.n_tokens,
            "flops_6nd": 6.0 * size.n_params_total * spec.n_tokens,
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
    """The run of a recipe nearest to a size, on a budget of FLOPs or on given tokens.

    Args:
        recipe: How models are made.
        n_params: Wanted, in the recipe's own count.
        vocab_size: Tokens of the vocabulary.
        data_digest: Of the corpus.
        seed: Of the weights and the order of the data.
        flops: The budget, which decides the tokens; or
        n_tokens: the tokens.
        flop_count: Which count the budget is in.

    Raises:
        PlanError: Not exactly one of flops and n_tokens, or a figure is not positive.
        ConfigError: The family has no such size, or the run would be too short.
    """
    if (flops is None) == (n_tokens is None):
        raise PlanError(
            "both or neither of flops and n_tokens are given",
            where="the final run of the plan",
            fix="name the budget or the tokens",
        )
    for name, value in (("n_params", n_params), ("flops", flops), ("n_tokens", n_tokens)):
        if value is not None and not 0 < value < float("inf"):
            raise PlanError(
                f"{name} is {value}",
                where="the final run of the plan",
                fix=f"name a positive, finite {name}",
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
    return FinalModel(spec, recipe.param_count, flop_count, planned)


def flops_per_token(size: ModelSize, param_count: str, flop_count: str) -> float:
    """FLOPs of training on one token: every matrix product, or 6 N in the count of N."""
    return size.flops_per_token if flop_count == "exact" else 6.0 * size.count(param_count)


def phases(spec: RunSpec) -> dict[str, int | None]:
    """Steps of warmup and of cooldown; None for a phase that the schedule does not have."""
    steps = {"warmup": None, "cooldown": None} | spec.schedule.phases(spec.n_steps)
    return {f"{name}_steps": n for name, n in steps.items()}


def described(final: FinalModel) -> list[str]:
    """The concrete model for eyes, one thought a line."""
    spec, size, asked = final.spec, final.size, final.planned
    steps = phases(spec)
    counts = ", ".join(f"{size.count(c):,} {c}" for c in PARAM_COUNTS if c != "active")
    parts = [f"{n:,} {name}" for name, n in _phase_words(steps).items()]
    return [
        f"{'':2}{'':3} {'planned':>10} {'actual':>10} {'miss':>7}",
        *(
            f"{'':2}{symbol:3} {write(asked[key]):>10} {write(actual):>10} "
            f"{actual / asked[key] - 1:>+7.1%}  {unit}"
            for symbol, key, actual, write, unit in (
                ("N", "n_params", final.n_params, si, f"parameters ({final.param_count})"),
                ("D", "n_tokens", final.n_tokens, si, "tokens"),
                ("C", "flops", final.flops, sci, f"FLOPs ({final.flop_count})"),
            )
        ),
        f"  shape {spec.model.words()}, context {spec.seq_len}",
        f"  N exactly: {counts}",
        f"  {spec.n_steps:,} steps of {spec.batch_tokens:,} tokens"
        + (f"; of these {', '.join(parts)}" if parts else ""),
        f"  rates: {spec.optimizer.words()}; seed {spec.seed}",
    ]


def _phase_words(steps: Mapping[str, int | None]) -> dict[str, int]:
    return {k.removesuffix("_steps"): n for k, n in steps.items() if n is not None}


def assumed_shape(n_params: float, param_count: str) -> Shape | None:
    """A shape in Llama's layout near a size, for memory alone; None where none is near.

    Args:
        n_params: Of the model that it stands for.
        param_count: Which count that is.
    """
    found = llama_like(n_params, param_count)
    return None if found is None else Shape(*found, is_assumed=True)


@dataclass(frozen=True)
class Plan:
    """What to train, what it takes, how sure that is. JSON types, but for layout and run."""

    name: str
    target: Mapping[str, Any]
    """flops, how the budget was said (words), and gpus, days, mfu where it was said in them."""
    n_params: float
    """As planned, before a model was built; in param_count."""
    n_tokens: float
    param_count: ParamCount
    flop_count: Literal["exact", "6ND"]
    cost: Mapping[str, Any]
    """pf_days, gpu_hours, days, dollars, kwh, co2_kg, and parts; None is unknown."""
    layout: Layout
    loss: float | None = None
    """Foretold, nats per token; None without a fit."""
    intervals: Mapping[str, Interval] = field(default_factory=dict)
    """Quoted: at each end the farther of noise and choice of law."""
    statistical: Mapping[str, Interval] = field(default_factory=dict)
    """From noise alone."""
    level: float | None = None
    regret: Mapping[str, float] = field(default_factory=dict)
    """Share of the compute wasted by a size of so many times the best."""
    near_optimal: Mapping[str, Any] | None = None
    reach: float | None = None
    """Compute as a multiple of the largest in evidence."""
    memory: Mapping[str, Any] | None = None
    """Bytes on one device, by part; None: the shape is not known."""
    verdict: str | None = None
    spec: RunSpec | None = None
    """The run to be launched; None for a plan made without a recipe."""
    model: Mapping[str, Any] | None = None
    recipe_yaml: str | None = None
    """The sweep file that the recipe stands in, whole."""
    sweep: str | None = None
    """The source of the evidence: a sweep's name or a table's."""
    data_digest: str | None = None
    accelerator: str | None = None
    forecast: Mapping[str, str] | None = None
    """digest and file of the frozen forecast."""
    laws: tuple[Mapping[str, Any], ...] = ()
    choices: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """The constrained variants that were asked for."""
    layouts: tuple[Mapping[str, Any], ...] = ()
    """Ways to spread the run that were looked at, the cheapest that fits first."""
    old_pipeline: Mapping[str, Any] | None = None
    notes: tuple[str, ...] = ()
    """What a reader must know."""
    status: Mapping[str, str] = field(default_factory=dict)
    """By key: measured, fitted, extrapolated, assumed or literature."""

    @property
    def tokens_per_param(self) -> float:
        """D / N, a result."""
        return self.n_tokens / self.n_params

    @property
    def forecast_digest(self) -> str | None:
        """Of the frozen forecast; None without one."""
        return None if self.forecast is None else self.forecast["digest"]

    def write(self, out: Path) -> Path:
        """Write plan.json whole into a directory; its path."""
        return self.write_file(out / PLAN_FILE)

    def write_file(self, path: Path) -> Path:
        """Write the plan whole into a file; its path."""
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
        """The plan in a directory, or in a plan.json.

        Raises:
            PlanError: There is none, it cannot be read, or it is of another schema.
        """
        file = path / PLAN_FILE if path.is_dir() else path
        try:
            return cls._of(PLAN.read(file), file)
        except FileNotFoundError:
            raise PlanError(
                "there is no plan here",
                where=str(file),
                fix="name the directory that `scalelab plan` wrote, or plan first: "
                "scalelab plan NAME",
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
                spec = RunSpec.parse(Document(str(file), record.run))
            except ConfigError as error:
                raise Damaged(f"its run: {error.problem}") from None
        same = {name: getattr(record, name) for name in _SAME}
        layout = typed(Layout, record.layout)
        return cls(**same, layout=layout, recipe_yaml=record.recipe, spec=spec)

    def refuse_contradiction(self, frozen: FrozenForecast, where: Path) -> None:
        """Refuse a run that is not the one that was planned and forecast.

        Args:
            frozen: The forecast that lies beside the plan.
            where: The plan's directory.

        Raises:
            PlanError: The forecast is another one, or of another run.
        """
        digest = self.forecast_digest or "none"
        if digest != frozen.digest:
            raise PlanError(
                f"the plan was made with forecast {digest[:12]}, beside it lies "
                f"{frozen.digest[:12]}",
                where=str(where / FORECAST_FILE),
                fix="restore the plan's own forecast, or plan again",
            )
        if (problem := self._contradiction(frozen)) is not None:
            raise PlanError(
                f"the run of the plan is not the one that was forecast: {problem}",
                where=str(where / PLAN_FILE),
                fix=f"restore {PLAN_FILE} from a copy, or plan again: scalelab plan",
            )

    def _contradiction(self, frozen: FrozenForecast) -> str | None:
        """What of the run differs from the forecast, or from the plan's other parts; or None."""
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
"""Fields of a plan that are JSON types already."""
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
"""The content of plan.json: a plan's fields, layout and run as JSON types. None has a default."""
PLAN = Format(
    "plan",
    PlanRecord,
    schema=2,
    unsealed=1,
    error=PlanError,
    fix="restore the file from a copy, or plan again: scalelab plan",
)


def _holds(built: Any, recorded: Any) -> bool:
    """Whether what was recorded is what is built; fields that are newer were not recorded."""
    if isinstance(built, Mapping) and isinstance(recorded, Mapping):
        return all(key in built and _holds(built[key], value) for key, value in recorded.items())
    if isinstance(built, float):
        number = isinstance(recorded, float | int) and not isinstance(recorded, bool)
        return number and math.isclose(built, recorded, rel_tol=CLOSE)
    return built == recorded
