"""The run of a plan as a sweep file of one run, with the source of every setting.

    table     N and D of the laws fitted to the evidence
    stated    given by the request
    rule      of the recipe, at the planned N and D
    recipe    written in the recipe
    assumed   default of scalelab that the recipe leaves alone

The file needs no prepared corpus: `scalelab sweep run.yaml --dry-run` reads it where the text is, and
`scalelab sweep run.yaml` prepares the corpus and trains the run.

Not here: the model (plan.py), the choice of N and D (planner.py).
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from scalelab.config import Config, parse_yaml
from scalelab.errors import PlanError
from scalelab.plan.plan import FinalModel
from scalelab.plan.planner import OPTIMUM, UNIQUE, PlanResult
from scalelab.plan.source import PlanSource
from scalelab.sweep.file import SweepFile
from scalelab.sweep.single import SingleDesign
from scalelab.train.recipe import Recipe
from scalelab.train.rules import Rule
from scalelab.units import sci, si

RUN_FILE = "run.yaml"
LONGEST_NAME = 64


@dataclass(frozen=True)
class RunSetting:
    """One setting of a run and where it comes from."""

    name: str
    value: str
    kind: str
    """table, stated, rule, recipe or assumed."""
    source: str

    def __str__(self) -> str:
        return f"{self.name}: {self.value} [{self.kind}: {self.source}]"


def run_settings(source: PlanSource, final: FinalModel, given: str | None = None) -> tuple[RunSetting, ...]:
    """Return the settings of the run of a plan.

    Args:
        source: The evidence and the recipe.
        final: The run.
        given: What of N and D the request gives, such as "tokens"; None where both follow from the laws.
    """
    recipe, spec = source.recipe, final.spec
    kind, origin = (
        ("table", f"laws fitted to {source.where}") if given is None else ("stated", f"{given} given")
    )
    corpus = ("recipe", f"corpus {source.data_digest}")
    if source.data_digest is None:
        corpus = ("stated", "--tokens-available; the corpus is not prepared")
    rule = "rule" if "batch" in recipe.model_fields_set else "assumed"
    found = [
        RunSetting("parameters N", f"{si(final.n_params)} ({recipe.param_count})", kind, origin),
        RunSetting("tokens D", si(final.n_tokens), kind, origin),
        RunSetting("shape", spec.model.words(), "rule", f"family {recipe.model.kind!r} of recipe.model"),
        RunSetting("context", f"{spec.seq_len:,} tokens", "recipe", "recipe.seq_len"),
        RunSetting(
            "batch", f"{spec.batch_tokens:,} tokens", rule, f"{recipe.batch.kind!r} of recipe.batch at D"
        ),
        RunSetting("steps", f"{spec.n_steps:,}", "rule", "D over the batch"),
        *_optimizer(recipe.optimizer, final),
        *_rules(recipe, final),
        RunSetting("schedule", spec.schedule.kind, _kind_of(recipe, "schedule"), "recipe.schedule"),
    ]
    if source.unique_tokens is not None:
        found.append(RunSetting("tokens available", si(source.unique_tokens), *corpus))
    return tuple(found)


def _optimizer(stated: Config, final: FinalModel) -> Iterator[RunSetting]:
    """The rates of the run, then the settings of the optimizer that are rules or defaults."""
    rules = {name: getattr(stated, name) for name in type(stated).model_fields}
    rules = {name: rule for name, rule in rules.items() if isinstance(rule, Rule)}
    named = ", ".join(f"{name} by {rule.kind!r}" for name, rule in rules.items())
    origin = f"recipe.optimizer{f', {named},' if named else ''} at this size and batch"
    for name, rate in final.spec.optimizer.rates().items():
        label = "learning rate" if name == "lr" else name
        yield RunSetting(label, f"{rate:.3g}", "rule", origin)
    yield RunSetting(
        "optimizer", final.spec.optimizer.words(), "rule" if rules else "recipe", "recipe.optimizer"
    )
    left = [
        f"{name} {getattr(stated, name):g}"
        for name in type(stated).model_fields
        if name not in stated.model_fields_set
        and isinstance(getattr(stated, name), int | float)
        and not isinstance(getattr(stated, name), bool)
    ]
    if left:
        yield RunSetting("optimizer, not set", ", ".join(left), "assumed", "defaults of scalelab")


def _rules(recipe: Recipe, final: FinalModel) -> Iterator[RunSetting]:
    """What has to be known of published rules: sources, ranges left, mixtures."""
    scale = recipe.scale(final.spec.model, final.requested_tokens)
    for note in recipe.rule_notes([scale]):
        yield RunSetting("rule", note, "rule", "recipe")


def _kind_of(config: Config, name: str) -> str:
    return "recipe" if name in config.model_fields_set else "assumed"


def run_file(source: PlanSource, final: FinalModel, name: str, prediction: str) -> SweepFile:
    """Return the sweep file of the run of a plan.

    Args:
        source: The recipe, and the file that it is from.
        final: The run.
        name: Name of the plan.
        prediction: The forecast in words.

    Raises:
        PlanError: The file would describe another run.
    """
    file = SweepFile.parse(parse_yaml(source.recipe_yaml, f"the recipe of {source.where}"))
    spec = final.spec
    design = SingleDesign(
        n_params=float(final.n_params), n_tokens=float(final.requested_tokens), seed=spec.seed
    )
    recipe = file.recipe.model_copy(update={"data": spec.data})
    made = design.ask(recipe, vocab_size=source.vocab_size, data_digest=spec.data_digest)[0].spec
    if made != spec:
        raise PlanError(
            f"the family has two models of {si(final.n_params)} parameters, so a file of the run would be "
            "ambiguous",
            where=f"recipe.model of {source.where}",
            fix="prepare the corpus and plan again: the run is then stored as it is",
        )
    update = {
        "name": re.sub(r"[^A-Za-z0-9._-]+", "-", name)[:LONGEST_NAME].strip("-._") or "run",
        "question": f"Does the forecast of the plan {name} come true?",
        "prediction": prediction,
        "recipe": recipe,
        "design": design,
        "target_flops": None,
    }
    return file.model_copy(update=update)


def settings_of(planned: PlanResult) -> tuple[RunSetting, ...]:
    """Return the settings of the run of a plan; empty without a recipe."""
    if planned.final is None:
        return ()
    # With a limit on unique tokens N and D are still those of the laws, of which one counts repeats.
    given = None if planned.chosen in (OPTIMUM, UNIQUE) else planned.chosen
    return run_settings(planned.source, planned.final, given)


def run_yaml_of(planned: PlanResult) -> str | None:
    """Return the text of a sweep file of the run of a plan, with its settings and their sources as comments.

    None where the plan has no model, or has a run that can be launched as it is.

    Raises:
        PlanError: The file would describe another run.
    """
    final = planned.final
    if final is None or planned.source.data_digest is not None:
        return None
    plan = planned.plan
    file = run_file(planned.source, final, plan.name, f"Loss {plan.loss:.4f} nats per token.")
    head = [f"The run of the plan {plan.name}: {sci(final.flops)} FLOPs.", *map(str, settings_of(planned))]
    printable = ("".join(c if c.isprintable() else "?" for c in line) for line in head)
    return "".join(f"# {line}\n" for line in printable) + file.to_yaml()
