"""What `scalelab eval` is asked for: which models, and what is measured of each.

    name: compared
    models: {base: isoflop-6.4e12, sft: assistant/sft, ppo: assistant/ppo}
    perplexity: [{name: python, corpus: validation}]
    tasks: [{kind: choice, name: facts, rows: facts.jsonl, modes: [full, letter]}]
    pairwise: {baseline: sft, data: skills, judge: gold}
    contamination: [{name: facts, rows: facts.jsonl, field: question}]
    prediction: [{sweep: isoflop, task: facts, flops: 6.4e12}]

Every section may be left out. Not here: the measurements themselves, each in its own file.
"""

from typing import Literal, Self

from pydantic import Field, model_validator

from scalelab.config import Config, Count, Flops, Fraction, Name, Positive, Switch, Whole, plugin
from scalelab.evals import CONVERSATIONS, JUDGES, TASKS
from scalelab.evals.documents import PerplexitySet


class PairwiseSpec(Config):
    """Every model against one, on the same prompts, by a judge."""

    baseline: str
    """The model that the others are held against."""
    data: plugin(CONVERSATIONS)
    """Where the prompts come from: its first test set."""
    judge: plugin(JUDGES)
    prompts: Count = 200
    temperature: float = Field(0.0, ge=0)
    """0: the likeliest answers."""
    level: Fraction = 0.95
    """Of the intervals of win rates and rankings."""
    swapped: Switch = False
    """Ask the judge in the other order too, and say how far it holds to its verdict."""
    concise: str | None = None
    verbose: str | None = None
    """Two instructions put before every prompt, such as "be brief": the same model's answers
    under both say what the judge gives for length alone. Give both or none."""

    @model_validator(mode="after")
    def _both_or_none(self) -> Self:
        if (self.concise is None) != (self.verbose is None):
            raise ValueError("give both concise and verbose, or none")
        return self


class ContaminationSpec(Config):
    """Whether test items were trained on."""

    name: Name
    rows: str
    """A JSONL file of the items in their published order."""
    field: str
    """Field of a record that holds the item's text."""
    shards: Count = 20
    permutations: Count = 30
    control: tuple[Count, ...] = (1, 2, 4, 8, 16)
    """Passes over the items after which the positive control is asked; [] for none."""
    n: Count = 13
    """Length of the n-grams that are looked for in the training text."""
    unit: Literal["tokens", "words"] = "tokens"


class PredictionSpec(Config):
    """What a larger model would score on a task, from every finished run of a sweep."""

    sweep: str
    """Whose runs are asked."""
    task: str
    """Of `tasks`, by its name; of a choice task its mode `full` is used."""
    against: tuple[str, ...] = ()
    """Sweeps of other recipes: how often one small scale, and two steps, know the better one."""
    flops: Flops | None = None
    """Compute of the model that is asked about; None: ten times the largest run."""
    n_params: Positive | None = None
    n_tokens: Positive | None = None
    form: Literal["compute", "size"] = "compute"
    """What loss is predicted from: compute, or parameters and tokens."""


class EvalFile(Config):
    """Everything that is to be measured, as a person writes it."""

    name: Name
    """Of the report, and of the experiment in MLflow."""
    question: str = ""
    models: dict[Name, str] = Field(min_length=1)
    """What the report calls each model, and where it is: a plan that was launched, a run's or a
    checkpoint's directory, or NAME/STAGE of a post-training."""
    perplexity: tuple[PerplexitySet, ...] = ()
    tasks: tuple[plugin(TASKS), ...] = ()
    """Multiple choice and written answers, through lm-eval (extra `eval`)."""
    chat: Switch | None = None
    """Put tasks as conversations. None: both ways, where a model can converse."""
    limit: Count | None = None
    """First rows of each task. None: all."""
    exported: Switch = False
    """Ask an exported copy of every model too, and say how far the numbers agree."""
    pairwise: PairwiseSpec | None = None
    contamination: tuple[ContaminationSpec, ...] = ()
    prediction: tuple[PredictionSpec, ...] = ()
    seed: Whole = 0

    @model_validator(mode="after")
    def _names_lead_somewhere(self) -> Self:
        if self.pairwise and self.pairwise.baseline not in self.models:
            raise ValueError(
                f"pairwise.baseline {self.pairwise.baseline!r} is none of the models "
                f"({', '.join(self.models)})"
            )
        tasks = {task.name for task in self.tasks}
        for asked in self.prediction:
            if asked.task not in tasks:
                raise ValueError(
                    f"prediction.task {asked.task!r} is none of the tasks "
                    f"({', '.join(sorted(tasks)) or 'there are none'})"
                )
        for section in (self.perplexity + self.tasks, self.contamination):
            names = [asked.name for asked in section]
            if twice := {name for name in names if names.count(name) > 1}:
                raise ValueError(f"two measurements are named {min(twice)!r}")
        if not (self.perplexity or tasks or self.contamination or self.pairwise):
            raise ValueError("nothing is to be measured: give perplexity, tasks, pairwise ...")
        return self
