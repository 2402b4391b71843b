"""The tuning file: which numbers of a sweep's recipe to search, at which sizes and token counts.

    cell     one size and one token count
    trial    one run of a cell with values of the fields; everything else is by the recipe

A field is a number of the recipe for which a rule can stand: optimizer.NAME, schedule.NAME, or `batch`, the tokens
of a step. What cannot be a rule cannot be tuned here, because the result is one.

Not here: which values are tried (trials.py), the best ones and their rule (laws/tuned_settings.py).
"""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from scalelab.config import (
    LARGEST_SEED,
    Config,
    Count,
    Name,
    Number,
    Positive,
    Seed,
    Switch,
    arithmetic_reason,
    refuse_arithmetic,
    short_hash,
)
from scalelab.config_errors import ValueAtKey
from scalelab.errors import ConfigError
from scalelab.jobs.settings import LaunchConfig
from scalelab.model.base import Architecture
from scalelab.registry import did_you_mean
from scalelab.sweep.base import Proposal
from scalelab.sweep.file import MOST_RUNS, SweepFile
from scalelab.train.recipe import Recipe
from scalelab.train.rules import decided, number_fields
from scalelab.train.rules.family_checks import rules_of
from scalelab.units import si

BATCH = "batch"
"""Field of the tokens of a step, whose rule stands in the recipe by itself."""
PARTS = ("optimizer", "schedule")


class FieldRange(Config):
    """Values of one field between which the best is searched."""

    low: Number
    """Smallest value tried."""
    high: Number
    """Largest value tried."""
    log: Switch = True
    """Whether values are spread evenly in their logarithm, and the rule is a power of N and D. Otherwise they are
    spread evenly, and the rule is a constant."""

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"low {self.low:g} is not below high {self.high:g}")
        if self.log and self.low <= 0:
            raise ValueError(
                f"low {self.low:g} has no logarithm: give a positive number, or set log to false"
            )
        return self


@dataclass(frozen=True)
class TuningCell:
    """One size and token count of a tuning."""

    model: Architecture
    n_params: int
    """Parameters of the model, in the count of the recipe."""
    n_params_planned: float
    """Target size."""
    n_tokens: float
    """Training tokens asked for."""

    def words(self) -> str:
        """N and D, for a message."""
        return f"{si(self.n_params)} parameters on {si(self.n_tokens)} tokens"


def _loaded(value: object) -> object:
    if not isinstance(value, str):
        return value
    if not Path(value).is_file():
        raise ValueAtKey(
            f"there is no file {value} in {Path.cwd()}",
            key=(),
            fix="give the path of a sweep file relative to the working directory",
        )
    return SweepFile.load(Path(value))


class TuneFile(Config):
    """A tuning file. Its `name` names its directory, its MLflow experiment and its report."""

    file_kind: ClassVar[str | None] = "tune"

    name: Name
    question: str
    """Question that the tuning answers, written before it runs."""
    prediction: str
    """Answer that its author expects, written before it runs."""
    extends: Annotated[SweepFile, BeforeValidator(_loaded)]
    """Path of the sweep file whose recipe is tuned, relative to the working directory; or the sweep itself."""
    fields: dict[str, FieldRange] = Field(min_length=1, max_length=3)
    """Numbers to tune, by their place in the recipe: `optimizer.lr: {low: 1e-3, high: 3e-2}`."""
    sizes: tuple[Positive, ...]
    """Target sizes, parameters in the count of the recipe; the nearest members of the family are built."""
    tokens: tuple[Positive, ...]
    """Training tokens, each at every size."""
    trials: Count = 12
    """Runs of each cell."""
    spread: Annotated[float, Field(strict=True, gt=1)] = 4.0
    """The first two thirds of a cell's trials lie within this factor of the recipe's own value, and within the
    range; those of a field with `log: false` anywhere in the range. TPE chooses the others in the range."""
    at_once: Count = 2
    """Trials of a cell that TPE lets run at the same time. More use more devices, and know less of one another."""
    seed: Seed = 0
    """First seed."""
    seeds: Count = 1
    """Seeds that the trials of a cell take in turn, from the first."""
    reruns: Count = 2
    """Further seeds of the best observed values of a cell whose best values lie at an end of those tried."""
    launch: LaunchConfig = LaunchConfig()

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        for name, why in (("sizes", "N"), ("tokens", "D")):
            values = list(getattr(self, name))
            if values != sorted(set(values)):
                raise ValueAtKey(f"{name} must rise without repeats, not {values}", (name,), "sort them")
            if len(values) < 2:
                raise ValueAtKey(
                    f"{name} has {len(values)} value: how the best values change with {why} needs two or more",
                    (name,),
                    f"name two or more {name}",
                )
        if self.seed + self.seeds + self.reruns - 1 > LARGEST_SEED:
            raise ValueError(
                f"{self.seeds + self.reruns} seeds from {self.seed} on pass {LARGEST_SEED}: lower seed"
            )
        if (n := len(self.sizes) * len(self.tokens) * self.trials) > MOST_RUNS:
            raise ValueError(f"the tuning asks for {n:,} runs, more than {MOST_RUNS:,}: ask for fewer")
        for field, values in self.fields.items():
            self._check_field(field, values)
        return self

    def _check_field(self, field: str, values: FieldRange) -> None:
        """Refuse a field that there is not, that has no rule, or an end of its range that cannot be."""
        there = tunable_fields(self.recipe)
        if field not in there:
            part = field.partition(".")[0]
            known = part in Recipe.model_fields
            raise ValueAtKey(
                f"the recipe has no number {field!r} that a rule can give{did_you_mean(field, there)}"
                if not known or part in (*PARTS, BATCH)
                else f"{field!r} cannot be tuned: no rule can stand there, so the best value could not be written back",
                ("fields", field),
                f"tune one of: {', '.join(there)}",
            )
        for end in ("low", "high"):
            value = getattr(values, end)
            try:
                self.recipe_with({field: value})
            except (ValidationError, ConfigError) as error:
                reason = error.problem if isinstance(error, ConfigError) else arithmetic_reason(error)
                raise ValueAtKey(
                    f"{field} cannot be {value:g}: {reason}", ("fields", field, end), f"change {end}"
                ) from None

    @property
    def recipe(self) -> Recipe:
        """Recipe that is tuned."""
        return self.extends.recipe

    @property
    def target_flops(self) -> None:
        """Compute that a fit would be extrapolated to: none, because trials are not fitted."""
        return None

    @property
    def n_trials(self) -> int:
        """Runs of all cells, without reruns."""
        return len(self.sizes) * len(self.tokens) * self.trials

    @property
    def n_spread(self) -> int:
        """Trials of each cell that are spread round the recipe's own values."""
        return max(1, (2 * self.trials + 2) // 3)

    def recipe_with(self, values: Mapping[str, Any]) -> Recipe:
        """Return the recipe with numbers, or rules as mappings, in place of some of its fields.

        Args:
            values: By field.

        Raises:
            pydantic.ValidationError: A value that the recipe cannot have.
        """
        data = self.recipe.model_dump()
        for field, value in values.items():
            if field == BATCH:
                data[BATCH] = value if isinstance(value, dict) else {"kind": "constant", "value": value}
            else:
                part, name = field.split(".")
                data[part][name] = value
        if any(rule.published is not None for rule in rules_of(self.recipe).values()):
            # A rule of a paper loses the partner that it was fitted with.
            data["override"] = data["override"] or f"{', '.join(values)} tuned by {self.name}"
        return Recipe.model_validate(data)

    def own_values(self, cell: TuningCell) -> dict[str, float | None]:
        """Return the values of the fields by the recipe at a cell; None for one that is not set.

        Raises:
            ConfigError: A rule gives a number that cannot be.
        """
        scale = self.recipe.scale(cell.model, cell.n_tokens)
        found: dict[str, float | None] = {}
        for field in self.fields:
            part, _, name = field.partition(".")
            value = (
                scale.batch_tokens
                if field == BATCH
                else getattr(decided(getattr(self.recipe, part), scale), name)
            )
            found[field] = None if value is None else float(value)
        return found

    def cells(self, vocab_size: int) -> tuple[TuningCell, ...]:
        """Return the cells by size and tokens.

        Raises:
            ConfigError: A size cannot be built, or two come out as one model.
        """
        with refuse_arithmetic("the sizes", "sizes", "lower the sizes, or change the family"):
            models = [self.recipe.model_at(size, vocab_size) for size in self.sizes]
        for (one, model), (other, after) in itertools.pairwise(zip(self.sizes, models, strict=True)):
            if model == after:
                raise ConfigError(
                    f"sizes {si(one)} and {si(other)} come out as the same model",
                    where="sizes",
                    fix=f"space them further apart, or {self.recipe.model.closer} in the family",
                )
        return tuple(
            TuningCell(model, model.size(self.recipe.seq_len).count(self.recipe.param_count), size, n_tokens)
            for size, model in zip(self.sizes, models, strict=True)
            for n_tokens in self.tokens
        )

    def proposal(
        self, cell: TuningCell, values: Mapping[str, float], seed: int, data_digest: str
    ) -> Proposal:
        """Return the run of a cell with these values.

        Args:
            cell: Size and tokens.
            values: By field.
            seed: Seed of the run.
            data_digest: Digest of the corpus.

        Raises:
            ConfigError: There is no such run.
        """
        try:
            spec = self.recipe_with(values).spec(
                cell.model, cell.n_tokens, data_digest=data_digest, seed=seed
            )
        except (ValidationError, ConfigError) as error:
            reason = error.problem if isinstance(error, ConfigError) else arithmetic_reason(error)
            said = ", ".join(f"{field} {value:.4g}" for field, value in values.items())
            raise ConfigError(
                f"{said} is no run of {cell.words()}: {reason}",
                where="fields",
                fix=f"narrow the range of {' or '.join(values)}, or change sizes and tokens",
            ) from None
        return Proposal(spec, None, cell.n_params_planned, cell.n_tokens)

    def check(self, vocab_size: int, data_digest: str) -> tuple[TuningCell, ...]:
        """Return the cells after a look at every corner of the ranges: all of it can be trained.

        Args:
            vocab_size: Of the corpus.
            data_digest: Of the corpus.

        Raises:
            ConfigError: A corner is no run, such as a batch above the tokens; or the recipe's own value lies
                outside a range.
        """
        found = self.cells(vocab_size)
        for cell in found:
            for values in self._corners():
                self.proposal(cell, values, self.seed, data_digest)
            for field, value in self.own_values(cell).items():
                ends = self.fields[field]
                if value is not None and not ends.low <= value <= ends.high:
                    raise ConfigError(
                        f"the recipe's own {field} at {cell.words()} is {value:.4g}, outside {ends.low:g} to "
                        f"{ends.high:g}",
                        where=f"fields.{field}",
                        fix="widen the range, or change the recipe that is tuned",
                    )
        return found

    def _corners(self) -> Iterator[dict[str, float]]:
        for ends in itertools.product(*((r.low, r.high) for r in self.fields.values())):
            yield dict(zip(self.fields, ends, strict=True))

    def search_digest(self, cell: TuningCell, data_digest: str) -> str:
        """Return twelve hex digits of all that decides what a trial of a cell is. More trials keep it."""
        plain = self.model_dump(mode="json", include={"fields", "spread", "seed", "seeds"})
        spec = self.recipe.spec(cell.model, cell.n_tokens, data_digest=data_digest, seed=self.seed)
        return short_hash({"run": spec.id, **plain})


def tunable_fields(recipe: Recipe) -> list[str]:
    """Return the fields of a recipe that can be tuned: its batch, and fractional numbers that can be rules."""
    found = [BATCH]
    for part in PARTS:
        found += [
            f"{part}.{name}" for name, kind in number_fields(getattr(recipe, part)).items() if kind is float
        ]
    return found
